"""Trains the bundled model `em-boundaries` on the FIB-25 sample (FlyEM, CC BY).

    python training_runs/em_boundaries.py DATA OUT.safetensors

DATA holds `images.tif` and `derived_boundary.tif` (z, y, x). Slices 0..135 train, 140..149 validate, 154..169 give
the scores on the card; four slices between are used by nobody. The voxels are isotropic, so the training part is also
cut along y and along x.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from common import run

from napari_unetpp.model.card import Card, ClassInfo
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.stacks import open_stack
from napari_unetpp.training.options import TrainOptions
from napari_unetpp.training.pairs import Pair

SPLIT = {"training": slice(0, 136), "validation": slice(140, 150), "test": slice(154, 170)}
INTENSITY = Intensity(kind="percentile", low=0.5, high=99.5, over="robust")
CARD = Card(
    name="em-boundaries",
    classes=(ClassInfo("boundary", "#56b4e9"),),
    description="Boundaries between neurons in isotropic electron microscopy (FIB-SEM, about 10 nm), slice by slice.",
    data="FIB-25 sample, Drosophila medulla, training_sample2 (FlyEM); two-voxel boundaries derived from neuron ids.",
    licence="CC BY 2.x",
    credit="FlyEM project, Janelia Research Campus, HHMI. Takemura et al. 2015, PNAS, doi 10.1073/pnas.1509820112. "
    "Changed by us. The weights come under the same terms: keep this credit with them.",
    tiling={"kind": "seamless"},  # on validation as good as 96/48 patches or better, and several times cheaper
    spacing_um=(0.01, 0.01),
)
OPTIONS = TrainOptions(
    epochs=32,
    steps=125,
    patience=32,
    batch=8,
    learning_rate=1e-3,
    schedule="cosine",
    augmentation="em",
    validation_voxels=2**19,
)


def volumes(data: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Image and boundary (z, y, x) of one split."""
    image, label = tifffile.imread(data / "images.tif"), tifffile.imread(data / "derived_boundary.tif")
    return image[SPLIT[split]], label[SPLIT[split]]


def pairs(data: Path, split: str, orientations: int = 1) -> list[Pair]:
    """One pair along z, and with three orientations one along y and one along x as well."""
    image, label = volumes(data, split)
    orders = {"z": (0, 1, 2), "y": (1, 0, 2), "x": (2, 0, 1)}
    found = []
    for along, order in list(orders.items())[:orientations]:
        name = f"images.tif z {SPLIT[split].start}:{SPLIT[split].stop}, planes along {along}"
        stack = replace(open_stack(image.transpose(order), axes="zyx"), name=name)
        found.append(Pair(stack, open_stack(label.transpose(order), axes="zyx"), group="fib25"))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    spec = NetworkSpec.preset("default").with_width(16)
    training = pairs(arguments.data, "training", orientations=3)
    validation = pairs(arguments.data, "validation")
    run(spec, training, validation, OPTIONS, arguments.out, intensity=INTENSITY, card=CARD, log="em-boundaries")
