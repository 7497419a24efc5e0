"""The events of a run: where they come from, what is counted, and how they are told as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari_unetpp._locks import Hold
    from napari_unetpp.cli._job import Job
    from napari_unetpp.inference.events import PlaneDone, TileDone, Waiting
    from napari_unetpp.inference.store import PredictionStore


def predicting(
    job: Job, store: PredictionStore, batch: int, hold: Hold
) -> Generator[TileDone | PlaneDone | Waiting, None, None]:
    """What the job's run yields, along z or along z, y and x."""
    options: dict[str, Any] = {"backend": job.backend, "memory": job.memory, "threads": job.threads, "hold": hold}
    if job.planes is None:
        from napari_unetpp.inference.predict import predict_stack

        return predict_stack(job.stack, job.model, job.tiles, store, batch=batch, **options)
    from napari_unetpp.inference.planes_run import predict_planes

    return predict_planes(job.stack, job.model, job.planes, store, **options)


def counted(job: Job, store: PredictionStore) -> tuple[int, int]:
    """Tiles of the job that are safe, of how many; along z, y and x those of all three."""
    if job.planes is None:
        return store.done_count, len(job.tiles)
    from napari_unetpp.inference.planes_run import count_parts

    return count_parts(job.planes, store)


def told(event: TileDone | PlaneDone) -> dict[str, Any]:
    """The event as `Output.event` takes it: a "tile" that is final, or a "plane" across y or x that is kept."""
    from napari_unetpp.inference.events import PlaneDone

    progress = {"done": event.done, "total": event.total, "seconds": event.seconds, "voxels": event.voxels}
    if isinstance(event, PlaneDone):
        return {"kind": "plane", "axis": event.axis, **progress}
    tile = event.tile
    return {"kind": "tile", "index": tile.index, "start": tile.inner.start, "stop": tile.inner.stop, **progress}
