"""Batches for the steps of an epoch, drawn ahead of the device that trains.

Each step draws from a generator of its own, seeded by (seed, epoch, step): the same patches whoever draws them, and in whatever
order, so several threads may, and a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from napari_unetpp.model.checkpoint import choose_device
from napari_unetpp.training.augment import AUGMENTATIONS
from napari_unetpp.training.blocks import load_blocks
from napari_unetpp.training.patches import annotated_weights, draw_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_unetpp.training.blocks import Loaded
    from napari_unetpp.training.plan import Plan

_THREADS = 6  # draw about 1500 patches of 96 x 96 a second, more than a large card trains on


def batches(plan: Plan, batch: int, epoch: int, steps: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Image and target of each step of an epoch, in pinned memory where a CUDA device will take them."""
    options = plan.options
    device = choose_device(options.device)
    sources = [(plan.training, batch)]
    if plan.replay is not None and batch > 1 and (old := min(batch - 1, max(1, round(options.replay * batch)))):
        sources = [(plan.training, batch - old), (plan.replay, old)] if options.replay else sources
    drawn_from: list[tuple[Sequence[Loaded], Tensor, int]] = []
    for data, count in sources:
        blocks = load_blocks(data, step_seed(options.seed, epoch, 0))
        drawn_from.append((blocks, annotated_weights(blocks), count))

    def draw(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step_seed(options.seed, epoch, step))
        augmentation = AUGMENTATIONS[options.augmentation]
        parts = [
            draw_batch(blocks, weights, options.extents(plan.spec.ndim), count, augmentation, generator)
            for blocks, weights, count in drawn_from
        ]
        image, target = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return (image.pin_memory(), target.pin_memory()) if device.type == "cuda" else (image, target)

    total = options.steps if steps is None else steps
    if device.type == "cpu":  # whose cores the network needs itself
        yield from map(draw, range(total))
        return
    threads = min(_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads, thread_name_prefix="patches") as pool:
        ahead: deque[Future[tuple[Tensor, Tensor]]] = deque()
        try:
            for step in range(total):
                ahead.append(pool.submit(draw, step))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def step_seed(seed: int, epoch: int, step: int) -> int:
    """A seed of 63 bits for one step; distinct for all (epoch, step) below 2**20 each."""
    return (seed * 0x9E3779B97F4A7C15 + (epoch << 20) + step) & 0x7FFF_FFFF_FFFF_FFFF
