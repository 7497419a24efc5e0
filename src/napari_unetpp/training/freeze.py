"""Which part of a network is trained, and how the rest is kept exactly as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from napari_unetpp.model.unetpp import UNetPlusPlus
    from napari_unetpp.training.options import Trainable


def trained_modules(network: UNetPlusPlus, trainable: Trainable) -> list[nn.Module]:
    """The parts that `trainable` names: the whole network, all but the encoder, or the heads.

    The encoder is the column X^{i,0}, or what timm gives of it: nodes above its first stage learn with the decoder.
    """
    if trainable == "all":
        return [network]
    if trainable == "heads":
        return [network.heads]
    decoder = [node for key, node in network.nodes.items() if network.encoder is not None or not key.endswith("_0")]
    return [*decoder, network.ups, network.heads]


def freeze(network: UNetPlusPlus, trainable: Trainable) -> list[nn.Parameter]:
    """Parameters to train; all others ask for no gradient from now on."""
    network.requires_grad_(False)
    chosen = [p for module in trained_modules(network, trainable) for p in module.parameters()]
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen


def set_training(network: UNetPlusPlus, trainable: Trainable) -> None:
    """Put the trained parts into training mode and the others into evaluation, so that their batch statistics stay."""
    network.eval()
    for module in trained_modules(network, trainable):
        module.train()
