"""`train`: image and label stacks to a model; the same command with `--resume` goes on."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_unetpp.cli import _options as options
from napari_unetpp.cli._inputs import open_model, tell_colours
from napari_unetpp.cli._output import BadUsage, Output, reported
from napari_unetpp.cli._recipe import (
    Skips,
    class_names,
    fit_network,
    known_pairs,
    listed,
    new_card,
    new_network,
    open_pairs,
    parse_label_values,
    parse_spacing,
    settings_of,
    tell_notes,
)
from napari_unetpp.cli._training import run

if TYPE_CHECKING:
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.spec import NetworkSpec


class Schedule(StrEnum):
    constant = "constant"
    cosine = "cosine"


class Trainable(StrEnum):
    all = "all"
    decoder = "decoder"
    heads = "heads"


class TrainPrecision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


@reported
def train(
    image: Annotated[
        list[Path], typer.Option(metavar="A.tif", help="An image stack, or a folder of images; may be repeated.")
    ],
    label: Annotated[
        list[Path],
        typer.Option(
            metavar="A_labels.tif",
            help="Labels of the image at the same place, the folder of its corrections, or the folder with labels "
            "for a folder of images, which are matched by name.",
        ),
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
    isotropic: Annotated[
        bool, typer.Option("--isotropic", help="In 3D take z as y and x, also where slices lie farther apart.")
    ] = False,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Encoder of timm, as resnet34 or vgg19_bn: pip install 'napari-unetpp[backbones]'."
        ),
    ] = None,
    encoder_weights: Annotated[
        str | None,
        typer.Option(
            metavar="timm|FILE", help="Its trained weights: fetched by timm, or from a file.  [default: none]"
        ),
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
    label_values: options.LabelValues = None,
    spacing: Annotated[
        str | None,
        typer.Option(metavar="Z,Y,X[um|mm|nm]", help="Of the images, as 1,1,1mm, in place of what they say."),
    ] = None,
    unpainted: Annotated[
        options.Unpainted,
        typer.Option(help="What label 0 means; ignore: not annotated, 1 background, 2.. classes."),
    ] = options.Unpainted.background,
    foreground: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="LABEL", help="With one class: the label that alone is it.  [default: every label]"
        ),
    ] = None,
    trainable: Annotated[
        Trainable, typer.Option(help="What of the base changes; decoder: all but its encoder.")
    ] = Trainable.all,
    balance: Annotated[bool, typer.Option("--balance", help="Weigh rare classes up, at most tenfold.")] = False,
    replay_image: Annotated[
        list[Path] | None, typer.Option(help="Image that the base was trained on, against forgetting; may be repeated.")
    ] = None,
    replay_label: Annotated[list[Path] | None, typer.Option(help="Its labels.")] = None,
    replay_known: Annotated[
        bool, typer.Option("--replay-known", help="Replay what the base was trained on with this command here.")
    ] = False,
    replay: Annotated[float | None, typer.Option(help="Share of a batch that is replayed.  [default: 0.25]")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Batches an epoch.")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Epochs without a better score before it stops.")] = None,
    batch: Annotated[int | None, typer.Option(min=0, help="Patches a batch; 0: what memory allows.")] = None,
    patch: Annotated[
        str | None, typer.Option(metavar="N|Z,Y,X", help="Voxels of a patch: one number, or one per axis.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", "--lr", help="Of Adam.")] = None,
    schedule: Annotated[Schedule | None, typer.Option(help="Of the learning rate.")] = None,
    validation_fraction: Annotated[float | None, typer.Option(help="Share of the images that is held out.")] = None,
    validation_voxels: Annotated[
        int | None, typer.Option(min=1, help="At most so many are scored after an epoch.")
    ] = None,
    augmentation: Annotated[str | None, typer.Option(help="Preset of augmentations.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Decides all that is random.")] = None,
    memory: Annotated[str | None, typer.Option(help="For images and labels, as 2GiB; of more, parts.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[
        TrainPrecision, typer.Option(help="auto is bf16 on CUDA, fp32 elsewhere.")
    ] = TrainPrecision.auto,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Train a model on labelled stacks, from scratch or from another model."""
    say = Output(as_json)
    image, label = listed(image, label, "--image", "--label", say)
    held_images, held_labels = listed(
        validation_image or [], validation_label or [], "--validation-image", "--validation-label", say
    )
    old_images, old_labels = listed(replay_image or [], replay_label or [], "--replay-image", "--replay-label", say)
    values = parse_label_values(label_values)
    if base is None and (old_images or replay_known):
        raise BadUsage("--replay-image and --replay-known repeat what a --base was trained on; name one")
    new = {
        "--preset": preset,
        "--skips": skips,
        "--width": width,
        "--depth": depth,
        "--dimensions": dimensions,
        "--isotropic": isotropic or None,
        "--encoder": encoder,
        "--encoder-weights": encoder_weights,
        "--class": classes,
    }
    if base is not None and (given := [k for k, v in new.items() if v is not None]):
        raise BadUsage(f"{', '.join(given)} describe a new network; --base {base} keeps its own")
    if preset is not None and skips is not None:
        raise BadUsage("--preset decides the skips; leave out --skips or --preset")
    if encoder is not None and (preset is not None or dimensions == 3):
        raise BadUsage("--encoder makes a 2D network of its own; leave out --preset and --dimensions 3, or --encoder")
    if encoder_weights is not None and encoder is None:
        raise BadUsage("--encoder-weights are those of an --encoder; name one")
    if classes and (len({*classes}) < len(classes) or not all(map(str.strip, classes))):
        raise BadUsage(f"--class {', '.join(map(repr, classes))}: each class needs a name of its own")
    if output.suffix != ".safetensors":
        raise BadUsage(f"--output {output}: a model file ends in .safetensors")
    spacing_um = parse_spacing("--spacing", spacing)
    settings = settings_of(
        epochs=epochs,
        steps=steps,
        patience=patience,
        batch=batch,
        patch=None if patch is None else options.parse_voxels("--patch", patch),
        learning_rate=learning_rate,
        schedule=schedule and schedule.value,
        validation_fraction=validation_fraction,
        validation_voxels=validation_voxels,
        augmentation=augmentation,
        seed=seed,
        device=options.check_device(device),
        precision=precision.value,
        unpainted=unpainted.value,
        foreground=foreground,
        trainable=trainable.value,
        balance=balance,
        replay=replay,
        memory=None if memory is None else options.parse_memory(memory),
        encoder_weights=encoder_weights,
    )
    with ExitStack() as opened:
        spaced = partial(
            open_pairs, axes=axes, label_axes=label_axes, opened=opened, say=say, spacing_um=spacing_um, values=values
        )
        pairs = spaced(image, label)
        held = spaced(held_images, held_labels)
        old = spaced(old_images, old_labels)
        tell_notes([*pairs, *held, *old], say)
        start: Model | NetworkSpec
        card = None
        if base is not None:
            start = open_model(base, device)
            tell_colours([pair.image for pair in pairs], start, say)
            if replay_known:
                old += known_pairs(start, opened, say)
        else:
            classes = classes or class_names(label)
            channels = {pair.image.channels for pair in pairs}
            if len(channels) > 1:
                raise ValueError(f"the images have {sorted(channels)} channels; all need the same")
            start = new_network(preset, skips, width, depth, dimensions or 2, channels.pop(), classes or [], encoder)
            start = start if isotropic else fit_network(start, pairs)
            card = new_card(output.stem, classes or [])
        run(start, pairs, held, old, settings, output, card, resume, say)
