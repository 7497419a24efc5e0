"""Scores of every head, and of their ensemble, on held-out regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from napari_unetpp.model.unetpp import UNetPlusPlus, probabilities
from napari_unetpp.training.blocks import load_blocks
from napari_unetpp.training.losses import IGNORE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_unetpp.training.blocks import Blocks

_BLOCK = {2: 512, 3: 96}  # voxels per axis predicted at once: bounds memory on large slices
Scores = dict[str, dict[str, float]]


def validate(network: UNetPlusPlus, data: Blocks, device: torch.device) -> Scores:
    """Foreground IoU and Dice (hard labels, averaged over the foreground classes) of L1.. and the ensemble.

    A class that is not annotated in the held-out part does not count. If none is, nothing can be scored, and the result is empty.
    """
    spec = network.spec
    classes = max(spec.classes, 2)
    names = [f"L{d}" for d in spec.heads] + (["ensemble"] if len(spec.heads) > 1 else [])
    counts = torch.zeros((len(names), classes, classes), dtype=torch.int64)
    modes = {module: module.training for module in network.modules()}  # frozen parts differ from the others
    network.eval()
    with torch.inference_mode():
        for image, target in _pieces(data, spec.ndim):
            heads = [probabilities(logits) for logits in network(torch.from_numpy(image)[None].to(device))]
            if len(heads) > 1:
                heads.append(torch.stack(heads).mean(0))
            truth = torch.from_numpy(target)
            known = truth != IGNORE
            for k, probability in enumerate(heads):
                labels = to_labels(probability)[0].cpu()
                pairs = truth[known].long() * classes + labels[known].long()
                counts[k] += torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    for module, training in modes.items():
        module.training = training
    if not counts[0, 1:].any():
        return {}
    return {name: _scores(counts[k]) for k, name in enumerate(names)}


def to_labels(probability: Tensor) -> Tensor:
    """Class of each voxel, (batch, ...), out of probabilities (batch, class, ...): 0.5 or more for one class, else the largest."""
    return (probability[:, 0] >= 0.5).long() if probability.shape[1] == 1 else probability.argmax(dim=1)


def _scores(confusion: Tensor) -> dict[str, float]:
    """IoU and Dice averaged over the annotated foreground classes out of counts (truth, prediction)."""
    iou, dice = [], []
    for k in range(1, confusion.shape[0]):
        both = float(confusion[k, k])
        if not confusion[k].any():
            continue
        either = float(confusion[k].sum() + confusion[:, k].sum()) - both
        iou.append(both / either)
        dice.append(2 * both / (either + both))
    return {"iou": float(np.mean(iou)), "dice": float(np.mean(dice))}


def _pieces(data: Blocks, ndim: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Scaled image (channel, ...) and target of pieces with `ndim` axes; those without annotations are left out."""
    for region in load_blocks(data, 0):
        shape = region.target.shape[-ndim:]  # a block is one slice, one time point
        target, image = region.target.reshape(shape), region.image.reshape(-1, *shape)
        steps = [range(0, extent, _BLOCK[ndim]) for extent in shape]
        for corner in np.ndindex(*(len(s) for s in steps)):
            piece = tuple(slice(s[k], s[k] + _BLOCK[ndim]) for s, k in zip(steps, corner, strict=True))
            if (target[piece] != IGNORE).any():
                yield region.scaling.apply(image[(slice(None), *piece)]), target[piece]
