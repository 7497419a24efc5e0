"""Encoders from timm: the stages of a classification network as X^{i,0} of the nested grid.

In this order: the specification of a network on such an encoder (`encoder_spec`), the encoder itself (`build_encoder`), what it
costs (`stage_costs`), and how a network of timm is taken apart. What timm offers is in `backbones_timm.py`, trained weights in
`backbones_weights.py`.

Row i of the grid takes the map that timm gives at the reduction 2**i::

    reduction     1       2       4       8       16      32
    row           0       1       2       3       4       5
    vgg19_bn      stage   stage   stage   stage   stage   stage      encoder_row 0
    resnet152     node    stage   stage   stage   stage   stage      encoder_row 1
    convnext      node    node    stage   stage   stage   -          encoder_row 2

Rows above the first stage are ordinary nodes on the image. The first stage takes the image as well, each other one the stage
above, so that diagonal d computes one stage, and the network pruned to level d holds no stage below row d.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from napari_unetpp.model.backbones_timm import BackboneError, chain_of, offered_maps, timm_network
from napari_unetpp.model.spec import NetworkSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_unetpp.model.spec import Skips, Upsampling
    from napari_unetpp.model.unetpp import Nodes

_COUNTED = 256  # edge of the image that operations are counted on: attention over an image takes more the larger it is


def encoder_spec(
    name: str,
    *,
    in_channels: int = 1,
    classes: int = 1,
    depth: int = 4,
    width: int = 32,
    decoder_widths: Sequence[int] | None = None,
    skips: Skips = "dense",
    heads: Sequence[int] | None = None,
    upsampling: Upsampling = "nearest",
) -> NetworkSpec:
    """Network whose encoder is the one that timm has under that name.

    Parameters
    ----------
    depth
        Down-samplings; most encoders of timm have 5 to give.
    width, decoder_widths
        Channels of X^{i,j>0} in row 0, doubled downwards (the papers' 32), or of each row ``0..depth-1``.
    heads
        None is a head for each level, or one on a plain U-Net.

    Raises
    ------
    BackboneError
        If timm is not installed or does not know the name, or the encoder does not fit the grid.
    """
    offered = offered_maps(name)
    rows = {i: channels for reduction, channels, _ in offered for i in range(20) if reduction == 2**i}
    first = min(rows, default=0)
    deepest = next(i for i in range(first, 21) if i + 1 not in rows)
    if len(rows) < 2 or deepest != max(rows):
        given = ", ".join(str(reduction) for reduction, _, _ in offered)
        raise BackboneError(
            f"encoder {name} gives maps at the reductions {given}, where each is to be twice the one before; use another, "
            "as resnet34"
        )
    if not first <= depth <= deepest:
        raise BackboneError(
            f"encoder {name} gives maps of the rows {first} to {deepest}, so the depth is at most {deepest} and at least "
            f"{max(first, 1)}, not {depth}"
        )
    decoder = tuple(decoder_widths or (width * 2**i for i in range(depth)))
    if len(decoder) != depth:
        raise BackboneError(f"decoder_widths {decoder} must name {depth} rows, one per level")
    spec = NetworkSpec(
        in_channels=in_channels,
        classes=classes,
        widths=tuple(decoder[i] if i < first else rows[i] for i in range(depth + 1)),
        heads=tuple(heads or ((depth,) if skips == "plain" else range(1, depth + 1))),
        skips=skips,
        upsampling=upsampling,
        decoder_widths=decoder,
        conv_bias=False,
        encoder=name,
        encoder_row=first,
    )
    stage_costs(spec)  # runs it once, on shapes alone, and finds out whether they are those of the grid
    with torch.device("meta"):
        whole = isinstance(build_encoder(spec), WholeEncoder)
    return replace(spec, multiple=max(2**depth, *(r for r, _, _ in offered))) if whole else spec


class Encoder(nn.Module):
    """Stages of a network of timm; `stage` gives one after the other."""

    def stage(self, i: int, image: Tensor, nodes: Nodes) -> Tensor:
        """X^{i,0}, out of the image and of the stages above, which are in `nodes`."""
        raise NotImplementedError

    def layers_of(self, i: int) -> list[nn.Module]:
        """What runs for X^{i,0} and for no stage above it."""
        raise NotImplementedError


class ChainEncoder(Encoder):
    """An encoder whose layers run one after the other, so that each stage is a piece of the chain.

    Parameters
    ----------
    stages
        The layers of each row, by the names that timm's ``features_only`` gives them.
    """

    def __init__(self, stages: Mapping[int, Mapping[str, nn.Module]]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: layer for layers in stages.values() for name, layer in layers.items()})
        self._names = {i: tuple(layers) for i, layers in stages.items()}

    def stage(self, i: int, image: Tensor, nodes: Nodes) -> Tensor:
        x = nodes[i - 1, 0] if i - 1 in self._names else image
        for name in self._names[i]:
            x = self.layers[name](x)
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


def build_encoder(spec: NetworkSpec, *, initialise: bool = True, pretrained: bool = False) -> Encoder:
    """Encoder of a specification, on torch's default device.

    Parameters
    ----------
    initialise
        True draws weights as timm does. False leaves them as they lie in memory, for those that are replaced at once, which spares
        the making of classifiers that are thrown away (VGG's has 100 million weights).
    pretrained
        Whether timm fetches weights for it, with all the errors that its network libraries have (`backbones_weights`).

    Raises
    ------
    BackboneError
        As `encoder_spec`.
    """
    device = torch.empty(0).device
    if initialise and device.type != "meta":
        return _taken_apart(spec, _create(spec, device, pretrained=pretrained))
    encoder = _taken_apart(spec, _create(spec, torch.device("meta")))
    if device.type == "meta":
        return encoder
    if not _stored_whole(encoder):
        return _taken_apart(spec, _create(spec, device))
    return encoder.to_empty(device=device)


@dataclass(frozen=True, slots=True)
class StageCost:
    """What X^{row,0} of an encoder costs; the first stage of one that timm cannot take apart costs all of it."""

    row: int
    parameters: int
    flops_per_voxel: float


def stage_costs(spec: NetworkSpec) -> tuple[StageCost, ...]:
    """Cost of each stage of a network's encoder, counted on shapes alone; a multiply-add is two operations.

    Raises
    ------
    BackboneError
        As `encoder_spec`, or where a stage is not of the shape that the specification says.
    """
    return _stage_costs(spec.encoder, spec.in_channels, spec.encoder_row, spec.widths, spec.encoder_taps)


@cache
def _stage_costs(
    name: str, in_channels: int, first: int, widths: tuple[int, ...], taps: tuple[str, ...] | None
) -> tuple[StageCost, ...]:
    from torch.utils.flop_counter import FlopCounterMode

    depth = len(widths) - 1
    spec = NetworkSpec(
        in_channels=in_channels, widths=widths, heads=(depth,), encoder=name, encoder_row=first, encoder_taps=taps
    )
    with torch.device("meta"):
        encoder = build_encoder(spec).eval()
        edge = max(_COUNTED, spec.grid)
        image = torch.empty(1, in_channels, edge, edge)
    nodes: Nodes = {}
    costs = []
    for i in range(first, depth + 1):
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            try:
                nodes[i, 0] = encoder.stage(i, image, nodes)
                found = tuple(nodes[i, 0].shape)
            except (RuntimeError, AssertionError, AttributeError, TypeError, ValueError) as error:
                said = " ".join(str(error).split())[:120]
                raise BackboneError(f"encoder {name} does not run on {edge} x {edge} voxels: {said}") from None
        want = (1, widths[i], edge >> i, edge >> i)
        if found != want:
            raise BackboneError(
                f"encoder {name} gives row {i} of {edge} x {edge} voxels as {_shape(found)} where {_shape(want)} is wanted; "
                "use another, as resnet34"
            )
        counted = sum(p.numel() for layer in encoder.layers_of(i) for p in layer.parameters())
        costs.append(StageCost(i, counted, counter.get_total_flops() / edge**2))
    return tuple(costs)


def _shape(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} channels of {' x '.join(map(str, shape[2:]))}"


def _create(spec: NetworkSpec, device: torch.device, *, pretrained: bool = False) -> nn.Module:
    """Network of timm that gives maps, those of the rows of the specification."""
    offered = offered_maps(spec.encoder)
    at = {reduction: index for index, (reduction, _, _) in enumerate(offered)}
    wanted = [2**i for i in range(spec.encoder_row, spec.depth + 1)]
    if spec.encoder_taps is not None:
        wanted = wanted[-1:]  # the taps lie in front of it
    if missing := [reduction for reduction in wanted if reduction not in at]:
        raise BackboneError(f"encoder {spec.encoder} gives no map at the reduction {missing[0]}")
    indices = tuple(at[reduction] for reduction in wanted)
    return timm_network(spec.encoder, spec.in_channels, indices, device, pretrained=pretrained)


def _taken_apart(spec: NetworkSpec, network: nn.Module) -> Encoder:
    """The stages of a network of timm, one for each row, without the layers below the last."""
    rows = range(spec.encoder_row, spec.depth + 1)
    chain = chain_of(network)
    if chain is None:
        if spec.encoder_taps is not None:
            raise BackboneError(f"encoder {spec.encoder} cannot be taken apart, so it takes no encoder_taps")
        return WholeEncoder(network, rows)
    info: Any = network.feature_info
    ends = [name.replace(".", "_") for name in spec.encoder_taps or info.module_name()]
    if ends[0] == "bn1" and "act1" in chain:  # MobileNetV3 says so, and means its ReLU
        ends[0] = "act1"
    stages: dict[int, dict[str, nn.Module]] = {}
    left = iter(chain.items())
    for i, asked in zip(rows, ends, strict=True):
        end = asked if asked in chain else next((n for n in reversed(chain) if n.startswith(f"{asked}_")), asked)
        stages[i] = {}
        for name, layer in left:
            stages[i][name] = layer
            if name == end:
                break
        else:
            raise BackboneError(f"encoder {spec.encoder} has no layer {end} where row {i} is to end")
    return ChainEncoder(stages)


def _stored_whole(module: nn.Module) -> bool:
    """Whether a state dict holds all numbers of a module, so that one on shapes alone can be filled from it."""
    parts = list(module.modules())
    held = any(isinstance(value, Tensor) for part in parts for value in vars(part).values())
    return not held and not any(part._non_persistent_buffers_set for part in parts)
