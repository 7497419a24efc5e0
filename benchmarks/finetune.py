"""Membranes of another species and microscope from few annotated slices: fine-tuned, scribbled, from scratch.

    python -m benchmarks.finetune DATA/vnc_gerhard2013

`em-boundaries` learnt the boundaries of isotropic FIB-SEM of one fly's medulla. DATA holds anisotropic ssTEM of another fly's
nerve cord (label 1: membrane). Slices 0 to 7 are there to be annotated, 10 to 13 are scored; nothing was chosen by them. Each
run sees 1, 2, 4 or 8 slices, whole or with 5 % of their pixels painted in strokes, and takes as many steps as any other. Runs
that the results already hold are left out, so a stopped benchmark goes on.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks import _harness
from napari_unetpp.box import Box
from napari_unetpp.evaluation.scores import Confusion, confusion
from napari_unetpp.inference.region import predict_region
from napari_unetpp.model.checkpoint import Model, load_model
from napari_unetpp.model.sampling import scale_stack
from napari_unetpp.stacks import Stack, open_stack
from napari_unetpp.training.options import TrainOptions
from napari_unetpp.training.pairs import Pair
from napari_unetpp.training.train import train

POOL, SCORED = range(8), range(10, 14)
MEMBRANE = 1
PAINTED = 0.05  # share of a slice that the strokes cover
BRUSH = 4  # pixels, half its width
OPTIONS = TrainOptions(epochs=5, steps=20, batch=8, learning_rate=1e-3, schedule="cosine", device="cpu")


def strokes(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Labels (y, x) as painted with a round brush along random walks: 0 not annotated, 1 background, 2 membrane."""
    height, width = labels.shape
    y, x = np.mgrid[-BRUSH : BRUSH + 1, -BRUSH : BRUSH + 1]
    dy, dx = (offset[y**2 + x**2 <= BRUSH**2] for offset in (y, x))
    painted = np.zeros(labels.shape, bool)
    while painted.mean() < share:
        place, angle = rng.uniform((0, 0), (height, width)), rng.uniform(0, 2 * np.pi)
        for _ in range(rng.integers(20, 60)):
            angle += rng.normal(0, 0.3)
            place = place + 3 * np.array([np.sin(angle), np.cos(angle)])
            rows, columns = (np.rint(p) for p in (place[0] + dy, place[1] + dx))
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            painted[rows[inside].astype(int), columns[inside].astype(int)] = True
    return np.where(painted, labels + 1, 0).astype(np.uint8)


def pair_of(image: Stack, labels: np.ndarray, slices: list[int], share: float, rng: np.random.Generator) -> Pair:
    """What an annotator would hand over: whole slices marked as reviewed, or strokes on them."""
    if share == 1:
        boxes = tuple(Box((z, 0, 0), (z + 1, *labels.shape[1:])) for z in slices)
        return Pair(image, open_stack(labels, axes="zyx"), reviewed=boxes)
    painted = np.zeros_like(labels)
    for z in slices:
        painted[z] = strokes(labels[z], share, rng)
    return Pair(image, open_stack(painted, axes="zyx"), unpainted="ignore")


def scores(model: Model, image: Stack, labels: np.ndarray) -> dict[str, float]:
    """Membrane IoU of each level and of their mean over all scored slices together."""
    scaling = scale_stack(image, model.intensity, model.spec.in_channels)
    total: dict[str, Confusion] = {}
    for z in SCORED:
        raw = image.read(Box((z, 0, 0), (z + 1, *labels.shape[1:])))[:, 0]
        heads = [head[0] for head in predict_region(raw, model, scaling=scaling)]
        named = {f"L{d}": head for d, head in zip(model.spec.heads, heads, strict=True)}
        for name, head in {**named, "ensemble": np.mean(heads, axis=0)}.items():
            counts = confusion(head >= 0.5, labels[z])
            total[name] = total[name] + counts if name in total else counts
    return {name: counts.iou for name, counts in total.items()}


def threshold_score(image: Stack, labels: np.ndarray, slices: list[int]) -> float:
    """IoU of the darkest voxels, the threshold being the best one on the annotated slices."""
    data = np.asarray(image.data)
    known, truth = data[slices], labels[slices] > 0
    best = max(range(256), key=lambda t: confusion(known <= t, truth).iou)
    return confusion(data[list(SCORED)] <= best, labels[list(SCORED)] > 0).iou


def run(image: Stack, labels: np.ndarray, start: str, share: float, count: int, seed: int) -> dict[str, object]:
    """One training and its scores on slices that it has not seen."""
    rng = np.random.default_rng(seed)
    slices = sorted(int(z) for z in rng.permutation(list(POOL))[:count])
    pair = pair_of(image, labels, slices, share, rng)
    base = load_model("em-boundaries", "cpu")
    options = TrainOptions(**{**OPTIONS.to_json(), "seed": seed})
    wall, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.safetensors"
        first = base if start == "fine-tuned" else base.spec
        for _ in train(first, [pair], options, out, intensity=base.intensity):
            pass
        seconds = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        tuned = load_model(out, "cpu")
        return {
            "start": start,
            "share": share,
            "slices": slices,
            "count": count,
            "seed": seed,
            "threshold": threshold_score(image, labels, slices),
            "iou": scores(tuned, image, labels),
            **seconds,
        }


def table(runs: list[dict], unadapted: dict[str, float], level: str) -> str:
    """Mean and spread over the seeds of one level's IoU, a row for each kind of run."""
    counts = sorted({entry["count"] for entry in runs})
    lines = [
        f"| membrane IoU, {level} | " + " | ".join(f"{n} slice{'s' if n > 1 else ''}" for n in counts) + " |",
        "|---|" + "---|" * len(counts),
        "| unadapted | " + " | ".join(f"{unadapted[level]:.3f}" for _ in counts) + " |",
    ]
    cells = [[e["threshold"] for e in runs if e["count"] == n] for n in counts]
    lines.append("| threshold | " + " | ".join(f"{statistics.mean(cell):.3f}" for cell in cells) + " |")
    for start in ("fine-tuned", "from scratch"):
        for share in sorted({entry["share"] for entry in runs}, reverse=True):
            cells = [
                [e["iou"][level] for e in runs if (e["start"], e["share"], e["count"]) == (start, share, n)]
                for n in counts
            ]
            shown = [f"{statistics.mean(c):.3f} ({min(c):.3f} to {max(c):.3f})" if c else "" for c in cells]
            lines.append(f"| {start}, {share:.0%} painted | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = _harness.parser(__doc__)
    parser.add_argument("data", type=Path, help="folder with images.tif and labels.tif")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    image = open_stack(given.data / "images.tif")
    labels = (np.asarray(open_stack(given.data / "labels.tif").data) == MEMBRANE).astype(np.uint8)
    path = given.out / "finetune-vnc.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept.setdefault("date", time.strftime("%Y-%m-%d"))
    kept.setdefault("options", OPTIONS.to_json())
    kept.setdefault("unadapted", scores(load_model("em-boundaries", "cpu"), image, labels))
    runs = kept.setdefault("runs", [])
    for seed in given.seeds:
        for count in given.counts:
            for start in ("fine-tuned", "from scratch"):
                for share in (1, PAINTED):
                    key = (start, share, count, seed)
                    if any((e["start"], e["share"], e["count"], e["seed"]) == key for e in runs):
                        continue
                    runs.append(run(image, labels, *key))
                    path.write_text(json.dumps(kept, indent=1) + "\n")
                    print(json.dumps(runs[-1]), flush=True)
    for level in ("L3", "L4", "ensemble"):
        print("\n" + table(runs, kept["unadapted"], level))
    spent = [entry["cpu_s"] for entry in runs]
    print(f"\nprocessor seconds a run: {min(spent):.0f} to {max(spent):.0f}")


if __name__ == "__main__":
    main()
