"""Probabilities of overlapping patches, combined band by band.

Decides, in this order: which patches go through the network together (`PatchGroup`, `patch_groups`),
how they are read (`PatchReader`), and how they are combined (`BandSums`). Per voxel v, over the
patches P that hold it::

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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.box import Box
from napari_unetpp.inference.tiling import Aggregate, Overlap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from napari_unetpp.inference.tiles import Tile, Tiles

Read = Callable[[Box], NDArray[Any]]
Corner = tuple[int, ...]

# Standard deviation of the window as a part of the patch's edge, as MONAI and nnU-Net have it. At a
# corner of a 3D patch the weight is 4e-11, which float32 still holds.
SIGMA = 0.125


@dataclass(frozen=True, slots=True)
class PatchGroup:
    """Neighbouring patches of one row, which go through the network in one pass.

    Parameters
    ----------
    band
        The band that is being filled.
    row
        First voxel of the patches along the first spatial axis.
    corners
        Their first voxels along the other spatial axes; none where a band needs no further patch.
    opens
        The sums begin anew with this group; otherwise those of the band before are carried on.
    closes
        With this group the band is complete.
    """

    band: Tile
    row: int
    corners: tuple[Corner, ...]
    opens: bool
    closes: bool


def patch_groups(tiles: Tiles, bands: Iterable[Tile], batch: int) -> Iterator[PatchGroup]:
    """Groups of up to `batch` patches that fill the bands, one band after the other.

    Parameters
    ----------
    bands
        Those of `tiles` that are wanted, in any order; one that comes right after its neighbour
        shares the patches that touch both.
    """
    if not isinstance(tiles.tiling, Overlap):
        raise TypeError(f"bands are made of patches; {tiles.tiling} has none")
    lead = tiles.leading
    _, *other_starts = tiles.patch_starts
    corners = list(itertools.product(*other_starts))
    parts = [tuple(corners[i : i + batch]) for i in range(0, len(corners), batch)]
    added = -1  # last row of patches in the sums
    neighbour: tuple[int, ...] = ()  # where the band starts that would follow
    for tile in bands:
        place, first, stop = tile.inner.start[:lead], tile.inner.start[lead], tile.inner.stop[lead]
        follows = neighbour == (*place, first)
        rows = [s for s in rows_touching(tiles, tile) if not (follows and s <= added)]
        if not rows:  # the patches of the band before reach over all of this one
            yield PatchGroup(tile, added, (), opens=False, closes=True)
        for row, part in itertools.product(rows, parts):
            opens = not follows and (row, part) == (rows[0], parts[0])
            yield PatchGroup(tile, row, part, opens, closes=(row, part) == (rows[-1], parts[-1]))
        added, neighbour = rows[-1] if rows else added, (*place, stop)


def rows_touching(tiles: Tiles, band: Tile) -> list[int]:
    """First voxels, along the first spatial axis, of the rows of patches that hold a voxel of a band."""
    first, stop = band.inner.start[tiles.leading], band.inner.stop[tiles.leading]
    return [s for s in tiles.patch_starts[0] if s < stop and s + tiles.input_extent[0] > first]


def row_box(tiles: Tiles, band: Tile, row: int) -> Box:
    """What is read for a row of patches that begins at `row`, in prediction axes."""
    lead, (rows, *edges) = tiles.leading, tiles.input_extent
    place = band.inner.start[:lead]
    across = tuple(map(max, tiles.shape[lead + 1 :], edges))
    return Box((*place, row, *(0,) * len(across)), (*(i + 1 for i in place), row + rows, *across))


class PatchReader:
    """Raw patches of groups that come in order; each row of patches is read once.

    Parameters
    ----------
    read
        Raw voxels (channel, *box.shape) of a box in prediction axes.
    """

    def __init__(self, tiles: Tiles, read: Read) -> None:
        assert isinstance(tiles.tiling, Overlap)
        self._tiles, self._read, self._patch = tiles, read, tiles.input_extent
        self._key: tuple[int, ...] = ()
        self._row: NDArray[Any] = np.empty(0)

    def patches(self, group: PatchGroup) -> list[NDArray[Any]]:
        """One array (channel, *patch) for each corner of the group."""
        if not group.corners:
            return []
        lead, (_, *edges) = self._tiles.leading, self._patch
        place = group.band.inner.start[:lead]
        if self._key != (*place, group.row):
            box = row_box(self._tiles, group.band, group.row)
            raw = self._read(box)
            self._key, self._row = (*place, group.row), raw.reshape(raw.shape[0], *box.shape[lead:])
        return [
            self._row[(slice(None), slice(None), *(slice(a, a + edge) for a, edge in zip(c, edges, strict=True)))]
            for c in group.corners
        ]


class BandSums:
    """Sums of the band that is being filled and of what lies right after it."""

    def __init__(self, tiles: Tiles) -> None:
        assert isinstance(tiles.tiling, Overlap)
        self._lead, self._rows, self._aggregate = tiles.leading, tiles.input_extent[0], tiles.tiling.aggregate
        self._extent = tiles.shape[tiles.leading :]
        gaussian = self._aggregate == "gaussian"
        lines = [_window(edge) if gaussian else np.ones(edge, np.float32) for edge in tiles.input_extent]
        self._weights = list(map(_coverage, self._extent, tiles.patch_starts, lines))
        self._window = _product(lines)
        self._sums: list[NDArray[np.float32]] = []
        self._band: Tile | None = None
        self._top = 0  # first row of the sums

    def add(self, group: PatchGroup, levels: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]] | None:
        """Add a group's probabilities (batch, class, *patch), one array a level.

        Returns
        -------
        list of ndarray or None
            The band's probabilities (class, *band.inner.shape), one array a level, once it is complete.
        """
        first, stop = group.band.inner.start[self._lead], group.band.inner.stop[self._lead]
        if group.opens:
            self._sums = []
        if group.band is not self._band:
            self._sums = [_moved_up(s, first - self._top, self._shape(first, stop)) for s in self._sums]
            self._band, self._top = group.band, first
        shape = self._shape(first, stop)
        self._sums = self._sums or [np.zeros((p.shape[1], *shape), np.float32) for p in levels]
        for level, probabilities in zip(self._sums, levels, strict=bool(group.corners)):
            voices = _contribution(probabilities, self._aggregate, self._window)
            for corner, voice in zip(group.corners, voices, strict=True):
                _add(level, voice, (group.row - self._top, *corner))
        if not group.closes:
            return None
        total = _product([self._weights[0][first:stop], *self._weights[1:]])
        inner = group.band.inner.shape
        return [(s[:, : stop - first] / total).reshape(s.shape[0], *inner) for s in self._sums]

    def _shape(self, first: int, stop: int) -> tuple[int, ...]:
        """Extent of the sums of a band: its rows, and those that its last patches reach beyond."""
        return (min(stop + self._rows, self._extent[0]) - first, *self._extent[1:])


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
