"""Which part of a file an image layer shows: compared voxel by voxel, because a layer can be changed after it was opened."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_unetpp.box import Box
from napari_unetpp.inference.events import Waiting
from napari_unetpp.stacks import open_stack

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from napari_unetpp.stacks import Stack

BAND_VOXELS = 2**22  # read at once, so that the job can be stopped soon


@dataclass(frozen=True, slots=True)
class FilePart:
    """The image of a file, and its channel where the layer shows a single one; `axes` are those of the file's image."""

    series: int
    channel: int | None
    axes: str


def find_part(path: Path | None, shown: Stack, axes: str) -> Generator[Waiting, None, FilePart]:
    """The part of the file whose voxels are those of the layer; `Waiting` after each band that was compared.

    Raises
    ------
    ValueError
        Where the layer is of no file, or no part of its file has exactly the voxels of the layer.
    """
    if path is None or not path.exists():
        raise ValueError("The image is not from a file, so there is no command for it; save it first, and open that.")
    alike = False
    for series in itertools.count():
        offered = list(_readings(path, series, shown, axes))
        if not offered:
            break
        for letters, channels in offered:
            for channel in channels:
                alike = True
                with open_stack(path, series=series, axes=letters) as file:
                    if (yield from _same_voxels(file, channel, shown)):
                        return FilePart(series, channel, letters)
    if alike:
        raise ValueError(
            f"{shown.name} does not hold the voxels of {path.name}: it was changed since it was opened,"
            " or opened in another way. Save it, open the saved file, and copy the command then."
        )
    raise ValueError(
        f"No image or channel in {path} has the shape {shown.shape} of {shown.name}, which shows only a part of it"
        " or was made from it; save it, and open that for a command."
    )


def _readings(path: Path, series: int, shown: Stack, named: str) -> Iterator[tuple[str, list[int | None]]]:
    """Axes under which an image of the file can be the layer, and the channels to compare; nothing after the last image."""
    exists = False
    for axes in dict.fromkeys((named, shown.axes, None)):
        try:
            with open_stack(path, series=series, axes=axes) as file:
                exists = True
                if file.shape == shown.shape and file.axes == shown.axes:
                    yield file.axes, [None]
                elif (shown.channel_axis, file.shape_predicted) == (None, shown.shape_predicted) and (
                    file.axes_predicted == shown.axes_predicted and file.channel_axis is not None
                ):
                    yield file.axes, list(range(file.channels))
        except ValueError:
            continue
    if exists:
        yield "", []


def _same_voxels(file: Stack, channel: int | None, shown: Stack) -> Generator[Waiting, None, bool]:
    if file.dtype != shown.dtype:
        return False
    *leading, height, width = shown.shape_predicted
    rows = max(1, BAND_VOXELS // (width * file.channels))
    for place in np.ndindex(*leading):
        for top in range(0, height, rows):
            box = Box((*place, top, 0), (*(i + 1 for i in place), min(top + rows, height), width))
            stored, seen = file.read(box), shown.read(box)
            if channel is not None:
                stored = stored[channel : channel + 1]
            if not np.array_equal(stored, seen, equal_nan=file.dtype.kind == "f"):
                return False
            yield Waiting()
    return True
