"""The live preview in the real window: what appears without a run, and what follows the slider, the view, the run."""

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_unetpp.gui import live_layer
from napari_unetpp.gui.comparison import ENSEMBLE
from napari_unetpp.gui.live import ENSEMBLE_LABEL
from napari_unetpp.gui.live_layer import LIVE_KEY
from napari_unetpp.inference.predict import measure_stack, predict_region
from napari_unetpp.model.checkpoint import load_model, save_model
from napari_unetpp.model.zoo import user_folder
from napari_unetpp.stacks import open_stack

pytestmark = pytest.mark.gui

LEFT = Qt.MouseButton.LeftButton


def expected(data, axes, model, plane, level):
    """Labels of a plane by one pass over it; with the ensemble the mean of what is stored of the heads."""
    heads = predict_region(plane[None], model, scaling=measure_stack(open_stack(data, axes=axes), model))
    stored = [np.round(head[0] * 255) for head in heads]
    chosen = np.mean(stored, axis=0) if level == ENSEMBLE else stored[level - 1]
    return np.where(chosen >= 127.5, ENSEMBLE_LABEL if level == ENSEMBLE else level, 0)


def preview(viewer):
    """The preview, if the screen shows some of it."""
    shown = [layer for layer in viewer.layers if LIVE_KEY in layer.metadata and layer.visible]
    return shown[0] if shown and labels(viewer, shown[0]).any() else None


def labels(viewer, layer):
    """What a layer holds on the slice on the screen."""
    at = [s if axis in viewer.dims.not_displayed else slice(None) for axis, s in enumerate(viewer.dims.current_step)]
    return np.asarray(layer.data[tuple(at)])


def reached(dock, qtbot, level):
    """Wait until the preview shows a level on the whole slice that the sliders stand on."""
    live = dock.level_box.live_view
    qtbot.wait(100)  # longer than a view has to rest
    qtbot.waitUntil(lambda: live.reached == level and not live.computing, timeout=30_000)


@pytest.fixture
def open_dock(open_dock, viewer):
    """The dock takes room from the canvas: after that, the whole image is on the screen again."""

    def opened():
        dock = open_dock()
        viewer.reset_view()
        return dock

    return opened


@pytest.fixture
def cells(viewer, rng):
    """A stack on the screen as a whole."""
    data = rng.integers(0, 200, (6, 48, 64), np.uint8)
    return viewer.add_image(data, name="cells", axis_labels=("z", "y", "x"), scale=(3, 2, 2), translate=(1, 5, 6))


def test_a_view_is_predicted_before_any_run(viewer, cells, open_dock, model, qtbot):
    viewer.dims.set_current_step(0, 2)
    dock = open_dock()
    reached(dock, qtbot, 1)  # what the card recommends
    layer = preview(viewer)
    np.testing.assert_array_equal(labels(viewer, layer), expected(cells.data, "zyx", model, cells.data[2], 1))
    assert layer.name == "cells live"
    assert viewer.layers.selection.active.name == "cells"
    for place in (0, 17, 47):  # it lies on the image
        np.testing.assert_allclose(layer.data_to_world((2, place, place)), cells.data_to_world((2, place, place)))
    assert dock.level_box.reached.text() == "shows L1"


def test_the_slider_goes_up_and_down_without_a_run(viewer, cells, open_dock, model, qtbot):
    viewer.dims.set_current_step(0, 3)
    dock = open_dock()
    for level, place in ((2, 1), (ENSEMBLE, 2), (1, 0)):
        dock.slider.slider.setValue(place)
        reached(dock, qtbot, level)
        shown = labels(viewer, preview(viewer))
        np.testing.assert_array_equal(shown, expected(cells.data, "zyx", model, cells.data[3], level))
    assert [layer.name for layer in viewer.layers] == ["cells", "cells live"]


def test_the_keys_move_the_level_of_a_preview(viewer, cells, open_dock, qtbot):
    dock = open_dock()
    reached(dock, qtbot, 1)
    viewer.window.activate()
    canvas = viewer.window._qt_viewer.canvas.native  # where a user's key press goes
    canvas.setFocus()
    qtbot.keyClick(canvas, Qt.Key.Key_2, Qt.KeyboardModifier.AltModifier)
    reached(dock, qtbot, 2)
    assert dock.slider.slider.value() == 1


def test_another_slice_is_predicted_and_the_old_preview_is_not_on_it(viewer, cells, open_dock, model, qtbot):
    dock = open_dock()
    viewer.dims.set_current_step(0, 1)
    reached(dock, qtbot, 1)
    live = dock.level_box.live_view
    with qtbot.waitSignal(live.progressed):
        viewer.dims.set_current_step(0, 4)
    reached(dock, qtbot, 1)
    shown = labels(viewer, preview(viewer))
    np.testing.assert_array_equal(shown, expected(cells.data, "zyx", model, cells.data[4], 1))
    dock.level_box.live.setChecked(False)
    viewer.dims.set_current_step(0, 1)
    qtbot.wait(200)
    assert preview(viewer) is None


@pytest.mark.parametrize("largest", [2048**2, 0])
def test_what_is_on_the_screen_is_predicted_and_not_more(viewer, open_dock, model, qtbot, rng, monkeypatch, largest):
    monkeypatch.setattr(live_layer, "LARGEST_PLANE", largest)  # with 0 the layer is as large as the view
    data = rng.integers(0, 200, (2, 1024, 1024), np.uint8)
    image = viewer.add_image(data, name="large", axis_labels=("z", "y", "x"), scale=(1, 3, 2), translate=(0, 50, 60))
    image.rotate = 20
    dock = open_dock()
    camera = viewer.scene.camera
    for middle in ((500, 700), (300, 200)):
        camera.center, camera.zoom = image.data_to_world((0, *middle))[1:], 1.2
        reached(dock, qtbot, 1)
        layer = preview(viewer)
        filled = np.argwhere(labels(viewer, layer))
        corners = [image.world_to_data(layer.data_to_world((0, *corner)))[1:] for corner in filled]
        low, high = np.min(corners, axis=0), np.max(corners, axis=0)
        assert (low < middle).all()
        assert (high > middle).all()
        assert (high - low < 800).all()
        assert (layer.data.shape == data.shape) == (largest > 0)
    truth = expected(data, "zyx", model, data[0], 1)
    where = np.round(corners).astype(int)
    inner = ((where > low + 20) & (where < high - 20)).all(axis=1)  # 20: farther from the border than L1 sees
    assert inner.sum() > 1000
    assert (truth[tuple(where[inner].T)] == 1).all()


def test_a_run_takes_the_place_of_the_preview(viewer, cells, open_dock, qtbot):
    dock = open_dock()
    dock.slider.slider.setValue(1)
    reached(dock, qtbot, 2)
    before = labels(viewer, preview(viewer)) > 0
    z = viewer.dims.current_step[0]
    qtbot.mouseClick(dock.run_button, LEFT)
    qtbot.waitUntil(lambda: dock.state == "done" and dock.job is None, timeout=60_000)
    assert [layer.name for layer in viewer.layers] == ["cells", "cells L1", "cells L2", "cells Ensemble"]
    assert viewer.layers["cells L2"].visible  # the level of the slider stays
    np.testing.assert_array_equal(np.asarray(viewer.layers["cells L2"].data)[z] == 1, before)
    viewer.dims.set_current_step(0, 5)
    qtbot.wait(300)
    assert preview(viewer) is None  # all is stored


def test_beside_a_run_of_one_slice_the_others_are_live(viewer, cells, open_dock, model, qtbot):
    dock = open_dock()
    dock.form.region.setCurrentIndex(1)
    viewer.dims.set_current_step(0, 2)
    qtbot.mouseClick(dock.run_button, LEFT)
    qtbot.waitUntil(lambda: dock.state == "done" and dock.job is None, timeout=60_000)
    viewer.dims.set_current_step(0, 0)
    qtbot.waitUntil(lambda: preview(viewer) is not None, timeout=30_000)
    reached(dock, qtbot, 1)
    shown = labels(viewer, preview(viewer))
    np.testing.assert_array_equal(shown, expected(cells.data, "zyx", model, cells.data[0], 1))
    viewer.dims.set_current_step(0, 2)
    qtbot.waitUntil(lambda: preview(viewer) is None, timeout=30_000)


def test_another_model_is_seen_at_once_and_the_first_comes_back(viewer, cells, open_dock, tiny_model, qtbot):
    other = tiny_model(seed=7)
    object.__setattr__(other.card, "name", "other")
    save_model(other, user_folder() / "other.safetensors")
    dock = open_dock()
    dock.form.model.setCurrentText("tiny")
    qtbot.mouseClick(dock.run_button, LEFT)
    qtbot.waitUntil(lambda: dock.state == "done" and dock.job is None, timeout=60_000)
    z = viewer.dims.current_step[0]
    dock.form.model.setCurrentText("other")
    qtbot.waitUntil(lambda: preview(viewer) is not None, timeout=30_000)
    reached(dock, qtbot, 1)
    assert not viewer.layers["cells L1"].visible
    model = load_model("other", "cpu")
    np.testing.assert_array_equal(labels(viewer, preview(viewer)), expected(cells.data, "zyx", model, cells.data[z], 1))
    dock.form.model.setCurrentText("tiny")
    qtbot.waitUntil(lambda: preview(viewer) is None, timeout=30_000)
    assert viewer.layers["cells L1"].visible


def test_removing_the_preview_turns_live_off(viewer, cells, open_dock, qtbot):
    dock = open_dock()
    reached(dock, qtbot, 1)
    viewer.layers.remove(preview(viewer))
    qtbot.waitUntil(lambda: not dock.level_box.live.isChecked(), timeout=5_000)
    viewer.dims.set_current_step(0, 3)
    qtbot.wait(300)
    assert preview(viewer) is None
    dock.level_box.live.setChecked(True)
    reached(dock, qtbot, 1)
    assert preview(viewer) is not None


def test_five_axes_after_everything_was_removed(viewer, cells, open_dock, model, qtbot, rng):
    dock = open_dock()
    reached(dock, qtbot, 1)
    viewer.layers.clear()
    qtbot.wait(50)
    assert dock.level_box.live.isChecked()
    data = rng.integers(0, 200, (3, 2, 1, 40, 52), np.uint8)
    viewer.add_image(data, name="five", axis_labels=tuple("tzcyx"))
    viewer.reset_view()
    viewer.dims.set_current_step(0, 2)
    reached(dock, qtbot, 1)
    t, z, _, _, _ = viewer.dims.current_step
    np.testing.assert_array_equal(labels(viewer, preview(viewer)), expected(data, "tzcyx", model, data[t, z, 0], 1))
    viewer.dims.order = (0, 3, 2, 1, 4)  # rows are a slider now, and a plane of the network is none of the screen
    qtbot.waitUntil(lambda: not preview(viewer), timeout=10_000)
    viewer.dims.order = (0, 1, 2, 4, 3)
    reached(dock, qtbot, 1)
    assert preview(viewer) is not None


def test_new_data_removal_and_3d(viewer, cells, open_dock, model, qtbot, rng):
    dock = open_dock()
    reached(dock, qtbot, 1)
    cells.data = rng.integers(0, 200, (6, 32, 40), np.uint8)
    z = viewer.dims.current_step[0]
    truth = expected(cells.data, "zyx", model, cells.data[z], 1)
    qtbot.waitUntil(
        lambda: (
            (layer := preview(viewer)) is not None
            and layer.data.shape == (6, 32, 40)
            and np.array_equal(labels(viewer, layer), truth)
        ),
        timeout=30_000,
    )
    viewer.dims.ndisplay = 3
    qtbot.waitUntil(lambda: preview(viewer) is None, timeout=10_000)
    viewer.dims.ndisplay = 2
    qtbot.waitUntil(lambda: preview(viewer) is not None, timeout=10_000)
    viewer.layers.remove(cells)
    qtbot.waitUntil(lambda: not viewer.layers, timeout=10_000)
    assert dock.run_button.toolTip().startswith("Open an image")


def test_hidden_labels_are_not_predicted(viewer, cells, open_dock, qtbot):
    dock = open_dock()
    reached(dock, qtbot, 1)
    dock.show_labels.setChecked(False)
    qtbot.waitUntil(lambda: preview(viewer) is None, timeout=10_000)
    dock.show_labels.setChecked(True)
    qtbot.waitUntil(lambda: preview(viewer) is not None, timeout=10_000)


def test_what_cannot_be_predicted_is_said_once(viewer, open_dock, qtbot, rng):
    viewer.add_image(rng.integers(0, 200, (2, 32, 32), np.uint8), name="two", axis_labels=("c", "y", "x"))
    dock = open_dock()
    qtbot.waitUntil(lambda: "No live preview" in dock.level_box.note.text(), timeout=30_000)
    assert "2 channels" in dock.level_box.note.text()
    assert preview(viewer) is None
    viewer.layers.remove("two")
    viewer.add_image(rng.integers(0, 200, (32, 32), np.uint8), name="one", axis_labels=("y", "x"))
    reached(dock, qtbot, 1)
    assert preview(viewer) is not None


def test_two_windows_are_followed_each_by_its_own_dock(viewer, make_napari_viewer, model, predictions, qtbot, rng):
    docks, windows = [], [viewer, make_napari_viewer(show=True)]
    for window, size in zip(windows, (32, 48), strict=True):
        window.add_image(rng.integers(0, 200, (size, size), np.uint8), name="cells", axis_labels=("y", "x"))
        docks.append(window.window.add_plugin_dock_widget("napari-unetpp", "Segment")[1])
    for window, dock in zip(windows, docks, strict=True):
        qtbot.waitUntil(dock.run_button.isEnabled, timeout=60_000)
        window.reset_view()
        reached(dock, qtbot, 1)
    docks[1].slider.slider.setValue(1)
    reached(docks[1], qtbot, 2)
    assert docks[0].slider.slider.value() == 0
    for window, level in zip(windows, (1, 2), strict=True):
        image = window.layers["cells"].data
        np.testing.assert_array_equal(labels(window, preview(window)), expected(image, "yx", model, image, level))
    qtbot.mouseClick(docks[0].run_button, LEFT)
    qtbot.waitUntil(lambda: docks[0].state == "done" and docks[0].job is None, timeout=60_000)
    assert [layer.name for layer in windows[1].layers] == ["cells", "cells live"]


def test_a_reopened_prediction_is_shown_even_if_another_model_is_chosen(
    viewer, cells, open_dock, model, tmp_path, qtbot
):
    """Who opens a file wants to see it, not a preview in its place."""
    from napari_unetpp.inference.store import create_store

    dock = open_dock()
    reached(dock, qtbot, 1)
    stack = open_stack(cells.data, axes="zyx")
    record = {"model": "gone", "stack": {"name": "cells", "axes": "zyx", "shape": [6, 48, 64], "dtype": "uint8"}}
    store = create_store(tmp_path / "old.ome.zarr", stack.shape_predicted, (1, 2), like=stack, record=record)
    store.probability(2)[:, :10] = 255
    viewer.open(store.path, plugin="napari-unetpp")
    qtbot.waitUntil(lambda: dock.levels is not None, timeout=10_000)
    assert dock.levels.store.path == store.path
    qtbot.waitUntil(lambda: preview(viewer) is None, timeout=10_000)
    dock.slider.slider.setValue(1)
    assert viewer.layers["cells L2"].visible
