"""PNG, JPEG and BMP, alone or as the planes of a stack: the numbers that were written, in natural order, and lazily."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_unetpp import _image_files
from napari_unetpp.box import Box
from napari_unetpp.stacks import Stack, open_stack

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (20, 30)).astype("u1")
DEEP = RNG.integers(0, 65536, (20, 30)).astype("u2")


def whole(stack: Stack) -> np.ndarray:
    return stack.read(Box.of(stack.shape_predicted))


@pytest.mark.parametrize("ending", ["png", "bmp"])
def test_gray_and_colours_are_the_numbers_that_were_written(tmp_path: Path, ending: str) -> None:
    colour = np.dstack([GRAY, GRAY[::-1], 255 - GRAY])
    for data, axes in ((GRAY, "yx"), (colour, "yxc")):
        path = tmp_path / f"a.{ending}"
        Image.fromarray(data).save(path)
        with open_stack(path) as stack:
            assert (stack.axes, stack.name, stack.path, stack.notes) == (axes, "a", path, ())
            assert stack.colours is (True if axes == "yxc" else None)
            np.testing.assert_array_equal(whole(stack), data[None] if axes == "yx" else data.transpose(2, 0, 1))


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_sixteen_bit_lose_none(tmp_path: Path, samples: int) -> None:
    data = DEEP if samples == 1 else np.dstack([np.roll(DEEP, k) for k in range(samples)])
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(data))
    with open_stack(tmp_path / "a.png") as stack:
        kept = {1: 1, 2: 1, 3: 3, 4: 3}[samples]
        assert stack.dtype == np.uint16
        np.testing.assert_array_equal(whole(stack), np.atleast_3d(data).transpose(2, 0, 1)[:kept])
        assert stack.notes == (("its alpha channel is left out",) if samples in (2, 4) else ())


def test_one_bit_and_alpha(tmp_path: Path) -> None:
    Image.fromarray(GRAY > 99).save(tmp_path / "mask.png")
    with open_stack(tmp_path / "mask.png") as stack:
        np.testing.assert_array_equal(whole(stack), [(GRAY > 99).astype("u1")])
    Image.fromarray(np.dstack([GRAY] * 3 + [255 - GRAY])).save(tmp_path / "alpha.png")
    with open_stack(tmp_path / "alpha.png") as stack:
        np.testing.assert_array_equal(whole(stack), [GRAY] * 3)
        assert stack.notes == ("its alpha channel is left out",)


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(64), np.arange(80)).astype("u1")
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    with open_stack(tmp_path / "a.jpg") as stack:
        assert stack.axes == "yx"
        np.testing.assert_array_equal(whole(stack)[0], imagecodecs.jpeg_decode((tmp_path / "a.jpg").read_bytes()))
    deep = (smooth.astype("u2") * 16).clip(0, 4095)
    (tmp_path / "deep.jpg").write_bytes(imagecodecs.jpeg_encode(deep, lossless=True, bitspersample=12))
    with open_stack(tmp_path / "deep.jpg") as stack:
        np.testing.assert_array_equal(whole(stack)[0], deep)
    Image.fromarray(np.dstack([smooth] * 4), "CMYK").save(tmp_path / "print.jpg")
    with pytest.raises(ValueError, match=r"print.jpg holds CMYK colours; save it as RGB or gray"):
        open_stack(tmp_path / "print.jpg")


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_folder_is_a_stack_in_natural_order(tmp_path: Path, ending: str) -> None:
    planes = RNG.integers(0, 256, (12, 20, 30)).astype("u1")
    folder = tmp_path / "cells"
    folder.mkdir()
    for number, plane in enumerate(planes):
        path = folder / f"img{number}.{ending}"
        tifffile.imwrite(path, plane) if ending == "tif" else Image.fromarray(plane).save(path)
    (folder / "notes.txt").write_text("of the microscope")
    for source in (folder, folder / f"img*.{ending}", folder / f"*.{ending}"):
        with open_stack(source) as stack:
            assert (stack.axes, stack.name, stack.path, stack.shape) == ("zyx", "cells", source, (12, 20, 30))
            np.testing.assert_array_equal(whole(stack)[0], planes)
            np.testing.assert_array_equal(stack.read(Box((3, -2, 5), (6, 4, 9)))[0, :, 2:], planes[3:6, :4, 5:9])
            (note,) = stack.notes
            assert f"12 files from img0.{ending} to img11.{ending} are taken as slices along z; --axes tyx" in note
    with open_stack(folder, axes="tyx") as stack:
        assert (stack.axes, stack.notes) == ("tyx", ())
    with open_stack(folder / f"img1?.{ending}") as stack:
        np.testing.assert_array_equal(whole(stack)[0], planes[10:])
    with open_stack(folder / f"img7*.{ending}") as stack:
        assert (stack.axes, stack.name) == ("yx", "img7")


def test_a_folder_of_colours(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(np.dstack([GRAY + number] * 3)).save(tmp_path / f"{number}.png")
    with open_stack(tmp_path) as stack:
        assert (stack.axes, stack.colours) == ("zyxc", True)
        np.testing.assert_array_equal(whole(stack)[1], [GRAY, GRAY + 1, GRAY + 2])
        assert "--axes tyxc" in stack.notes[-1]


def test_planes_are_decoded_when_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    decode = _image_files._decode
    monkeypatch.setattr(_image_files, "_decode", lambda path, shape: decoded.append(path.name) or decode(path, shape))
    for number in range(9):
        Image.fromarray(GRAY).save(tmp_path / f"{number}.png")
    with open_stack(tmp_path) as stack:
        assert decoded == []
        for _ in range(3):
            stack.read(Box((3, 0, 0), (5, 20, 30)))
        assert decoded == ["3.png", "4.png"]


def test_planes_that_differ_are_refused(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        Image.fromarray(GRAY).save(tmp_path / f"img{number}.png")
    Image.fromarray(GRAY[:-1]).save(tmp_path / "img3.png")
    with pytest.raises(ValueError, match=r"img3.png has shape \(19, 30\) .* run them one by one"):
        open_stack(tmp_path)
    Image.fromarray(DEEP).save(tmp_path / "img3.png")
    with pytest.raises(ValueError, match=r"img3.png has .* type uint16, but img1.png .* uint8"):
        open_stack(tmp_path)
    tifffile.imwrite(tmp_path / "img3.tif", GRAY)
    with pytest.raises(ValueError, match=r"holds images of several kinds \(.png, .tif\); name one, as"):
        open_stack(tmp_path)
    stacks = tmp_path / "stacks"
    stacks.mkdir()
    for name in "ab":
        tifffile.imwrite(stacks / f"{name}.tif", np.stack([GRAY] * 5))
    with pytest.raises(ValueError, match=r"a.tif of shape \(5, 20, 30\) is no plane but a stack; name it alone"):
        open_stack(stacks)
    with pytest.raises(FileNotFoundError, match=r"absent.* does not exist"):
        open_stack(tmp_path / "absent*.png")


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_damaged_pictures_are_refused_in_one_line(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(GRAY).save(path)
    content = path.read_bytes()
    for kept in (4, 9, 20, 40, len(content) // 2, len(content) - 60):
        path.write_bytes(content[:kept])
        with pytest.raises(ValueError, match=rf"a.{ending} is no image that can be read") as caught:
            open_stack(path)
        assert "\n" not in str(caught.value)


def test_a_plane_that_is_damaged_is_named_when_it_is_read(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(GRAY).save(tmp_path / f"{number}.png")
    path = tmp_path / "1.png"
    path.write_bytes(path.read_bytes()[:300])
    with open_stack(tmp_path) as stack, pytest.raises(ValueError, match=r"1.png is no image that can be read"):
        whole(stack)


def test_a_picture_that_would_fill_the_memory(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2**20, 2**20, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(png)
    with pytest.raises(ValueError, match=r"bomb.png has too many pixels for a picture; save it as TIFF"):
        open_stack(tmp_path / "bomb.png")
