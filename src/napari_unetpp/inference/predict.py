"""From a stack to predictions, at all levels in one pass.

Decides, in this order: one pass over one array (`predict_region`), a run over a stack with what is
safe on disk told tile by tile (`predict_stack`), and the tiles themselves (`predict_tiles`).

Tiles are predicted in fixed groups of neighbours, whatever is done already or visible: a network
rounds differently in batches of different sizes, and a continued run must end in the same bytes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.inference.backends import batch_size, run_network
from napari_unetpp.inference.inputs import check_input, measure_stack, network_input, read_raw
from napari_unetpp.inference.overlap import predict_bands
from napari_unetpp.inference.runs import join_run, make_record, open_run
from napari_unetpp.inference.tiles import Overlap, Tile, Tiles
from napari_unetpp.model.intensity import Scaling, measure

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from numpy.typing import NDArray

    from napari_unetpp.box import Box
    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.stacks import Stack

__all__ = [
    "TileDone",
    "check_input",
    "make_record",
    "measure_stack",
    "open_run",
    "predict_region",
    "predict_stack",
    "predict_tiles",
]

Heads = dict[int, "NDArray[np.float32]"]


@dataclass(frozen=True, slots=True)
class TileDone:
    """A tile is safe on disk, at all levels.

    Parameters
    ----------
    done, total
        Tiles that are safe by now, those of earlier runs among them, of how many.
    seconds, voxels
        Time since this run began, and voxels that it has made safe since: their ratio is its speed.
    """

    tile: Tile
    done: int
    total: int
    seconds: float
    voxels: int


def predict_region(
    image: NDArray[Any],
    model: Model,
    level: int | None = None,
    *,
    scaling: Scaling | None = None,
) -> list[NDArray[np.float32]]:
    """Probabilities (class, [z,] y, x) of L1..`level`, from one pass over the whole array.

    Parameters
    ----------
    image
        Raw voxels (channel, [z,] y, x).
    level
        Deepest level; None is all that the model has.
    scaling
        That of the stack which the region is part of. None measures the region by itself.

    Raises
    ------
    ValueError
        Where axes or channels are not those of the model, the image is empty or holds NaN.
    """
    spec = model.spec
    gray = image.ndim == spec.ndim + 1 and image.shape[0] == 1 and model.intensity.replicate_gray
    if image.ndim != spec.ndim + 1 or (image.shape[0] != spec.in_channels and not gray):
        raise ValueError(
            f"image of shape {image.shape} where model {model.card.name!r} takes "
            f"{spec.in_channels} channels first, then {spec.ndim} spatial axes"
        )
    if image.size == 0:
        raise ValueError(f"image of shape {image.shape} is empty; there is nothing to segment")
    if gray:
        image = np.repeat(image, spec.in_channels, axis=0)
    scaling = scaling or measure(model.intensity, image)
    batch = network_input(image, model, scaling)[None]
    return [head[0] for head in run_network(model, batch, level)]


def predict_stack(
    stack: Stack, model: Model, tiles: Tiles, store: PredictionStore, *, batch: int = 4
) -> Generator[TileDone, None, None]:
    """An event for each tile that has become safe on disk; closing the generator is Cancel.

    Tiles that the store has already are skipped, so a second run goes on where the first stopped
    and ends in the same bytes. What cannot work is refused by this call, before any event.

    Parameters
    ----------
    batch
        Most tiles (seamless) or patches (overlap) in one pass. Keep it when a run is continued.

    Raises
    ------
    ValueError
        Where the model cannot take the stack, or (StoreError) the store is of another run.
    OSError
        Where the disk is full or gone; what was yielded is safe.
    """
    check_input(stack, model)
    scaling = join_run(store, stack, model, tiles)
    return _run(stack, model, tiles, store, scaling, batch)


def _run(
    stack: Stack, model: Model, tiles: Tiles, store: PredictionStore, scaling: Scaling, batch: int
) -> Generator[TileDone, None, None]:
    began, done, voxels = time.monotonic(), store.done_count, 0
    wanted = ~store.done().ravel()
    for tile, heads in predict_tiles(stack, model, tiles, scaling, wanted=wanted, batch=batch):
        store.write(tile, {level: to_uint8(head) for level, head in heads.items()})
        store.mark_done(tile)
        done += 1
        voxels += tile.inner.size
        yield TileDone(tile, done, len(tiles), time.monotonic() - began, voxels)


def predict_tiles(
    stack: Stack,
    model: Model,
    tiles: Tiles,
    scaling: Scaling,
    *,
    wanted: NDArray[np.bool_] | None = None,
    batch: int = 4,
) -> Iterator[tuple[Tile, Heads]]:
    """Tiles with their probabilities {level: (class, *inner.shape)}, in about the planned order.

    Parameters
    ----------
    wanted
        One element a tile, by `Tiles.number`; None is all.
    """
    if wanted is None:
        wanted = np.ones(len(tiles), bool)
    levels = model.spec.heads_up_to(tiles.level)
    if not isinstance(tiles.tiling, Overlap):
        yield from _predict_seamless(stack, model, tiles, scaling, wanted.copy(), batch)
        return

    def read(box: Box) -> NDArray[Any]:
        return read_raw(stack, box)

    def run(patches: list[NDArray[Any]]) -> list[NDArray[np.float32]]:
        inputs = np.stack([network_input(patch, model, scaling) for patch in patches])
        return run_network(model, inputs, tiles.level)

    bands = (tile for tile in tiles if wanted[tiles.number(tile.index)])
    size = batch_size(batch, (tiles.tiling.patch,) * model.spec.ndim)
    for tile, heads in predict_bands(tiles, bands, read, run, batch=size):
        yield tile, dict(zip(levels, heads, strict=True))


def _predict_seamless(
    stack: Stack,
    model: Model,
    tiles: Tiles,
    scaling: Scaling,
    wanted: NDArray[np.bool_],
    batch: int,
) -> Iterator[tuple[Tile, Heads]]:
    lead = tiles.leading
    levels = model.spec.heads_up_to(tiles.level)
    size = batch_size(batch, tiles.tile((0,) * len(tiles.grid)).outer.shape[lead:])
    for chosen in tiles:
        number = tiles.number(chosen.index)
        if not wanted[number]:
            continue
        first = number // size * size
        numbers = range(first, min(first + size, len(tiles)))
        group = [tiles.tile(tiles.index(n)) for n in numbers]
        inputs = [network_input(read_raw(stack, t.outer), model, scaling) for t in group]
        heads = run_network(model, np.stack(inputs), tiles.level)
        for place, (n, tile) in enumerate(zip(numbers, group, strict=True)):
            if not wanted[n]:
                continue
            wanted[n] = False
            inner = tile.inner.shift([-a for a in tile.outer.start]).slices[lead:]
            cropped = [head[place][:, *inner] for head in heads]
            shape = (model.spec.classes, *tile.inner.shape)
            yield tile, {d: c.reshape(shape) for d, c in zip(levels, cropped, strict=True)}


def to_uint8(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Stored form of a probability: round(255 p). Half counts up where it matters, at p = 0.5.

    >>> to_uint8(np.array([0.0, 0.4999, 0.5, 1.0], np.float32)).tolist()
    [0, 127, 128, 255]
    """
    counts: NDArray[np.float32] = np.clip(np.rint(probability * np.float32(255)), 0, 255)
    return counts.astype(np.uint8)
