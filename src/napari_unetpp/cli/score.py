"""`score`: how well predictions agree with reference labels, level by level."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_unetpp.cli import _options as options
from napari_unetpp.cli._inputs import make_backend, open_stack_and_model, tell_note
from napari_unetpp.cli._job import Job, run
from napari_unetpp.cli._output import BadUsage, Bar, Output, reported
from napari_unetpp.cli._recipe import parse_label_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from napari_unetpp.box import ArrayLike, Box
    from napari_unetpp.evaluation import LevelScore
    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.label_values import LabelMap
    from napari_unetpp.stacks import Stack

COLUMNS = {
    "IoU": "iou",
    "Dice": "dice",
    "F2": "f2",
    "sens.": "sensitivity",
    "spec.": "specificity",
    "paper mIoU": "paper_mean_iou",
    "boundary F1": "boundary_f1",
    "tolerant F1": "tolerant_f1",
}


@reported
def score(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="PREDICTION LABELS | MODEL STACK LABELS",
            help="Predictions (or a label image) and their reference; or a model, to predict.",
        ),
    ],
    level: Annotated[str, typer.Option(metavar="all|N[,N]", help="Levels to score; all adds the ensemble.")] = "all",
    foreground: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="Name or label of the class to score. By default: with one class, every label "
            "above 0, so that instance labels will do; with several, each.",
        ),
    ] = None,
    unpainted: Annotated[
        options.Unpainted,
        typer.Option(help="What 0 in LABELS means; ignore: 0 not annotated, 1 background, 2.. classes."),
    ] = options.Unpainted.background,
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="Least probability of the class.")] = 0.5,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Voxels that a boundary may be off.")] = 2.0,
    label_values: options.LabelValues = None,
    axes: Annotated[str | None, typer.Option(help="Axes of STACK, as tzcyx.")] = None,
    label_axes: Annotated[str | None, typer.Option(help="Axes of LABELS, as zyx.")] = None,
    series: Annotated[int | None, typer.Option(min=0, help="Which image of STACK.")] = None,
    channel: Annotated[int | None, typer.Option(min=0, help="Which channel of STACK.")] = None,
    rgb: options.RgbOption = False,
    tiling: Annotated[options.TilingKind | None, typer.Option(help="With MODEL: by default its own.")] = None,
    patch: options.PatchOption = None,
    stride: options.StrideOption = None,
    halo: options.HaloOption = None,
    aggregate: Annotated[options.Aggregate | None, typer.Option(help="With MODEL.")] = None,
    device: Annotated[str, typer.Option(help="With MODEL: auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Score L1..L4 and their ensemble against labels."""
    if len(files) not in (2, 3):
        raise BadUsage(f"score takes PREDICTION LABELS, or MODEL STACK LABELS; {len(files)} files were given")
    from napari_unetpp.label_stacks import check_labels

    options.check_device(device)
    say, values, path = Output(as_json), parse_label_values(label_values), Path(files[-1])
    with ExitStack() as opened:
        if len(files) == 3:
            image, model = open_stack_and_model(
                opened, Path(files[1]), files[0], device, axes=axes, series=series, channel=channel, say=say, rgb=rgb
            )
            labels = opened.enter_context(_open_labels(path, label_axes, values, image))
            chosen = options.choose_tiling(model, tiling, patch, stride, aggregate, halo)
            deepest = max(options.parse_levels(level, model.spec.heads))
            backend = make_backend(model, image, "auto", say)
            tiles = options.plan(image.shape_predicted, backend, chosen, deepest)
            fitted = _fitting(labels, image.axes_predicted, image.shape_predicted)
            _same_extent(image.shape_predicted, fitted, files[1])  # before the work, not after it
            below = check_labels(labels, _counted(foreground, model.spec.classes), unpainted.value == "ignore")
            folder = opened.enter_context(TemporaryDirectory(prefix="napari-unetpp-"))
            output = Path(folder) / "score.ome.zarr"
            store, _ = run(Job(image, model, tiles, output, backend), say)
            source = of_store(store, level, labels)
        else:
            labels = opened.enter_context(_open_labels(path, label_axes, values))
            source = _open_prediction(Path(files[0]), level, labels, opened)
            below = check_labels(labels, _counted(foreground, len(source.classes)), unpainted.value == "ignore")
        tell_labels(labels, below, say)
        rows = score_source(source, foreground, unpainted.value, threshold, tolerance, say)
        say.event("result", scores=report(rows, tolerance, say), tolerance=tolerance)


@dataclass(frozen=True, slots=True)
class Source:
    """What is scored: levels by name, against reference labels of the same shape."""

    levels: Mapping[str, ArrayLike]
    reference: ArrayLike
    classes: tuple[str, ...]
    ensemble: bool
    is_labels: bool = False  # a label image instead of probabilities


def _open_labels(path: Path, axes: str | None, values: LabelMap | None = None, image: Stack | None = None) -> Stack:
    from napari_unetpp.inference.folders import is_store
    from napari_unetpp.label_stacks import open_labels

    if is_store(path) or is_store(path.parent):
        raise BadUsage(f"{path} holds predictions where labels are wanted; name the labels last")
    return open_labels(path, axes=axes, values=values, image=image)


def tell_labels(labels: Stack, below: int, say: Output) -> None:
    """Say what was chosen when the labels were opened, and how many voxels are left out."""
    left = f"{below} voxels are below 0, which means not annotated; they are left out of the scores"
    for note in (*labels.notes, *([left] if below else [])):
        tell_note(labels, note, say)


def _counted(foreground: str | None, classes: int) -> int:
    """How many classes the labels may have; 1 where any label will do, because one class alone is scored."""
    return classes if foreground is None else 1


def _open_prediction(path: Path, level: str, labels: Stack, opened: ExitStack) -> Source:
    from napari_unetpp.inference.folders import is_store
    from napari_unetpp.inference.store import open_store

    if is_store(path):
        return of_store(open_store(path), level, labels)
    from napari_unetpp.evaluation import label_planes

    if is_store(path.parent):
        raise BadUsage(f"{path} is a part of the predictions {path.parent}; name those, and the level with --level")
    given = opened.enter_context(_open_labels(path, None))
    shape = given.shape_predicted
    labels = _fitting(labels, given.axes_predicted, shape)
    _same_extent(shape, labels, str(path))
    origin = (0,) * len(shape)
    return Source(
        {"labels": label_planes(given, origin, shape)},
        label_planes(labels, origin, shape),
        ("foreground",),
        ensemble=False,
        is_labels=True,
    )


def of_store(store: PredictionStore, level: str, labels: Stack) -> Source:
    from napari_unetpp.evaluation import label_planes, stored_levels

    chosen = options.parse_levels(level, store.levels)
    labels = _fitting(labels, store.axes, store.shape)
    origin = [0] * len(store.shape)
    region = store.record.get("region")
    if region is not None and labels.shape_predicted != store.shape:
        origin, stop = region  # labels of the whole stack that the region was cut out of
        inside = len(stop) == len(labels.shape_predicted) and all(
            b <= n for b, n in zip(stop, labels.shape_predicted, strict=True)
        )
        if not inside:
            raise ValueError(
                f"{labels.name} has shape {labels.shape_predicted}, which neither is that of "
                f"{store.path}, {store.shape}, nor holds its region {origin} to {stop}"
            )
    else:
        _same_extent(store.shape, labels, str(store.path))
    return Source(
        stored_levels(store, chosen),
        label_planes(labels, origin, store.shape),
        store.classes,
        ensemble=level.lower() == "all",
    )


def _fitting(labels: Stack, axes: str, shape: tuple[int, ...]) -> Stack:
    """Labels with the axes of what is scored, as far as they lack only axes of extent 1."""
    from napari_unetpp.stacks import aligned

    return aligned(labels, axes, shape)


def _same_extent(shape: tuple[int, ...], labels: Stack, name: str) -> None:
    from napari_unetpp.label_stacks import shape_hint

    if labels.shape_predicted != tuple(shape):
        raise ValueError(
            f"{name} has shape {tuple(shape)} and its labels {labels.name} have "
            f"{labels.shape_predicted} ({labels.axes_predicted}); they must be the same"
            + shape_hint(tuple(shape), labels.shape_predicted, labels.axes_predicted)
        )


def score_source(
    source: Source,
    foreground: str | None,
    unpainted: str,
    threshold: float,
    tolerance: float,
    say: Output,
) -> dict[str, list[LevelScore]]:
    """Rows of each scored class, by its name."""
    from napari_unetpp.evaluation import score_planes

    rows: dict[str, list[LevelScore]] = {}
    for name, number in _classes(foreground, source.classes):
        levels: Mapping[str, ArrayLike] = source.levels
        if source.is_labels:
            levels = {n: _as_probability(a, number) for n, a in levels.items()}
        planes = math.prod(source.reference.shape[:-2])
        with Bar(say, f"score {name}", planes) as bar:
            for done, scores in enumerate(
                score_planes(
                    levels,
                    source.reference,
                    foreground=number,
                    unpainted="ignore" if unpainted == "ignore" else "background",
                    threshold=threshold,
                    tolerance=tolerance,
                    ensemble=source.ensemble,
                ),
                start=1,
            ):
                rows[name] = scores
                bar.show(done)
    return rows


def _classes(foreground: str | None, classes: tuple[str, ...]) -> list[tuple[str, int | None]]:
    """Name and number of what to score; number None is every label above 0."""
    several = len(classes) > 1
    if foreground is None:
        return _numbered(classes)[1:] if several else [(classes[0], None)]
    if foreground.isdecimal():
        number = int(foreground)
        if several and number >= len(classes):
            raise BadUsage(
                f"--foreground {number}: there is no such class; there are "
                + ", ".join(f"{k} {name}" for k, name in enumerate(classes))
            )
        return [(classes[number] if several else f"label {number}", number)]
    if foreground not in classes:
        raise BadUsage(
            f"--foreground {foreground!r} is no class of the prediction; it has "
            f"{', '.join(classes)} (a number names a label)"
        )
    return [(foreground, classes.index(foreground) if several else None)]


def _numbered(classes: tuple[str, ...]) -> list[tuple[str, int | None]]:
    return [(name, number) for number, name in enumerate(classes)]


def _as_probability(labels: ArrayLike, foreground: int | None) -> ArrayLike:
    """Labels as the probability, 0 or 255, of one class: `(1, *labels.shape)`, lazy."""
    import numpy as np

    from napari_unetpp.inference.labels import LazyView

    def compute(box: Box) -> NDArray[Any]:
        part = labels[tuple(slice(a, b) for a, b in zip(box.start[1:], box.stop[1:], strict=True))]
        # Class 0 is scored as the complement of a foreground, so that is what has to be given.
        found = part == foreground if foreground else part > 0
        return np.where(found, np.uint8(255), np.uint8(0))[np.newaxis]

    return LazyView((1, *labels.shape), "c" + "tzyx"[-labels.ndim :], np.uint8, compute)


def report(rows: Mapping[str, list[LevelScore]], tolerance: float, say: Output) -> list[dict[str, Any]]:
    """Show a table of each class; all values, JSON-able."""
    from napari_unetpp.evaluation import level_enough
    from napari_unetpp.model.card import LEVEL_TOLERANCE

    results = []
    for name, scores in rows.items():
        table = []
        for row in scores:
            values = row.as_dict()
            say.event("score", **{"class": name, **values})
            results.append({"class": name, **values})
            table.append([row.level, *(f"{values[key]:.4f}" for key in COLUMNS.values())])
        say.table(f"{name} ({scores[0].confusion.total} voxels)", ["level", *COLUMNS], table)
        iou = {int(r.level[1:]): r.confusion.iou for r in scores if r.level[1:].isdecimal()}
        enough = level_enough(iou) if len(iou) > 1 else None
        if enough is not None:
            say.say(f"L{enough} is enough for {name}: its IoU is within {LEVEL_TOLERANCE} of the best")
    say.say(
        f"Boundary F1: outlines within {tolerance:g} voxels; tolerant F1: the class's own voxels; "
        "paper mIoU: mean over thresholds 0.5 to 0.95 and over background and foreground"
    )
    return results
