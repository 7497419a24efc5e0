"""How much error a person finds who looks at the most doubtful regions first, for every way to rank them.

    python -m benchmarks.doubt DATA
    python -m benchmarks.doubt DATA --phase-models first.safetensors second.safetensors --only phase

Images that no model was trained on are segmented, their slices cut into squares, and the squares of a data set ranked
together by `rank_doubt`. *Found* is the share of all wrong voxels (the deepest level at 0.5 against the reference) that
lie in the first 1, 5, 10, 20 and 50 % of what is inspected. *Area* is the area under that curve, 0 for a random order and 1
for the oracle, which knows the errors; both are 100 % found in the end. Ranges hold 95 % of 1000 samples of the images
(slices, groups of crops) with replacement. *AUROC* is the chance that a wrong voxel is more doubtful than a right one.

DATA holds the folders of `DATA_SETS`; one that is absent is left out with a sentence, as are the models trained on phase
contrast without `--phase-models`: one trained without the images of PHASE[0], one without those of PHASE[1].
docs/doubt.md has the commands. The first five data sets were looked at while the methods were chosen, the others after.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from benchmarks import _harness as harness
from benchmarks._harness import say
from benchmarks.networks import make_model, standard_spec, texture
from napari_unetpp.evaluation.doubt import METHODS, STEPS, Doubt, doubt_view, rank_doubt
from napari_unetpp.inference.backends import prepare
from napari_unetpp.inference.labels import label_view
from napari_unetpp.inference.predict import open_run, predict_stack
from napari_unetpp.inference.tiles import plan_tiles, tiling_from_card
from napari_unetpp.model.checkpoint import Model, load_model
from napari_unetpp.stacks import Stack, open_stack

TRAINING_RUNS = Path(__file__).resolve().parents[1] / "training_runs"
SIZES = (64, 128)
INSPECTED = (0.01, 0.05, 0.1, 0.2, 0.5)
SAMPLES = 1000
# Images 4 and 39 show one field at two times, as do 23 and 40.
PHASE = (("04", "23", "28", "31", "35", "39", "40", "44"), ("01", "05", "08", "13", "15", "17", "21", "25"))


@dataclass(frozen=True, slots=True)
class Image:
    """A stack, its true foreground in prediction axes, and a name that images share which are no independent samples."""

    stack: Stack
    truth: np.ndarray
    group: str


@dataclass(frozen=True, slots=True)
class DataSet:
    """Where images lie, how they are read, and the model (a number: of `--phase-models`)."""

    folder: str
    images: Callable[[Path], list[Image]]
    model: str | int
    about: str


def nuclei(part: str) -> Callable[[Path], list[Image]]:
    """A part of the data that the run which made the model did not train on."""

    def images(folder: Path) -> list[Image]:
        pairs = _training_run("nuclei").pairs_by_split(folder)[part]
        return [Image(p.image, np.asarray(p.label.data) > 0, str(p.group)) for p in pairs]

    return images


def fib25(part: str) -> Callable[[Path], list[Image]]:
    """A part of the data that the run which made the model did not train on."""

    def images(folder: Path) -> list[Image]:
        image, label = _training_run("em_boundaries").volumes(folder, part)
        return [Image(open_stack(image, axes="zyx"), label > 0, part)]

    return images


def sections(images: str, labels: str) -> Callable[[Path], list[Image]]:
    """Every other section of a stack; membrane is label 1."""

    def found(folder: Path) -> list[Image]:
        image, label = tifffile.imread(folder / images)[::2], tifffile.imread(folder / labels)[::2]
        return [Image(open_stack(image, axes="zyx"), label == 1, images)]

    return found


def phase(names: tuple[str, ...]) -> Callable[[Path], list[Image]]:
    """Single images."""

    def images(folder: Path) -> list[Image]:
        pairs = [[tifffile.imread(folder / kind / f"set{n}.tif") for kind in ("images", "labels")] for n in names]
        return [Image(open_stack(a, axes="yx"), b > 0, n) for (a, b), n in zip(pairs, names, strict=True)]

    return images


DATA_SETS = {
    "nuclei": DataSet("nuclei_dsb2018", nuclei("test"), "nuclei", "test part of the model's data"),
    "em": DataSet("fib25_medulla", fib25("test"), "em-boundaries", "test part of the model's data"),
    "em-shift": DataSet("vnc_gerhard2013", sections("images.tif", "labels.tif"), "em-boundaries", "other microscope"),
    "phase": DataSet("phase_usiigaci", phase(PHASE[0]), 0, "trained on other images of the set"),
    "phase-shift": DataSet("phase_usiigaci", phase(PHASE[0]), "nuclei", "never trained on phase contrast"),
    "nuclei-2": DataSet("nuclei_dsb2018", nuclei("validation"), "nuclei", "validation part of the model's data"),
    "em-2": DataSet("fib25_medulla", fib25("validation"), "em-boundaries", "validation part of the model's data"),
    "em-shift-2": DataSet(
        "em_isbi2012", sections("train_images.tif", "train_labels.tif"), "em-boundaries", "other microscope"
    ),
    "phase-2": DataSet("phase_usiigaci", phase(PHASE[1]), 1, "trained on other images of the set"),
    "phase-shift-2": DataSet("phase_usiigaci", phase(PHASE[1]), "nuclei", "never trained on phase contrast"),
}


@dataclass(slots=True)
class Regions:
    """All regions of a data set in one order of cutting: doubt by method, wrong voxels, voxels, number of the sample."""

    doubt: dict[str, list[float]] = field(default_factory=lambda: {m: [] for m in METHODS})
    wrong: list[int] = field(default_factory=list)
    voxels: list[int] = field(default_factory=list)
    sample: list[int] = field(default_factory=list)


def main(argv: list[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="folder of the data sets")
    parser.add_argument("--phase-models", type=Path, nargs=2, metavar="FILE", help="models of phase contrast images")
    parser.add_argument("--only", default="", metavar="REGEX", help="data sets whose name holds this")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    say(harness.describe_machine(arguments.threads))
    found: dict[str, Any] = {}
    absent: dict[str, str] = {}
    if arguments.quick:
        found["texture"] = study(_textures(), make_model(standard_spec(quick=True)), (32,), arguments.threads)
        _print("texture", found["texture"])
    elif arguments.data is None:
        parser.error("DATA is missing: the folder in which the data sets lie")
    else:
        for name, data in DATA_SETS.items():
            if not re.search(arguments.only, name):
                continue
            folder = arguments.data / data.folder
            if not folder.is_dir():
                absent[name] = f"no folder {folder}"
            elif isinstance(data.model, int) and not arguments.phase_models:
                absent[name] = "no --phase-models"
            if name in absent:
                say(f"left out: {name}: {absent[name]}")
                continue
            model = load_model(arguments.phase_models[data.model] if isinstance(data.model, int) else data.model, "cpu")
            figures = study(data.images(folder), model, SIZES, arguments.threads)
            found[name] = {"data": data.folder, "model": model.card.name, "about": data.about, **figures}
            _print(name, found[name])
    harness.write("doubt", {"data_sets": found, "absent": absent}, arguments)


def study(images: list[Image], model: Model, sizes: tuple[int, ...], threads: int) -> dict[str, Any]:
    """Figures of a data set: of its labels, and of every method by size of region."""
    backend = prepare(model, "fp32")
    regions = {size: Regions() for size in sizes}
    samples: dict[str, int] = {}
    # Voxels by whole steps of doubt: right ones, wrong ones.
    doubts = {m: np.zeros((2, STEPS + 1), np.int64) for m in METHODS if m != "random"}
    seconds = dict.fromkeys(METHODS, 0.0)
    both = either = wrongs = voxels = 0
    with tempfile.TemporaryDirectory() as scratch:
        for number, image in enumerate(images):
            tiles = plan_tiles(image.stack.shape_predicted, model.spec, tiling_from_card(model.card.tiling))
            store = open_run(Path(scratch) / f"{number}.ome.zarr", image.stack, model, tiles)
            for _ in predict_stack(image.stack, model, tiles, store, backend=backend, threads=threads):
                pass
            label = np.asarray(label_view(store, max(store.levels))) > 0
            wrong = label != image.truth
            both, either = both + int((label & image.truth).sum()), either + int((label | image.truth).sum())
            wrongs, voxels = wrongs + int(wrong.sum()), voxels + wrong.size
            for method, counts in doubts.items():
                steps = np.rint(np.asarray(doubt_view(store, method)) * np.float32(STEPS)).astype(np.int64)
                for row, mask in zip(counts, (~wrong, wrong), strict=True):
                    row += np.bincount(steps[mask], minlength=STEPS + 1)
            for size in sizes:
                ranked = {}
                for method in METHODS:
                    before = time.perf_counter()
                    ranked[method] = _run(rank_doubt(store, method=method, size=size, limit=wrong.size, seed=number))
                    seconds[method] += time.perf_counter() - before
                _collect(regions[size], ranked, wrong, image.group, samples)
            say(f"  {number + 1}/{len(images)}  {image.stack.name or 'stack'}: {100 * wrong.mean():.2f} % wrong")
    return {
        "images": len(images),
        "samples": len(samples),
        "voxels": voxels,
        "iou": both / max(1, either),
        "wrong": wrongs / voxels,
        "auroc": {method: auroc(*counts) for method, counts in doubts.items()},
        "seconds_per_megavoxel": {m: 1e6 * s / (voxels * len(sizes)) for m, s in seconds.items()},
        "sizes": {str(size): {"regions": len(r.wrong), **figures(r)} for size, r in regions.items()},
    }


def figures(regions: Regions) -> dict[str, Any]:
    """Found errors and area of the oracle and of every method, with ranges, and how much a method beats uncertainty by."""
    wrong, voxels = np.array(regions.wrong, float), np.array(regions.voxels, float)
    sample = np.array(regions.sample)
    count = sample.max() + 1
    draws = np.random.default_rng(0).multinomial(count, [1 / count] * count, SAMPLES)
    weights = [np.ones(count), *draws]
    orders = {m: np.argsort(-np.array(doubt), kind="stable") for m, doubt in regions.doubt.items()}
    orders["oracle"] = np.argsort(-wrong / voxels, kind="stable")
    values: dict[str, np.ndarray] = {}  # (samples, area and share found at each of INSPECTED)
    for method, order in orders.items():
        rows = [curve(wrong[order] * w[sample[order]], voxels[order] * w[sample[order]]) for w in weights]
        values[method] = np.array([[area(x, y), *np.interp(INSPECTED, x, y)] for x, y in rows])
    best = values["oracle"][:, 0] - 0.5
    for method in METHODS:
        values[method][:, 0] = (values[method][:, 0] - 0.5) / np.where(best > 0, best, np.nan)
    values["oracle"][:, 0] = 1
    result = {}
    for method, table in values.items():
        result[method] = {
            "area": _spread(table[:, 0]),
            "found": {f"{share:.0%}": _spread(table[:, k + 1]) for k, share in enumerate(INSPECTED)},
            "area_above_uncertainty": _spread(table[:, 0] - values["uncertainty"][:, 0]),
        }
    return {"methods": result}


def curve(wrong: np.ndarray, voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares inspected and found after each region, from (0, 0) to (1, 1)."""
    x, y = (np.concatenate([[0.0], np.cumsum(a)]) / max(1.0, a.sum()) for a in (voxels, wrong))
    return x, y


def area(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def auroc(right: np.ndarray, wrong: np.ndarray) -> float | None:
    """Chance that a wrong voxel has more doubt than a right one (a tie is half), from their counts by steps of doubt.

    >>> auroc(np.array([3, 1]), np.array([1, 3]))
    0.75
    """
    pairs = int(right.sum()) * int(wrong.sum())
    below = np.cumsum(right) - right
    return float((wrong * (below + right / 2)).sum() / pairs) if pairs else None


def _collect(
    regions: Regions, ranked: dict[str, tuple[Doubt, ...]], wrong: np.ndarray, group: str, samples: dict[str, int]
) -> None:
    """Add the regions of one image."""
    by_box = {method: {d.box: d.score for d in found} for method, found in ranked.items()}
    # Ranking one order of them by all, so that no method gains by how ties fall.
    for box in sorted(by_box["random"], key=lambda b: b.start):
        for method, scores in by_box.items():
            regions.doubt[method].append(scores[box])
        regions.wrong.append(int(wrong[box.slices].sum()))
        regions.voxels.append(box.size)
        name = f"{group} {box.start[:-2]}"
        regions.sample.append(samples.setdefault(name, len(samples)))


def _run(ranking: Generator[int, None, tuple[Doubt, ...]]) -> tuple[Doubt, ...]:
    while True:
        try:
            next(ranking)
        except StopIteration as end:
            found: tuple[Doubt, ...] = end.value
            return found


def _spread(values: np.ndarray) -> dict[str, float]:
    """The first value, and the range of 95 % of the rest, which are of samples."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def _training_run(name: str) -> Any:
    """A script of `training_runs`, which knows what was held out."""
    sys.path.insert(0, str(TRAINING_RUNS))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(TRAINING_RUNS))


def _textures() -> list[Image]:
    images = [texture((96, 128)), texture((96, 128)).T]
    return [Image(open_stack(a, axes="yx"), a > np.median(a), str(k)) for k, a in enumerate(images)]


def _print(name: str, found: dict[str, Any]) -> None:
    say(f"\n{name}: {found['images']} images, IoU {found['iou']:.3f}, {100 * found['wrong']:.2f} % of voxels wrong")
    for size, entry in found["sizes"].items():
        rows = []
        for method, e in entry["methods"].items():
            span, more = e["area"], e["area_above_uncertainty"]
            rows.append(
                (
                    method,
                    f"{span['value']:.3f}",
                    f"{span['low']:.2f}..{span['high']:.2f}",
                    f"{more['value']:+.3f} ({more['low']:+.2f}..{more['high']:+.2f})",
                    *(f"{100 * f['value']:.0f}" for f in e["found"].values()),
                    "-" if (a := found["auroc"].get(method)) is None else f"{a:.3f}",
                    "-" if method == "oracle" else f"{found['seconds_per_megavoxel'][method]:.3f}",
                )
            )
        shares = [f"{s:.0%}" for s in INSPECTED]
        header = (f"size {size}", "area", "range", "above uncertainty", *shares, "AUROC", "s/Mvox")
        say(f"{entry['regions']} regions\n" + harness.table(rows, header) + "\n")


if __name__ == "__main__":
    main()
