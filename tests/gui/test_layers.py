"""Labels layers over a store: the right pixels in the image's axes, one visible, none writable."""

import gc
import itertools
import weakref
from unittest.mock import Mock

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_unetpp._image_axes import in_image_axes
from napari_unetpp.gui.comparison import HeadComparison
from napari_unetpp.gui.layers import add_levels, predictions_in
from napari_unetpp.inference.labels import label_view
from napari_unetpp.inference.store import create_store


@pytest.fixture
def make_store(tmp_path, rng):
    """A store full of random probabilities, of any shape and axes."""

    def made(shape, axes, levels=(1, 2, 3), classes=("cell",)):
        store = create_store(tmp_path / f"{axes}{len(classes)}.ome.zarr", shape, levels, axes=axes, classes=classes)
        for level in levels:
            array = store.probability(level)
            array[...] = rng.integers(0, 256, array.shape, np.uint8)
        return store

    return made


@pytest.fixture
def viewer():
    """A viewer without a window."""
    return ViewerModel()


def test_indexing_equals_transposing_and_repeating(rng):
    labels = rng.integers(0, 9, (2, 3, 4, 5))  # t z y x
    view = in_image_axes(labels, "tzyx", "zcxty", (3, 6, 5, 2, 4))
    whole = np.broadcast_to(labels.transpose(1, 3, 0, 2)[:, None], (3, 6, 5, 2, 4))
    assert (view.shape, view.ndim, view.dtype) == (whole.shape, 5, labels.dtype)
    np.testing.assert_array_equal(np.asarray(view), whole)
    for key in (
        np.s_[0],
        np.s_[..., 1],
        np.s_[1, 2],
        np.s_[:, 5, ::2, 1, 1:3],
        np.s_[2, 1:4, 3, :, ...],
        np.s_[np.int64(1), :, :, 0, :],
        np.s_[1, 2, 3, 1, 0],
    ):
        np.testing.assert_array_equal(view[key], whole[key], err_msg=str(key))


def test_rgb_samples_are_no_axis_of_the_labels(rng):
    labels = rng.integers(0, 9, (4, 5))
    np.testing.assert_array_equal(in_image_axes(labels, "yx", "yxc", (4, 5))[...], labels)


def test_only_the_chosen_level_is_visible(viewer, make_store):
    image = viewer.add_image(np.zeros((8, 9)), name="cells")
    comparison = HeadComparison.of_heads((1, 2, 3), level=2)
    levels = add_levels(viewer, image, "yx", make_store((8, 9), "yx"), comparison)

    def shown():
        return [layer.name for layer in viewer.layers if layer.visible and layer is not image]

    names = [layer.name for layer in viewer.layers]
    assert names == ["cells", "cells L1", "cells L2", "cells L3", "cells Ensemble"]
    assert shown() == ["cells L2"]
    for level in (1, "ensemble", 3):
        comparison.level = level
        assert shown() == [levels.layers[level].name]
    comparison.visible = False
    assert shown() == []
    comparison.level = 1
    assert shown() == []
    comparison.visible = True
    assert shown() == ["cells L1"]


def test_layers_lie_on_their_image(viewer, make_store):
    image = viewer.add_image(
        np.zeros((3, 2, 8, 9)),
        axis_labels=("z", "c", "y", "x"),
        scale=(3, 1, 0.5, 0.5),
        translate=(1, 0, 7, 8),
        units=("um", "pixel", "um", "um"),
    )
    store = make_store((3, 8, 9), "zyx")
    levels = add_levels(viewer, image, "zcyx", store, HeadComparison.of_heads(store.levels))
    for level, layer in levels.layers.items():
        assert layer.data.shape == (3, 2, 8, 9)
        np.testing.assert_array_equal(layer.scale, image.scale)
        np.testing.assert_array_equal(layer.translate, image.translate)
        assert layer.units == image.units
        assert layer.axis_labels == image.axis_labels
        np.testing.assert_array_equal(layer.extent.world, image.extent.world)
        for channel in (0, 1):
            expected = np.asarray(label_view(store, level))
            np.testing.assert_array_equal(np.asarray(layer.data)[:, channel], expected)


def test_levels_differ_in_colour_and_background_is_clear(viewer, make_store):
    image = viewer.add_image(np.zeros((8, 9)))
    store = make_store((8, 9), "yx")
    levels = add_levels(viewer, image, "yx", store, HeadComparison.of_heads(store.levels))
    colors = [tuple(layer.colormap.map(1)) for layer in levels.layers.values()]
    assert len(set(colors)) == 4
    assert all(layer.colormap.map(0)[3] == 0 for layer in levels.layers.values())


def test_classes_have_the_colours_of_the_record(viewer, make_store):
    image = viewer.add_image(np.zeros((8, 9)))
    store = make_store((8, 9), "yx", classes=("background", "a", "b"))
    store.record = {"classes": [{"color": c} for c in ("#000000", "#ff0000", "#0000ff")]}
    levels = add_levels(viewer, image, "yx", store, HeadComparison.of_heads(store.levels))
    for layer in levels.layers.values():
        np.testing.assert_allclose(layer.colormap.map(1), (1, 0, 0, 1))
        np.testing.assert_allclose(layer.colormap.map(2), (0, 0, 1, 1))


def test_painting_cannot_alter_a_prediction(viewer, make_store):
    image = viewer.add_image(np.zeros((8, 9)))
    store = make_store((8, 9), "yx")
    levels = add_levels(viewer, image, "yx", store, HeadComparison.of_heads(store.levels))
    assert not any(layer.editable for layer in levels.layers.values())
    with pytest.raises(TypeError):
        levels.layers[1].data[0, 0] = 1


def test_what_was_selected_stays_selected(viewer, make_store):
    image = viewer.add_image(np.zeros((8, 9)))
    other = viewer.add_image(np.zeros((8, 9)))
    viewer.layers.selection.active = other
    store = make_store((8, 9), "yx")
    add_levels(viewer, image, "yx", store, HeadComparison.of_heads(store.levels))
    assert viewer.layers.selection.active is other


def test_a_second_prediction_of_an_image_hides_the_first(viewer, make_store):
    image = viewer.add_image(np.zeros((8, 9)))
    store = make_store((8, 9), "yx")
    first = add_levels(viewer, image, "yx", store, HeadComparison.of_heads(store.levels))
    second = add_levels(viewer, image, "yx", store, HeadComparison.of_heads(store.levels))
    assert not first.comparison.visible
    assert second.comparison.visible
    assert predictions_in(viewer) == [first, second]


def test_levels_live_with_their_layers(viewer, make_store):
    image = viewer.add_image(np.zeros((8, 9)))
    store = make_store((8, 9), "yx")
    comparison = HeadComparison.of_heads(store.levels)
    add_levels(viewer, image, "yx", store, comparison)
    gc.collect()
    comparison.level = 1
    assert viewer.layers[f"{image.name} L1"].visible
    (found,) = predictions_in(viewer)
    for layer in found.layers.values():
        viewer.layers.remove(layer)
    assert predictions_in(viewer) == []
    comparison.level = 2  # nobody is left to be shown


def test_new_voxels_appear_after_a_refresh(viewer, make_store):
    image = viewer.add_image(np.zeros((8, 9)))
    store = make_store((8, 9), "yx")
    levels = add_levels(viewer, image, "yx", store, HeadComparison.of_heads(store.levels))
    store.probability(3)[...] = 255
    levels.refresh()
    assert levels.layers[3].get_value((4, 4)) == 1


@pytest.fixture
def cells(viewer, make_store):
    """An image "cells" with a prediction of three heads."""
    image = viewer.add_image(np.zeros((8, 9)), name="cells")
    store = make_store((8, 9), "yx")
    return add_levels(viewer, image, "yx", store, HeadComparison.of_heads(store.levels))


def shown(viewer):
    return [layer.name for layer in viewer.layers if layer.visible]


def test_a_removed_level_comes_back_when_it_is_chosen(viewer, cells):
    cells.comparison.level = 1
    viewer.layers.selection.active = viewer.layers["cells"]
    for gone in (2, 1):  # one that is hidden, and the one on the screen
        viewer.layers.remove(cells.layers[gone])
    assert shown(viewer) == ["cells"]
    cells.comparison.level = 2
    assert shown(viewer) == ["cells", "cells L2"]
    assert "cells L1" not in viewer.layers
    assert viewer.layers.selection.active.name == "cells"
    np.testing.assert_array_equal(
        np.asarray(viewer.layers["cells L2"].data), np.asarray(label_view(cells.store, 2)), strict=True
    )
    cells.comparison.visible = False
    viewer.layers.remove(cells.layers[2])
    cells.comparison.level = 1  # hidden, so that nothing has to come back
    assert "cells L1" not in viewer.layers


def test_when_the_last_layer_is_gone_it_is_told_and_nothing_comes_back(viewer, cells):
    heard = Mock()
    cells.gone.connect(heard, check_nargs=False)
    left = list(cells.layers.values())
    while left:
        heard.assert_not_called()
        viewer.layers.remove(left.pop())
    heard.assert_called_once()
    cells.comparison.level = 1
    cells.refresh()
    assert [layer.name for layer in viewer.layers] == ["cells"]


@pytest.mark.parametrize("switch", ["visible", "probability", "grid"])
def test_a_prediction_without_layers_is_not_kept(viewer, make_store, switch):
    image = viewer.add_image(np.zeros((8, 9)))
    store = make_store((8, 9), "yx")
    comparison = HeadComparison.of_heads(store.levels)
    levels = add_levels(viewer, image, "yx", store, comparison)
    setattr(comparison, switch, True)
    alive = weakref.ref(levels)
    del levels
    gc.collect()
    assert alive() is predictions_in(viewer)[0]
    viewer.layers.clear()
    gc.collect()
    assert alive() is None
    comparison.level = 1  # whoever moves the slider still has this, and the image is kept here
    assert image.name == "Image"


def test_a_prediction_does_not_keep_its_viewer(make_store):
    def opened():
        viewer = ViewerModel()
        image = viewer.add_image(np.zeros((8, 9)))
        store = make_store((8, 9), "yx")
        comparison = HeadComparison.of_heads(store.levels)
        add_levels(viewer, image, "yx", store, comparison)
        return weakref.ref(viewer), comparison

    viewer, comparison = opened()
    gc.collect()
    assert viewer() is None
    comparison.grid = comparison.probability = True  # nobody is left to be moved


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:4])
def test_renaming_and_moving_layers_changes_nothing_for_the_slider(viewer, cells, order):
    for layer in cells.layers.values():
        layer.name = f"mine {id(layer)}"
    for source, target in enumerate(order):
        viewer.layers.move(source, target)
    for level in (1, "ensemble", 2):
        cells.comparison.level = level
        assert [x for x in cells.layers.values() if x.visible] == [cells.layers[level]]


def test_the_image_is_known_after_it_was_renamed(viewer, cells, make_store):
    image = viewer.layers["cells"]
    image.name = "tissue"
    other = viewer.add_image(np.zeros((8, 9)), name="cells")
    assert (cells.image, cells.image_layer) == ("tissue", image)
    store = cells.store
    add_levels(viewer, other, "yx", store, HeadComparison.of_heads(store.levels))
    assert cells.comparison.visible  # the other image only bears the name
    add_levels(viewer, image, "yx", store, HeadComparison.of_heads(store.levels))
    assert not cells.comparison.visible


def test_an_image_opened_once_more_is_known_by_its_name(viewer, cells):
    image = viewer.layers["cells"]
    image.name = "tissue"
    viewer.layers.remove(image)
    assert (cells.image, cells.image_layer) == ("tissue", None)
    again = viewer.add_image(np.zeros((8, 9)), name="tissue")
    assert cells.image_layer is again


def test_opacity_and_contour_are_those_of_all_levels(viewer, cells):
    cells.layers[3].opacity = 0.25
    cells.layers[1].contour = 3  # while it is hidden
    cells.comparison.level = 2
    assert {(x.opacity, x.contour) for x in cells.layers.values()} == {(0.25, 3)}
    assert cells.comparison.contour == 3
    cells.comparison.contour = 0
    viewer.layers.remove(cells.layers[2])
    cells.layers[1].opacity = 0.75
    cells.comparison.level = 2
    assert {(x.opacity, x.contour) for x in cells.layers.values()} == {(0.75, 0)}


@pytest.mark.parametrize("level", [2, "ensemble"])
def test_the_threshold_moves_what_is_drawn(viewer, cells, level):
    cells.comparison.level = level
    stored = [np.asarray(cells.store.probability(d))[0] / 255 for d in ((2,) if level == 2 else (1, 2, 3))]
    probability = np.mean(stored, axis=0)
    for threshold in (0.5, 0.301, 0.7, 1.0, 0.0):
        cells.comparison.threshold = threshold
        expected = probability >= threshold - 1e-9
        layer = cells.layers[level]
        np.testing.assert_array_equal(np.asarray(layer.data), expected)
        drawn = np.array([[layer.get_value((y, x)) for x in range(9)] for y in range(8)])
        np.testing.assert_array_equal(drawn, expected)


def test_a_threshold_reads_only_what_is_visible(viewer, cells, monkeypatch):
    cells.comparison.level = 2
    read, inner = [], cells.store.read
    monkeypatch.setattr(cells.store, "read", lambda level, box: read.append(level) or inner(level, box))
    cells.comparison.threshold = 0.8
    assert set(read) == {2}
    read.clear()
    cells.comparison.level = 1
    assert set(read) == {1}
    expected = np.asarray(cells.store.probability(1))[0] / 255 >= 0.8
    np.testing.assert_array_equal(np.asarray(cells.layers[1].data), expected)


def test_switching_redraws_two_layers_only(viewer, cells):
    heard = Mock()
    for layer in cells.layers.values():
        layer.events.visible.connect(heard)
    cells.comparison.level = 1
    assert heard.call_count == 2
