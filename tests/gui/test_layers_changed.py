"""A layer that is changed after it was opened or predicted: no command, label or place of before is given for it."""

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

pytestmark = pytest.mark.gui


@pytest.fixture
def said(qtbot):
    """Presses "Copy as command", and returns what the dock says in the end."""

    def pressed(dock):
        QApplication.clipboard().setText("")
        qtbot.mouseClick(dock.copy_button, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: "Comparing" not in dock.status.text(), timeout=10_000)
        return dock.status.text()

    return pressed


@pytest.mark.parametrize("how", ["replaced", "painted"])
def test_a_layer_that_differs_from_its_file_in_one_voxel_has_no_command(viewer, open_dock, said, rng, tmp_path, how):
    data = rng.integers(0, 200, (3, 40, 48), np.uint8)
    tifffile.imwrite(tmp_path / "cells.tif", data, photometric="minisblack")
    (layer,) = viewer.open(tmp_path / "cells.tif", plugin="napari")
    dock = open_dock()
    assert said(dock).startswith("Copied: napari-unetpp segment")
    other = layer.data if how == "painted" else data.copy()
    other[2, 39, 47] += 1
    if how == "replaced":
        layer.data = other
    assert "was changed since it was opened" in said(dock)
    assert QApplication.clipboard().text() == ""


def test_a_split_layer_names_its_file_and_channel(viewer, open_dock, said, rng, tmp_path):
    data = rng.integers(0, 200, (3, 2, 40, 48), np.uint8)
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, data, imagej=True, metadata={"axes": "ZCYX"})
    viewer.add_image(data[:, 1], name="green", axis_labels=("z", "y", "x"), metadata={"path": str(path)})
    text = said(open_dock())
    assert "--axes zcyx" in text
    assert "--channel 1" in text


def test_choices_without_an_image_are_refused_in_a_sentence(open_dock):
    with pytest.raises(ValueError, match="Open an image first"):
        open_dock().form.choices()


@pytest.fixture
def preview(viewer, open_dock, qtbot):
    """The dock with a live preview of a layer, and waiting for it."""

    def shown(data):
        image = viewer.add_image(data, name="cells", axis_labels=("y", "x"))
        dock = open_dock()
        live = dock.level_box.live_view

        def settled():
            qtbot.waitUntil(lambda: live.layer.layer is not None and not live.computing, timeout=30_000)
            return np.asarray(live.layer.layer.data)

        return image, live, settled

    return shown


def test_the_preview_lies_on_an_image_that_gets_its_scale_later(preview, rng):
    image, live, settled = preview(rng.integers(0, 200, (64, 64), np.uint8))
    settled()
    image.scale, image.translate, image.rotate = (0.5, 0.25), (7, 9), 30
    image.affine = np.array([[1, 0.2, 3], [0, 1, 4], [0, 0, 1]])
    corner = (10, 20)
    assert live.layer.layer.data_to_world(corner) == pytest.approx(image.data_to_world(corner))


def test_the_preview_of_an_image_painted_on_is_of_its_new_voxels(preview, rng, qtbot):
    image, _, settled = preview(rng.integers(0, 200, (64, 64), np.uint8))
    before = settled().copy()
    image.data[:] = rng.integers(0, 200, (64, 64), np.uint8)
    image.refresh()
    qtbot.wait(200)
    painted = settled().copy()
    image.data = image.data.copy()  # all is forgotten: what a new preview says
    qtbot.wait(200)
    assert (before != painted).any()
    assert (settled() == painted).all()


def test_a_view_along_another_axis_says_why_it_has_no_preview(viewer, open_dock, qtbot, rng):
    viewer.add_image(rng.integers(0, 200, (8, 64, 64), np.uint8), name="cells", axis_labels=("z", "y", "x"))
    live = open_dock().level_box.live_view
    said = []
    live.told.connect(said.append)
    viewer.dims.order = (1, 0, 2)
    qtbot.waitUntil(lambda: bool(said) and said[-1].startswith("No live preview of z and x"), timeout=10_000)
    viewer.dims.order = (0, 1, 2)
    qtbot.waitUntil(lambda: said[-1] == "", timeout=10_000)
