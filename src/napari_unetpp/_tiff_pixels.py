"""What the numbers of a TIFF mean: its axes, its samples, and how they are to be seen (photometric interpretation).

Decides which axis is what (`name_image`), and what must be done to the stored numbers (`Photometric`): white stored as 0
is turned round, palettes become gray values or colours, and what we cannot convert is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG

from napari_unetpp._opened import name_axes
from napari_unetpp._views import inverted, looked_up

if TYPE_CHECKING:
    from pathlib import Path

    import tifffile
    from numpy.typing import NDArray

    from napari_unetpp.box import ArrayLike

_KNOWN = {int(kind) for kind in PHOTOMETRIC}
_RGB = {PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR}
_ALPHA = {EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA}
# Compressions whose decoder turns YCbCr into RGB.
_JPEG = {COMPRESSION.JPEG, COMPRESSION.OJPEG, COMPRESSION.JPEG_LOSSY, 33003, 33005, 34712}


class Refused(ValueError):
    """A file that we refuse ourselves, in words of our own."""


@dataclass(frozen=True, slots=True)
class ImageAxes:
    """Axes of a TIFF image and what the file says of its samples; the fields are those of `Opened`."""

    axes: str | None
    says: str
    named: bool
    colours: bool | None
    samples: int | None
    alpha: bool
    assumed: tuple[str, ...] = ()


def name_image(tif: tifffile.TiffFile, image: tifffile.TiffPageSeries) -> ImageAxes:
    """The axes of an image, as far as the file names them."""
    letters, page = image.axes, image.keyframe
    unnamed = image.kind == "shaped" and '"axes":' not in page.description
    planar = unnamed and page.planarconfig == PLANARCONFIG.SEPARATE and page.photometric in _RGB
    assumed: tuple[str, ...] = ()
    if planar and letters == "SYX" and page.samplesperpixel == 3:
        assumed = (
            "its three planes are marked as red, green and blue, and taken as such; --axes zyx takes them as slices",
        )
    elif planar:
        # tifffile marks any planes of which it is told nothing as colours where there are 3 or 4 of them.
        letters = "Q" * (len(image.shape) - 2) + "YX"
    elif unnamed:
        # Of tifffile's own files without axes only the places in the shape count.
        ending = "YXS" if letters.endswith("YXS") else "YX"
        letters = "Q" * (len(image.shape) - len(ending)) + ending
    samples = letters.index("S") if letters.count("S") == 1 else None
    says = f"it says {letters}"
    if planar and letters == "QYX":
        return ImageAxes(None, "its planes are marked as colours, or are slices", False, None, None, False)
    if tif.is_ome and image.kind in {"generic", "uniform"} and len(letters) > 2:
        return ImageAxes(None, "its OME metadata cannot be used", False, None, None, False)
    extra = page.extrasamples or ()
    alpha = samples is not None and len(extra) == 1 and extra[0] in _ALPHA and image.shape[samples] in (2, 4)
    colours: bool | None = None
    if samples is not None and page.photometric in _RGB:
        colours = image.shape[samples] == 3 + alpha
    elif "C" in letters or samples is not None:
        colours = False
    named = not set("QI") & set(letters)
    return ImageAxes(name_axes(letters), says, named, colours, samples, alpha, assumed)


@dataclass(frozen=True, slots=True, eq=False)
class Photometric:
    """What must be done to the stored numbers before they are what a viewer shows."""

    white_is_zero: int = 0  # bits of a voxel; 0 where black is 0
    table: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, tif: tifffile.TiffFile, image: tifffile.TiffPageSeries, path: Path, *, labels: bool = False
    ) -> Photometric:
        """How an image of a file is to be seen; the palette of `labels` is left aside, their numbers are what counts.

        Raises
        ------
        Refused
            For CMYK, CIELab and other colours that are not converted here.
        """
        page = image.keyframe
        kind = PHOTOMETRIC(page.photometric) if page.photometric in _KNOWN else None
        ycbcr = kind == PHOTOMETRIC.YCBCR and page.compression not in _JPEG
        if kind in _UNREADABLE or ycbcr:
            name = "YCbCr" if kind is None else _UNREADABLE.get(kind, "YCbCr")
            raise Refused(f"{path} holds {name} colours; save it as RGB or gray, for instance with Fiji")
        if kind == PHOTOMETRIC.MINISWHITE:
            if image.dtype.kind == "b" and _is_of_tifffile(tif, image):
                return cls(
                    notes=(
                        "tifffile wrote this mask, and marks every mask as MINISWHITE; its numbers are used as stored",
                    )
                )
            if tif.is_imagej:
                return cls(notes=("it is displayed inverted (ImageJ's inverting LUT); its numbers are used as stored",))
            return cls(int(_bits(page)), notes=("it stores white as 0 (MINISWHITE); its numbers are turned round",))
        if kind == PHOTOMETRIC.PALETTE and page.colormap is not None:
            # Microscopes write the colour in which they show a channel as a palette.
            if labels or image.kind not in {"shaped", "generic", "uniform"}:
                return cls(notes=("its colour table is for display only; its numbers are used as stored",))
            table = as_table(page.colormap.T)
            gray = bool((table == table[:, :1]).all())
            what = "gray values" if gray else "red, green and blue"
            return cls(table=table, notes=(f"its numbers stand for colours (palette); they are read as {what}",))
        return cls()

    def apply(self, array: ArrayLike) -> ArrayLike:
        if self.white_is_zero:
            return inverted(array, self.white_is_zero)
        return array if self.table is None else looked_up(array, self.table)


_UNREADABLE = {
    PHOTOMETRIC.SEPARATED: "CMYK",
    PHOTOMETRIC.CIELAB: "CIELab",
    PHOTOMETRIC.ICCLAB: "ICCLab",
    PHOTOMETRIC.ITULAB: "ITULab",
    PHOTOMETRIC.LOGL: "LogL",
    PHOTOMETRIC.LOGLUV: "LogLuv",
    PHOTOMETRIC.CFA: "unprocessed camera",
}


def as_table(table: NDArray[Any]) -> NDArray[Any]:
    """A colour table in 8 bit, where its 16 bit say no more than that.

    >>> as_table(np.array([[0, 257, 65535]], "u2")).tolist(), as_table(np.array([[0, 1]], "u2")).tolist()
    ([[0, 1, 255]], [[0, 1]])
    """
    high = (table >> 8).astype(np.uint8)
    if (table == high.astype(table.dtype) * 257).all() or (table == high.astype(table.dtype) << 8).all():
        return high
    return table


def _is_of_tifffile(tif: tifffile.TiffFile, image: tifffile.TiffPageSeries) -> bool:
    return image.kind == "shaped" or (tif.is_ome and 'Creator="tifffile.py' in (tif.ome_metadata or ""))


def _bits(page: Any) -> int:
    bits = page.bitspersample
    return int(bits[0]) if isinstance(bits, tuple) else int(bits)
