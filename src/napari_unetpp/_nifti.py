"""Reading NIfTI images lazily, where they are not compressed: x is stored first, so the axes are turned round to z, y, x."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp._arrays import only_one
from napari_unetpp._opened import DAMAGED, Opened, micrometres, needs, one_line, seconds
from napari_unetpp._views import View

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_unetpp.box import ArrayLike

_TIMES = {"sec": "s", "msec": "ms", "usec": "us"}
_LENGTHS = {"mm": "mm", "meter": "m", "micron": "um", "unknown": "mm"}


def read_nifti(path: Path, series: int | None = None) -> Opened:
    """Open a NIfTI-1 or -2 image; a compressed one is read into memory.

    Raises
    ------
    ValueError
        Where it is damaged, or truncated.
    """
    nibabel = needs("nibabel", path, "nifti")
    only_one(str(path), series)
    try:
        with nibabel.imageglobals.LoggingOutputSuppressor():  # what matters is raised, in one line
            image = nibabel.load(path)
        header, proxy = image.header, image.dataobj
        stored: NDArray[Any] = proxy.get_unscaled()
        if path.suffix.lower() == ".gz":
            stored = np.asarray(stored)
    except (
        OSError,
        EOFError,
        zlib.error,
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        *DAMAGED,
    ) as error:
        raise ValueError(f"{path} is truncated, damaged or no NIfTI that can be read ({one_line(error)})") from error
    notes: tuple[str, ...] = ()
    while stored.ndim > 3 and stored.shape[-1] == 1:
        stored = stored[..., 0]
    data: ArrayLike = stored.T
    slope, intercept = float(proxy.slope), float(proxy.inter)
    if (slope, intercept) != (1.0, 0.0):
        data = View(data, change=lambda voxels: voxels * slope + intercept, dtype=np.float64)
    length, time = header.get_xyzt_units()
    zooms = [float(zoom) for zoom in header.get_zooms()]
    spacing = {
        axis: um for axis, zoom in zip("xyz", zooms, strict=False) if (um := micrometres(zoom, _LENGTHS.get(length)))
    }
    if length not in _LENGTHS or length == "unknown":
        notes = ("it does not name the unit of its spacing; millimetres are assumed",)
    if path.suffix.lower() == ".gz":
        notes = (*notes, "it is compressed, so it is read into memory as a whole")
    return Opened(
        data,
        {2: "yx", 3: "zyx", 4: "tzyx", 5: "ctzyx"}.get(stored.ndim),
        f"it is a NIfTI of {stored.ndim} axes",
        path.name.removesuffix(".gz").removesuffix(".nii"),
        spacing,
        notes=notes,
        interval_s=seconds(zooms[3], _TIMES.get(time, "s")) if len(zooms) > 3 else None,
    )
