"""Reading datasets of HDF5 files as ilastik writes them.

Decides which dataset is meant (`read_hdf5`), and what its attributes say of axes (ilastik's `axistags`, HDF5's dimension
labels) and spacing (`element_size_um`). Only the chunks that are asked for are read.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp._arrays import only_one
from napari_unetpp._opened import DAMAGED, Opened, default_axes, needs, one_line

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def read_hdf5(path: Path, series: int | None = None, inside: str = "") -> Opened:
    """Open a dataset; `inside` is its name in the file, or may be left out where there is only one.

    Raises
    ------
    ValueError
        Where the file is damaged, or it is not clear which dataset is meant.
    """
    h5py = needs("h5py", path, "hdf5")
    only_one(str(path), series)
    try:
        file = h5py.File(path, "r")
    except (OSError, *DAMAGED) as error:
        raise ValueError(f"{path} is damaged or no HDF5 that can be read ({one_line(error)})") from error
    try:
        opened = _open(h5py, file, path, inside.strip("/"))
    except _Refused as refusal:
        file.close()
        raise ValueError(str(refusal)) from None
    except (OSError, *DAMAGED) as error:
        file.close()
        raise ValueError(f"{path} is damaged ({one_line(error)}); copy or save it again") from error
    return replace(opened, close=file.close)


class _Refused(ValueError):
    """A file that we refuse ourselves, in words of our own."""


def _open(h5py: Any, file: Any, path: Path, inside: str) -> Opened:
    images: list[str] = []

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.ndim >= 2 and node.dtype.kind in "buif":
            images.append(name)

    file.visititems(visit)
    wanted = [name for name in images if name == inside or name.startswith(f"{inside}/")] if inside else images
    if len(wanted) != 1:
        there = ", ".join(images) or "none"
        if not wanted:
            raise _Refused(f"{path} holds no image{inside and f' {inside}'}; its datasets of numbers are: {there}")
        raise _Refused(f"{path} holds several datasets ({there}); name one, as {path}:/{wanted[0]}")
    data = file[wanted[0]]
    axes, says = _axes(data)
    spacing = _spacing(data, axes)
    name = path.stem if len(images) == 1 else f"{path.stem} {wanted[0]}"
    notes = () if inside else (f"its only dataset is {wanted[0]}",)
    colours = False if axes and "c" in axes else None
    usual = default_axes(data.ndim)
    array = _Dataset(data, path)
    return Opened(array, axes or usual, says, name, spacing, named=axes is not None, colours=colours, notes=notes)


class _Dataset:
    """A dataset whose chunks, where they are damaged, are told with the name of the file."""

    def __init__(self, data: Any, path: Path) -> None:
        self._data, self._path = data, path
        self.shape, self.ndim, self.dtype, self.chunks = data.shape, data.ndim, data.dtype, data.chunks

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> NDArray[Any]:
        try:
            return np.asarray(self._data[key])
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{self._path} is damaged ({one_line(error)}); copy or save it again") from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self[...], dtype=dtype)


def _axes(data: Any) -> tuple[str | None, str]:
    """Axes by ilastik's tags, or by the labels of the dimensions."""
    found = ""
    if "axistags" in data.attrs:
        tags = json.loads(data.attrs["axistags"])
        found = "".join(str(axis["key"]) for axis in tags["axes"])
    elif all(dimension.label for dimension in data.dims):
        found = "".join(dimension.label for dimension in data.dims)
    letters = found.lower()
    if len(letters) != data.ndim or not set(letters) <= set("tczyx") or len(set(letters)) < len(letters):
        return None, f"it says {found}" if found else "it says nothing of them"
    return letters, f"it says {found}"


def _spacing(data: Any, axes: str | None) -> dict[str, float]:
    sizes = data.attrs.get("element_size_um")
    if sizes is None or axes is None:
        return {}
    sizes = [float(size) for size in sizes]
    # One number per axis, or, as plugins of Fiji and PlantSeg write it, one each for z, y and x.
    names = axes if len(sizes) == len(axes) else "zyx" if len(sizes) == 3 else ""
    return {axis: size for axis, size in zip(names, sizes, strict=False) if axis in "zyx" and 0 < size < float("inf")}
