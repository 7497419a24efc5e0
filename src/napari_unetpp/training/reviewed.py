"""Boxes that somebody has reviewed, as a list without one inside another.

Decides, in this order: how a box joins the list (`with_box`) and how one is taken out of it (`without_box`). The voxels that
were reviewed are those of the union::

    +-------+            +-------+
    |  +--+ |  +  ....   |       |       a box that another covers is no entry of its own
    |  +--+ |            +-------+
    +-------+
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_unetpp.box import Box

if TYPE_CHECKING:
    from collections.abc import Sequence


def with_box(boxes: Sequence[Box], box: Box) -> tuple[Box, ...]:
    """The boxes and one more; what is inside another is left out.

    >>> with_box([Box((0, 0), (4, 4)), Box((8, 8), (9, 9))], Box((0, 0), (8, 8)))
    (Box(start=(8, 8), stop=(9, 9)), Box(start=(0, 0), stop=(8, 8)))
    """
    if any(box.inside(other) for other in boxes):
        return tuple(boxes)
    return (*(other for other in boxes if not other.inside(box)), box)


def without_box(boxes: Sequence[Box], box: Box) -> tuple[Box, ...]:
    """The boxes without the voxels of one: a box that reaches past it is cut into what is left.

    >>> without_box([Box((0, 0), (3, 8))], Box((1, 0), (2, 8)))
    (Box(start=(0, 0), stop=(1, 8)), Box(start=(2, 0), stop=(3, 8)))
    """
    left: tuple[Box, ...] = ()
    for other in boxes:
        for piece in _cut(other, box):
            left = with_box(left, piece)
    return left


def _cut(box: Box, hole: Box) -> list[Box]:
    """Pieces of a box around a hole: below and above it along each axis, then within its span along the next."""
    hole = hole.intersect(box)
    if hole.size == 0:
        return [box]
    pieces = []
    start, stop = list(box.start), list(box.stop)
    for axis in range(box.ndim):
        if start[axis] < hole.start[axis]:
            pieces.append(Box(tuple(start), (*stop[:axis], hole.start[axis], *stop[axis + 1 :])))
        if hole.stop[axis] < stop[axis]:
            pieces.append(Box((*start[:axis], hole.stop[axis], *start[axis + 1 :]), tuple(stop)))
        start[axis], stop[axis] = hole.start[axis], hole.stop[axis]
    return pieces


def box_of(corners: Any) -> Box:
    """A box out of ``[start, stop]`` as JSON keeps it; TypeError where it is none."""
    try:
        start, stop = corners
        return Box(tuple(start), tuple(stop))
    except ValueError as error:
        raise TypeError(f"{corners!r} ({error})") from None
