"""From a stack to predictions, at all levels in one pass.

Decides, in this order: a run over a stack with what is safe on disk told tile by tile
(`predict_stack`), the same into memory (`predict_array`), and the tiles themselves
(`predict_tiles`). One pass over one array is in `region.py`.

Tiles are predicted in fixed groups of neighbours, whatever is done already or visible: a network
may round differently in batches of different sizes, and a continued run must end in the same bytes.
"""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.inference.backends import Backend, Precision, prepare
from napari_unetpp.inference.events import TileDone, Waiting
from napari_unetpp.inference.folders import leaving_nothing
from napari_unetpp.inference.inputs import check_input, measure_stack, with_intensity
from napari_unetpp.inference.outputs import to_uint8
from napari_unetpp.inference.region import RegionCache, predict_region
from napari_unetpp.inference.runs import join_run, keep_calibration, make_record, open_run
from napari_unetpp.inference.seen import SeenVoxels, check_image
from napari_unetpp.inference.stages import Run, run_stages
from napari_unetpp.inference.tiles import Tile, Tiles, plan_tiles, tiling_from_card
from napari_unetpp.model.sampling import as_seen

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from numpy.typing import NDArray

    from napari_unetpp._locks import Hold
    from napari_unetpp.box import Box
    from napari_unetpp.inference.pace import Pace
    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.inference.tiling import Tiling
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.intensity import Over, Scaling
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
    "with_intensity",
]


def predict_stack(
    stack: Stack,
    model: Model,
    tiles: Tiles,
    store: PredictionStore,
    *,
    region: Box | None = None,
    batch: int | None = None,
    backend: Backend | None = None,
    memory: int | None = None,
    threads: int | None = None,
    pace: Pace | None = None,
    heartbeat: float | None = None,
    hold: Hold | None = None,
    checked: bool = False,
) -> Generator[TileDone | Waiting, None, None]:
    """An event for each tile that has become safe on disk; closing the generator is Cancel.

    Tiles that the store has already are skipped, so a second run goes on where the first stopped
    and ends in the same bytes. Before that the image is compared with the one that they were predicted
    from, voxel by voxel. Reading and writing go on beside the network, so after Cancel some
    more tiles may be safe than were told. What cannot work is refused by this call, before any event.

    Parameters
    ----------
    region
        Predict the tiles that hold a voxel of this box, in prediction axes; None is all.
    batch
        Most tiles (seamless) or patches (overlap) in one pass; None is `Backend.best_batch`. Keep it when
        a run is continued.
    backend
        The model made ready (`prepare`); None prepares it in the precision that is best here.
    memory
        Most bytes for the maps of the network; None is 128 MiB on a CPU, and what one input
        takes where that is more.
    threads
        Of torch, for all workers; None is all that torch has.
    pace
        To stop the workers from another thread, or to make them leave a core to the user for a while.
    heartbeat
        Seconds after which a `Waiting` comes where no tile was finished; None waits. With it, a `Checking` comes
        for each tile whose image was compared.
    hold
        The right to write to the store, which the caller has; None takes it for this run.
    checked
        The caller has compared the image already (`check_image`).

    Raises
    ------
    ValueError
        Where the model cannot take the stack, (StoreError) the store is of another run or of an image
        that has changed, or (InUse) another run writes to it.
    MemoryError
        Where `memory` is given and too little for one input.
    OSError
        Where the disk is full or gone; what was yielded is safe.
    """
    check_input(stack, model)
    backend = backend or prepare(model)
    scaling = join_run(store, stack, model, tiles, precision=backend.precision)
    keep_calibration(store, backend)
    batch = backend.best_batch(tiles.level, tiles.input_extent) if batch is None else batch
    shown, left = as_seen(stack, scaling)
    seen = SeenVoxels(stack, tiles, plain=scaling.plain)
    run = Run(shown, model, backend, tiles, left, batch, counts=True, seen=seen)

    def collect(parts: list[tuple[Tile, dict[int, NDArray[Any]]]]) -> list[Tile]:
        for tile, heads in parts:
            store.write(tile, heads)
            store.mark_done(tile, seen.of(tile))
        return [tile for tile, _ in parts]

    wanted = np.zeros(len(tiles), bool)
    finished = run_stages(run, wanted, collect, memory=memory, threads=threads, pace=pace, heartbeat=heartbeat)
    mine = store.hold() if hold is None else None  # last, so that nothing that is refused keeps it

    def events() -> Generator[TileDone | Waiting, None, None]:
        with mine or nullcontext(), leaving_nothing(store.path), closing(finished):
            for event in () if checked else check_image(stack, tiles, store):
                if heartbeat is not None:
                    yield event
            todo = ~store.done()
            if region is not None:
                todo &= tiles.touching(region)
            wanted[:] = todo.ravel()
            yield from _told(finished, store.done_count, len(tiles))
            store.check_whole(tiles)

    return events()


def _told(finished: Iterable[list[Tile] | None], done: int, total: int) -> Generator[TileDone | Waiting, None, None]:
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
    intensity: Over | None = None,
) -> dict[int, NDArray[np.float32]]:
    """Probabilities {level: (class, *stack.shape_predicted)} of a stack that fits in memory.

    Parameters
    ----------
    tiling
        None is what the model's card recommends.
    precision
        Of a backend that is made for this call, where none is given.
    intensity
        Of what the range of intensities is measured; None is as the model says. For `predict_stack`, give `open_run` and it
        the model that `with_intensity` makes.

    Raises
    ------
    ValueError
        As `plan_tiles` and `predict_stack`.
    """
    check_input(stack, model)
    model = with_intensity(model, intensity)
    backend = backend or prepare(model, precision, stack=stack)
    tiling = tiling or tiling_from_card(model.card.tiling, model.spec.ndim)
    tiles = plan_tiles(stack.shape_predicted, model.spec, tiling, level=level)
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
    shown, left = as_seen(stack, scaling)
    run = Run(shown, model, backend, tiles, left, batch, counts=False)
    for parts in run_stages(run, wanted.copy(), lambda parts: parts, memory=memory, threads=threads):
        yield from parts or ()
