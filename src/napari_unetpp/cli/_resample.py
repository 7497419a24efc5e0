"""`segment` on a stack of another resolution than the model's: what is said, and a run on another grid with results mapped back."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_unetpp.cli._job import Job, run
from napari_unetpp.cli._output import BadUsage, Output

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.stacks import Stack

_LEAST, _MOST = 1 / 16, 16.0  # beyond, a factor is most likely a mistake


def respaced(stack: Stack, spacing_um: Sequence[float] | None) -> Stack:
    """The stack with this spacing along (z,) y, x, in place of what its file says; None is what it says."""
    if spacing_um is None:
        return stack
    spatial = [axis for axis in "zyx" if axis in stack.axes]
    if len(spatial) != len(spacing_um):
        raise BadUsage(
            f"--spacing gives {len(spacing_um)} numbers, but {stack.name} has the axes {', '.join(spatial)}; give as many"
        )
    named = dict(zip(spatial, spacing_um, strict=True))
    return replace(stack, spacing_um=tuple(named.get(axis) for axis in stack.axes))


def resampling(stack: Stack, model: Model, asked: str | None, say: Output) -> tuple[float, ...] | None:
    """Factors along the network's axes as `--resample` asks for; None is the stack as it is, and says so where that matters."""
    from napari_unetpp.inference.resolution import factors_of, other_resolution

    if asked is None:
        if words := other_resolution(stack, model.card):
            say.say(f"{words}; --resample model brings it there")
            say.event("resolution", note=words)
        return None
    if asked == "model":
        try:
            factors = factors_of(stack, model.card)
        except ValueError as error:
            whose = "--resample 2" if model.card.spacing_um is None else "--spacing, or --resample 2"
            raise BadUsage(f"--resample model: {error}, as {whose}") from None
    else:
        try:
            factors = (float(asked),) * model.spec.ndim
        except ValueError:
            raise BadUsage(f"--resample {asked}: give model, or a factor such as 2 or 0.5") from None
    if not all(_LEAST <= factor <= _MOST for factor in factors):
        each = ", ".join(f"{factor:g}" for factor in factors)
        raise BadUsage(
            f"--resample {asked}: the factor {each} is not between {_LEAST:g} and {_MOST:g}; check the spacing"
        )
    return factors


def resampled_stack(stack: Stack, factors: Sequence[float]) -> Stack:
    from napari_unetpp.inference.resolution import resampled

    return resampled(stack, factors)


def place_of_resampled(output: Path) -> Path:
    """Where the predictions of the resampled stack are until they are mapped back."""
    return output.with_name(f".{output.name}.resampled")


def run_resampled(
    job: Job, stack: Stack, output: Path, factors: Sequence[float], say: Output
) -> tuple[PredictionStore, dict[str, Any]]:
    """As `run`, on a resampled stack (`job.stack`); the store at `output` is on the grid of the stack itself."""
    from napari_unetpp._voxel_hash import stack_digest
    from napari_unetpp.inference.folders import refuse_stack
    from napari_unetpp.inference.resolution import restore
    from napari_unetpp.inference.runs import make_record, refuse_other_run
    from napari_unetpp.inference.seen import ChangedImageError
    from napari_unetpp.inference.store import open_store
    from napari_unetpp.model.intensity import Scaling

    refuse_stack(output, stack.path)
    digest = stack_digest(stack)
    if os.path.lexists(output) and not job.overwrite:
        begun = open_store(output)
        refuse_other_run(begun, {**begun.record, "resample": list(factors)})
        planes = None if job.planes is None else job.planes.describe()
        scaling = Scaling.from_json(begun.record["scaling"])
        record = make_record(job.stack, job.model, job.tiles, scaling, precision=job.backend.precision, planes=planes)
        refuse_other_run(begun, {**record, "resample": list(factors)})
        if begun.record.get("image_sha256") != digest:
            raise ChangedImageError(
                f"{stack.name} is not, voxel by voxel, the image that {output} was predicted from; overwrite it (--overwrite), "
                "or name another path"
            )
        if begun.complete:
            begun.check_whole(())
            tiles = int(begun.done().size)
            return begun, {"output": output, "tiles": tiles, "resumed": tiles, "seconds": 0.0, "voxels": 0}
    words = ", ".join(f"{axis} x {f:.4g}" for axis, f in zip("zyx"[-len(factors) :], factors, strict=True))
    say.say(f"resampled for the model: {words}")
    store, summary = run(job, say)
    *_, final = restore(store, stack, output, factors, image_sha256=digest, overwrite=job.overwrite)
    del store
    shutil.rmtree(job.output, ignore_errors=True)
    return final, {**summary, "output": output}
