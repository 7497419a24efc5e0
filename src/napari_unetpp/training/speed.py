"""How many patches fit into memory at once, and how long a step takes: measured on the network itself before a run.

In this order: what can never fit, the batch that fits, the memory of one patch, the memory there is, seconds a step.
"""

from __future__ import annotations

import copy
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from napari_unetpp.model.checkpoint import choose_device
from napari_unetpp.model.costs import parameters
from napari_unetpp.model.unetpp import UNetPlusPlus
from napari_unetpp.training.feed import batches
from napari_unetpp.training.freeze import freeze, set_training
from napari_unetpp.training.losses import class_weights
from napari_unetpp.training.options import AUTOMATIC_BATCH
from napari_unetpp.training.step import make_optimizer, take_step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.training.options import TrainOptions
    from napari_unetpp.training.plan import Plan

_SHARE = 0.5  # of the memory that is free; the rest is for the window, the images and gradients on their way back
_STATE = 16  # bytes a parameter: float32 weights, gradients and Adam's two moments
_TIMED = 3  # steps


def check_fits(spec: NetworkSpec, options: TrainOptions) -> None:
    """Refuse, before anything is read, a network or a batch that the device has no memory for at all.

    Raises
    ------
    ValueError
        With what it takes and what there is.
    """
    free = free_memory(choose_device(options.device))
    count = parameters(spec)
    state = _STATE * count
    if state > free:
        raise ValueError(
            f"training {count:,} parameters takes {_gib(state)}, and {_gib(free)} are free; use a smaller width or depth"
        )
    if options.batch <= AUTOMATIC_BATCH:  # whoever knows better may try
        return
    each = (
        math.prod(options.extents(spec.ndim)) * 4 * (spec.in_channels + sum(spec.widths[:1]))
    )  # image and X^{0,0} alone
    if options.batch * each > free:
        raise ValueError(
            f"a batch of {options.batch} patches takes more than {_gib(options.batch * each)}, and {_gib(free)} are free; use "
            "a smaller batch, or 0 for what fits"
        )


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"


def choose_batch(spec: NetworkSpec, options: TrainOptions) -> int:
    """The largest of 8, 4, 2 and 1 patches whose step fits into half of the memory that is free on the device."""
    device = choose_device(options.device)
    network = UNetPlusPlus(spec, initialise=False)
    freeze(network, options.trainable)
    free = _SHARE * free_memory(device) - _STATE * sum(p.numel() for p in network.parameters())
    each = step_memory(network, options.extents(spec.ndim))
    batch = AUTOMATIC_BATCH
    while batch > 1 and batch * each > free:
        batch //= 2
    return batch


def step_memory(network: UNetPlusPlus, patch: Sequence[int]) -> int:
    """Bytes that a forward pass keeps for its backward pass, a patch: what is saved, counted where it is saved."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)  # keeps its address from being used again
        return tensor

    kept: list[Tensor] = []
    spec = network.spec
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    network.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(torch.zeros((1, spec.in_channels, *patch)))
    return sum(size for pointer, size in seen.items() if pointer not in parameters)


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken on the device, as far as the system tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 4 * 2**30


def seconds_per_step(plan: Plan) -> float:
    """Seconds of one step, drawing its patches included, measured on a copy of the network with the data of the plan."""
    options = plan.options
    device = choose_device(options.device)
    network = copy.deepcopy(plan.parent.network) if plan.parent is not None else UNetPlusPlus(plan.spec)
    network = network.to(device)
    optimizer = make_optimizer(freeze(network, options.trainable), options)
    set_training(network, options.trainable)
    weights = class_weights(plan.training.counts.tolist(), options.balance).to(device)
    ends: list[float] = []
    for image, target in batches(plan, plan.batch, 0, steps=_TIMED + 1):
        float(take_step(network, optimizer, image.to(device), target.to(device), weights, options))
        ends.append(time.perf_counter())
    return (ends[-1] - ends[0]) / _TIMED  # the first one allocates
