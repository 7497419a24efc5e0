"""A run of a 2D model along z, y and x of a stack, told part by part.

Decides, in this order: the run (`predict_planes`), what counts as done of it (`count_parts`), and how a slab is made
final (`_slab`).
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp._voxel_hash import hash_together
from napari_unetpp.box import Box
from napari_unetpp.inference.backends import Backend, prepare
from napari_unetpp.inference.events import PlaneDone, TileDone, Waiting
from napari_unetpp.inference.folders import leaving_nothing
from napari_unetpp.inference.inputs import check_input
from napari_unetpp.inference.planes import SIDES, box_along, read_ahead, seen_along
from napari_unetpp.inference.planes_kept import (
    KeptSide,
    kept_marks,
    mean_of_three,
    remove_all,
    remove_slab,
    slab_folder,
    to_counts16,
)
from napari_unetpp.inference.runs import join_run, keep_calibration
from napari_unetpp.inference.seen import check_image_along_three, plane_hashes
from napari_unetpp.inference.stages import Run, run_stages
from napari_unetpp.model.sampling import as_seen

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari_unetpp._locks import Hold
    from napari_unetpp.inference.pace import Pace
    from napari_unetpp.inference.planes import Axis, Planes
    from napari_unetpp.inference.stages import Parts
    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.inference.tiles import Tile, Tiles
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.intensity import Scaling
    from napari_unetpp.stacks import Stack


def predict_planes(
    stack: Stack,
    model: Model,
    planes: Planes,
    store: PredictionStore,
    *,
    region: Box | None = None,
    backend: Backend | None = None,
    memory: int | None = None,
    threads: int | None = None,
    pace: Pace | None = None,
    heartbeat: float | None = None,
    hold: Hold | None = None,
    checked: bool = False,
) -> Generator[TileDone | PlaneDone | Waiting, None, None]:
    """An event for each part that has become safe on disk; closing the generator is Cancel.

    A part is a tile across y or x (`PlaneDone`), or one across z, which makes its voxels final (`TileDone`). Their
    `done` and `total` count all of them, within the region where there is one. Everything else is as for
    `predict_stack`: what is safe is not computed again, and a run that was stopped ends in the same bytes.

    A region costs whole tiles through its slab along z: a thin one hardly less than its slab. What was kept for it is
    removed when it is finished.

    Raises
    ------
    ValueError, MemoryError, OSError
        As `predict_stack`.
    """
    check_input(stack, model)
    backend = backend or prepare(model)
    scaling = join_run(store, stack, model, planes.tiles, precision=backend.precision, planes=planes.describe())
    keep_calibration(store, backend)
    plans: dict[str, Tiles] = {"z": planes.tiles, "y": planes.sides["y"], "x": planes.sides["x"]}
    # A continued run must group its tiles as its beginning did, to end in the same bytes.
    if "batches" not in store.record:
        best = {axis: backend.best_batch(tiles.level, tiles.input_extent) for axis, tiles in plans.items()}
        store.update_record({"batches": best})
    batches = {axis: int(store.record["batches"][axis]) for axis in plans}
    for axis, tiles in plans.items():  # refuses what cannot work
        backend.plan(tiles.level, tiles.input_extent, batches[axis], 1, memory, threads or 1)
    stages = partial(run_stages, memory=memory, threads=threads, pace=pace, heartbeat=heartbeat)
    mine = store.hold() if hold is None else None  # last, so that nothing that is refused keeps it
    seen, left = as_seen(stack, scaling)
    work = _Work(stack, seen, model, backend, planes, store, left, batches, stages)

    def events() -> Generator[TileDone | PlaneDone | Waiting, None, None]:
        with mine or nullcontext(), leaving_nothing(store.path):
            for event in () if checked else check_image_along_three(stack, planes, store):
                if heartbeat is not None:
                    yield event
            yield from _events(work, region, heartbeat is not None)
            store.check_whole(planes.tiles)

    return events()


def count_parts(planes: Planes, store: PredictionStore, region: Box | None = None) -> tuple[int, int]:
    """Parts of a run that are safe, of how many."""
    done = total = 0
    final = store.done()
    for slab in planes.slabs:
        box = slab if region is None else slab.intersect(region)
        if not box.size:
            continue
        wanted = planes.tiles.touching(box)
        made = int((final & wanted).sum())
        finished = made == wanted.sum()
        done, total = done + made, total + int(wanted.sum())
        for axis in SIDES:
            tiles = planes.part(axis, slab)
            needed = tiles.touching(box_along(box, axis)).ravel()
            safe = finished | kept_marks(store.path, slab, axis, len(tiles))
            done, total = done + int((safe & needed).sum()), total + int(needed.sum())
    return done, total


@dataclass(frozen=True, slots=True)
class _Work:
    """What all slabs of a run have in common; `stack` is `image` as its scaling shows it."""

    image: Stack
    stack: Stack
    model: Model
    backend: Backend
    planes: Planes
    store: PredictionStore
    scaling: Scaling
    batches: dict[str, int]
    stages: Any

    def run(self, stack: Stack, tiles: Tiles, axis: str) -> Run:
        return Run(stack, self.model, self.backend, tiles, self.scaling, self.batches[axis], counts=False)


def _events(work: _Work, region: Box | None, waiting: bool) -> Generator[TileDone | PlaneDone | Waiting, None, None]:
    began, voxels = time.monotonic(), 0
    done, total = count_parts(work.planes, work.store, region)
    begun: list[Box] = []  # slabs of which nothing was kept before
    for slab in work.planes.slabs:
        box = slab if region is None else slab.intersect(region)
        open_tiles = ~work.store.done() & work.planes.tiles.touching(slab)
        if not box.size or not (open_tiles & work.planes.tiles.touching(box)).any():
            continue
        hashes = []
        for plane in plane_hashes(work.image, work.planes, slab):
            hashes.append(plane)
            if waiting:
                yield Waiting()
        hashed = hash_together(hashes)
        tiles_open = [tile for tile in work.planes.tiles if open_tiles[tile.index]]
        if any(work.store.seen(tile) != hashed for tile in tiles_open):
            remove_slab(work.store.path, slab)  # what was kept of it is of another image
            work.store.mark_seen(tiles_open, hashed)
        if not slab_folder(work.store.path, slab).exists():
            begun.append(slab)
        with closing(_slab(work, slab, box)) as finished:
            for axis, tiles in finished:
                if tiles is None:
                    yield Waiting()
                    continue
                for tile in tiles:
                    done, voxels = done + 1, voxels + tile.inner.size
                    seconds = time.monotonic() - began
                    if axis == "z":
                        yield TileDone(tile, done, total, seconds, voxels)
                    else:
                        yield PlaneDone(axis, done, total, seconds, voxels)
        if work.store.done()[work.planes.tiles.touching(slab)].all():
            remove_slab(work.store.path, slab)
    for slab in begun:  # of a region: what it left would only lie there
        remove_slab(work.store.path, slab)
    if work.store.complete:
        remove_all(work.store.path)


def _slab(work: _Work, slab: Box, box: Box) -> Generator[tuple[str, list[Tile] | None], None, None]:
    """Finished tiles with the axis that they lie across, of the part `box` of a slab."""
    store, planes = work.store, work.planes
    levels, classes = store.levels, len(store.classes)
    with ExitStack() as opened:
        kept: dict[Axis, KeptSide] = {}
        for axis in SIDES:
            tiles = planes.part(axis, slab)
            shape = (classes, *box_along(slab, axis).shape[-3:])
            side = KeptSide(slab_folder(store.path, slab), axis, levels, shape, len(tiles))
            kept[axis] = opened.enter_context(side)
            side.forget_damaged([_inside(tile, slab.start[-3]) for tile in map(tiles.tile, np.ndindex(tiles.grid))])
            wanted = tiles.touching(box_along(box, axis)).ravel() & ~side.done
            rows = tiles.outer_spans[-2]
            view = read_ahead(seen_along(work.stack, axis), (rows[0][0], rows[-1][1]))
            keep = partial(_keep, side, tiles, slab.start[-3])
            with closing(work.stages(work.run(view, tiles, axis), wanted, keep)) as stages:
                yield from ((axis, finished) for finished in stages)
        wanted = (planes.tiles.touching(box) & ~store.done()).ravel()
        average = partial(_average, store, kept, slab.start[-3])
        with closing(work.stages(work.run(work.stack, planes.tiles, "z"), wanted, average)) as stages:
            yield from (("z", finished) for finished in stages)


def _keep(side: KeptSide, tiles: Tiles, first: int, parts: Parts) -> list[Tile]:
    for tile, heads in parts:
        inside = _inside(tile, first)
        side.write(inside, {d: head.reshape(head.shape[0], *inside.shape) for d, head in heads.items()})
        side.mark_done(tiles.number(tile.index))
    return [tile for tile, _ in parts]


def _inside(tile: Tile, first: int) -> Box:
    """Where a tile across y or x lies in the files of a slab that begins at slice `first`: (plane, z of the slab, across)."""
    start, stop = tile.inner.start[-3:], tile.inner.stop[-3:]
    return Box((start[0], start[1] - first, start[2]), (stop[0], stop[1] - first, stop[2]))


def _average(store: PredictionStore, kept: dict[Axis, KeptSide], first: int, parts: Parts) -> list[Tile]:
    for tile, heads in parts:
        z, (y, x) = tile.inner.start[-3] - first, tile.inner.slices[-2:]
        means = {}
        for d, head in heads.items():
            across_y, across_x = kept["y"].read(d, y, z, x), kept["x"].read(d, x, z, y).swapaxes(-1, -2)
            mine = to_counts16(head.reshape(across_y.shape))
            means[d] = mean_of_three(mine, across_y, across_x).reshape(head.shape)
        store.write(tile, means)
        store.mark_done(tile, store.seen(tile))
    return [tile for tile, _ in parts]
