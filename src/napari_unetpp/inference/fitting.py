"""Tiles of a stack that a backend can predict within some memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_unetpp.inference.tiles import plan_tiles
from napari_unetpp.inference.tiling import Overlap, Seamless

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_unetpp.box import Box
    from napari_unetpp.inference.backends import Backend
    from napari_unetpp.inference.tiles import Tiles
    from napari_unetpp.inference.tiling import Tiling

_SMALLER = (1024, 512, 256, 192, 128, 96, 64, 48, 32, 16)  # inner edges of seamless tiles, to fit a memory
_ROOM = 2  # times what a backend plans with: a large tile is worth more than its maps, as its halo is computed once


def fitting_tiles(
    shape: Sequence[int],
    backend: Backend,
    tiling: Tiling,
    *,
    level: int | None = None,
    memory: int | None = None,
    visible: Box | None = None,
) -> Tiles:
    """As `plan_tiles`; seamless tiles whose size was left open become smaller where they must.

    An exact halo keeps the result the same.

    Parameters
    ----------
    memory
        Most bytes for the maps of one input. None is twice what the backend plans with, and then the smallest
        tiles are taken in any case.

    Raises
    ------
    MemoryError
        Where `memory` is given and too little for the smallest tiles.
    ValueError
        As `plan_tiles`.
    """
    spec = backend.spec
    tiles = plan_tiles(shape, spec, tiling, level=level, visible=visible)
    edges = [edge for edge in _SMALLER if edge % spec.grid == 0]  # which every axis' own divides
    if isinstance(tiling, Overlap) or tiling.inner is not None:
        edges = []
    while True:
        extent = tiles.input_extent
        batch = backend.best_batch(tiles.level, extent)
        try:
            backend.plan(tiles.level, extent, batch, 1, memory or _ROOM * backend.memory, threads=1)
        except MemoryError:
            if not edges and memory is not None:
                raise
            if not edges:
                return tiles
            assert isinstance(tiling, Seamless)
            tiles = plan_tiles(shape, spec, Seamless(edges.pop(0), tiling.halo), level=level, visible=visible)
        else:
            return tiles
