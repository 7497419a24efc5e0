"""What the Segment dock offers beside Run: regions, pause, the command line, details of an error, preferences."""

import shlex
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QMessageBox

from napari_unetpp.box import Box
from napari_unetpp.gui import segment_widget
from napari_unetpp.gui.devices import Devices
from napari_unetpp.gui.image_layer import shapes_box
from napari_unetpp.gui.preferences import Preferences
from napari_unetpp.gui.shared import shared
from napari_unetpp.inference.store import open_store
from napari_unetpp.model.checkpoint import save_model
from napari_unetpp.model.zoo import user_folder

pytestmark = pytest.mark.gui

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def run(qtbot):
    """Presses Run and waits for the end."""

    def pressed(dock, state="done"):
        qtbot.mouseClick(dock.run_button, LEFT)
        assert dock.state == "running"
        qtbot.waitUntil(lambda: dock.state == state and dock.job is None, timeout=60_000)

    return pressed


def choose_region(dock, text):
    texts = [dock.form.region.itemText(i) for i in range(dock.form.region.count())]
    (place,) = [i for i, offered in enumerate(texts) if offered.startswith(text)]
    dock.form.region.setCurrentIndex(place)


def done_voxels(dock):
    """Where the store of the dock has been filled with something."""
    store = dock.levels.store
    everything = store.read(2, Box.of(store.shape))[0]
    return np.argwhere(everything > 0)


def test_a_rectangle_is_segmented_and_nothing_far_from_it(viewer, open_dock, run, rng):
    data = rng.integers(0, 200, (4, 64, 96), np.uint8)
    viewer.add_image(data, name="stack", axis_labels=("z", "y", "x"), scale=(5, 2, 2), translate=(0, 10, 20))
    dock = open_dock()
    corners = np.array([(2, 18.2, 34.3), (2, 18.2, 60.0), (2, 29.9, 60.0), (2, 29.9, 34.3)])  # voxels of the image
    viewer.add_shapes([corners * (5, 2, 2) + (0, 10, 20)], shape_type="rectangle", name="part")
    choose_region(dock, "Shapes: part")
    run(dock)
    filled = done_voxels(dock)
    # tiles of 16: those that hold a voxel of rows 18 to 30 and columns 34 to 60 of slice 2
    assert filled.min(axis=0).tolist() == [2, 16, 32]
    assert filled.max(axis=0).tolist() == [2, 31, 63]
    viewer.layers.remove("part")
    assert dock.form.region.currentText() == "Whole stack"


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ([(3, 4), (3, 9), (7, 9), (7, 4)], Box((0, 3, 4), (6, 8, 10))),  # on a plane: all slices
        ([(1, 3, 4), (1, 3, 9), (4, 7, 9), (4, 7, 4)], Box((1, 3, 4), (5, 8, 10))),
        ([(2, -30, -30), (2, -30, 500), (2, 500, 500), (2, 500, -30)], Box((2, 0, 0), (3, 20, 30))),
    ],
)
def test_shapes_bound_voxels(corners, expected):
    from napari.components import ViewerModel

    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((6, 20, 30), np.uint8))
    shapes = viewer.add_shapes([np.array(corners)], shape_type="polygon")
    assert shapes_box(shapes, image, "zyx") == expected


def test_only_the_selected_shapes_count_and_none_is_refused():
    from napari.components import ViewerModel

    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((40, 40), np.uint8), name="cells")
    near, far = (np.array([(a, a), (a, a + 5), (a + 5, a + 5), (a + 5, a)]) for a in (2, 30))
    shapes = viewer.add_shapes([near, far], shape_type="rectangle", name="marks")
    assert shapes_box(shapes, image, "yx") == Box((2, 2), (36, 36))
    shapes.selected_data = {1}
    assert shapes_box(shapes, image, "yx") == Box((30, 30), (36, 36))
    shapes.data = [near + 1000]
    with pytest.raises(ValueError, match="lie beside cells"):
        shapes_box(shapes, image, "yx")
    shapes.data = []
    with pytest.raises(ValueError, match="no shape in marks"):
        shapes_box(shapes, image, "yx")


def test_a_chosen_region_and_what_a_run_said_outlast_other_layers(viewer, open_dock, run, rng):
    viewer.add_image(rng.integers(0, 200, (3, 32, 32), np.uint8), name="stack", axis_labels=("z", "y", "x"))
    dock = open_dock()
    choose_region(dock, "Current slice")
    run(dock)
    said = dock.status.text()
    viewer.add_points([(1, 2, 3)])
    viewer.add_shapes(name="later")
    assert dock.form.region.currentText() == "Current slice"
    assert dock.state == "done"
    assert dock.status.text() == said


def test_what_is_on_the_screen_is_segmented(viewer, open_dock, run, qtbot, rng):
    viewer.add_image(rng.integers(0, 200, (512, 512), np.uint8), name="large", axis_labels=("y", "x"))
    dock = open_dock()
    viewer.scene.camera.center, viewer.scene.camera.zoom = (256, 256), 12
    qtbot.wait(200)
    choose_region(dock, "What is on the screen")
    run(dock)
    filled = done_voxels(dock)
    assert (filled.min(axis=0) > 64).all()
    assert (filled.min(axis=0) <= 256).all()
    assert (filled.max(axis=0) >= 256).all()
    assert (filled.max(axis=0) < 448).all()


def test_an_empty_shapes_layer_says_what_to_do(viewer, open_dock, qtbot, rng):
    viewer.add_image(rng.integers(0, 200, (32, 32), np.uint8), name="cells", axis_labels=("y", "x"))
    viewer.add_shapes(name="nothing")
    dock = open_dock()
    choose_region(dock, "Shapes: nothing")
    qtbot.mouseClick(dock.run_button, LEFT)
    assert dock.state == "failed"
    assert "draw a rectangle" in dock.status.text()


def test_pause_holds_the_run_and_resume_ends_it_alike(viewer, open_dock, predictions, qtbot, rng):
    viewer.add_image(rng.integers(0, 200, (80, 16, 64), np.uint8), name="stack", axis_labels=("z", "y", "x"))
    dock = open_dock()
    assert not dock.pause_button.isEnabled()
    qtbot.mouseClick(dock.run_button, LEFT)
    qtbot.waitUntil(lambda: dock.bar.value() > 0, timeout=30_000)
    qtbot.mouseClick(dock.pause_button, LEFT)
    assert dock.state == "paused"
    assert dock.pause_button.text() == "Resume"
    qtbot.wait(1000)  # what the workers had taken on
    (folder,) = predictions.iterdir()
    before = open_store(folder).done_count
    qtbot.wait(500)
    assert open_store(folder).done_count == before < 320
    assert dock.state == "paused"
    qtbot.mouseClick(dock.pause_button, LEFT)
    assert dock.state == "running"
    qtbot.waitUntil(lambda: dock.state == "done" and dock.job is None, timeout=60_000)
    assert open_store(folder).complete


def test_a_paused_run_can_be_stopped(viewer, open_dock, qtbot, rng):
    viewer.add_image(rng.integers(0, 200, (80, 16, 64), np.uint8), name="stack", axis_labels=("z", "y", "x"))
    dock = open_dock()
    qtbot.mouseClick(dock.run_button, LEFT)
    qtbot.waitUntil(lambda: dock.bar.value() > 0, timeout=30_000)
    qtbot.mouseClick(dock.pause_button, LEFT)
    qtbot.mouseClick(dock.cancel_button, LEFT)
    qtbot.waitUntil(lambda: dock.state == "cancelled" and dock.job is None, timeout=10_000)
    assert dock.pause_button.text() == "Pause"
    assert dock.run_button.isEnabled()


def copied(dock, qtbot):
    """What the button puts into the clipboard."""
    QApplication.clipboard().setText("")
    qtbot.mouseClick(dock.copy_button, LEFT)
    qtbot.waitUntil(lambda: QApplication.clipboard().text() != "", timeout=10_000)
    return QApplication.clipboard().text()


def test_the_command_does_what_the_dock_does(viewer, open_dock, run, qtbot, rng, tmp_path):
    path = tmp_path / "my cells.tif"
    tifffile.imwrite(path, rng.integers(0, 200, (3, 40, 48), np.uint8), photometric="minisblack")
    viewer.open(path, plugin="napari")
    dock = open_dock()
    (tmp_path / "out").mkdir()
    dock.form.folder.setText(str(tmp_path / "out"))
    dock.form.tiling.setCurrentIndex(dock.form.tiling.findData("overlap"))
    line = copied(dock, qtbot)
    assert line in dock.status.toolTip()
    words = shlex.split(line)
    assert words[:2] == ["napari-unetpp", "segment"]
    done = subprocess.run(
        [sys.executable, "-m", "napari_unetpp", *words[1:]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (store,) = (tmp_path / "out").iterdir()
    run(dock)  # the dock finds all of it done already
    assert "Nothing left to do" in dock.status.text()
    assert [folder.name for folder in (tmp_path / "out").iterdir()] == [store.name]


def test_a_layer_without_a_file_has_no_command(viewer, open_dock, qtbot, rng):
    viewer.add_image(rng.integers(0, 200, (32, 32), np.uint8), name="cells", axis_labels=("y", "x"))
    dock = open_dock()
    qtbot.mouseClick(dock.copy_button, LEFT)
    qtbot.waitUntil(lambda: "not from a file" in dock.status.text(), timeout=10_000)


def test_an_error_is_one_line_and_its_story_is_at_hand(viewer, open_dock, qtbot, rng, monkeypatch):
    from napari_unetpp.inference import stages

    def fail(stack, box):
        raise OSError("the disk is on fire\nand this is no second line")

    monkeypatch.setattr(stages, "read_raw", fail)
    viewer.add_image(rng.integers(0, 200, (32, 32), np.uint8), name="cells", axis_labels=("y", "x"))
    dock = open_dock()
    assert not dock.details_button.isVisible()
    qtbot.mouseClick(dock.run_button, LEFT)
    qtbot.waitUntil(lambda: dock.state == "failed", timeout=30_000)
    assert dock.status.text().endswith("the disk is on fire")
    assert dock.run_button.isEnabled()
    assert not dock.pause_button.isEnabled()
    qtbot.mouseClick(dock.details_button, LEFT)
    (box,) = dock.findChildren(QMessageBox)
    assert "Traceback" in box.detailedText()
    box.close()


def test_preferences_are_what_a_dock_begins_with(viewer, open_dock, monkeypatch, tmp_path):
    preferred = Preferences("overlap", "cpu", None, tmp_path, live=False)
    monkeypatch.setattr(segment_widget, "preferences", lambda: preferred)
    dock = open_dock()
    assert dock.form.tiling.currentData() == "overlap"  # the card recommends seamless
    assert dock.form.device.currentData() == "cpu"
    assert dock.form.folder.text() == str(tmp_path)
    assert not dock.level_box.live.isChecked()


def test_an_idle_card_is_told_with_the_command_that_helps(viewer, open_dock, qtbot, monkeypatch):
    from napari_unetpp.gui import catalogue

    found = Devices(
        (("auto", "Automatic (CPU)"), ("cpu", "CPU")), "torch finds CPU", "There is a card.", "pip install it"
    )
    monkeypatch.setattr(catalogue, "find_devices", lambda: found)
    dock = open_dock()
    assert dock.form.device_note.isVisible()
    assert "pip install it" in dock.form.device_note.text()
    assert dock.form.device.toolTip() == "torch finds CPU"


def test_a_new_model_is_offered_without_losing_the_choices(viewer, open_dock, qtbot, tiny_model):
    dock = open_dock()
    dock.form.level.setCurrentIndex(0)
    save_model(tiny_model(seed=3), user_folder() / "newer.safetensors")
    shared.models_changed.emit()
    qtbot.waitUntil(lambda: dock.form.model.count() == 2, timeout=10_000)
    assert dock.form.model.currentText() == "tiny"
    assert dock.form.level.currentIndex() == 0
