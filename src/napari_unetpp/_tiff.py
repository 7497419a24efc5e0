"""Reading TIFF lazily, whatever its size or compression.

Decides which image of the file is meant (`read_tiff`, `read_all`), whether the file holds all that it promises
(`_check_whole`), how its bytes are reached (`_lazy`: a memory map where the pixels lie in one
piece, else single strips and tiles as chunks), and what its metadata say of spacing and time. What it says of axes,
samples and colours is in `_tiff_pixels`.
"""

from __future__ import annotations

import logging
import math
import struct
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
import tifffile
import zarr

from napari_unetpp._opened import DAMAGED, Opened, close_nothing, micrometres, one_line, seconds, which
from napari_unetpp._tiff_pixels import Photometric, Refused, name_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from napari_unetpp.box import ArrayLike

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Chunks of a strip of a few rows cost more in bookkeeping than in decoding (2048 x 2048, strips
# of one row: 300 ms a plane, decoded as one page 57 ms); above 16 rows strips win.
_THIN_STRIP = 2**14
_SMALL_PAGE = 2**26


def read_tiff(path: Path, series: int | None = None, *, labels: bool = False) -> Opened:
    """Open one image of a TIFF; without `series` its first. The colours of a palette of `labels` are left aside.

    Raises
    ------
    ValueError
        Where the file is damaged, truncated or has no such series.
    """
    with _parsed(path) as tif:
        images = _images(tif, path)
        wanted = 0 if series is None else series
        if not 0 <= wanted < len(images):
            shapes = ", ".join(f"{i}: {s.shape}" for i, s in enumerate(images))
            msg = f"{path} has no series {wanted}; it has {shapes}"
            raise Refused(msg)
        opened = _open_series(tif, path, wanted, _Closing(tif, 1), labels=labels)
        if series is None:
            opened = replace(
                opened, notes=(*which(0, len(images), images[0].name if tif.is_ome else ""), *opened.notes)
            )
        if isinstance(opened.data, np.ndarray):  # the map goes with the last array that shows it
            tif.close()
        return opened


def read_all(path: Path) -> list[Opened]:
    """Open every image of a TIFF, with its coarser resolutions where the file holds a pyramid.

    They share one open file, which the last to be closed closes.

    Raises
    ------
    ValueError
        Where the file is damaged or truncated.
    """
    with _parsed(path) as tif:
        closing = _Closing(tif, len(_images(tif, path)))
        return [_open_series(tif, path, index, closing, pyramid=True) for index in range(closing.users)]


class _Closing:
    """Counts who still needs an open file."""

    def __init__(self, tif: tifffile.TiffFile, users: int) -> None:
        self._tif, self.users = tif, users

    def leave(self) -> None:
        self.users -= 1
        if self.users <= 0:
            self._tif.close()


@contextmanager
def _parsed(path: Path) -> Iterator[tifffile.TiffFile]:
    """The file, which is closed and refused in one line where what is done with it fails."""
    with _quiet():
        tif = _parse(path)
        try:
            yield tif
        except Refused as refusal:
            tif.close()
            raise ValueError(one_line(refusal)) from None
        except DAMAGED as error:
            tif.close()
            msg = f"{path} is damaged or no TIFF that can be read ({one_line(error)})"
            raise ValueError(msg) from error


def _parse(path: Path) -> tifffile.TiffFile:
    try:
        return tifffile.TiffFile(path)
    except DAMAGED as error:
        msg = f"{path} is truncated or damaged ({one_line(error)}); copy or save it again"
        raise ValueError(msg) from error


def _images(tif: tifffile.TiffFile, path: Path) -> list[tifffile.TiffPageSeries]:
    if not tif.pages:
        msg = f"{path} is truncated: it holds no image; copy or save it again"
        raise Refused(msg)
    _check_chain(tif, path)
    return tif.series


def _open_series(
    tif: tifffile.TiffFile,
    path: Path,
    index: int,
    closing: _Closing,
    *,
    pyramid: bool = False,
    labels: bool = False,
) -> Opened:
    image, count = tif.series[index], len(tif.series)
    _check_whole(tif, image, path)
    named = name_image(tif, image)
    seen = Photometric.of(tif, image, path, labels=labels)
    data, close = _lazy(tif, image, path)
    data = seen.apply(data)
    closes, coarser = [close], []
    for level in image.levels[1:] if pyramid else ():
        if len(level.shape) == len(image.shape):
            _check_pages(level, path, tif.filehandle.size)
            smaller, close = _lazy(tif, level, path)
            coarser.append(seen.apply(smaller))
            closes.append(close)

    def close_all() -> None:
        for close in closes:
            close()
        closes[:] = []
        closing.leave()

    name = path.stem.removesuffix(".ome")
    if count > 1:
        name = f"{name} [{index}]"
    axes, samples = named.axes, named.samples
    if data.ndim > len(image.shape):  # the colours of a palette
        samples = data.ndim - 1
        axes = axes and axes + "c"
    return Opened(
        data,
        axes,
        named.says,
        name,
        _spacing(tif, index, count),
        close_all,
        tuple(coarser),
        named=named.named,
        colours=samples is not None if data.ndim > len(image.shape) else named.colours,
        samples=samples,
        alpha=named.alpha,
        notes=(*seen.notes, *_left_out(tif)),
        assumed=named.assumed,
        interval_s=_interval(tif, index, count),
        count=count,
    )


def _left_out(tif: tifffile.TiffFile) -> tuple[str, ...]:
    """A note on planes of the file that its metadata do not announce."""
    if not (tif.is_ome or tif.is_imagej) or any(image.is_multifile for image in tif.series):
        return ()
    announced = sum(math.prod(image.shape) // max(1, math.prod(image.keyframe.shape)) for image in tif.series)
    held = len(tif.pages)
    if held <= announced:
        return ()
    whose = "OME" if tif.is_ome else "ImageJ"
    return (f"its {whose} metadata announce {announced} planes, the file holds {held}; the last ones are left out",)


def _lazy(tif: tifffile.TiffFile, image: tifffile.TiffPageSeries, path: Path) -> tuple[ArrayLike, Callable[[], None]]:
    """An array of the image's voxels, and what to call once nobody reads them any more."""
    page = image.keyframe
    offset = image.dataoffset
    if 0 in image.shape:
        return np.zeros(image.shape, image.dtype), close_nothing
    as_stored = page.is_memmappable and image.transform is None and not image.is_multifile
    if offset is not None and as_stored:
        dtype = image.dtype.newbyteorder(tif.byteorder)
        return np.memmap(path, dtype, mode="r", offset=offset, shape=image.shape), close_nothing
    strip = np.prod(page.chunks) * image.dtype.itemsize
    whole_pages = not page.is_tiled and strip < _THIN_STRIP and page.nbytes <= _SMALL_PAGE
    store = image.aszarr(level=0, chunkmode=2 if whole_pages else 0)
    return zarr.open_array(store, mode="r", zarr_format=2), store.close


def _check_chain(tif: tifffile.TiffFile, path: Path) -> None:
    """Refuse a file whose chain of pages breaks off; tifffile would read the rest as all."""
    if tif.is_scanimage or tif.is_lsm:  # their chains are computed, not read
        return
    count = len(tif.pages)
    where = tif.pages.next_page_offset
    if where is None:
        return
    tif.filehandle.seek(where)
    raw = tif.filehandle.read(tif.tiff.offsetsize)
    try:
        following = struct.unpack(tif.tiff.offsetformat, raw)[0]
    except struct.error:
        following = where
    if following:
        msg = (
            f"{path} is truncated: page {count} should lie at byte {following}, but cannot be read"
            f" there ({tif.filehandle.size} bytes are left); copy or save it again"
        )
        raise Refused(msg)


def _lost_description(tif: tifffile.TiffFile) -> bool:
    """Whether the directory promises a description, and so axes, that the file no longer holds."""
    page, tiff, file = tif.pages.first, tif.tiff, tif.filehandle
    file.seek(page.offset)
    count = struct.unpack(tiff.tagnoformat, file.read(tiff.tagnosize))[0]
    codes = [struct.unpack(tif.byteorder + "H", file.read(tiff.tagsize)[:2])[0] for _ in range(count)]
    return 270 in codes and 270 not in page.tags  # ImageDescription


def _check_whole(tif: tifffile.TiffFile, image: tifffile.TiffPageSeries, path: Path) -> None:
    """Refuse a file that ends before its pixels do."""
    size = tif.filehandle.size
    if _lost_description(tif):
        msg = f"{path} is truncated: its description lies past the end; copy or save it again"
        raise Refused(msg)
    if tif.is_imagej and image.kind in {"generic", "uniform"}:
        promised = (tif.imagej_metadata or {}).get("images", "more")
        msg = (
            f"{path} is truncated or damaged: ImageJ wrote {promised} images of"
            f" {tif.pages.first.nbytes} bytes, the file has {size}; copy or save it again"
        )
        raise Refused(msg)
    _check_pages(image, path, size)


def _check_pages(image: tifffile.TiffPageSeries, path: Path, size: int) -> None:
    """Refuse an image whose pages are missing, or end after the file does."""
    if image.dataoffset is not None:
        _check_end(path, image.dataoffset + image.nbytes, size)
        return
    for index, page in enumerate(image.pages):
        if page is None:
            msg = (
                f"{path} lacks page {index} of {len(image.pages)}; put the other files of the"
                " same OME-TIFF beside it, or save it again"
            )
            raise Refused(msg)
        offsets, counts = page.dataoffsets, page.databytecounts
        if not offsets or len(offsets) != len(counts):
            msg = f"{path} is truncated or damaged: page {index} is lost; copy or save it again"
            raise Refused(msg)
        ends = max(map(sum, zip(offsets, counts, strict=True)))
        _check_end(path, ends, page.parent.filehandle.size)


def _check_end(path: Path, end: int, size: int) -> None:
    if end > size:
        msg = f"{path} is truncated: {size} of at least {end} bytes; copy or save it again"
        raise Refused(msg)


def _spacing(tif: tifffile.TiffFile, index: int, count: int) -> dict[str, float]:
    """Spacing in um by axis letter, from OME or ImageJ metadata.

    A plain TIFF's XResolution is no spacing: nearly all carry a screen's or printer's (72 dpi).
    """
    found: dict[str, float | None] = {}
    if tif.is_ome and tif.ome_metadata:
        images = _ome_pixels(tif.ome_metadata)
        # tifffile skips images without pixels; where it did, the index no longer tells which.
        pixels = images[index] if len(images) == count else {}
        for axis in "XYZ":
            size, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit")
            found[axis.lower()] = micrometres(size, "um" if unit is None else unit)
    elif tif.is_imagej:
        meta = tif.imagej_metadata or {}
        unit = meta.get("unit")
        found["z"] = micrometres(meta.get("spacing"), unit)
        for axis, tag in (("y", "YResolution"), ("x", "XResolution")):
            pixels_per_unit = tif.pages.first.tags.valueof(tag) or (0, 1)
            if pixels_per_unit[0]:
                found[axis] = micrometres(pixels_per_unit[1] / pixels_per_unit[0], unit)
    return {axis: value for axis, value in found.items() if value is not None}


def _interval(tif: tifffile.TiffFile, index: int, count: int) -> float | None:
    """Seconds between frames, from OME or ImageJ metadata."""
    if tif.is_ome and tif.ome_metadata:
        images = _ome_pixels(tif.ome_metadata)
        pixels = images[index] if len(images) == count else {}
        return seconds(pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s"))
    meta = (tif.imagej_metadata or {}) if tif.is_imagej else {}
    return seconds(meta.get("finterval"), meta.get("tunit", "s"))


def _ome_pixels(xml: str) -> list[dict[str, str]]:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return []
    return [dict(e.attrib) for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep tifffile's log of this thread off the console: what matters is raised, in one line."""
    thread = threading.get_ident()

    def other_threads(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger = logging.getLogger("tifffile")
    logger.addFilter(other_threads)
    try:
        yield
    finally:
        logger.removeFilter(other_threads)
