"""Reading Zeiss' CZI plane by plane, the tiles of a mosaic put in their places; its scenes are the series."""

from __future__ import annotations

import threading
import warnings
from collections import defaultdict
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import imagecodecs
import numpy as np

from napari_unetpp._frames import Frames
from napari_unetpp._opened import DAMAGED, Opened, chosen, micrometres, needs, one_line, seconds, which

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_OUTER = "TCZ"
_ZSTD0, _ZSTD1 = 5, 6  # compressions of newer files; the second has a header, and may store low and high bytes apart


def read_czi(path: Path, series: int | None = None) -> Opened:
    """Open one scene of a CZI; without `series` the first.

    Raises
    ------
    ValueError
        Where it is damaged, has no such scene, or axes that are not known here.
    """
    czifile = needs("czifile", path, "czi")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = czifile.CziFile(str(path))
    except (OSError, *DAMAGED, czifile.czifile.SegmentNotFoundError) as error:
        raise ValueError(f"{path} is damaged or no CZI that can be read ({one_line(error)})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _scene(file, path, series)
    except _Refused as refusal:
        file.close()
        raise ValueError(str(refusal)) from None
    except (OSError, *DAMAGED, ElementTree.ParseError, czifile.czifile.SegmentNotFoundError) as error:
        file.close()
        raise ValueError(f"{path} is damaged ({one_line(error)}); copy or save it again") from error


class _Refused(ValueError):
    """A file that we refuse ourselves, in words of our own."""


def _scene(file: Any, path: Path, series: int | None) -> Opened:
    tiles = [entry for entry in file.subblock_directory if entry.pyramid_type == 0]
    places = [dict(zip(tile.axes, tile.start, strict=True)) for tile in tiles]
    scenes = sorted({place.get("S", 0) for place in places})
    if not scenes:
        raise _Refused(f"{path} holds no image")
    try:
        number = chosen(path, series, len(scenes))
    except ValueError as error:
        raise _Refused(str(error)) from None
    mine = [pair for pair in zip(tiles, places, strict=True) if pair[1].get("S", 0) == scenes[number]]
    low: dict[str, int] = {}
    high: dict[str, int] = {}
    for tile, place in mine:
        for axis, extent in zip(tile.axes, tile.shape, strict=True):
            low[axis] = min(low.get(axis, place[axis]), place[axis])
            high[axis] = max(high.get(axis, 0), place[axis] + extent)
    extent = {axis: int(high[axis] - low[axis]) for axis in low}
    strange = [axis for axis in extent if axis not in "TCZYXS0" and extent[axis] > 1]
    samples = extent.get("0", 1)
    if strange or (samples > 1 and extent.get("C", 1) > 1):
        raise _Refused(
            f"{path} has the axes {', '.join(a for a in extent if extent[a] > 1)}; export it as OME-TIFF with at most t, c, "
            "z, y and x"
        )
    outer = [axis for axis in _OUTER if extent.get(axis, 1) > 1]
    frame = (extent["Y"], extent["X"], samples) if samples > 1 else (extent["Y"], extent["X"])
    held = defaultdict(list)
    for tile, place in mine:
        held[tuple(int(place[axis] - low[axis]) for axis in outer)].append((tile, place))
    dtype = np.dtype(np.result_type(*{np.dtype(tile.dtype).base for tile, _ in mine}))
    lock = threading.Lock()

    def read(index: tuple[int, ...]) -> NDArray[Any]:
        plane = np.zeros((extent["Y"], extent["X"], samples), dtype)
        for tile, place in sorted(held.get(index, ()), key=lambda pair: pair[0].mosaic_index or 0):
            with lock:
                pixels = _pixels(tile, path)
            y, x = place["Y"] - low["Y"], place["X"] - low["X"]
            plane[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
        return plane if samples > 1 else plane[..., 0]

    data = Frames([extent[axis] for axis in outer], frame, dtype, read)

    def close() -> None:
        data.forget()
        file.close()

    axes = "".join(outer).lower() + "yx" + "c" * (samples > 1)
    spacing, interval = _metadata(file)
    missing = int(np.prod([extent[axis] for axis in outer], dtype=int)) - len(held)
    gaps = (f"{missing} of its planes were not recorded; they are read as 0",) if missing else ()
    return Opened(
        data,
        axes,
        f"it says {', '.join(extent)}",
        path.stem if len(scenes) == 1 else f"{path.stem} [{number}]",
        spacing,
        close,
        colours=samples > 1 if "c" in axes else None,
        samples=len(axes) - 1 if samples > 1 else None,
        alpha=samples == 4,
        notes=(*(which(number, len(scenes), f"scene {scenes[number]}") if series is None else ()), *gaps),
        interval_s=interval,
        count=len(scenes),
    )


def _pixels(tile: Any, path: Path) -> NDArray[Any]:
    """Pixels (y, x, sample) of a tile.

    Raises
    ------
    ValueError
        Where they are damaged, or compressed in an unknown way.
    """
    try:
        segment = tile.data_segment()
        if tile.compression in (_ZSTD0, _ZSTD1):
            pixels = np.frombuffer(_unzstd(segment.data(raw=True), tile.compression), np.dtype(tile.dtype).base)
            pixels = pixels.reshape(tile.stored_shape)
            pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[-1]]] if pixels.shape[-1] > 2 else pixels  # stored as BGR
        else:
            pixels = segment.data(resize=False)
        height, width = (tile.stored_shape[tile.axes.index(axis)] for axis in "YX")
        return np.asarray(pixels).reshape(height, width, -1)
    except Exception as error:  # what decoders raise is of any kind
        raise ValueError(f"{path}: a tile cannot be read ({one_line(error)}); export it as OME-TIFF") from error


def _unzstd(raw: bytes, compression: int) -> bytes:
    head = raw[0] if compression == _ZSTD1 else 0
    apart = head == 3 and raw[1] == 1 and bool(raw[2] & 1)
    data = bytes(imagecodecs.zstd_decode(raw[head:]))
    return np.frombuffer(data, np.uint8).reshape(2, -1).T.tobytes() if apart else data


def _metadata(file: Any) -> tuple[dict[str, float], float | None]:
    """Spacing in um by axis, and seconds between frames, out of the XML; metres and seconds stand there."""
    text = file.metadata(raw=True)
    if not text:
        return {}, None
    root = ElementTree.fromstring(text)
    spacing = {}
    for axis in "XYZ":
        step = micrometres(root.findtext(f".//Scaling/Items/Distance[@Id='{axis}']/Value"), "m")
        if step is not None:
            spacing[axis.lower()] = step
    return spacing, seconds(root.findtext(".//Dimensions/T/Positions/Interval/Increment"), "s")
