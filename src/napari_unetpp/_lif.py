"""Reading Leica's LIF frame by frame; its images are the series."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from napari_unetpp._frames import Frames
from napari_unetpp._opened import DAMAGED, Opened, chosen, micrometres, needs, one_line, seconds, which

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_LETTERS = {"T": "t", "Z": "z", "C": "c", "Y": "y", "X": "x", "S": "c"}  # S are red, green and blue


def read_lif(path: Path, series: int | None = None) -> Opened:
    """Open one image of a LIF; without `series` the first.

    Raises
    ------
    ValueError
        Where it is damaged, has no such image, or axes that are not known here.
    """
    liffile = needs("liffile", path, "lif")
    try:
        file = liffile.LifFile(path)
    except (OSError, *DAMAGED, ElementTree.ParseError) as error:
        raise ValueError(f"{path} is damaged or no LIF that can be read ({one_line(error)})") from error
    try:
        return _image(file, path, series)
    except _Refused as refusal:
        file.close()
        raise ValueError(str(refusal)) from None
    except (OSError, *DAMAGED, ElementTree.ParseError) as error:
        file.close()
        raise ValueError(f"{path} is damaged ({one_line(error)}); copy or save it again") from error


class _Refused(ValueError):
    """A file that we refuse ourselves, in words of our own."""


def _image(file: Any, path: Path, series: int | None) -> Opened:
    count = len(file.images)
    try:
        number = chosen(path, series, count)
    except ValueError as error:
        raise _Refused(str(error)) from None
    image = file.images[number]
    if image.is_flim:
        raise _Refused(f"{path}: image {number}, {image.name}, holds photon times (FLIM); choose another with --series")
    block = image.memory_block
    if block.offset + block.size > path.stat().st_size:
        raise _Refused(f"{path} is truncated: image {number}, {image.name}, ends after the file; copy or save it again")
    frames = image.frames
    outer, frame = tuple(frames.dims)[: -len(frames.frame_dims)], tuple(frames.frame_dims)
    axes = "".join(_LETTERS.get(name, "?") for name in (*outer, *frame))
    if "?" in axes or len(set(axes)) < len(axes):
        raise _Refused(
            f"{path}: image {number}, {image.name}, has the axes {', '.join((*outer, *frame))}; export it as OME-TIFF with "
            "at most t, c, z, y and x, or choose another with --series"
        )
    sizes, lock = dict(image.sizes), threading.Lock()

    def read(index: tuple[int, ...]) -> NDArray[Any]:
        try:
            with lock:
                return np.array(image.frame(**dict(zip(outer, index, strict=True))))
        except (OSError, *DAMAGED) as error:
            raise ValueError(f"{path} is truncated or damaged ({one_line(error)}); copy or save it again") from error

    data = Frames([sizes[name] for name in outer], [sizes[name] for name in frame], np.dtype(image.dtype), read)

    def close() -> None:
        data.forget()
        file.close()

    steps = {name: float(places[1] - places[0]) for name, places in image.coords.items() if len(places) > 1}
    spacing = {axis: um for axis in "zyx" if (um := micrometres(steps.get(axis.upper(), 0), "m")) is not None}
    return Opened(
        data,
        axes,
        f"it says {', '.join((*outer, *frame))}",
        path.stem if count == 1 else f"{path.stem} [{number}]",
        spacing,
        close,
        colours="S" in frame if "c" in axes else None,
        samples=len(axes) - 1 if "S" in frame else None,
        alpha=sizes.get("S") == 4,
        notes=which(number, count, image.name) if series is None else (),
        interval_s=seconds(steps.get("T", 0), "s"),
        count=count,
    )
