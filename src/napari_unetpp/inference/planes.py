"""A 2D model along z, y and x of a stack: what is predicted where.

Decides, in this order: which stacks that is for (`why_not_planes`, `why_unequal`), how a stack is seen along
another axis (`seen_along`, `box_along`) and read (`read_ahead`), and the plan of a run (`Planes`, `plan_planes`).

The planes across z are predicted as always, slice by slice. Those across y have rows along z and columns along
x, those across x rows along z and columns along y; each is a stack with its axes renamed, and is cut and
predicted as any other. The probability of a level is the mean of the three::

    slab of z          planes across y        planes across x        planes across z
    +----------+       +--x---------+         +--y---------+         +--x---------+
    |  z rows  |  <--  z  tile, kept|    and  z  tile, kept|   then  y  tile      | mean of the three,
    +----------+       +------------+         +------------+         +------------+ final, in the store

A tile is final once all three are there. So a stack goes slab by slab: the planes across y and x of a slab are kept
in files that disappear with it (`planes_kept.py`), and its slices are made final one by one. Nothing of this
changes a voxel: slabs end where tiles of the other planes end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_unetpp.box import Box
from napari_unetpp.inference.fitting import fitting_tiles
from napari_unetpp.inference.labels import LazyView
from napari_unetpp.inference.tiles import plan_tiles
from napari_unetpp.inference.tiling import Overlap, Seamless, per_axis, round_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_unetpp.inference.backends import Backend
    from napari_unetpp.inference.tiles import Tiles
    from napari_unetpp.inference.tiling import Tiling
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.stacks import Stack

Axis = Literal["y", "x"]
SIDES: tuple[Axis, Axis] = ("y", "x")
EQUAL_WITHIN = 0.1  # spacings that differ by less are as good as equal

# What z, y and x are called in the stack seen along another axis: its slices lie along "z".
_NAMES = {"y": str.maketrans("zyx", "yzx"), "x": str.maketrans("zyx", "yxz")}
_SLAB_HALOS = 8  # halos that a slab is thick at most: its tiles then read a quarter more than they write
_SLAB_LEAST = 64  # slices, where a halo is short
_SLAB_BANDS = 4  # of an overlap tiling; one row of patches in nine is then predicted twice
_AHEAD_BYTES = 2**26  # of planes that are read at once


def why_not_planes(stack: Stack, spec: NetworkSpec) -> str:
    """Why a network cannot predict a stack along z, y and x, in one line; empty where it can."""
    if spec.ndim != 2:
        return "three planes are for 2D models; a 3D model sees all three axes at once"
    if "z" not in stack.axes:
        return f"{stack.name!r} has axes {stack.axes} and no z, which three planes need"
    depth = stack.shape[stack.axes.index("z")]
    if depth < (least := max(2, spec.grid)):
        return f"{stack.name!r} has {depth} slices; planes through z need at least {least} for this model"
    return ""


def why_unequal(stack: Stack) -> str:
    """In which words the voxels of a stack are longer along one axis; empty where they are not, or nothing is known."""
    spacing = dict(zip(stack.axes, stack.spacing_um, strict=True))
    known = {axis: um for axis in "zyx" if (um := spacing.get(axis)) is not None}
    if not known or max(known.values()) <= (1 + EQUAL_WITHIN) * min(known.values()):
        return ""
    each = ", ".join(f"{axis} {um:g}" for axis, um in known.items())
    return (
        f"voxels of {stack.name!r} are not equally long ({each} um), so planes through z look stretched to a 2D model"
    )


def seen_along(stack: Stack, axis: Axis) -> Stack:
    """The same voxels with y or x as slices, z as rows and what remains as columns; nothing is read or copied.

    >>> from napari_unetpp.stacks import open_stack
    >>> stack = open_stack(np.zeros((4, 5, 6)), axes="zyx")
    >>> seen_along(stack, "y").shape_predicted, seen_along(stack, "x").shape_predicted
    ((5, 4, 6), (6, 4, 5))
    """
    return replace(stack, axes=stack.axes.translate(_NAMES[axis]))


def box_along(box: Box, axis: Axis) -> Box:
    """A box ([t,] z, y, x) of a stack as one of the stack seen along another axis.

    >>> box_along(Box((1, 2, 3), (4, 5, 6)), "x")
    Box(start=(3, 1, 2), stop=(6, 4, 5))
    """
    order = (-2, -3, -1) if axis == "y" else (-1, -3, -2)
    places = (*range(box.ndim - 3), *(box.ndim + k for k in order))
    return Box(tuple(box.start[k] for k in places), tuple(box.stop[k] for k in places))


def read_ahead(stack: Stack, rows: tuple[int, int]) -> Stack:
    """The same stack, for tiles that come plane by plane and lie within some rows.

    Files hold slices along z, and one row of each costs as much to read as many. So planes are read many at once,
    in all their width, and those that were read last are kept.
    """
    lead = len(stack.shape_predicted) - 3
    planes, depth, across = stack.shape_predicted[lead:]
    low, high = max(rows[0], 0), min(rows[1], depth)
    count = max(1, _AHEAD_BYTES // (stack.channels * stack.dtype.itemsize * (high - low) * across))
    kept: tuple[Box, NDArray[Any]] | None = None

    def read(box: Box) -> NDArray[Any]:
        nonlocal kept
        if kept is None or not box.inside(kept[0]):
            kept = None  # before the next are there
            first = box.start[lead]
            last = max(box.stop[lead], min(first + count, planes))
            span = min(low, box.start[lead + 1]), max(high, box.stop[lead + 1])
            block = Box((*box.start[: lead + 1], span[0], 0), (*box.stop[:lead], last, span[1], across))
            kept = block, stack.read(block)
        around, voxels = kept
        inside: NDArray[Any] = voxels[(slice(None), *box.shift([-a for a in around.start]).slices)]
        return inside

    def of_channels(box: Box) -> NDArray[Any]:
        return read(Box(box.start[1:], box.stop[1:]))[box.start[0] : box.stop[0]]

    if stack.channel_axis is None:
        data = LazyView(stack.shape_predicted, stack.axes_predicted, stack.dtype, lambda box: read(box)[0])
        return replace(stack, data=data, axes=stack.axes_predicted, spacing_um=stack.spacing_predicted_um)
    axes, shape = f"c{stack.axes_predicted}", (stack.channels, *stack.shape_predicted)
    data = LazyView(shape, axes, stack.dtype, of_channels)
    return replace(stack, data=data, axes=axes, spacing_um=(None, *stack.spacing_predicted_um))


@dataclass(frozen=True, slots=True)
class Planes:
    """The plan of a run along z, y and x.

    Parameters
    ----------
    tiles
        Across z: those of the store, each final once all three are there.
    sides
        Across y, in axes ([t,] y, z, x), and across x, ([t,] x, z, y).
    slabs
        Boxes ([t,] z, y, x) that partition the stack along t and z, in the order in which they are predicted.
    """

    tiles: Tiles
    sides: dict[Axis, Tiles]
    slabs: tuple[Box, ...]

    def part(self, axis: Axis, slab: Box) -> Tiles:
        """The tiles across a side that lie in a slab, numbered by themselves, so that none goes with one outside."""
        side, box = self.sides[axis], box_along(slab, axis)
        spans = zip(side.inner_spans, side.outer_spans, box.start, box.stop, strict=True)
        chosen = [[(i, o) for i, o in zip(inner, outer, strict=True) if a <= i[0] < b] for inner, outer, a, b in spans]
        return replace(
            side,
            inner_spans=tuple(tuple(i for i, _ in pairs) for pairs in chosen),
            outer_spans=tuple(tuple(o for _, o in pairs) for pairs in chosen),
        )

    def describe(self) -> dict[str, Any]:
        """JSON-able numbers that, with those of `tiles`, decide every voxel: where a halo is not exact, seams too.

        Of each side the extents (z, across) of its first tile.
        """
        return {"axes": "zyx", **{a: [t.inner_spans[k][0][1] for k in (-2, -1)] for a, t in self.sides.items()}}


def plan_planes(
    stack: Stack,
    backend: Backend,
    tiling: Tiling,
    *,
    level: int | None = None,
    memory: int | None = None,
    visible: Box | None = None,
) -> Planes:
    """The plan of a stack; parameters are those of `fitting_tiles`.

    Raises
    ------
    MemoryError
        Where `memory` is given and too little for the smallest tiles.
    ValueError
        As `fitting_tiles`, and where the model is not 2D or the stack has too little of z.
    """
    if problem := why_not_planes(stack, backend.spec):
        raise ValueError(problem)
    tiles = fitting_tiles(stack.shape_predicted, backend, tiling, level=level, memory=memory, visible=visible)
    sides, thick = _sides(stack, backend, tiling, level, memory)
    cuts = sides["y"].inner_spans[-2]  # along z, the same on both sides
    many = math.ceil(thick / (cuts[0][1] - cuts[0][0]))
    spans = [(group[0][0], group[-1][1]) for k in range(0, len(cuts), many) if (group := cuts[k : k + many])]
    return Planes(tiles, sides, tuple(_slabs(tiles, spans)))


def _sides(
    stack: Stack, backend: Backend, tiling: Tiling, level: int | None, memory: int | None
) -> tuple[dict[Axis, Tiles], int]:
    """Tiles across both sides, and how thick a slab should be. Seamless tiles are as high as that, if they may be."""
    spec, tilings = backend.spec, dict.fromkeys(SIDES, tiling)
    shapes = {axis: seen_along(stack, axis).shape_predicted for axis in SIDES}
    if isinstance(tiling, Seamless):
        fitting = {
            axis: fitting_tiles(shape, backend, tiling, level=level, memory=memory) for axis, shape in shapes.items()
        }
        resolved = [tiles.tiling for tiles in fitting.values() if isinstance(tiles.tiling, Seamless)]
        edges = [per_axis(one.inner or 0, 2) for one in resolved]
        halo = per_axis(resolved[0].halo, 2)[0] if not isinstance(resolved[0].halo, str) else 0
        depth, thickest = shapes["y"][-2], max(_SLAB_LEAST, _SLAB_HALOS * halo)
        # As few slabs of one thickness as may be, since each begins with a halo.
        thick = round_up(math.ceil(depth / math.ceil(depth / thickest)), spec.grids[0])
        rows = min(thick, *(high for high, _ in edges))
        tilings = {axis: replace(tiling, inner=(rows, wide)) for axis, (_, wide) in zip(SIDES, edges, strict=True)}
    sides = {axis: plan_tiles(shape, spec, tilings[axis], level=level) for axis, shape in shapes.items()}
    if isinstance(tiling, Overlap):
        thick = _SLAB_BANDS * sides["y"].inner_spans[-2][0][1]
    return sides, thick


def _slabs(tiles: Tiles, spans: list[tuple[int, int]]) -> Iterator[Box]:
    """What is visible comes first, then by distance along t, then along z."""
    times = range(tiles.shape[0]) if len(tiles.shape) > 3 else (None,)
    slabs = []
    for t in times:
        lead = () if t is None else (t,)
        after = () if t is None else (t + 1,)
        slabs += [Box((*lead, a, 0, 0), (*after, b, *tiles.shape[-2:])) for a, b in spans]
    seen = tiles.visible or Box.of(tiles.shape)

    def distance(slab: Box) -> tuple[int, ...]:
        gaps = np.maximum(np.subtract(seen.start, np.subtract(slab.stop, 1)), np.subtract(slab.start, seen.stop) + 1)
        return tuple(np.maximum(gaps, 0)[:-2])

    yield from sorted(slabs, key=distance)
