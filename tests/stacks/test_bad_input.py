"""What cannot be opened is refused at the door, with one line that says what to do."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from napari_unetpp.box import Box
from napari_unetpp.stacks import open_stack

DATA = np.random.default_rng(0).integers(0, 200, (6, 64, 64)).astype("u1")


def refuse(source: object, match: str, kind: type[Exception] = ValueError, **options: object) -> None:
    with pytest.raises(kind, match=match) as caught:
        open_stack(source, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) > 20


def test_a_missing_file(tmp_path: Path) -> None:
    refuse(tmp_path / "absent.tif", "absent.tif does not exist; check", FileNotFoundError)


@pytest.mark.parametrize("content", [b"", b"hello world, I am text\n", b"\x89PNG\r\n\x1a\n0000"])
def test_what_is_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fake.tif"
    path.write_bytes(content)
    refuse(path, r"fake.tif is no image.*give a TIFF")


@pytest.mark.parametrize("head", [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"])
def test_a_header_followed_by_nonsense(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "nonsense.tif"
    for rest in (b"", b"\0" * 4, b"\x10\0\0\0", b"\x08\0\0\0\0\0\0\0" * 3, b"nonsense" * 40):
        path.write_bytes(head + rest)
        refuse(path, r"nonsense.tif .*(truncated|damaged)")


def write_plain(path: Path, **options: object) -> None:
    with tifffile.TiffWriter(path) as tif:
        for page in DATA:
            tif.write(page, metadata=None, contiguous=False, **options)


def write_ome(path: Path, **options: object) -> None:
    tifffile.imwrite(path, DATA, ome=True, metadata={"axes": "ZYX"}, **options)


def write_imagej(path: Path, **options: object) -> None:
    tifffile.imwrite(path, DATA, imagej=True, metadata={"axes": "ZYX"}, **options)


def write_shaped(path: Path, **options: object) -> None:
    tifffile.imwrite(path, DATA, metadata={"axes": "ZYX"}, **options)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (32, 32)}], ids=str)
@pytest.mark.parametrize("write", [write_plain, write_ome, write_imagej, write_shaped])
def test_a_truncated_tiff_is_refused_wherever_it_was_cut(
    tmp_path: Path, write, options: dict, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.tif"
    write(path, **options)
    content = path.read_bytes()
    with open_stack(path) as stack:
        assert stack.shape == DATA.shape
    for kept in (5, 9, 30, 200, *np.linspace(300, len(content) - 1, 23).astype(int)):
        path.write_bytes(content[:kept])
        said = opens_whole_or_says_why(path)
        assert said is None or "truncated" in said or "damaged" in said
        # The tail may hold no more than notes on the last page.
        assert said is not None or kept > len(content) - 100
    assert capfd.readouterr().err == ""  # the engine raises and prints nothing


def opens_whole_or_says_why(path: Path) -> str | None:
    try:
        stack = open_stack(path)
    except ValueError as error:
        return str(error) if "\n" not in str(error) else "more than one line"
    with stack:
        assert stack.axes == "zyx"
        np.testing.assert_array_equal(stack.read(Box.of(stack.shape))[0], DATA)
    return None


def test_a_tiff_in_big_pages_cut_by_one_byte(tmp_path: Path) -> None:
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, DATA[0])
    path.write_bytes(path.read_bytes()[:-1])
    size = path.stat().st_size
    refuse(path, rf"cut.tif is truncated: {size} of at least {size + 1} bytes; copy")


def test_a_stack_whose_other_file_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "part0.ome.tif"
    write_ome(path, compression="zlib")
    with tifffile.TiffFile(path) as tif:
        description = tif.ome_metadata
    lacking = description.replace('SizeZ="6"', 'SizeZ="8"')
    tifffile.tiffcomment(path, lacking.encode())
    refuse(path, r"lacks page 6 of 8; put the other files")


def test_ome_metadata_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "broken.ome.tif"
    write_ome(path, compression="zlib")
    with tifffile.TiffFile(path) as tif:
        description = tif.ome_metadata
    tifffile.tiffcomment(path, description.replace("<Pixels", "<Pix").encode())
    refuse(path, r"does not name its axes \(its OME metadata cannot be used\); pass axes")
    assert open_stack(path, axes="tyx").shape == DATA.shape


def test_reading_tiffs_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "cut.tif"
    write_plain(path)
    path.write_bytes(path.read_bytes()[:-9])
    refuse(path, "truncated")
    assert logging.getLogger("tifffile").filters == []


@pytest.mark.parametrize("shape", [(0, 20, 30), (4, 0, 30), (4, 20, 0)])
def test_empty_stacks(tmp_path: Path, shape: tuple) -> None:
    refuse(np.zeros(shape), r"empty; every axis needs at least one voxel")
    np.save(tmp_path / "empty.npy", np.zeros(shape))
    refuse(tmp_path / "empty.npy", r"empty")
    zarr.create_array(tmp_path / "empty.zarr", shape=shape, chunks=(1, 1, 1), dtype="u1")
    refuse(tmp_path / "empty.zarr", r"empty")


@pytest.mark.filterwarnings("ignore:.*zero-size array:UserWarning")
def test_an_empty_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "empty.tif", np.zeros((0, 20, 30), "u1"))
    refuse(tmp_path / "empty.tif", r"empty.tif")


@pytest.mark.parametrize("dtype", ["c8", "c16", "O", "M8[s]", "U3", [("a", "u1"), ("b", "u1")], np.longdouble], ids=str)
def test_types_that_are_no_image(dtype: object) -> None:
    refuse(np.zeros((4, 5), dtype), "wanted are integers, floats up to 64 bit, or bool")


def test_a_complex_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "fourier.tif", np.zeros((20, 30), "c8"))
    refuse(tmp_path / "fourier.tif", r"fourier.tif is of type complex64; wanted are integers")


def test_npy_that_cannot_be_mapped(tmp_path: Path) -> None:
    path = tmp_path / "cells.npy"
    np.save(path, DATA)
    path.write_bytes(path.read_bytes()[:-100])
    refuse(path, "cells.npy cannot be read as .npy.*save it again")
    np.save(path, np.array([None, {}], object), allow_pickle=True)
    refuse(path, "cells.npy cannot be read as .npy.*with numbers only")


@pytest.mark.parametrize(
    ("axes", "match"),
    [
        ("yx", r'axes "yx" name 2 axes, but array has shape \(6, 64, 64\)'),
        ("zyy", "not unique letters"),
        ("qyx", 'not unique letters out of "tczyx"'),
        ("ZYX", "not unique letters"),
        ("tzy", "lack y or x"),
    ],
)
def test_axes_that_do_not_fit(axes: str, match: str) -> None:
    refuse(DATA, match, axes=axes)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, -1), (1, 1, np.nan), (1, 1, np.inf)])
def test_spacing_that_does_not_fit(spacing: tuple) -> None:
    refuse(DATA, "spacing .* does not fit the axes zyx", spacing_um=spacing)


@pytest.mark.filterwarnings("ignore:.*stored as RGB:DeprecationWarning")
@pytest.mark.parametrize("shape", [(2, 3, 20, 30), (5, 4, 20, 30), (6, 2, 20, 30)])
def test_four_axes_without_names(tmp_path: Path, shape: tuple) -> None:
    tifffile.imwrite(tmp_path / "four.tif", np.zeros(shape, "u1"))
    refuse(tmp_path / "four.tif", r'does not name its axes \(it says QQYX\).*axes="zcyx"')


def test_a_single_image_has_no_second_series(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", DATA)
    refuse(tmp_path / "one.npy", "no series 1", series=1)
    refuse(DATA, "no series 1", series=1)
    write_shaped(tmp_path / "one.tif")
    refuse(tmp_path / "one.tif", r"no series 1; it has 0: \(6, 64, 64\)", series=1)
    refuse(tmp_path / "one.tif", r"no series -1", series=-1)


def test_what_is_no_array() -> None:
    refuse([[1, 2], [3, 4]], "a list is no stack; give a path or an array")
    refuse([], "a list is no stack; give a path or an array")
    refuse(None, "a NoneType is no stack; give a path or an array")


def test_folders(tmp_path: Path) -> None:
    refuse(tmp_path, "without zarr metadata; give a TIFF")
    (tmp_path / "zarr.json").write_text("{broken")
    refuse(tmp_path, "cannot be read as zarr")
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes":'
                                        '{"ome": {"multiscales": [{"axes": [{"name": "y"}],'
                                        '"datasets": [{"path": "gone"}]}]}}}')  # fmt: skip
    refuse(tmp_path, "cannot be read as zarr")


def test_a_box_of_other_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="a box of 2 axes is none in zyx"):
        open_stack(DATA).read(Box((0, 0), (2, 2)))
