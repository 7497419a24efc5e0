"""One training run, told to the user while it goes on.

In this order: the run, its plan in words, the table before and after, what a stopped run leaves, an epoch in one line.
"""

from __future__ import annotations

import os
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetpp.cli._output import Bar, Failure, Output, is_disk_full, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from napari_unetpp.model.card import Card
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.training.compare import BeforeAfter
    from napari_unetpp.training.options import EpochDone, TrainOptions
    from napari_unetpp.training.pairs import Pair
    from napari_unetpp.training.plan import Plan

_ANEW = "name another file for a new run, or fine-tune it with --base"


def run(
    start: Model | NetworkSpec,
    pairs: Sequence[Pair],
    held: Sequence[Pair],
    old: Sequence[Pair],
    settings: TrainOptions,
    output: Path,
    card: Card | None,
    resume: bool,
    say: Output,
) -> None:
    """Plan, train, compare: every epoch is told as soon as its model is safe on disk."""
    from napari_unetpp.training.options import BatchDone, Started
    from napari_unetpp.training.plan import make_plan
    from napari_unetpp.training.resume import state_path
    from napari_unetpp.training.train import train_plan

    if resume and output.exists() and not state_path(output).exists():
        # Without this the run would begin anew, over the finished model.
        raise Failure(f"{output} is a finished model, there is no stopped run to resume; {_ANEW}")
    last: EpochDone | None = None
    folder = output.absolute().parent
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise PermissionError(f"folder {folder} cannot be written; save the model elsewhere")
    plan = make_plan(start, pairs, settings, validation=held, replay=old, card=card, name=output.stem)
    events = train_plan(plan, output, resume=resume)
    say.event("start", output=output, options=settings.to_json(), images=len(pairs), **_planned(plan))
    for line in _plan_lines(plan):
        say.say(line)
    try:
        with (
            Bar(say, "train", settings.epochs * settings.steps) as bar,
            closing(events),  # type: ignore[type-var]
        ):
            for event in events:
                if isinstance(event, Started):
                    say.event("started", device=event.device, batch=event.batch, epoch=event.epoch, before=event.before)
                elif isinstance(event, BatchDone):
                    done = event.epoch * settings.steps + event.step
                    bar.show(done, f"epoch {event.epoch + 1}, loss {event.loss:.3f}")
                    say.event("batch", **_fields(event))
                else:
                    last = event
                    bar.show((event.epoch + 1) * settings.steps, f"loss {event.loss:.3f}")
                    say.event("epoch", **_fields(event))
                    say.say(_epoch_line(event))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"cancelled: {_what_is_left(output)}") from None
    except OSError as error:
        space = "free some space; " if is_disk_full(error) else ""
        raise Failure(f"{one_line(error)}; {space}{_what_is_left(output)}") from error
    epochs = 0 if last is None else last.epoch + 1
    table = _compared(plan, output, say) if output.exists() else None
    _remember(output, pairs)
    say.say(f"{output}: the best of {epochs} epochs")
    if table is not None and table.better is False:
        say.say("the parent is better on the held-out part; keep it, or annotate more")
    say.event("result", output=output, epochs=epochs, scores=_best_scores(output), better=table and table.better)


def _planned(plan: Plan) -> dict[str, Any]:
    return {
        "batch": plan.batch,
        "annotated": plan.annotated,
        "places": plan.places,
        "warnings": plan.warnings,
    }


def _plan_lines(plan: Plan) -> Iterator[str]:
    for part, title in (("training", "training on"), ("validation", "held out")):
        counts = ", ".join(f"{name} {count}" for name, count in plan.annotated[part].items())
        yield f"{title} {', '.join(plan.places[part])}: {counts} voxels"
    yield f"batches of {plan.batch} patches of {' x '.join(map(str, plan.options.extents(plan.spec.ndim)))}"
    yield from (f"note: {line}" for line in plan.warnings)


def _compared(plan: Plan, output: Path, say: Output) -> BeforeAfter:
    """The table before and after, told and written on the model's card."""
    from napari_unetpp.training.compare import before_after

    *_, table = before_after(plan, output)
    rows = []
    for row in table.rows:
        before = None if row.before is None else row.before["iou"]
        after = row.after["iou"]
        gain = "" if before is None else f"{after - before:+.4f}"
        rows.append([row.part, row.level, "" if before is None else f"{before:.4f}", f"{after:.4f}", gain])
    say.table("IoU before and after", ["part", "level", "before", "after", "gain"], rows)
    say.event("compared", rows=[_fields(row) for row in table.rows], better=table.better)
    return table


def _remember(output: Path, pairs: Sequence[Pair]) -> None:
    """Note where the data are, for a later replay; that they cannot be noted stops nobody."""
    from napari_unetpp.model.zoo import file_sha256
    from napari_unetpp.training.at_hand import Source, remember

    sources = [
        Source(pair.image.path, pair.label.path)
        for pair in pairs
        if pair.image.path is not None and pair.label.path is not None
    ]
    if output.exists() and sources:
        with suppress(OSError):
            remember(file_sha256(output), sources)


def _what_is_left(output: Path) -> str:
    """What a stopped run leaves, and what to do with it."""
    from napari_unetpp.training.resume import state_path

    model = f"{output} holds the best epoch so far; " if output.exists() else ""
    if state_path(output).exists():
        return f"{model}the same command with --resume goes on from the last whole epoch"
    return f"{model}no epoch was finished, so nothing is kept; start again"


def _best_scores(output: Path) -> Mapping[str, Any]:
    from napari_unetpp.model.checkpoint import read_header

    return dict(read_header(output).card.scores.get("validation", {})) if output.exists() else {}


def _epoch_line(event: EpochDone) -> str:
    scores = ", ".join(f"{name} {values['iou']:.4f}" for name, values in event.scores.items())
    best = ", best so far" if event.best else ""
    return f"epoch {event.epoch + 1}/{event.epochs}: loss {event.loss:.4f}, IoU {scores}, {event.seconds:.1f} s{best}"


def _fields(event: Any) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__dataclass_fields__}
