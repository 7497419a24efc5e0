"""Images of several channels: the dock asks which the model takes, and predicts that one."""

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_unetpp.box import Box

pytestmark = pytest.mark.gui


def test_a_channel_is_asked_for_and_is_the_one_that_is_predicted(viewer, open_dock, qtbot, rng, check_uncut):
    data = rng.integers(0, 200, (2, 2, 3, 32, 32), np.uint8)  # t, c, z, y, x
    viewer.add_image(data, name="cells", axis_labels=tuple("tczyx"))
    dock = open_dock()
    assert not dock.run_button.isEnabled()
    assert "choose which of them" in dock.status.text()
    qtbot.wait(300)  # until it is laid out
    check_uncut(dock)
    dock.grab().save("/tmp/layers_dock.png")
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
