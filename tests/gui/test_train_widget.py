"""The Train dock in a real window: real buttons are pressed, real curves, layers and files are read."""

import json

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QFileDialog
from superqt.utils._qthreading import WorkerBase

from napari_unetpp.gui.image_layer import visible_box
from napari_unetpp.gui.train_form import SCRATCH
from napari_unetpp.inference.predict import predict_region
from napari_unetpp.model.checkpoint import load_model, read_header
from napari_unetpp.model.zoo import user_folder

pytestmark = pytest.mark.gui

LEFT = Qt.MouseButton.LeftButton
IDLE = ("idle", "planned", "done", "failed")


def blobs(rng, *shape):
    """Bright squares on noise, and their labels."""
    labels = np.zeros(shape, np.uint8)
    for _ in range(12):
        y, x = (int(rng.integers(0, n - 8)) for n in shape[-2:])
        labels[..., y : y + 8, x : x + 8] = 1
    return (labels * 120 + rng.integers(0, 60, shape)).astype(np.uint8), labels


@pytest.fixture
def open_train(viewer, model, predictions, qtbot):
    """Opens the dock like the Plugins menu does, and waits until it has looked around."""
    from napari._app_model import get_app_model  # in tests only: what a click in the menu runs

    def opened():
        get_app_model().commands.execute_command("napari-unetpp.train").result()
        (dock,) = [w for name, w in viewer.window.dock_widgets.items() if "Train" in name]
        qtbot.waitUntil(dock.isVisible, timeout=10_000)
        qtbot.waitUntil(lambda: dock.form.start.count() > 0, timeout=60_000)
        return dock

    return opened


@pytest.fixture
def scene(viewer, rng):
    """An image and its labels in the viewer; not handed out, because a fixture's value outlives the window."""
    image, labels = blobs(rng, 64, 96)
    viewer.add_image(image, name="cells", axis_labels=("y", "x"))
    viewer.add_labels(labels, name="painted")


@pytest.fixture
def ready(scene, open_train, qtbot):
    """Opens the dock with one pair and a run of three short epochs chosen."""

    def opened():
        dock = open_train()
        qtbot.mouseClick(dock.pair_box.add_button, LEFT)
        qtbot.waitUntil(lambda: len(dock.pair_box.facts) == 1, timeout=30_000)
        shorten(dock)
        return dock

    return opened


def shorten(dock, epochs=3):
    form = dock.form
    numbers = {form.epochs: epochs, form.patience: epochs, form.steps: 2, form.batch: 2, form.patch: 16}
    for field, value in numbers.items():
        field.setValue(value)
    form.device.setCurrentIndex(form.device.findData("cpu"))


def press(dock, button, qtbot, *states, timeout=120_000):
    """Press it, and wait for one of the states."""
    assert button.isEnabled(), (button.toolTip(), dock.status.text())
    qtbot.mouseClick(button, LEFT)
    if states:
        qtbot.waitUntil(lambda: dock.state in states, timeout=timeout)
        assert dock.state in states, dock.status.text()


def points(curve):
    """Epochs of a curve's points."""
    x, _ = curve.getData()
    return [] if x is None else x.tolist()


def plan(dock, qtbot):
    press(dock, dock.plan_button, qtbot, "planned", "failed")
    qtbot.waitUntil(lambda: dock.job is None, timeout=10_000)
    assert dock.state == "planned", dock.status.text()


def test_a_run_from_plan_to_table(viewer, ready, open_dock, model, qtbot):
    dock, segment = ready(), open_dock()
    segment.form.model.setCurrentText("tiny")
    plan(dock, qtbot)
    assert "cells" in dock.plan_text.text()
    assert "2 patches of 16 x 16" in dock.plan_text.text()
    # what is annotated of both parts is no more than the image, and of neither nothing
    parts = [sum(dock.planned.plan.annotated[part].values()) for part in ("training", "validation")]
    assert min(parts) > 0
    assert sum(parts) <= 64 * 96
    press(dock, dock.start_button, qtbot, "training")
    qtbot.waitUntil(lambda: dock.state in IDLE, timeout=120_000)
    assert dock.state == "done", dock.status.text()
    epochs, values = dock.curves.scores[2].getData()
    assert epochs.tolist() == [1, 2, 3]
    # the curve ends where the best score stands on the card, if the last epoch is the best, and never above it
    out = user_folder() / "tiny tuned.safetensors"
    card = read_header(out).card
    assert max(values) >= card.scores["validation"]["L2"]["iou"] >= min(values)
    assert len(dock.curves.batches.getData()[0]) >= 3
    assert card.training["parent"] == model.sha256
    # the table agrees with what stands on the card
    after = [dock.result.table.item(row, 2).text() for row in range(3)]
    assert after == [f"{card.scores['validation'][name]['iou']:.3f}" for name in ("L1", "L2", "ensemble")]
    # and the slider's preview is the new model's
    qtbot.waitUntil(lambda: segment.form.model.currentText() == "tiny tuned", timeout=30_000)
    qtbot.waitUntil(lambda: "cells live" in [x.name for x in viewer.layers], timeout=30_000)
    assert "cells training preview" not in [x.name for x in viewer.layers]
    tuned = load_model(out, "cpu")
    heads = dict(zip(tuned.spec.heads, predict_region(viewer.layers["cells"].data[None], tuned), strict=True))

    def shows_the_new_model():
        seen = visible_box(viewer, viewer.layers["cells"], "yx").slices
        probability = heads[segment.level_box.comparison.level][0][seen]
        clear = np.abs(probability - 0.5) > 1 / 255
        if "cells live" not in viewer.layers:
            return False
        shown = np.asarray(viewer.layers["cells live"].data)[seen] > 0
        return np.array_equal(shown[clear], (probability >= 0.5)[clear])

    qtbot.waitUntil(shows_the_new_model, timeout=30_000)
    press(dock, dock.result.back_button, qtbot)
    qtbot.waitUntil(lambda: segment.form.model.currentText() == "tiny", timeout=10_000)
    assert out.exists()


def test_start_without_a_plan_asks_to_look_at_it_first(ready, qtbot):
    dock = ready()
    press(dock, dock.start_button, qtbot, "planned", "failed")
    assert dock.state == "planned", dock.status.text()
    assert dock.plan_box.isVisible()
    dock.form.epochs.setValue(2)  # any change: the plan is not what would be done
    assert dock.state == "idle"
    assert not dock.plan_box.isVisible()


def test_painting_makes_the_plan_stale(viewer, ready, qtbot):
    dock = ready()
    painted = viewer.layers["painted"]
    plan(dock, qtbot)
    painted.paint((5, 5), 1)
    assert dock.state == "idle"


def test_labels_of_another_shape_are_refused_at_once(viewer, open_train, rng, qtbot):
    viewer.add_image(blobs(rng, 40, 40)[0], name="cells")
    viewer.add_labels(np.ones((40, 41), np.uint8), name="others")
    dock = open_train()
    qtbot.mouseClick(dock.pair_box.add_button, LEFT)
    assert not dock.pair_box.pairs
    assert "others" in dock.status.text()
    assert "40 x 41" in dock.status.text()
    assert not dock.plan_button.isEnabled()


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda image, labels: labels.data.fill(0), "foreground"),
        (lambda image, labels: labels.data.fill(1), "background"),
        (lambda image, labels: image.data.__setitem__((3, 3), np.nan), "NaN"),
    ],
    ids=["no label", "one class", "nan"],
)
def test_what_cannot_be_trained_on_is_told_in_a_line(viewer, open_train, rng, qtbot, spoil, word):
    data, painted = blobs(rng, 64, 64)
    image, labels = viewer.add_image(data.astype(np.float32), name="cells"), viewer.add_labels(painted, name="painted")
    spoil(image, labels)
    dock = open_train()
    qtbot.mouseClick(dock.pair_box.add_button, LEFT)
    qtbot.waitUntil(lambda: len(dock.pair_box.facts) == 1, timeout=30_000)
    shorten(dock)
    press(dock, dock.plan_button, qtbot, "planned", "failed")
    assert dock.state == "failed"
    assert word in dock.status.text()
    assert dock.details_button.isVisible()
    assert not [path for path in user_folder().iterdir() if path.stem != "tiny"]


def test_pause_holds_and_stop_keeps_the_best(ready, qtbot):
    dock = ready()
    shorten(dock, epochs=10_000)
    plan(dock, qtbot)
    press(dock, dock.start_button, qtbot, "training")
    assert not dock.keep_button.isEnabled()  # there is nothing to keep yet
    qtbot.waitUntil(dock.keep_button.isEnabled, timeout=60_000)
    press(dock, dock.pause_button, qtbot, "paused")
    qtbot.waitUntil(lambda: not dock.run._job._worker.going.is_set(), timeout=5000)
    qtbot.wait(500)
    held = dock.run.training.epochs_done
    qtbot.wait(500)
    assert dock.run.training.epochs_done == held
    press(dock, dock.pause_button, qtbot, "training")
    qtbot.waitUntil(lambda: dock.run.training.epochs_done > held, timeout=60_000)
    press(dock, dock.keep_button, qtbot)
    qtbot.waitUntil(lambda: dock.state in IDLE, timeout=120_000)
    assert dock.state == "done", dock.status.text()
    assert sorted(path.name for path in user_folder().glob("*tuned*")) == ["tiny tuned.safetensors"]
    load_model("tiny tuned", "cpu")


def test_discard_asks_once_there_is_something_to_lose(ready, qtbot):
    dock = ready()
    shorten(dock, epochs=10_000)
    plan(dock, qtbot)
    press(dock, dock.start_button, qtbot, "training")
    qtbot.waitUntil(dock.keep_button.isEnabled, timeout=60_000)
    press(dock, dock.discard_button, qtbot)
    assert dock.sure_box.isVisible()
    press(dock, dock.not_sure_button, qtbot)
    assert not dock.sure_box.isVisible()
    assert dock.state == "training"
    press(dock, dock.discard_button, qtbot)
    press(dock, dock.sure_button, qtbot, "idle")
    assert not list(user_folder().glob("*tuned*"))


def test_a_closed_dock_leaves_a_run_that_the_next_one_resumes(viewer, ready, open_train, qtbot):
    dock = ready()
    shorten(dock, epochs=10_000)
    plan(dock, qtbot)
    press(dock, dock.start_button, qtbot, "training")
    out = user_folder() / "tiny tuned.safetensors"
    qtbot.waitUntil(lambda: out.with_name(out.name + ".training").exists(), timeout=60_000)
    run = dock.run
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: run.outcome == "left", timeout=60_000)
    load_model(out, "cpu")  # the best so far is a whole model
    done = run.training.epochs_done
    again = open_train()
    qtbot.waitUntil(again.left_runs.isVisible, timeout=30_000)
    assert "tiny tuned" in again.left_runs.text.text()
    assert again.form.patch.value() == 16  # what was chosen in this window is remembered
    press(again, again.left_runs.resume_button, qtbot, "training", "failed")
    assert again.state == "training", again.status.text()
    qtbot.waitUntil(lambda: again.run.training.epochs_done > done, timeout=60_000)
    # its curves begin with the epochs of the run that it goes on with
    qtbot.waitUntil(lambda: 1 in points(again.curves.scores[1]), timeout=10_000)
    press(again, again.discard_button, qtbot)
    press(again, again.sure_button, qtbot, "idle")
    qtbot.waitUntil(lambda: not again.left_runs.isVisible(), timeout=10_000)


def test_a_run_whose_labels_have_changed_is_not_resumed(viewer, scene, ready, open_train, qtbot):
    dock = ready()
    painted = viewer.layers["painted"]
    shorten(dock, epochs=10_000)
    plan(dock, qtbot)
    press(dock, dock.start_button, qtbot, "training")
    out = user_folder() / "tiny tuned.safetensors"
    qtbot.waitUntil(lambda: out.with_name(out.name + ".training").exists(), timeout=60_000)
    run = dock.run
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: run.outcome == "left", timeout=60_000)
    painted.data[:8, :8] = 1 - painted.data[:8, :8]
    again = open_train()
    qtbot.waitUntil(again.left_runs.isVisible, timeout=30_000)
    press(again, again.left_runs.resume_button, qtbot)
    qtbot.waitUntil(lambda: again.state == "failed", timeout=60_000)
    assert "data" in again.status.text()
    viewer.layers.remove(painted)
    press(again, again.left_runs.resume_button, qtbot)
    qtbot.waitUntil(lambda: "painted" in again.status.text(), timeout=10_000)
    press(again, again.left_runs.discard_button, qtbot)
    qtbot.waitUntil(lambda: not list(user_folder().glob("*tuned*")), timeout=10_000)


def test_training_goes_on_without_its_layers(viewer, ready, qtbot):
    dock = ready()
    plan(dock, qtbot)
    press(dock, dock.start_button, qtbot, "training")
    viewer.layers.clear()
    qtbot.waitUntil(lambda: dock.state in IDLE, timeout=120_000)
    assert dock.state == "done", dock.status.text()
    assert not dock.pair_box.pairs


def test_the_view_shows_the_best_weights_while_they_are_trained(viewer, ready, qtbot):
    dock = ready()
    shorten(dock, epochs=10_000)
    plan(dock, qtbot)
    press(dock, dock.start_button, qtbot, "training")
    qtbot.waitUntil(lambda: "cells training preview" in [x.name for x in viewer.layers], timeout=60_000)
    layer, live = viewer.layers["cells training preview"], dock.view.live
    with qtbot.waitSignal(dock.run.better, timeout=60_000):  # better weights do not make it flicker
        pass
    qtbot.waitUntil(lambda: live.reached is None or not live.computing, timeout=30_000)
    qtbot.waitUntil(lambda: live.reached is not None, timeout=30_000)
    assert layer in viewer.layers
    dock.view_row.shown.setChecked(False)
    assert "cells training preview" not in [x.name for x in viewer.layers]
    press(dock, dock.discard_button, qtbot)
    press(dock, dock.sure_button, qtbot, "idle")


def test_classes_of_a_new_network_come_from_the_labels(viewer, open_train, rng, qtbot):
    data, painted = blobs(rng, 64, 64)
    painted[:, :30] *= 2
    viewer.add_image(data, name="cells")
    viewer.add_labels(painted, name="painted")
    dock = open_train()
    dock.form.start.setCurrentText(SCRATCH)
    qtbot.mouseClick(dock.pair_box.add_button, LEFT)
    qtbot.waitUntil(lambda: len(dock.pair_box.facts) == 1, timeout=30_000)
    assert dock.form.target.currentText() == "each label is a class"
    assert not dock.plan_button.isEnabled()  # two classes, one name
    dock.form.classes.setText("left, right")
    dock.form.width.setValue(2)
    dock.form.depth.setValue(2)
    shorten(dock, epochs=1)
    plan(dock, qtbot)
    assert dock.planned.plan.spec.widths == (2, 4, 8)
    assert [info.name for info in dock.planned.plan.card.classes] == ["background", "left", "right"]
    press(dock, dock.form.preview_button, qtbot)
    qtbot.waitUntil(lambda: not dock.patches.picture.pixmap().isNull(), timeout=30_000)
    assert "left" in dock.patches.legend.text()
    first = dock.patches.picture.pixmap().toImage()
    qtbot.mouseClick(dock.patches.again_button, LEFT)
    qtbot.waitUntil(lambda: dock.patches.picture.pixmap().toImage() != first, timeout=30_000)
    press(dock, dock.start_button, qtbot, "training")
    qtbot.waitUntil(lambda: dock.state in IDLE, timeout=120_000)
    assert dock.state == "done", dock.status.text()
    assert not dock.result.back_button.isVisible()  # there is no parent
    assert read_header(user_folder() / "new model.safetensors").spec.classes == 3


def test_files_are_trained_on_and_the_command_says_how(viewer, open_train, rng, tmp_path, monkeypatch, qtbot):
    import tifffile

    paths = {}
    for name in ("a", "b"):
        image, labels = blobs(rng, 48, 64)
        for kind, data in (("image", image), ("labels", labels)):
            (tmp_path / kind).mkdir(exist_ok=True)
            paths[name, kind] = tmp_path / kind / f"{name}{'_labels' * (kind == 'labels')}.tif"
            tifffile.imwrite(paths[name, kind], data)
    dock = open_train()
    answers = iter([str(tmp_path / "image"), str(tmp_path / "labels")])
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: next(answers))
    qtbot.mouseClick(dock.pair_box.folders_button, LEFT)
    qtbot.waitUntil(lambda: len(dock.pair_box.facts) == 2, timeout=30_000)
    shorten(dock, epochs=1)
    press(dock, dock.copy_button, qtbot)
    qtbot.waitUntil(lambda: "Copied" in dock.status.text(), timeout=30_000)
    line = QApplication.clipboard().text()
    assert line.startswith("napari-unetpp train --image")
    for path in paths.values():
        assert str(path) in line
    assert "--base tiny" in line
    assert "--epochs 1" in line
    plan(dock, qtbot)
    press(dock, dock.start_button, qtbot, "training")
    qtbot.waitUntil(lambda: dock.state in IDLE, timeout=120_000)
    assert dock.state == "done", dock.status.text()
    # a later training can replay them
    from napari_unetpp.training.at_hand import known_data

    tuned = load_model("tiny tuned", "cpu")
    assert {source.image for source in known_data(tuned.sha256)} == {paths["a", "image"], paths["b", "image"]}


def test_corrections_bring_their_own_rule_and_classes(viewer, scene, open_train, tmp_path, qtbot):
    from napari_unetpp.gui.correct_layer import add_corrections
    from napari_unetpp.gui.image_layer import stack_from_layer
    from napari_unetpp.model.card import ClassInfo
    from napari_unetpp.training.corrections import create_corrections, open_corrections

    image = viewer.layers["cells"]
    path = tmp_path / "cells.corrections.zarr"
    classes = [ClassInfo("nucleus")]
    create_corrections(path, stack_from_layer(image, "yx"), classes=classes, unpainted="ignore").close()
    opened = add_corrections(viewer, image, "yx", open_corrections(path, "r+"))
    painted = np.asarray(viewer.layers["painted"].data)[:, ::2]  # half of it, 1 background and 2 the class
    places = np.indices(painted.shape).reshape(2, -1)
    opened.layer.data_setitem((places[0], places[1] * 2), painted.ravel() + 1)
    dock = open_train()
    box = dock.pair_box
    assert box.label.currentText() == opened.layer.name  # what was corrected is offered first
    qtbot.mouseClick(box.add_button, LEFT)
    qtbot.waitUntil(lambda: len(box.facts) == 1, timeout=30_000)
    (facts,) = box.facts.values()
    assert facts.unpainted == "ignore"
    assert dict(facts.counts) == {0: painted.size, 1: int((painted == 0).sum()), 2: int((painted == 1).sum())}
    assert not box.unpainted.isEnabled()
    shorten(dock, epochs=1)
    plan(dock, qtbot)
    annotated = dock.planned.plan.annotated.values()
    assert sum(sum(counts.values()) for counts in annotated) <= painted.size


def test_two_docks_cannot_train_the_same_model(ready, qtbot):
    dock = ready()
    from napari_unetpp.gui.train_unfinished import hold_request

    plan(dock, qtbot)
    with hold_request(dock.planned.request, resume=False):
        path = user_folder() / "tiny tuned.safetensors.training.json"
        assert json.loads(path.read_text())["pairs"][0]["image"]["layer"] == "cells"
        press(dock, dock.start_button, qtbot)
        qtbot.waitUntil(lambda: dock.state == "failed", timeout=30_000)
        assert "trained already" in dock.status.text() or "another" in dock.status.text()
    assert not path.exists()


def test_no_text_is_cut(ready, check_uncut, qtbot):
    dock = ready()
    dock.form.more_button.setChecked(True)
    plan(dock, qtbot)
    check_uncut(dock)


@pytest.fixture(autouse=True)
def _stopped(request, qtbot):
    """What a failing test leaves behind must not train on into the next one."""
    yield
    for worker in list(WorkerBase._worker_set):
        worker.quit()
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=60_000)
