"""What a precision changes: every mode of ours against fp32 of the same tiling, and both against reference labels.

    python -m benchmarks.accuracy
    python -m benchmarks.accuracy --only 'fib25' --modes 'fast'

Largest and mean difference of the probabilities, share of voxels with the same label (threshold 0.5), and Dice with
the reference, for each of L1..L4. The tilings are compared as well: fp32 of each with fp32 of exact seamless tiling.
`seams` is the short halo around inner boxes of 128, since by default an image of 512 is one tile without any seam.
Dice is there to compare modes; it is no score, since most nuclei were seen in training.

Data sets lie in the folder that NAPARI_UNETPP_DATA (or NAPARI_UNETPP_SHARED, as for the tests) names, or in
../shared/data; one that is absent is left out with a sentence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from benchmarks import _harness as harness
from benchmarks import ours
from benchmarks._harness import say
from napari_unetpp.model.checkpoint import load_model

ROOT = Path(__file__).resolve().parents[1]
Stacks = Iterator[tuple[np.ndarray, np.ndarray | None]]  # image (z, y, x) and reference, true where the class is


@dataclass(frozen=True, slots=True)
class DataSet:
    """Where a data set comes from and which bundled model reads it."""

    folder: str
    model: str
    stacks: Callable[[Path], Stacks]


def em_isbi2012(folder: Path) -> Stacks:
    """The three validation sections; no model of ours was trained on this set."""
    yield tifffile.imread(folder / "val_images.tif"), tifffile.imread(folder / "val_labels.tif") > 0


def fib25(folder: Path) -> Stacks:
    """Slices that give the scores on the card of em-boundaries; agreement alone where the labels are absent."""
    part, labels = slice(154, 170), folder / "derived_boundary.tif"
    image = tifffile.imread(folder / "images.tif")[part]
    yield image, tifffile.imread(labels)[part] > 0 if labels.exists() else None


def nuclei(folder: Path) -> Stacks:
    """Four pages of every kind of fluorescence image."""
    for images in sorted(folder.glob("fluo_*_images.tif")):
        labels = images.with_name(images.name.replace("_images", "_labels"))
        yield tifffile.imread(images)[:4], tifffile.imread(labels)[:4] > 0


DATA_SETS = {
    "em_isbi2012": DataSet("em_isbi2012", "em-boundaries", em_isbi2012),
    "fib25": DataSet("fib25_medulla", "em-boundaries", fib25),
    "nuclei": DataSet("nuclei_dsb2018", "nuclei", nuclei),
}


@dataclass(slots=True)
class Tally:
    """Sums over all voxels of a data set, of one mode at one level."""

    largest: float = 0.0
    difference: float = 0.0
    agreeing: int = 0
    voxels: int = 0
    both: int = 0
    either: int = 0  # voxels of the prediction plus voxels of the reference
    referenced: bool = field(default=False)

    def add(self, found: np.ndarray, compared: np.ndarray, reference: np.ndarray | None) -> None:
        gap, labels = np.abs(found - compared), found >= 0.5
        self.largest = max(self.largest, float(gap.max()))
        self.difference += float(gap.sum(dtype=np.float64))
        self.agreeing += int((labels == (compared >= 0.5)).sum())
        self.voxels += found.size
        if reference is not None:
            self.referenced = True
            self.both += int((labels & reference).sum())
            self.either += int(labels.sum()) + int(reference.sum())

    def figures(self) -> dict[str, float | None]:
        dice = 2 * self.both / self.either if self.referenced and self.either else None
        return {
            "max_deviation": self.largest,
            "mean_deviation": self.difference / self.voxels,
            "label_agreement": self.agreeing / self.voxels,
            "dice": dice,
        }


def main(argv: list[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--only", default="", metavar="REGEX", help="data sets whose name holds this")
    parser.add_argument("--modes", default="", metavar="REGEX", help="modes whose name holds this, as exact-int8")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    found: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for name, data in DATA_SETS.items():
        if not re.search(arguments.only, name):
            continue
        folder = data_folder() / data.folder
        if not folder.is_dir():
            absent[name] = f"no folder {data.folder} in {data_folder()}; NAPARI_UNETPP_DATA names where data sets lie"
            say(f"left out: {name}: {absent[name]}")
            continue
        say(f"\n{name}, model {data.model}")
        found[name] = _one_set(data, folder, arguments)
    harness.write("accuracy", {"data_sets": found, "absent": absent}, arguments)


def data_folder() -> Path:
    """Folder of the data sets."""
    named = os.environ.get("NAPARI_UNETPP_DATA") or os.environ.get("NAPARI_UNETPP_SHARED")
    return Path(named or ROOT.parent / "shared" / "data")


def _one_set(data: DataSet, folder: Path, arguments: Any) -> dict[str, Any]:
    model = load_model(data.model, "cpu")
    every = [*ours.modes(short_levels=False), ours.Mode("seams", "fp32", 4)]
    modes = [m for m in every if re.search(arguments.modes, m.name)]
    tallies: dict[str, dict[int, Tally]] = {}
    refused: dict[str, str] = {}
    voxels = 0
    for image, reference in data.stacks(folder):
        if arguments.quick:
            image, reference = image[:1, :160, :144], None if reference is None else reference[:1, :160, :144]
        voxels += image.size
        probabilities = _all_modes(model, image, modes, arguments.threads, refused)
        for name, levels in probabilities.items():
            tiling, precision = name.split("-")
            pairs = {name: f"{tiling}-fp32"}
            if precision == "fp32" and tiling != "exact":
                pairs[f"{name} against exact"] = "exact-fp32"
            for title, other in pairs.items():
                if other not in probabilities:
                    continue
                sums = tallies.setdefault(title, {level: Tally() for level in levels})
                for level, probability in levels.items():
                    sums[level].add(probability[0], probabilities[other][level][0], reference)
    figures = {name: {f"L{d}": t.figures() for d, t in levels.items()} for name, levels in tallies.items()}
    _print(figures)
    for name, reason in refused.items():
        say(f"left out: {name}: {reason}")
    return {"model": data.model, "voxels": voxels, "modes": figures, "left_out": refused}


def _all_modes(
    model: Any, image: np.ndarray, modes: list[ours.Mode], threads: int, refused: dict[str, str]
) -> dict[str, dict[int, np.ndarray]]:
    """Probabilities of every mode that can be had, fp32 of each tiling among them."""
    wanted = {m.name: m for m in modes}
    for mode in modes:  # what is compared with
        for tiling in (mode.tiling, "exact"):
            wanted.setdefault(f"{tiling}-fp32", ours.Mode(tiling, "fp32", 4))
    found = {}
    for precision in sorted({m.precision for m in wanted.values()}):
        ready = ours.prepared(model, precision, image)
        for name, mode in wanted.items():
            if mode.precision != precision:
                continue
            if ready.backend is None:
                refused[name] = ready.reason
            else:
                found[name] = ours.array_run(model, ready.backend, image, mode, threads)()
    return found


def _print(figures: dict[str, dict[str, dict[str, float | None]]]) -> None:
    rows = []
    for name, levels in figures.items():
        deepest = levels[max(levels)]
        agreement = "/".join(f"{100 * (e['label_agreement'] or 0):.3f}" for e in levels.values())
        dice = "/".join("-" if e["dice"] is None else f"{e['dice']:.4f}" for e in levels.values())
        rows.append((name, f"{deepest['max_deviation']:.1e}", f"{deepest['mean_deviation']:.1e}", agreement, dice))
    say(harness.table(rows, ("mode", "max", "mean (L4)", "same labels % L1/../L4", "Dice L1/../L4")))


if __name__ == "__main__":
    main()
