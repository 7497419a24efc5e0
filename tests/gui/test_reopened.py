"""A store opened from disk in the real window: the pixels of the right level, and the dock's slider moves it."""

import numpy as np
import pytest

from napari_unetpp.gui.comparison import HeadComparison
from napari_unetpp.gui.layers import add_levels, predictions_in
from napari_unetpp.inference.store import create_store
from napari_unetpp.stacks import open_stack

pytestmark = pytest.mark.gui

PLUGIN = "napari-unetpp"


@pytest.fixture
def make_store(tmp_path, model):
    """A store of the run of "tiny" on a stack, in which level d is foreground on its first d quarters."""

    def made(stack, axes="zyx", spacing=(0.5, 0.1, 0.1), name="cells", file="run"):
        with open_stack(stack, axes=axes, spacing_um=spacing) as image:
            shape = image.shape_predicted
            about = {"name": name, "axes": axes, "shape": list(stack.shape), "dtype": str(stack.dtype)}
            record = {"model": "tiny", "model_sha256": model.sha256, "stack": about}
            store = create_store(tmp_path / f"{file}.ome.zarr", shape, (1, 2), like=image, record=record)
        for level in store.levels:
            store.probability(level)[..., : shape[-1] * level // 4] = 255
        return store

    return made


def shown(viewer, *others):
    return [layer.name for layer in viewer.layers if layer.visible and layer not in others]


def share_of_colour(viewer):
    """Share of the canvas that is not gray."""
    picture = viewer.screenshot(flash=False)[..., :3].astype(int)
    return (np.ptp(picture, axis=-1) > 20).mean()


def test_the_slider_of_the_dock_moves_a_reopened_store(viewer, make_store, open_dock, rng):
    data = rng.integers(0, 99, (3, 64, 64), np.uint8)
    store = make_store(data)
    image = viewer.add_image(data, name="cells", axis_labels=tuple("zyx"), scale=(0.5, 0.1, 0.1), units=("um",) * 3)
    viewer.open(store.path, plugin=PLUGIN)
    assert shown(viewer, image) == ["cells L2"]
    dock = open_dock()
    viewer.reset_view()  # which the dock has made narrower
    half = share_of_colour(viewer)
    (levels,) = predictions_in(viewer)
    assert dock.levels is levels
    assert levels.image_layer is image
    assert shown(viewer, image) == ["cells L2"]
    dock.slider.slider.setValue(0)
    assert shown(viewer, image) == ["cells L1"]
    assert share_of_colour(viewer) == pytest.approx(half / 2, rel=0.05)
    assert half > 0.1


def test_a_store_that_is_opened_while_the_dock_is_there(viewer, make_store, open_dock, rng):
    data = rng.integers(0, 99, (3, 64, 64), np.uint8)
    image = viewer.add_image(data, name="cells", axis_labels=tuple("zyx"))
    dock = open_dock()
    viewer.open(make_store(data).path, plugin=PLUGIN)
    (levels,) = predictions_in(viewer)
    assert set(levels.layers) == {1, 2, "ensemble"}
    assert dock.levels is levels
    dock.slider.slider.setValue(0)
    assert "cells L1" in shown(viewer, image)
    assert "cells L2" not in shown(viewer, image)


def test_it_works_without_the_image(viewer, make_store, open_dock, rng):
    viewer.open(make_store(rng.integers(0, 99, (3, 64, 64), np.uint8)).path, plugin=PLUGIN)
    dock = open_dock()
    dock.slider.slider.setValue(0)
    assert shown(viewer) == ["cells L1"]
    np.testing.assert_array_equal(np.asarray(viewer.layers["cells L1"].data)[1, 5], np.arange(64) < 16)
    (levels,) = predictions_in(viewer)
    assert levels.image_layer is None
    assert levels.image == "cells"


def test_layers_lie_on_the_image_as_the_user_has_placed_it(viewer, make_store, rng):
    data = rng.integers(0, 99, (3, 2, 32, 40), np.uint8)
    store = make_store(data, "zcyx", (0.5, None, 0.1, 0.1))
    viewer.add_image(np.zeros((3, 2, 32, 40), np.uint8), name="another", axis_labels=tuple("zcyx"))
    image = viewer.add_image(
        data, name="cells", axis_labels=tuple("zcyx"), scale=(7, 1, 2, 2), translate=(1, 0, 5, 6),
        units=("um", "pixel", "um", "um"),
    )  # fmt: skip
    added = viewer.open(store.path, plugin=PLUGIN)
    (levels,) = predictions_in(viewer)
    assert levels.image_layer is image
    for layer in added:
        np.testing.assert_array_equal(layer.extent.world, image.extent.world)
        assert layer.units == image.units
        assert not layer.editable
    expected = np.broadcast_to(np.arange(40) < 20, data.shape)
    np.testing.assert_array_equal(np.asarray(viewer.layers["cells L2"].data), expected)


def test_an_image_of_that_name_but_another_shape_is_not_its_image(viewer, make_store, rng):
    store = make_store(rng.integers(0, 99, (3, 32, 40), np.uint8))
    viewer.add_image(np.zeros((32, 40), np.uint8), name="cells", axis_labels=tuple("yx"), scale=(9, 9))
    added = viewer.open(store.path, plugin=PLUGIN)
    predictions_in(viewer)
    for layer in added:
        assert tuple(layer.scale) == (0.5, 0.1, 0.1)


def test_a_second_store_hides_the_first(viewer, make_store, rng):
    data = rng.integers(0, 99, (3, 32, 40), np.uint8)
    image = viewer.add_image(data, name="cells", axis_labels=tuple("zyx"))
    run = make_store(data, file="run")
    ran = add_levels(viewer, image, "zyx", run, HeadComparison.of_heads(run.levels))
    viewer.open(make_store(data, file="other").path, plugin=PLUGIN)
    found = predictions_in(viewer)
    assert found[0] is ran
    assert [levels.comparison.visible for levels in found] == [False, True]
    assert sum(layer.visible for layer in viewer.layers) == 2  # the image and one level


def test_the_threshold_of_the_comparison_reaches_reopened_layers(viewer, make_store, rng):
    store = make_store(rng.integers(0, 99, (3, 32, 40), np.uint8))
    store.probability(2)[...] = 100
    viewer.open(store.path, plugin=PLUGIN)
    (levels,) = predictions_in(viewer)
    assert not np.asarray(levels.layers[2].data).any()
    levels.comparison.threshold = 0.3
    assert np.asarray(levels.layers[2].data).all()


def test_a_layer_that_was_removed_before_the_dock_came_is_no_trap(viewer, make_store, open_dock, rng):
    viewer.open(make_store(rng.integers(0, 99, (3, 32, 40), np.uint8)).path, plugin=PLUGIN)
    viewer.layers.remove("cells L1")
    dock = open_dock()
    dock.slider.slider.setValue(0)
    assert shown(viewer) == []
    dock.slider.slider.setValue(1)
    assert shown(viewer) == ["cells L2"]


def test_painting_cannot_alter_a_store_that_nobody_adopted(viewer, make_store, rng):
    store = make_store(rng.integers(0, 99, (3, 32, 40), np.uint8))
    layer = viewer.open(store.path, plugin=PLUGIN)[0]
    with pytest.raises(TypeError):
        layer.data_setitem((np.array([0]), np.array([0]), np.array([0])), 1)
    assert store.probability(1)[0, 0, 0, 0] == 255
