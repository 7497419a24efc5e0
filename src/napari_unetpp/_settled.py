"""An opened image without what no network can use: alpha, and axes of extent 1 that nobody names.

Decides which axes those are (`settled`), and refuses an image whose axes stay open. Each choice becomes a note.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_unetpp._views import View

if TYPE_CHECKING:
    from napari_unetpp._opened import Opened
    from napari_unetpp.box import ArrayLike

AXES = "tczyx"


def settled(opened: Opened, axes: str | None, who: str) -> Opened:
    """The image as it is to be used; its axes are named, except where the caller names them.

    Parameters
    ----------
    axes
        The caller's names: of the axes as stored, or of those that remain.
    who
        What the user calls the image, for messages.

    Raises
    ------
    ValueError
        Where the axes stay open.
    """
    opened = simplified(opened, axes)
    shape = tuple(map(int, opened.data.shape))
    if axes is not None:  # which do not fit, as the stack will say
        return opened
    opened = replace(opened, notes=(*opened.notes, *opened.assumed))
    if not 2 <= len(shape) <= len(AXES):
        raise ValueError(f"{who} has shape {shape}; a stack has 2 to {len(AXES)} axes")
    if not opened.named and len(shape) == 3 and 1 < shape[2] <= 4 < min(shape[:2]):
        raise ValueError(
            f"{who} of shape {shape} may be {shape[0]} planes of {shape[1]} x {shape[2]} voxels, or one of {shape[0]} x "
            f'{shape[1]} with {shape[2]} channels; pass axes="zyx" or axes="yxc" (--axes)'
        )
    if opened.axes is None:
        example = {2: "yx", 3: "zyx", 5: "tczyx"}.get(len(shape), "zcyx")
        raise ValueError(
            f"{who} of shape {shape} does not name its axes ({opened.says});"
            f' pass axes, one letter out of "{AXES}" each, like axes="{example}"'
        )
    return opened


def simplified(opened: Opened, axes: str | None = None) -> Opened:
    """The image without alpha and without axes of extent 1 that neither the file nor the caller names."""
    if axes is None or opened.samples is None or len(axes) != opened.data.ndim or axes[opened.samples] == "c":
        opened = _without_alpha(opened, axes)
    if opened.named or (axes is not None and len(axes) == opened.data.ndim):
        return opened
    return _squeezed(opened)


def _without_alpha(opened: Opened, axes: str | None) -> Opened:
    """The image without its last sample, where that is alpha; gray and alpha lose the axis of samples."""
    axis = opened.samples
    if not opened.alpha or axis is None:
        return opened
    kept = int(opened.data.shape[axis]) - 1
    rest = [a for a in range(opened.data.ndim) if kept > 1 or a != axis]
    data, *coarser = (_part(a, rest, {axis: kept}) for a in (opened.data, *opened.coarser))
    named = opened.axes if kept > 1 or opened.axes is None else opened.axes[:axis] + opened.axes[axis + 1 :]
    if axes is not None and kept == 1 and len(axes) == opened.data.ndim:
        return replace(opened, alpha=False)  # the caller names an axis of channels, so it stays
    return replace(
        opened,
        data=data,
        coarser=tuple(coarser),
        axes=named,
        samples=axis if kept > 1 else None,
        alpha=False,
        notes=(*opened.notes, "its alpha channel is left out"),
    )


def _squeezed(opened: Opened) -> Opened:
    """The image without axes of extent 1: all before the plane where there are more than three, and a last one.

    (1, y, x) stays, since that may well be a stack of one plane.
    """
    shape = tuple(map(int, opened.data.shape))
    last = len(shape) - 1
    rest = list(range(len(shape)))
    if len(shape) > 3:
        plane = {last - 2, last - 1, last} if shape[last] == 1 else {last - 1, last}
        rest = [axis for axis in rest if shape[axis] > 1 or axis in plane]
    if len(rest) > 2 and shape[last] == 1 and min(shape[rest[-2]], shape[rest[-3]]) > 1:
        rest = rest[:-1]
    if len(rest) == len(shape) or len(rest) < 2:
        return opened
    data, *coarser = (_part(a, rest, {}) for a in (opened.data, *opened.coarser))
    left = tuple(shape[a] for a in rest)
    named = {2: "yx", 3: "zyx"}.get(len(rest))
    note = f"axes of extent 1 are left out: {shape} is read as {left}"
    return replace(opened, data=data, coarser=tuple(coarser), axes=named, samples=None, notes=(*opened.notes, note))


def _part(array: ArrayLike, axes: list[int], stop: dict[int, int]) -> ArrayLike:
    if isinstance(array, np.ndarray):  # its views read nothing
        key = tuple(slice(stop.get(a)) if a in axes else 0 for a in range(array.ndim))
        return array[key]
    return View(array, axes, stop=stop)
