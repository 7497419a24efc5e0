"""ResNets with pre-activation as the Keras code of the UNet++ authors builds them, which timm has not.

In this order: which there are, the maps that their nested networks take (`channels_of`, `feeds_of`), the encoder itself.

They begin with a BatchNorm of the image (``bn_data``), have BatchNorm and ReLU before each convolution, and end in one more of each
(``bn1``, ``relu1``). The map of a row is the first ReLU of the next stage, ``stage{s+1}_unit1_relu1``; what X^{i,1} up-samples lies
before it, at the first ReLU of the second block, ``stage{s}_unit2_relu1``. Layers have the names of the Keras files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from napari_unetpp.model.backbones_encoders import Encoder

if TYPE_CHECKING:
    from napari_unetpp.model.unetpp import Nodes

FIRST_ROW = 1  # the first convolution has a stride of 2
_STAGES = 4  # the rows 2 to 5
_FIRST = 64  # channels of the first convolution, and inside the blocks of stage 1

# Blocks of each stage, and convolutions of a block.
PREACT: dict[str, tuple[tuple[int, ...], int]] = {
    "keras-resnet18": ((2, 2, 2, 2), 2),
    "keras-resnet34": ((3, 4, 6, 3), 2),
    "keras-resnet50": ((3, 4, 6, 3), 3),
    "keras-resnet101": ((3, 4, 23, 3), 3),
    "keras-resnet152": ((3, 8, 36, 3), 3),
}


def channels_of(name: str) -> tuple[int, ...]:
    """Channels of the maps of the rows 1 to 5."""
    return (_FIRST, *(_given(name, stage) for stage in range(1, _STAGES + 1)))


def feeds_of(name: str) -> tuple[tuple[str, int], ...]:
    """(layer, channels) of what X^{i,1} up-samples, for the rows i + 1 of 2 to 5."""
    layers = (*(f"stage{stage}_unit2_relu1" for stage in (1, 2, 3)), "relu1")
    return tuple((layer, _given(name, stage)) for stage, layer in enumerate(layers, 1))


def _given(name: str, stage: int) -> int:
    """Channels that the blocks of a stage give."""
    return (_FIRST << stage - 1) * (4 if PREACT[name][1] == 3 else 1)


class PreactResNet(Encoder):
    """Rows 1 to `depth` of such a network.

    Parameters
    ----------
    name
        One of `PREACT`.
    depth
        1 to 5.
    """

    def __init__(self, name: str, in_channels: int, depth: int) -> None:
        super().__init__()
        self._blocks, self._convolutions = PREACT[name]
        self.layers = nn.ModuleDict()
        self._rows: dict[int, list[str]] = {row: [] for row in range(FIRST_ROW, depth + 1)}
        self._add(1, "bn_data", nn.BatchNorm2d(in_channels))
        self._add(1, "conv0", _convolution(in_channels, _FIRST, 7, 2))
        self._add(1, "bn0", nn.BatchNorm2d(_FIRST))
        below = _FIRST
        for row in range(2, depth + 1):
            stage = row - 1
            inner, given = _FIRST << stage - 1, _given(name, stage)
            for unit in range(1, self._blocks[stage - 1] + 1):
                if unit > 1 or stage == 1:  # else it belongs to the row above, whose map is behind it
                    self._add(row, _norm(stage, unit), nn.BatchNorm2d(below))
                step = 2 if unit == 1 and stage > 1 else 1
                self._add_block(row, f"stage{stage}_unit{unit}_", below, inner, given, step)
                if unit == 1:
                    self._add(row, f"stage{stage}_unit1_sc", _convolution(below, given, 1, step))
                below = given
            self._add(row, _norm(stage + 1, 1), nn.BatchNorm2d(below))

    def _add_block(self, row: int, name: str, below: int, inner: int, given: int, step: int) -> None:
        """The convolutions of a block, all but the first behind a BatchNorm; the first 3x3 one samples down."""
        kernels, widths = ((3, 3), (inner, given)) if self._convolutions == 2 else ((1, 3, 1), (inner, inner, given))
        for k, (kernel, width) in enumerate(zip(kernels, widths, strict=True), 1):
            if k > 1:
                self._add(row, f"{name}bn{k}", nn.BatchNorm2d(below))
            self._add(
                row, f"{name}conv{k}", _convolution(below, width, kernel, step if k == kernels.index(3) + 1 else 1)
            )
            below = width

    def _add(self, row: int, name: str, layer: nn.Module) -> None:
        self.layers[name] = layer
        self._rows[row].append(name)

    def stage(self, i: int, image: Tensor, nodes: Nodes) -> Tensor:
        if i == FIRST_ROW:
            return self._activated("bn0", self.layers["conv0"](self.layers["bn_data"](image)))
        stage = i - 1
        if stage == 1:
            x = F.max_pool2d(nodes[i - 1, 0], 3, 2, 1)
            before = self._activated(_norm(stage, 1), x)
        else:
            x = before = nodes[i - 1, 0]
        for unit in range(1, self._blocks[stage - 1] + 1):
            if unit > 1:
                before = self._activated(_norm(stage, unit), x)
            if unit == 2 and stage < _STAGES:
                nodes[i, -1] = before
            x = self._block(f"stage{stage}_unit{unit}_", x, before)
        last = self._activated(_norm(stage + 1, 1), x)
        if stage == _STAGES:
            nodes[i, -1] = last
        return last

    def _block(self, name: str, x: Tensor, before: Tensor) -> Tensor:
        y = self.layers[f"{name}conv1"](before)
        for k in range(2, self._convolutions + 1):
            y = self.layers[f"{name}conv{k}"](self._activated(f"{name}bn{k}", y))
        beside = self.layers[f"{name}sc"](before) if f"{name}sc" in self.layers else x
        total: Tensor = beside + y
        return total

    def _activated(self, norm: str, x: Tensor) -> Tensor:
        y: Tensor = self.layers[norm](x)
        return y.relu()

    def layers_of(self, i: int) -> list[nn.Module]:
        return [self.layers[name] for name in self._rows[i]]


def _norm(stage: int, unit: int) -> str:
    """Name of the BatchNorm that a block begins with; the last one has no block behind it."""
    return "bn1" if stage > _STAGES else f"stage{stage}_unit{unit}_bn1"


def _convolution(below: int, width: int, kernel: int, step: int) -> nn.Conv2d:
    return nn.Conv2d(below, width, kernel, step, kernel // 2, bias=False)
