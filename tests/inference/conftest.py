"""Tiny models with random weights: depth 2, width 4, batch statistics that are not the default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from napari_unetpp.inference.backends import Backend
from napari_unetpp.inference.schedule import FIRST, HEAD, SECOND, Rows, head_reach, up_reach
from napari_unetpp.model.card import Card, ClassInfo
from napari_unetpp.model.checkpoint import Model
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus


def tiny_model(
    *,
    seed: int = 0,
    intensity: Intensity | None = None,
    widths=(4, 8, 16),
    heads=(1, 2),
    **spec: Any,
) -> Model:
    torch.manual_seed(seed)
    specification = NetworkSpec(widths=widths, heads=heads, **spec)
    network = UNetPlusPlus(specification).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.5)
        # Logits of mean 0 and standard deviation 2, so that probabilities reach from 0 to 1.
        noise = torch.rand(1, specification.in_channels, *(32,) * specification.ndim)
        for logits, head in zip(network(noise), network.heads.values(), strict=True):
            last = head[-1] if isinstance(head, torch.nn.Sequential) else head
            axes = [0, *range(2, logits.ndim)]
            gain = 2 / logits.std(axes)
            last.weight.mul_(gain.reshape(-1, *(1,) * (last.weight.ndim - 1)))
            last.bias.sub_(logits.mean(axes)).mul_(gain)
    classes = [ClassInfo("background"), *(ClassInfo(f"class {i}") for i in range(1, 9))]
    names = classes[: specification.classes] if specification.classes > 1 else classes[1:2]
    card = Card("tiny", classes=tuple(names), recommended_level=specification.depth)
    return Model(specification, network, intensity or Intensity(), card, torch.device("cpu"), f"sha-{seed}")


@pytest.fixture
def make_model() -> Callable[..., Model]:
    return tiny_model


@pytest.fixture
def texture(rng: np.random.Generator) -> Callable[..., np.ndarray]:
    """Random images with structure at every scale, so that far voxels matter to a network."""

    def make(*shape: int) -> np.ndarray:
        image = rng.normal(size=shape)
        for axis in range(len(shape)):
            image = image + 0.3 * np.cumsum(image, axis=axis) / np.sqrt(shape[axis])
        image -= image.min()
        return (255 * image / image.max()).astype(np.uint8)

    return make


@pytest.fixture
def passes(monkeypatch) -> list[np.ndarray]:
    """Inputs (batch, channel, ...) of every pass through a network from now on."""
    seen: list[np.ndarray] = []
    run = Backend.run

    def recorded(backend: Backend, batch: np.ndarray, *args: Any, **options: Any) -> list[np.ndarray]:
        seen.append(batch)
        return run(backend, batch, *args, **options)

    monkeypatch.setattr(Backend, "run", recorded)
    return seen


@pytest.fixture(scope="session")
def looks_at() -> Callable[..., set[tuple[Rows, int]]]:
    return _looks_at


def _looks_at(spec: NetworkSpec, height: int, step: Any) -> set[tuple[Rows, int]]:
    """(map, row) that a step needs, written down anew."""
    i, j, part = step.rows
    reach = head_reach(spec) if part == HEAD else 1
    seen = range(max(step.start - reach, 0), min(step.stop + reach, height >> i))
    if part != FIRST:
        return {(Rows(i, j, part - 1), r) for r in seen}
    if j == 0:
        return {(Rows(i - 1, 0, SECOND), 2 * r + k) for r in seen for k in (0, 1)} if i else set()
    around = range(-up_reach(spec), up_reach(spec) + 1)
    below = {(Rows(i + 1, j - 1, SECOND), r // 2 + k) for r in seen for k in around}
    skips = {(Rows(*node, SECOND), r) for node in spec.same_row(i, j) for r in seen}
    return skips | {(rows, r) for rows, r in below if 0 <= r < height >> (i + 1)}
