"""Opening TIFF files in the real window, by the menu's command and by the reader: lazy layers, the file's pixels."""

import gc

import numpy as np
import psutil
import pytest
import tifffile
import zarr
from qtpy.QtWidgets import QFileDialog

from napari_unetpp.gui.image_layer import stack_from_layer

pytestmark = pytest.mark.gui

COMMAND = "napari-unetpp.open_large_tiff"


@pytest.fixture
def choose(monkeypatch):
    """Says what the user picks in the file dialog, then runs the command of the menu."""
    from napari._app_model import get_app_model  # in tests only: what a click in the menu runs

    def chosen(*paths):
        titles = []  # and not the parent, which would outlive the test
        answer = [str(path) for path in paths], ""
        monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda _, title, *__: titles.append(title) or answer)
        get_app_model().commands.execute_command(COMMAND).result()
        assert titles == ["Open large TIFF"]

    return chosen


@pytest.fixture
def said(monkeypatch):
    """What the user was told about errors."""
    from napari_unetpp.gui import large_tiff

    lines = []
    monkeypatch.setattr(large_tiff, "show_error", lines.append)
    return lines


def write(path, data, **options):
    lengths = {f"PhysicalSize{axis}": 0.5 for axis in "ZYX"}
    tifffile.imwrite(path, data, ome=True, metadata={"axes": "ZYX", **lengths}, **options)
    return path


def test_the_menu_has_the_command(viewer):
    from napari._app_model import get_app_model

    items = get_app_model().menus.get_menu("napari/file/io_utilities")
    assert COMMAND in {item.command.id for item in items}


def test_what_is_chosen_becomes_a_lazy_layer(viewer, choose, qtbot, tmp_path):
    data = np.zeros((4, 64, 80), np.uint8)
    data[1, :, 40:] = 255
    choose(write(tmp_path / "cells.tif", data, compression="zlib"))
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=20_000)
    (layer,) = viewer.layers
    assert isinstance(layer.data, zarr.Array)
    assert layer.name == "cells"
    assert tuple(layer.scale) == (0.5,) * 3
    assert tuple(layer.contrast_limits) == (0, 255)
    viewer.dims.set_current_step(0, 1)
    picture = viewer.screenshot(flash=False)[..., 0]
    row = picture[picture.shape[0] // 2]
    assert row.max() == 255
    assert (row == 255).sum() == pytest.approx(picture.max(axis=0).astype(bool).sum(), rel=0.05)
    viewer.dims.set_current_step(0, 2)
    assert viewer.screenshot(flash=False)[..., :3].max() < 50  # the canvas itself is not quite black


def test_it_can_be_segmented_as_it_is(viewer, choose, qtbot, tmp_path, rng):
    data = rng.integers(0, 3000, (3, 2, 32, 40), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", data, imagej=True, metadata={"axes": "ZCYX"})
    choose(tmp_path / "a.tif")
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=20_000)
    stack = stack_from_layer(viewer.layers[0])
    assert (stack.axes, stack.shape_predicted, stack.channels) == ("zcyx", (3, 32, 40), 2)
    np.testing.assert_array_equal(np.asarray(stack.data), data)


def test_a_pyramid_is_a_multiscale_layer(viewer, choose, qtbot, tmp_path):
    path = tmp_path / "pyramid.ome.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(np.full((2, 512, 512), 90, np.uint8), subifds=1, tile=(64, 64), metadata={"axes": "ZYX"})
        tif.write(np.full((2, 128, 128), 180, np.uint8), subfiletype=1, tile=(64, 64))
    choose(path)
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=20_000)
    (layer,) = viewer.layers
    assert layer.multiscale
    assert [level.shape for level in layer.data] == [(2, 512, 512), (2, 128, 128)]
    centre = []
    for zoom in (0.05, 8):  # from afar the coarse resolution is drawn, from close the fine one
        viewer.scene.camera.zoom = zoom
        qtbot.wait(100)
        picture = viewer.screenshot(flash=False)[..., 0]
        centre.append(int(picture[picture.shape[0] // 2, picture.shape[1] // 2]))
    assert centre == pytest.approx([180, 90], abs=3)


def test_a_step_through_a_pyramid_reads_one_slice_and_no_more(viewer, tmp_path, monkeypatch, rng):
    path = tmp_path / "pyramid.ome.tif"
    data = rng.integers(0, 99, (9, 512, 512), np.uint8)
    with tifffile.TiffWriter(path) as tif:
        tif.write(data, subifds=1, tile=(64, 64), compression="zlib", metadata={"axes": "ZYX"})
        tif.write(data[:, ::4, ::4], subfiletype=1, tile=(64, 64), compression="zlib")
    read, getitem = [], zarr.Array.__getitem__

    def counted(array, key):
        found = getitem(array, key)
        read.append(np.size(found))
        return found

    monkeypatch.setattr(zarr.Array, "__getitem__", counted)
    (layer,) = viewer.open(path, plugin="napari-unetpp")
    viewer.scene.camera.zoom = 8
    viewer.screenshot(flash=False)
    read.clear()
    for z in (1, 8):
        viewer.dims.set_current_step(0, z)
        viewer.screenshot(flash=False)
    shown = layer.corner_pixels
    assert layer.data_level == 0
    area = int(np.prod(shown[1, 1:] - shown[0, 1:] + 1))
    assert sorted(read) == sorted([area, 128 * 128] * 2)  # what is on the screen, and a thumbnail
    part = np.s_[shown[0, 1] : shown[1, 1] + 1, shown[0, 2] : shown[1, 2] + 1]
    np.testing.assert_array_equal(layer._slice.image.raw, data[8][part])


def test_one_bad_file_does_not_keep_the_others_away(viewer, choose, said, qtbot, tmp_path, rng):
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"nonsense")
    good = write(tmp_path / "good.tif", rng.integers(0, 99, (3, 32, 40), np.uint8))
    choose(bad, good)
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=20_000)
    assert viewer.layers[0].name == "good"
    assert len(said) == 1
    assert "bad.tif" in said[0]
    assert "\n" not in said[0]


def test_nothing_chosen_changes_nothing(viewer, choose):
    choose()
    assert len(viewer.layers) == 0


def test_the_file_is_closed_after_its_layer(viewer, qtbot, tmp_path, rng):
    path = write(tmp_path / "cells.tif", rng.integers(0, 99, (3, 32, 40), np.uint8), compression="zlib")

    def is_open():
        return str(path) in {file.path for file in psutil.Process().open_files()}

    viewer.open(path, plugin="napari-unetpp")
    assert is_open()
    viewer.layers.clear()

    def closed():
        gc.collect()
        return not is_open()

    qtbot.waitUntil(closed, timeout=5_000)


def test_labels_that_napari_saves_come_back(viewer, tmp_path, rng):
    data = rng.integers(0, 9, (3, 32, 40), np.uint8)
    viewer.add_labels(data, name="mine", scale=(0.5, 0.2, 0.2), units=("um",) * 3, axis_labels=tuple("zyx"))
    (path,) = viewer.layers.save(str(tmp_path / "mine.tif"), plugin="napari-unetpp")
    (layer,) = viewer.open(path, plugin="napari-unetpp", layer_type="labels")
    np.testing.assert_array_equal(np.asarray(layer.data), data)
    np.testing.assert_allclose(layer.scale, (0.5, 0.2, 0.2))
    assert {str(unit) for unit in layer.units} == {"micrometer"}
