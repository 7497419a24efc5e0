"""A network as bare convolutions: batch normalisation is folded into their weights.

In this order: what a convolution is (`Convolution`), and those of a whole network (`fold_network`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_unetpp.model.unetpp import UNetPlusPlus


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution without anything but numbers, float64.

    Parameters
    ----------
    before
        Gain and offset per channel of a normalisation in front, followed by a ReLU, or None.
    slope
        Of the ReLU below zero.
    behind
        Gain, offset (per channel) and epsilon of an InstanceNorm between the convolution and its ReLU, or None.
    stride
        Per axis; empty is 1 everywhere.
    padded
        Whether zeros around the input keep its extent.
    """

    weight: Tensor
    bias: Tensor
    relu: bool
    before: tuple[Tensor, Tensor] | None = None
    slope: float = 0.0
    behind: tuple[Tensor, Tensor, float] | None = None
    stride: tuple[int, ...] = ()  # 1 everywhere
    padded: bool = True


def fold_network(network: UNetPlusPlus) -> Iterator[tuple[str, tuple[Convolution, ...]]]:
    """Convolutions of every node ("i_j") and of every head ("head_d"), one node at a time.

    Folding is done in float64, so it changes no more than the last bit of a float32; who takes one
    after the other never holds all weights in it.
    """
    for key, node in network.nodes.items():
        layers = list(node.children())  # blocks of the same kind
        size = len(layers) // sum(isinstance(layer, nn.Conv2d | nn.Conv3d) for layer in layers)
        yield key, tuple(_fold(layers[k : k + size]) for k in range(0, len(layers), size))
    for level, head in network.heads.items():
        yield f"head_{level}", (_fold(list(head.children()) or [head]),)


def _fold(block: list[nn.Module]) -> Convolution:
    """A block of one convolution and what surrounds it; dropout does nothing in evaluation."""
    conv: Any = next(layer for layer in block if isinstance(layer, nn.Conv2d | nn.Conv3d))
    norm = next((layer for layer in block if _is_norm(layer)), None)
    activation = next((layer for layer in block if isinstance(layer, nn.ReLU | nn.LeakyReLU)), None)
    relu, slope = activation is not None, float(getattr(activation, "negative_slope", 0.0))
    stride = () if set(conv.stride) == {1} else tuple(conv.stride)
    padded = all(p == k // 2 for p, k in zip(conv.padding, conv.kernel_size, strict=True))
    shape: dict[str, Any] = {"slope": slope, "stride": stride, "padded": padded}
    weight = conv.weight.detach().double().cpu()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().double().cpu()
    instance: Any = next((layer for layer in block if isinstance(layer, nn.InstanceNorm2d | nn.InstanceNorm3d)), None)
    if instance is not None:  # it measures what the convolution gives, so it cannot be folded
        gain, offset = (t.detach().double().cpu() for t in (instance.weight, instance.bias))
        return Convolution(weight, bias, relu, behind=(gain, offset, instance.eps), **shape)
    if norm is None:
        return Convolution(weight, bias, relu, **shape)
    gain, offset = _affine(norm)
    if norm is block[0]:  # in front: zeros beyond the border are zeros behind it, so it cannot be folded
        return Convolution(weight, bias, relu=False, before=(gain, offset), **shape)
    weight = weight * gain.reshape(-1, *(1,) * (weight.ndim - 1))
    return Convolution(weight, bias * gain + offset, relu, **shape)


def _is_norm(layer: nn.Module) -> bool:
    return isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d)


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Gain and offset per channel of a batch normalisation in evaluation."""
    gain = norm.weight.detach().double().cpu() / torch.sqrt(norm.running_var.double().cpu() + norm.eps)
    return gain, norm.bias.detach().double().cpu() - norm.running_mean.double().cpu() * gain
