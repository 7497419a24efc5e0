"""The nested grid of nodes X^{i,j}, computed diagonal by diagonal.

In this order: the network, its forward pass (equation 1 of both papers), what a node, an up-sampling and a head are, and logits to
probabilities. How images come onto the grid and maps together is in `extents.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from napari_unetpp.model.backbones import build_encoder
from napari_unetpp.model.extents import down, enter, fitted, leave, pad_to_grid

if TYPE_CHECKING:
    from napari_unetpp.model.spec import Block, NetworkSpec

Layer = Callable[..., nn.Module]
_CONV: dict[int, Layer] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Layer] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE_NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}

__all__ = ["Nodes", "UNetPlusPlus", "pad_to_grid", "probabilities", "prune"]

Nodes = dict[tuple[int, int], Tensor]


class UNetPlusPlus(nn.Module):
    """The network of a specification; called with an image it gives the logits of L1..Llevel.

    Diagonal d of the grid needs nothing from later ones, so the head of level d is ready as soon as diagonal d is: pruning is
    stopping early, and a deeper level continues from the nodes that are there.

    Parameters
    ----------
    spec
        Which member of the family to build. Weights are He-normal, drawn from torch's global generator.
    initialise
        False leaves that out, for weights that are replaced at once.
    """

    def __init__(self, spec: NetworkSpec, *, initialise: bool = True) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = build_encoder(spec, initialise=initialise) if spec.encoder else None
        self.nodes = nn.ModuleDict()
        self.ups = nn.ModuleDict()
        for i, j in spec.nodes:
            if spec.from_encoder(i, j):
                continue
            channels = spec.in_channels if i == 0 else spec.widths[i - 1]
            if j > 0:
                channels = spec.up_width(i, j)
                self.ups[_key(i, j)] = _upsampling(spec, spec.node_width(*spec.below(i, j)), channels, i)
                channels += sum(spec.node_width(*node) for node in spec.same_row(i, j))
            self.nodes[_key(i, j)] = _node(spec, channels, i, j)
        self.heads = nn.ModuleDict({str(d): _head(spec, spec.node_width(0, d)) for d in spec.heads})
        if initialise:
            for part in (self.nodes, self.ups, self.heads):  # an encoder has its own
                part.apply(_he_normal)

    def forward(self, image: Tensor, level: int | None = None) -> list[Tensor]:
        """Logits of L1..`level`, shallowest first; a network with a single head gives that one.

        Parameters
        ----------
        image
            (batch, channel, [z,] y, x) float. Any extent: it is mirrored past its far ends up to a multiple of `spec.grids` (and
            past all ends where convolutions are not padded), and the logits are cropped back.
        level
            Deepest level wanted; nodes with i + j > level are not computed. None is the whole network.

        Returns
        -------
        list of Tensor
            One (batch, class, [z,] y, x) per head.

        Raises
        ------
        ValueError
            If the image has other channels or dimensions than the network, or the level has no head.
        """
        spec = self.spec
        if image.ndim != spec.ndim + 2 or image.shape[1] != spec.in_channels:
            raise ValueError(
                f"image of shape {tuple(image.shape)} where (batch, {spec.in_channels} channel, {spec.ndim} spatial axes) is wanted"
            )
        heads = spec.heads_up_to(level)
        nodes: Nodes = {}
        padded = enter(image, spec)
        logits = []
        for d in range(heads[-1] + 1):
            self.add_diagonal(nodes, padded, d)
            if d in heads:
                logits.append(self.head_logits(nodes, d, tuple(image.shape[2:])))
        return logits

    def add_diagonal(self, nodes: Nodes, image: Tensor, d: int) -> None:
        """Compute the nodes with i + j = d into `nodes`, which holds all earlier diagonals."""
        spec = self.spec
        for i, j in spec.nodes:
            if i + j != d:
                continue
            if self.encoder is not None and spec.from_encoder(i, j):
                nodes[i, j] = self.encoder.stage(i, image, nodes)
                continue
            if j == 0:  # x^{i,0} = H(D(x^{i-1,0}))
                inputs = image if i == 0 else down(spec, i - 1, nodes[i - 1, 0])
            else:  # x^{i,j} = H([[x^{i,k}], U(x^{i+1,j-1})])
                skips = [nodes[node] for node in spec.same_row(i, j)]
                skips, up = fitted(spec, skips, self.ups[_key(i, j)](nodes[spec.below(i, j)]))
                inputs = torch.cat([up, *skips] if spec.concatenation == "up-first" else [*skips, up], dim=1)
            nodes[i, j] = self.nodes[_key(i, j)](inputs)

    def head_logits(self, nodes: Nodes, d: int, extent: tuple[int, ...]) -> Tensor:
        """Logits of level d out of X^{0,d}, cropped to `extent`."""
        return leave(cast("Tensor", self.heads[str(d)](nodes[0, d])), self.spec, extent)


def prune(network: UNetPlusPlus, level: int) -> UNetPlusPlus:
    """Network of the nodes with i + j <= `level` alone, with the same weights, device and mode."""
    pruned = UNetPlusPlus(network.spec.pruned(level), initialise=False)
    wanted = pruned.state_dict()
    pruned.load_state_dict({k: v for k, v in network.state_dict().items() if k in wanted})
    parameter = next(network.parameters())
    return pruned.to(device=parameter.device, dtype=parameter.dtype).train(network.training)


def _key(i: int, j: int) -> str:
    return f"{i}_{j}"


def _node(spec: NetworkSpec, in_channels: int, i: int, j: int) -> nn.Sequential:
    """H of equation 1: two 3x3 convolutions (one, where the specification says so) and what surrounds them."""
    out = spec.node_width(i, j)
    middle = in_channels // 2 if j > 0 and spec.middle == "half-in" else out
    strided = spec.pooling == "stride" and j == 0 and i > 0
    block = spec.decoder_block if j > 0 and spec.decoder_block is not None else spec.block
    if j > 0 and spec.decoder_convolutions == 1:
        return nn.Sequential(*_convolution(spec, block, in_channels, out, i))
    return nn.Sequential(
        *_convolution(spec, block, in_channels, middle, i, spec.step(i - 1) if strided else 1),
        *_convolution(spec, block, middle, out, i),
    )


def _convolution(
    spec: NetworkSpec, block: Block, in_channels: int, out: int, i: int, stride: int | tuple[int, ...] = 1
) -> list[nn.Module]:
    kernel = spec.kernel(i)
    padding = tuple(k // 2 for k in kernel) if spec.padding == "same" else 0
    conv = _CONV[spec.ndim](in_channels, out, kernel, stride=stride, padding=padding, bias=spec.conv_bias)
    relu = nn.LeakyReLU(spec.negative_slope) if spec.negative_slope else nn.ReLU()
    if block == "conv-relu":
        return [conv, relu]
    if block == "conv-bn-relu":
        return [conv, _NORM[spec.ndim](out), relu]
    if block == "conv-in-relu":
        return [conv, _INSTANCE_NORM[spec.ndim](out, affine=True), relu]
    if block == "bn-relu-conv":
        return [_NORM[spec.ndim](in_channels), relu, conv]
    return [conv, relu, nn.Dropout(spec.dropout)]


def _upsampling(spec: NetworkSpec, below: int, width: int, i: int) -> nn.Module:
    """U of equation 1, from `below` to `width` channels, up to row i."""
    step = spec.step(i)
    if spec.upsampling == "transposed2":
        return _TRANSPOSED[spec.ndim](below, width, step, stride=step)
    if spec.upsampling == "transposed4":
        return _TRANSPOSED[spec.ndim](below, width, 4, stride=2, padding=1)
    if spec.upsampling == "transposed4-relu":
        normed = [_NORM[spec.ndim](width)] if "-bn-" in (spec.decoder_block or spec.block) else []
        up = _TRANSPOSED[spec.ndim](below, width, 4, stride=2, padding=1, bias=spec.conv_bias)
        return nn.Sequential(up, *normed, nn.ReLU())
    if spec.upsampling == "nearest":
        return nn.Upsample(scale_factor=step, mode="nearest")
    aligned = spec.upsampling.endswith("bilinear-aligned")
    linear = nn.Upsample(scale_factor=step, mode=_LINEAR[spec.ndim], align_corners=aligned)
    if spec.upsampling == "conv1-bilinear-aligned" and below != width:
        return nn.Sequential(_CONV[spec.ndim](below, width, 1), linear)
    return linear


def _head(spec: NetworkSpec, width: int) -> nn.Module:
    if spec.head == "conv1":
        return _CONV[spec.ndim](width, spec.classes, 1)
    conv = _CONV[spec.ndim](width, spec.classes, 3, padding=1)
    if spec.head == "conv3":
        return conv
    return nn.Sequential(_NORM[spec.ndim](width), nn.ReLU(), conv)


def _he_normal(module: nn.Module) -> None:
    """He-normal weights and zero biases, as the papers' own code (Keras ``he_normal``)."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def probabilities(logits: Tensor) -> Tensor:
    """Probabilities in [0, 1] out of the logits (batch, class, ...) of one head.

    Sigmoid for one class; softmax over the classes, of which channel 0 is the background, for two and more.
    """
    return torch.sigmoid(logits) if logits.shape[1] == 1 else torch.softmax(logits, dim=1)
