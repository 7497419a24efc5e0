"""A 3D model in the Segment dock: levels as layers, the slider, and napari's 3D view of the labels."""

from dataclasses import replace

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_unetpp.inference.predict import measure_stack, predict_region
from napari_unetpp.inference.store import open_store
from napari_unetpp.model.checkpoint import load_model, save_model
from napari_unetpp.model.zoo import user_folder
from napari_unetpp.stacks import open_stack

pytestmark = pytest.mark.gui

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def solid(home, tiny_model):
    """A tiny 3D model, besides the 2D one."""
    tiny = tiny_model(ndim=3, seed=1)
    card = replace(tiny.card, tiling={"kind": "seamless", "inner": 16, "halo": "exact"})
    save_model(replace(tiny, card=card), user_folder() / "solid.safetensors")
    return load_model("solid", "cpu")


def run(dock, qtbot):
    qtbot.mouseClick(dock.run_button, LEFT)
    qtbot.waitUntil(lambda: dock.state in ("done", "failed") and dock.job is None, timeout=60_000)
    assert dock.state == "done", dock.status.text()


@pytest.mark.parametrize("ndisplay", [2, 3])
def test_levels_are_layers_also_where_the_volume_is_seen_in_3d(
    viewer, solid, open_dock, predictions, qtbot, rng, ndisplay
):
    volume = rng.integers(0, 200, (20, 24, 28), np.uint8)
    viewer.add_image(volume, name="cube", axis_labels=("z", "y", "x"), scale=(2, 1, 1))
    viewer.dims.ndisplay = ndisplay
    dock = open_dock()
    dock.form.model.setCurrentText("solid")
    run(dock, qtbot)
    assert [layer.name for layer in viewer.layers] == ["cube", "cube L1", "cube L2", "cube Ensemble"]
    scaling = measure_stack(open_stack(volume, axes="zyx"), solid)
    heads = [head[0] for head in predict_region(volume[None], solid, scaling=scaling)]
    for name, probability in zip(("cube L1", "cube L2"), heads, strict=True):
        layer = viewer.layers[name]
        clear = np.abs(probability - 0.5) > 1 / 255
        np.testing.assert_array_equal(np.asarray(layer.data)[clear] == 1, (probability >= 0.5)[clear])
        assert tuple(layer.scale) == (2, 1, 1)
    dock.slider.slider.setValue(1)
    assert [layer.name for layer in viewer.layers if layer.visible] == ["cube", "cube L2"]


def test_the_3d_view_shows_the_level_of_the_slider(viewer, solid, open_dock, predictions, qtbot, rng):
    viewer.add_image(rng.integers(0, 30, (20, 24, 28), np.uint8), name="dim", axis_labels=("z", "y", "x"))
    dock = open_dock()
    dock.form.model.setCurrentText("solid")
    run(dock, qtbot)
    (folder,) = predictions.iterdir()
    # so that the pixels on the canvas can be counted: L1 says yes, L2 says no everywhere
    store = open_store(folder, "r+")
    store.probability(1)[...] = 255
    store.probability(2)[...] = 0
    viewer.dims.ndisplay = 3

    def coloured():
        picture = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
        return (np.ptp(picture, axis=-1) > 40).mean()

    dock.slider.slider.setValue(1)
    dock.levels.refresh()
    qtbot.waitUntil(lambda: coloured() < 0.01, timeout=10_000)
    dock.slider.slider.setValue(0)
    dock.levels.refresh()
    qtbot.waitUntil(lambda: coloured() > 0.1, timeout=10_000)
    dock.show_labels.setChecked(False)
    qtbot.waitUntil(lambda: coloured() < 0.01, timeout=10_000)


def test_overlapping_patches_of_a_volume(viewer, solid, open_dock, predictions, qtbot, rng):
    viewer.add_image(rng.integers(0, 200, (20, 24, 28), np.uint8), name="cube", axis_labels=("z", "y", "x"))
    dock = open_dock()
    dock.form.model.setCurrentText("solid")
    dock.form.tiling.setCurrentIndex(dock.form.tiling.findData("overlap"))
    run(dock, qtbot)
    (folder,) = predictions.iterdir()
    store = open_store(folder)
    assert store.complete
    assert store.record["tiling"]["kind"] == "overlap"
    assert np.asarray(viewer.layers["cube L2"].data).any()
