"""The hybrid loss against numpy, and the properties that the printed formula lacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_unetpp.training.losses import IGNORE, deep_supervision_loss, hybrid_loss


def by_hand(logits: np.ndarray, target: np.ndarray) -> float:
    """Cross-entropy plus one minus Dice, voxel by voxel."""
    known = target != IGNORE
    classes = logits.shape[1]
    if classes == 1:
        p = 1 / (1 + np.exp(-logits[:, 0]))
        y = (target == 1).astype(float)
        entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p))[known].mean()
        dice = [(2 * (p * y)[known].sum() + 1) / (p[known].sum() + y[known].sum() + 1)]
    else:
        e = np.exp(logits - logits.max(1, keepdims=True))
        p = e / e.sum(1, keepdims=True)
        y = np.stack([target == c for c in range(classes)], 1).astype(float)
        entropy = -(y * np.log(p)).sum(1)[known].mean()
        dice = [
            (2 * (p * y)[:, c][known].sum() + 1) / (p[:, c][known].sum() + y[:, c][known].sum() + 1)
            for c in range(classes)
        ]
    return entropy + 1 - np.mean(dice)


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_loss_equals_the_formula_by_hand(classes, ignored):
    rng = np.random.default_rng(classes)
    logits = rng.normal(size=(3, classes, 5, 6))
    target = rng.integers(0, max(classes, 2), (3, 5, 6)).astype(np.uint8)
    target[rng.random(target.shape) < ignored] = IGNORE
    ours = hybrid_loss(torch.from_numpy(logits), torch.from_numpy(target))
    assert float(ours) == pytest.approx(by_hand(logits, target))


def test_all_foreground_is_worse_than_the_truth():
    """What the formula as printed does not notice."""
    target = torch.zeros(1, 8, 8, dtype=torch.uint8)
    target[:, :2] = 1
    perfect = torch.where(target == 1, 9.0, -9.0).unsqueeze(1)
    everything = torch.full_like(perfect, 9.0)
    assert hybrid_loss(everything, target) > hybrid_loss(perfect, target) + 1


def test_an_empty_patch_predicted_empty_costs_nothing():
    target = torch.zeros(2, 8, 8, dtype=torch.uint8)
    assert float(hybrid_loss(torch.full((2, 1, 8, 8), -30.0), target)) == pytest.approx(0, abs=1e-6)


def test_what_nobody_annotated_has_no_gradient():
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    target = torch.ones(1, 4, 4, dtype=torch.uint8)
    target[:, 2:] = IGNORE
    hybrid_loss(logits, target).backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, 2:].any()
    assert logits.grad[:, :, :2].all()


def test_nothing_annotated_has_a_finite_loss_and_no_gradient():
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    loss = hybrid_loss(logits, torch.full((1, 4, 4), IGNORE, dtype=torch.uint8))
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert logits.grad is not None
    assert not logits.grad.any()


def test_every_head_counts_once():
    target = torch.randint(0, 2, (2, 8, 8), dtype=torch.uint8)
    heads = [torch.randn(2, 1, 8, 8) for _ in range(4)]
    total = deep_supervision_loss(heads, target)
    assert float(total) == pytest.approx(sum(float(hybrid_loss(head, target)) for head in heads), rel=1e-6)
