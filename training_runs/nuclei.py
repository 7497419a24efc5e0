"""Trains the bundled model `nuclei` on the Data Science Bowl 2018 images (BBBC038, CC0).

    python training_runs/nuclei.py DATA FIRST.safetensors
    python training_runs/nuclei.py DATA OUT.safetensors --base FIRST.safetensors

The second run goes on from the best weights of the first at half the rate, with rare kinds of images drawn more often.

DATA holds `<kind>_images.tif`, `<kind>_labels.tif` and `index.json`, which gives every page its group (crops of one
larger picture). Groups are held out whole: about a tenth for validation, a tenth for the scores on the card, which
nothing was chosen by.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path

import tifffile
from common import run

from napari_unetpp.model.card import Card, ClassInfo
from napari_unetpp.model.checkpoint import Model, load_model
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.stacks import open_stack
from napari_unetpp.training.options import TrainOptions
from napari_unetpp.training.pairs import Pair

INTENSITY = Intensity(kind="percentile", low=1.0, high=99.8, per_channel=False, replicate_gray=True, over="robust")
CARD = Card(
    name="nuclei",
    classes=(ClassInfo("nucleus"),),
    description="Nuclei in 2D: fluorescence (bright on dark, one channel) and H&E stained tissue (RGB).",
    data="Data Science Bowl 2018, stage 1 train with fixes (BBBC038): 320 fluorescence, 26 H&E images; instances made binary.",
    licence="CC0-1.0",
    credit="Images: Carpenter lab, Broad Institute of Harvard and MIT (Caicedo et al. 2019, doi 10.1038/s41592-019-0612-7).",
    tiling={"kind": "seamless"},
)
OPTIONS = TrainOptions(
    epochs=22,
    steps=125,
    patience=22,
    batch=8,
    learning_rate=1e-3,
    schedule="cosine",
    augmentation="light",
    validation_voxels=2**20,
)

CONTINUED = replace(OPTIONS, epochs=12, patience=12, learning_rate=5e-4, seed=1)
RARE = {"fluo_603x1272": 2, "fluo_512x640": 2, "fluo_260x347": 3, "fluo_256x320": 3, "he_rgb_256x320": 2}


def pairs_by_split(data: Path, seed: int = 0) -> dict[str, list[Pair]]:
    """Pairs of training, validation and test; every kind of image is in each that has groups enough."""
    index = json.loads((data / "index.json").read_text())
    splits: dict[str, list[Pair]] = {"training": [], "validation": [], "test": []}
    for kind in sorted(index):
        images, labels = tifffile.imread(data / f"{kind}_images.tif"), tifffile.imread(data / f"{kind}_labels.tif")
        groups = sorted({page["group"] for page in index[kind]})
        random.Random(seed).shuffle(groups)
        tenth = max(1, round(len(groups) / 10))
        place = {
            g: ("test" if k < tenth else "validation" if k < 2 * tenth else "training")
            if len(groups) > 2
            else "training"
            for k, g in enumerate(groups)
        }
        for page in index[kind]:
            image, label = images[page["page"]], labels[page["page"]]
            axes = "yxc" if image.ndim == 3 else "yx"
            stack = replace(open_stack(image, axes=axes), name=f"{kind} page {page['page']}")
            pair = Pair(stack, open_stack(label, axes="yx"), group=f"{kind} {page['group']}")
            splits[place[page["group"]]].append(pair)
    return splits


def emphasised(pairs: list[Pair]) -> list[Pair]:
    """Pairs with those of rare kinds repeated, so that patches are drawn from them more often."""
    return [p for p in pairs for _ in range(RARE.get((p.group or "").split()[0], 1))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--base", type=Path)
    arguments = parser.parse_args()
    splits = pairs_by_split(arguments.data)
    network: NetworkSpec | Model = NetworkSpec.preset("default", in_channels=3).with_width(16)
    training, options, log = splits["training"], OPTIONS, "nuclei"
    if arguments.base:
        network, training, options, log = (
            load_model(arguments.base),
            emphasised(training),
            CONTINUED,
            "nuclei-continued",
        )
    run(network, training, splits["validation"], options, arguments.out, intensity=INTENSITY, card=CARD, log=log)
