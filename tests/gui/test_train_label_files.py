"""The Train dock with label files as people have them: gray values, left-over files, colours, exchanged sides."""

import json

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_unetpp.gui.train_form import SCRATCH
from napari_unetpp.gui.train_labels import EACH
from tests.gui.test_train_widget import blobs, open_train, plan, press, shorten  # noqa: F401 - a fixture among them

pytestmark = pytest.mark.gui

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def add_folders(monkeypatch, qtbot):
    """Presses "Folders ..." and answers both questions."""

    def added(dock, images, labels):
        answers = iter([str(images), str(labels)])
        monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: next(answers))
        qtbot.mouseClick(dock.pair_box.folders_button, LEFT)

    return added


def write(folder, name, image, labels):
    tifffile.imwrite(folder / f"{name}.tif", image)
    if labels is not None:
        tifffile.imwrite(folder / f"{name}_masks.tif", labels)


def test_gray_values_are_offered_as_classes(open_train, add_folders, rng, tmp_path, qtbot):  # noqa: F811
    for name in ("a", "b", "c"):
        image, labels = blobs(rng, 48, 64)
        labels = np.where(labels == 0, 0, np.where(np.arange(64) < 32, 127, 255)).astype(np.uint8)
        write(tmp_path, name, image, labels if name != "c" else None)
    dock = open_train()
    box = dock.pair_box
    assert not box.values.isVisible()
    add_folders(dock, tmp_path, tmp_path)
    qtbot.waitUntil(lambda: len(box.facts) == 2, timeout=30_000)
    assert [pair.names for pair in box.pairs] == [("a.tif", "a_masks.tif"), ("b.tif", "b_masks.tif")]
    assert box.left_note.text() == "Left out, without labels: 1 image (c.tif)"
    assert box.left_note.isVisible()
    assert box.values.isVisible()
    assert box.values.text() == "Values 0, 127, 255 are labels 0, 1, 2"
    assert not box.values.isChecked()  # that is for the user to say
    dock.form.start.setCurrentText(SCRATCH)
    assert dock.form.target.currentData() != EACH
    box.values.click()
    assert dock.form.target.currentData() == EACH
    assert "labelled: 1, 2" in box.list.item(0).text()
    dock.form.classes.setText("left, right")
    dock.form.width.setValue(2)
    shorten(dock, epochs=1)
    plan(dock, qtbot)
    annotated = dock.planned.plan.annotated
    assert list(annotated["training"]) == ["background", "left", "right"]
    assert all(annotated["training"].values())
    assert json.loads(json.dumps(dock.planned.request.pairs[0].memo))["values"] == [
        0,
        127,
        255,
    ]  # for a run that goes on
    press(dock, dock.copy_button, qtbot)
    qtbot.waitUntil(lambda: "Copied" in dock.status.text(), timeout=30_000)
    assert "--label-values 0,127,255" in QApplication.clipboard().text()


@pytest.mark.parametrize(
    ("kind", "says"),
    [("exchanged", "look exchanged"), ("colours", "are colours"), ("fractions", "labels are whole numbers")],
)
def test_what_are_no_labels_is_refused_in_a_line(open_train, add_folders, rng, tmp_path, qtbot, kind, says):  # noqa: F811
    image, labels = blobs(rng, 48, 64)
    if kind == "exchanged":
        write(tmp_path, "a", labels, image)
    elif kind == "colours":
        colours = np.zeros((2, 3), np.uint8)
        colours[1, 0] = 255
        write(tmp_path, "a", image, colours[labels])
    else:
        write(tmp_path, "a", image, labels / np.float32(2))
    dock = open_train()
    add_folders(dock, tmp_path, tmp_path)
    qtbot.waitUntil(lambda: says in dock.status.text(), timeout=30_000)
    assert not dock.pair_box.pairs


def test_labels_in_another_form_are_taken(open_train, add_folders, rng, tmp_path, qtbot):  # noqa: F811
    image, labels = blobs(rng, 48, 64)
    write(tmp_path, "a", image, np.stack([labels * 255] * 3, -1))
    write(tmp_path, "b", image, labels * np.float32(255))
    dock = open_train()
    add_folders(dock, tmp_path, tmp_path)
    qtbot.waitUntil(lambda: len(dock.pair_box.facts) == 2, timeout=30_000)
    assert not dock.pair_box.values.isVisible()  # 0 and 255: one class
    assert "labels: 3 channels are read as one" in dock.pair_box.list.item(0).text()
    assert "labels: float32 is read as integers" in dock.pair_box.list.item(1).text()
    shorten(dock, epochs=1)
    plan(dock, qtbot)


@pytest.mark.parametrize("kind", ["rgb", "float", "picture", "same"])
def test_an_image_layer_may_hold_the_labels(viewer, open_train, rng, qtbot, kind):  # noqa: F811
    image, labels = blobs(rng, 48, 64)
    viewer.add_image(image, name="cells", axis_labels=("y", "x"))
    dock = open_train()
    box = dock.pair_box
    assert box.chosen_label() is None  # nobody takes an image for labels but the user
    assert not box.add_button.isEnabled()
    if kind == "rgb":
        viewer.add_image(np.stack([labels * 255] * 3, -1), rgb=True, name="mask")
    elif kind == "float":
        viewer.add_image(labels.astype(np.float32), name="mask")
    elif kind == "picture":
        viewer.add_image(image / np.float32(7), name="mask")
    assert box.chosen_label() is None
    box.image.setCurrentText("cells")
    box.label.setCurrentText("cells" if kind == "same" else "mask")
    box.axes.setText("yx")
    qtbot.mouseClick(box.add_button, LEFT)
    if kind in ("picture", "same"):
        says = {"picture": "labels are whole numbers", "same": "chosen as the image and as its labels"}[kind]
        qtbot.waitUntil(lambda: says in dock.status.text(), timeout=30_000)
        assert not box.pairs
        return
    qtbot.waitUntil(lambda: len(box.facts) == 1, timeout=30_000)
    assert set(next(iter(box.facts.values())).counts) == {0, 255 if kind == "rgb" else 1}
    shorten(dock, epochs=1)
    plan(dock, qtbot)
