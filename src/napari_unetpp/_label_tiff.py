"""Writing labels as TIFF.

Decides which metadata carry axes and spacing (`save_labels`), how much of a lazy array is in memory
at once (`_planes`), and that a file is either whole or not there: it is read back before it gets its name.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from napari_unetpp._whole import beside, gone
from napari_unetpp.box import ArrayLike, chunk_extent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_BYTES_AT_ONCE = 2**27
_ORDER = "tzcyx"  # of pages in an ImageJ hyperstack


def save_labels(
    path: str | os.PathLike[str],
    labels: ArrayLike,
    axes: str,
    spacing_um: Sequence[float | None] | None = None,
    interval_s: float | None = None,
) -> Path:
    """The path of the TIFF written from an integer array, zlib-compressed, read plane by plane.

    The type is kept (bool becomes uint8). ImageJ metadata carry axes and spacing where ImageJ's
    format can: uint8 or uint16, below 4 GiB, spacing of x and y both known or nothing known. All
    else is OME-TIFF, and BigTIFF from 4 GiB on. Neither format keeps t, z or c of extent 1.
    The file appears under its name only when it is whole; one of that name is then replaced.

    Parameters
    ----------
    axes
        One letter per axis of `labels`, in the order "tzcyx", ending in "yx".
    spacing_um
        Micrometres or None per axis.
    interval_s
        Seconds between the frames along t.

    Raises
    ------
    ValueError
        Where axes, spacing, type or the file's ending do not fit.
    OSError
        Where the folder is missing, read-only or goes meanwhile, the disk is full, or something else is read back than was
        written; nothing is left behind.
    """
    path = Path(path).expanduser()
    dtype = np.dtype(labels.dtype)
    dtype = np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
    spacing = _check(path, labels, dtype, axes, spacing_um)
    if interval_s is not None and "t" in axes:
        spacing["t"] = float(interval_s)  # the one that is no length
    partial, there = beside(path, "partial"), path.parent.is_dir()
    try:
        last = _write(partial, labels, dtype, axes, spacing)
        _read_back(partial, tuple(map(int, labels.shape)), last)
        partial.replace(path)
        if not path.is_file():
            raise gone(path)
    except OSError as error:
        if there and isinstance(error, FileNotFoundError) and not os.path.lexists(partial):
            raise gone(path) from error
        why = error.strerror or error
        msg = f"{path} cannot be written ({why}); free space or choose another place"
        raise OSError(error.errno, msg) from error
    finally:
        with suppress(OSError):
            partial.unlink()
    return path


def _check(
    path: Path,
    labels: ArrayLike,
    dtype: np.dtype[Any],
    axes: str,
    spacing_um: Sequence[float | None] | None,
) -> dict[str, float]:
    """Spacing by axis letter, once everything fits."""
    shape = tuple(labels.shape)
    if path.suffix.lower() not in {".tif", ".tiff"}:
        msg = f"{path} should end in .tif or .tiff: labels are written as TIFF"
        raise ValueError(msg)
    if dtype.kind not in "iu" or dtype.itemsize > 4:
        msg = f"labels are of type {labels.dtype}; TIFF wants integers up to 32 bit, so cast them"
        raise ValueError(msg)
    if list(axes) != sorted(set(axes) & set(_ORDER), key=_ORDER.index) or axes[-2:] != "yx":
        msg = f'label axes "{axes}" should be letters of "{_ORDER}" in that order, ending in "yx"'
        raise ValueError(msg)
    if len(axes) != len(shape) or 0 in shape:
        msg = f'labels of shape {shape} do not fit the axes "{axes}"; none may be empty'
        raise ValueError(msg)
    spacing = tuple(spacing_um) if spacing_um is not None else (None,) * len(axes)
    if len(spacing) != len(axes) or any(s is not None and not 0 < s < math.inf for s in spacing):
        msg = f'spacing {spacing} does not fit the axes "{axes}"; give um or None per axis'
        raise ValueError(msg)
    return {a: float(s) for a, s in zip(axes, spacing, strict=True) if s is not None}


def _write(
    partial: Path,
    labels: ArrayLike,
    dtype: np.dtype[Any],
    axes: str,
    spacing: dict[str, float],
) -> NDArray[Any]:
    """The plane that was written last."""
    shape = tuple(map(int, labels.shape))
    # 4 KiB a page cover its directory, and 32 MiB what zlib may add to noise.
    size = math.prod(shape) * dtype.itemsize + math.prod(shape[:-2]) * 2**12
    big = size >= 2**32 - 2**25
    lateral = "x" in spacing and "y" in spacing
    # tifffile squeezes planes one voxel wide, which ImageJ's metadata then no longer describe.
    imagej = dtype.char in "BH" and not big and (lateral or not spacing.keys() & set("zyx")) and min(shape[-2:]) > 1
    metadata: dict[str, Any] = {"axes": axes.upper()}
    resolution = None
    if imagej and lateral:
        resolution = (1 / spacing["x"], 1 / spacing["y"])
        metadata["unit"] = "um"
        if "z" in spacing:
            metadata["spacing"] = spacing["z"]
    elif not imagej:
        for axis in set("zyx") & set(spacing):
            metadata[f"PhysicalSize{axis.upper()}"] = spacing[axis]
            metadata[f"PhysicalSize{axis.upper()}Unit"] = "\N{MICRO SIGN}m"
    if "t" in spacing:
        times = {"finterval": spacing["t"]} if imagej else {"TimeIncrement": spacing["t"], "TimeIncrementUnit": "s"}
        metadata.update(times)
    last: list[NDArray[Any]] = []

    def planes() -> Iterator[NDArray[Any]]:
        for plane in _planes(labels, dtype):
            last[:] = [plane]
            yield plane

    with tifffile.TiffWriter(partial, bigtiff=big, imagej=imagej, ome=not imagej) as tif:
        tif.write(
            planes(),
            shape=shape,
            dtype=dtype,
            photometric="minisblack",
            compression="zlib",
            resolution=resolution,
            metadata=metadata,
        )
    return last[0]


def _read_back(partial: Path, shape: tuple[int, ...], last: NDArray[Any]) -> None:
    """Raise OSError unless the file holds as many planes as were written, and the last one as it was."""
    try:
        with tifffile.TiffFile(partial) as tif:
            count, page = len(tif.pages), tif.pages[-1]
            whole = count == math.prod(shape[:-2]) and page.shape == shape[-2:]
            whole = whole and np.array_equal(page.asarray(), last)
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - codecs have errors of their own
        whole = False
    if not whole:
        raise OSError(errno.EIO, "what was read back is not what was written")


def _planes(labels: ArrayLike, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Planes `(y, x)` in order; as many are read at once as a chunk is deep."""
    *leading, height, width = map(int, labels.shape)
    if not leading:
        yield np.ascontiguousarray(labels[:, :], dtype)
        return
    *outer, extent = leading
    room = max(1, _BYTES_AT_ONCE // (height * width * dtype.itemsize))
    step = min(chunk_extent(labels, len(outer)), room)
    for index in itertools.product(*map(range, outer)):
        fixed = tuple(slice(i, i + 1) for i in index)
        for start in range(0, extent, step):
            slab = labels[(*fixed, slice(start, start + step))]
            yield from np.ascontiguousarray(slab, dtype).reshape(-1, height, width)
