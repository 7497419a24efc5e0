"""Scores a trained model on the images nothing was chosen by, and writes it as it ships: half precision, scores on its card.

    python training_runs/finish.py nuclei|em-boundaries DATA TRAINED.safetensors [OUT.safetensors]
                                   [--tiling overlap|gaussian|seamless] [--split test|validation]

Without --tiling the card's own is used. Prints one JSON line per kind of image; with OUT the model is written.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import em_boundaries
import nuclei
import numpy as np
import torch

from napari_unetpp.box import Box
from napari_unetpp.evaluation.levels import LevelScore, score_levels
from napari_unetpp.inference.predict import measure_stack, predict_tiles
from napari_unetpp.inference.tiles import plan_tiles
from napari_unetpp.inference.tiling import Overlap, Seamless, Tiling, tiling_from_card
from napari_unetpp.model.checkpoint import Model, load_model, save_model
from napari_unetpp.stacks import Stack
from napari_unetpp.training.pairs import Pair

TILINGS: dict[str, Tiling] = {"overlap": Overlap(), "gaussian": Overlap(aggregate="gaussian"), "seamless": Seamless()}


def predict(stack: Stack, model: Model, tiling: Tiling) -> dict[str, np.ndarray]:
    """Probabilities (class, ...) uint8 of all levels, as a store would hold them."""
    shape = stack.shape_predicted
    levels = {d: np.zeros((model.spec.classes, *shape), np.uint8) for d in model.spec.heads}
    tiles = plan_tiles(shape, model.spec, tiling)
    for tile, heads in predict_tiles(stack, model, tiles, measure_stack(stack, model)):
        for level, probability in heads.items():
            levels[level][(slice(None), *tile.inner.slices)] = np.rint(probability * 255)
    return {f"L{d}": array for d, array in levels.items()}


def score(pairs: Sequence[Pair], model: Model, tiling: Tiling) -> dict[str, dict[str, float]]:
    """Scores per level, pooled over all voxels of all pairs, and the mean IoU per image beside them."""
    rows: list[list[LevelScore]] = []
    for pair in pairs:
        label = pair.label.read(Box.of(pair.label.shape_predicted))[0]
        rows.append(score_levels(predict(pair.image, model, tiling), label))
    result = {}
    for column in zip(*rows, strict=True):
        total = column[0]
        for one in column[1:]:
            total = LevelScore(
                total.level,
                total.confusion + one.confusion,
                tuple(a + b for a, b in zip(total.paper, one.paper, strict=True)),
                total.boundary + one.boundary,
                total.near + one.near,
            )
        known = total.as_dict()
        kept = {
            k: round(known[k], 4)
            for k in ("iou", "dice", "f2", "sensitivity", "specificity", "paper_mean_iou", "tolerant_f1")
        }
        result[total.level] = kept | {"mean_iou_per_image": round(float(np.mean([r.confusion.iou for r in column])), 4)}
    return result


def held_out(name: str, data: Path, split: str) -> dict[str, list[Pair]]:
    """Pairs of one split by the kind of image."""
    if name == "em-boundaries":
        return {split: em_boundaries.pairs(data, split)}
    pairs = nuclei.pairs_by_split(data)[split]
    return {
        f"{split}, fluorescence": [p for p in pairs if p.image.channel_axis is None],
        f"{split}, H&E": [p for p in pairs if p.image.channel_axis is not None],
    }


def images(name: str, data: Path) -> dict[str, list[str]]:
    """Names of the images that a run trained on and chose its best epoch by."""
    if name == "em-boundaries":
        splits = {s: em_boundaries.pairs(data, s, 3 if s == "training" else 1) for s in ("training", "validation")}
    else:
        splits = nuclei.pairs_by_split(data)
    return {split: [pair.image.name for pair in splits[split]] for split in ("training", "validation")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=["nuclei", "em-boundaries"])
    parser.add_argument("data", type=Path)
    parser.add_argument("trained", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--tiling", choices=list(TILINGS))
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    arguments = parser.parse_args()
    model = load_model(arguments.trained)
    # What people read is the script's of today; what was measured and advised is the run's.
    words = {"em-boundaries": em_boundaries, "nuclei": nuclei}[arguments.name].CARD
    measured = {k: getattr(model.card, k) for k in ("training", "scores", "recommended_level", "spacing_um")}
    measured["training"] = {**model.card.training, **images(arguments.name, arguments.data)}
    model = replace(model, card=replace(words, **measured))
    # Judged as it will be stored: half precision rounds the kernels.
    if arguments.out is not None:
        model = load_model(save_model(model, arguments.out, torch.float16))
    tiling = TILINGS[arguments.tiling] if arguments.tiling else tiling_from_card(model.card.tiling)
    scores = dict(model.card.scores)
    for kind, pairs in held_out(arguments.name, arguments.data, arguments.split).items():
        scores[kind] = score(pairs, model, tiling)
        print(
            json.dumps(
                {
                    "model": arguments.name,
                    "kind": kind,
                    "images": len(pairs),
                    "tiling": tiling.describe(),
                    "scores": scores[kind],
                }
            )
        )
    if arguments.out is not None:
        save_model(replace(model, card=replace(model.card, scores=scores)), arguments.out, torch.float16)
        print(arguments.out, f"{arguments.out.stat().st_size / 1e6:.1f} MB")
