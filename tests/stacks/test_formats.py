"""HDF5, MRC and NIfTI that the packages themselves wrote: voxels, axes, spacing and time; and what is refused.

The readers of ND2, LIF and CZI are tested in test_microscope_formats.py, since nothing writes those.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_unetpp.box import Box
from napari_unetpp.stacks import Stack, open_stack

h5py = pytest.importorskip("h5py")
mrcfile = pytest.importorskip("mrcfile")
nibabel = pytest.importorskip("nibabel")

DATA = np.random.default_rng(0).integers(0, 200, (5, 20, 30)).astype("u1")


def whole(stack: Stack) -> np.ndarray:
    return stack.read(Box.of(stack.shape_predicted))


def refuse(path: Path, match: str, **options: object) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        open_stack(path, **options)
    assert "\n" not in str(caught.value)


# HDF5


def write_ilastik(path: Path, data: np.ndarray, axes: str, name: str = "exported_data") -> None:
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(name, data=data, chunks=True)
        tags = [{"key": axis, "typeFlags": 2, "resolution": 0, "description": ""} for axis in axes]
        dataset.attrs["axistags"] = json.dumps({"axes": tags})
        dataset.attrs["element_size_um"] = [0.5, 0.2, 0.1]


def test_hdf5_of_ilastik(tmp_path: Path) -> None:
    path = tmp_path / "cells.h5"
    write_ilastik(path, DATA[np.newaxis, ..., np.newaxis], "tzyxc")
    with open_stack(path) as stack:
        assert (stack.axes, stack.name, stack.path) == ("tzyxc", "cells", path)
        assert stack.spacing_um == (None, 0.5, 0.2, 0.1, None)
        assert stack.data.chunks is not None
        np.testing.assert_array_equal(whole(stack)[0, 0], DATA)
        assert stack.notes == ("its only dataset is exported_data",)
    for inside in (f"{path}:/exported_data", f"{path}:exported_data", f"{path}/exported_data"):
        with open_stack(inside) as stack:
            assert (stack.path, stack.notes) == (Path(inside), ())  # as it opens again
    path.rename(tmp_path / "moved.h5")  # it is closed


def test_hdf5_of_several_datasets_is_asked_about(tmp_path: Path) -> None:
    path = tmp_path / "two.h5"
    with h5py.File(path, "w") as file:
        file["volumes/raw"] = DATA
        file["volumes/labels"] = DATA > 100
        file["name"] = "of the sample"
        file["table"] = np.arange(9)
    refuse(path, r"holds several datasets \(volumes/labels, volumes/raw\); name one, as .*two.h5:/volumes/labels")
    with pytest.raises(
        ValueError, match=r"holds no image other; its datasets of numbers are: volumes/labels, volumes/raw"
    ):
        open_stack(f"{path}:/other")
    with open_stack(f"{path}:/volumes/raw") as stack:
        assert (stack.axes, stack.name, stack.spacing_um) == ("zyx", "two volumes/raw", (None,) * 3)
        np.testing.assert_array_equal(whole(stack)[0], DATA)
    with open_stack(f"{path}/volumes/labels") as stack:
        np.testing.assert_array_equal(whole(stack)[0], DATA > 100)


def test_hdf5_that_names_no_axes(tmp_path: Path) -> None:
    path = tmp_path / "four.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = np.stack([DATA, DATA])
    refuse(path, r"does not name its axes \(it says nothing of them\)")
    with h5py.File(path, "a") as file:
        for dimension, label in zip(file["raw"].dims, "tzyx", strict=True):
            dimension.label = label
    with open_stack(path) as stack:
        assert stack.axes == "tzyx"


def test_a_damaged_chunk_is_told_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("raw", data=DATA, chunks=(1, 20, 30), compression="gzip")
        at = dataset.id.get_chunk_info(3).byte_offset
    content = bytearray(path.read_bytes())
    content[at + 20 : at + 40] = bytes(20)
    path.write_bytes(content)
    with open_stack(path) as stack:
        np.testing.assert_array_equal(stack.read(Box((0, 0, 0), (3, 20, 30)))[0], DATA[:3])
        with pytest.raises(ValueError, match=r"a.h5 is damaged \(.*\); copy or save it again"):
            whole(stack)


# MRC


def write_mrc(path: Path, data: np.ndarray, angstrom: tuple[float, float, float] | None = None) -> None:
    with mrcfile.new(path) as file:
        file.set_data(data)
        if angstrom is not None:
            file.voxel_size = angstrom
        if data.ndim == 3:
            file.set_volume()


@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f4", "f2"])
def test_mrc(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "tomogram.mrc"
    data = (DATA // 2).astype(dtype)
    write_mrc(path, data, (13.5, 13.5, 40.0))  # x, y, z
    with open_stack(path) as stack:
        assert (stack.axes, stack.name, stack.dtype) == ("zyx", "tomogram", np.dtype(dtype))
        assert stack.spacing_um == pytest.approx((0.004, 0.00135, 0.00135))
        assert isinstance(stack.data, np.memmap)
        np.testing.assert_array_equal(whole(stack)[0], data)


def test_mrc_of_one_plane_and_of_other_orders(tmp_path: Path) -> None:
    write_mrc(tmp_path / "plane.mrc", DATA[0].astype("f4"))
    with open_stack(tmp_path / "plane.mrc") as stack:
        assert (stack.axes, stack.spacing_um) == ("yx", (None, None))
    write_mrc(tmp_path / "turned.mrc", DATA.astype("f4"))
    with mrcfile.open(tmp_path / "turned.mrc", "r+") as file:
        file.header.mapc, file.header.maps = 3, 1  # columns run along z
    with open_stack(tmp_path / "turned.mrc") as stack:
        assert stack.axes == "xyz"
        np.testing.assert_array_equal(whole(stack)[0], DATA.transpose(2, 1, 0))


def test_unsigned_bytes_of_imod(tmp_path: Path) -> None:
    path = tmp_path / "bytes.mrc"
    write_mrc(path, DATA.view("i1"))
    with open_stack(path) as stack:
        assert stack.dtype == np.int8
    with path.open("r+b") as file:
        file.seek(152)
        file.write(np.array([1146047817, 0], "<i4").tobytes())
    with open_stack(path) as stack:
        assert stack.notes == ("IMOD wrote its bytes as unsigned; they are read as such",)
        np.testing.assert_array_equal(whole(stack)[0], DATA)


def test_complex_mrc_is_refused(tmp_path: Path) -> None:
    write_mrc(tmp_path / "fourier.mrc", DATA.astype("c8"))
    refuse(tmp_path / "fourier.mrc", "fourier.mrc is of type complex64; wanted are integers")


# NIfTI


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"brain{ending}"
    image = nibabel.Nifti1Image(DATA.transpose(2, 1, 0), np.diag([0.1, 0.2, 0.5, 1]))  # x is first
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    with open_stack(path) as stack:
        assert (stack.axes, stack.name, stack.dtype) == ("zyx", "brain", np.uint8)
        assert stack.spacing_um == pytest.approx((500, 200, 100))
        assert ("read into memory" in "".join(stack.notes)) == (ending == ".nii.gz")
        np.testing.assert_array_equal(whole(stack)[0], DATA)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti_of_scaled_numbers_and_of_time(tmp_path: Path, kind: type) -> None:
    path = tmp_path / "scaled.nii"
    data = np.stack([DATA, DATA // 2]).astype("i2")
    image = kind(data.T, np.eye(4))
    image.header.set_xyzt_units("micron", "msec")
    image.header.set_zooms((1, 2, 3, 500))
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, path)
    expected = np.asarray(nibabel.load(path).dataobj).T
    with open_stack(path) as stack:
        assert (stack.axes, stack.spacing_um, stack.interval_s) == ("tzyx", (None, 3.0, 2.0, 1.0), 0.5)
        np.testing.assert_array_equal(whole(stack)[0], expected)
        np.testing.assert_array_equal(stack.read(Box((1, 2, 3, 4), (2, 3, 9, 9)))[0], expected[1:2, 2:3, 3:9, 4:9])


def test_nifti_without_a_unit(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(DATA.T[..., np.newaxis], np.eye(4))  # one point in time
    nibabel.save(image, tmp_path / "a.nii")
    with open_stack(tmp_path / "a.nii") as stack:
        assert (stack.axes, stack.spacing_um) == ("zyx", (1000.0,) * 3)
        assert stack.notes == ("it does not name the unit of its spacing; millimetres are assumed",)


# All


@pytest.mark.parametrize("name", ["a.h5", "a.mrc", "a.nii", "a.nii.gz"])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 99, (5, 60, 70)).astype("i2")
    if name == "a.h5":
        write_ilastik(path, noise, "zyx")
    elif name == "a.mrc":
        write_mrc(path, noise)
    else:
        nibabel.save(nibabel.Nifti1Image(noise.T, np.eye(4)), path)
    content = path.read_bytes()
    for kept in (9, 230, 360, 1100, len(content) // 2, len(content) - 40):
        path.write_bytes(content[:kept])
        refuse(path, rf"{name}")


@pytest.mark.parametrize(
    ("name", "head", "package", "extra"),
    [
        ("a.h5", b"\x89HDF\r\n\x1a\n", "h5py", "hdf5"),
        ("a.mrc", bytes(208) + b"MAP ", "mrcfile", "mrc"),
        ("a.nii", bytes(344) + b"n+1\0", "nibabel", "nifti"),
        ("a.nii.gz", b"\x1f\x8b", "nibabel", "nifti"),
        ("a.nd2", b"\xda\xce\xbe\x0a", "nd2", "nd2"),
        ("a.lif", b"\x70\0\0\0", "liffile", "lif"),
        ("a.czi", b"ZISRAWFILE", "czifile", "czi"),
    ],
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, head: bytes, package: str, extra: str
) -> None:
    (tmp_path / name).write_bytes(head + bytes(400))
    monkeypatch.setitem(sys.modules, package, None)  # import now fails
    ending = name.removeprefix("a")
    refuse(tmp_path / name, rf"reading {ending} needs the {package} package: pip install 'napari-unetpp\[{extra}\]'")
