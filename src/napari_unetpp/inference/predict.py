"""From a stack to predictions, at all levels in one pass.

Decides, in this order: one pass over one array, also level by level (`predict_region`), a run over
a stack with what is safe on disk told tile by tile (`predict_stack`), the same into memory
(`predict_array`), and the tiles themselves (`predict_tiles`).

Tiles are predicted in fixed groups of neighbours, whatever is done already or visible: a network
may round differently in batches of different sizes, and a continued run must end in the same bytes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_unetpp.inference.backends import Backend, Precision, prepare
from napari_unetpp.inference.events import TileDone, Waiting
from napari_unetpp.inference.inputs import check_input, measure_stack, network_input
from napari_unetpp.inference.joining import Buffer
from napari_unetpp.inference.kernels import add_diagonal, head_logits
from napari_unetpp.inference.outputs import to_uint8
from napari_unetpp.inference.runs import join_run, keep_calibration, make_record, open_run
from napari_unetpp.inference.stages import Run, run_stages
from napari_unetpp.inference.tiles import Tile, Tiles, plan_tiles, tiling_from_card
from napari_unetpp.model.intensity import Scaling, measure
from napari_unetpp.model.unetpp import pad_to_grid, probabilities

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from numpy.typing import NDArray

    from napari_unetpp.inference.pace import Pace
    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.inference.tiling import Tiling
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.unetpp import Nodes
    from napari_unetpp.stacks import Stack

__all__ = [
    "RegionCache",
    "TileDone",
    "Waiting",
    "check_input",
    "make_record",
    "measure_stack",
    "open_run",
    "predict_array",
    "predict_region",
    "predict_stack",
    "predict_tiles",
    "to_uint8",
]


@dataclass(slots=True)
class RegionCache:
    """What is computed of one region so far, so that a deeper level continues instead of beginning anew.

    Make one for each region and backend, and hand it to `predict_region` level after level.
    """

    shape: tuple[int, ...] = ()
    image: torch.Tensor | None = None
    nodes: Nodes = field(default_factory=dict)
    heads: dict[int, NDArray[np.float32]] = field(default_factory=dict)


def predict_region(
    image: NDArray[Any],
    model: Model,
    level: int | None = None,
    *,
    scaling: Scaling | None = None,
    backend: Backend | None = None,
    cache: RegionCache | None = None,
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
    backend
        The model made ready (`prepare`), for whoever predicts many regions; None prepares it now.
    cache
        Nodes of earlier calls for the same image: only the missing diagonals are computed, so L1 and
        then L2, L3 and L4 together cost what L4 costs.

    Raises
    ------
    ValueError
        Where axes or channels are not those of the model, the image is empty or holds NaN.
    """
    _check_region(image, model)
    spec = model.spec
    backend = backend or prepare(model)
    if cache is None or cache.image is None:
        if image.shape[0] < spec.in_channels:
            image = np.repeat(image, spec.in_channels, axis=0)
        scaling = scaling or measure(model.intensity, image)
        batch = network_input(image, model, scaling)[None]
        if cache is None:
            return [head[0] for head in backend.run(batch, level, band=backend.region_band(batch.shape[2:], level))]
        cache.shape = image.shape[1:]
        cache.image = backend.layers.enter(pad_to_grid(torch.from_numpy(batch), spec.grid))
    elif cache.shape != image.shape[1:]:
        raise ValueError(f"a cache of a region of shape {cache.shape} for one of {image.shape[1:]}; make a new one")
    return _continue(backend, cache, level)


def _check_region(image: NDArray[Any], model: Model) -> None:
    spec = model.spec
    gray = image.ndim == spec.ndim + 1 and image.shape[0] == 1 and model.intensity.replicate_gray
    if image.ndim != spec.ndim + 1 or (image.shape[0] != spec.in_channels and not gray):
        raise ValueError(
            f"image of shape {image.shape} where model {model.card.name!r} takes "
            f"{spec.in_channels} channels first, then {spec.ndim} spatial axes"
        )
    if image.size == 0:
        raise ValueError(f"image of shape {image.shape} is empty; there is nothing to segment")


def _continue(backend: Backend, cache: RegionCache, level: int | None) -> list[NDArray[np.float32]]:
    heads = backend.spec.heads_up_to(level)
    crop = tuple(slice(n) for n in cache.shape)
    assert cache.image is not None
    buffer = Buffer() if backend.device.type == "cpu" else None
    with torch.inference_mode(), backend.computing():
        for d in range(heads[-1] + 1):
            if (d, 0) not in cache.nodes:
                add_diagonal(backend.layers, cache.nodes, cache.image, d, buffer)
            if d in heads and d not in cache.heads:
                logits = head_logits(backend.layers, cache.nodes, d)[0][(slice(None), *crop)]
                cache.heads[d] = probabilities(logits[None].float())[0].cpu().numpy()
    return [cache.heads[d] for d in heads]


def predict_stack(
    stack: Stack,
    model: Model,
    tiles: Tiles,
    store: PredictionStore,
    *,
    batch: int | None = None,
    backend: Backend | None = None,
    memory: int | None = None,
    threads: int | None = None,
    pace: Pace | None = None,
    heartbeat: float | None = None,
) -> Generator[TileDone | Waiting, None, None]:
    """An event for each tile that has become safe on disk; closing the generator is Cancel.

    Tiles that the store has already are skipped, so a second run goes on where the first stopped
    and ends in the same bytes. Reading and writing go on beside the network, so after Cancel some
    more tiles may be safe than were told. What cannot work is refused by this call, before any event.

    Parameters
    ----------
    batch
        Most tiles (seamless) or patches (overlap) in one pass; None is `Backend.best_batch`. Keep it when
        a run is continued.
    backend
        The model made ready (`prepare`); None prepares it in the precision that is best here.
    memory
        Most bytes for the maps of the network; None is 256 MiB on a CPU: more is not faster.
    threads
        Of torch, for all workers; None is all that torch has.
    pace
        To stop the workers from another thread, or to make them leave a core to the user for a while.
    heartbeat
        Seconds after which a `Waiting` comes where no tile was finished; None waits.

    Raises
    ------
    ValueError
        Where the model cannot take the stack, or (StoreError) the store is of another run.
    MemoryError
        Where `memory` is too little for one input.
    OSError
        Where the disk is full or gone; what was yielded is safe.
    """
    check_input(stack, model)
    backend = backend or prepare(model)
    scaling = join_run(store, stack, model, tiles, precision=backend.precision)
    keep_calibration(store, backend)
    batch = backend.best_batch(tiles.level, tiles.input_extent) if batch is None else batch
    run = Run(stack, model, backend, tiles, scaling, batch, counts=True)

    def collect(parts: list[tuple[Tile, dict[int, NDArray[Any]]]]) -> list[Tile]:
        for tile, heads in parts:
            store.write(tile, heads)
            store.mark_done(tile)
        return [tile for tile, _ in parts]

    finished = run_stages(
        run, ~store.done().ravel(), collect, memory=memory, threads=threads, pace=pace, heartbeat=heartbeat
    )
    return _events(finished, store.done_count, len(tiles))


def _events(finished: Iterator[list[Tile] | None], done: int, total: int) -> Generator[TileDone | Waiting, None, None]:
    began, voxels = time.monotonic(), 0
    for tiles in finished:
        if tiles is None:
            yield Waiting()
            continue
        for tile in tiles:
            done += 1
            voxels += tile.inner.size
            yield TileDone(tile, done, total, time.monotonic() - began, voxels)


def predict_array(
    stack: Stack,
    model: Model,
    *,
    tiling: Tiling | None = None,
    level: int | None = None,
    precision: Precision = "auto",
    backend: Backend | None = None,
    memory: int | None = None,
    threads: int | None = None,
    batch: int | None = None,
) -> dict[int, NDArray[np.float32]]:
    """Probabilities {level: (class, *stack.shape_predicted)} of a stack that fits in memory.

    Parameters
    ----------
    tiling
        None is what the model's card recommends.
    precision
        Of a backend that is made for this call, where none is given.

    Raises
    ------
    ValueError
        As `plan_tiles` and `predict_stack`.
    """
    check_input(stack, model)
    backend = backend or prepare(model, precision, stack=stack)
    tiles = plan_tiles(stack.shape_predicted, model.spec, tiling or tiling_from_card(model.card.tiling), level=level)
    shape = (model.spec.classes, *tiles.shape)
    out = {d: np.empty(shape, np.float32) for d in model.spec.heads_up_to(tiles.level)}
    scaling = measure_stack(stack, model)
    for tile, heads in predict_tiles(
        stack, model, tiles, scaling, batch=batch, backend=backend, memory=memory, threads=threads
    ):
        for d, head in heads.items():
            out[d][(slice(None), *tile.inner.slices)] = head
    return out


def predict_tiles(
    stack: Stack,
    model: Model,
    tiles: Tiles,
    scaling: Scaling,
    *,
    wanted: NDArray[np.bool_] | None = None,
    batch: int | None = None,
    backend: Backend | None = None,
    memory: int | None = None,
    threads: int | None = None,
) -> Iterator[tuple[Tile, dict[int, NDArray[np.float32]]]]:
    """Tiles with their probabilities {level: (class, *inner.shape)}, in about the planned order.

    Parameters
    ----------
    wanted
        One element a tile, by `Tiles.number`; None is all.
    """
    if wanted is None:
        wanted = np.ones(len(tiles), bool)
    backend = backend or prepare(model, stack=stack)
    batch = backend.best_batch(tiles.level, tiles.input_extent) if batch is None else batch
    run = Run(stack, model, backend, tiles, scaling, batch, counts=False)
    for parts in run_stages(run, wanted, lambda parts: parts, memory=memory, threads=threads):
        yield from parts or ()
