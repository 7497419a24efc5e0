"""What a level costs before anything is built: parameters and operations, counted from the specification.

In this order: the parameters of a network (`parameters`), its operations a voxel (`flops_per_voxel`), and both of all levels
(`level_costs`). Only convolutions are counted as operations, two for a multiply-add: pooling, normalisation, ReLU and resampling
together are about one in a hundred, and no tool that counts FLOPs counts them.

A convolution in row i runs on one voxel for each `spec.reduction(i)` of those of the image, which is why the wide layers at the
bottom hold most of the parameters, and the narrow ones at the top do most of the work. What an image is mirrored by is not counted.

The stages of an encoder are those of timm (`backbones.stage_costs`), so timm must be installed to count them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_unetpp.model.backbones import StageCost
    from napari_unetpp.model.spec import NetworkSpec


@dataclass(frozen=True, slots=True)
class LevelCost:
    """What the network pruned to a level costs.

    Attributes
    ----------
    parameters
        Of all that a pruned model file holds: the nodes with i + j <= level and the heads L1..`level`.
    flops_per_voxel
        Of one pass to that level, without the halos or overlaps of a tiling.
    """

    level: int
    parameters: int
    flops_per_voxel: float


@dataclass(frozen=True, slots=True)
class _Layer:
    """A convolution, or (kernel 0) a normalisation; `row` is where its multiply-adds are done.

    `kernel` counts the weights of one input and output channel.
    """

    row: int
    kernel: int
    inputs: int
    outputs: int
    bias: bool

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs * self.kernel + self.outputs * self.bias if self.kernel else 2 * self.outputs

    @property
    def products(self) -> int:
        return self.kernel * self.inputs * self.outputs


def level_costs(spec: NetworkSpec) -> tuple[LevelCost, ...]:
    """The cost of each level that has a head, ascending.

    Raises
    ------
    BackboneError
        If the network has an encoder and timm is not installed; the message is one line.

    >>> from napari_unetpp.model.spec import NetworkSpec
    >>> for cost in level_costs(NetworkSpec.preset("default")):
    ...     print(cost.level, cost.parameters, round(cost.flops_per_voxel / 1e3, 1))
    1 102209 120.4
    2 517858 314.0
    3 2233987 618.2
    4 9159204 1051.5
    """
    stages = _stages(spec)
    costs = []
    for level in spec.heads:
        pruned = spec.pruned(level)
        encoder = [stage for stage in stages if stage.row <= level]
        count = _parameters(pruned) + sum(stage.parameters for stage in encoder)
        costs.append(LevelCost(level, count, _flops(pruned) + sum(stage.flops_per_voxel for stage in encoder)))
    return tuple(costs)


def parameters(spec: NetworkSpec) -> int:
    """Number of weights and biases that training changes; the statistics of BatchNorm are none of them."""
    return _parameters(spec) + sum(stage.parameters for stage in _stages(spec))


def flops_per_voxel(spec: NetworkSpec) -> float:
    """Operations for each voxel of an image whose extent is a multiple of the grid, two for a multiply-add."""
    return _flops(spec) + sum(stage.flops_per_voxel for stage in _stages(spec))


def _stages(spec: NetworkSpec) -> tuple[StageCost, ...]:
    if not spec.encoder:
        return ()
    from napari_unetpp.model.backbones import stage_costs

    return stage_costs(spec)


def _parameters(spec: NetworkSpec) -> int:
    return sum(layer.parameters for layer in _layers(spec))


def _flops(spec: NetworkSpec) -> float:
    return sum((2 * layer.products / math.prod(spec.reduction(layer.row)) for layer in _layers(spec)), 0.0)


def _layers(spec: NetworkSpec) -> Iterator[_Layer]:
    for i, j in spec.nodes:
        if spec.from_encoder(i, j):
            continue
        inputs = spec.in_channels if i == 0 else spec.widths[i - 1]
        if j > 0:
            below, up = spec.node_width(*spec.below(i, j)), spec.up_width(i, j)
            if spec.upsampling.startswith("transposed"):
                kernel = math.prod(spec.step(i)) if spec.upsampling == "transposed2" else 4**spec.ndim
                behind = spec.upsampling == "transposed4-relu"
                # strided: each voxel below is multiplied with the whole kernel once
                yield _Layer(i + 1, kernel, below, up, bias=spec.conv_bias or not behind)
                if behind and "-bn-" in (spec.decoder_block or spec.block):
                    yield _Layer(i, 0, up, up, bias=False)
            elif spec.upsampling == "conv1-bilinear-aligned" and below != up:
                yield _Layer(i + 1, 1, below, up, bias=True)
            inputs = up + sum(spec.node_width(*node) for node in spec.same_row(i, j))
        yield from _node(spec, i, j, inputs)
    for level in spec.heads:
        width = spec.node_width(0, level)
        if spec.head == "bn-relu-conv3":
            yield _Layer(0, 0, width, width, bias=False)
        kernel = 1 if spec.head == "conv1" else 3**spec.ndim
        yield _Layer(0, kernel, width, spec.classes, bias=True)


def _node(spec: NetworkSpec, i: int, j: int, inputs: int) -> Iterator[_Layer]:
    """The convolutions of X^{i,j}, and their normalisations."""
    block = spec.decoder_block if j > 0 and spec.decoder_block is not None else spec.block
    out = spec.node_width(i, j)
    middle = inputs // 2 if j > 0 and spec.middle == "half-in" else out
    pairs = ((inputs, middle), (middle, out)) if j == 0 or spec.decoder_convolutions == 2 else ((inputs, out),)
    for before, after in pairs:
        yield _Layer(i, math.prod(spec.kernel(i)), before, after, spec.conv_bias)
        if block in ("conv-bn-relu", "conv-in-relu", "bn-relu-conv"):
            normed = before if block == "bn-relu-conv" else after
            yield _Layer(i, 0, normed, normed, bias=False)
