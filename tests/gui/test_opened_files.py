"""Files of other formats in a window: the layers that the reader makes, and what napari tells about them."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from napari.utils.notifications import notification_manager
from PIL import Image

from napari_unetpp.box import Box
from napari_unetpp.gui.image_layer import stack_from_layer


def told() -> list[str]:
    return [record.message for record in notification_manager.records]


def test_notes_on_a_file_are_notifications(viewer, tmp_path, rng):
    data = rng.integers(0, 200, (4, 40, 50)).astype("u1")
    tifffile.imwrite(tmp_path / "white.tif", 255 - data, photometric="miniswhite", metadata={"axes": "ZYX"})
    (layer,) = viewer.open(tmp_path / "white.tif", plugin="napari-unetpp")
    assert "white.tif: it stores white as 0 (MINISWHITE); its numbers are turned round" in told()
    viewer.dims.set_current_step(0, 2)
    np.testing.assert_array_equal(layer._slice.image.view, data[2])
    np.testing.assert_array_equal(stack_from_layer(layer).read(Box.of(data.shape))[0], data)


@pytest.mark.parametrize("kind", ["folder", "h5"])
def test_a_folder_of_planes_and_hdf5_open_as_one_layer(viewer, tmp_path, rng, kind):
    data = rng.integers(0, 200, (4, 40, 50)).astype("u1")
    path = tmp_path / ("planes" if kind == "folder" else "cells.h5")
    if kind == "folder":
        path.mkdir()
        for number, plane in enumerate(data):
            Image.fromarray(plane).save(path / f"p{number + 9}.png")
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file["raw"] = data
    (layer,) = viewer.open(path, plugin="napari-unetpp")
    for z in (0, 3):
        viewer.dims.set_current_step(0, z)
        np.testing.assert_array_equal(layer._slice.image.view, data[z])
    assert layer.axis_labels == ("z", "y", "x")
    assert any(text.startswith(f"{path.name}: ") for text in told())
