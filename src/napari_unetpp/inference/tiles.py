"""Where a stack is cut for prediction.

Decides, in this order: what a tile is (`Tile`), the plan of a whole stack (`Tiles`), how it is made
or refused (`plan_tiles`) and in which order tiles come. The numbers come from `tiling.py`, the cuts
along one axis from `spans.py`.

A tile is what becomes safe on disk at once. Its *inner* box is written, its *outer* box is read;
inner boxes hold every voxel of the stack exactly once::

    seamless                                    overlap
    one network pass per tile                   many passes per tile, probabilities combined

    +---------------outer--------------+        +--------- outer: patches that touch it ---------+
    |      halo (read, thrown away)    |        |  +-patch-+                                     |
    |      +--------inner-------+      |   y    |  |    +--+----+   stride                       |
    | halo |   written, once    | halo |   |    +==|====|==inner|=(a band, full width)==========+
    |      +--------------------+      |   v    |  +----|--+    |   written, once                |
    |               halo               |        +=======|=======|================================+
    +----------------------------------+        |       +-------+                                |
                                                +------------------------------------------------+

At the border of the stack a seamless outer box ends where a pass over the whole image ends: a plane
that fits one tile has no halo at all. Inner, halo and therefore outer boxes begin on the grid of
2**depth voxels on which the network pools; only then does a tile see the very same pooling windows
as the whole image does.

Everything is in prediction axes (t z y x without channels). Leading axes are those that the
network does not convolve: t and z for a 2D network, t for a 3D one. A tile has extent 1 there.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.box import Box
from napari_unetpp.inference.spans import BAND_ROWS, band_spans, cut, divisor, patch_starts, with_halo
from napari_unetpp.inference.tiling import (
    Overlap,
    Seamless,
    Tiling,
    check_overlap,
    per_axis,
    resolve_seamless,
    round_up,
    tiling_from_card,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_unetpp.inference.spans import Spans
    from napari_unetpp.model.spec import NetworkSpec

__all__ = ["Overlap", "Seamless", "Tile", "Tiles", "Tiling", "plan_tiles", "tiling_from_card"]

CHUNK = {2: 512, 3: 128}  # longest chunk edge across a band
LONGEST_CHUNK = 1024  # of a seamless tile


@dataclass(frozen=True, slots=True)
class Tile:
    """One unit of a run: `inner` is written, `outer` is read and may reach past the far border."""

    index: tuple[int, ...]
    inner: Box
    outer: Box


@dataclass(frozen=True, slots=True)
class Tiles:
    """The plan of a stack: any number of tiles, kept as a few spans per axis.

    Can be iterated any number of times, always in the same order.

    Parameters
    ----------
    tiling
        With the numbers that the plan resolved (`Seamless.inner` and `halo` are integers).
    leading
        Number of axes that the network does not convolve.
    inner_spans, outer_spans
        Per axis, the spans of the tiles along it.
    patch_starts
        Per spatial axis, where the patches of an overlap tiling start; empty for a seamless one.
    chunks
        Shape of the chunks in which predictions are stored; no chunk belongs to two tiles.
    visible
        Box that comes first, in prediction axes.
    """

    shape: tuple[int, ...]
    tiling: Tiling
    level: int
    leading: int
    inner_spans: tuple[Spans, ...]
    outer_spans: tuple[Spans, ...]
    patch_starts: tuple[tuple[int, ...], ...]
    chunks: tuple[int, ...]
    visible: Box | None = None

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of tiles per axis."""
        return tuple(map(len, self.inner_spans))

    def __len__(self) -> int:
        return math.prod(self.grid)

    def __iter__(self) -> Iterator[Tile]:
        if self.visible is None:
            yield from map(self.tile, np.ndindex(self.grid))
            return
        for number in _nearest_first(self, self.visible):
            yield self.tile(self.index(int(number)))

    def tile(self, index: Sequence[int]) -> Tile:
        """The tile at a grid position."""
        inner = [spans[i] for spans, i in zip(self.inner_spans, index, strict=True)]
        outer = [spans[i] for spans, i in zip(self.outer_spans, index, strict=True)]
        return Tile(tuple(index), _box(inner), _box(outer))

    @property
    def input_extent(self) -> tuple[int, ...]:
        """Spatial extent of what goes through the network at once: a patch, or the largest outer box."""
        if isinstance(self.tiling, Overlap):
            return per_axis(self.tiling.patch, len(self.shape) - self.leading)
        return tuple(max(b - a for a, b in spans) for spans in self.outer_spans[self.leading :])

    @property
    def read_factor(self) -> float:
        """How many times a voxel of the stack is read, on average: the price of halos or of overlapping patches.

        >>> from napari_unetpp.model.spec import NetworkSpec
        >>> round(plan_tiles((512, 512), NetworkSpec.preset("default"), Overlap(96, 48)).read_factor, 2)
        3.52
        """
        if isinstance(self.tiling, Overlap):
            read = math.prod(len(s) * e for s, e in zip(self.patch_starts, self.input_extent, strict=True))
        else:
            read = math.prod(sum(b - a for a, b in spans) for spans in self.outer_spans[self.leading :])
        return read / math.prod(self.shape[self.leading :])

    def number(self, index: Sequence[int]) -> int:
        """Place of a grid position in the order of the axes, whatever is visible."""
        return int(np.ravel_multi_index(tuple(index), self.grid))

    def index(self, number: int) -> tuple[int, ...]:
        """Grid position of a `number`."""
        return tuple(map(int, np.unravel_index(number, self.grid)))

    def touching(self, box: Box) -> NDArray[np.bool_]:
        """Which tiles (an array of shape `grid`) write a voxel of a box."""
        touched = np.ones(self.grid, bool)
        for axis, spans in enumerate(self.inner_spans):
            along = np.array([a < box.stop[axis] and b > box.start[axis] for a, b in spans])
            touched &= along.reshape((-1,) + (1,) * (len(self.grid) - axis - 1))
        return touched

    def describe(self) -> dict[str, Any]:
        """JSON-able numbers that, with shape and level, decide every tile."""
        return self.tiling.describe()


def plan_tiles(
    shape: Sequence[int],
    spec: NetworkSpec,
    tiling: Tiling,
    *,
    level: int | None = None,
    visible: Box | None = None,
) -> Tiles:
    """Tiles of a stack of that shape, in the order in which they should be predicted.

    >>> from napari_unetpp.model.spec import NetworkSpec
    >>> spec = NetworkSpec(widths=(4, 8, 16), heads=(1, 2))  # depth 2: a grid of 4 voxels
    >>> tiles = plan_tiles((3, 37, 53), spec, Seamless(inner=16, halo=8))
    >>> len(tiles), tiles.grid, tiles.chunks
    (36, (3, 3, 4), (1, 16, 16))
    >>> tile = tiles.tile((0, 0, 1))
    >>> tile.inner, tile.outer  # no halo beyond the top border
    (Box(start=(0, 0, 16), stop=(1, 16, 32)), Box(start=(0, 0, 8), stop=(1, 24, 40)))
    >>> tiles.tile((0, 2, 3)).outer  # mirrored at the far end, up to the next multiple of 4
    Box(start=(0, 24, 40), stop=(1, 40, 56))
    >>> plan_tiles((512, 512), spec, Overlap(96, 48)).patch_starts[1]
    (0, 48, 96, 144, 192, 240, 288, 336, 384, 416)

    Parameters
    ----------
    shape
        Of the stack in prediction axes; the last `spec.ndim` axes are the spatial ones.
    level
        Deepest level to predict; None is all. Decides the exact halo.
    visible
        Box in prediction axes. Tiles that hold a voxel of it come first, then by distance along the
        leading axes (slices), then by distance in the plane; ties in the order of the axes.

    Raises
    ------
    ValueError
        Where the stack is empty, an axis too thin, a number off the grid, or the tiling cannot
        give what it promises with this network.
    """
    shape = tuple(map(operator.index, shape))
    leading = len(shape) - spec.ndim
    _check_shape(shape, spec.ndim)
    if visible is not None and visible.ndim != len(shape):
        raise ValueError(f"visible box of {visible.ndim} axes where the stack has {len(shape)}")
    deepest = spec.heads_up_to(level)[-1]
    singles = tuple(tuple((i, i + 1) for i in range(n)) for n in shape[:leading])
    spatial = shape[leading:]
    if isinstance(tiling, Overlap):
        check_overlap(tiling, spec.grids)
        patch, stride = (per_axis(value, spec.ndim) for value in (tiling.patch, tiling.stride))
        starts = tuple(map(patch_starts, spatial, patch, stride))
        inner, outer = band_spans(spatial, starts, patch, stride[0])
        rows, *across = (spans[0][1] for spans in inner)
        # Across a band only the chunks are cut, so that a viewer need not read a whole band.
        rows = rows if spec.ndim == 2 else divisor(rows, BAND_ROWS[3])
        chunks = (rows, *(min(n, CHUNK[spec.ndim]) for n in across))
    else:
        tiling = resolve_seamless(tiling, spec, deepest, spatial)
        assert tiling.inner is not None
        assert not isinstance(tiling.halo, str)
        edges, halos = per_axis(tiling.inner, spec.ndim), per_axis(tiling.halo, spec.ndim)
        starts = ()
        inner = tuple(map(cut, spatial, edges))
        # A network without padding mirrors the image at its very end, others at the next multiple of the grid.
        ends = spatial if spec.padding != "same" else tuple(map(round_up, spatial, spec.grids))
        outer = tuple(map(with_halo, spatial, edges, halos, spec.grids, ends))
        # A viewer reads chunks, so those of a large tile are smaller than the tile.
        parts = (edge // 2 if edge > LONGEST_CHUNK and edge % 2 == 0 else edge for edge in edges)
        chunks = tuple(map(min, spatial, parts))
    return Tiles(
        shape=shape,
        tiling=tiling,
        level=deepest,
        leading=leading,
        inner_spans=singles + inner,
        outer_spans=singles + outer,
        patch_starts=starts,
        chunks=(1,) * leading + chunks,
        visible=visible,
    )


def _check_shape(shape: tuple[int, ...], ndim: int) -> None:
    if len(shape) < ndim:
        raise ValueError(f"stack of shape {shape} has fewer than the {ndim} axes of the model")
    if 0 in shape:
        raise ValueError(f"stack of shape {shape} is empty; there is nothing to segment")
    thin = [axis for axis in range(len(shape) - ndim, len(shape)) if shape[axis] == 1]
    if thin:
        raise ValueError(
            f"axis {thin[0]} of the stack of shape {shape} is 1 voxel thin, so there is nothing to "
            f"segment; a {ndim}D model needs at least 2 along each of its {ndim} axes"
        )


def _nearest_first(tiles: Tiles, visible: Box) -> NDArray[np.intp]:
    """Numbers of all tiles: by distance along the leading axes, then along the spatial ones."""
    across_slices = np.zeros(tiles.grid, np.int64)
    in_plane = np.zeros(tiles.grid, np.int64)
    for axis, spans in enumerate(tiles.inner_spans):
        starts, stops = np.asarray(spans).T
        # 0 where they share a voxel, 1 where they are neighbours.
        gap = np.maximum(visible.start[axis] - (stops - 1), starts - (visible.stop[axis] - 1))
        column = (len(starts),) + (1,) * (len(tiles.grid) - axis - 1)
        target = across_slices if axis < tiles.leading else in_plane
        target += np.maximum(gap, 0).reshape(column)
    return np.lexsort((in_plane.ravel(), across_slices.ravel()))


def _box(spans: list[tuple[int, int]]) -> Box:
    return Box(tuple(a for a, _ in spans), tuple(b for _, b in spans))
