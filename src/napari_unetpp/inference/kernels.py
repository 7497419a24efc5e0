"""The layers of a network, prepared for one device and one precision.

Decides, in this order: what a prepared network offers (`Layers`), how torch runs its convolutions
(`TorchLayers`), and one pass over a whole image (`add_diagonal`, `whole_pass`).

On a CPU a convolution of a 2D network goes to oneDNN with weights that were brought into its own
order once, and with its ReLU in the same call; torch offers that only as an operator of its
compiler, so the first call proves it, and F.conv2d stands in where it is missing.
"""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_unetpp.inference.folding import Convolution, fold_network
from napari_unetpp.inference.joining import side_by_side
from napari_unetpp.model.extents import down, enter, fitted, leave

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_unetpp.inference.joining import Buffer
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.model.unetpp import Nodes, UNetPlusPlus

log = logging.getLogger(__name__)

_CONVOLVE: dict[int, Callable[..., Tensor]] = {2: F.conv2d, 3: F.conv3d}
LAST: dict[int, torch.memory_format] = {2: torch.channels_last, 3: torch.channels_last_3d}


class Unit(Protocol):
    """One convolution with what belongs to it.

    Attributes
    ----------
    reach
        Rows at either side that an output row looks at.
    before
        What is done to the input first, voxel by voxel (pre-activation), or None.
    """

    reach: int
    before: Callable[[Tensor], Tensor] | None

    def __call__(self, x: Tensor, *, context: bool = False) -> Tensor:
        """The rows of x convolved; with `context`, x has `reach` more rows at either end for it."""
        ...


class Layers(Protocol):
    """A prepared network: all that a pass needs, whole or band by band."""

    spec: NetworkSpec
    item: int  # bytes of an element of a map

    def enter(self, image: Tensor) -> Tensor:
        """The image (batch, channel, [z,] y, x) float32 as the first convolution takes it."""
        ...

    def node(self, i: int, j: int) -> tuple[Unit, ...]:
        """Units of X^{i,j}, two but where the specification has one in its decoder."""
        ...

    def head(self, d: int) -> Unit:
        """Unit that gives the logits of level d."""
        ...

    def pool(self, i: int, x: Tensor) -> Tensor:
        """X^{i,0} as the first convolution of X^{i+1,0} takes it."""
        ...

    def up(self, i: int, j: int, x: Tensor) -> Tensor:
        """What lies below X^{i,j}, up-sampled for it."""
        ...

    def stage(self, i: int, image: Tensor, nodes: Nodes) -> Tensor:
        """X^{i,0} of a network with an encoder."""
        ...


class TorchLayers:
    """A network in floating point on any device of torch.

    Parameters
    ----------
    network
        Its weights are copied, so that training may go on while this runs.
    """

    def __init__(self, network: UNetPlusPlus, device: torch.device, dtype: torch.dtype) -> None:
        self.spec = network.spec
        self.device, self.dtype, self.item = device, dtype, dtype.itemsize
        self._encoder = network.encoder and copy.deepcopy(network.encoder).to(device, dtype).eval().requires_grad_(
            False
        )
        self._units = {
            key: tuple(make_unit(c, self.spec.ndim, device, dtype) for c in convolutions)
            for key, convolutions in fold_network(network)
        }
        self._ups = {
            key: copy.deepcopy(up).to(device, dtype).eval().requires_grad_(False) for key, up in network.ups.items()
        }

    def enter(self, image: Tensor) -> Tensor:
        return image.to(self.device, self.dtype, non_blocking=True).contiguous(memory_format=LAST[self.spec.ndim])

    def node(self, i: int, j: int) -> tuple[Unit, ...]:
        return self._units[f"{i}_{j}"]

    def head(self, d: int) -> Unit:
        return self._units[f"head_{d}"][0]

    def pool(self, i: int, x: Tensor) -> Tensor:
        return down(self.spec, i, x)

    def up(self, i: int, j: int, x: Tensor) -> Tensor:
        up: Tensor = self._ups[f"{i}_{j}"](x)
        return up

    def stage(self, i: int, image: Tensor, nodes: Nodes) -> Tensor:
        assert self._encoder is not None
        return self._encoder.stage(i, image, nodes)


def make_unit(convolution: Convolution, ndim: int, device: torch.device, dtype: torch.dtype) -> Unit:
    """The fastest way that works here to run a convolution."""
    plain = convolution.slope == 0 and convolution.behind is None and not convolution.stride and convolution.padded
    plain = plain and len({*convolution.weight.shape[2:]}) == 1
    if plain and device.type == "cpu" and ndim == 2 and dtype is not torch.float64 and _has_packed(dtype):
        return _PackedUnit(convolution, dtype)
    return _PlainUnit(convolution, ndim, device, dtype)


class _PlainUnit:
    """A convolution by torch's own functions, on any device."""

    def __init__(self, convolution: Convolution, ndim: int, device: torch.device, dtype: torch.dtype) -> None:
        extents = tuple(convolution.weight.shape[2:])
        self.reach = extents[0] // 2
        self._stride = convolution.stride or (1,) * ndim
        self._convolve = _CONVOLVE[ndim]
        self._weight = convolution.weight.to(device, dtype).contiguous(memory_format=LAST[ndim])
        self._bias = convolution.bias.to(device, dtype)
        self._relu, self._slope = convolution.relu, convolution.slope
        self._instance: tuple[Tensor, Tensor, float] | None = None
        if convolution.behind is not None:
            gain, offset, epsilon = convolution.behind
            self._instance = gain.to(device, dtype), offset.to(device, dtype), epsilon
        self._around = tuple(k // 2 if convolution.padded else 0 for k in extents)
        self._across = (0, *self._around[1:])
        self.before = _affine_relu(convolution, ndim, device, dtype)

    def __call__(self, x: Tensor, *, context: bool = False) -> Tensor:
        y = self._convolve(x, self._weight, self._bias, self._stride, padding=self._across if context else self._around)
        if self._instance is not None:
            gain, offset, epsilon = self._instance
            y = F.instance_norm(y, weight=gain, bias=offset, eps=epsilon)
        if not self._relu:
            return y
        return F.leaky_relu_(y, self._slope) if self._slope else y.relu_()


class _PackedUnit:
    """A 2D convolution by oneDNN, its weights packed once and its ReLU in the same pass."""

    def __init__(self, convolution: Convolution, dtype: torch.dtype) -> None:
        weight = convolution.weight.to(dtype)
        self.reach = weight.shape[-1] // 2
        size = [1, weight.shape[1], 64, 64]  # oneDNN asks for one; any other works with what it packs
        around, one = [self.reach] * 2, [1, 1]
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(weight, around, one, one, 1, size)
        self._bias = convolution.bias.float()  # in bf16 too: it costs nothing, and rounds a little less
        self._then = "relu" if convolution.relu else "none"
        self._around, self._across = around, [0, self.reach]
        self.before = _affine_relu(convolution, 2, torch.device("cpu"), dtype)

    def __call__(self, x: Tensor, *, context: bool = False) -> Tensor:
        padding, one = self._across if context else self._around, (1, 1)
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, self._bias, padding, one, one, 1, self._then, [], ""
        )
        return y


def _affine_relu(
    convolution: Convolution, ndim: int, device: torch.device, dtype: torch.dtype
) -> Callable[[Tensor], Tensor] | None:
    if convolution.before is None:
        return None
    gain, offset = (t.to(device, dtype).reshape(1, -1, *(1,) * ndim) for t in convolution.before)
    if slope := convolution.slope:
        return lambda x: F.leaky_relu_(torch.addcmul(offset, x, gain), slope)
    return lambda x: torch.addcmul(offset, x, gain).relu_()


_packed: dict[torch.dtype, bool] = {}


def _has_packed(dtype: torch.dtype) -> bool:
    """Whether oneDNN's packed convolution exists here and agrees with torch's own."""
    if dtype not in _packed:
        _packed[dtype] = False  # also while it is tried: make_unit must not come back here
        generator = torch.Generator().manual_seed(0)
        weight, bias = (torch.randn(s, generator=generator) for s in ((4, 3, 3, 3), (4,)))
        image = torch.randn((1, 3, 9, 10), generator=generator).to(dtype).contiguous(memory_format=LAST[2])
        convolution = Convolution(weight, bias, relu=True)
        try:
            with torch.inference_mode():
                packed = _PackedUnit(convolution, dtype)(image).float()
                plain = _PlainUnit(convolution, 2, torch.device("cpu"), dtype)(image).float()
            tolerance = 1e-4 if dtype is torch.float32 else 0.1
            _packed[dtype] = torch.allclose(packed, plain, atol=tolerance, rtol=tolerance)
        except (RuntimeError, AttributeError, TypeError) as error:
            log.info("oneDNN's packed convolution is not used: %s", str(error).partition("\n")[0])
    return _packed[dtype]


def add_diagonal(layers: Layers, nodes: Nodes, image: Tensor, d: int, buffer: Buffer | None = None) -> None:
    """Compute the nodes with i + j = d into `nodes`, which holds all earlier diagonals.

    Parameters
    ----------
    image
        What `Layers.enter` gave, of an extent that the network takes (`model.extents`).
    buffer
        Where concatenations are made; None takes new memory for each.
    """
    for i, j in layers.spec.nodes:
        if i + j == d:
            add_node(layers, nodes, image, i, j, buffer)


def add_node(layers: Layers, nodes: Nodes, image: Tensor, i: int, j: int, buffer: Buffer | None = None) -> None:
    """Compute X^{i,j} into `nodes`, which holds all that it is made from; the rest is as for `add_diagonal`."""
    if layers.spec.from_encoder(i, j):
        nodes[i, j] = layers.stage(i, image, nodes)
        return
    if j == 0:
        x = image if i == 0 else layers.pool(i - 1, nodes[i - 1, 0])
    else:
        skips = [nodes[node] for node in layers.spec.same_row(i, j)]
        skips, up = fitted(layers.spec, skips, layers.up(i, j, nodes[layers.spec.below(i, j)]))
        x = side_by_side([up, *skips] if layers.spec.concatenation == "up-first" else [*skips, up], buffer)
    for unit in layers.node(i, j):
        x = unit(x if unit.before is None else unit.before(x))
    nodes[i, j] = x


def head_logits(layers: Layers, nodes: Nodes, d: int) -> Tensor:
    """Logits of level d out of X^{0,d}, over the padded extent."""
    unit, x = layers.head(d), nodes[0, d]
    return unit(x if unit.before is None else unit.before(x))


def whole_pass(layers: Layers, image: Tensor, level: int | None = None, buffer: Buffer | None = None) -> list[Tensor]:
    """Logits (batch, class, [z,] y, x) of L1..`level` from one pass; the image may be of any extent."""
    heads = layers.spec.heads_up_to(level)
    entered = layers.enter(enter(image, layers.spec))
    nodes: Nodes = {}
    logits = []
    for d in range(heads[-1] + 1):
        add_diagonal(layers, nodes, entered, d, buffer)
        if d in heads:
            logits.append(leave(head_logits(layers, nodes, d), layers.spec, image.shape[2:]))
    return logits
