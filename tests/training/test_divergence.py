"""A training that diverges stops with one line, and one that is only noisy does not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from napari_unetpp.model.checkpoint import load_model
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.training.divergence import constant_loss, has_diverged
from napari_unetpp.training.losses import class_weights, deep_supervision_loss
from napari_unetpp.training.options import EpochDone, TrainOptions
from napari_unetpp.training.plan import TrainingError
from napari_unetpp.training.resume import state_path
from napari_unetpp.training.train import train
from tests.training.conftest import blobs

SPEC = NetworkSpec(widths=(4, 8, 8), heads=(1, 2))
FAST = TrainOptions(epochs=6, steps=8, batch=2, patch=16, augmentation="em", device="cpu")


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_a_constant_answer_has_at_most_this_loss(classes):
    generator = torch.Generator().manual_seed(0)
    spec = replace(SPEC, classes=classes)
    weights = class_weights([1] * max(classes, 2), balance=False)
    for share in (0.0, 0.02, 0.5, 1.0):
        target = (torch.rand((2, 16, 16), generator=generator) < share).byte() * (max(classes, 2) - 1)
        logits = [torch.zeros((2, classes, 16, 16)) for _ in spec.heads]
        assert float(deep_supervision_loss(logits, target, weights)) <= constant_loss(spec, weights) + 1e-5


@pytest.mark.parametrize(
    ("loss", "before", "expected"),
    [
        (math.nan, [], True),
        (math.inf, [], True),
        (8e11, [], True),
        (35.0, [], True),  # ten times a constant answer
        (33.0, [], False),
        (3.0, [0.2], False),  # fifteen times worse than before, but better than a constant answer
        (3.5, [0.2], True),
        (3.5, [0.5], False),
        (3.5, [0.2, 3.0], True),
    ],
)
def test_the_rule(loss, before, expected):
    assert has_diverged(loss, before, 3.4) is expected


@pytest.mark.parametrize("block", ["conv-bn-relu", "conv-relu"])
def test_a_rate_of_a_thousand_stops_and_leaves_nothing(tmp_path, block):
    spec = replace(SPEC, block=block)
    out = tmp_path / "a.safetensors"
    with pytest.raises(
        TrainingError, match=r"diverged in epoch 1: .* lower the learning rate 1000, .* no model was saved"
    ):
        list(train(spec, [blobs()], replace(FAST, learning_rate=1e3), out))
    assert not list(tmp_path.iterdir())


def test_the_best_before_is_kept(tmp_path, monkeypatch):
    """The rate explodes in the third epoch."""
    monkeypatch.setattr("napari_unetpp.training.train.rate", lambda options, step: 1e3 if step >= 16 else 1e-2)
    out, epochs = tmp_path / "a.safetensors", []
    with pytest.raises(
        TrainingError, match=r"diverged in epoch 3: .*a\.safetensors holds the best epoch before that, [12]$"
    ):
        epochs.extend(e.epoch for e in train(SPEC, [blobs()], FAST, out) if isinstance(e, EpochDone))
    model = load_model(out, "cpu")
    assert model.card.training["epoch"] in (1, 2)
    assert not state_path(out).exists()  # it would only diverge again


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("learning_rate", [1e-3, 1e-2, 1e-1])
def test_noisy_training_goes_on(tmp_path, seed, learning_rate):
    """Single patches, steps that are too large for a good result: noise, but no divergence."""
    options = replace(FAST, batch=1, seed=seed, learning_rate=learning_rate, patience=6)
    events = list(train(SPEC, [blobs(seed=seed)], options, tmp_path / "a.safetensors"))
    assert events[-1].stop
