"""The hybrid loss of the UNet++ papers, on every head with weight 1, over the annotated voxels alone.

Per head: cross-entropy plus one minus soft Dice. The formula as printed (TMI 2019, section III-D) has only the term
``y log p``: taken literally with one class it never punishes false positives and is 0/0 where y = p = 0. What the authors' code
computes is the full cross-entropy and a smoothed Dice over the whole batch, and so does this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

IGNORE = 255  # target value of voxels that nobody annotated
MOST_WEIGHT = 10.0  # a class of a hundred voxels must not decide everything
SMOOTH = 1.0  # of the soft Dice, in voxels, as in the authors' Keras code; defines empty against empty as perfect


def deep_supervision_loss(logits: Sequence[Tensor], target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum over the heads of their hybrid losses (TMI 2019, equation 3 with all weights 1).

    Parameters
    ----------
    logits
        (batch, class, ...) of each head.
    target, weights
        As for `hybrid_loss`.
    """
    return torch.stack([hybrid_loss(head, target, weights) for head in logits]).sum()


def class_weights(counts: Sequence[int], balance: bool) -> Tensor:
    """Weights (class,) for `hybrid_loss` out of the annotated voxels of each class: 0 for a class without any.

    Without `balance` all others are 1. With it they go with one over the frequency, within a factor of `MOST_WEIGHT` and so
    that the weighted voxels are as many as before.
    """
    voxels = torch.tensor([float(n) for n in counts])
    there = (voxels > 0).float()
    if not balance or not bool(there.any()):
        return there
    weights = there * (voxels.max() / voxels.clamp(min=1)).clamp(max=MOST_WEIGHT)
    return weights * voxels.sum() / (weights * voxels).sum()


def hybrid_loss(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy plus one minus soft Dice of one head; 0 with zero gradient where nothing is annotated.

    With one class the target is 0 or 1 and the sigmoid is meant; with ``n >= 2`` it is 0..n-1 and the softmax is. Soft Dice
    is taken per class over the whole batch and averaged over the classes (all of them, the background too, for the softmax).
    A class of weight 0, which nobody annotated anywhere, has no Dice: nothing is known of where it should be.

    Parameters
    ----------
    logits
        (batch, class, ...) float.
    target
        (batch, ...) uint8: class of each voxel, or `IGNORE`.
    weights
        (class,) of the cross-entropy, background first also where the network has one class; None is 1 for all.
    """
    annotated = target != IGNORE
    weight = annotated.unsqueeze(1).to(logits.dtype)
    count = weight.sum().clamp(min=1.0)
    known = torch.where(annotated, target, torch.zeros_like(target)).long()
    each = weight if weights is None else weight * weights.to(logits.dtype)[known].unsqueeze(1)
    if logits.shape[1] == 1:
        truth = known.unsqueeze(1).to(logits.dtype)
        entropy = F.binary_cross_entropy_with_logits(logits, truth, weight=each, reduction="sum") / count
        probability = torch.sigmoid(logits)
    else:
        truth = torch.movedim(F.one_hot(known, logits.shape[1]), -1, 1).to(logits.dtype)
        entropy = (F.cross_entropy(logits, known, reduction="none").unsqueeze(1) * each).sum() / count
        probability = torch.softmax(logits, dim=1)
    over = (0, *range(2, logits.ndim))
    common = (probability * truth * weight).sum(over)
    total = (probability * weight).sum(over) + (truth * weight).sum(over)
    dice = (2 * common + SMOOTH) / (total + SMOOTH)
    if weights is None or logits.shape[1] == 1:
        return entropy + (1 - dice).mean()
    there = (weights > 0).to(logits.dtype)
    return entropy + ((1 - dice) * there).sum() / there.sum().clamp(min=1.0)
