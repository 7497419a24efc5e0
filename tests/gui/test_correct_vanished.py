"""The folder of the corrections goes, or the disk refuses, while somebody paints: told at once, and nothing painted is lost."""

import errno
import os
import shutil

import numpy as np
import pytest
from qtpy.QtCore import Qt
from zarr.storage import LocalStore

from napari_unetpp.box import Box
from napari_unetpp.training import corrections_kept
from napari_unetpp.training.corrections import create_corrections, open_corrections
from tests.gui.mouse import LEFT, canvas_of, drag, place, stroke
from tests.gui.test_correct_widget import key, open_correct, press, stored  # noqa: F401 (a fixture)

pytestmark = pytest.mark.gui


@pytest.fixture
def open_painting(viewer, open_correct, tmp_path, qtbot, rng, monkeypatch):  # noqa: F811
    """Opens the dock with corrections of three slices: a stroke on the first, a mark on the last, the second on the screen."""

    def opened():
        monkeypatch.setenv("NAPARI_UNETPP_HOME", str(tmp_path / "home"))
        (tmp_path / "data").mkdir()
        viewer.add_image(rng.integers(0, 99, (3, 60, 80), np.uint8), name="cells", axis_labels=tuple("zyx"))
        dock = open_correct()
        dock.form.folder.setText(str(tmp_path / "data"))
        press(dock.make_button, dock, qtbot)
        viewer.reset_view()
        viewer.dims.set_current_step(0, 0)
        layer = dock.opened.layer
        drag(viewer, qtbot, place(viewer, layer, 0, 30, 15), place(viewer, layer, 0, 30, 60))
        dock.opened.corrections.mark(Box((2, 0, 0), (3, 60, 80)))
        viewer.dims.set_current_step(0, 1)
        assert stored(dock)[0, 30, 16:59].all()
        return dock

    return opened


def vanish(dock, how, monkeypatch):
    """Make the folder unfit for the next write, and return what brings it back."""
    path = dock.opened.corrections.path
    if how == "deleted":
        shutil.rmtree(path)
    elif how == "renamed":
        path.rename(path.with_name("elsewhere"))
    elif how == "replaced":
        path.rename(path.with_name("elsewhere"))
        image = dock.form.chosen_image()
        from napari_unetpp.gui.image_layer import stack_from_layer

        other = create_corrections(
            path, stack_from_layer(image), classes=dock.opened.corrections.classes, unpainted="background"
        )
        other.close()
    elif how == "replaced by a copy":
        shutil.copytree(path, path.with_name("copy"))
        shutil.rmtree(path)
        path.with_name("copy").rename(path)
    elif how == "partly deleted":
        shutil.rmtree(path / "labels")
    else:
        number = {"full": errno.ENOSPC, "read-only": errno.EROFS}[how]

        async def refuse(*_, **__):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(LocalStore, "set", refuse)


def status_of(dock):
    return dock.status.text().replace("\u200b", "")


WORDS = {
    "deleted": "moved or deleted",
    "renamed": "moved or deleted",
    "replaced": "another folder lies in its place",
    "replaced by a copy": "another folder lies in its place",
    "partly deleted": "labels/zarr.json was deleted",
    "full": "No space left on device",
    "read-only": "Read-only file system",
}


MOMENTS = [("before", how) for how in WORDS] + [(at, how) for at in ("mid", "end") for how in ("deleted", "full")]


@pytest.mark.parametrize(("moment", "how"), MOMENTS)
def test_a_stroke_that_is_not_on_the_disk_is_told_at_once_and_saved_elsewhere(
    viewer, open_painting, how, moment, tmp_path, qtbot, monkeypatch
):
    dock, monkey = open_painting(), pytest.MonkeyPatch()
    layer = dock.opened.layer
    lost = dock.opened.corrections.path
    points = [place(viewer, layer, 1, 20, x) for x in range(15, 61, 5)]
    canvas = canvas_of(viewer)
    viewer.screenshot(flash=False)
    at = {"before": 0, "mid": 4, "end": len(points) - 1}[moment]
    if at == 0:
        vanish(dock, how, monkey)
    qtbot.mouseMove(canvas, points[0])
    qtbot.mousePress(canvas, LEFT, pos=points[0])
    for number, point in enumerate(points[1:], 1):
        if number == at:
            vanish(dock, how, monkey)
        qtbot.mouseMove(canvas, point)
        qtbot.wait(10)
    assert WORDS[how] in status_of(dock)  # before the mouse is let go
    assert dock.status.styleSheet()  # red
    qtbot.mouseRelease(canvas, LEFT, pos=points[-1])
    monkey.undo()
    assert dock.rescue.isVisible()
    painted = np.asarray(layer.data)
    assert painted[1, 20, 16:59].all()
    if how in ("deleted", "renamed"):
        assert not lost.exists()  # not made again, in part
    elif how == "replaced":
        assert not np.asarray(open_corrections(lost).labels).any()  # which is somebody else's
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(dock.rescue, "ask_folder", lambda: str(tmp_path / "other"))
    qtbot.mouseClick(dock.rescue.elsewhere_button, LEFT)
    saved = dock.opened.corrections.path
    assert saved == tmp_path / "other" / "cells.corrections.zarr"
    assert str(saved) in status_of(dock)
    assert not dock.rescue.isVisible()
    np.testing.assert_array_equal(stored(dock), painted)
    assert stored(dock)[0, 30, 16:59].all()  # painted before
    assert open_corrections(saved).reviewed == (Box((2, 0, 0), (3, 60, 80)),)
    qtbot.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert not stored(dock)[1].any()
    assert layer.mode == "paint"
    drag(viewer, qtbot, place(viewer, layer, 1, 40, 15), place(viewer, layer, 1, 40, 60))
    assert stored(dock)[1, 40, 16:59].all()
    assert layer in viewer.layers


def test_the_dock_notices_without_a_stroke(open_painting, qtbot, monkeypatch):
    painting = open_painting()
    vanish(painting, "deleted", monkeypatch)
    qtbot.waitUntil(painting.rescue.isVisible, timeout=5000)
    assert "moved or deleted" in status_of(painting)


def test_a_mark_that_cannot_be_saved_is_told_and_not_shown(viewer, open_painting, monkeypatch):
    painting = open_painting()
    vanish(painting, "deleted", monkeypatch)
    before = painting.opened.corrections.reviewed
    key(viewer, "R")
    assert painting.opened.corrections.reviewed == before
    assert "moved or deleted" in status_of(painting)
    assert not painting.opened.corrections.path.exists()


def test_a_disk_that_has_room_again_gets_what_waited(viewer, open_painting, qtbot):
    painting = open_painting()
    layer, monkey = painting.opened.layer, pytest.MonkeyPatch()
    vanish(painting, "full", monkey)
    drag(viewer, qtbot, place(viewer, layer, 1, 20, 15), place(viewer, layer, 1, 20, 60))
    assert not stored(painting)[1].any()
    qtbot.mouseClick(painting.rescue.again_button, LEFT)
    assert "No space left" in status_of(painting)
    monkey.undo()
    qtbot.mouseClick(painting.rescue.again_button, LEFT)
    assert "Everything is saved again." in status_of(painting)
    assert stored(painting)[1, 20, 16:59].all()
    vanish(painting, "full", monkey)
    drag(viewer, qtbot, place(viewer, layer, 1, 20, 15), place(viewer, layer, 1, 20, 60))
    monkey.undo()
    layer.mode = "paint"
    drag(
        viewer, qtbot, place(viewer, layer, 1, 40, 15), place(viewer, layer, 1, 40, 60)
    )  # the next stroke takes it along
    np.testing.assert_array_equal(stored(painting), np.asarray(layer.data))
    assert not painting.rescue.isVisible()


def test_a_place_that_has_corrections_already_keeps_them(open_painting, tmp_path, qtbot, monkeypatch):
    painting = open_painting()
    vanish(painting, "renamed", monkeypatch)
    painting.opened.look()
    taken = tmp_path / "other" / "cells.corrections.zarr"
    taken.mkdir(parents=True)
    (taken / "mine").write_text("mine")
    monkeypatch.setattr(painting.rescue, "ask_folder", lambda: str(taken.parent))
    qtbot.mouseClick(painting.rescue.elsewhere_button, LEFT)
    assert painting.opened.corrections.path == taken.parent / "saved-1" / taken.name
    assert painting.form.path() == painting.opened.corrections.path  # which is opened again with one click
    assert [file.name for file in taken.iterdir()] == ["mine"]


@pytest.mark.parametrize("goes", ["layer", "dock"])
def test_what_goes_with_unsaved_strokes_leaves_them_in_a_folder(
    viewer, open_painting, tmp_path, qtbot, monkeypatch, goes
):
    painting = open_painting()
    layer = painting.opened.layer
    vanish(painting, "deleted", monkeypatch)
    drag(viewer, qtbot, place(viewer, layer, 1, 20, 15), place(viewer, layer, 1, 20, 60))
    painted = np.asarray(layer.data)
    assert painted[1].any()
    if goes == "layer":
        viewer.layers.remove(layer)
    else:
        viewer.window.remove_dock_widget(painting)
    found = open_corrections(tmp_path / "home" / "corrections" / "cells.corrections.zarr")
    np.testing.assert_array_equal(found.labels[:], painted)


def test_corrections_larger_than_memory_say_what_is_missing(viewer, open_painting, tmp_path, qtbot, monkeypatch):
    painting = open_painting()
    path = painting.opened.corrections.path
    viewer.layers.remove(painting.opened.layer)
    monkeypatch.setattr(corrections_kept, "MOST_FILES", 3)
    press(painting.open_button, painting, qtbot)
    layer = painting.opened.layer
    drag(viewer, qtbot, place(viewer, layer, 1, 20, 15), place(viewer, layer, 1, 20, 60))
    before = stored(painting)
    (tmp_path / "one").mkdir()
    monkeypatch.setattr(painting.rescue, "ask_folder", lambda: str(tmp_path / "one"))
    painting.rescue.save_elsewhere()  # the old folder is there: nothing is missing
    np.testing.assert_array_equal(stored(painting), before)
    assert before[0].any()
    assert "Everything is saved" in status_of(painting)
    shutil.rmtree(painting.opened.corrections.path)
    stroke(viewer, qtbot, [place(viewer, layer, 1, 50, x) for x in (20, 30, 40)])
    (tmp_path / "two").mkdir()
    monkeypatch.setattr(painting.rescue, "ask_folder", lambda: str(tmp_path / "two"))
    qtbot.mouseClick(painting.rescue.elsewhere_button, LEFT)
    assert "without a part of what was there before" in status_of(painting)
    found = stored(painting)
    assert found[1, 20, 16:59].all()
    assert found[1, 50, 21:39].all()
    assert path != painting.opened.corrections.path
