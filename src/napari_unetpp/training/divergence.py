"""Whether a training has diverged: its loss is so high that the learning rate must be too large.

A network that gives every class the same probability everywhere has a loss of at most ``log(classes) + 1`` per head (the
cross-entropy, and one for Dice). Two cases count as divergence, both judged by the median over the batches of an epoch, which a
few wild batches do not move:

- ten times that loss: no network that is still learning is so far from a constant answer;
- worse than that constant answer, and ten times worse than an earlier epoch: what was learnt is lost.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from napari_unetpp.model.spec import NetworkSpec

TIMES = 10.0  # ordinary epochs differ by a factor of two or three, diverging ones by thousands


def constant_loss(spec: NetworkSpec, weights: Tensor) -> float:
    """Most that `deep_supervision_loss` gives a network that gives every class the same probability.

    `weights` are those of the classes, from `class_weights`.
    """
    entropy = math.log(max(spec.classes, 2)) * max(1.0, float(weights.max()))
    return len(spec.heads) * (entropy + 1.0)


def has_diverged(loss: float, before: Sequence[float], constant: float) -> bool:
    """Whether an epoch of this median loss has diverged.

    Parameters
    ----------
    before
        Losses of the epochs before it.
    constant
        Of `constant_loss`.

    >>> has_diverged(7.0, [2.0], 6.8), has_diverged(7.0, [0.3], 6.8), has_diverged(8e11, [], 6.8)
    (False, True, True)
    """
    if not math.isfinite(loss):
        return True
    return loss > constant and loss > TIMES * min([*before, constant])
