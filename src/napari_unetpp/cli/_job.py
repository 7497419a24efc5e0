"""One run of a model over a stack into a store, told to the user while it goes on.

1. `Job`, `run`: the tiles, and what is left when they end early.
2. `tell_end`: a run in one line.
3. `check_labels_path`, `write_labels`: the labels beside the store.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetpp._whole import remove_folder
from napari_unetpp.cli._events import counted, predicting, told
from napari_unetpp.cli._output import BadUsage, Bar, Failure, Output, is_disk_full, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_unetpp._locks import Hold
    from napari_unetpp.box import Box
    from napari_unetpp.inference.backends import Backend
    from napari_unetpp.inference.planes import Planes
    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.inference.tiles import Tiles
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.stacks import Stack


_DEAR = 2.0  # times that a voxel is read, from which on the start of a run tells it


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One run into one store; with `planes`, along z, y and x."""

    stack: Stack
    model: Model
    tiles: Tiles
    output: Path
    backend: Backend
    region: Box | None = None
    channel: int | None = None
    overwrite: bool = False
    memory: int | None = None
    threads: int | None = None
    planes: Planes | None = None


def run(job: Job, say: Output) -> tuple[PredictionStore, dict[str, Any]]:
    """The complete store of a job and a summary; every tile is told as it becomes safe on disk.

    A run that fails before its first tile leaves no store behind.
    """
    from napari_unetpp.inference.runs import open_run
    from napari_unetpp.stacks import check_finite

    check_finite(job.stack)
    existed = os.path.lexists(job.output)
    store = open_run(
        job.output,
        job.stack,
        job.model,
        job.tiles,
        overwrite=job.overwrite,
        command=shlex.join(["napari-unetpp", *sys.argv[1:]]),
        precision=job.backend.precision,
        planes=None if job.planes is None else job.planes.describe(),
    )
    with store.hold() as hold:
        return store, _told(job, store, say, fresh=job.overwrite or not existed, hold=hold)


def _told(job: Job, store: PredictionStore, say: Output, *, fresh: bool, hold: Hold) -> dict[str, Any]:
    """What the run summarises; where it ends early, what is left of it is told."""
    from napari_unetpp.inference.folders import GoneError
    from napari_unetpp.inference.seen import ChangedImageError

    try:
        return _predict(job, store, say, fresh, hold)
    except (GoneError, ChangedImageError):
        raise
    except KeyboardInterrupt:
        store.check()
        raise KeyboardInterrupt(
            f"cancelled: {job.output} holds {' of '.join(map(str, counted(job, store)))} tiles; the same "
            "command goes on from there" + (" (without --overwrite)" if job.overwrite else "")
        ) from None
    except Exception as error:
        store.check()  # what failed may be that it is gone, and what lies there now is not ours
        done, total = counted(job, store)
        if isinstance(error, MemoryError):
            error.add_note("choose a smaller --patch, or bound it with --memory")
        if fresh and not done:
            remove_folder(job.output, error)
            raise
        raise Failure(
            f"{one_line(error)}; {job.output} keeps {done} of {total} tiles"
            + (", free some space and" if is_disk_full(error) else ",")
            + " the same command goes on from there"
        ) from error


def _predict(job: Job, store: PredictionStore, say: Output, fresh: bool, hold: Hold) -> dict[str, Any]:
    from napari_unetpp.inference.events import Waiting

    began, (before, total) = time.monotonic(), counted(job, store)
    best = job.backend.best_batch(job.tiles.level, job.tiles.input_extent)
    details = {
        "region": None if job.region is None else [job.region.start, job.region.stop],
        "channel": job.channel,
        "batch": best,
    }
    if fresh:
        store.update_record(details)
    # A continued run must group its patches as its beginning did, to end in the same bytes.
    batch = int(store.record.get("batch", best))
    _tell_start(job, store, say)
    if before:
        say.say(f"{job.output} holds {before} of {total} tiles; comparing the image with the one that they are of")
    voxels = 0
    with Bar(say, "segment", total, before) as bar, closing(predicting(job, store, batch, hold)) as events:
        for event in events:
            if isinstance(event, Waiting):
                continue
            voxels = event.voxels
            bar.show(event.done, _rate(voxels, event.seconds))
            say.event(**told(event))
    seconds = time.monotonic() - began
    if job.backend.ladder.note:
        say.say(job.backend.ladder.note)
    return {
        "output": job.output,
        "levels": [f"L{d}" for d in store.levels],
        "tiles": total,
        "resumed": before,
        "seconds": seconds,
        "voxels": voxels,
        "voxels_per_second": voxels / seconds if voxels else None,
    }


def tell_end(summary: Mapping[str, Any], say: Output) -> None:
    """Say what `run` summarised."""
    resumed = f", {summary['resumed']} of them before" if summary["resumed"] else ""
    tiles = f"{summary['tiles']} tile" + "s" * (summary["tiles"] != 1)
    speed = f", {_rate(summary['voxels'], summary['seconds'])}" if summary["voxels"] else ""
    say.say(f"{summary['output']}: {tiles}{resumed}, {summary['seconds']:.1f} s{speed}")


def _tell_start(job: Job, store: PredictionStore, say: Output) -> None:
    image, network = job.stack, job.model
    extents = ", ".join(f"{axis} {n}" for axis, n in zip(image.axes_predicted, image.shape_predicted, strict=True))
    channels = f", {image.channels} channels" if image.channel_axis is not None else ""
    levels = ", ".join(f"L{d}" for d in store.levels)
    tiling = " ".join("x".join(map(str, v)) if isinstance(v, list) else str(v) for v in job.tiles.describe().values())
    say.say(f"{image.name}: {extents}{channels}, {image.dtype}")
    along = "" if job.planes is None else ", the mean of planes along z, y and x"
    say.say(
        f"{network.card.name} ({levels}) on {network.device} in {job.backend.precision}, {tiling}{along}{_cost(job)}"
    )
    intensity = _intensity(store)
    if intensity:
        say.say(f"intensities: {intensity}")
    say.event(
        "start",
        stack=image.path or image.name,
        axes=image.axes_predicted,
        shape=image.shape_predicted,
        channels=image.channels,
        dtype=str(image.dtype),
        model=network.card.name,
        device=str(network.device),
        precision=job.backend.precision,
        levels=[f"L{d}" for d in store.levels],
        tiling=job.tiles.describe(),
        read_factor=round(job.tiles.read_factor, 2),
        planes=1 if job.planes is None else 3,
        tiles=counted(job, store)[1],
        done=counted(job, store)[0],
        output=job.output,
        intensity={"over": network.intensity.over, "note": intensity},
    )


def _intensity(store: PredictionStore) -> str:
    """The range of a run, where it is not that of all voxels."""
    from napari_unetpp.inference.inputs import in_words
    from napari_unetpp.model.intensity import Scaling

    scaling = Scaling.from_json(store.record["scaling"])
    return in_words(scaling) if scaling.note else ""


def _cost(job: Job) -> str:
    """What halos or overlaps make of the work, where that is much."""
    factor = job.tiles.read_factor
    return f", every voxel read {factor:.1f} times" if factor >= _DEAR else ""


def check_labels_path(labels: Path, stack: Path, output: Path, overwrite: bool) -> None:
    """Refuse a place for labels now, and not after hours of work."""
    if labels.suffix.lower() not in (".tif", ".tiff"):
        raise BadUsage(f"--labels {labels}: labels are written as TIFF; let it end in .tif")
    folder = labels.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"--labels {labels}: folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"--labels {labels}: folder {folder} cannot be written")
    place = Path(os.path.realpath(labels))
    if Path(os.path.realpath(output)) in (place, *place.parents):
        raise BadUsage(f"--labels {labels}: that is where the predictions go; name another file")
    if labels.is_dir():
        raise BadUsage(f"--labels {labels} is a folder; name a file")
    if not labels.exists():
        return
    if stack.exists() and labels.samefile(stack):
        raise BadUsage(f"--labels {labels} is the stack itself; name another file")
    if not overwrite and str(labels.absolute()) not in _labels_of(output):
        raise FileExistsError(f"--labels {labels} exists and is not of this run; name another file, or --overwrite")


def _labels_of(output: Path) -> list[str]:
    """Label files that earlier runs into this store wrote."""
    from napari_unetpp.inference.store import open_store

    return list(open_store(output).record.get("label_files", ())) if output.exists() else []


def write_labels(store: PredictionStore, path: Path, level: int, threshold: float, say: Output) -> None:
    from napari_unetpp.inference.labels import label_view
    from napari_unetpp.stacks import save_labels

    save_labels(path, label_view(store, level, threshold), store.axes, store.spacing_um, store.interval_s)
    store.check()  # labels of a store that is gone are empty
    files = {*store.record.get("label_files", ()), str(path.absolute())}
    store.update_record({"label_files": sorted(files)})
    say.say(f"{path}: labels of L{level}")
    say.event("labels", path=path, level=f"L{level}", threshold=threshold)


def _rate(voxels: int, seconds: float) -> str:
    speed = voxels / seconds if seconds > 0 else 0.0
    for unit in ("", "k", "M", "G"):
        if speed < 1000 or unit == "G":
            break
        speed /= 1000
    return f"{speed:.3g} {unit}voxels/s"
