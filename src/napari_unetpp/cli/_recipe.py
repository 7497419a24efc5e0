"""From the options of `train` to what the training room takes: pairs, settings, network, card."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from napari_unetpp.cli._inputs import open_image
from napari_unetpp.cli._output import BadUsage, Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_unetpp.cli._output import Output
    from napari_unetpp.model.card import Card
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.training.options import TrainOptions
    from napari_unetpp.training.pairs import Pair

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


def listed(images: Sequence[Path], labels: Sequence[Path], first: str, second: str) -> tuple[list[Path], list[Path]]:
    """Images and the labels of each; a folder stands for the TIFF files in it, those of its labels having the same names."""
    check_counts(first, images, second, labels)
    found: tuple[list[Path], list[Path]] = ([], [])
    for image, label in zip(images, labels, strict=True):
        files = _tiffs(image)
        if files is None:
            found[0].append(image)
            found[1].append(label)
            continue
        if not files:
            raise BadUsage(f"{first} {image}: the folder holds no .tif file; name the images themselves")
        beside = [label / file.name for file in files]
        if missing := [path for path in beside if not path.exists()]:
            raise BadUsage(f"{second} {label}: {missing[0].name} is missing there; name each label file as its image")
        found[0].extend(files)
        found[1].extend(beside)
    return found


def _tiffs(path: Path) -> list[Path] | None:
    """TIFF files of a plain folder, by name; None for a file, or a folder that is an image itself (zarr)."""
    if not path.is_dir() or any((path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup")):
        return None
    return sorted(file for file in path.iterdir() if file.suffix.lower() in (".tif", ".tiff") and file.name[0] != ".")


def open_pairs(
    images: Sequence[Path],
    labels: Sequence[Path],
    axes: str | None,
    label_axes: str | None,
    opened: ExitStack,
    say: Output,
    *,
    spacing_um: tuple[float, ...] | None = None,
) -> list[Pair]:
    """Images with their labels, closed with `opened`; `spacing_um` per axis (z,) y, x is in place of what the images say."""
    return [
        _open_pair(image, label, axes, label_axes, opened, say, spacing_um)
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
) -> Pair:
    """An image with its label file, or with the folder of its corrections."""
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
    return Pair(stack, opened.enter_context(open_image(label, label_axes, None, say, labels=True)))


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
