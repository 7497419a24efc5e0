"""From the options of `train` to what the training room takes: pairs, settings, network, card."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetpp.cli._job import open_image
from napari_unetpp.cli._output import BadUsage, Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_unetpp.model.card import Card
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.training.options import TrainOptions
    from napari_unetpp.training.pairs import Pair


class Skips(StrEnum):
    plain = "plain"
    ensemble = "ensemble"
    short = "short"
    dense = "dense"


def settings_of(**given: Any) -> TrainOptions:
    """Options of the run; what was not given keeps the training room's own value."""
    from napari_unetpp.training.options import TrainOptions

    try:
        return TrainOptions(**{name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        raise BadUsage(str(error)) from None


def open_pairs(
    images: Sequence[Path],
    labels: Sequence[Path],
    axes: str | None,
    label_axes: str | None,
    opened: ExitStack,
) -> list[Pair]:
    return [_open_pair(image, label, axes, label_axes, opened) for image, label in zip(images, labels, strict=True)]


def _open_pair(image: Path, label: Path, axes: str | None, label_axes: str | None, opened: ExitStack) -> Pair:
    """An image with its label file, or with the folder of its corrections."""
    from napari_unetpp.training.corrections import is_corrections, open_corrections
    from napari_unetpp.training.pairs import Pair, corrections_pair

    stack = opened.enter_context(open_image(image, axes, None))
    if is_corrections(label):
        return corrections_pair(stack, open_corrections(label))
    return Pair(stack, opened.enter_context(open_image(label, label_axes, None)))


def known_pairs(base: Model, opened: ExitStack) -> list[Pair]:
    """What the base was trained on, as far as it is still where it was."""
    from napari_unetpp.training.at_hand import known_data

    sources = known_data(base.sha256)
    if not sources:
        raise Failure(
            f"where the training data of {base.card.name!r} are is not known here; name them with --replay-image and "
            "--replay-label, or leave out --replay-known"
        )
    return [_open_pair(source.image, source.label, None, None, opened) for source in sources]


def class_names(labels: Sequence[Path]) -> list[str]:
    """Names of the classes that folders of corrections know; nothing for label files, which know none."""
    from napari_unetpp.training.corrections import is_corrections, open_corrections

    found = [[c.name for c in open_corrections(path).classes] for path in labels if is_corrections(path)]
    return max(found, key=len, default=[])


def check_counts(first: str, images: Sequence[Path], second: str, labels: Sequence[Path]) -> None:
    if len(images) != len(labels):
        raise BadUsage(
            f"{len(images)} {first} but {len(labels)} {second}; each image needs its labels, in the same order"
        )


def new_network(
    preset: str | None,
    skips: Skips | None,
    width: int | None,
    depth: int | None,
    dimensions: int,
    channels: int,
    classes: Sequence[str],
) -> NetworkSpec:
    from napari_unetpp.model.spec import NetworkSpec

    count = len(classes) + 1 if len(classes) > 1 else 1
    try:
        if preset is not None:
            spec = NetworkSpec.preset(preset, dimensions, channels, count)
        else:
            kind: Any = skips.value if skips is not None else "dense"
            spec = NetworkSpec(
                ndim=dimensions,
                in_channels=channels,
                classes=count,
                skips=kind,
                heads=(4,) if kind == "plain" else (1, 2, 3, 4),
            )
        if depth is not None:
            spec = spec.with_depth(depth)
        return spec.with_width(width) if width is not None else spec
    except ValueError as error:
        raise BadUsage(str(error)) from None


def new_card(name: str, classes: Sequence[str]) -> Card:
    from napari_unetpp.model.card import CLASS_COLORS, Card, ClassInfo

    card = Card(name)
    if not classes:
        return card
    named = tuple(ClassInfo(text, CLASS_COLORS[k % len(CLASS_COLORS)]) for k, text in enumerate(classes))
    return replace(card, classes=named if len(named) == 1 else (ClassInfo("background", "#000000"), *named))
