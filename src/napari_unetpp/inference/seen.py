"""From which voxels of the image each tile was predicted, and whether the image still holds them.

A tile depends on all that was read for it: in seamless tiling its outer box, in overlap tiling the rows of patches
that touch its band, along three planes the whole slab with what lies around it. A hash of these voxels is kept for
each tile (`PredictionStore.seen`). It is computed while they are read for the network, and compared whenever a run
goes on with the tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_unetpp._voxel_hash import hash_together, hash_voxels
from napari_unetpp.box import Box
from napari_unetpp.inference.events import Checking
from napari_unetpp.inference.folders import StoreError
from napari_unetpp.inference.overlap import row_box, rows_touching
from napari_unetpp.inference.tiling import Overlap
from napari_unetpp.model.intensity import Scaling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_unetpp.inference.planes import Planes
    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.inference.tiles import Tile, Tiles
    from napari_unetpp.stacks import Stack


class ChangedImageError(StoreError):
    """The image is not the one that the stored tiles were predicted from."""


class SeenVoxels:
    """Hashes of the boxes of a stack that were read, until the tiles that depend on them are done.

    One thread may read while another asks for the hashes of tiles.

    Parameters
    ----------
    plain
        Whether the network sees the voxels of `stack` themselves, and nothing around a box (`Scaling.plain`).
    """

    def __init__(self, stack: Stack, tiles: Tiles, *, plain: bool) -> None:
        self._stack, self._tiles, self._plain = stack, tiles, plain
        self._shared = isinstance(tiles.tiling, Overlap)  # a row of patches belongs to two bands
        self._hashes: dict[Box, int] = {}

    def keep(self, box: Box, read: NDArray[Any] | None = None) -> None:
        """Keep the hash of a box, of which the raw voxels may have been read already."""
        if read is None or not self._plain:
            # What takes broken pixels out looks at the neighbours of each pixel.
            read = self._stack.read(box if self._plain else box.grow((0,) * (box.ndim - 2) + (1, 1)))
        self._hashes[box] = hash_voxels(read)

    def of(self, tile: Tile) -> int:
        """Hash of all that a tile depends on; what was not read yet is read now."""
        boxes = self._boxes(tile)
        for box in boxes:
            if box not in self._hashes:
                self.keep(box)
        if self._shared:
            return hash_together(self._hashes[box] for box in boxes)
        return hash_together(self._hashes.pop(box) for box in boxes)

    def _boxes(self, tile: Tile) -> list[Box]:
        if not self._shared:
            return [tile.outer]
        return [row_box(self._tiles, tile, row) for row in rows_touching(self._tiles, tile)]


def check_image(stack: Stack, tiles: Tiles, store: PredictionStore) -> Iterator[Checking]:
    """Compare the image with the one that the tiles of a store were predicted from, tile by tile.

    Tiles whose stored predictions are damaged are marked to be predicted again.

    Raises
    ------
    ChangedImageError
        At the first tile that was predicted from other voxels.
    """
    seen = SeenVoxels(stack, tiles, plain=_is_plain(store))
    finished = store.done()
    total = int(finished.sum())
    number = 0
    for tile in tiles:
        if not finished[tile.index]:
            continue
        if _is_readable(store, tile):
            _compare(stack, store, tile, seen.of(tile), total)
        number += 1
        yield Checking(number, total)


def check_image_along_three(stack: Stack, planes: Planes, store: PredictionStore) -> Iterator[Checking]:
    """`check_image` of a run along z, y and x, slab by slab."""
    finished = store.done()
    total = int(finished.sum())
    number = 0
    for slab in planes.slabs:
        inside = finished & planes.tiles.touching(slab)
        if not inside.any():
            continue
        hashes = []
        for plane in plane_hashes(stack, planes, slab):
            hashes.append(plane)
            yield Checking(number, total)
        hashed = hash_together(hashes)
        for tile in planes.tiles:
            if inside[tile.index]:
                if _is_readable(store, tile):
                    _compare(stack, store, tile, hashed, total)
                number += 1
                yield Checking(number, total)


def plane_hashes(stack: Stack, planes: Planes, slab: Box) -> Iterator[int]:
    """Hashes of the planes that a slab depends on; together they stand for it."""
    rows = [planes.part(axis, slab).outer_spans[-2] for axis in ("y", "x")]
    first = max(0, min(spans[0][0] for spans in rows))
    last = min(stack.shape_predicted[-3], max(spans[-1][1] for spans in rows))
    for z in range(first, last):
        plane = Box((*slab.start[:-3], z, 0, 0), (*slab.stop[:-3], z + 1, *stack.shape_predicted[-2:]))
        yield hash_voxels(stack.read(plane))


def _is_plain(store: PredictionStore) -> bool:
    recorded = store.record.get("scaling")
    return recorded is None or Scaling.from_json(recorded).plain


def _is_readable(store: PredictionStore, tile: Tile) -> bool:
    """Whether the stored predictions of a tile are there and undamaged; otherwise it will be predicted again."""
    if store.is_whole(tile):
        return True
    store.forget(tile)
    return False


def _compare(stack: Stack, store: PredictionStore, tile: Tile, now: int, total: int) -> None:
    before = store.seen(tile)
    if before == now:
        return
    what = "overwrite it (--overwrite), or name another path"
    if not before:
        raise ChangedImageError(
            f"{store.path} keeps no hash of the image that it was predicted from, as stores of earlier versions; "
            f"whether {stack.name} is that image cannot be known; {what}"
        )
    raise ChangedImageError(
        f"{stack.name} has changed since {store.path} was predicted from it, first seen at {_place(stack, tile.inner)} "
        f"of the {total} tiles that are done; {what}"
    )


def _place(stack: Stack, box: Box) -> str:
    """A box in words, as z 3, y 0 to 512, x 0 to 512."""

    def along(axis: str, start: int, stop: int) -> str:
        return f"{axis} {start}" if stop - start == 1 else f"{axis} {start} to {stop}"

    return ", ".join(map(along, stack.axes_predicted, box.start, box.stop))
