"""The Correct dock in a real window: real strokes, real buttons and keys, and what is on the disk afterwards."""

import json

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_unetpp.box import Box
from napari_unetpp.gui.comparison import HeadComparison
from napari_unetpp.gui.correct_layer import corrections_in
from napari_unetpp.gui.layers import add_levels, hide_others
from napari_unetpp.inference.store import create_store
from napari_unetpp.inference.tiles import Seamless, plan_tiles
from napari_unetpp.stacks import open_stack
from napari_unetpp.training.corrections import open_corrections
from tests.gui.mouse import LEFT, canvas_of, drag, place

pytestmark = pytest.mark.gui


@pytest.fixture
def open_correct(viewer, qtbot, tmp_path):
    """Opens the dock like the menu does, its corrections kept in a folder of the test."""
    from napari._app_model import get_app_model  # in tests only: what a click in the menu runs

    def opened():
        get_app_model().commands.execute_command("napari-unetpp.correct").result()
        (dock,) = [w for name, w in viewer.window.dock_widgets.items() if "Correct" in name]
        qtbot.waitUntil(dock.isVisible, timeout=10_000)
        dock.form.folder.setText(str(tmp_path))
        return dock

    return opened


@pytest.fixture
def predict(viewer, model, tmp_path, qtbot):
    """Shows a prediction of an image by the tiny model, or labels of L2 that are given."""

    def shown(image, axes="zyx", name="run", labels=None, slices=None):
        with open_stack(image.data, axes=axes) as stack:
            tiles = plan_tiles(stack.shape_predicted, model.spec, Seamless(16))
            about = {"kind": "seamless", "inner": 16}
            record = {"model": name, "model_sha256": name, "tiling": about}
            store = create_store(
                tmp_path / f"{name}.ome.zarr", stack.shape_predicted, (1, 2), like=stack, grid=tiles.grid, record=record
            )
            for tile in tiles:
                if slices is None or tile.inner.start[0] in slices:
                    said = np.full(tile.inner.shape, 1) if labels is None else labels[tile.inner.slices]
                    voxels = (255 * said[None]).astype(np.uint8)
                    store.write(tile, {1: 255 - voxels, 2: voxels})
                    store.mark_done(tile)
        hide_others(viewer, image)
        return add_levels(viewer, image, axes, store, HeadComparison.of_heads(store.levels))

    return shown


def press(button, dock, qtbot):
    assert button.isVisible()
    assert button.isEnabled(), button.toolTip()
    qtbot.mouseClick(button, LEFT)
    qtbot.waitUntil(lambda: dock.job is None, timeout=30_000)


def key(viewer, name):
    """What a key of the viewer does."""
    {str(bound): action for bound, action in viewer.keymap.items()}[name](viewer)


def stored(dock):
    """The labels on the disk, read anew."""
    return np.asarray(open_corrections(dock.opened.corrections.path).labels[:])


def test_a_stroke_is_on_the_disk_and_undo_takes_it_back(viewer, open_correct, qtbot, rng):
    image = viewer.add_image(rng.integers(0, 99, (3, 60, 80), np.uint8), name="cells", axis_labels=tuple("zyx"))
    viewer.dims.set_current_step(0, 1)
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    layer = dock.opened.layer
    assert (layer.name, layer.mode, layer.selected_label) == ("Corrections (cells)", "paint", 1)
    assert not stored(dock).any()
    viewer.reset_view()
    drag(viewer, qtbot, place(viewer, layer, 1, 20, 15), place(viewer, layer, 1, 20, 60))
    painted = stored(dock)
    assert painted[1, 20, 16:59].all()
    assert not painted[[0, 2]].any()
    assert not painted[1, 45:].any()
    np.testing.assert_array_equal(layer.data[:], painted)
    qtbot.waitUntil(lambda: dock.review.counting.complete and not dock.review.counting.busy, timeout=10_000)
    assert f"{np.count_nonzero(painted):,} voxels painted" in dock.review.counted.text()
    qtbot.keyClick(canvas_of(viewer), Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert not stored(dock).any()
    layer.redo()
    np.testing.assert_array_equal(stored(dock), painted)
    assert image in viewer.layers


def test_it_starts_from_the_level_on_the_screen(viewer, open_correct, predict, qtbot, rng):
    image = viewer.add_image(rng.integers(0, 99, (3, 32, 40), np.uint8), name="cells", axis_labels=tuple("zyx"))
    labels = rng.integers(0, 2, (3, 32, 40))
    levels = predict(image, labels=labels)
    levels.comparison.level = 1
    dock = open_correct()
    assert [dock.form.start.itemText(i) for i in range(dock.form.start.count())] == [
        "the level on the screen", "L1", "L2", "Ensemble", "empty",
    ]  # fmt: skip
    press(dock.make_button, dock, qtbot)
    np.testing.assert_array_equal(stored(dock), 1 - labels)
    assert not any(layer.visible for layer in levels.layers.values())
    assert dock.opened.corrections.source["level"] == "L1"
    assert not dock.take_button.isVisible()


@pytest.mark.parametrize(("axes", "shape"), [("zcyx", (3, 2, 32, 40)), ("xyz", (40, 32, 3)), ("yxc", (32, 40, 3))])
def test_any_order_of_axes_and_channels(viewer, open_correct, axes, shape, qtbot, rng):
    rgb = axes == "yxc"
    named = tuple(axes[:2] if rgb else axes)
    viewer.add_image(
        rng.integers(0, 99, shape, np.uint8), name="cells", axis_labels=named, rgb=rgb, scale=(2,) * len(named)
    )
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    layer = dock.opened.layer
    at = {"z": 1, "c": 1, "y": 8, "x": 20}
    layer.brush_size = 1
    layer.paint(tuple(at[axis] for axis in named), 1)
    found = np.argwhere(stored(dock))
    np.testing.assert_array_equal(found, [[at[axis] for axis in dock.opened.corrections.axes]])
    assert layer.data[tuple(at[axis] for axis in named)] == 1
    layer.undo()
    assert not stored(dock).any()
    assert tuple(layer.scale) == (2,) * len(named)


def test_marks_are_kept_outlined_and_counted(viewer, open_correct, qtbot, rng):
    viewer.add_image(rng.integers(0, 99, (4, 60, 80), np.uint8), name="cells", axis_labels=tuple("zyx"))
    viewer.dims.set_current_step(0, 2)
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    corrections, outlines = dock.opened.corrections, dock.review.outlines
    key(viewer, "R")
    assert corrections.reviewed == (Box((2, 0, 0), (3, 60, 80)),)
    assert "1 slice reviewed" in dock.review.counted.text()
    assert len(outlines.layer.data) == 1
    assert not outlines.layer.editable
    viewer.dims.set_current_step(0, 0)
    assert len(outlines.layer.data) == 0
    viewer.reset_view()
    qtbot.mouseClick(dock.review.draw_button, LEFT)
    assert dock.review.draw_button.isChecked()
    drawing = outlines.drawing
    drag(viewer, qtbot, place(viewer, drawing, 0, 10, 20), place(viewer, drawing, 0, 30, 50))
    qtbot.waitUntil(lambda: outlines.drawing is None, timeout=5000)
    drawn = corrections.reviewed[1]
    assert np.abs(np.subtract((*drawn.start, *drawn.stop), (0, 10, 20, 1, 31, 51))).max() <= 1
    assert not dock.review.draw_button.isChecked()
    assert drawing not in viewer.layers
    assert viewer.layers.selection.active is dock.opened.layer
    assert "1 slice and 1 rectangle reviewed" in dock.review.counted.text()
    assert open_corrections(corrections.path).reviewed == corrections.reviewed
    qtbot.mouseClick(dock.review.unmark_button, LEFT)
    assert corrections.reviewed == (Box((2, 0, 0), (3, 60, 80)),)
    assert len(outlines.layer.data) == 0


def test_marking_paints_the_rest_where_unpainted_is_not_annotated(viewer, open_correct, predict, qtbot, rng):
    image = viewer.add_image(rng.integers(0, 99, (3, 32, 40), np.uint8), name="cells", axis_labels=tuple("zyx"))
    labels = rng.integers(0, 2, (3, 32, 40))
    predict(image, labels=labels)
    viewer.dims.set_current_step(0, 1)
    dock = open_correct()
    dock.form.unpainted.setCurrentIndex(1)
    press(dock.make_button, dock, qtbot)
    layer = dock.opened.layer
    assert layer.selected_label == 2
    assert not stored(dock).any()
    layer.paint((1, 16, 20), 1)
    painted = stored(dock)[1] > 0
    key(viewer, "R")
    qtbot.waitUntil(lambda: bool(dock.opened.corrections.reviewed), timeout=10_000)
    expected = np.zeros((3, 32, 40))
    expected[1] = np.where(painted, 1, labels[1] + 1)
    np.testing.assert_array_equal(stored(dock), expected)
    layer.undo()  # one step
    expected[1] = painted
    np.testing.assert_array_equal(stored(dock), expected)


def test_the_legend_chooses_what_is_painted(viewer, open_correct, monkeypatch, qtbot, rng):
    viewer.add_image(rng.integers(0, 99, (32, 40), np.uint8), name="cells")
    dock = open_correct()
    dock.form.unpainted.setCurrentIndex(1)
    press(dock.make_button, dock, qtbot)
    layer, legend = dock.opened.layer, dock.labels.legend
    assert [button.text() for button in legend.buttons.values()] == [
        "0  not annotated",
        "1  background",
        "2  foreground",
    ]
    assert legend.buttons[2].isChecked()
    layer.mode = "pan_zoom"
    qtbot.mouseClick(legend.buttons[1], LEFT)
    assert (layer.selected_label, layer.mode) == (1, "paint")
    layer.selected_label = 0  # by napari's own control
    assert [label for label, button in legend.buttons.items() if button.isChecked()] == [0]
    monkeypatch.setattr(dock.labels, "ask_name", lambda proposed: "wall")
    qtbot.mouseClick(dock.labels.add_button, LEFT)
    assert (layer.selected_label, legend.buttons[3].text()) == (3, "3  wall")
    layer.paint((5, 5), 3)
    shown = (255 * np.asarray(layer.get_color(3))).round().astype(int)[:3]
    added = open_corrections(dock.opened.corrections.path).classes[1]
    assert added.name == "wall"
    assert [int(added.color[i : i + 2], 16) for i in (1, 3, 5)] == list(shown)


def test_the_tour_goes_to_what_is_in_doubt_and_leaves_out_what_was_reviewed(viewer, open_correct, predict, qtbot, rng):
    image = viewer.add_image(rng.integers(0, 99, (4, 256, 256), np.uint8), name="cells", axis_labels=tuple("zyx"))
    levels = predict(image, labels=np.ones((4, 256, 256)))
    for level in (1, 2):  # doubt at two places of two slices, more of it at the first
        levels.store.probability(level)[0, 2, :128, 128:] = 128
        levels.store.probability(level)[0, 0, 128:, :128] = 200
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    tour = dock.tour
    tour.method.setCurrentIndex(tour.method.findData("uncertainty"))
    qtbot.mouseClick(tour.next_button, LEFT)
    qtbot.waitUntil(lambda: tour.tour.place == 0, timeout=30_000)
    assert viewer.dims.current_step[0] == 2
    assert np.allclose(viewer.scene.camera.center[-2:], (63.5, 191.5))
    assert tour.text.text() == "1 of 16, uncertainty 0.50"
    key(viewer, "N")
    assert viewer.dims.current_step[0] == 0
    assert np.allclose(viewer.scene.camera.center[-2:], (191.5, 63.5))
    key(viewer, "Shift+N")
    assert tour.tour.place == 0
    viewer.dims.set_current_step(0, 0)
    key(viewer, "R")
    key(viewer, "N")
    assert tour.tour.place > 1
    assert viewer.dims.current_step[0] != 0


def test_without_a_prediction_there_is_no_tour(viewer, open_correct, qtbot, rng):
    viewer.add_image(rng.integers(0, 99, (32, 40), np.uint8), name="cells")
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    assert not dock.tour.next_button.isEnabled()
    assert "Segment the image first" in dock.tour.next_button.toolTip()


def test_a_new_prediction_changes_nothing_that_was_accepted(viewer, open_correct, predict, qtbot, rng):
    image = viewer.add_image(rng.integers(0, 99, (3, 32, 40), np.uint8), name="cells", axis_labels=tuple("zyx"))
    first, second = (rng.integers(0, 2, (3, 32, 40)) for _ in range(2))
    predict(image, labels=first)
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    dock.opened.layer.paint((1, 16, 20), 1)
    painted = stored(dock) != first
    assert painted.any()
    dock.opened.corrections.mark(Box((0, 0, 0), (1, 32, 20)))
    accepted = painted.copy()
    accepted[0, :, :20] = True
    before = stored(dock)
    predict(image, labels=second, name="better", slices=(0, 1))
    assert dock.take_button.isVisible()
    press(dock.take_button, dock, qtbot)
    expected = np.where(accepted, before, second)
    expected[2] = before[2]  # which is not predicted yet
    np.testing.assert_array_equal(stored(dock), expected)
    np.testing.assert_array_equal(dock.opened.layer.data[:], expected)
    assert not dock.take_button.isVisible()
    assert dock.opened.corrections.source["model"] == "better"


def test_opened_again_with_one_click(viewer, open_correct, qtbot, rng):
    viewer.add_image(rng.integers(0, 99, (3, 32, 40), np.uint8), name="cells", axis_labels=tuple("zyx"))
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    dock.opened.layer.paint((1, 16, 20), 1)
    dock.opened.corrections.mark(Box((0, 0, 0), (1, 32, 40)))
    before, path = stored(dock), dock.opened.corrections.path
    viewer.layers.remove(dock.opened.layer)
    assert dock.opened is None
    assert str(path) in dock.status.text().replace("\u200b", "")
    assert dock.open_button.isVisible()
    assert not dock.make_button.isVisible()
    press(dock.open_button, dock, qtbot)
    np.testing.assert_array_equal(dock.opened.layer.data[:], before)
    assert dock.opened.corrections.reviewed == (Box((0, 0, 0), (1, 32, 40)),)
    (opened,) = corrections_in(viewer)
    assert (opened.layer, opened.image) == (dock.opened.layer, "cells")


def test_a_second_window_may_not_paint_on_the_same_folder(
    viewer, make_napari_viewer, open_correct, tmp_path, qtbot, rng
):
    data = rng.integers(0, 99, (32, 40), np.uint8)
    viewer.add_image(data, name="cells")
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    other = make_napari_viewer(show=True)
    other.add_image(data, name="cells")
    from napari_unetpp.gui.correct_widget import CorrectWidget

    second = CorrectWidget(other)
    other.window.add_dock_widget(second, name="Correct")
    qtbot.waitUntil(second.isVisible, timeout=10_000)
    second.form.folder.setText(str(tmp_path))
    press(second.open_button, second, qtbot)
    assert "painted on in another window" in second.status.text().replace("\u200b", "")
    assert corrections_in(other) == []
    viewer.layers.remove(dock.opened.layer)
    press(second.open_button, second, qtbot)
    assert len(corrections_in(other)) == 1


def test_corrections_of_another_shape_are_refused(viewer, open_correct, qtbot, rng):
    viewer.add_image(rng.integers(0, 99, (32, 40), np.uint8), name="cells")
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    folder = dock.form.folder.text()
    viewer.layers.clear()
    viewer.add_image(rng.integers(0, 99, (32, 41), np.uint8), name="cells")
    dock.form.folder.setText(folder)
    press(dock.open_button, dock, qtbot)
    text = dock.status.text().replace("\u200b", "")
    assert "corrects an image of 32 x 40 (yx), but cells has 32 x 41" in text
    assert corrections_in(viewer) == []
    open_corrections(dock.form.path(), "r+").close()  # and nobody holds it


def test_keys_are_given_back(viewer, open_correct, qtbot, rng):
    def mine(viewer):
        """What the user had bound."""

    viewer.bind_key("N", mine)
    dock = open_correct()
    bound = {str(bound): action for bound, action in viewer.keymap.items()}
    assert {"N", "Shift+N", "R", "Shift+R", "D"} <= set(bound)
    assert bound["N"] is not mine
    viewer.window.remove_dock_widget(dock)
    after = {str(bound): action for bound, action in viewer.keymap.items()}
    assert after["N"] is mine
    assert not {"Shift+N", "R", "Shift+R", "D"} & set(after)


def test_our_keys_are_none_of_napari(viewer):
    from napari.layers import Image, Labels
    from napari.utils.shortcuts import default_shortcuts

    from napari_unetpp.gui.correct_keys import KEYS

    taken = {str(key) for kind in (Labels, Image, type(viewer)) for key in kind.class_keymap}
    elsewhere = ("shape", "points", "vectors", "tracks", "surface", "rectangle", "direct", "select", "vertex")
    for action, keys in default_shortcuts.items():
        if not any(word in action for word in elsewhere):
            taken |= {str(key) for key in keys if "add_" not in action}
    assert not {key.replace("-", "+") for key in KEYS.values()} & taken


def test_a_duplicate_of_the_layer_is_in_memory(viewer, open_correct, qtbot, rng):
    from copy import deepcopy

    viewer.add_image(rng.integers(0, 99, (32, 40), np.uint8), name="cells")
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    dock.opened.layer.paint((16, 20), 1)
    before = stored(dock)
    data, state, _ = dock.opened.layer.as_layer_data_tuple()  # as napari's Duplicate Layer does
    copied = viewer.add_labels(deepcopy(data), **{**state, "name": "copy"})
    np.testing.assert_array_equal(copied.data, before)
    copied.data[...] = 7
    np.testing.assert_array_equal(stored(dock), before)
    assert [opened.layer for opened in corrections_in(viewer)] == [dock.opened.layer]


def test_nothing_is_cut(viewer, open_correct, check_uncut, qtbot, rng):
    viewer.add_image(
        rng.integers(0, 99, (3, 32, 40), np.uint8), name="an image with a long name", axis_labels=tuple("zyx")
    )
    dock = open_correct()
    qtbot.wait(200)
    check_uncut(dock)
    press(dock.make_button, dock, qtbot)
    qtbot.wait(200)
    assert dock.minimumSizeHint().width() <= 320
    check_uncut(dock)


def test_what_is_at_the_place_but_no_corrections_is_left_alone(viewer, open_correct, tmp_path, qtbot, rng):
    viewer.add_image(rng.integers(0, 99, (32, 40), np.uint8), name="cells")
    (tmp_path / "cells.corrections.zarr").mkdir()
    (tmp_path / "cells.corrections.zarr" / "zarr.json").write_text(json.dumps({"mine": True}))
    dock = open_correct()
    assert not dock.make_button.isEnabled()
    assert "something else or damaged" in dock.make_button.toolTip()


def test_voxels_of_several_slices_are_set_and_taken_back_as_by_numpy(viewer, open_correct, qtbot, rng):
    viewer.add_image(rng.integers(0, 99, (4, 30, 40), np.uint8), name="cells", axis_labels=tuple("zyx"))
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    layer, expected = dock.opened.layer, np.zeros((4, 30, 40), np.uint8)
    places = tuple(np.unique([rng.integers(0, n, 200) for n in expected.shape], axis=1))
    values = rng.integers(1, 4, places[0].size).astype(np.uint8)
    layer.data_setitem(places, values)
    expected[places] = values
    np.testing.assert_array_equal(stored(dock), expected)
    np.testing.assert_array_equal(layer.data[places], values)
    layer.undo()
    assert not stored(dock).any()
