"""Reading Nikon's ND2 frame by frame; its positions are the series."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp._frames import Frames
from napari_unetpp._opened import DAMAGED, Opened, chosen, micrometres, needs, one_line, seconds, which

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_LETTERS = {"T": "t", "Z": "z", "C": "c", "Y": "y", "X": "x", "S": "c"}  # S are red, green and blue


def read_nd2(path: Path, series: int | None = None) -> Opened:
    """Open one position of an ND2; without `series` the first.

    Raises
    ------
    ValueError
        Where it is damaged, has no such position, or axes that are not known here.
    """
    nd2 = needs("nd2", path, "nd2")
    try:
        file = nd2.ND2File(path)
    except (OSError, *DAMAGED) as error:
        raise ValueError(f"{path} is damaged or no ND2 that can be read ({one_line(error)})") from error
    try:
        return _position(file, path, series)
    except _Refused as refusal:
        file.close()
        raise ValueError(str(refusal)) from None
    except (OSError, *DAMAGED) as error:
        file.close()
        raise ValueError(f"{path} is damaged ({one_line(error)}); copy or save it again") from error


class _Refused(ValueError):
    """A file that we refuse ourselves, in words of our own."""


def _position(file: Any, path: Path, series: int | None) -> Opened:
    sizes: dict[str, int] = dict(file.sizes)
    count = sizes.get("P", 1)
    try:
        position = chosen(path, series, count)
    except ValueError as error:
        raise _Refused(str(error)) from None
    loops = [name for name in sizes if name not in "CYXS"]
    outer, frame = [name for name in loops if name != "P"], [name for name in sizes if name in "CYXS"]
    axes = "".join(_LETTERS.get(name, "?") for name in (*outer, *frame))
    if "?" in axes or len(set(axes)) < len(axes):
        raise _Refused(f"{path} has the axes {', '.join(sizes)}; export it as OME-TIFF with at most t, c, z, y and x")
    lock = threading.Lock()

    def read(index: tuple[int, ...]) -> NDArray[Any]:
        at = dict(zip(outer, index, strict=True)) | {"P": position}
        number = np.ravel_multi_index([at[name] for name in loops], [sizes[name] for name in loops]) if loops else 0
        try:
            with lock:
                return np.array(file.read_frame(int(number)))  # a copy: what it gives lies in the file
        except (OSError, *DAMAGED) as error:
            raise ValueError(f"{path} is truncated or damaged ({one_line(error)}); copy or save it again") from error

    data = Frames([sizes[name] for name in outer], [sizes[name] for name in frame], np.dtype(file.dtype), read)

    def close() -> None:
        data.forget()
        file.close()

    names = _names(file)
    name = names[position] if position < len(names) else ""
    return Opened(
        data,
        axes,
        f"it says {', '.join(sizes)}",
        path.stem if count == 1 else f"{path.stem} [{position}]",
        _spacing(file),
        close,
        colours="S" in frame if "c" in axes else None,
        samples=len(axes) - 1 if "S" in frame else None,
        alpha=sizes.get("S") == 4,
        notes=which(position, count, name) if series is None else (),
        interval_s=_interval(file),
        count=count,
    )


def _spacing(file: Any) -> dict[str, float]:
    """Spacing where the microscope was calibrated; the package says 1 um where it was not."""
    channels = getattr(file.metadata, "channels", None) or []
    for channel in channels[:1]:
        volume = channel.volume
        steps = zip("xyz", volume.axesCalibrated, volume.axesCalibration, strict=False)
        return {a: um for a, known, step in steps if known and (um := micrometres(step, "um")) is not None}
    return {}


def _interval(file: Any) -> float | None:
    periods = []
    for loop in file.experiment:
        if loop.type == "TimeLoop":
            periods.append(loop.parameters.periodMs)
        elif loop.type == "NETimeLoop":
            periods += [period.periodMs for period in loop.parameters.periods]
    return seconds(periods[0], "ms") if len({*periods}) == 1 else None


def _names(file: Any) -> list[str]:
    for loop in file.experiment:
        if loop.type == "XYPosLoop":
            return [point.name or "" for point in loop.parameters.points]
    return []
