"""The Intensity field of the Segment dock: what is chosen reaches the preview, the run and the command."""

from __future__ import annotations

import shlex
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication
from scipy import ndimage

from napari_unetpp.box import Box
from napari_unetpp.inference.predict import predict_array
from napari_unetpp.inference.store import open_store
from napari_unetpp.model.checkpoint import save_model
from napari_unetpp.model.zoo import user_folder
from napari_unetpp.stacks import open_stack

pytestmark = pytest.mark.gui

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def unequal(rng):
    """Two planes of one picture, the second of a quarter of its brightness."""
    smooth = ndimage.gaussian_filter(rng.normal(size=(96, 96)), 3)
    plane = np.interp(smooth, (smooth.min(), smooth.max()), (20, 250)).astype(np.uint8)
    return np.stack([plane, plane // 4])


def run(dock, qtbot):
    qtbot.mouseClick(dock.run_button, LEFT)
    qtbot.waitUntil(lambda: dock.state == "done" and dock.job is None, timeout=60_000)


def test_the_choice_reaches_preview_run_and_command(viewer, open_dock, qtbot, unequal, model, tmp_path, predictions):
    tifffile.imwrite(tmp_path / "planes.tif", unequal, metadata={"axes": "ZYX"})
    (layer,) = viewer.open(tmp_path / "planes.tif", plugin="napari-unetpp")
    dock = open_dock()
    field = dock.form.intensity
    assert field.combo.currentText() == "The model's: all voxels"
    qtbot.waitUntil(lambda: field.note.text().startswith("Range "), timeout=30_000)
    assert field.note.isVisibleTo(dock)
    run(dock, qtbot)
    field.combo.setCurrentIndex(field.combo.findData("plane"))
    qtbot.waitUntil(lambda: field.note.text().startswith("Each plane has its own range; range "), timeout=30_000)
    run(dock, qtbot)  # another run, which overwrites nothing
    assert "each plane has its own range" in dock.status.text()
    stores = [open_store(path) for path in predictions.iterdir()]
    assert sorted(store.record["intensity"] for store in stores) == ["plane", "stack"]
    (store,) = [store for store in stores if store.record["intensity"] == "plane"]
    expected = predict_array(open_stack(unequal), model, intensity="plane")[2]
    got = store.read(2, Box.of(store.shape))
    assert np.abs(got - 255 * expected).max() <= 1
    assert np.abs(got[:, 0].astype(int) - got[:, 1]).mean() < 20  # both planes look alike
    qtbot.mouseClick(dock.copy_button, LEFT)
    qtbot.waitUntil(lambda: "Copied" in dock.status.text(), timeout=20_000)
    words = shlex.split(QApplication.clipboard().text())
    assert words[words.index("--intensity") + 1] == "plane"
    assert layer in viewer.layers


def test_a_model_of_fixed_numbers_leaves_no_choice(viewer, open_dock, qtbot, unequal, model):
    fixed = replace(model, intensity=replace(model.intensity, kind="fixed"))
    save_model(replace(fixed, card=replace(model.card, name="fixed")), user_folder() / "fixed.safetensors")
    viewer.add_image(unequal, name="planes")
    dock = open_dock()
    dock.form.model.setCurrentText("fixed")
    assert not dock.form.intensity.combo.isEnabled()
    assert dock.form.intensity.combo.currentText() == "The model's: fixed numbers"
    dock.form.model.setCurrentText("tiny")
    assert dock.form.intensity.combo.isEnabled()


def test_another_resolution_is_said(viewer, open_dock, qtbot, unequal, model):
    save_model(
        replace(model, card=replace(model.card, name="known", spacing_um=(0.5, 0.5))),
        user_folder() / "known.safetensors",
    )
    layer = viewer.add_image(unequal[0], name="plane", axis_labels=("y", "x"), scale=(1, 1), units=("um", "um"))
    dock = open_dock()
    dock.form.model.setCurrentText("tiny")
    assert not dock.form.resolution.text()  # this model does not say its own
    dock.form.model.setCurrentText("known")
    assert "y 1 um, the model 0.5 um" in dock.form.resolution.text()
    assert "--resample model" in dock.form.resolution.text()
    viewer.layers.remove(layer)
    viewer.add_image(unequal[0], name="alike", axis_labels=("y", "x"), scale=(0.55, 0.55), units=("um", "um"))
    assert not dock.form.resolution.text()
