"""Reading MRC files (electron microscopy) as memory maps: axis order, spacing in angstrom, and IMOD's unsigned bytes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp._arrays import only_one
from napari_unetpp._opened import DAMAGED, Opened, micrometres, needs, one_line

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_IMOD_STAMP = 1146047817  # "IMOD", at byte 152; its first flag tells that bytes are signed
_LETTERS = {1: "x", 2: "y", 3: "z"}


def read_mrc(path: Path, series: int | None = None) -> Opened:
    """Open an MRC file.

    Raises
    ------
    ValueError
        Where it is damaged, or truncated.
    """
    mrcfile = needs("mrcfile", path, "mrc")
    only_one(str(path), series)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = mrcfile.mmap(path, mode="r")
        with file:
            header, voxel, stack = file.header.copy(), file.voxel_size.copy(), bool(file.is_image_stack())
            dtype, shape = file.data.dtype, file.data.shape
    except (OSError, *DAMAGED) as error:
        raise ValueError(f"{path} is truncated, damaged or no MRC that can be read ({one_line(error)})") from error
    # A map of our own stays valid as long as somebody holds it.
    data: NDArray[Any] = np.memmap(path, dtype, mode="r", offset=1024 + int(header["nsymbt"]), shape=shape)
    notes: tuple[str, ...] = ()
    if data.dtype == np.int8 and _has_unsigned_bytes(header.tobytes()):
        data = data.view(np.uint8)
        notes = ("IMOD wrote its bytes as unsigned; they are read as such",)
    stored = [int(header[name]) for name in ("maps", "mapr", "mapc")]
    order = "".join(_LETTERS[axis] for axis in stored) if sorted(stored) == [1, 2, 3] else "zyx"
    axes = {2: order[1:], 3: order}.get(data.ndim)
    lengths = {axis: micrometres(float(voxel[axis]), "angstrom") for axis in "xyz"}
    assumed = ("it calls its planes separate images; they are taken as slices along z, --axes tyx makes them time",)
    return Opened(
        data,
        axes,
        f"it is an MRC of {data.ndim} axes",
        path.stem,
        {axis: length for axis, length in lengths.items() if length is not None},
        notes=notes,
        assumed=assumed if stack and data.ndim == 3 else (),
    )


def _has_unsigned_bytes(header: bytes) -> bool:
    stamp, flags = np.frombuffer(header[152:160], "<i4")
    if stamp != _IMOD_STAMP:
        return False
    return not flags & 1
