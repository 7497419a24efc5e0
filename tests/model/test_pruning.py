"""Pruned model files: the same bits out of fewer weights, and a card that speaks of nothing that is gone."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch

from napari_unetpp.model.card import Card, ClassInfo
from napari_unetpp.model.checkpoint import Model, load_model, save_model
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.pruning import save_pruned
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus

SCORES = {
    "validation": {"L1": {"iou": 0.5}, "L2": {"iou": 0.6}, "L3": {"iou": 0.7}, "ensemble": {"iou": 0.71}},
    "deep test": {"L3": {"iou": 0.7}},
}
CARD = Card(
    "cells",
    classes=(ClassInfo("background", "#000000"), ClassInfo("cell", "#ff0000")),
    description="Finds cells.",
    licence="CC0-1.0",
    credit="Somebody",
    training={"parent": "feed", "seconds": 3.0},
    scores=SCORES,
    recommended_level=3,
    tiling={"kind": "overlap", "patch": 32, "stride": 16},
    spacing_um=(0.2, 0.1),
)


def make(**changes):
    torch.manual_seed(3)
    spec = NetworkSpec(**({"widths": (4, 4, 4, 4), "heads": (1, 2, 3), "classes": 2} | changes))
    network = UNetPlusPlus(spec)
    network(torch.rand(2, spec.in_channels, *(16,) * spec.ndim))  # BatchNorm statistics of its own
    return Model(spec, network.eval(), Intensity("zscore"), CARD, torch.device("cpu"))


@pytest.fixture
def model(tmp_path):
    return load_model(save_model(make(), tmp_path / "cells.safetensors"), "cpu")


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ndim": 3},
        {"skips": "ensemble"},
        {"skips": "short", "upsampling": "transposed2"},
        {"upsampling": "bilinear-aligned", "decoder_widths": (4, 4, 4), "middle": "half-in"},
    ],
    ids=str,
)
def test_the_heads_that_stay_give_the_same_bits(tmp_path, changes, level):
    """Also where the extent is a multiple of neither grid, which is why the parent's padding is kept."""
    model = make(**changes)
    pruned = load_model(save_pruned(model, level, tmp_path / "pruned.safetensors"), "cpu")
    image = torch.rand(1, 1, *(13, 22, 9)[: model.spec.ndim])
    with torch.no_grad():
        expected = model.network(image)[:level]
        got = pruned.network(image)
    assert len(got) == level
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_fewer_weights_are_stored(model, tmp_path):
    small, large = (save_pruned(model, d, tmp_path / f"{d}.safetensors") for d in (1, 2))
    assert small.stat().st_size < large.stat().st_size < (tmp_path / "cells.safetensors").stat().st_size


def test_what_came_in_half_precision_stays_so_to_the_bit(model, tmp_path):
    half = load_model(save_model(model, tmp_path / "half.safetensors", torch.float16), "cpu")
    smaller = save_pruned(half, 2, tmp_path / "half-L2.safetensors")
    assert smaller.stat().st_size < save_pruned(model, 2, tmp_path / "full-L2.safetensors").stat().st_size
    pruned = load_model(smaller, "cpu")
    image = torch.rand(1, 1, 24, 16)
    with torch.no_grad():
        assert torch.equal(pruned.network(image)[1], half.network(image)[1])


def test_the_card_speaks_of_what_is_left(model, tmp_path):
    pruned = load_model(save_pruned(model, 2, tmp_path / "small.safetensors"), "cpu")
    card = pruned.card
    assert card.name == "cells-L2"
    assert card.description == "L2 of cells. Finds cells."
    assert card.recommended_level == 2
    assert card.scores == {"validation": {"L1": {"iou": 0.5}, "L2": {"iou": 0.6}}}
    same = ("classes", "data", "licence", "credit", "tiling", "spacing_um")
    assert all(getattr(card, field) == getattr(CARD, field) for field in same)
    assert pruned.intensity == model.intensity
    digest = hashlib.sha256((tmp_path / "cells.safetensors").read_bytes()).hexdigest()
    assert card.training == {
        "parent": "feed",
        "seconds": 3.0,
        "pruned_from": {"name": "cells", "sha256": digest, "depth": 3},
    }


def test_a_name_can_be_given_and_a_lower_advice_stays(model, tmp_path):
    advised = replace(model, card=replace(CARD, recommended_level=1))
    card = load_model(save_pruned(advised, 2, tmp_path / "small.safetensors", name="quick"), "cpu").card
    assert (card.name, card.recommended_level) == ("quick", 1)


def test_the_deepest_level_keeps_all(model, tmp_path):
    whole = load_model(save_pruned(model, 3, tmp_path / "whole.safetensors"), "cpu")
    assert whole.card.scores == SCORES
    assert {*whole.network.state_dict()} == {*model.network.state_dict()}


def test_pruned_twice_remembers_both_parents(model, tmp_path):
    once = load_model(save_pruned(model, 2, tmp_path / "two.safetensors"), "cpu")
    twice = load_model(save_pruned(once, 1, tmp_path / "one.safetensors"), "cpu")
    parent = twice.card.training["pruned_from"]
    assert (parent["name"], parent["sha256"], parent["depth"]) == ("cells-L2", once.sha256, 2)
    assert parent["pruned_from"]["sha256"] == model.sha256
    image = torch.rand(1, 1, 13, 22)
    with torch.no_grad():
        assert torch.equal(twice.network(image)[0], model.network(image)[0])


@pytest.mark.parametrize("level", [0, -1, 4])
def test_levels_without_a_head_are_refused_before_anything_is_written(model, tmp_path, level):
    with pytest.raises(ValueError, match=f"level {level} has no head in this network; it has L1, L2, L3"):
        save_pruned(model, level, tmp_path / "no.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["cells.safetensors"]


def test_a_u_net_of_one_head_has_only_that_level(tmp_path):
    plain = make(skips="plain", heads=(3,))
    with pytest.raises(ValueError, match="it has L3"):
        save_pruned(plain, 1, tmp_path / "no.safetensors")
    assert load_model(save_pruned(plain, 3, tmp_path / "yes.safetensors"), "cpu").spec.heads == (3,)


def test_the_model_is_not_replaced_by_a_part_of_itself(model, tmp_path):
    before = (tmp_path / "cells.safetensors").read_bytes()
    with pytest.raises(ValueError, match="is the model itself"):
        save_pruned(model, 1, tmp_path / "cells.safetensors")
    assert (tmp_path / "cells.safetensors").read_bytes() == before
