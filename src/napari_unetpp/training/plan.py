"""What is checked and loaded before the first step of a training run.

In this order: what a run needs (`Plan`), how it is made or refused (`make_plan`), and the card that the new model will carry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_unetpp.box import Box
from napari_unetpp.model.card import CLASS_COLORS, Card, ClassInfo
from napari_unetpp.model.checkpoint import Model
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.training.losses import IGNORE
from napari_unetpp.training.patches import Loaded, Pair, Region, Split, annotated_weights, load_region, split_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_unetpp.training.options import TrainOptions


class TrainingError(ValueError):
    """The run cannot start or cannot go on; the message is one line for the user."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything a run needs, checked and in memory; nothing is trained or written yet."""

    spec: NetworkSpec
    intensity: Intensity
    card: Card
    parent: Model | None
    training: tuple[Loaded, ...]
    validation: tuple[Loaded, ...]
    record: dict[str, Any]


def make_plan(
    model_or_spec: Model | NetworkSpec,
    pairs: Sequence[Pair],
    options: TrainOptions,
    *,
    validation: Sequence[Pair] = (),
    intensity: Intensity | None = None,
    card: Card | None = None,
    name: str = "model",
) -> Plan:
    """Everything `train` needs, checked and loaded; see there for the parameters and the errors."""
    parent = model_or_spec if isinstance(model_or_spec, Model) else None
    spec = parent.spec if parent is not None else model_or_spec
    assert isinstance(spec, NetworkSpec)
    if options.patch % spec.grid:
        low = max(options.patch // spec.grid, 1) * spec.grid
        raise ValueError(
            f"patch {options.patch} is not a multiple of {spec.grid} (2**depth); use {low} or {low + spec.grid}"
        )
    rule = parent.intensity if parent is not None else intensity or Intensity()
    if validation:
        split = Split(_whole(pairs), _whole(validation, offset=len(pairs)))
        pairs = [*pairs, *validation]
    else:
        split = split_pairs(pairs, spec.ndim, options.validation_fraction, options.seed)
    axes = {pair.image.axes_predicted[-spec.ndim :] for pair in pairs}
    if axes != {"zyx"[-spec.ndim :]}:
        raise ValueError(
            f"a {spec.ndim}D network trains on stacks with axes {'zyx'[-spec.ndim :]}; these have {', '.join(sorted(axes))}"
        )
    ignore = options.unpainted == "ignore"
    training, held = (
        tuple(load_region(pairs[r.pair], r, rule, spec.in_channels, spec.classes, ignore) for r in regions)
        for regions in (split.training, split.validation)
    )
    annotated_weights(training)
    if not bool(sum(float((region.target != IGNORE).sum()) for region in held)):
        raise TrainingError(
            "nothing is annotated in the part held out for validation; annotate another slice or image there"
        )
    record = {
        "options": options.to_json(),
        "spec": spec.to_json(),
        "parent": parent.sha256 if parent is not None else None,
        "training": [_describe(pairs, r) for r in split.training],
        "validation": [_describe(pairs, r) for r in split.validation],
    }
    return Plan(spec, rule, _card(card, parent, spec, pairs, name), parent, training, held, record)


def _card(card: Card | None, parent: Model | None, spec: NetworkSpec, pairs: Sequence[Pair], name: str) -> Card:
    if card is None:
        if parent is not None:
            card = replace(parent.card, name=name, scores={}, training={})
        elif spec.classes == 1:
            card = Card(name)
        else:
            foreground = [
                ClassInfo(f"class {k}", CLASS_COLORS[(k - 1) % len(CLASS_COLORS)]) for k in range(1, spec.classes)
            ]
            card = Card(name, classes=(ClassInfo("background", "#000000"), *foreground))
    if len(card.classes) != spec.classes:
        raise ValueError(f"the card names {len(card.classes)} classes where the network's heads have {spec.classes}")
    if card.spacing_um is None:
        spacings = {pair.image.spacing_predicted_um[-spec.ndim :] for pair in pairs}
        if len(spacings) == 1:
            spacing = spacings.pop()
            known = tuple(s for s in spacing if s is not None)
            card = replace(card, spacing_um=known if len(known) == spec.ndim else None)
    return card


def _whole(pairs: Sequence[Pair], offset: int = 0) -> tuple[Region, ...]:
    return tuple(Region(offset + i, Box.of(pair.image.shape_predicted)) for i, pair in enumerate(pairs))


def _describe(pairs: Sequence[Pair], region: Region) -> str:
    """Name and box of a region for the record, such as ``cells.tif[0:20,0:512,0:512]``."""
    extents = ",".join(f"{a}:{b}" for a, b in zip(region.box.start, region.box.stop, strict=True))
    return f"{pairs[region.pair].image.name}[{extents}]"
