"""What is measured on a stack before a network can run on it in 8-bit integers.

Decides, in this order: where on a stack (`calibration_patches`), what is made of it (`calibrate`), and
what is watched while the network runs over the patches in float32 (`_Seen`, `_Watched`).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_unetpp.box import Box
from napari_unetpp.inference.inputs import network_input
from napari_unetpp.inference.kernels import TorchLayers, whole_pass
from napari_unetpp.inference.quantise import ENTRY, Calibration, convolutions, exact_weights
from napari_unetpp.inference.rounding import nudges, round_measured, round_smooth
from napari_unetpp.model.sampling import as_seen, read_raw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from napari_unetpp.inference.folding import Convolution
    from napari_unetpp.inference.kernels import Unit
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.intensity import Scaling
    from napari_unetpp.model.unetpp import UNetPlusPlus
    from napari_unetpp.stacks import Stack

PATCHES, EDGE = 32, 128  # 0.5 Mvoxel; on patches of 96 the deepest maps were smaller than on whole images
_BATCH = 4
# Covariances are measured for convolutions of at most so many inputs a voxel (32 channels, 3 x 3): the
# fine, narrow ones, where a deviation weighs most. It is 0.01 % of the labels; twice as many gave 0.002 %.
_MEASURED = 320
_SAMPLES = 10  # voxels looked at for each such input
_PLASTIC = 1.324717957244746  # root of x**3 = x + 1: its powers spread points evenly over a plane


def calibration_patches(
    stack: Stack, model: Model, scaling: Scaling, *, count: int = PATCHES, edge: int = EDGE
) -> Tensor:
    """Network input (patch, channel, edge, edge) from places spread evenly over a stack.

    The same stack always gives the same patches. A stack smaller than `count` patches is covered by
    fewer; a plane smaller than a patch is mirrored. Nothing else of the stack is read.
    """
    *leading, height, width = stack.shape_predicted
    edge = math.ceil(edge / model.spec.grid) * model.spec.grid
    stack, scaling = as_seen(stack, scaling)
    patches = []
    for plane, y, x in _places(math.prod(leading), height, width, count, edge):
        start = tuple(map(int, np.unravel_index(plane, leading))) if leading else ()
        box = Box((*start, y, x), (*(i + 1 for i in start), y + edge, x + edge))
        patches.append(network_input(read_raw(stack, box), model, scaling))
    return torch.from_numpy(np.stack(patches))


def _places(planes: int, height: int, width: int, count: int, edge: int) -> Iterator[tuple[int, int, int]]:
    """(plane, y, x) of at most `count` squares: all that it takes to cover the stack, or else evenly spread."""
    rows, columns = (math.ceil(extent / edge) for extent in (height, width))
    down, right = max(0, height - edge), max(0, width - edge)
    if planes * rows * columns <= count:
        for plane, row, column in itertools.product(range(planes), range(rows), range(columns)):
            yield plane, down * row // max(1, rows - 1), right * column // max(1, columns - 1)
        return
    for n in range(count):
        y, x = ((n + 0.5) / _PLASTIC**power % 1 for power in (1, 2))
        yield int((n + 0.5) / count * planes), round(y * down), round(x * right)


def calibrate(
    network: UNetPlusPlus,
    patches: Tensor,
    level: int | None = None,
    *,
    limit: int = 127,
    checkpoint: Callable[[], None] = lambda: None,
) -> Calibration:
    """What an int8 network for L1..`level` needs to know, from passes over patches in float32.

    Ranges reach to the largest activation seen. Percentiles from 99.9 on and ranges of least squared
    error gave as many equal labels or fewer, on EM and on nuclei, and up to ten times the largest
    deviation: they cut what is brightest. Room above the largest, 10 or 25 %, costs 0.01 % of labels.

    Parameters
    ----------
    patches
        (patch, channel, y, x) float32, such as `calibration_patches` gives.
    limit
        Largest weight that the processor multiplies right (`int8.weight_limit`).
    checkpoint
        Called every now and then; what it raises ends the calibration.
    """
    level = network.spec.heads_up_to(level)[-1]
    bare = convolutions(network, level)
    seen = {key: _Seen(convolution, math.ceil(len(patches) / _BATCH)) for key, convolution in bare.items()}
    watched = _Watched(network, seen)
    with torch.inference_mode():
        for start in range(0, len(patches), _BATCH):
            whole_pass(watched, patches[start : start + _BATCH], level)
            checkpoint()
        ranges = {key: _short(s.largest) for key, s in seen.items() if not key.startswith("head")}
        calibration = Calibration(limit, ranges, {}, {})
        offsets, steps = {}, {}
        for key, convolution in bare.items():
            if key == ENTRY:
                continue
            exact = exact_weights(network.spec, key, convolution, calibration)
            if (covariance := seen[key].covariance()) is None:
                rounded = round_smooth(exact.weight, limit)
            else:
                flat = exact.weight.flatten(1)
                incoming = exact.incoming.repeat_interleave(exact.weight.shape[2])
                rounded = round_measured(flat, covariance / torch.outer(incoming, incoming), limit)
                steps[key] = nudges(flat, rounded, limit)
                rounded = rounded.view(exact.weight.shape)
            lost = (exact.weight - rounded).sum(2) @ (seen[key].mean() / exact.incoming)
            offsets[key] = _short(lost * exact.unit * exact.outgoing)
            checkpoint()
    return replace(calibration, offsets=offsets, nudges=steps)


def _short(values: Tensor) -> tuple[float, ...]:
    """Three significant digits of each: a part of what a count is worth, and short as text."""
    return tuple(float(f"{value:.3g}") for value in values.tolist())


class _Seen:
    """Statistics of one convolution, over all patches."""

    def __init__(self, convolution: Convolution, passes: int) -> None:
        outputs, channels, *kernel = convolution.weight.shape
        self.edge = kernel[0]
        inputs = channels * math.prod(kernel)
        self.largest = torch.zeros(outputs)
        self._total, self._voxels = torch.zeros(channels, dtype=torch.float64), 0
        self._samples = math.ceil(_SAMPLES * inputs / passes) if inputs <= _MEASURED else 0
        self._sum = torch.zeros(inputs if self._samples else 0, dtype=torch.float64)
        self._products = torch.zeros((len(self._sum),) * 2, dtype=torch.float64)
        self._sampled = 0

    def take(self, x: Tensor, y: Tensor) -> None:
        """Input (batch, channel, y, x) and output of one pass."""
        self.largest = torch.maximum(self.largest, y.amax((0, 2, 3)))
        self._total += x.sum((0, 2, 3))
        self._voxels += x[:, 0].numel()
        if not self._samples:
            return
        windows = self._windows(x)
        self._sum += windows.sum(0, dtype=torch.float64)
        self._products += windows.T @ windows
        self._sampled += len(windows)

    def mean(self) -> Tensor:
        """Mean of every input channel."""
        return self._total / self._voxels

    def covariance(self) -> Tensor | None:
        """Covariance (inputs, inputs) of what the weights see; None where it is not measured."""
        if not self._samples:
            return None
        mean = self._sum / self._sampled
        return self._products / self._sampled - torch.outer(mean, mean)

    def _windows(self, x: Tensor) -> Tensor:
        """What the weights see at some voxels, (voxel, inputs), spread over all that there are."""
        batch, _, height, width = x.shape
        voxels = batch * height * width
        count = min(self._samples, voxels)
        # Multiples of the golden ratio fall everywhere, in no step with rows or columns.
        place = (torch.arange(count, dtype=torch.float64) * 0.6180339887498949 % 1 * voxels).long()
        image, row, column = place // (height * width), place // width % height, place % width
        padded = F.pad(x, (self.edge // 2,) * 4)
        seen = [padded[image, :, row + dy, column + dx] for dy in range(self.edge) for dx in range(self.edge)]
        return torch.stack(seen, dim=2).flatten(1)


class _WatchedUnit:
    """A convolution that shows what it takes and gives."""

    def __init__(self, unit: Unit, seen: _Seen) -> None:
        self.reach, self.before = unit.reach, unit.before
        self._unit, self._seen = unit, seen

    def __call__(self, x: Tensor, *, context: bool = False) -> Tensor:
        y = self._unit(x, context=context)
        self._seen.take(x, y)
        return y


class _Watched(TorchLayers):
    """A network in float32 whose convolutions show what they take and give."""

    def __init__(self, network: UNetPlusPlus, seen: dict[str, _Seen]) -> None:
        super().__init__(network, torch.device("cpu"), torch.float32)
        self._seen = seen

    def node(self, i: int, j: int) -> tuple[Unit, Unit]:
        first, second = super().node(i, j)
        return _WatchedUnit(first, self._seen[f"{i}_{j}.0"]), _WatchedUnit(second, self._seen[f"{i}_{j}.1"])

    def head(self, d: int) -> Unit:
        return _WatchedUnit(super().head(d), self._seen[f"head_{d}.0"])
