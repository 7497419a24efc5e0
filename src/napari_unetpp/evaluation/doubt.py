"""Where in a prediction a person should look first: square regions of its slices, the most doubtful first.

Decides, in this order: the doubt of regions and their order (`rank_doubt`), the doubt of voxels (`doubt_view`), how a slice
is cut into regions and which of them count. With p_d the probabilities of level d, D the deepest level, k a class (two where
a model has one: p and 1 - p)::

    uncertainty         1 - max_k p_D: 0 where the deepest level is sure
    entropy             mean over d of H(p_d), H(p) = -sum_k p log(p) / log(number of classes): 0 where every level is sure
    ensemble entropy    H(mean over d of p_d): the same, and more where sure levels contradict each other
    disagreement        max_d f_d - min_d f_d, f the foreground: `labels.disagreement_view`; needs several levels
    random              an even draw a region, to compare with

The doubt of a region is the mean over its voxels. What was reviewed counts as free of doubt, and a region of nothing else
is left out, as is one that is not predicted everywhere. docs/doubt.md tells how much error each of them finds.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.box import Box
from napari_unetpp.evaluation.agreement import pieces, planned_tiles
from napari_unetpp.inference.labels import LazyView, disagreement_view
from napari_unetpp.inference.layout import array_axes

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.inference.tiles import Tiles

METHODS = ("uncertainty", "entropy", "ensemble entropy", "disagreement", "random")
DEFAULT_METHOD = "uncertainty"
SIZE = 128  # about what a person takes in at one glance
LIMIT = 1000  # more than anybody looks at
# Doubt is summed in whole steps, so that equal regions tie wherever they lie and however they were read. Of 255, in which
# probabilities are stored, it is a multiple, so that disagreement and uncertainty lose nothing.
STEPS = 255 * 256


@dataclass(frozen=True, slots=True)
class Doubt:
    """A region of one slice and its doubt, 0 (none) to 1.

    Parameters
    ----------
    box
        In prediction axes; of extent 1 along all but the last two.
    """

    box: Box
    score: float


def rank_doubt(
    store: PredictionStore,
    *,
    method: str = DEFAULT_METHOD,
    size: int = SIZE,
    within: Box | None = None,
    skip: Sequence[Box] = (),
    limit: int = LIMIT,
    seed: int = 0,
) -> Generator[int, None, tuple[Doubt, ...]]:
    """The most doubtful regions, most doubtful first; while they are looked for, percent done (0..100).

    What is in memory is a piece of some slices, one number a region of them, and the best `limit`.

    Parameters
    ----------
    method
        One of `METHODS`.
    size
        About how many voxels a region has along y and along x: a slice is cut evenly, so that no sliver is left at its
        border, which few voxels would make look surer or less sure than the rest.
    within
        Box to look in, in prediction axes [the whole stack]. It is cut by itself.
    skip
        Boxes in which nothing is in doubt any more, such as those that were reviewed.
    seed
        Of "random".

    Raises
    ------
    ValueError
        Where the method is unknown, the store has too few levels for it, or a box does not have its axes.
    """
    whole = Box.of(store.shape)
    within = within or whole
    _check(store, method, (within, *skip))
    if size < 1 or limit < 1:
        raise ValueError(f"regions of {size} voxels, at most {limit} of them; use 1 or more for both")
    return _rank(store, method, size, within.intersect(whole), tuple(skip), limit, seed)


def doubt_view(store: PredictionStore, method: str = DEFAULT_METHOD) -> LazyView:
    """Float32 doubt of every voxel, 0..1, before anything is averaged; it means nothing where nothing was predicted yet.

    Raises
    ------
    ValueError
        Where the method is unknown or "random", or the store has too few levels for it.
    """
    _check(store, method)
    if method == "random":
        raise ValueError("a voxel has no random doubt, only a region has; use rank_doubt")
    if method == "disagreement":
        return disagreement_view(store)

    def compute(box: Box) -> NDArray[np.float32]:
        if method == "uncertainty":
            surest = _every_class(store.read(max(store.levels), box), 255).max(axis=0)
            return np.asarray(1 - surest / np.float32(255), np.float32)
        heads = (store.read(level, box) for level in store.levels)
        count = len(store.levels)
        if method == "entropy":
            return sum((_entropy(head, 1) for head in heads), np.zeros(box.shape, np.float32)) / np.float32(count)
        return _entropy(sum(heads, np.zeros((len(store.classes), *box.shape), np.uint16)), count)

    return LazyView(store.shape, store.axes, np.float32, compute)


def _entropy(stored: NDArray[Any], count: int) -> NDArray[np.float32]:
    """H of stored probabilities (class, ...), 255 = 1.0, summed over `count` levels."""
    share = np.arange(1, 255 * count + 1) / (255 * count)
    # A table, for there are few values and logarithms are slow; 0 log 0 is 0.
    table = np.concatenate([[0], -share * np.log(share)]) / math.log(max(2, len(stored)))
    return np.asarray(table.astype(np.float32)[_every_class(stored, 255 * count)].sum(axis=0))


def _every_class(stored: NDArray[Any], most: int) -> NDArray[Any]:
    """Stored probabilities of all classes: of a model with one class channel those of the background as well."""
    return stored if len(stored) > 1 else np.concatenate([most - stored, stored])


def _check(store: PredictionStore, method: str, boxes: Sequence[Box] = ()) -> None:
    if method not in METHODS:
        raise ValueError(f"no method {method!r} to rank doubt by; use one of {', '.join(METHODS)}")
    if method == "disagreement" and len(store.levels) < 2:
        raise ValueError(f"{store.path} holds L{store.levels[0]} alone, which disagrees with nobody; use 'uncertainty'")
    for box in boxes:
        if box.ndim != len(store.shape):
            raise ValueError(f"a box of {box.ndim} axes where the predictions have {store.axes}; give one span an axis")


def _rank(
    store: PredictionStore, method: str, size: int, within: Box, skip: Sequence[Box], limit: int, seed: int
) -> Generator[int, None, tuple[Doubt, ...]]:
    tiles = planned_tiles(store)
    if tiles is None or within.size == 0:
        return ()
    done = store.done()
    view = None if method == "random" else doubt_view(store, method)
    draw = np.random.default_rng(seed)
    rows, columns = (_edges(a, b, size) for a, b in zip(within.start[-2:], within.stop[-2:], strict=True))
    area = np.outer(np.diff(rows), np.diff(columns))
    # The best so far, and where they are: the slice (none, one or several indices), row and column of regions.
    scores, places = np.zeros(0), np.zeros((0, len(store.shape)), np.int64)
    seen = 0
    yield 0
    for slab in _slabs(store, within):
        ready = _predicted(tiles, done, slab, rows, columns)
        near = [box for box in skip if box.intersect(slab).size]
        total = np.zeros(ready.shape, np.int64)
        left = np.zeros(ready.shape, np.int64)
        for piece in pieces(slab, store):
            at = _regions(piece, slab, rows, columns)
            if ready[at].any():
                unseen = np.ones(piece.shape, bool)
                for box in near:
                    unseen[box.intersect(piece).shift([-a for a in piece.start]).slices] = False
                left[at] += _sums(unseen, piece, rows, columns)
                if view is not None:
                    doubt = np.rint(view[piece.slices] * np.float32(STEPS)).astype(np.uint32)
                    total[at] += _sums(doubt * unseen, piece, rows, columns)
            seen += piece.size
            yield 100 * seen // within.size
        # Drawn for every region, so that what is done or reviewed moves no other.
        mean = left / area * draw.random(left.shape) if view is None else total / (STEPS * area)
        ready &= left > 0
        scores = np.concatenate([scores, mean[ready]])
        found = np.argwhere(ready) + np.array([*slab.start[:-2], 0, 0])
        places = np.concatenate([places, found])
        # Of equal doubt, the first in the order of the axes.
        best = np.lexsort((*places.T[::-1], -scores))[:limit]
        scores, places = scores[best], places[best]
    return tuple(
        Doubt(
            Box((*index, rows[r], columns[c]), (*(i + 1 for i in index), rows[r + 1], columns[c + 1])),
            float(score),
        )
        for score, (*index, r, c) in zip(scores, places.tolist(), strict=True)
    )


def _edges(start: int, stop: int, size: int) -> NDArray[np.int64]:
    """Where regions of about `size` begin along an axis, and last where the last one ends.

    >>> _edges(0, 250, 64).tolist()
    [0, 62, 125, 187, 250]
    >>> _edges(10, 15, 64).tolist()
    [10, 15]
    """
    count = max(1, round((stop - start) / size))
    return np.asarray([start + (stop - start) * k // count for k in range(count + 1)], np.int64)


def _slabs(store: PredictionStore, within: Box) -> Iterator[Box]:
    """`within` in parts of such slices as are stored together, so that no chunk is read twice."""
    stored = zip(array_axes(store.axes), store.probability(store.levels[0]).chunks, strict=True)
    chunks = [n for axis, n in stored if axis != "c"][:-2]
    spans = []
    for a, b, n in zip(within.start, within.stop, chunks, strict=False):
        cuts = [a, *range((a // n + 1) * n, b, n), b]
        spans.append(list(itertools.pairwise(cuts)))
    for leading in itertools.product(*spans):
        yield Box(
            (*(a for a, _ in leading), *within.start[-2:]),
            (*(b for _, b in leading), *within.stop[-2:]),
        )


def _predicted(
    tiles: Tiles, done: NDArray[np.bool_], slab: Box, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which regions (*slices, row, column) of a slab lie in tiles that are done, with every voxel."""
    starts = [np.array([a for a, _ in spans]) for spans in tiles.inner_spans]
    first, last = (
        [np.searchsorted(s, e, "right") - 1 for s, e in zip(starts[-2:], ends, strict=True)]
        for ends in ((rows[:-1], columns[:-1]), (rows[1:] - 1, columns[1:] - 1))
    )
    slices = [
        np.searchsorted(s, range(a, b), "right") - 1
        for s, a, b in zip(starts, slab.start[:-2], slab.stop[:-2], strict=False)
    ]
    missing = ~done[np.ix_(*slices)]
    for axis, (a, b) in enumerate(zip(first, last, strict=True), start=done.ndim - 2):
        # Ends of spans from the running count: whether one of the tiles that a region meets is missing.
        count = np.cumsum(missing, axis=axis, dtype=np.int64)
        missing = count.take(b, axis) - count.take(a, axis) + missing.take(a, axis) > 0
    return ~missing


def _regions(piece: Box, slab: Box, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> tuple[slice, ...]:
    """Index of the regions (*slices, row, column) of a slab that a piece of it meets."""
    leading = zip(piece.start[:-2], piece.stop[:-2], slab.start, strict=False)
    plane = zip((rows, columns), piece.start[-2:], piece.stop[-2:], strict=True)
    return (
        *(slice(a - first, b - first) for a, b, first in leading),
        *(slice(int(np.searchsorted(e, a, "right")) - 1, int(np.searchsorted(e, b))) for e, a, b in plane),
    )


def _sums(voxels: NDArray[Any], piece: Box, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums over the part of each region that lies in a piece."""
    for axis, edges in ((-2, rows), (-1, columns)):
        a, b = piece.start[axis], piece.stop[axis]
        met = edges[np.searchsorted(edges, a, "right") - 1 : np.searchsorted(edges, b)]
        voxels = np.add.reduceat(voxels, np.maximum(met, a) - a, axis=axis, dtype=np.int64)
    return voxels
