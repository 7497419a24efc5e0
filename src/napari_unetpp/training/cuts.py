"""A cut through one image: which part of it is trained on, and which is held out.

Slices before strips of the plane, with a gap between the parts that nobody uses::

    z  0 ............ 19 | 20 21 | 22 .. 24              training | gap | held out
    z  0 ... 9 | 10 11 | 12 .. 14 | 15 16 | 17 ... 24    training | gap | held out | gap | training

The second form is used only where no cut of the first form leaves every class in both parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_unetpp.box import Box

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_unetpp.training.blocks import Annotated

SLICE_GAP = 2  # slices between training and validation: neighbours in a stack look alike
STRIP_GAP = 16  # voxels, for the same reason within a plane
LARGEST_SHARE = 0.4  # a held-out part larger than this share of the annotations is too much to give away
_SCARCE = 0.25  # of the share that a part would have if a class were spread evenly; with less, its score is chance
_EDGES = 48  # places along an axis where a part between two others may begin or end; all of 4096 would take a minute


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """The parts of one image: boxes (prediction axes), and the annotated voxels of each class in them."""

    training: tuple[Box, ...]
    validation: tuple[Box, ...]
    trained: NDArray[np.int64]
    held: NDArray[np.int64]


def faults(
    trained: NDArray[np.int64], held: NDArray[np.int64], total: NDArray[np.int64], fraction: float
) -> NDArray[np.float64]:
    """What is wrong with two parts, the worst first, (..., 5); of two splits the one whose row sorts first is better.

    The columns: classes that are not trained; classes that are not held out, where a foreground class counts twice; whether too
    much is held out; classes of which one part holds next to nothing; how far the held-out share of all voxels is from `fraction`.

    Parameters
    ----------
    trained, held
        Annotated voxels (..., class) of the two parts.
    total
        Annotated voxels (class,) of both parts and of what lies between them.
    """
    there = total > 0
    twice = np.where(
        np.arange(len(total)) > 0, 2, 1
    )  # so that one foreground class is better than the background alone
    share = held.sum(axis=-1) / max(1, total.sum())
    few = (held < _SCARCE * fraction * total) | (trained < _SCARCE * (1 - fraction) * total)
    columns = (
        ((trained == 0) & there).sum(axis=-1),
        ((held == 0) & there) @ twice,
        share > max(LARGEST_SHARE, fraction),
        (few & there).sum(axis=-1),
        np.abs(share - fraction).round(9),
    )
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=-1)


def cut_pair(annotated: Annotated, whole: Box, ndim: int, fraction: float) -> Cut | None:
    """The best cut of an image; None where it is too small, or too little of it is annotated.

    Slices come before strips of the plane where both are equally good. A 3D network needs two slices at least in each part.
    """
    least = 1 if ndim == 2 else 2
    reach = [np.ptp(np.flatnonzero(along.sum(axis=1))) for along in annotated.along]
    plane = sorted(range(whole.ndim - 2, whole.ndim), key=lambda axis: -reach[axis])
    axes = [(axis, SLICE_GAP, least) for axis in range(whole.ndim - 2)]
    axes += [(axis, STRIP_GAP, STRIP_GAP) for axis in plane]
    found: list[tuple[tuple[float, ...], Cut]] = []
    for parts in (_ends, _middles):
        for axis, gap, minimum in axes:
            along = annotated.along[axis]
            if (cut := _best_cut(along, whole, axis, list(parts(along, gap, minimum)), fraction)) is not None:
                found.append(cut)
        if found and not any(min(fault for fault, _ in found)[:2]):
            break
    return min(found, key=lambda one: one[0], default=(None, None))[1]


Spans = tuple[tuple[tuple[int, int], ...], tuple[int, int]]  # of the training, one or two, and of the held-out part


def _ends(along: NDArray[np.int64], gap: int, minimum: int) -> Iterator[Spans]:
    """Cuts that hold out one end: at least `minimum` slices of the annotated extent on either side of the gap."""
    extent = len(along)
    places = np.flatnonzero(along.sum(axis=1))
    first, last = int(places[0]), int(places[-1])
    for at in range(extent - minimum, first, -1):
        if last + 1 - at >= minimum and at - gap - first >= minimum:
            yield ((0, at - gap),), (at, extent)
    for at in range(minimum, last + 1):
        if at - first >= minimum and last + 1 - at - gap >= minimum:
            yield ((at + gap, extent),), (0, at)


def _middles(along: NDArray[np.int64], gap: int, minimum: int) -> Iterator[Spans]:
    """Cuts that hold out a part between two others that are trained on."""
    extent = len(along)
    edges = np.unique(np.linspace(0, extent, min(extent, _EDGES) + 1).round().astype(int)).tolist()
    for low in edges:
        for high in edges:
            if high - low >= minimum and low - gap >= minimum and extent - high - gap >= minimum:
                yield ((0, low - gap), (high + gap, extent)), (low, high)


def _best_cut(
    along: NDArray[np.int64], whole: Box, axis: int, spans: Sequence[Spans], fraction: float
) -> tuple[tuple[float, ...], Cut] | None:
    """The best of these cuts across one axis, with its faults but the last, which decides within an axis alone."""
    if not spans:
        return None
    below = np.concatenate([np.zeros_like(along[:1]), along.cumsum(axis=0)])  # voxels of each class below a place
    held = np.stack([below[high] - below[low] for _, (low, high) in spans])
    trained = np.stack([sum((below[b] - below[a] for a, b in parts), np.zeros_like(below[0])) for parts, _ in spans])
    rows = faults(trained, held, below[-1], fraction)
    rows[~(held.any(axis=1) & trained.any(axis=1))] = np.inf
    k = int(np.lexsort(rows[:, [4, 3, 1, 0]].T)[0])  # the first where several are as good: the far end
    if not np.isfinite(rows[k, 0]):
        return None

    def box(span: tuple[int, int]) -> Box:
        start, stop = list(whole.start), list(whole.stop)
        start[axis], stop[axis] = span
        return Box(tuple(start), tuple(stop))

    parts, out = spans[k]
    return tuple(rows[k, :4]), Cut(tuple(map(box, parts)), (box(out),), trained[k], held[k])
