"""Patches come from where people painted, whole and with their own labels."""

from __future__ import annotations

import numpy as np
import torch

from napari_unetpp.training.augment import AUGMENTATIONS
from napari_unetpp.training.blocks import Loaded
from napari_unetpp.training.losses import IGNORE
from napari_unetpp.training.patches import annotated_weights, draw_batch
from tests.training.conftest import UNIT, noise


def loaded(shape, seed=0):
    pair = noise(shape, seed=seed)
    return Loaded(pair.image.read(pair.whole), pair.label.read(pair.whole)[0], UNIT, pair.image.spacing_predicted_um)


def test_patches_are_pieces_of_the_region():
    """Without augmentation every patch occurs in the image up to a symmetry of the plane, with its own labels."""
    region = loaded((3, 24, 30))
    image, target = draw_batch(
        [region], annotated_weights([region]), (8, 8), 20, AUGMENTATIONS["none"], torch.Generator().manual_seed(0)
    )
    windows = np.lib.stride_tricks.sliding_window_view(region.image[0], (1, 8, 8)).reshape(-1, 64)
    known = {w.tobytes() for w in windows.astype(np.float32)}
    for patch, labels in zip(image.numpy(), target.numpy(), strict=True):
        turned = [np.rot90(m, k).ravel() for m in (patch[0], patch[0].T) for k in range(4)]
        assert any(t.astype(np.float32).tobytes() in known for t in turned)
        assert np.array_equal(labels, patch[0] > 128)


def test_small_regions_are_mirrored_up_to_a_patch():
    region = loaded((5, 6))
    image, _ = draw_batch([region], torch.ones(1), (16, 16), 2, AUGMENTATIONS["em"], torch.Generator().manual_seed(0))
    assert image.shape == (2, 1, 16, 16)


def test_patches_are_drawn_where_people_painted():
    target = np.full((1, 200, 200), IGNORE, np.uint8)
    target[0, 150:153, 20:23] = 1
    region = Loaded(np.zeros((1, 1, 200, 200), np.uint8), target, loaded((8, 8)).scaling, (None,) * 3)
    empty = Loaded(region.image, np.full_like(target, IGNORE), region.scaling, region.spacing_um)
    regions = [empty, region]
    _, drawn = draw_batch(
        regions, annotated_weights(regions), (16, 16), 12, AUGMENTATIONS["none"], torch.Generator().manual_seed(0)
    )
    assert bool((drawn == 1).flatten(1).any(1).all())
