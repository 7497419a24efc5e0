"""The job behind the Segment dock, as a generator that knows neither Qt nor napari.

Decides how a run goes (`segment`): load the model, plan the tiles with what is on the screen first,
find or make the store, predict.

A run goes on in the store of an earlier one if nothing that decides its voxels has changed, and
else takes the next free name, so that nothing is ever overwritten::

    cells-nuclei.ome.zarr    cells-nuclei-2.ome.zarr    ...
"""

from __future__ import annotations

import atexit
import itertools
import re
import shutil
import tempfile
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_unetpp._locks import InUse
from napari_unetpp.gui.loaded import load_ready
from napari_unetpp.inference.events import Checking, PlaneDone, TileDone, Waiting
from napari_unetpp.inference.pace import Pace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_unetpp._locks import Hold
    from napari_unetpp.box import Box
    from napari_unetpp.inference.backends import Backend
    from napari_unetpp.inference.planes import Planes
    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.inference.tiles import Tiles
    from napari_unetpp.model.card import Card
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.intensity import Over
    from napari_unetpp.stacks import Stack

# Everything that imports torch is imported inside the generators: they run in the worker.

HEARTBEAT = 0.1  # seconds after which Cancel is looked at, whatever the network is doing


@dataclass(frozen=True, slots=True)
class Request:
    """All that decides a run, taken from the dock before it starts.

    Attributes
    ----------
    level : int
        The deepest to predict.
    tiling : str
        "overlap" or "seamless", with the card's numbers where it recommends that kind.
    planes : bool
        Along z, y and x instead of z alone.
    visible : Box
        What is on the screen, in prediction axes: it comes first.
    region : Box or None
        What to predict; None is everything.
    folder : Path or None
        Where the store goes; None is a temporary folder.
    fast : bool
        In 8-bit integers, where that gives nearly the same labels.
    intensity : str or None
        Of what the range of intensities is measured; None is as the model says.
    memory_mib : int or None
        Bound of the network's maps in MiB; None is what suits the device.
    pace : Pace
        To make the run leave a core to the window while it is used.
    """

    stack: Stack
    model: Path
    level: int
    tiling: str
    device: str
    visible: Box
    region: Box | None
    folder: Path | None
    fast: bool = False
    memory_mib: int | None = None
    planes: bool = False
    intensity: Over | None = None
    pace: Pace = field(default_factory=Pace, compare=False)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The store of the run is open; `done` tiles of `total` are in it from an earlier run.

    `safe` counts them anew: when a run is stopped, some more may be safe than it had told. `note` is
    what a user should know about how it is computed (`Backend.note`).
    """

    store: PredictionStore
    card: Card
    done: int
    total: int
    safe: Callable[[], int]
    note: Callable[[], str]


def segment(request: Request) -> Generator[Prepared | TileDone | PlaneDone | Waiting]:
    """`Prepared`, then a `TileDone` for each tile that is safe on disk, of planes along y and x a `PlaneDone`.

    With a region, `done` and `total` count the tiles of the region.

    Raises
    ------
    ValueError, OSError
        As `load_model`, `plan_tiles` and `predict_stack`; one line for the user.
    """
    from napari_unetpp.inference.backends import prepare
    from napari_unetpp.inference.fitting import fitting_tiles
    from napari_unetpp.inference.inputs import with_intensity
    from napari_unetpp.inference.runs import recorded_calibration
    from napari_unetpp.inference.tiles import tiling_from_card

    model, backend = load_ready(request.model, request.device)
    model = with_intensity(model, request.intensity)
    if request.fast:
        backend = yield from _fast_backend(model, request)
    same_kind = model.card.tiling.get("kind") == request.tiling
    tiling = tiling_from_card(model.card.tiling if same_kind else {"kind": request.tiling}, model.spec.ndim)
    memory = request.memory_mib and request.memory_mib * 2**20
    planes = None
    if request.planes:
        from napari_unetpp.inference.planes import plan_planes

        planes = plan_planes(
            request.stack, backend, tiling, level=request.level, memory=memory, visible=request.visible
        )
        tiles = planes.tiles
    else:
        tiles = fitting_tiles(
            request.stack.shape_predicted, backend, tiling, level=request.level, memory=memory, visible=request.visible
        )
    opened = yield from _open(request, model, tiles, planes, backend.precision)
    with opened.hold:
        recorded = recorded_calibration(opened.store)
        if recorded is not None and recorded != backend.calibration:  # a run goes on as it began
            backend = prepare(model, "int8", calibration=recorded)
        if planes is None:
            yield from _fill(request, model, tiles, opened, backend)
        else:
            yield from _fill_along_all(request, model, planes, opened, backend)


def _fast_backend(model: Model, request: Request) -> Generator[Waiting, None, Backend]:
    """The model in int8, measured in a thread of its own while Cancel is looked at."""
    from napari_unetpp.inference.fast import prepare_int8

    pace = Pace(request.pace)
    with ThreadPoolExecutor(1, "calibrate") as pool:
        work = pool.submit(prepare_int8, model, request.stack, checkpoint=pace.checkpoint)
        try:
            while not wait([work], HEARTBEAT).done:
                yield Waiting()
        finally:
            pace.stop()
        return work.result()


def _fill(
    request: Request, model: Model, tiles: Tiles, opened: _Opened, backend: Backend
) -> Generator[Prepared | TileDone | Waiting]:
    from napari_unetpp.inference.predict import predict_stack

    store = opened.store
    wanted = np.ones(tiles.grid, bool) if request.region is None else tiles.touching(request.region)
    total = int(wanted.sum())
    safe = partial(_count_done, store, wanted)
    before = safe()
    yield Prepared(store, model.card, before, total, safe, partial(_notes, opened, backend))
    if before == total:
        store.check_whole(tiles)
        return
    # A continued run must group its patches as its beginning did, to end in the same bytes.
    batch = int(store.record.get("batch", backend.best_batch(tiles.level, tiles.input_extent)))
    if "batch" not in store.record:
        store.update_record({"batch": batch})
    run = predict_stack(
        request.stack,
        model,
        tiles,
        store,
        region=request.region,
        batch=batch,
        backend=backend,
        memory=request.memory_mib and request.memory_mib * 2**20,
        pace=request.pace,
        heartbeat=HEARTBEAT,
        hold=opened.hold,
        checked=True,
    )
    outside = store.done_count - before
    try:
        for event in run:
            yield replace(event, done=event.done - outside, total=total) if isinstance(event, TileDone) else event
    finally:
        run.close()


def _fill_along_all(
    request: Request, model: Model, planes: Planes, opened: _Opened, backend: Backend
) -> Generator[Prepared | TileDone | PlaneDone | Waiting]:
    from napari_unetpp.inference.planes_run import count_parts, predict_planes

    store = opened.store
    done, total = count_parts(planes, store, request.region)
    safe = partial(_count_parts, planes, store, request.region)
    yield Prepared(store, model.card, done, total, safe, partial(_notes, opened, backend))
    run = predict_planes(
        request.stack,
        model,
        planes,
        store,
        region=request.region,
        backend=backend,
        memory=request.memory_mib and request.memory_mib * 2**20,
        pace=request.pace,
        heartbeat=HEARTBEAT,
        hold=opened.hold,
        checked=True,
    )
    try:
        yield from run
    finally:
        run.close()


def _notes(opened: _Opened, backend: Backend) -> str:
    """What a user should know about how a run is computed."""
    from napari_unetpp.inference.inputs import in_words
    from napari_unetpp.model.intensity import Scaling

    scaling = Scaling.from_json(opened.store.record["scaling"])
    intensities = scaling.note and f"intensities: {in_words(scaling)}"
    return "; ".join(part for part in (opened.note, backend.note, intensities) if part)


def _count_parts(planes: Planes, store: PredictionStore, region: Box | None) -> int:
    from napari_unetpp.inference.planes_run import count_parts

    return count_parts(planes, store, region)[0]


def _count_done(store: PredictionStore, wanted: NDArray[np.bool_]) -> int:
    return int((store.done() & wanted).sum()) if store.grid is not None else 0


@dataclass(frozen=True, slots=True)
class _Opened:
    """A store that is ours to write, and why it is not that of an earlier run, where the image has changed."""

    store: PredictionStore
    hold: Hold
    note: str


def _open(
    request: Request, model: Model, tiles: Tiles, planes: Planes | None, precision: str
) -> Generator[Checking, None, _Opened]:
    """The store that this run may go on in, or a new one under the first free name.

    An earlier run is gone on with where its image is this one, voxel by voxel.
    """
    from napari_unetpp.inference.runs import open_run
    from napari_unetpp.inference.seen import ChangedImageError, check_image, check_image_along_three
    from napari_unetpp.inference.store import StoreError

    folder = request.folder or temporary_folder()
    stem = store_stem(request.stack.name, model.card.name)
    described = None if planes is None else planes.describe()
    note = ""
    for number in itertools.count(1):
        path = folder / f"{stem}{'' if number == 1 else f'-{number}'}.ome.zarr"
        with ExitStack() as until_ours:
            try:
                store = open_run(path, request.stack, model, tiles, precision=precision, planes=described)
                hold = until_ours.enter_context(store.hold())
                if planes is None:
                    yield from check_image(request.stack, tiles, store)
                else:
                    yield from check_image_along_three(request.stack, planes, store)
            except InUse:  # another dock or program writes to it
                continue
            except ChangedImageError:
                note = f"{path.name} is of another image, or of this one before it changed, so this is a new run"
                continue
            except StoreError:
                if not path.exists():  # then another name would not help
                    raise
                continue
            until_ours.pop_all()
            return _Opened(store, hold, note)
    raise AssertionError("unreachable")


def store_stem(image: str, model: str) -> str:
    """Name of a store without its ending.

    >>> store_stem("cells (left)", "nuclei")
    'cells-left-nuclei'
    """
    return re.sub(r"[^\w.]+", "-", f"{image}-{model}").strip("-.")


@cache
def temporary_folder() -> Path:
    """One folder for this process, removed when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="napari-unetpp-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
