"""The Train dock where its folder vanishes, its images change, somebody else trains, or nothing can be scored."""

from __future__ import annotations

import errno
import shutil

import numpy as np
import pytest
from qtpy.QtWidgets import QFileDialog
from superqt.utils._qthreading import WorkerBase

from napari_unetpp.model.checkpoint import load_model
from napari_unetpp.model.zoo import user_folder
from napari_unetpp.training.run_files import hold_run, let_go, state_path
from tests.gui.test_train_widget import IDLE, LEFT, blobs, plan, press, shorten

pytestmark = pytest.mark.gui


@pytest.fixture
def opened(viewer, model, predictions, rng, qtbot):
    """Opens the dock with one pair, of these data if any, and a run of short epochs."""
    from napari._app_model import get_app_model  # in tests only: what a click in the menu runs

    def opened(image=None, labels=None, epochs=3):
        if "cells" not in viewer.layers:
            if image is None:
                image, labels = blobs(rng, 64, 96)
            viewer.add_image(image, name="cells", axis_labels=("y", "x"))
            viewer.add_labels(labels, name="painted")
        get_app_model().commands.execute_command("napari-unetpp.train").result()
        (dock,) = [w for name, w in viewer.window.dock_widgets.items() if "Train" in name]
        qtbot.waitUntil(dock.isVisible, timeout=10_000)
        qtbot.waitUntil(lambda: dock.form.start.count() > 0, timeout=60_000)
        if not dock.pair_box.pairs:
            qtbot.mouseClick(dock.pair_box.add_button, LEFT)
        qtbot.waitUntil(lambda: len(dock.pair_box.facts) == 1, timeout=30_000)
        shorten(dock, epochs)
        return dock

    return opened


def out():
    return user_folder() / "tiny tuned.safetensors"


@pytest.mark.parametrize("moment", ["first", "between", "kept"])
def test_a_folder_that_vanishes_is_told_and_the_model_can_be_saved_elsewhere(
    opened, tmp_path, monkeypatch, moment, qtbot
):
    dock = opened(epochs=10_000)
    plan(dock, qtbot)
    press(dock, dock.start_button, qtbot, "training")
    qtbot.waitUntil(lambda: dock.run.device != "", timeout=60_000)
    if moment != "first":
        qtbot.waitUntil(lambda: state_path(out()).exists(), timeout=60_000)
    if moment == "kept":
        qtbot.waitUntil(dock.keep_button.isEnabled, timeout=60_000)
        press(dock, dock.pause_button, qtbot, "paused")
        shutil.rmtree(user_folder())
        press(dock, dock.keep_button, qtbot, "failed")
    else:
        while user_folder().exists():  # a file may be written meanwhile
            shutil.rmtree(user_folder(), ignore_errors=True)
        qtbot.waitUntil(lambda: dock.state == "failed", timeout=60_000)
    assert "was moved, deleted or replaced" in dock.status.text()
    assert "still in memory" in dock.status.text()
    qtbot.waitUntil(
        lambda: not dock.form.parent_choice(), timeout=30_000
    )  # the dock has looked: its parent is gone too
    assert "still in memory" in dock.status.text()
    assert dock.rescue.isVisible()
    assert not dock.result.isVisible()
    assert not user_folder().exists()
    elsewhere = tmp_path / "saved.safetensors"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(elsewhere), ""))
    qtbot.mouseClick(dock.rescue, LEFT)
    qtbot.waitUntil(lambda: "saved as" in dock.status.text(), timeout=30_000)
    assert str(elsewhere) in dock.status.text().replace("\u200b", "")  # where a long path may break
    assert load_model(elsewhere, "cpu").card.training["epoch"] >= 1
    assert dock.state == "idle"
    assert dock.form.isEnabled()
    assert not dock.rescue.isVisible()


def test_a_full_disk_before_the_first_model_is_offered_another_place(opened, monkeypatch, qtbot):
    from napari_unetpp.training import saved

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saved, "save_model", full)
    dock = opened()
    plan(dock, qtbot)
    press(dock, dock.start_button, qtbot, "failed")
    assert "No space left on device" in dock.status.text()
    assert dock.rescue.isVisible()
    assert not out().exists()


def test_a_model_that_vanishes_at_the_end_is_not_called_done(opened, monkeypatch, qtbot):
    from napari_unetpp.training import compare

    real = compare.save_model

    def vanishing(model, path):
        shutil.rmtree(user_folder())
        return real(model, path)

    monkeypatch.setattr(compare, "save_model", vanishing)
    dock = opened(epochs=1)
    plan(dock, qtbot)
    press(dock, dock.start_button, qtbot, "training")
    qtbot.waitUntil(lambda: dock.state in IDLE, timeout=120_000)
    assert dock.state == "failed"
    assert "was moved, deleted or replaced" in dock.status.text()
    assert dock.rescue.isVisible()


def test_a_model_that_somebody_else_trains_is_neither_trained_nor_discarded(opened, qtbot):
    dock = opened()
    plan(dock, qtbot)
    hold = hold_run(out())
    press(dock, dock.start_button, qtbot, "failed")
    assert "being trained in another window or program" in dock.status.text()
    assert not dock.rescue.isVisible()
    let_go(out(), hold)
    dock.look_around()
    plan(dock, qtbot)
    press(dock, dock.start_button, qtbot, "training", "done")
    qtbot.waitUntil(lambda: dock.state in IDLE, timeout=120_000)
    assert dock.state == "done", dock.status.text()


def test_a_left_run_is_not_discarded_while_somebody_is_at_it(viewer, opened, qtbot):
    dock = opened(epochs=10_000)
    plan(dock, qtbot)
    press(dock, dock.start_button, qtbot, "training")
    qtbot.waitUntil(lambda: state_path(out()).exists(), timeout=60_000)
    run = dock.run
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: run.outcome == "left", timeout=60_000)
    again = opened()
    qtbot.waitUntil(again.left_runs.isVisible, timeout=30_000)
    hold = hold_run(out())  # by another window, after this one has looked
    press(again, again.left_runs.discard_button, qtbot)
    qtbot.waitUntil(lambda: "being trained" in again.status.text(), timeout=30_000)
    assert out().exists()
    assert state_path(out()).exists()
    let_go(out(), hold)
    viewer.layers["cells"].data = 255 - viewer.layers["cells"].data  # and now another image
    press(again, again.left_runs.resume_button, qtbot)
    qtbot.waitUntil(lambda: "voxel by voxel" in again.status.text(), timeout=60_000)
    assert "cells" in again.status.text()
    press(again, again.left_runs.discard_button, qtbot)
    qtbot.waitUntil(lambda: not out().exists(), timeout=30_000)


@pytest.mark.parametrize("name", ["cells", "painted"])
def test_other_data_of_a_layer_make_the_plan_stale(viewer, opened, name, qtbot):
    dock = opened()
    plan(dock, qtbot)
    viewer.layers[name].data = np.array(viewer.layers[name].data[::-1])
    assert dock.state == "idle"
    assert dock.planned is None


def test_nothing_held_out_is_told_before_and_after(opened, qtbot):
    labels = np.zeros((40, 50), np.uint8)
    labels[12:18, 12:18] = 1
    dock = opened((100 * labels + np.arange(50)).astype(np.uint8), labels)
    plan(dock, qtbot)
    text = dock.plan_text.text()
    assert "<b>Held out:</b> nothing" in text
    assert "nothing is held out" in text
    press(dock, dock.start_button, qtbot, "training")
    qtbot.waitUntil(lambda: dock.state in IDLE, timeout=120_000)
    assert dock.state == "done", dock.status.text()
    assert "lowest training loss" in dock.status.text()
    assert not dock.curves.score_plot.isVisible()
    assert "best" not in dock.status.text()
    assert load_model(out(), "cpu").card.training["chosen_by"] == "training loss"


@pytest.fixture(autouse=True)
def _stopped(request, qtbot):
    """What a failing test leaves behind must not train on into the next one."""
    yield
    for worker in list(WorkerBase._worker_set):
        worker.quit()
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=60_000)
