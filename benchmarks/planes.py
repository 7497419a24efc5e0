"""A 2D model along z alone against the mean of planes along z, y and x: agreement with labels, and what it costs.

    python -m benchmarks.planes DATA

DATA holds the folder `fib25_medulla`: isotropic FIB-SEM, 170 slices, of which `em-boundaries` was trained on the first 136 (along
all three axes). Scores are of the 16 slices of its test part. The stack is either *whole*, so that planes across y and x
reach from the test part into voxels that the model has seen in training, or *unseen*: the 33 slices behind those, where
little of z is left for them. Thresholds are 0.5 and, since a mean is less sure of itself, the best on the 10 validation slices.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from benchmarks import _harness as harness
from benchmarks._harness import say
from napari_unetpp.box import Box
from napari_unetpp.evaluation.scores import confusion
from napari_unetpp.inference.backends import prepare
from napari_unetpp.inference.fitting import fitting_tiles
from napari_unetpp.inference.planes import plan_planes
from napari_unetpp.inference.planes_run import predict_planes
from napari_unetpp.inference.predict import open_run, predict_region, predict_stack
from napari_unetpp.inference.tiling import tiling_from_card
from napari_unetpp.model.checkpoint import load_model
from napari_unetpp.stacks import open_stack

VALIDATION, TEST = slice(140, 150), slice(154, 170)  # as training_runs/em_boundaries.py cuts it
STACKS = {"whole": 0, "unseen": 137}  # first slice
THRESHOLDS = range(64, 193, 8)  # of 255


def main(argv: list[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--tiling", choices=("seamless", "overlap"), default="seamless")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    folder = arguments.data / "fib25_medulla"
    image, label = (tifffile.imread(folder / f"{name}.tif") for name in ("images", "derived_boundary"))
    if arguments.quick:
        image, label = image[:, :48, :48], label[:, :48, :48]
    found = {}
    for name, first in STACKS.items():
        say(f"\n{name}: slices {first} to {len(image)}")
        found[name] = compare(image[first:], label[first:] > 0, first, arguments)
    harness.write("planes", {"tiling": arguments.tiling, "stacks": found}, arguments)


def compare(image: np.ndarray, label: np.ndarray, first: int, arguments: Any) -> dict[str, Any]:
    """Scores of every level, and seconds, along z and along z, y and x."""
    model = load_model("em-boundaries", "cpu")
    if arguments.tiling == "overlap":
        model = replace(model, card=replace(model.card, tiling={"kind": "overlap", "patch": 96, "stride": 48}))
    stack = open_stack(image, axes="zyx", spacing_um=(0.01, 0.01, 0.01))
    backend, tiling = prepare(model, "fp32"), tiling_from_card(model.card.tiling)
    planes = plan_planes(stack, backend, tiling)
    tiles = fitting_tiles(stack.shape_predicted, backend, tiling)
    predict_region(image[None, 0], model, backend=backend)  # what is made once is made now
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        stores = {
            "z": open_run(Path(scratch) / "z", stack, model, tiles),
            "z, y, x": open_run(Path(scratch) / "zyx", stack, model, planes.tiles, planes=planes.describe()),
        }
        for name, store in stores.items():
            began = time.perf_counter(), time.process_time()
            threads = arguments.threads
            if name == "z":
                run: Any = predict_stack(stack, model, tiles, store, backend=backend, threads=threads)
            else:
                run = predict_planes(stack, model, planes, store, backend=backend, threads=threads)
            for _ in run:
                pass
            seconds, cpu_seconds = time.perf_counter() - began[0], time.process_time() - began[1]
            parts = [slice(part.start - first, part.stop - first) for part in (VALIDATION, TEST)]
            levels = {f"L{d}": scores(store, d, label, *parts) for d in store.levels}
            figures[name] = {"seconds": seconds, "cpu_seconds": cpu_seconds, "levels": levels}
    # By seconds of the processors: those on the wall tell what else the machine was doing.
    figures["cost"] = figures["z, y, x"]["cpu_seconds"] / figures["z"]["cpu_seconds"]
    rows = [
        (level, name, *(f"{of[level][k]:.4f}" for k in ("iou", "dice", "tuned_iou", "tuned_dice")), of[level]["tuned"])
        for level in figures["z"]["levels"]
        for name in stores
        for of in [figures[name]["levels"]]
    ]
    say(harness.table(rows, ("level", "along", "IoU", "Dice", "tuned IoU", "tuned Dice", "threshold")))
    both = (figures[name] for name in stores)
    spent = " and ".join(f"{of['cpu_seconds']:.0f} ({of['seconds']:.0f} on the wall)" for of in both)
    say(f"seconds of the processors: {spent}, {figures['cost']:.2f} times")
    return figures


def scores(store: Any, level: int, label: np.ndarray, validation: slice, test: slice) -> dict[str, float]:
    """IoU and Dice of the test slices at 0.5, and at the threshold of the highest Dice on the validation slices."""
    probability = store.read(level, Box.of(store.shape))[0]

    def at(threshold: int, part: slice) -> Any:
        return confusion((probability[part] >= threshold).astype(np.uint8), label[part].astype(np.uint8))

    tuned = max(THRESHOLDS, key=lambda threshold: at(threshold, validation).dice)
    plain, best = at(128, test), at(tuned, test)
    return {
        "iou": plain.iou,
        "dice": plain.dice,
        "tuned": tuned / 255,
        "tuned_iou": best.iou,
        "tuned_dice": best.dice,
        "sensitivity": plain.sensitivity,
        "specificity": plain.specificity,
    }


if __name__ == "__main__":
    main()
