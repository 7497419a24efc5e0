"""A store and a label stack as the lazy arrays that `levels.score_levels` reads plane by plane."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.box import Box
from napari_unetpp.inference.labels import LazyView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.stacks import Stack


def stored_levels(store: PredictionStore, levels: Sequence[int]) -> dict[str, LazyView]:
    """Probabilities of levels, `(class, *store.shape)` uint8, 255 = 1.0, by name ("L1").

    Raises
    ------
    ValueError
        Where a part of the store was not predicted yet, or a level is not in it.
    """
    if not store.complete:
        total = math.prod(store.grid) if store.grid else 0
        raise ValueError(
            f"{store.path} is not complete ({store.done_count} of {total} tiles); run the same "
            "segment command again to go on"
        )
    shape = (len(store.classes), *store.shape)
    for level in levels:
        store.probability(level)  # refuses one that is not there
    return {f"L{d}": LazyView(shape, f"c{store.axes}", np.uint8, partial(_classes, store, d)) for d in levels}


def label_planes(labels: Stack, origin: Sequence[int], shape: Sequence[int]) -> LazyView:
    """Labels of the box at `origin` of that shape, in prediction axes.

    Raises
    ------
    ValueError
        Where the stack is no label stack.
    """
    if labels.channels > 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{labels.name} has {labels.channels} channel(s) of {labels.dtype}; labels are one channel of integers"
        )

    def compute(box: Box) -> NDArray[Any]:
        plane: NDArray[Any] = labels.read(box.shift(origin))[0]
        return plane

    return LazyView(shape, labels.axes_predicted, labels.dtype, compute)


def _classes(store: PredictionStore, level: int, box: Box) -> NDArray[np.uint8]:
    """Voxels of a box whose first axis is the class."""
    return store.read(level, Box(box.start[1:], box.stop[1:]))[box.start[0] : box.stop[0]]
