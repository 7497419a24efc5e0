"""What napari's reader hook makes of a TIFF: lazy data as they are in the file, placed by its spacing, closed with the layer.

No viewer and no Qt here; what becomes of it in a window is tested in `gui/`.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
import zarr

from napari_unetpp._reader import get_image_reader, get_tiff_reader, read_image_layers, read_tiff_layers
from napari_unetpp._unread import Unread

UNIT = "\N{MICRO SIGN}m"


def noise(rng, *shape, dtype="u1", high=200):
    return rng.integers(0, high, shape).astype(dtype)


def write_ome(path: Path, data: np.ndarray, axes: str = "ZYX", spacing: float | None = None, **options: object) -> Path:
    lengths = {f"PhysicalSize{a}": spacing * (k + 1) for k, a in enumerate("ZYX")} if spacing else {}
    units = {f"{name}Unit": UNIT for name in lengths}
    tifffile.imwrite(path, data, ome=True, metadata={"axes": axes, **lengths, **units}, **options)
    return path


def is_open(path: Path) -> bool:
    return str(path) in {file.path for file in psutil.Process().open_files()}


@pytest.mark.parametrize(
    ("options", "kind"), [({}, np.memmap), ({"compression": "zlib"}, zarr.Array), ({"tile": (16, 16)}, zarr.Array)]
)
def test_voxels_stay_on_disk_and_are_those_of_the_file(tmp_path, rng, options, kind):
    data = noise(rng, 4, 48, 64)
    path = write_ome(tmp_path / "cells.ome.tif", data, spacing=0.5, **options)
    ((lazy, about, layer),) = get_tiff_reader(str(path))(str(path))
    assert isinstance(lazy, kind)
    np.testing.assert_array_equal(np.asarray(lazy[:]), data)
    assert layer == "image"
    assert about == {
        "name": "cells",
        "metadata": {"axes": "zyx", "path": str(path)},
        "scale": (0.5, 1.0, 1.5),
        "units": ("um", "um", "um"),
        "axis_labels": ("z", "y", "x"),
        "contrast_limits": (0, 255),
        "multiscale": False,
        "rgb": False,
    }


def test_spacing_that_is_not_known_is_pixels(tmp_path, rng):
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, noise(rng, 4, 48, 64), photometric="minisblack", resolution=(72, 72))  # of a screen
    ((_, about, _),) = read_tiff_layers(path)
    assert (about["scale"], about["units"]) == ((1.0,) * 3, ("pixel",) * 3)


def test_a_pyramid_is_a_list_of_resolutions(tmp_path, rng):
    levels = [noise(rng, 3, n, n, dtype="u2") for n in (128, 64, 32)]
    path = tmp_path / "pyramid.ome.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(levels[0], subifds=2, tile=(32, 32), compression="zlib", metadata={"axes": "ZYX"})
        for level in levels[1:]:
            tif.write(level, subfiletype=1, tile=(32, 32), compression="zlib")
    ((lazy, about, _),) = read_tiff_layers(path)
    assert about["multiscale"]
    assert len(lazy) == 3
    for found, expected in zip(lazy, levels, strict=True):
        np.testing.assert_array_equal(np.asarray(found[:]), expected)


def test_indexing_reads_nothing_and_then_what_numpy_would(rng):
    class Counted:
        def __init__(self, data):
            self.data, self.shape, self.dtype, self.read = data, data.shape, data.dtype, 0

        def __getitem__(self, key):
            assert all(isinstance(k, int) or k.step > 0 for k in key)  # zarr cannot go backwards
            self.read += 1
            return self.data[key]

    data = noise(rng, 4, 5, 6, 7, dtype=">u2")
    counted = Counted(data)
    keys = [np.s_[2], np.s_[..., 3], np.s_[1:3, ::2, ::-1], np.s_[:, 4:1:-2, -1], np.s_[-2, ..., 5:2], np.s_[::3, 7:]]
    for key in keys:
        part = Unread(counted)[key]
        assert (part.shape, part.ndim, part.size, part.dtype) == (
            data[key].shape,
            data[key].ndim,
            data[key].size,
            ">u2",
        )
        for second in (np.s_[...], np.s_[:1], np.s_[::-1]):
            again = part[second]
            assert counted.read == 0
            np.testing.assert_array_equal(np.asarray(again), data[key][second])
            counted.read = 0
    with pytest.raises(IndexError):
        Unread(counted)[4]
    with pytest.raises(IndexError, match="5 indices for 4 axes"):
        Unread(counted)[0, 0, 0, 0, 0]


@pytest.mark.parametrize("pyramid", [False, True])
def test_the_file_is_closed_when_nobody_can_reach_its_arrays(tmp_path, rng, pyramid):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(noise(rng, 64, 64), subifds=int(pyramid), compression="zlib", metadata={"axes": "YX"})
        if pyramid:
            tif.write(noise(rng, 32, 32), subfiletype=1, compression="zlib")
    layers = read_tiff_layers(path)
    assert is_open(path)
    lazy = layers[0][0][-1] if pyramid else layers[0][0]  # what a running job may hold
    del layers
    gc.collect()
    assert is_open(path)
    assert np.asarray(lazy[:]).any()
    del lazy
    gc.collect()
    assert not is_open(path)


def test_each_series_is_a_layer_and_the_last_closes_the_file(tmp_path, rng):
    path = tmp_path / "two.ome.tif"
    first, second = noise(rng, 3, 48, 64), noise(rng, 20, 30, dtype="u2")
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(first, compression="zlib", metadata={"axes": "ZYX", "PhysicalSizeX": 2.0, "PhysicalSizeXUnit": "nm"})
        tif.write(second, compression="zlib", metadata={"axes": "YX"})
    layers = read_tiff_layers(path)
    assert [about["name"] for _, about, _ in layers] == ["two [0]", "two [1]"]
    np.testing.assert_array_equal(np.asarray(layers[0][0][:]), first)
    del layers[0]
    gc.collect()
    np.testing.assert_array_equal(np.asarray(layers[0][0][:]), second)
    del layers
    gc.collect()
    assert not is_open(path)


@pytest.mark.parametrize(
    ("dtype", "photometric", "rgb"), [("u1", "rgb", True), ("u2", "rgb", False), ("u1", "minisblack", False)]
)
def test_only_bytes_of_red_green_and_blue_are_colour(tmp_path, rng, dtype, photometric, rgb):
    data = noise(rng, 40, 50, 3, dtype=dtype)
    path = tmp_path / "colour.tif"
    tifffile.imwrite(path, data, photometric=photometric, planarconfig="contig", metadata={"axes": "YXS"})
    ((lazy, about, _),) = read_tiff_layers(path)
    assert about["rgb"] is rgb
    assert about["axis_labels"] == (("y", "x") if rgb else ("y", "x", "c"))
    np.testing.assert_array_equal(np.asarray(lazy[:]), data)


def test_contrast_is_the_range_of_the_middle_of_three_planes(tmp_path, rng):
    data = noise(rng, 5, 40, 600, dtype="u2", high=3000) + np.uint16(100)
    data[1], data[:, :, :20] = 9999, 0  # neither a fourth plane nor the edge is looked at
    ((_, about, _),) = read_tiff_layers(write_ome(tmp_path / "a.tif", data))
    seen = data[[0, 2, 4], :, 44:556]
    assert about["contrast_limits"] == (seen.min(), seen.max())


@pytest.mark.parametrize(
    ("values", "expected"), [([np.nan, 1, 3, np.inf], (1, 3)), ([np.nan] * 4, (0, 1)), ([7] * 4, (7, 8))]
)
def test_contrast_of_numbers_that_have_none(tmp_path, values, expected):
    ((_, about, _),) = read_tiff_layers(write_ome(tmp_path / "a.tif", np.array([values] * 4, "f4"), "YX"))
    assert about["contrast_limits"] == expected


def test_axes_that_the_file_does_not_name_are_left_to_napari(tmp_path, rng):
    path = tmp_path / "four.tif"
    tifffile.imwrite(path, noise(rng, 2, 3, 20, 30), photometric="minisblack")
    ((lazy, about, _),) = read_tiff_layers(path)
    assert lazy.shape == (2, 3, 20, 30)
    assert not {"axis_labels", "scale", "units"} & set(about)


@pytest.mark.parametrize(("order", "layer"), [("<", "labels"), (">", "image")])
def test_wide_integers_are_labels_where_napari_can_show_them(tmp_path, rng, order, layer):
    if sys.byteorder == "big":
        order = {"<": ">", ">": "<"}[order]
    path = write_ome(tmp_path / "a.tif", noise(rng, 20, 30, dtype="u4"), "YX", byteorder=order)
    ((_, about, found),) = read_tiff_layers(path)
    assert found == layer
    assert ("contrast_limits" in about) == (layer == "image")


def test_what_is_no_tiff_is_left_to_others(tmp_path):
    picture = tmp_path / "picture.tif"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    for path in (
        str(picture),
        str(tmp_path),
        str(tmp_path / "absent.tif"),
        "https://example.org/a.tif",
        [str(picture)],
    ):
        assert get_tiff_reader(path) is None, path


def test_a_cut_or_strange_file_is_refused_in_one_line(tmp_path, rng):
    path = write_ome(tmp_path / "cut.tif", noise(rng, 4, 48, 64), compression="zlib")
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(ValueError, match=r"cut\.tif is truncated.*again$"):
        read_tiff_layers(path)
    assert not is_open(path)
    tifffile.imwrite(tmp_path / "complex.tif", np.zeros((20, 30), "c8"))
    with pytest.raises(ValueError, match=r"complex\.tif holds complex64; wanted are integers"):
        read_tiff_layers(tmp_path / "complex.tif")
    with pytest.raises(FileNotFoundError, match=r"absent\.tif is no file; check the name"):
        read_tiff_layers(tmp_path / "absent.tif")


def test_pixels_are_those_that_a_viewer_shows_and_what_was_done_stands_in_the_metadata(tmp_path, rng):
    data = noise(rng, 3, 40, 50)
    tifffile.imwrite(
        tmp_path / "white.tif", 255 - data, photometric="miniswhite", metadata={"axes": "ZYX"}, compression="zlib"
    )
    ((lazy, about, _),) = read_tiff_layers(tmp_path / "white.tif")
    np.testing.assert_array_equal(np.asarray(lazy[1:, ::-1, 3]), data[1:, ::-1, 3])
    assert "MINISWHITE" in about["metadata"]["notes"][0]
    rgba = np.stack([data[0]] * 3 + [255 - data[0]], axis=-1)
    tifffile.imwrite(tmp_path / "rgba.tif", rgba, photometric="rgb", metadata={"axes": "YXS"})
    ((lazy, about, _),) = read_tiff_layers(tmp_path / "rgba.tif")
    assert about["rgb"]
    assert about["metadata"] == {
        "axes": "yxc",
        "path": str(tmp_path / "rgba.tif"),
        "notes": ["its alpha channel is left out"],
    }
    np.testing.assert_array_equal(np.asarray(lazy), rgba[..., :3])


def test_other_formats_and_folders_of_planes_are_ours(tmp_path, rng):
    h5py = pytest.importorskip("h5py")
    data = noise(rng, 3, 40, 50, dtype="u2")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = data
    planes = tmp_path / "planes"
    planes.mkdir()
    for number, plane in enumerate(data):
        tifffile.imwrite(planes / f"{number}.tif", plane)
    for path in (tmp_path / "a.h5", planes):
        reader = get_image_reader(str(path))
        ((lazy, about, layer),) = reader(str(path))
        assert (about["axis_labels"], layer) == (("z", "y", "x"), "image")
        assert about["contrast_limits"] == (data.min(), data.max())
        np.testing.assert_array_equal(np.asarray(lazy[1]), data[1])
    del lazy
    gc.collect()
    assert not is_open(tmp_path / "a.h5")
    (tmp_path / "empty").mkdir()
    zarr.create_array(tmp_path / "a.zarr", data=data)
    for path in (tmp_path / "empty", tmp_path / "a.zarr", tmp_path / "absent.nd2", tmp_path / "planes" / "0.tif"):
        assert get_image_reader(str(path)) is None, path
    assert get_image_reader([str(tmp_path / "a.h5")]) is None
    (tmp_path / "b.nii").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"b.nii is no image that can be read"):
        read_image_layers(tmp_path / "b.nii")


OPEN_AND_READ_A_PLANE = """
import resource, sys
import numpy as np
from napari_unetpp._reader import get_tiff_reader
import napari_unetpp._tiff
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
((lazy, about, kind),) = get_tiff_reader(sys.argv[1])(sys.argv[1])
levels = lazy if about["multiscale"] else [lazy]
plane = np.asarray(levels[-1][levels[-1].shape[0] // 2])
print(levels[0].dtype.itemsize * int(np.prod(levels[0].shape, dtype=np.int64)), plane.max(), kind,
      (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
print(*{"napari", "qtpy", "torch"} & set(sys.modules))
"""


def contiguous(path: Path) -> None:
    mapped = tifffile.memmap(path, shape=(10240, 1024, 1024), dtype="u2", bigtiff=True, metadata={"axes": "ZYX"})
    mapped[5120, 512, 512] = 7


def tiled(path: Path) -> None:
    """32 pages of 640 MB in tiles that are all absent but one, and a second resolution of 32 MB a page."""

    def tiles(count: int, present: int):
        for index in range(32 * count):
            # tifffile learns the type from the first tile, so that one is there too.
            yield np.full((1024, 1024), 7, "u2") if index in {0, 16 * count + present} else None

    same = {"dtype": "u2", "tile": (1024, 1024), "compression": "zlib", "photometric": "minisblack"}
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as tif:
        tif.write(tiles(320, 170), shape=(32, 16384, 20480), subifds=1, metadata={"axes": "ZYX"}, **same)
        tif.write(tiles(20, 11), shape=(32, 4096, 5120), subfiletype=1, **same)


@pytest.mark.skipif(sys.platform != "linux", reason="counts resident memory as Linux does")
@pytest.mark.parametrize("write", [contiguous, tiled])
def test_twenty_gigabytes_open_in_little_memory(tmp_path, write):
    path = tmp_path / "huge.tif"
    write(path)
    assert path.stat().st_blocks * 512 < 2**26, "the file system keeps no sparse files"
    done = subprocess.run(
        [sys.executable, "-c", OPEN_AND_READ_A_PLANE, str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said, imported = done.stdout.split("\n")[:2]
    *said, grown = said.split()
    assert said == [str(20 * 2**30), "7", "image"]
    assert int(grown) < 150, f"{grown} MiB for a plane of 2 or 40 MB"
    assert imported == ""
