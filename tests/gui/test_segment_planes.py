"""A 2D model along z, y and x from the Segment dock: when it is offered, what it gives, what is said meanwhile."""

import shlex

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QFormLayout

from napari_unetpp.box import Box
from napari_unetpp.gui import segment_widget
from napari_unetpp.gui.preferences import Preferences
from napari_unetpp.inference.backends import prepare
from napari_unetpp.inference.planes import plan_planes
from napari_unetpp.inference.planes_run import predict_planes
from napari_unetpp.inference.predict import open_run
from napari_unetpp.inference.store import open_store
from napari_unetpp.inference.tiles import tiling_from_card
from napari_unetpp.stacks import open_stack

pytestmark = pytest.mark.gui

LEFT = Qt.MouseButton.LeftButton
EQUAL = {"axis_labels": ("z", "y", "x"), "scale": (0.01, 0.01, 0.01), "units": ("um", "um", "um")}


@pytest.fixture
def cube(viewer, rng):
    return viewer.add_image(rng.integers(0, 200, (8, 16, 24), np.uint8), name="cube", **EQUAL)


def run(dock, qtbot, state="done"):
    qtbot.mouseClick(dock.run_button, LEFT)
    qtbot.waitUntil(lambda: dock.state == state and dock.job is None, timeout=60_000)


def shown(dock):
    """Whether the row of the field is there."""
    (form,) = [f for f in dock.form.findChildren(QFormLayout) if f.indexOf(dock.form.planes) >= 0]
    return form.isRowVisible(dock.form.planes)


def test_a_run_is_what_the_engine_gives_and_layers_come_as_usual(viewer, open_dock, model, cube, predictions, qtbot):
    dock = open_dock()
    assert shown(dock)
    assert dock.form.planes.currentText() == "z"
    dock.form.planes.setCurrentIndex(1)
    said = []
    say = dock.say
    dock.say = lambda text, **options: (said.append(text), say(text, **options))[1]
    run(dock, qtbot)
    assert any(text.startswith("Segmenting planes across ") for text in said)
    assert [layer.name for layer in viewer.layers] == ["cube", "cube L1", "cube L2", "cube Ensemble"]
    (path,) = predictions.iterdir()
    store, backend = open_store(path), prepare(model)
    stack = open_stack(cube.data, axes="zyx")
    planes = plan_planes(stack, backend, tiling_from_card(model.card.tiling))
    other = open_run(predictions / "other", stack, model, planes.tiles, planes=planes.describe())
    list(predict_planes(stack, model, planes, other, backend=backend))
    for d in (1, 2):
        np.testing.assert_array_equal(store.read(d, Box.of(store.shape)), other.read(d, Box.of(store.shape)))
    assert "cube L2" in viewer.layers
    run(dock, qtbot)
    assert "all was there already" in dock.status.text()
    dock.form.planes.setCurrentIndex(0)  # another run, which overwrites nothing
    run(dock, qtbot)
    assert len([p for p in predictions.iterdir() if p.name.startswith("cube")]) == 2


def test_stopped_and_continued(viewer, open_dock, predictions, qtbot, rng):
    viewer.add_image(rng.integers(0, 200, (16, 32, 48), np.uint8), name="stack", **EQUAL)
    dock = open_dock()
    dock.form.planes.setCurrentIndex(1)
    qtbot.mouseClick(dock.run_button, LEFT)
    qtbot.waitUntil(lambda: dock.bar.value() > 3, timeout=30_000)
    qtbot.mouseClick(dock.cancel_button, LEFT)
    qtbot.waitUntil(lambda: dock.state == "cancelled" and dock.job is None, timeout=30_000)
    assert "Stopped after " in dock.status.text()
    (path,) = predictions.iterdir()
    assert not open_store(path).complete
    assert (path / ".planes").is_dir()
    run(dock, qtbot)
    assert open_store(path).complete
    assert not (path / ".planes").exists()
    assert list(predictions.iterdir()) == [path]


def test_it_is_offered_where_it_makes_sense(viewer, open_dock, home, tiny_model, cube, qtbot, rng):
    from napari_unetpp.gui.shared import shared
    from napari_unetpp.model.checkpoint import save_model
    from napari_unetpp.model.zoo import user_folder

    dock = open_dock()
    planes = dock.form.planes
    assert planes.isEnabled()
    assert "three times" in planes.toolTip()
    assert "preview" in planes.toolTip()
    planes.setCurrentIndex(1)

    def choose(layer):
        dock.form.image.setCurrentText(layer.name)

    choose(viewer.add_image(rng.integers(0, 200, (8, 16, 24), np.uint8), name="flat", **{**EQUAL, "scale": (5, 1, 1)}))
    assert shown(dock)
    assert not planes.isEnabled()
    assert planes.currentText() == "z"
    assert "not equally long" in planes.toolTip().replace("\n", " ")
    assert dock.form.choices().planes is False
    choose(viewer.add_image(rng.integers(0, 200, (3, 16, 24), np.uint8), name="thin", **EQUAL))
    assert not planes.isEnabled()
    assert "3 slices" in planes.toolTip()
    choose(viewer.add_image(rng.integers(0, 200, (16, 24), np.uint8), name="plane"))
    assert not shown(dock)
    choose(cube)
    assert planes.isEnabled()
    assert planes.three  # what was wished for comes back
    save_model(tiny_model(ndim=3), user_folder() / "solid.safetensors")
    shared.models_changed.emit()
    qtbot.waitUntil(lambda: dock.form.model.findText("solid") >= 0, timeout=30_000)
    dock.form.model.setCurrentText("solid")
    assert not shown(dock)
    assert dock.form.choices().planes is False
    dock.form.model.setCurrentText("tiny")
    assert planes.three
    dock.form.axes.clear()
    qtbot.keyClicks(dock.form.axes, "tyx")
    assert not shown(dock)


def test_the_command_says_it(viewer, open_dock, qtbot, rng, tmp_path):
    data = rng.integers(0, 200, (8, 16, 24), np.uint8)
    tifffile.imwrite(tmp_path / "cube.tif", data, metadata={"axes": "ZYX"})
    viewer.open(tmp_path / "cube.tif", plugin="napari-unetpp")
    dock = open_dock()
    for index, words in ((1, ["--planes", "3"]), (0, [])):
        dock.form.planes.setCurrentIndex(index)
        QApplication.clipboard().clear()
        qtbot.mouseClick(dock.copy_button, LEFT)
        qtbot.waitUntil(lambda: "Copied" in dock.status.text(), timeout=10_000)
        line = shlex.split(QApplication.clipboard().text())
        assert [w for w in line if w in ("--planes", "3")] == words


def test_preferences_are_what_a_dock_begins_with(viewer, open_dock, cube, monkeypatch):
    monkeypatch.setattr(segment_widget, "preferences", lambda: Preferences(planes="zyx"))
    assert open_dock().form.planes.three


def test_the_page_of_preferences_offers_it(plugin_settings, npe2pm):
    pytest.importorskip("napari", minversion="0.9")
    from napari.settings import get_plugin_settings
    from npe2 import PluginManifest

    from napari_unetpp.gui.preferences import PLANES, preferences

    npe2pm.register(PluginManifest.from_distribution("napari-unetpp"))
    page = get_plugin_settings("napari-unetpp").segment
    assert type(page).model_json_schema()["properties"]["planes"]["enum"] == list(PLANES)
    assert preferences().planes == "z"
    page.planes = "zyx"
    assert preferences().planes == "zyx"


def test_nothing_is_cut(viewer, open_dock, cube, check_uncut, qtbot):
    dock = open_dock()
    dock.form.planes.setCurrentIndex(1)
    run(dock, qtbot)
    assert dock.minimumSizeHint().width() <= 320
    check_uncut(dock)
