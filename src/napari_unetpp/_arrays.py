"""Arrays and .npy files as stacks: nothing names their axes, so only "yx" and "zyx" are assumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import zarr

from napari_unetpp._ngff import wrap_zarr
from napari_unetpp._opened import DAMAGED, Opened, default_axes, one_line
from napari_unetpp._views import View

if TYPE_CHECKING:
    from pathlib import Path

    from napari_unetpp.box import ArrayLike


def read_npy(path: Path, series: int | None = None) -> Opened:
    """Open a .npy as a memory map.

    Raises
    ------
    ValueError
        Where it is truncated or holds Python objects.
    """
    only_one(str(path), series)
    try:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        msg = f"{path} cannot be read as .npy ({one_line(error)}); save it again, with numbers only"
        raise ValueError(msg) from error
    return Opened(data, default_axes(data.ndim), "a .npy has no names", path.stem, named=False)


def wrap_array(source: ArrayLike | Sequence[ArrayLike], series: int | None = None) -> Opened:
    """Take an array as it is, or the first of a list of resolutions.

    Raises
    ------
    ValueError
        Where it is nothing like an array.
    """
    only_one("an array", series)
    # napari's multiscale data have a shape too, but are a sequence of resolutions from fine on.
    data = source[0] if isinstance(source, Sequence) and len(source) else source
    if not all(hasattr(data, name) for name in ("shape", "dtype", "ndim", "__getitem__")):
        msg = f"a {type(data).__name__} is no stack; give a path or an array"
        raise ValueError(msg)
    array = cast("ArrayLike", data)
    if (numpy_type := getattr(array.dtype, "numpy_dtype", None)) is not None:  # tensorstore has types of its own
        array = View(array, dtype=numpy_type)
    if isinstance(array, zarr.Array):
        return wrap_zarr(array, "array")
    return Opened(array, default_axes(array.ndim), "an array has no names", "array", named=False)


def only_one(what: str, series: int | None) -> None:
    """Refuse a series where there is a single image."""
    if series:
        msg = f"{what} has no series {series}; it is a single image"
        raise ValueError(msg)
