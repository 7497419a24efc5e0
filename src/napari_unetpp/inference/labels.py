"""Lazy views of a store: labels, probabilities, and where the heads disagree.

Decides, in this order: the three views, how voxels of the store become theirs, and how a view is
indexed. With q the stored uint8 (255 p), over the levels d that a view combines:

    label, 1 class      1 where mean_d p_d >= threshold, that is sum_d q_d >= ceil(255 threshold n)
    label, C classes    argmax_c sum_d q_dc; the first of equals, so background wins a tie
    disagreement        max_d f_d - min_d f_d,  f = p, or 1 - p_background for C classes

All of it is integer arithmetic on what is stored, so a view is exact and the same everywhere. A
view computes what it is asked for and keeps nothing: it always shows what is on disk by now (0
where nothing was predicted yet), and any thread may read it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.box import Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_unetpp.inference.store import PredictionStore

Compute = Callable[[Box], NDArray[Any]]


class LazyView:
    """A read-only array that is computed where it is sliced.

    It has what napari and numpy ask of a layer's data. Indices are integers, slices (any step) and
    an ellipsis; the answer is numpy.

    Parameters
    ----------
    axes
        One letter per axis, t z y x.
    compute
        The voxels of a box that lies inside.
    """

    def __init__(self, shape: Sequence[int], axes: str, dtype: Any, compute: Compute) -> None:
        self.shape = tuple(shape)
        self.axes = axes
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._compute = compute

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole view, were it computed."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.axes} {self.shape} {self.dtype}>"

    def __getitem__(self, key: Any) -> Any:
        box, finish = _split(key, self.shape)
        if box.size == 0:
            return np.zeros(box.shape, self.dtype)[finish]
        return self._compute(box)[finish]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a lazy view is computed, so it cannot be had without a copy")
        return np.asarray(self[...], dtype)


class LazyLabels(LazyView):
    """A lazy view of uint8 labels: 0 is background, k is class k."""


def label_view(store: PredictionStore, level: int | Literal["ensemble"], threshold: float = 0.5) -> LazyLabels:
    """Labels of one level, or of the mean of the probabilities of all stored levels.

    Parameters
    ----------
    threshold
        Least probability of the foreground, 0..1; with two and more classes the largest wins
        instead. It is compared in steps of 1/255.

    Raises
    ------
    ValueError
        Where the store lacks the level or the threshold is no probability.
    """
    levels = _levels(store, level)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold} is not a probability; use 0 to 1")

    def compute(box: Box) -> NDArray[np.uint8]:
        return choose_labels(_total(store, levels, box), len(levels), threshold)

    return LazyLabels(store.shape, store.axes, np.uint8, compute)


def choose_labels(total: NDArray[np.uint16], count: int, threshold: float = 0.5) -> NDArray[np.uint8]:
    """Labels out of the stored probabilities (class, ...), 255 = 1.0, summed over `count` levels.

    >>> choose_labels(np.array([[127, 128]], np.uint16), 1).tolist()
    [0, 1]
    """
    if len(total) > 1:
        return np.asarray(total.argmax(axis=0), np.uint8)
    # Rounded first, so that a threshold of k/255 does not become k + 1 by the last bit of a float.
    least = math.ceil(round(255 * threshold * count, 6))
    return np.asarray(total[0] >= least, np.uint8)


def probability_view(store: PredictionStore, level: int | Literal["ensemble"], channel: int = -1) -> LazyView:
    """Float32 probability, 0..1, of one class channel (the last, unless told otherwise).

    Raises
    ------
    ValueError
        Where the store lacks the level or the channel.
    """
    levels = _levels(store, level)
    count = len(store.classes)
    if not -count <= channel < count:
        raise ValueError(f"channel {channel} is not among the {count} of {store.path}")

    def compute(box: Box) -> NDArray[np.float32]:
        total = _total(store, levels, box)[channel]
        return np.asarray(total / np.float32(255 * len(levels)), np.float32)

    return LazyView(store.shape, store.axes, np.float32, compute)


def disagreement_view(store: PredictionStore) -> LazyView:
    """Float32 difference, 0..1, between the surest and the least sure level about the foreground.

    0 where all agree. A level of 0.9 and one of 0.2 give 0.7, wherever the threshold lies.
    """

    def compute(box: Box) -> NDArray[np.float32]:
        # The foreground of several classes is 1 - background, whose spread is that of background.
        first = np.stack([store.read(level, box)[0] for level in store.levels])
        return np.asarray(np.ptp(first, axis=0) / np.float32(255), np.float32)

    return LazyView(store.shape, store.axes, np.float32, compute)


def _levels(store: PredictionStore, level: int | Literal["ensemble"]) -> tuple[int, ...]:
    if level == "ensemble":
        return store.levels
    store.probability(level)  # refuses a level that is not there
    return (level,)


def _total(store: PredictionStore, levels: tuple[int, ...], box: Box) -> NDArray[np.uint16]:
    """Sum of the levels' stored values, (class, *box.shape)."""
    total = store.read(levels[0], box).astype(np.uint16)
    for level in levels[1:]:
        total += store.read(level, box)
    return total


def _split(key: Any, shape: tuple[int, ...]) -> tuple[Box, tuple[int | slice, ...]]:
    """The box that an index needs, and what picks the answer out of it."""
    parts = list(key) if isinstance(key, tuple) else [key]
    dots = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index can hold only one ellipsis")
    missing = len(shape) - (len(parts) - len(dots))
    if missing < 0:
        raise IndexError(f"{len(parts) - len(dots)} indices for {len(shape)} axes")
    at = dots[0] if dots else len(parts)
    parts[at : at + len(dots)] = [slice(None)] * missing
    start, stop, finish = [], [], list[int | slice]()
    for axis, (part, extent) in enumerate(zip(parts, shape, strict=True)):
        if isinstance(part, slice):
            places = range(*part.indices(extent))
            low, high = (min(places), max(places) + 1) if places else (0, 0)
            # A box ends with the last place, so stepping from either end meets the same voxels.
            finish.append(slice(None, None, places.step))
        else:
            try:
                low = operator.index(part)
            except TypeError:
                raise IndexError(f"index {part!r} on axis {axis}; a lazy view takes integers, slices and ...") from None
            if not -extent <= low < extent:
                raise IndexError(f"index {low} is out of bounds for axis {axis} of size {extent}")
            low %= extent
            high = low + 1
            finish.append(0)
        start.append(low)
        stop.append(high)
    return Box(tuple(start), tuple(stop)), tuple(finish)
