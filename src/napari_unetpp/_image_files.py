"""PNG, JPEG and BMP images, and folders of such files or of TIFF planes as one stack.

Decides how one picture becomes numbers without losing bits (`read_picture`), and which files of a folder make a stack, in
which order (`read_folder`, `read_files`). A file is decoded when its plane is read.
"""

from __future__ import annotations

import re
import threading
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
from PIL import Image, UnidentifiedImageError

from napari_unetpp._arrays import only_one
from napari_unetpp._frames import Frames
from napari_unetpp._opened import DAMAGED, Opened, one_line
from napari_unetpp._settled import settled
from napari_unetpp._tiff import SIGNATURES, read_tiff
from napari_unetpp._views import looked_up

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_PNG = b"\x89PNG\r\n\x1a\n"
PICTURES = (_PNG, b"\xff\xd8\xff", b"BM")
_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
_SAME = {".jpeg": ".jpg", ".tiff": ".tif"}
_SAMPLES = {"1": 1, "L": 1, "I;16": 1, "I;16B": 1, "I": 1, "F": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4}
_opening = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Header:
    """What a picture is, before it is decoded."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    alpha: bool = False
    palette: tuple[tuple[int, int, int], ...] | None = None  # colours, by number


def read_picture(path: Path, series: int | None = None, *, labels: bool = False) -> Opened:
    """Open a PNG, JPEG or BMP; it is decoded at once.

    Raises
    ------
    ValueError
        Where it is damaged, or holds colours that are not converted here.
    """
    only_one(str(path), series)
    header = _header(path)
    return _opened(_decode(path, header.shape), header, path.stem, labels)


def _opened(data: Any, header: _Header, name: str, labels: bool) -> Opened:
    samples = data.ndim - 1 if len(header.shape) == 3 else None
    opened = Opened(
        data,
        "zyxc"[4 - data.ndim - (samples is None) : 3 + (samples is not None)],
        "a picture has rows and columns",
        name,
        colours=header.shape[2] >= 3 if samples is not None else None,
        samples=samples,
        alpha=header.alpha,
    )
    if header.palette is None:
        return opened
    if labels:
        return replace(opened, notes=("its colour table is left aside; its numbers are the labels",))
    data = looked_up(data, np.array(header.palette, np.uint8))
    if data.ndim == opened.data.ndim:
        return replace(opened, data=data, notes=("its numbers stand for gray values (palette), and are read as such",))
    note = "its numbers stand for colours (palette); they are read as red, green and blue"
    axes = f"{opened.axes}c"
    return replace(opened, data=data, axes=axes, colours=True, samples=data.ndim - 1, notes=(note,))


def _header(path: Path) -> _Header:
    """Shape, type and palette of a picture.

    Raises
    ------
    ValueError
        Where it is damaged, too large, or in colours that are not converted here.
    """
    try:
        with _image(path) as image:
            mode, (width, height) = image.mode, image.size
            palette = image.getpalette() if mode == "P" else None
    except UnidentifiedImageError:
        decoded = _decode(path)
        return _Header(decoded.shape, decoded.dtype)
    except Image.DecompressionBombError:
        raise ValueError(f"{path} has too many pixels for a picture; save it as TIFF or OME-Zarr") from None
    except (OSError, SyntaxError, *DAMAGED) as error:
        raise ValueError(f"{path} is no image that can be read ({one_line(error)}); {_AGAIN}") from error
    if mode not in _SAMPLES:
        raise ValueError(f"{path} holds {mode} colours; save it as RGB or gray")
    samples = _SAMPLES[mode]
    dtype = np.dtype({"1": "?", "I;16": "u2", "I;16B": "u2", "I": "i4", "F": "f4"}.get(mode, "u1"))
    if _is_deep_colour(path):
        samples, dtype = {2: 3, 4: 2, 6: 4}[_png_kind(path)[1]], np.dtype("u2")
    shape = (height, width) if samples == 1 else (height, width, samples)
    colours = None
    if palette is not None:
        palette = [*palette, *[0] * (768 - len(palette))]  # numbers beyond the table are black
        colours = tuple(zip(palette[::3], palette[1::3], palette[2::3], strict=True))
    return _Header(shape, dtype, samples in (2, 4), colours)


_AGAIN = "save it again, or give a TIFF"


def _image(path: Path) -> Image.Image:
    """An open picture, of which only the header was read. Large ones are no attack here, up to Pillow's second bound."""
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(path)


def _decode(path: Path, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """The pixels of a picture, of which the header has promised a shape."""
    try:
        if _is_deep_colour(path):
            pixels: NDArray[Any] = imagecodecs.png_decode(path.read_bytes())
        else:
            try:
                with _image(path) as image:
                    pixels = np.asarray(image)
            except UnidentifiedImageError:
                if path.suffix.lower() not in (".jpg", ".jpeg"):
                    raise
                pixels = imagecodecs.jpeg_decode(path.read_bytes())  # of 12 or 16 bit, which Pillow does not know
    except (OSError, SyntaxError, Image.DecompressionBombError, *DAMAGED) as error:
        raise ValueError(f"{path} is no image that can be read ({one_line(error)}); {_AGAIN}") from error
    if shape is not None and pixels.shape != shape:
        raise ValueError(f"{path} changed while it was read: {pixels.shape} and not {shape} any more")
    if pixels.dtype.kind == "b":
        pixels = pixels.view(np.uint8) != 0  # Pillow's True is 255
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _is_deep_colour(path: Path) -> bool:
    """Whether a PNG has 16 bit and several samples, of which Pillow would keep 8."""
    bits, kind = _png_kind(path)
    return bits == 16 and kind in (2, 4, 6)


def _png_kind(path: Path) -> tuple[int, int]:
    """Bits and colour type out of the header (IHDR) of a PNG; (0, 0) for any other file."""
    with path.open("rb") as file:
        head = file.read(26)
    return (head[24], head[25]) if len(head) == 26 and head.startswith(_PNG) else (0, 0)


# Folders


def natural(path: Path) -> list[Any]:
    """A key that sorts numbers in names by their value.

    >>> from pathlib import Path
    >>> [p.name for p in sorted(map(Path, ["img10.png", "img2.png", "Img1.png"]), key=natural)]
    ['Img1.png', 'img2.png', 'img10.png']
    """
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), part) if part.isdecimal() else part.lower() for part in parts]


def picture_files(folder: Path) -> list[Path]:
    """The images of a folder, in natural order."""
    files = (file for file in folder.iterdir() if file.suffix.lower() in _ENDINGS and file.name[0] != ".")
    return sorted((file for file in files if file.is_file()), key=natural)


def read_folder(path: Path, series: int | None = None, *, labels: bool = False) -> Opened:
    """Open the images of a folder as the planes of one stack.

    Raises
    ------
    ValueError
        Where it holds no images, or images that do not fit together.
    """
    files = picture_files(path)
    if not files:
        raise ValueError(
            f"{path} is a folder without images and without zarr metadata; give a TIFF, PNG or OME-Zarr, or a folder of planes"
        )
    return read_files(files, path.name, series, labels=labels)


def read_files(files: Sequence[Path], name: str, series: int | None = None, *, labels: bool = False) -> Opened:
    """Open files as the planes of one stack, in the given order.

    Raises
    ------
    ValueError
        Where they are not all planes of one kind, shape and type; it names the first that is not.
    """
    only_one(str(files[0].parent), series)
    if len(files) == 1:
        with files[0].open("rb") as file:
            tiff = file.read(4) in SIGNATURES
        return read_tiff(files[0], labels=labels) if tiff else read_picture(files[0], labels=labels)
    kinds = {_SAME.get(file.suffix.lower(), file.suffix.lower()) for file in files}
    if len(kinds) > 1:
        raise ValueError(
            f"{files[0].parent} holds images of several kinds ({', '.join(sorted(kinds))}); name one, as "
            f'"{files[0].parent / ("*" + files[0].suffix)}"'
        )
    planes = _Planes(files, labels)
    note = f"{len(files)} files from {files[0].name} to {files[-1].name} are taken as slices along z; --axes tyx makes them time"
    first = planes.first
    if first.samples is not None:
        note = note.replace("tyx", "tyxc" if first.samples == 2 else "tcyx")
    return replace(
        first,
        data=planes.array,
        axes=f"z{first.axes}",
        name=name,
        samples=None if first.samples is None else first.samples + 1,
        close=planes.array.forget,
        named=True,
        assumed=(note,),
    )


class _Planes:
    """Files as the planes of one array."""

    def __init__(self, files: Sequence[Path], labels: bool) -> None:
        self._files, self._labels = files, labels
        for index, file in enumerate(files):
            opened, shape, dtype = self._about(file)
            if index == 0:
                self.first, self._shape, self._dtype = opened, shape, dtype
            elif (shape, dtype) != (self._shape, self._dtype):
                raise ValueError(
                    f"{file} has shape {shape} and type {dtype}, but {files[0].name} {self._shape} and {self._dtype}; "
                    "planes of a stack must be alike. If these are separate images, run them one by one"
                )
        self.array = Frames((len(files),), self._shape, self._dtype, self._read)

    def _about(self, file: Path) -> tuple[Opened, tuple[int, ...], np.dtype[Any]]:
        """One plane, its shape and type, without decoding it."""
        opened = self._open(file, decode=False)
        try:
            shape = tuple(map(int, opened.data.shape))
            if opened.axes is None or len(shape) - ("c" in opened.axes) != 2 or opened.count > 1:
                raise ValueError(f"{file} of shape {shape} is no plane but a stack; name it alone, not its folder")
            return replace(opened, data=np.empty((0,))), shape, np.dtype(opened.data.dtype).newbyteorder("=")
        finally:
            opened.close()

    def _open(self, file: Path, *, decode: bool = True) -> Opened:
        with file.open("rb") as stream:
            tiff = stream.read(4) in SIGNATURES
        if tiff:
            return settled(read_tiff(file, labels=self._labels), None, str(file))
        if decode:
            return settled(read_picture(file, labels=self._labels), None, str(file))
        header = _header(file)
        unread = np.broadcast_to(np.zeros((), header.dtype), header.shape)
        return settled(_opened(unread, header, file.stem, self._labels), None, str(file))

    def _read(self, index: tuple[int, ...]) -> NDArray[Any]:
        opened = self._open(self._files[index[0]])
        try:
            plane = np.array(opened.data[...], dtype=self._dtype)
        finally:
            opened.close()
        if plane.shape != self._shape:
            raise ValueError(f"{self._files[index[0]]} changed while it was read: {plane.shape}, not {self._shape}")
        return plane
