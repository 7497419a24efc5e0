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
SMOOTH = 1.0  # of the soft Dice, in voxels, as in the authors' Keras code; defines empty against empty as perfect


def deep_supervision_loss(logits: Sequence[Tensor], target: Tensor) -> Tensor:
    """Sum over the heads of their hybrid losses (TMI 2019, equation 3 with all weights 1).

    Parameters
    ----------
    logits
        (batch, class, ...) of each head.
    target
        (batch, ...) uint8: class of each voxel, or `IGNORE`.
    """
    return torch.stack([hybrid_loss(head, target) for head in logits]).sum()


def hybrid_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus one minus soft Dice of one head; 0 with zero gradient where nothing is annotated.

    With one class the target is 0 or 1 and the sigmoid is meant; with ``n >= 2`` it is 0..n-1 and the softmax is. Soft Dice
    is taken per class over the whole batch and averaged over the classes (all of them, the background too, for the softmax).

    Parameters
    ----------
    logits
        (batch, class, ...) float.
    target
        (batch, ...) uint8: class of each voxel, or `IGNORE`.
    """
    annotated = target != IGNORE
    weight = annotated.unsqueeze(1).to(logits.dtype)
    count = weight.sum().clamp(min=1.0)
    known = torch.where(annotated, target, torch.zeros_like(target)).long()
    if logits.shape[1] == 1:
        truth = known.unsqueeze(1).to(logits.dtype)
        entropy = F.binary_cross_entropy_with_logits(logits, truth, weight=weight, reduction="sum") / count
        probability = torch.sigmoid(logits)
    else:
        truth = torch.movedim(F.one_hot(known, logits.shape[1]), -1, 1).to(logits.dtype)
        entropy = (F.cross_entropy(logits, known, reduction="none").unsqueeze(1) * weight).sum() / count
        probability = torch.softmax(logits, dim=1)
    over = (0, *range(2, logits.ndim))
    common = (probability * truth * weight).sum(over)
    total = (probability * weight).sum(over) + (truth * weight).sum(over)
    dice = (2 * common + SMOOTH) / (total + SMOOTH)
    return entropy + (1 - dice).mean()
