"""Probabilities of overlapping patches, combined band by band.

Decides, in this order: how bands follow each other (`predict_bands`), what a patch adds to the sums
and with which weight. Per voxel v, over the patches P that hold it::

    mean      sum_P p_P(v) / sum_P 1
    vote      sum_P [P votes for the class] / sum_P 1        p >= 0.5, or the largest of several
    gaussian  sum_P w(v - P) p_P(v) / sum_P w(v - P)

Only the sums of one band and of what its last patches reach beyond it are held. Every sum runs over
patches in ascending order, in batches that begin anew with each row of patches; so a voxel gets
the same bits whether its band follows another one or is the first of a continued run.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.box import Box
from napari_unetpp.inference.tiling import Aggregate, Overlap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from napari_unetpp.inference.tiles import Tile, Tiles

Read = Callable[[Box], NDArray[Any]]
Run = Callable[[list[NDArray[Any]]], list[NDArray[np.float32]]]

# Standard deviation of the window as a part of the patch's edge, as MONAI and nnU-Net have it. At a
# corner of a 3D patch the weight is 4e-11, which float32 still holds.
SIGMA = 0.125


def predict_bands(
    tiles: Tiles, bands: Iterable[Tile], read: Read, run: Run, *, batch: int
) -> Iterator[tuple[Tile, list[NDArray[np.float32]]]]:
    """Each band with its probabilities (class, *inner.shape), one array a level.

    Parameters
    ----------
    bands
        Those of `tiles` that are wanted, in any order; one that comes right after its neighbour
        shares the patches that touch both.
    read
        Raw voxels (channel, *box.shape) of a box in prediction axes.
    run
        Probabilities (batch, class, *patch), one array a level, of raw patches (channel, *patch).
    batch
        Patches in one pass.
    """
    if not isinstance(tiles.tiling, Overlap):
        raise TypeError(f"bands are made of patches; {tiles.tiling} has none")
    lead, patch, aggregate = tiles.leading, tiles.tiling.patch, tiles.tiling.aggregate
    extent = tiles.shape[lead:]
    row_starts, *other_starts = tiles.patch_starts
    corners = list(itertools.product(*other_starts))
    groups = [corners[i : i + batch] for i in range(0, len(corners), batch)]
    across = tuple(max(n, patch) for n in extent[1:])
    line = _window(patch) if aggregate == "gaussian" else np.ones(patch, np.float32)
    weights = [_coverage(n, s, line) for n, s in zip(extent, tiles.patch_starts, strict=True)]
    window = _product([line] * len(extent))
    sums: list[NDArray[np.float32]] = []
    top, added = 0, -1  # first row of the sums, last row of patches in them
    neighbour: tuple[int, ...] = ()  # where the band starts that would follow
    for tile in bands:
        place, first, stop = tile.inner.start[:lead], tile.inner.start[lead], tile.inner.stop[lead]
        rows = [s for s in row_starts if s < stop and s + patch > first]
        shape = (min(rows[-1] + patch, extent[0]) - first, *extent[1:])
        if neighbour == (*place, first):
            sums = [_moved_up(level, first - top, shape) for level in sums]
            rows = [s for s in rows if s > added]
        else:
            sums = []
        top = first
        for row in rows:
            after = tuple(i + 1 for i in place)
            zeros = (0,) * len(across)
            raw = read(Box((*place, row, *zeros), (*after, row + patch, *across)))
            raw = raw.reshape(raw.shape[0], patch, *across)
            for group in groups:
                levels = run([_patch(raw, corner, patch) for corner in group])
                sums = sums or [np.zeros((p.shape[1], *shape), np.float32) for p in levels]
                for level, probabilities in zip(sums, levels, strict=True):
                    voices = _contribution(probabilities, aggregate, window)
                    for corner, voice in zip(group, voices, strict=True):
                        _add(level, voice, (row - top, *corner))
            added = row
        neighbour = (*place, stop)
        height = stop - first
        total = _product([weights[0][first:stop], *weights[1:]])
        inner = tile.inner.shape
        yield tile, [(s[:, :height] / total).reshape(s.shape[0], *inner) for s in sums]


def _contribution(
    probabilities: NDArray[np.float32], aggregate: Aggregate, window: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What patches (batch, class, ...) add to the sums."""
    if aggregate == "mean":
        return probabilities
    if aggregate == "gaussian":
        return probabilities * window
    if probabilities.shape[1] == 1:
        return (probabilities >= 0.5).astype(np.float32)
    winner = probabilities.argmax(axis=1, keepdims=True)
    classes = np.arange(probabilities.shape[1]).reshape(-1, *(1,) * (probabilities.ndim - 2))
    return np.asarray(winner == classes, np.float32)


def _add(sums: NDArray[np.float32], patch: NDArray[np.float32], corner: Sequence[int]) -> None:
    """Add a patch (class, ...) at `corner` of the sums, without what lies outside of them."""
    target, source = [slice(None)], [slice(None)]
    for start, extent, edge in zip(corner, sums.shape[1:], patch.shape[1:], strict=True):
        target.append(slice(max(start, 0), min(start + edge, extent)))
        source.append(slice(max(-start, 0), min(edge, extent - start)))
    sums[tuple(target)] += patch[tuple(source)]


def _patch(row: NDArray[Any], corner: Sequence[int], edge: int) -> NDArray[Any]:
    return row[(slice(None), slice(None), *(slice(a, a + edge) for a in corner))]


def _moved_up(sums: NDArray[np.float32], rows: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The sums without their first rows, with zeros up to the new shape."""
    moved = np.zeros((sums.shape[0], *shape), np.float32)
    kept = sums[:, rows:]
    moved[:, : kept.shape[1]] = kept
    return moved


def _window(edge: int) -> NDArray[np.float32]:
    """Gaussian weight of every voxel along one axis of a patch; 1 in the middle."""
    distance = np.arange(edge) - (edge - 1) / 2
    return np.asarray(np.exp(-0.5 * (distance / (SIGMA * edge)) ** 2), np.float32)


def _coverage(extent: int, starts: Sequence[int], window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum of the weights of all patches along one axis; the product over the axes is the total."""
    total = np.zeros(extent, np.float32)
    for start in starts:
        held = total[start : start + len(window)]
        held += window[: len(held)]
    return total


def _product(lines: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Outer product of one array per axis."""
    product: NDArray[np.float32] = functools.reduce(np.multiply.outer, lines)
    return product
