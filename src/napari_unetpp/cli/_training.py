"""One training run, told to the user while it goes on.

In this order: the run, its plan in words, the table before and after, an epoch in one line.
"""

from __future__ import annotations

import os
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetpp.cli._output import Bar, Failure, Output, is_disk_full, one_line
from napari_unetpp.cli._rescue import what_is_left

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from napari_unetpp._locks import Hold
    from napari_unetpp.model.card import Card
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.training.compare import BeforeAfter
    from napari_unetpp.training.options import EpochDone, TrainOptions
    from napari_unetpp.training.pairs import Pair
    from napari_unetpp.training.plan import Plan
    from napari_unetpp.training.saved import Saved

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
    from napari_unetpp.training.run_files import holding, state_path
    from napari_unetpp.training.saved import Saved

    folder = output.absolute().parent
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise PermissionError(f"folder {folder} cannot be written; save the model elsewhere")
    with holding(output) as hold:
        if resume and output.exists() and not state_path(output).exists():
            # Without this the run would begin anew, over the finished model.
            raise Failure(f"{output} is a finished model, there is no stopped run to resume; {_ANEW}")
        if resume and not state_path(output).exists():
            say.say(f"there is no stopped run of {output}; a new one begins")
        saved = Saved(output)
        _train(start, pairs, held, old, settings, card, resume, hold, saved, say)


def _train(
    start: Model | NetworkSpec,
    pairs: Sequence[Pair],
    held: Sequence[Pair],
    old: Sequence[Pair],
    settings: TrainOptions,
    card: Card | None,
    resume: bool,
    hold: Hold,
    saved: Saved,
    say: Output,
) -> None:
    from napari_unetpp.model.checkpoint import ModelFileError
    from napari_unetpp.training.options import BatchDone, Started
    from napari_unetpp.training.plan import make_plan
    from napari_unetpp.training.train import train_plan

    output = saved.out
    last: EpochDone | None = None
    plan = make_plan(start, pairs, settings, validation=held, replay=old, card=card, name=output.stem)
    events = train_plan(plan, output, resume=resume, hold=hold, saved=saved)
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
                    say.event("started", **_fields(event, "history"))
                elif isinstance(event, BatchDone):
                    done = event.epoch * settings.steps + event.step
                    bar.show(done, f"epoch {event.epoch + 1}, loss {event.loss:.3f}")
                    say.event("batch", **_fields(event))
                else:
                    last = event
                    bar.show((event.epoch + 1) * settings.steps, f"loss {event.loss:.3f}")
                    say.event("epoch", **_fields(event), best=event.best)
                    say.say(_epoch_line(event))
        table = _compared(plan, output, say)
        saved.check(whole=True)  # the table went onto its card, and so the file was written again
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"cancelled: {what_is_left(saved)}") from None
    except (OSError, ModelFileError) as error:
        why, left = one_line(error), what_is_left(saved)
        space = "free some space; " if is_disk_full(error) else ""
        raise Failure(left if why in left else f"{why}; {space}{left}") from error
    epochs = 0 if last is None else last.epoch + 1
    _remember(output, pairs)
    if plan.chosen_by == "validation":
        say.say(f"{output}: the best of {epochs} epochs")
    else:
        say.say(
            f"{output}: epoch {saved.epoch} of {epochs}, the one with the lowest training loss; no epoch was scored"
        )
    if table.better is False:
        say.say("the parent is better on the held-out part; keep it, or annotate more")
    say.event(
        "result",
        output=output,
        epochs=epochs,
        epoch=saved.epoch,
        chosen_by=plan.chosen_by,
        scores=_best_scores(output),
        better=table.better,
    )


def _planned(plan: Plan) -> dict[str, Any]:
    return {
        "batch": plan.batch,
        "annotated": plan.annotated,
        "places": plan.places,
        "warnings": plan.warnings,
        "chosen_by": plan.chosen_by,
    }


def _plan_lines(plan: Plan) -> Iterator[str]:
    for part, title in (("training", "training on"), ("validation", "held out")):
        counts = ", ".join(f"{name} {count}" for name, count in plan.annotated[part].items())
        yield f"{title} {', '.join(plan.places[part])}: {counts} voxels" if plan.places[part] else f"{title}: nothing"
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


def _best_scores(output: Path) -> Mapping[str, Any]:
    from napari_unetpp.model.checkpoint import read_header

    return dict(read_header(output).card.scores.get("validation", {}))


def _epoch_line(event: EpochDone) -> str:
    scores = ", ".join(f"{name} {values['iou']:.4f}" for name, values in event.scores.items())
    kept = (", best so far" if event.best else ", lowest so far") if event.kept else ""
    scored = f"IoU {scores}" if scores else "not scored"
    return f"epoch {event.epoch + 1}/{event.epochs}: loss {event.loss:.4f}, {scored}, {event.seconds:.1f} s{kept}"


def _fields(event: Any, *without: str) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__dataclass_fields__ if name not in without}
