"""From the options of `train` to what the training room takes: pairs, settings, network, card."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from napari_unetpp.cli._inputs import open_image, tell_note
from napari_unetpp.cli._output import BadUsage, Failure, Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_unetpp.label_values import LabelMap
    from napari_unetpp.model.card import Card
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.stacks import Stack
    from napari_unetpp.training.label_files import Matched
    from napari_unetpp.training.options import TrainOptions
    from napari_unetpp.training.pairs import Pair

_SHOWN = 10  # pairs of a folder that are told one by one
_UNITS = {"um": 1.0, "mm": 1e3, "nm": 1e-3}


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


def parse_spacing(option: str, text: str | None) -> tuple[float, ...] | None:
    """Micrometres per axis out of ``0.5,0.2,0.2``, ``1,1,1mm`` or ``30,4,4nm``.

    >>> parse_spacing("--spacing", "1,0.5,0.5mm")
    (1000.0, 500.0, 500.0)
    """
    if text is None:
        return None
    unit = next((u for u in _UNITS if text.endswith(u)), "")
    try:
        numbers = tuple(float(part) * _UNITS.get(unit, 1.0) for part in text.removesuffix(unit).split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < n < float("inf") for n in numbers):
        raise BadUsage(f"{option} {text}: give one positive number per axis z, y, x, as 0.5,0.2,0.2 or 1,1,1mm")
    return numbers


def listed(
    images: Sequence[Path], labels: Sequence[Path], first: str, second: str, say: Output
) -> tuple[list[Path], list[Path]]:
    """Images and the labels of each; a folder stands for the image files in it, whose labels are found by name, and shown."""
    check_counts(first, images, second, labels)
    found: tuple[list[Path], list[Path]] = ([], [])
    for image, label in zip(images, labels, strict=True):
        if not is_plain_folder(image):
            if is_plain_folder(label):
                raise BadUsage(f"{second} {label} is a folder, but {first} {image} is a file; name the label file")
            found[0].append(image)
            found[1].append(label)
            continue
        if not is_plain_folder(label):
            raise BadUsage(f"{first} {image} is a folder, so {second} {label} must be the folder with its labels")
        from napari_unetpp.training.label_files import match_folders

        try:
            matched = match_folders(image, label)
        except ValueError as error:
            raise BadUsage(f"{first} {image}, {second} {label}: {error}") from None
        show_pairs(matched, image, label, say)
        found[0].extend(path for path, _ in matched.pairs)
        found[1].extend(path for _, path in matched.pairs)
    return found


def show_pairs(matched: Matched, image: Path, label: Path, say: Output) -> None:
    """Say which files of two folders belong together, and which are left out."""
    count = len(matched.pairs)
    say.say(f"{image} with labels of {label}: {count} pair{'s' * (count != 1)}")
    for one, other in matched.pairs[:_SHOWN]:
        say.say(f"  {one.relative_to(image)} + {other.relative_to(label)}")
    if count > _SHOWN:
        say.say(f"  and {count - _SHOWN} more")
    for line in matched.left_lines():
        say.say(f"note: {line}")
    say.event(
        "pairs",
        pairs=[list(map(str, pair)) for pair in matched.pairs],
        images_left=list(map(str, matched.images_left)),
        labels_left=list(map(str, matched.labels_left)),
    )


def is_plain_folder(path: Path) -> bool:
    """Whether a path is a folder of files, and neither a file nor an image that is a folder (zarr)."""
    return path.is_dir() and not any((path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup"))


def parse_label_values(text: str | None) -> LabelMap | None:
    from napari_unetpp.label_values import parse_values

    try:
        return None if text is None else parse_values(text)
    except ValueError as error:
        raise BadUsage(str(error)) from None


def tell_notes(pairs: Sequence[Pair], say: Output) -> None:
    """Say once what was chosen when the labels were opened; of many files alike, the first and the number."""
    kinds: dict[str, list[Stack]] = {}
    for pair in pairs:
        for note in pair.label.notes:
            kinds.setdefault(note, []).append(pair.label)
    for note, labels in kinds.items():
        more = len(labels) - 1
        tell_note(labels[0], note + (f" (and so for {more} other label file{'s' * (more > 1)})" if more else ""), say)


def open_pairs(
    images: Sequence[Path],
    labels: Sequence[Path],
    axes: str | None,
    label_axes: str | None,
    opened: ExitStack,
    say: Output,
    *,
    spacing_um: tuple[float, ...] | None = None,
    values: LabelMap | None = None,
) -> list[Pair]:
    """Images with their labels, closed with `opened`; `spacing_um` per axis (z,) y, x is in place of what the images say.

    `values` says what stands for label 0, 1, 2 in label files; corrections have their own numbers.
    """
    return [
        _open_pair(image, label, axes, label_axes, opened, say, spacing_um, values)
        for image, label in zip(images, labels, strict=True)
    ]


def _open_pair(
    image: Path,
    label: Path,
    axes: str | None,
    label_axes: str | None,
    opened: ExitStack,
    say: Output,
    spacing_um: tuple[float, ...] | None = None,
    values: LabelMap | None = None,
) -> Pair:
    """An image with its label file, or with the folder of its corrections."""
    from napari_unetpp.label_stacks import open_labels
    from napari_unetpp.training.corrections import is_corrections, open_corrections
    from napari_unetpp.training.pairs import Pair, corrections_pair

    stack = opened.enter_context(open_image(image, axes, None, say))
    if spacing_um is not None:
        spatial = [axis for axis in "zyx" if axis in stack.axes]
        if len(spatial) != len(spacing_um):
            raise ValueError(
                f"{len(spacing_um)} numbers of spacing but {stack.name} has the axes {', '.join(spatial)}; give as many"
            )
        named = dict(zip(spatial, spacing_um, strict=True))
        stack = replace(stack, spacing_um=tuple(named.get(axis) for axis in stack.axes))
    if is_corrections(label):
        return corrections_pair(stack, open_corrections(label))
    return Pair(stack, opened.enter_context(open_labels(label, axes=label_axes, values=values, image=stack)))


def known_pairs(base: Model, opened: ExitStack, say: Output) -> list[Pair]:
    """What the base was trained on, as far as it is still where it was."""
    from napari_unetpp.training.at_hand import known_data

    sources = known_data(base.sha256)
    if not sources:
        raise Failure(
            f"where the training data of {base.card.name!r} are is not known here; name them with --replay-image and "
            "--replay-label, or leave out --replay-known"
        )
    return [_open_pair(source.image, source.label, None, None, opened, say) for source in sources]


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
    encoder: str | None = None,
) -> NetworkSpec:
    from napari_unetpp.model.spec import NetworkSpec

    count = len(classes) + 1 if len(classes) > 1 else 1
    if encoder is not None:
        from napari_unetpp.model.backbones import encoder_spec

        kind = cast("Any", skips.value if skips is not None else "dense")
        return encoder_spec(
            encoder, in_channels=channels, classes=count, depth=depth or 4, width=width or 32, skips=kind
        )
    try:
        if preset is not None:
            spec = NetworkSpec.preset(preset, dimensions, channels, count)
        else:
            kind = cast("Any", skips.value if skips is not None else "dense")
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


def fit_network(spec: NetworkSpec, pairs: Sequence[Pair]) -> NetworkSpec:
    """The new network as the spacing of the images asks for."""
    from napari_unetpp.training.spacing import fit_spacing

    try:
        return fit_spacing(spec, pairs)
    except ValueError as error:
        raise BadUsage(f"{error}; --isotropic takes z as y and x") from None


def new_card(name: str, classes: Sequence[str]) -> Card:
    from napari_unetpp.model.card import CLASS_COLORS, Card, ClassInfo

    card = Card(name)
    if not classes:
        return card
    named = tuple(ClassInfo(text, CLASS_COLORS[k % len(CLASS_COLORS)]) for k, text in enumerate(classes))
    return replace(card, classes=named if len(named) == 1 else (ClassInfo("background", "#000000"), *named))
