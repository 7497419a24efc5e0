"""Images of several channels: the dock asks which the model takes, and predicts that one."""

import numpy as np
import pytest
from napari.layers import Image
from qtpy.QtCore import Qt

from napari_unetpp.box import Box
from napari_unetpp.gui.catalogue import model_choice
from napari_unetpp.gui.segment_channel import ALL, offered_channels
from napari_unetpp.model.checkpoint import save_model

pytestmark = pytest.mark.gui


def test_a_channel_is_asked_for_and_is_the_one_that_is_predicted(viewer, open_dock, qtbot, rng, check_uncut):
    data = rng.integers(0, 200, (2, 2, 3, 32, 32), np.uint8)  # t, c, z, y, x
    viewer.add_image(data, name="cells", axis_labels=tuple("tczyx"))
    dock = open_dock()
    assert not dock.run_button.isEnabled()
    assert "choose which of them" in dock.status.text()
    qtbot.wait(300)  # until it is laid out
    check_uncut(dock)
    dock.form.channel.setCurrentIndex(dock.form.channel.findData(1))

    def run():
        qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: dock.state == "done" and dock.job is None, timeout=60_000)
        store = dock.levels.store
        return store.axes, store.read(2, Box.of(store.shape))

    axes, of_channel = run()
    viewer.add_image(data[:, 1], name="alone", axis_labels=tuple("tzyx"))
    dock.form.image.setCurrentText("alone")
    _, alone = run()
    assert axes == "tzyx"
    assert (of_channel == alone).all()
    assert (dock.levels.layers[2].data.shape) == (2, 3, 32, 32)


@pytest.mark.parametrize(("rgb", "offered"), [(True, []), (False, [ALL])])
def test_three_channels_are_colours_only_where_the_layer_says_so(tiny_model, tmp_path, rgb, offered):
    save_model(tiny_model(in_channels=3), tmp_path / "colours.safetensors")
    layer = Image(np.zeros((16, 16, 3), np.uint8), rgb=rgb)
    assert offered_channels(layer, "yxc", model_choice("colours", tmp_path / "colours.safetensors")) == offered


def test_the_command_says_what_was_taken_for_colours(viewer, open_dock, folder, tiny_model, qtbot, rng, tmp_path):
    """The command line would ask what the dock has asked already."""
    import tifffile
    from qtpy.QtWidgets import QApplication

    model = tiny_model(in_channels=3)
    save_model(model, folder / "colours.safetensors")
    data = rng.integers(0, 200, (3, 32, 32), np.uint8)
    tifffile.imwrite(tmp_path / "cells.tif", data, imagej=True, metadata={"axes": "CYX"})
    (layer,) = viewer.open(tmp_path / "cells.tif", plugin="napari-unetpp")
    if isinstance(layer, list):
        layer = layer[0]
    dock = open_dock()
    dock.form.axes.setText("cyx")
    dock.form.axes.textEdited.emit("cyx")
    dock.form.model.setCurrentIndex(dock.form.model.findText("colours"))
    dock.form.channel.setCurrentIndex(dock.form.channel.findData(ALL))
    dock.copy_button.click()
    qtbot.waitUntil(lambda: "Copied" in dock.status.text(), timeout=30_000)
    assert "--rgb" in QApplication.clipboard().text().split()
