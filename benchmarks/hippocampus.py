"""V-Net, VNet+ and VNet++ on volumes they have not seen: Dice of two classes, every level, after equal training.

    python -m benchmarks.hippocampus

The volumes are those of the Medical Segmentation Decathlon's hippocampus task (MRI, 1 mm isotropic, labels 1 anterior and 2
posterior), looked for where `benchmarks.accuracy` looks. Every fifth is scored and seen by no training, every tenth chooses the
epoch, the rest is trained on. All networks see the same patches in the same order, and as many. Their nodes are 3x3x3
convolution, BatchNorm, ReLU, twice; the papers' have no BatchNorm. Runs that the results already hold are left out, so a stopped
benchmark goes on.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import _harness
from benchmarks.accuracy import data_folder
from napari_unetpp.evaluation.scores import confusion
from napari_unetpp.inference.predict import predict_array
from napari_unetpp.inference.tiling import Overlap, Seamless, Tiling
from napari_unetpp.model.card import Card, ClassInfo
from napari_unetpp.model.checkpoint import load_model
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.stacks import open_stack
from napari_unetpp.training.options import TrainOptions
from napari_unetpp.training.pairs import Pair
from napari_unetpp.training.plan import make_plan
from napari_unetpp.training.train import train_plan

NETWORKS = ("v-net", "vnet+", "vnet++")
CLASSES = ("anterior", "posterior")
COLORS = ("#e69f00", "#56b4e9")
OPTIONS = TrainOptions(
    epochs=12,
    steps=40,
    patience=12,
    batch=4,
    patch=32,
    learning_rate=2e-3,
    schedule="cosine",
    augmentation="anatomy",
    device="cpu",
)
TILINGS: dict[str, Tiling] = {"overlap": Overlap(patch=32, stride=16), "seamless": Seamless()}


def pairs_in(folder: Path) -> dict[str, list[Pair]]:
    """The volumes of each part: the same for every run, whatever its seed."""
    found: dict[str, list[Pair]] = {"training": [], "validation": [], "scored": []}
    for number, path in enumerate(sorted((folder / "images").glob("*.tif"))):
        part = "scored" if number % 5 == 4 else "validation" if number % 10 == 2 else "training"
        image, label = (open_stack(folder / kind / path.name, spacing_um=(1e3,) * 3) for kind in ("images", "labels"))
        found[part].append(Pair(image, label))
    return found


def network(name: str, width: int, depth: int) -> NetworkSpec:
    """The papers' network of that name for one channel and three classes, BatchNorm added."""
    spec = NetworkSpec.preset(name, 3, 1, 1 + len(CLASSES)).with_depth(depth).with_width(width)
    return replace(spec, block="conv-bn-relu", conv_bias=False)


def scores(model: Any, pairs: list[Pair], tiling: Tiling) -> dict[str, dict[str, list[float]]]:
    """Dice of each volume, for every head and their ensemble: {level: {class: [...]}}."""
    found: dict[str, dict[str, list[float]]] = {}
    for pair in pairs:
        heads = predict_array(pair.image, model, tiling=tiling)
        named = {f"L{d}": head for d, head in heads.items()}
        if len(heads) > 1:
            named["ensemble"] = np.mean(list(heads.values()), axis=0)
        truth = pair.label.read(pair.whole)[0]
        for level, probability in named.items():
            labels = probability.argmax(0)
            for k, name in enumerate(CLASSES, 1):
                dice = confusion(labels, truth, foreground=k).dice
                found.setdefault(level, {}).setdefault(name, []).append(dice)
    return found


def run(
    name: str, seed: int, width: int, depth: int, options: TrainOptions, data: dict[str, list[Pair]]
) -> dict[str, Any]:
    """One training and its scores."""
    spec = network(name, width, depth)
    classes = (ClassInfo("background", "#000000"), *map(ClassInfo, CLASSES, COLORS))
    card = Card(name, classes=classes, recommended_level=depth)
    options = replace(options, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.safetensors"
        wall, cpu = time.perf_counter(), time.process_time()
        plan = make_plan(spec, data["training"], options, validation=data["validation"], card=card)
        epochs = [event for event in train_plan(plan, out) if hasattr(event, "scores")]
        trained = time.perf_counter() - wall, time.process_time() - cpu
        model = load_model(out, "cpu")
        cpu = time.process_time()
        dice = {kind: scores(model, data["scored"], tiling) for kind, tiling in TILINGS.items()}
    return {
        "network": name,
        "seed": seed,
        "width": width,
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "best_epoch": model.card.training["epoch"],
        "validation": [epoch.scores for epoch in epochs],
        "loss": [epoch.loss for epoch in epochs],
        "dice": dice,
        "trained_wall_s": trained[0],
        "trained_cpu_s": trained[1],
        "scored_cpu_s": time.process_time() - cpu,
    }


def table(runs: list[dict[str, Any]], tiling: str) -> str:
    """Mean Dice over volumes and seeds of each network and level, the range of the seeds' means behind it."""
    lines = ["| network | level | anterior | posterior | mean | parameters |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(entry["network"] for entry in runs):
        mine = [entry for entry in runs if entry["network"] == name]
        for level in mine[0]["dice"][tiling]:
            each = [[statistics.mean(e["dice"][tiling][level][c]) for c in CLASSES] for e in mine]
            means = [statistics.mean(values) for values in each]
            cells = [f"{statistics.mean(values):.3f}" for values in zip(*each, strict=True)]
            cells.append(f"{statistics.mean(means):.3f} ({min(means):.3f} to {max(means):.3f})")
            lines.append(f"| {name} | {level} | {' | '.join(cells)} | {mine[0]['parameters'] / 1e6:.2f} M |")
    return "\n".join(lines)


def main() -> None:
    parser = _harness.parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder with images and labels [hippocampus_msd where data sets lie]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--width", type=int, default=8, help="channels of the first row [8]")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    folder = given.data or data_folder() / "hippocampus_msd"
    data = pairs_in(folder)
    if not all(data.values()):
        raise SystemExit(f"{folder} holds too few volumes; give a folder with images/ and labels/, --data FOLDER")
    options, depth, seeds = OPTIONS, 4, given.seeds
    if given.quick:
        options, depth, seeds = replace(OPTIONS, epochs=1, steps=1, batch=1, patch=16), 2, [0]
        data = {part: pairs[:1] for part, pairs in data.items()}
        given.width = 2
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"hippocampus{'-quick' if given.quick else ''}.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    settings = {
        "options": options.to_json(),
        "depth": depth,
        "volumes": {part: [pair.image.name for pair in pairs] for part, pairs in data.items()},
    }
    for key, value in settings.items():
        if kept.setdefault(key, value) != value:
            raise SystemExit(f"{path} holds runs with other {key}; name another folder with --out")
    kept.setdefault("benchmark", "hippocampus")
    kept.setdefault("quick", given.quick)
    kept.setdefault("date", time.strftime("%Y-%m-%d"))
    kept.setdefault("machine", _harness.machine())
    runs = kept.setdefault("runs", [])
    for seed in seeds:
        for name in given.networks:
            if any((e["network"], e["seed"], e["width"]) == (name, seed, given.width) for e in runs):
                continue
            runs.append(run(name, seed, given.width, depth, options, data))
            path.with_suffix(".part").write_text(json.dumps(kept, indent=1) + "\n")
            os.replace(path.with_suffix(".part"), path)
            _harness.say(json.dumps({k: v for k, v in runs[-1].items() if k not in ("dice", "validation", "loss")}))
            _harness.say(table(runs[-1:], "overlap"))
    mine = [entry for entry in runs if entry["width"] == given.width]
    for tiling in TILINGS:
        _harness.say(f"\n{tiling}\n{table(mine, tiling)}")
    spent = [
        f"{name} {statistics.mean(e['trained_cpu_s'] for e in mine if e['network'] == name):.0f}"
        for name in given.networks
    ]
    _harness.say(f"\nprocessor seconds a training: {', '.join(spent)}")


if __name__ == "__main__":
    main()
