"""Pairs that are learnt in seconds, and the plain rule."""

from __future__ import annotations

import numpy as np

from napari_unetpp.model.intensity import Scaling
from napari_unetpp.stacks import open_stack
from napari_unetpp.training.blocks import Blocks, blocks_in, scan
from napari_unetpp.training.pairs import Pair, Rule

UNIT = Scaling((0.0,), (1.0,))


def blobs(shape=(6, 48, 48), seed=0, axes="zyx", **more):
    """Bright discs on dark noise with their labels: learnable in seconds."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[-2], : shape[-1]]
    label = np.zeros(shape, np.uint8)
    for plane in label.reshape(-1, *shape[-2:]):
        for _ in range(4):
            cy, cx, r = rng.uniform(5, 43), rng.uniform(5, 43), rng.uniform(4, 8)
            plane[np.hypot(y - cy, x - cx) < r] = 1
    image = (60 * label + rng.normal(60, 10, shape)).clip(0, 255).astype(np.uint8)
    return Pair(open_stack(image, axes=axes), open_stack(label, axes=axes), **more)


def noise(shape, group=None, seed=0, axes=None, labels=None, **more):
    """Random intensities; half of the voxels are labelled, or what `labels` says."""
    rng = np.random.default_rng(seed)
    axes = axes or "tzyx"[-len(shape) :]
    image = rng.integers(0, 255, shape).astype(np.uint8)
    labels = (image > 128).astype(np.uint8) if labels is None else labels
    return Pair(open_stack(image, axes=axes), open_stack(labels, axes=axes), group, **more)


def blocks_of(*pairs, ndim=2, rule=None, memory=2**30, region=None):
    """All that is annotated in the pairs, or in a region of each, with intensities as they are."""
    found = [scan(pair, ndim, rule or Rule()) for pair in pairs]
    kept = [b for k, pair in enumerate(pairs) for b in blocks_in(found[k], k, region or pair.whole)]
    return Blocks(pairs, (UNIT,) * len(pairs), 1, tuple(kept), memory)
