"""`train`: image and label stacks to a model; the same command with `--resume` goes on."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_unetpp.cli import _options as options
from napari_unetpp.cli._job import open_model
from napari_unetpp.cli._output import (
    BadUsage,
    Bar,
    Failure,
    Output,
    is_disk_full,
    one_line,
    reported,
)
from napari_unetpp.cli._recipe import (
    Skips,
    check_counts,
    new_card,
    new_network,
    open_pairs,
    settings_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_unetpp.model.card import Card
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.training.options import EpochDone, TrainOptions
    from napari_unetpp.training.patches import Pair

_ANEW = "name another file for a new run, or fine-tune it with --base"


class Schedule(StrEnum):
    constant = "constant"
    cosine = "cosine"


class TrainPrecision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


@reported
def train(
    image: Annotated[list[Path], typer.Option(metavar="A.tif", help="An image stack; may be repeated.")],
    label: Annotated[
        list[Path],
        typer.Option(metavar="A_labels.tif", help="Labels of the image at the same place."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL.safetensors", help="The new model.")],
    base: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="Model to fine-tune.")] = None,
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="Network of the literature, as unet++.")] = None,
    skips: Annotated[Skips | None, typer.Option(help="Connections of a new network.  [default: dense]")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Channels of its first row; they double downwards.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Its down-samplings: levels.")] = None,
    dimensions: Annotated[
        int | None, typer.Option(min=2, max=3, help="2 for slices, 3 for volumes.  [default: 2]")
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="Name of a class; repeated: labels 1, 2.. in this order. One class takes every "
            "label above 0, so that instance labels will do.",
        ),
    ] = None,
    validation_image: Annotated[
        list[Path] | None,
        typer.Option(help="Held-out image, in place of a part of the images; may be repeated."),
    ] = None,
    validation_label: Annotated[list[Path] | None, typer.Option(help="Its labels.")] = None,
    axes: Annotated[str | None, typer.Option(help="Axes of the images, as tzcyx.")] = None,
    label_axes: Annotated[str | None, typer.Option(help="Axes of the labels.")] = None,
    unpainted: Annotated[
        options.Unpainted,
        typer.Option(help="What label 0 means; ignore: not annotated, 1 background, 2.. classes."),
    ] = options.Unpainted.background,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Batches an epoch.")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Epochs without a better score before it stops.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Patches a batch.")] = None,
    patch: Annotated[int | None, typer.Option(min=1, help="Edge of a patch.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", "--lr", help="Of Adam.")] = None,
    schedule: Annotated[Schedule | None, typer.Option(help="Of the learning rate.")] = None,
    validation_fraction: Annotated[float | None, typer.Option(help="Share of the images that is held out.")] = None,
    validation_voxels: Annotated[
        int | None, typer.Option(min=1, help="At most so many are scored after an epoch.")
    ] = None,
    augmentation: Annotated[str | None, typer.Option(help="Preset of augmentations.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides all that is random.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[
        TrainPrecision, typer.Option(help="auto is bf16 on CUDA, fp32 elsewhere.")
    ] = TrainPrecision.auto,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Train a model on labelled stacks, from scratch or from another model."""
    check_counts("--image", image, "--label", label)
    held_images, held_labels = validation_image or [], validation_label or []
    check_counts("--validation-image", held_images, "--validation-label", held_labels)
    new = {
        "--preset": preset,
        "--skips": skips,
        "--width": width,
        "--depth": depth,
        "--dimensions": dimensions,
        "--class": classes,
    }
    if base is not None and (given := [k for k, v in new.items() if v is not None]):
        raise BadUsage(f"{', '.join(given)} describe a new network; --base {base} keeps its own")
    if preset is not None and skips is not None:
        raise BadUsage("--preset decides the skips; leave out --skips or --preset")
    if output.suffix != ".safetensors":
        raise BadUsage(f"--output {output}: a model file ends in .safetensors")
    say = Output(as_json)
    settings = settings_of(
        epochs=epochs,
        steps=steps,
        patience=patience,
        batch=batch,
        patch=patch,
        learning_rate=learning_rate,
        schedule=schedule and schedule.value,
        validation_fraction=validation_fraction,
        validation_voxels=validation_voxels,
        augmentation=augmentation,
        seed=seed,
        device=options.check_device(device),
        precision=precision.value,
        unpainted=unpainted.value,
    )
    with ExitStack() as opened:
        pairs = open_pairs(image, label, axes, label_axes, opened)
        held = open_pairs(held_images, held_labels, axes, label_axes, opened)
        start: Model | NetworkSpec
        card = None
        if base is not None:
            start = open_model(base, device)
        else:
            channels = {pair.image.channels for pair in pairs}
            if len(channels) > 1:
                raise ValueError(f"the images have {sorted(channels)} channels; all need the same")
            start = new_network(preset, skips, width, depth, dimensions or 2, channels.pop(), classes or [])
            card = new_card(output.stem, classes or [])
        _run(start, pairs, held, settings, output, card, resume, say)


def _run(
    start: Model | NetworkSpec,
    pairs: Sequence[Pair],
    held: Sequence[Pair],
    settings: TrainOptions,
    output: Path,
    card: Card | None,
    resume: bool,
    say: Output,
) -> None:
    from napari_unetpp.training.options import BatchDone
    from napari_unetpp.training.resume import state_path
    from napari_unetpp.training.train import train as run_training

    if resume and output.exists() and not state_path(output).exists():
        # Without this the run would begin anew, over the finished model.
        raise Failure(f"{output} is a finished model, there is no stopped run to resume; {_ANEW}")
    last: EpochDone | None = None
    folder = output.absolute().parent
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise PermissionError(f"folder {folder} cannot be written; save the model elsewhere")
    events = run_training(start, pairs, settings, output, validation=held, card=card, resume=resume)
    say.event("start", output=output, options=settings.to_json(), images=len(pairs))
    try:
        with (
            Bar(say, "train", settings.epochs * settings.steps) as bar,
            closing(events),  # type: ignore[type-var]
        ):
            for event in events:
                if isinstance(event, BatchDone):
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
    say.say(f"{output}: the best of {epochs} epochs")
    say.event("result", output=output, epochs=epochs, scores=_best_scores(output))


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
