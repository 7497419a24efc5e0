"""Which reader opens which file or folder.

Decides it by the first bytes of a file and not by its name (`open_path`).
"""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetpp._arrays import read_npy
from napari_unetpp._czi import read_czi
from napari_unetpp._hdf5 import read_hdf5
from napari_unetpp._image_files import PICTURES, natural, read_files, read_folder, read_picture
from napari_unetpp._lif import read_lif
from napari_unetpp._mrc import read_mrc
from napari_unetpp._nd2 import read_nd2
from napari_unetpp._ngff import is_zarr, read_zarr
from napari_unetpp._nifti import read_nifti
from napari_unetpp._tiff import SIGNATURES, read_tiff

if TYPE_CHECKING:
    from napari_unetpp._opened import Opened

WANTED = "give a TIFF, PNG, JPEG, OME-Zarr or .npy, or one of the formats in docs/formats.md"
_INSIDE = re.compile(r"(.+\.(?:h5|hdf5|hdf|ilp))(?::/*|/+)([^:]+)", re.IGNORECASE)


def open_path(path: Path, series: int | None = None, *, labels: bool = False) -> Opened:
    """The image of a file or folder.

    Parameters
    ----------
    path
        A file; a folder of images or a zarr; a pattern like ``planes/img*.png``; ``file.h5:/data`` for a dataset.
    labels
        The file holds labels: the numbers of an image with a palette are kept.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where it is no image that can be read, or is damaged.
    """
    if path.is_dir():
        return read_zarr(path, series) if is_zarr(path) else read_folder(path, series, labels=labels)
    if path.exists():
        return _open_file(path, series, labels)
    if (inside := _INSIDE.fullmatch(str(path))) and Path(inside[1]).is_file():
        return read_hdf5(Path(inside[1]), series, inside[2])
    if glob.has_magic(str(path)):
        files = sorted(map(Path, glob.glob(str(path))), key=natural)
        if files:
            return read_files(files, path.parent.name or path.stem.strip("*?_- ") or "stack", series, labels=labels)
    raise FileNotFoundError(f"{path} does not exist; check the name")


def _open_file(path: Path, series: int | None, labels: bool) -> Opened:
    with path.open("rb") as file:
        head = file.read(352)
    if head[:4] in SIGNATURES:
        return read_tiff(path, series, labels=labels)
    if head[:6] == b"\x93NUMPY":
        return read_npy(path, series)
    if head.startswith(PICTURES):
        return read_picture(path, series, labels=labels)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return read_hdf5(path, series)
    if head[208:211] == b"MAP":
        return read_mrc(path, series)
    if head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2") or path.name.lower().endswith(".nii.gz"):
        return read_nifti(path, series)
    if head.startswith((b"\xda\xce\xbe\x0a", b"\0\0\0\x0cjP  ")):
        return read_nd2(path, series)
    if head.startswith(b"\x70\0\0\0"):
        return read_lif(path, series)
    if head.startswith(b"ZISRAWFILE"):
        return read_czi(path, series)
    begins = f"begins with {head[:8]!r}" if head else "is empty"
    raise ValueError(f"{path} is no image that can be read: it {begins}; {WANTED}")
