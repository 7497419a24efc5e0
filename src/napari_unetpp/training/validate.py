"""Scores of every head, and of their ensemble, on held-out regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from napari_unetpp.model.unetpp import UNetPlusPlus, probabilities
from napari_unetpp.training.losses import IGNORE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_unetpp.training.patches import Loaded

_BLOCK = {2: 512, 3: 96}  # voxels per axis predicted at once: bounds memory on large slices
Scores = dict[str, dict[str, float]]


def validate(network: UNetPlusPlus, regions: Sequence[Loaded], voxels: int, device: torch.device) -> Scores:
    """Foreground IoU and Dice (hard labels, averaged over the foreground classes) of L1.. and the ensemble.

    A class that is neither predicted nor annotated in the held-out part does not count; if none is, the score is 1.
    """
    spec = network.spec
    classes = max(spec.classes, 2)
    names = [f"L{d}" for d in spec.heads] + (["ensemble"] if len(spec.heads) > 1 else [])
    counts = torch.zeros((len(names), classes, classes), dtype=torch.int64)
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        for image, target in _blocks(regions, spec.ndim, voxels):
            heads = [probabilities(logits) for logits in network(torch.from_numpy(image)[None].to(device))]
            if len(heads) > 1:
                heads.append(torch.stack(heads).mean(0))
            truth = torch.from_numpy(target)
            known = truth != IGNORE
            for k, probability in enumerate(heads):
                labels = to_labels(probability)[0].cpu()
                pairs = truth[known].long() * classes + labels[known].long()
                counts[k] += torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    network.train(was_training)
    return {name: _scores(counts[k]) for k, name in enumerate(names)}


def to_labels(probability: Tensor) -> Tensor:
    """Class of each voxel, (batch, ...), out of probabilities (batch, class, ...): 0.5 or more for one class, else the largest."""
    return (probability[:, 0] >= 0.5).long() if probability.shape[1] == 1 else probability.argmax(dim=1)


def _scores(confusion: Tensor) -> dict[str, float]:
    """IoU and Dice averaged over the foreground classes out of counts (truth, prediction)."""
    iou, dice = [], []
    for k in range(1, confusion.shape[0]):
        both = float(confusion[k, k])
        either = float(confusion[k].sum() + confusion[:, k].sum()) - both
        if either > 0:
            iou.append(both / either)
            dice.append(2 * both / (either + both))
    return {"iou": float(np.mean(iou)) if iou else 1.0, "dice": float(np.mean(dice)) if dice else 1.0}


def _blocks(
    regions: Sequence[Loaded], ndim: int, voxels: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Scaled image (channel, ...) and target of blocks with `ndim` axes, evenly thinned out to about `voxels` voxels."""
    units: list[tuple[Loaded, tuple[Any, ...]]] = []
    total = 0
    for region in regions:
        total += region.target.size
        for index in np.ndindex(region.target.shape[: region.target.ndim - ndim]):
            units.append((region, index))  # noqa: PERF401 (two statements a loop)
    every = max(1, -(-total // voxels))
    for region, index in units[every // 2 :: every] or units[:1]:
        target, image = region.target[index], region.image[(slice(None), *index)]
        steps = [range(0, n, _BLOCK[ndim]) for n in target.shape]
        for corner in np.ndindex(*(len(s) for s in steps)):
            block = tuple(slice(s[k], s[k] + _BLOCK[ndim]) for s, k in zip(steps, corner, strict=True))
            if (target[block] != IGNORE).any():
                yield region.scaling.apply(image[(slice(None), *block)]), target[block]
