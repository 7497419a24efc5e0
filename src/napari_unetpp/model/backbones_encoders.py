"""Encoders in stages: what a network takes X^{i,0} from where that is not a node of its own.

In this order: what each offers (`Encoder`), one that is a chain of layers, one that cannot be taken apart. They are
made in `backbones.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_unetpp.model.unetpp import Nodes


class Encoder(nn.Module, ABC):
    """Stages of a classification network; `stage` gives one after the other."""

    @abstractmethod
    def stage(self, i: int, image: Tensor, nodes: Nodes) -> Tensor:
        """X^{i,0}, out of the image and of the stages above, which are in `nodes`.

        Where the specification has `encoder_feeds`, what X^{i-1,1} up-samples comes into `nodes` as (i, -1).
        """

    @abstractmethod
    def layers_of(self, i: int) -> list[nn.Module]:
        """What runs for X^{i,0} and for no stage above it."""


class ChainEncoder(Encoder):
    """An encoder whose layers run one after the other, so that each stage is a piece of the chain.

    Parameters
    ----------
    stages
        The layers of each row, by the names that timm's ``features_only`` gives them.
    feeds
        Of a row, the layer whose output X^{i-1,1} up-samples.
    """

    def __init__(self, stages: Mapping[int, Mapping[str, nn.Module]], feeds: Mapping[int, str]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: layer for layers in stages.values() for name, layer in layers.items()})
        self._names = {i: tuple(layers) for i, layers in stages.items()}
        self._feeds = dict(feeds)

    def stage(self, i: int, image: Tensor, nodes: Nodes) -> Tensor:
        x = nodes[i - 1, 0] if i - 1 in self._names else image
        for name in self._names[i]:
            x = self.layers[name](x)
            if name == self._feeds.get(i):
                nodes[i, -1] = x
        return x

    def layers_of(self, i: int) -> list[nn.Module]:
        return [self.layers[name] for name in self._names[i]]


class WholeEncoder(Encoder):
    """An encoder that timm cannot take apart: all stages come with the first one."""

    def __init__(self, body: nn.Module, rows: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        self._rows = tuple(rows)

    def stage(self, i: int, image: Tensor, nodes: Nodes) -> Tensor:
        if i == self._rows[0]:
            nodes.update({(row, 0): x for row, x in zip(self._rows, self.body(image), strict=True)})
        return nodes[i, 0]

    def layers_of(self, i: int) -> list[nn.Module]:
        return [self.body] if i == self._rows[0] else []
