"""Encoders from timm: the stages of a classification network as X^{i,0} of the nested grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.model.unetpp import Nodes


class Encoder(nn.Module):
    """Stages of a network of timm."""

    def stage(self, i: int, image: Tensor, nodes: Nodes) -> Tensor:
        """X^{i,0}, out of the image and the rows above."""
        raise NotImplementedError


def build_encoder(spec: NetworkSpec) -> Encoder:
    """Encoder of a specification, with random weights."""
    raise NotImplementedError
