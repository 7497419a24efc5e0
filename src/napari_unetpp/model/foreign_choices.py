"""What is left to choose when a checkpoint is imported: the options of `Asked` that change what becomes of this one.

In this order: the choices (`Choices`), and how they are found (`open_choices`): what the weights told bounds them, and an import
that is asked for a value says whether it is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from napari_unetpp.model.foreign import convert
from napari_unetpp.model.foreign_found import FREE, HEADS, INTENSITIES, PADDINGS, Asked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_unetpp.model.foreign import Imported, Known, Package
    from napari_unetpp.model.foreign_found import Free, Heads, Intensities
    from napari_unetpp.model.spec_checks import Padding

Kind = TypeVar("Kind", bound=str)


@dataclass(frozen=True, slots=True)
class Choices:
    """The values of each option of `Asked`, the one that is taken unless asked first; empty where nothing is to be asked.

    Parameters
    ----------
    intensities
        The first is None where the file itself says how images are scaled, in numbers that have no name here.
    slope
        Of its LeakyReLU, as it is taken to be; None where it has none, or its weights or its file say it.
    classes
        What they are called, the background first where there are several; empty where the file is sure of it.
    """

    upsampling: tuple[Free, ...] = ()
    heads: tuple[Heads, ...] = ()
    intensities: tuple[Intensities | None, ...] = ()
    slope: float | None = None
    classes: tuple[str, ...] = ()
    padding: tuple[Padding, ...] = ()


def open_choices(known: Known | Package, usual: Imported, asked: Asked = Asked()) -> Choices:  # noqa: B008 (frozen)
    """Choices that a checkpoint leaves open; `usual` is what `convert` makes of it when no more is asked than has to be."""
    spec, found = usual.model.spec, usual.found
    names = tuple(c.name for c in usual.model.classes)
    if found is None and _tried(known, replace(asked, classes=names)) is None:
        return Choices()  # a package that holds a model of ours
    upsampling: tuple[Free, ...] = ()
    if spec.upsampling in FREE:  # any other has weights
        offered = _first(spec.upsampling, FREE)
        taken = _tried(known, replace(asked, upsampling=offered[1]))
        upsampling = offered if taken is not None and taken.model.spec.upsampling == offered[1] else ()
    slope = None
    if spec.negative_slope:
        taken = _tried(known, replace(asked, negative_slope=spec.negative_slope / 2))
        slope = spec.negative_slope if taken is not None and taken.model.spec != spec else None
    padding: tuple[Padding, ...] = ()
    if spec.padding == "same" and spec.skips == "plain":  # the weights of a U-Net of 2015 look the same
        tried = {kind: _tried(known, replace(asked, padding=kind)) for kind in PADDINGS if kind != "same"}
        others = [kind for kind, its in tried.items() if its is not None and its.model.spec.padding == kind]
        padding = ("same", *others) if others else ()
    heads: tuple[Heads, ...] = ()
    if found is None:  # the weights told more than the package let through
        specs = {kind: made.model.spec for kind in HEADS if (made := _tried(known, replace(asked, heads=kind)))}
        same = [kind for kind in specs if specs[kind] == spec]
        heads = _first(same[0], tuple(specs)) if same and len(set(specs.values())) > 1 else ()
    elif found.spec.heads[1:]:
        mean = found.heads == "mean" or _tried(known, replace(asked, heads="mean")) is not None
        heads = _first(found.heads, [kind for kind in HEADS if kind != "mean" or mean])
    colours = spec.in_channels == 3  # ImageNet's numbers are for three
    scalings = [kind for kind in INTENSITIES if colours or not kind.startswith("imagenet")]
    return Choices(
        upsampling,
        heads,
        (None, *scalings) if found is None else _first(found.intensities, scalings),
        slope,
        names,
        padding,
    )


def _tried(known: Known | Package, asked: Asked) -> Imported | None:
    try:
        return convert(known, asked)
    except ValueError:  # it does not fit, so there is nothing to choose
        return None


def _first(first: str, kinds: Sequence[Kind]) -> tuple[Kind, ...]:
    return tuple(sorted(kinds, key=lambda kind: kind != first))
