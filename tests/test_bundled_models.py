"""The two models that ship: small enough, honest cards, and as good as the cards say on images nothing was chosen by."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import tifffile

from napari_unetpp.inference.predict import predict_region
from napari_unetpp.model.checkpoint import load_model, read_header
from napari_unetpp.model.zoo import model_entries

NAMES = ("nuclei", "em-boundaries")


def iou(probability: np.ndarray, truth: np.ndarray) -> float:
    predicted = probability >= 0.5
    return (predicted & truth).sum() / (predicted | truth).sum()


@pytest.mark.parametrize("name", NAMES)
def test_cards_say_what_a_user_must_know(name):
    (entry,) = [e for e in model_entries() if e.name == name and e.origin == "bundled"]
    header = read_header(entry.path)
    card = header.card
    assert entry.path.stat().st_size <= 8e6
    assert header.spec.heads == (1, 2, 3, 4)
    assert card.name == name
    assert all((card.description, card.data, card.licence, card.credit))
    assert card.training["training"]
    assert card.training["validation"]
    assert not set(card.training["training"]) & set(card.training["validation"])
    tests = {kind: scores for kind, scores in card.scores.items() if kind.startswith("test")}
    assert tests
    for scores in (card.scores["validation"], *tests.values()):
        assert {*scores} == {"L1", "L2", "L3", "L4", "ensemble"}
        assert all(0 < s["iou"] < 1 for s in scores.values())
    best = max(card.scores["validation"][f"L{d}"]["iou"] for d in header.spec.heads)
    assert card.scores["validation"][f"L{card.recommended_level}"]["iou"] >= best - 0.005


def test_nuclei_of_another_laboratory_are_found(repository):
    """The sample comes from another data set than the training images; Otsu's threshold is the bar to beat."""
    from skimage.filters import threshold_otsu

    image = tifffile.imread(repository / "sample_data/nuclei.tif")
    truth = tifffile.imread(repository / "sample_data/nuclei_labels.tif") > 0
    levels = [iou(p[0], truth) for p in predict_region(image[None], load_model("nuclei", "cpu"))]
    assert max(levels) > iou(image > threshold_otsu(image), truth)
    assert min(levels[1:]) > 0.75


def test_boundaries_are_found_as_well_as_the_card_says(shared_data):
    data = shared_data / "fib25_medulla"
    model = load_model("em-boundaries", "cpu")
    image = tifffile.imread(data / "images.tif", key=range(154, 170, 5))
    truth = tifffile.imread(data / "derived_boundary.tif", key=range(154, 170, 5)) > 0
    stated = model.card.scores["test"]
    predicted = [predict_region(plane[None], model) for plane in image]
    for level in (1, 2, 3, 4):
        ours = iou(np.stack([p[level - 1][0] for p in predicted]), truth)
        assert ours == pytest.approx(stated[f"L{level}"]["iou"], abs=0.04)


@pytest.mark.parametrize(("name", "weights"), [("nuclei", "5d67c04b4cffba99"), ("em-boundaries", "2f28d46b78a0ef9e")])
def test_the_range_of_intensities_is_robust_and_the_weights_are_those_of_the_card(name, weights):
    (entry,) = [e for e in model_entries() if e.name == name and e.origin == "bundled"]
    assert read_header(entry.path).intensity.over == "robust"
    whole = entry.path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    assert hashlib.sha256(whole[begin:]).hexdigest().startswith(weights)
