"""Augmentation keeps image and target together and repeats itself for a seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_unetpp.training.augment import AUGMENTATIONS, Augmentation, _blur, augment, context_extents

NONE = AUGMENTATIONS["none"]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_same_generator_same_patch(name, ndim):
    rule = AUGMENTATIONS[name]
    patch, alike = (16,) * ndim, (0,) * ndim
    context = context_extents(patch, rule, alike)
    image, target = torch.rand(2, *context), torch.randint(0, 3, context, dtype=torch.uint8)
    first = augment(image, target, patch, rule, alike, generator(5))
    again = augment(image, target, patch, rule, alike, generator(5))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape == (2, *(16,) * ndim)
    assert first[1].shape == (16,) * ndim
    assert first[0].dtype == torch.float32
    assert first[1].dtype == torch.uint8


def test_all_eight_symmetries_of_the_plane_occur_and_nothing_else():
    image = torch.arange(16.0).reshape(1, 4, 4)
    target = image[0].to(torch.uint8)
    expected = {tuple(np.rot90(m, k).ravel()) for m in (image[0].numpy(), image[0].numpy().T) for k in range(4)}
    seen = set()
    for seed in range(100):
        changed, labels = augment(image, target, (4, 4), NONE, (0, 0), generator(seed))
        assert torch.equal(changed[0], labels.float())
        seen.add(tuple(changed[0].numpy().ravel()))
    assert seen == expected


def test_warped_labels_stay_on_what_they_label():
    """A disc whose image is its own label: after the warp both must still be the same disc."""
    rule = replace(NONE, warp=1.0, scale=1.3, elastic=2.0)
    extent, _ = context_extents((64, 64), rule, (0, 0))
    y, x = np.mgrid[:extent, :extent] - extent / 2
    disc = torch.from_numpy((np.hypot(y - 3, x + 5) < 18).astype(np.float32))
    areas = []
    for seed in range(10):
        image, target = augment(disc[None], disc.to(torch.uint8), (64, 64), rule, (0, 0), generator(seed))
        assert float(((image[0] > 0.5) != (target > 0)).float().mean()) < 0.01
        areas.append(int(target.sum()))
    assert max(areas) > 1.3 * min(areas)  # it did scale


def test_a_blur_keeps_the_mean_and_lowers_the_contrast():
    image = torch.rand(1, 32, 32)
    blurred = _blur(image, 1.2)
    assert float(blurred.std()) < 0.5 * float(image.std())
    assert float(blurred.mean()) == pytest.approx(float(image.mean()), abs=0.02)


def test_intensity_changes_never_touch_labels():
    rule = Augmentation(warp=0.0, invert=1.0, noise=0.5)
    target = torch.full((8, 8), 2, dtype=torch.uint8)
    for seed in range(5):
        image, labels = augment(torch.rand(1, 8, 8), target, (8, 8), rule, (0, 0), generator(seed))
        assert torch.equal(labels, target)
        assert bool(torch.isfinite(image).all())
