"""What is checked and loaded before the first step of a training run.

In this order: what a run needs (`Plan`), how it is made or refused (`make_plan`), what is refused, and the card that the new
model will carry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_unetpp.model.card import CLASS_COLORS, Card, ClassInfo
from napari_unetpp.model.checkpoint import Model
from napari_unetpp.model.foreign_card import tiling_of
from napari_unetpp.model.intensity import NEW, Intensity
from napari_unetpp.model.sampling import as_seen, scale_stack
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.training.blocks import Annotated, Blocks, blocks_in, load_blocks, scan, thinned
from napari_unetpp.training.held_out import ChosenBy, chosen_by, held_out_lines, same_images
from napari_unetpp.training.pairs import Pair, Rule, negative_line
from napari_unetpp.training.spacing import spacing_lines
from napari_unetpp.training.speed import check_fits, choose_batch
from napari_unetpp.training.split import Region, Split, split_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_unetpp.stacks import Stack
    from napari_unetpp.training.options import TrainOptions

_PATCH = 256  # voxels of an edge where tiles overlap: wide enough for what an encoder sees, small enough for any memory


class TrainingError(ValueError):
    """The run cannot start or cannot go on; the message is one line for the user."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything a run needs, checked, its annotations in memory; nothing is trained or written yet.

    `annotated` counts voxels by class name, `places` names the boxes, both for ``"training"`` and ``"validation"``; `warnings`
    are lines for the user; `batch` is the one to use where the options leave it open; `chosen_by` says what decides which epoch
    is kept. `validation` has no blocks where nothing is held out. `images` are the stacks of the record's "data" and "replay" as
    they were given, where those of the blocks may be shown through a scaling.
    """

    spec: NetworkSpec
    options: TrainOptions
    intensity: Intensity
    card: Card
    parent: Model | None
    training: Blocks
    validation: Blocks
    replay: Blocks | None
    batch: int
    annotated: dict[str, dict[str, int]]
    places: dict[str, tuple[str, ...]]
    warnings: tuple[str, ...]
    record: dict[str, Any]
    images: dict[str, tuple[Stack, ...]]
    chosen_by: ChosenBy = "validation"


def make_plan(
    model_or_spec: Model | NetworkSpec,
    pairs: Sequence[Pair],
    options: TrainOptions,
    *,
    validation: Sequence[Pair] = (),
    replay: Sequence[Pair] = (),
    intensity: Intensity | None = None,
    card: Card | None = None,
    name: str = "model",
) -> Plan:
    """Everything `train` needs, checked and loaded; see there for the parameters and the errors."""
    parent = model_or_spec if isinstance(model_or_spec, Model) else None
    spec = parent.spec if parent is not None else model_or_spec
    assert isinstance(spec, NetworkSpec)
    everything = [*pairs, *validation, *replay]
    intensity = parent.intensity if parent is not None else intensity or NEW
    _check_network(spec, options, everything, intensity, parent)
    rule = Rule(spec.classes, options.unpainted, options.foreground)
    found = [scan(pair, spec.ndim, rule) for pair in [*pairs, *validation]]
    mine = len(pairs)
    _check_annotations(found[:mine], spec, options, pairs)
    same = same_images([*pairs, *validation])
    if validation:
        split = Split(
            tuple(Region(i, pair.whole) for i, pair in enumerate(pairs)),
            tuple(Region(mine + i, pair.whole) for i, pair in enumerate(validation)),
        )
    else:
        split = split_pairs(pairs, found, spec.ndim, options.validation_fraction, options.seed, same)
    card = _card(card, parent, spec, options, pairs, name)
    measured = [scale_stack(pair.image, intensity, spec.in_channels) for pair in everything]
    both = tuple(everything[: len(found)])
    shown = [as_seen(pair.image, scaling) for pair, scaling in zip(everything, measured, strict=True)]
    scalings = tuple(scaling for _, scaling in shown)
    seen = tuple(replace(pair, image=image) for pair, (image, _) in zip(everything, shown, strict=True))
    training, held = (
        Blocks(
            seen[: len(found)],
            scalings[: len(found)],
            spec.in_channels,
            tuple(block for r in regions for block in blocks_in(found[r.pair], r.pair, r.box)),
            options.memory,
        )
        for regions in (split.training, split.validation)
    )
    if validation and not held.blocks:
        raise TrainingError("nothing is annotated in the validation images; annotate them, or leave them out")
    held = thinned(held, options.validation_voxels)
    held_counts = held.counts if held.blocks else training.counts * 0
    by = chosen_by(training.counts, held_counts)
    own = replace(rule, unpainted="background", foreground=0)  # whose labels mean what its classes say
    repeated = [scan(pair, spec.ndim, own) for pair in replay]
    old = _replayed(seen[len(found) :], repeated, spec, options, scalings[len(found) :])
    annotated = {
        part: dict(zip(_names(card), map(int, counts), strict=True))
        for part, counts in (("training", training.counts), ("validation", held_counts))
    }
    places = {
        part: tuple(_describe(both, index, data) for index in sorted({block.pair for block in data.blocks}))
        for part, data in (("training", training), ("validation", held))
    }
    lines = (
        *_warnings(annotated, parent, held_out=bool(held.blocks)),
        *held_out_lines(pairs, validation, same, by, held_out=bool(held.blocks)),
        *(spacing_lines(spec, pairs) if parent is None else ()),
    )
    record = {
        "chosen_by": by,
        "options": options.to_json(),
        "spec": spec.to_json(),
        "parent": parent.sha256 if parent is not None else None,
        **{part: list(names) for part, names in places.items()},
        "data": [_hashes(pair, of) for pair, of in zip(both, found, strict=True)],
        "replay": [_hashes(pair, of) for pair, of in zip(replay, repeated, strict=True)] if old is not None else [],
    }
    load_blocks(held, 0)  # what cannot be read is told now and not after an epoch
    if training.fits:
        load_blocks(training, 0)
    return Plan(
        spec,
        options,
        intensity,
        card,
        parent,
        training,
        held,
        old,
        options.batch or choose_batch(spec, options),
        annotated,
        places,
        (*lines, *_negative_lines(both, found, rule)),
        record,
        {
            "data": tuple(pair.image for pair in both),
            "replay": tuple(pair.image for pair in replay) if old is not None else (),
        },
        by,
    )


def _check_network(
    spec: NetworkSpec, options: TrainOptions, pairs: Sequence[Pair], intensity: Intensity, parent: Model | None
) -> None:
    """Refuse a patch, axes or channels that the network cannot take, and what no memory is there for."""
    for extent, grid, axis in zip(options.extents(spec.ndim), spec.grids, "zyx"[-spec.ndim :], strict=True):
        if extent % grid:
            low = max(extent // grid, 1) * grid
            along = f" along {axis}" if len({*spec.grids}) > 1 else ""
            whose = "2**depth" if grid == 2**spec.depth else "the network's grid"
            raise ValueError(f"patch {extent}{along} is not a multiple of {grid} ({whose}); use {low} or {low + grid}")
    axes = {pair.image.axes_predicted[-spec.ndim :] for pair in pairs} or {"zyx"[-spec.ndim :]}
    if axes != {"zyx"[-spec.ndim :]}:
        raise ValueError(
            f"a {spec.ndim}D network trains on stacks with axes {'zyx'[-spec.ndim :]}; these have {', '.join(sorted(axes))}"
        )
    for pair in pairs:
        channels = pair.image.channels
        if channels != spec.in_channels and not (channels == 1 and intensity.replicate_gray):
            raise ValueError(
                f"image {pair.image.name} has {channels} channels where the network takes {spec.in_channels}; choose as many"
            )
    if options.foreground and spec.classes > 1:
        raise ValueError(
            f"foreground {options.foreground} picks one label for a network of one class; this one has {spec.classes}"
        )
    trained = options.trainable == "decoder" and options.encoder_weights  # all that stays is the encoder
    if options.trainable != "all" and parent is None and not trained:
        raise ValueError(
            f"trainable {options.trainable!r} keeps the rest of the network as it is, and from scratch that is noise; train all"
        )
    check_fits(spec, options)


def _check_annotations(
    found: Sequence[Annotated], spec: NetworkSpec, options: TrainOptions, pairs: Sequence[Pair]
) -> None:
    """Refuse labels that teach nothing: none at all, or of one class alone."""
    if not pairs:
        raise ValueError("no image was given; name at least one image and its labels")
    counts = [int(sum(int(one.counts[k]) for one in found)) for k in range(max(spec.classes, 2))]
    ignoring = [Rule(unpainted=options.unpainted).ignores_zero(pair) for pair in pairs]
    reviewed = all(pair.reviewed is not None and not pair.reviewed for pair in pairs)
    if not any(counts):
        raise TrainingError(
            "no slice is marked as reviewed, so nothing is annotated; mark what you have looked at"
            if reviewed and not any(ignoring)
            else "no voxel is annotated; paint background as 1 and classes as 2 and up, or let unpainted mean background"
        )
    if not any(counts[1:]):
        raise TrainingError(
            "only background is annotated, every label is 1; paint some of the class too, as 2 and up"
            if any(ignoring)
            else f"the labels hold no foreground{f' {options.foreground}' if options.foreground else ''}, all is background; "
            "paint or choose labels of the class to learn"
        )
    if not counts[0] and sum(n > 0 for n in counts) == 1:
        raise TrainingError(
            "only one class is annotated and no background; paint some background as 1 too"
            if any(ignoring)
            else "every voxel is labelled as the same class; without any background there is nothing to tell apart"
        )


def _replayed(
    replay: Sequence[Pair],
    found: Sequence[Annotated],
    spec: NetworkSpec,
    options: TrainOptions,
    scalings: Sequence[Any],
) -> Blocks | None:
    """Annotated blocks of the base model's own data; None without any."""
    blocks = tuple(
        block
        for index, (pair, annotated) in enumerate(zip(replay, found, strict=True))
        for block in blocks_in(annotated, index, pair.whole)
    )
    return Blocks(tuple(replay), tuple(scalings), spec.in_channels, blocks, options.memory) if blocks else None


def _warnings(annotated: dict[str, dict[str, int]], parent: Model | None, *, held_out: bool) -> tuple[str, ...]:
    lines = []
    trained, held = annotated["training"], annotated["validation"]
    if absent := [name for name, n in trained.items() if not n]:
        keeps = "the model may forget them" if parent is not None else "the model will not know them"
        lines.append(f"not annotated in the training part: {', '.join(absent)}; {keeps}")
    if held_out and (absent := [name for name, n in held.items() if not n and trained[name]]):
        lines.append(f"not annotated in the held-out part, so not scored: {', '.join(absent)}")
    return tuple(lines)


def _negative_lines(pairs: Sequence[Pair], found: Sequence[Annotated], rule: Rule) -> list[str]:
    lines = (negative_line(pair, int(of.counts.sum()), rule) for pair, of in zip(pairs, found, strict=True))
    return [line for line in lines if line]


def _names(card: Card) -> list[str]:
    names = [info.name for info in card.classes]
    return names if len(names) > 1 else ["background", *names]


def _card(
    card: Card | None,
    parent: Model | None,
    spec: NetworkSpec,
    options: TrainOptions,
    pairs: Sequence[Pair],
    name: str,
) -> Card:
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
    if parent is None and not isinstance(options.patch, int):  # a shape that somebody chose for what it shows
        stride = [max(1, n // 2) for n in options.patch]
        card = replace(card, tiling={"kind": "overlap", "patch": list(options.patch), "stride": stride})
    elif parent is None and not spec.size_independent and card.tiling.get("kind") == "seamless":
        card = replace(card, tiling=tiling_of(spec, _PATCH))  # no halo is exact
    if card.spacing_um is None:
        spacings = {pair.image.spacing_predicted_um[-spec.ndim :] for pair in pairs}
        if len(spacings) == 1:
            spacing = spacings.pop()
            known = tuple(s for s in spacing if s is not None)
            card = replace(card, spacing_um=known if len(known) == spec.ndim else None)
    return card


def _describe(pairs: Sequence[Pair], index: int, data: Blocks) -> str:
    """Name of an image and the box around its annotated blocks, such as ``cells.tif[0:20,0:512,0:512]``."""
    boxes = [block.box for block in data.blocks if block.pair == index]
    start = map(min, zip(*(box.start for box in boxes), strict=True))
    stop = map(max, zip(*(box.stop for box in boxes), strict=True))
    extents = ",".join(f"{a}:{b}" for a, b in zip(start, stop, strict=True))
    return f"{pairs[index].image.name}[{extents}]"


def _hashes(pair: Pair, found: Annotated) -> dict[str, Any]:
    """The hash of the image is added where the run begins, because it takes reading all of it."""
    return {"image": pair.image.name, "labels": pair.label.name, "labels_sha256": found.sha256}
