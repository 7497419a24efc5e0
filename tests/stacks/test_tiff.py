"""TIFF of all kinds: axes as the file names them, voxels as tifffile reads them, spacing in um."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_unetpp.box import Box
from napari_unetpp.stacks import Stack, open_stack

SHAPE = (5, 40, 48)


def noise(shape: tuple[int, ...], dtype: str = "u1") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def whole(stack: Stack) -> np.ndarray:
    return stack.read(Box.of(stack.shape_predicted))


def write_pages(path: Path, pages: np.ndarray, **options: object) -> None:
    """A multi-page TIFF as other software writes it: nothing says what the pages are."""
    with tifffile.TiffWriter(path) as tif:
        for page in pages:
            tif.write(page, metadata=None, contiguous=False, photometric="minisblack", **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"byteorder": ">", "compression": "zlib"},
        {"compression": "zlib", "rowsperstrip": 16},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw", "rowsperstrip": 1},
        {"compression": "zstd", "bigtiff": True},
        {"tile": (16, 16)},
        {"tile": (32, 16), "compression": "zlib"},
        {"tile": (16, 16), "compression": "lzw", "byteorder": ">"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_any_storage_reads_as_tifffile_reads_it(tmp_path: Path, options: dict, dtype: str) -> None:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, noise(SHAPE, dtype), metadata={"axes": "ZYX"}, **options)
    with open_stack(path) as stack:
        assert (stack.axes, stack.name, stack.path) == ("zyx", "cells", path)
        assert stack.dtype == np.dtype(dtype)
        assert stack.dtype.isnative
        got = whole(stack)
        assert got.dtype == np.dtype(dtype)
        assert got.dtype.isnative
        np.testing.assert_array_equal(got, tifffile.imread(path)[np.newaxis])
        part = stack.read(Box((1, -3, 30), (4, 7, 50)))
    padded = np.pad(tifffile.imread(path), ((0, 0), (3, 0), (0, 2)), mode="reflect")
    np.testing.assert_array_equal(part[0], padded[1:4, :10, 30:50])


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_plain_pages_are_slices(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "plain.tif"
    write_pages(path, noise((3, 20, 30)), compression=compression)
    with open_stack(path) as stack:
        assert stack.axes == "zyx"
        assert stack.spacing_um == (None, None, None)
        np.testing.assert_array_equal(whole(stack)[0], noise((3, 20, 30)))


@pytest.mark.parametrize("planar", [False, True], ids=["gray", "planes"])
def test_strips_are_read_one_by_one(tmp_path: Path, planar: bool) -> None:
    path = tmp_path / "strips.tif"
    data = noise((3, 120, 512))  # strips of 20 KiB: too long to be read as whole pages
    if planar:
        options = {"photometric": "rgb", "planarconfig": "separate", "metadata": {"axes": "SYX"}}
    else:
        options = {"photometric": "minisblack", "metadata": {"axes": "ZYX"}}
    tifffile.imwrite(path, data, compression="lzw", rowsperstrip=40, **options)
    with open_stack(path) as stack:
        assert stack.data.chunks == (1, 40, 512)
        np.testing.assert_array_equal(whole(stack).reshape(data.shape), data)


def test_jpeg_inside_tiff(tmp_path: Path) -> None:
    path = tmp_path / "jpeg.tif"
    smooth = np.add.outer(np.arange(64), np.arange(80)).astype("u1")
    rgb = np.stack([smooth, smooth // 2, 255 - smooth], -1)
    tifffile.imwrite(path, rgb, photometric="rgb", compression="jpeg", tile=(32, 32))
    with open_stack(path) as stack:
        assert stack.axes == "yxc"
        np.testing.assert_array_equal(whole(stack), tifffile.imread(path).transpose(2, 0, 1))


@pytest.mark.parametrize("count", [3, 4])
def test_a_stack_of_three_or_four_slices_has_no_channels(tmp_path: Path, count: int) -> None:
    path = tmp_path / "few.tif"
    slices = noise((count, 20, 30))
    tifffile.imwrite(path, slices, metadata={"axes": "ZYX"})
    with open_stack(path) as stack:
        assert (stack.axes, stack.channels) == ("zyx", 1)
        np.testing.assert_array_equal(whole(stack)[0], slices)
    tifffile.imwrite(path, slices, photometric="minisblack")
    with open_stack(path) as stack:
        assert (stack.axes, stack.channels) == ("zyx", 1)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("shape", "options", "axes"),
    [
        ((20, 30, 3), {"photometric": "rgb"}, "yxc"),
        ((20, 30, 4), {"photometric": "rgb", "extrasamples": ["unspecified"]}, "yxc"),
        ((5, 20, 30, 3), {"photometric": "rgb"}, "zyxc"),
        ((5, 20, 30, 3), {"photometric": "rgb", "metadata": {"axes": "TYXS"}}, "tyxc"),
        (
            (5, 20, 30, 3),
            {"photometric": "rgb", "imagej": True, "metadata": {"axes": "ZYXS"}},
            "zyxc",
        ),
        ((3, 20, 30), {"photometric": "rgb", "planarconfig": "separate", "metadata": None}, "cyx"),
        (
            (3, 20, 30),
            {"photometric": "rgb", "planarconfig": "separate", "metadata": {"axes": "SYX"}},
            "cyx",
        ),
        ((2, 20, 30), {"photometric": "minisblack", "metadata": {"axes": "CYX"}}, "cyx"),
        ((2, 5, 3, 20, 30), {"photometric": "minisblack", "metadata": {"axes": "TZCYX"}}, "tzcyx"),
    ],
    ids=str,
)
def test_channels_come_from_the_file(
    tmp_path: Path, shape: tuple, options: dict, axes: str, compression: str | None
) -> None:
    path = tmp_path / "colour.tif"
    tifffile.imwrite(path, noise(shape), compression=compression, **options)
    with open_stack(path) as stack:
        assert stack.axes == axes
        assert stack.channels == shape[axes.index("c")]
        order = [axes.index(a) for a in "ctzyx" if a in axes]
        np.testing.assert_array_equal(whole(stack), noise(shape).transpose(order))


def test_bool_is_read_as_uint8(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    mask = noise(SHAPE) > 100
    tifffile.imwrite(path, mask)
    with open_stack(path) as stack:
        assert stack.dtype == np.uint8
        np.testing.assert_array_equal(whole(stack)[0], mask.astype(np.uint8))
        assert whole(stack).dtype == np.uint8


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 1, 1), (1, 5, 1), (1, 1, 1)])
def test_a_pixel_is_an_image(tmp_path: Path, shape: tuple) -> None:
    path = tmp_path / "dot.tif"
    tifffile.imwrite(path, noise(shape))
    with open_stack(path) as stack:
        assert stack.axes == "zyx"[-len(shape) :]
        np.testing.assert_array_equal(whole(stack)[0], noise(shape))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_imagej_hyperstack(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "hyper.tif"
    data = noise((2, 4, 3, 20, 30), "u2")
    tifffile.imwrite(
        path, data, imagej=True, compression=compression, resolution=(1 / 0.108, 1 / 0.2),
        metadata={"axes": "TZCYX", "spacing": 0.5, "unit": "um"},
    )  # fmt: skip
    with open_stack(path) as stack:
        assert stack.axes == "tzcyx"
        assert stack.spacing_um == pytest.approx((None, 0.5, None, 0.2, 0.108))
        assert stack.axes_predicted == "tzyx"
        assert stack.shape_predicted == (2, 4, 20, 30)
        assert stack.spacing_predicted_um == pytest.approx((None, 0.5, 0.2, 0.108))
        np.testing.assert_array_equal(whole(stack), data.transpose(2, 0, 1, 3, 4))


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("micron", 1), ("\\u00B5m", 1), ("nm", 1e-3), ("mm", 1e3), ("cm", 1e4),
     ("pixel", None), ("inch", None), (None, None)],
)  # fmt: skip
def test_imagej_units(tmp_path: Path, unit: str | None, factor: float | None) -> None:
    path = tmp_path / "units.tif"
    metadata = {"axes": "ZYX", "spacing": 3.0} | ({"unit": unit} if unit else {})
    tifffile.imwrite(path, noise(SHAPE), imagej=True, resolution=(0.5, 0.25), metadata=metadata)
    with open_stack(path) as stack:
        expected = [None if factor is None else s * factor for s in (3.0, 4.0, 2.0)]
        assert stack.spacing_um == pytest.approx(tuple(expected))


def test_the_resolution_of_a_plain_tiff_is_no_spacing(tmp_path: Path) -> None:
    path = tmp_path / "screen.tif"
    tifffile.imwrite(path, noise(SHAPE), resolution=(72, 72), resolutionunit="inch")
    with open_stack(path) as stack:
        assert stack.spacing_um == (None, None, None)


def ome_metadata(axes: str, unit: str, *sizes: float) -> dict:
    lengths = {f"PhysicalSize{a}": s for a, s in zip("ZYX", sizes, strict=True)}
    return {"axes": axes} | lengths | {f"PhysicalSize{a}Unit": unit for a in "ZYX"}


def test_ome_with_two_series(tmp_path: Path) -> None:
    path = tmp_path / "two.ome.tif"
    first, second = noise((4, 20, 30), "u2"), noise((2, 3, 16, 24))
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(first, metadata=ome_metadata("ZYX", "nm", 300, 40, 40), compression="zlib")
        tif.write(second, metadata=ome_metadata("TCYX", "µm", 1, 0.5, 0.25), photometric="minisblack")
    with open_stack(path) as stack:
        assert (stack.axes, stack.name) == ("zyx", "two [0]")
        assert stack.spacing_um == (0.3, 0.04, 0.04)
        np.testing.assert_array_equal(whole(stack)[0], first)
    with open_stack(path, series=1) as stack:
        assert (stack.axes, stack.name) == ("tcyx", "two [1]")
        assert stack.spacing_um == (None, None, 0.5, 0.25)
        np.testing.assert_array_equal(whole(stack), second.transpose(1, 0, 2, 3))
    with pytest.raises(ValueError, match=r"no series 2; it has 0: \(4, 20, 30\), 1: "):
        open_stack(path, series=2)


def write_two_files(folder: Path) -> Path:
    """One OME image, its two slices in two files."""
    names = ("first.ome.tif", "second.ome.tif")
    tiff_data = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{n}">urn:uuid:{n}</UUID></TiffData>'
        for z, n in enumerate(names)
    )
    for z, name in enumerate(names):
        xml = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
            f' UUID="urn:uuid:{name}"><Image ID="Image:0"><Pixels ID="Pixels:0" Type="uint8"'
            ' DimensionOrder="XYZCT" SizeX="30" SizeY="20" SizeZ="2" SizeC="1" SizeT="1"'
            f' PhysicalSizeZ="2">{tiff_data}</Pixels></Image></OME>'
        )
        page = noise((2, 20, 30))[z]
        tifffile.imwrite(folder / name, page, description=xml, metadata=None)
    return folder / names[0]


def test_ome_in_two_files(tmp_path: Path) -> None:
    path = write_two_files(tmp_path)
    with open_stack(path) as stack:
        assert (stack.axes, stack.spacing_um) == ("zyx", (2.0, None, None))
        np.testing.assert_array_equal(whole(stack)[0], noise((2, 20, 30)))
    (tmp_path / "second.ome.tif").unlink()
    with pytest.raises(ValueError, match="lacks page 1 of 2; put the other files"):
        open_stack(path)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("Å", 1e-4), ("nm", 1e-3), ("mm", 1e3), ("µm", 1), ("pixel", None), ("reference frame", None)],
)
def test_ome_units(tmp_path: Path, unit: str, factor: float | None) -> None:
    path = tmp_path / "units.ome.tif"
    tifffile.imwrite(path, noise(SHAPE), metadata=ome_metadata("ZYX", unit, 3, 2, 1))
    with open_stack(path) as stack:
        expected = [None if factor is None else s * factor for s in (3, 2, 1)]
        assert stack.spacing_um == pytest.approx(tuple(expected))


def test_ome_without_unit_is_micrometres(tmp_path: Path) -> None:
    path = tmp_path / "default.ome.tif"
    tifffile.imwrite(path, noise((20, 30)), metadata={"axes": "YX", "PhysicalSizeX": 0.2})
    with open_stack(path) as stack:
        assert stack.spacing_um == (None, 0.2)


def test_a_pyramid_opens_at_full_resolution(tmp_path: Path) -> None:
    path = tmp_path / "pyramid.ome.tif"
    data = noise((3, 64, 64))
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(data, subifds=1, tile=(16, 16), metadata={"axes": "ZYX"}, compression="zlib")
        tif.write(data[:, ::2, ::2], tile=(16, 16), subfiletype=1)
    with open_stack(path) as stack:
        np.testing.assert_array_equal(whole(stack)[0], data)


def test_axes_and_spacing_of_the_caller_win(tmp_path: Path) -> None:
    path = tmp_path / "time.tif"
    write_pages(path, noise(SHAPE))
    with open_stack(path, axes="tyx", spacing_um=(None, 0.1, 0.2)) as stack:
        assert stack.axes_predicted == "tyx"
        assert stack.spacing_um == (None, 0.1, 0.2)
    tifffile.imwrite(path, noise((2, 3, 20, 30)), photometric="minisblack")
    with open_stack(path, axes="zcyx") as stack:
        assert (stack.channels, stack.shape_predicted) == (3, (2, 20, 30))


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "zlib"}], ids=str)
def test_threads_may_read_at_once(tmp_path: Path, options: dict) -> None:
    path = tmp_path / "threads.tif"
    data = noise((8, 64, 64), "u2")
    tifffile.imwrite(path, data, photometric="minisblack", **options)
    gate = threading.Barrier(4)

    def read(z: int) -> np.ndarray:
        gate.wait(10)
        return stack.read(Box((z, 5, 7), (z + 1, 60, 61)))[0, 0]

    with open_stack(path) as stack, ThreadPoolExecutor(4) as pool:
        for z, got in enumerate(pool.map(read, range(8))):
            np.testing.assert_array_equal(got, data[z, 5:60, 7:61])


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "close.tif"
    tifffile.imwrite(path, noise(SHAPE), compression="zlib")
    stack = open_stack(path)
    stack.close()
    stack.close()
    path.unlink()


def test_real_files_open(shared_data: Path) -> None:
    with open_stack(shared_data / "fib25_medulla" / "large_unlabelled_520slices.tif") as stack:
        assert stack.axes == "zyx"
        page = tifffile.imread(stack.path, key=100)
        got = stack.read(Box((100, 10, 20), (101, 50, 60)))[0, 0]
        np.testing.assert_array_equal(got, page[10:50, 20:60])
    with open_stack(shared_data / "nuclei_dsb2018" / "he_rgb_256x320_images.tif") as stack:
        assert (stack.axes, stack.channels) == ("tyxc", 3)
