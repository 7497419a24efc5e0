"""One step of the optimizer, the learning rate it takes, and what it does when memory is short."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from napari_unetpp.training.losses import deep_supervision_loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from napari_unetpp.model.unetpp import UNetPlusPlus
    from napari_unetpp.training.options import TrainOptions

WARM_UP = 0.05  # share of all steps over which a cosine schedule rises to its rate


def take_step(
    network: UNetPlusPlus,
    optimizer: torch.optim.Optimizer,
    image: Tensor,
    target: Tensor,
    weights: Tensor,
    options: TrainOptions,
    parts: int = 1,
) -> Tensor:
    """Loss of one batch, after the weights have taken one step against it; nothing waits for the device.

    Parameters
    ----------
    image, target
        (batch, channel, [z,] y, x) float32 and (batch, [z,] y, x) uint8, on the network's device.
    weights
        (class,) as `class_weights` makes them.
    parts
        The batch is worked off in so many parts whose gradients add up: less memory, nearly the same step (soft Dice and batch
        statistics are then those of a part).
    """
    device = image.device.type
    half = options.precision == "bf16" or (options.precision == "auto" and device == "cuda")
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=image.device)
    for some, truth in zip(image.chunk(parts), target.chunk(parts), strict=True):
        given = some.contiguous(memory_format=memory_format(some.ndim - 2))
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            logits: Sequence[Tensor] = network(given)
        loss = deep_supervision_loss([head.float() for head in logits], truth, weights) * (len(some) / len(image))
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    optimizer.step()
    return total


def memory_format(ndim: int) -> torch.memory_format:
    """Order of a batch in memory that convolutions are fastest in: channels last, for volumes too (1.5 times on a CPU)."""
    return torch.channels_last if ndim == 2 else torch.channels_last_3d


def make_optimizer(parameters: Sequence[nn.Parameter], options: TrainOptions) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=options.learning_rate)


def rate(options: TrainOptions, step: int) -> float:
    """Learning rate of a step counted from the start of the run."""
    if options.schedule == "constant":
        return options.learning_rate
    total = options.epochs * options.steps
    warm = max(1, round(WARM_UP * total))
    if step < warm:
        return options.learning_rate * (step + 1) / warm
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
