"""Patches drawn where people painted.

In this order: patches to look at before a run, how likely a block is, a batch of augmented patches out of blocks, one patch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from napari_unetpp.box import Box, read_box
from napari_unetpp.training.augment import AUGMENTATIONS, Augmentation, alike_axes, augment, context_extents
from napari_unetpp.training.blocks import load_blocks
from napari_unetpp.training.losses import IGNORE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_unetpp.training.blocks import Loaded
    from napari_unetpp.training.plan import Plan


def preview_patches(plan: Plan, count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """What the network of a plan will see: augmented patches and their targets, another draw for each seed.

    Returns
    -------
    tuple of arrays
        (count, channel, [z,] y, x) float32 as the network takes them, about 0 to 1; (count, [z,] y, x) uint8, 255 where nobody
        annotated.
    """
    blocks = load_blocks(plan.training, seed)
    options = plan.options
    image, target = draw_batch(
        blocks,
        annotated_weights(blocks),
        options.extents(plan.spec.ndim),
        count,
        AUGMENTATIONS[options.augmentation],
        torch.Generator().manual_seed(seed),
    )
    return image.numpy(), target.numpy()


def annotated_weights(regions: Sequence[Loaded]) -> Tensor:
    """Number of annotated voxels of each block: patches are drawn where people painted."""
    return torch.tensor([float(np.count_nonzero(region.target != IGNORE)) for region in regions])


def draw_batch(
    regions: Sequence[Loaded],
    weights: Tensor,
    patch: Sequence[int],
    batch: int,
    augmentation: Augmentation,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Batch of augmented patches: image (batch, channel, [z,] y, x) float32 and target (batch, [z,] y, x) uint8.

    `patch` has voxels per axis of the network. Patches lie inside a block where that is as large as they are; a smaller one is
    mirrored. Each patch is centred near an annotated voxel, so that partly annotated slices lose no step to empty patches.
    """
    chosen = torch.multinomial(weights, batch, replacement=True, generator=generator).tolist()
    drawn = [_draw(regions[k], patch, augmentation, generator) for k in chosen]
    return torch.stack([image for image, _ in drawn]), torch.stack([target for _, target in drawn])


def _draw(
    region: Loaded, patch: Sequence[int], augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    shape = region.target.shape
    for _ in range(50):  # dense labels succeed at once; 5 % scribbles within some twenty
        middle = [int(torch.randint(n, (), generator=generator)) for n in shape]
        if region.target[tuple(middle)] != IGNORE:
            break
    else:
        places = np.flatnonzero(region.target != IGNORE)
        pick = places[int(torch.randint(len(places), (), generator=generator))]
        middle = [int(k) for k in np.unravel_index(pick, shape)]
    ndim = len(patch)
    alike = alike_axes(region.spacing_um[-ndim:])
    context = context_extents(patch, augmentation, alike)
    slices = (1,) * (len(shape) - ndim)
    start, stop = [], []
    for n, m, width, shown in zip(shape, middle, (*slices, *context), (*slices, *patch), strict=True):
        # The patch, not its context, is kept inside; what the context lacks is mirrored.
        slack = (width - shown) // 2
        first = m - width // 2
        if n >= width - 2 * slack:
            first = min(max(first, -slack), n - width + slack)
        start.append(first)
        stop.append(first + width)
    box = Box(tuple(start), tuple(stop))
    target = read_box(region.target, box).reshape(context)
    channels = Box((0, *box.start), (region.image.shape[0], *box.stop))
    image = read_box(region.image, channels).reshape(-1, *context)
    return augment(
        torch.from_numpy(region.scaling.apply(image)), torch.from_numpy(target), patch, augmentation, alike, generator
    )
