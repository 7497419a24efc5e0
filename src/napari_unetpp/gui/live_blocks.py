"""Into which blocks a view is cut that is predicted live.

Decides, in this order: the part of a view that is predicted (`region_of`), its blocks
(`blocks_of`), what is read for one (`outer_of`), and when nothing is left of one (`covered`). All
boxes are in prediction axes; they begin on the grid of 2**depth voxels, as the network pools.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from napari_unetpp.box import Box
from napari_unetpp.inference.tiling import FAST_HALO, round_up

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK = {2: 576, 3: 96}  # longest edge; the nodes of one take 250 MiB to L4 with the usual widths
LARGEST = {2: 4096, 3: 512}  # edge of a view of which only the middle is predicted


def region_of(box: Box, shape: Sequence[int], ndim: int, grid: int) -> Box:
    """The box grown to the network's grid inside an image, and cut to what is predicted live.

    >>> region_of(Box((3, 10, 20), (4, 90, 100)), (9, 100, 100), 2, 16)
    Box(start=(3, 0, 16), stop=(4, 96, 100))
    """
    start, stop = list(box.start), list(box.stop)
    for axis in range(box.ndim - ndim, box.ndim):
        if (excess := stop[axis] - start[axis] - LARGEST[ndim]) > 0:
            start[axis] += excess // 2
            stop[axis] = start[axis] + LARGEST[ndim]
        start[axis] = start[axis] // grid * grid
        stop[axis] = min(math.ceil(stop[axis] / grid) * grid, shape[axis])
    return Box(tuple(start), tuple(stop))


def blocks_of(region: Box, ndim: int, grid: int) -> list[Box]:
    """The region in blocks of about the same size, those in its middle first.

    >>> blocks = blocks_of(Box((0, 0), (1200, 500)), 2, 16)
    >>> blocks[0], len(blocks)
    (Box(start=(400, 0), stop=(800, 500)), 3)
    """
    spans: list[list[tuple[int, int]]] = []
    for axis, (a, b) in enumerate(zip(region.start, region.stop, strict=True)):
        if axis < region.ndim - ndim:
            spans.append([(a, b)])
            continue
        count = math.ceil((b - a) / BLOCK[ndim])
        edge = math.ceil((b - a) / count / grid) * grid
        spans.append([(i, min(i + edge, b)) for i in range(a, b, edge)])
    places = np.stack([axis.ravel() for axis in np.meshgrid(*(range(len(s)) for s in spans), indexing="ij")], axis=1)
    middle = (np.array([len(s) for s in spans]) - 1) / 2
    order = np.argsort(np.abs(places - middle).sum(axis=1), kind="stable")
    chosen = [[spans[axis][i] for axis, i in enumerate(places[k])] for k in order]
    return [Box(tuple(a for a, _ in block), tuple(b for _, b in block)) for block in chosen]


def outer_of(block: Box, shape: Sequence[int], ndim: int, grid: int) -> Box:
    """What is read for a block: the fast halo around it, as far as the image goes."""
    halo = [0 if axis < block.ndim - ndim else round_up(FAST_HALO, grid) for axis in range(block.ndim)]
    return block.grow(halo).intersect(Box.of(shape))


def covered(box: Box, by: Sequence[Box]) -> bool:
    """Whether disjoint boxes hold all of a box."""
    return sum(box.intersect(other).size for other in by) == box.size
