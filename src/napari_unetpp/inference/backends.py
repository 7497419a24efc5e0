"""How a network is run on one batch.

Decides, in this order: how large a batch may be (`batch_size`) and how it is run (`run_network`):
evaluation mode, no gradients, the precision of the weights, channels last where that pays.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from napari_unetpp.model.unetpp import probabilities

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from napari_unetpp.model.checkpoint import Model

# A network of widths 32..512 holds about 2.8 kB of float32 features a voxel, so this is 1.5 GB.
FORWARD_VOXELS = 2**19


def batch_size(wanted: int, extent: Sequence[int]) -> int:
    """Images of that spatial extent in one pass: `wanted`, or as many as the memory limit allows.

    It depends on nothing but its arguments, so an interrupted run is continued in equal batches.

    >>> batch_size(4, (96, 96)), batch_size(4, (416, 416)), batch_size(4, (1024, 1024))
    (4, 3, 1)
    """
    if wanted < 1:
        raise ValueError(f"batch {wanted} is not a number of images; use 1 or more")
    return max(1, min(wanted, FORWARD_VOXELS // math.prod(extent)))


def run_network(model: Model, batch: NDArray[np.float32], level: int | None = None) -> list[NDArray[np.float32]]:
    """Probabilities (batch, class, [z,] y, x) of every head up to `level`, from one forward pass.

    Parameters
    ----------
    batch
        Network input, (batch, channel, [z,] y, x).
    """
    model.network.eval()
    precision = next(model.network.parameters()).dtype
    with torch.inference_mode():
        image = torch.from_numpy(batch).to(model.device, precision)
        if model.device.type == "cpu" and model.spec.ndim == 2:
            image = image.contiguous(memory_format=torch.channels_last)  # 1.16 times as fast
        heads: list[NDArray[Any]] = [
            probabilities(logits).float().cpu().numpy() for logits in model.network(image, level)
        ]
    return heads
