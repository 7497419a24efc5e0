"""Images of another resolution than a model was trained at: said, resampled for the network, and mapped back.

    image (its grid)  --resampled-->  image (the model's grid)  --network-->  probabilities  --restore-->  store (the image's grid)

Both ways are linear interpolation, and where voxels become fewer the mean over a triangle as wide as two new voxels, which
lets through nothing finer than they can show. What is computed of a voxel does not depend on how the stack is cut into boxes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.box import Box
from napari_unetpp.inference.folders import leaving_nothing
from napari_unetpp.inference.labels import LazyView
from napari_unetpp.inference.store import create_store, open_store
from napari_unetpp.inference.tiles import Tile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.model.card import Card
    from napari_unetpp.stacks import Stack

ALIKE = 1.25  # ratio of spacings that makes no difference worth a word
_EDGE = 512  # voxels of a block that is mapped back at once


def other_resolution(stack: Stack, card: Card) -> str:
    """In which words a stack is spaced otherwise than a model's training images; empty where it is not, or nothing is known."""
    ratios = _ratios(stack, card)
    if ratios is None or all(1 / ALIKE <= ratio <= ALIKE for ratio in ratios):
        return ""
    assert card.spacing_um is not None
    axes = "zyx"[-len(ratios) :]
    pairs = zip(axes, stack.spacing_predicted_um[-len(ratios) :], card.spacing_um, strict=True)
    each = ", ".join(f"{axis} {mine:g} um, the model {known:g} um" for axis, mine, known in pairs)
    return f"{stack.name} has another resolution than {card.name} was trained at ({each})"


def factors_of(stack: Stack, card: Card) -> tuple[float, ...]:
    """How many times as many voxels along the network's axes bring a stack to a model's resolution.

    Raises
    ------
    ValueError
        Where one of both does not say its spacing.
    """
    ratios = _ratios(stack, card)
    if ratios is None:
        who = f"model {card.name!r}" if card.spacing_um is None else f"image {stack.name!r}"
        raise ValueError(f"{who} does not say its spacing, so how much to resample is not known; give a factor")
    return ratios


def resampled(stack: Stack, factors: Sequence[float]) -> Stack:
    """The stack with so many times as many voxels along its last axes, lazily; nothing is read."""
    shape = stack.shape_predicted
    lead = len(shape) - len(factors)
    new = (*shape[:lead], *(max(1, round(n * f)) for n, f in zip(shape[lead:], factors, strict=True)))
    dtype = np.dtype(np.float32 if stack.dtype.itemsize <= 2 or stack.dtype == np.float32 else np.float64)

    def read(box: Box) -> NDArray[Any]:
        found = _interpolated(stack.read, shape, new, Box(box.start[1:], box.stop[1:]))
        return found[box.start[0] : box.stop[0]].astype(dtype, copy=False)

    spacing = tuple(
        None if um is None else um * n / m for um, n, m in zip(stack.spacing_predicted_um, shape, new, strict=True)
    )
    axes = f"c{stack.axes_predicted}"
    if stack.channel_axis is not None:
        data = LazyView((stack.channels, *new), axes, dtype, read)
        return replace(stack, data=data, axes=axes, spacing_um=(None, *spacing))
    gray = LazyView(new, axes[1:], dtype, lambda box: read(Box((0, *box.start), (1, *box.stop)))[0])
    return replace(stack, data=gray, axes=axes[1:], spacing_um=spacing)


def restore(
    store: PredictionStore,
    stack: Stack,
    path: Path,
    factors: Sequence[float],
    *,
    image_sha256: str,
    overwrite: bool = False,
) -> Iterator[PredictionStore]:
    """The predictions of a resampled stack on the grid of the stack itself, block by block; the last is whole.

    Parameters
    ----------
    image_sha256
        Of the stack (`stack_digest`), for the record: each of its voxels decides the result.
    """
    shape = stack.shape_predicted
    edges = tuple(min(n, _EDGE if axis in "yx" else 1) for axis, n in zip(stack.axes_predicted, shape, strict=True))
    grid = tuple(math.ceil(n / edge) for n, edge in zip(shape, edges, strict=True))
    if path.exists() and not overwrite:
        final = open_store(path, "r+")
    else:
        final = create_store(
            path,
            shape,
            store.levels,
            like=stack,
            classes=store.classes,
            chunks=edges,
            grid=grid,
            record={**store.record, "resample": list(factors), "image_sha256": image_sha256},
            overwrite=overwrite,
        )
    tiles = []
    with final.hold(), leaving_nothing(path):
        for index in itertools.product(*map(range, grid)):
            start = tuple(k * edge for k, edge in zip(index, edges, strict=True))
            box = Box(start, tuple(min(a + edge, n) for a, edge, n in zip(start, edges, shape, strict=True)))
            tiles.append(tile := Tile(index, box, box))
            if final.is_done(tile) and final.is_whole(tile):
                continue
            mapped = {}
            for level in store.levels:
                counts = _interpolated(partial(store.read, level), store.shape, shape, box)
                mapped[level] = np.rint(counts).astype(np.uint8)
            final.write(tile, mapped)
            final.mark_done(tile)
            yield final
        final.check_whole(tiles)
    yield final


def _ratios(stack: Stack, card: Card) -> tuple[float, ...] | None:
    """Spacing of a stack over that of a model, along the network's axes; None where one of both is not known."""
    if card.spacing_um is None:
        return None
    mine = stack.spacing_predicted_um[-len(card.spacing_um) :]
    known = [um for um in mine if um is not None]
    if len(known) < len(card.spacing_um):
        return None
    return tuple(um / theirs for um, theirs in zip(known, card.spacing_um, strict=True))


def _interpolated(
    read: Callable[[Box], NDArray[Any]], shape: Sequence[int], new: Sequence[int], box: Box
) -> NDArray[np.float64]:
    """Voxels (channel, *box.shape) of a box on a grid of `new` voxels, of what is read (channel, ...) on one of `shape`."""
    spans, tables = [], []
    for old, fresh, a, b in zip(shape, new, box.start, box.stop, strict=True):
        first, last, table = _weights(old, fresh, a, b)
        spans.append((first, last))
        tables.append(table)
    voxels = read(Box(tuple(a for a, _ in spans), tuple(b for _, b in spans))).astype(np.float64)
    for axis, table in enumerate(tables, 1):
        if table is not None:
            voxels = np.moveaxis(np.tensordot(table, voxels, (1, axis)), 0, axis)
    return voxels


def _weights(old: int, new: int, start: int, stop: int) -> tuple[int, int, NDArray[np.float64] | None]:
    """Which old voxels, first to last, make the new ones start..stop - 1, and with what weights (new, old); None: the same.

    >>> _weights(4, 8, 2, 4)
    (0, 3, array([[0.25, 0.75, 0.  ],
           [0.  , 0.75, 0.25]]))
    """
    if old == new:
        return start, stop, None
    step = old / new
    places = (np.arange(start, stop) + 0.5) * step - 0.5
    width = max(1.0, step)
    first = max(0, math.floor(places[0] - width) + 1)
    last = min(old, math.ceil(places[-1] + width))
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(first, last)) / width)
    return first, last, weights / weights.sum(axis=1, keepdims=True)
