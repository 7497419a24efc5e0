"""Encoders from timm: the stages of a classification network as X^{i,0} of the nested grid.

In this order: the specification of a network on such an encoder (`encoder_spec`), the encoder itself (`build_encoder`), what it
costs (`stage_costs`), and how a network of timm is taken apart. What encoders do is in `backbones_encoders.py`, what timm offers in
`backbones_timm.py`, what it has not in `backbones_preact.py`, trained weights in `backbones_weights.py`.

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

from napari_unetpp.model.backbones_encoders import ChainEncoder, Encoder, WholeEncoder
from napari_unetpp.model.backbones_preact import PREACT, PreactResNet
from napari_unetpp.model.backbones_timm import BackboneError, chain_of, offered_maps, tapped, timm_network
from napari_unetpp.model.spec import NetworkSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    if spec.encoder in PREACT:
        return _preact(spec, device, initialise=initialise, pretrained=pretrained)
    if initialise and device.type != "meta":
        return _taken_apart(spec, _create(spec, device, pretrained=pretrained))
    encoder = _taken_apart(spec, _create(spec, torch.device("meta")))
    if device.type == "meta":
        return encoder
    if not _stored_whole(encoder):
        return _taken_apart(spec, _create(spec, device))
    return encoder.to_empty(device=device)


def _preact(spec: NetworkSpec, device: torch.device, *, initialise: bool, pretrained: bool) -> Encoder:
    if pretrained:
        raise BackboneError(
            f"encoder {spec.encoder} is none of timm's, which has no weights for it; fine-tune an imported model"
        )
    if initialise:
        encoder = PreactResNet(spec.encoder, spec.in_channels, spec.depth)
        for layer in encoder.layers.values():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        return encoder
    with torch.device("meta"):
        encoder = PreactResNet(spec.encoder, spec.in_channels, spec.depth)
    return encoder if device.type == "meta" else encoder.to_empty(device=device)


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
    return _stage_costs(
        NetworkSpec(
            in_channels=spec.in_channels,
            widths=spec.widths,
            heads=(spec.depth,),
            encoder=spec.encoder,
            encoder_row=spec.encoder_row,
            encoder_taps=spec.encoder_taps,
            encoder_feeds=spec.encoder_feeds,
        )
    )


@cache
def _stage_costs(spec: NetworkSpec) -> tuple[StageCost, ...]:
    """The same, for a specification that says nothing beside its encoder."""
    from torch.utils.flop_counter import FlopCounterMode

    name = spec.encoder
    with torch.device("meta"):
        encoder = build_encoder(spec).eval()
        edge = max(_COUNTED, spec.grid)
        image = torch.empty(1, spec.in_channels, edge, edge)
    nodes: Nodes = {}
    costs = []
    for i in range(spec.encoder_row, spec.depth + 1):
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            try:
                nodes[i, 0] = encoder.stage(i, image, nodes)
                found = tuple(nodes[i, 0].shape)
            except (RuntimeError, AssertionError, AttributeError, TypeError, ValueError) as error:
                said = " ".join(str(error).split())[:120]
                raise BackboneError(f"encoder {name} does not run on {edge} x {edge} voxels: {said}") from None
        want = (1, spec.widths[i], edge >> i, edge >> i)
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
        wanted = [reduction for reduction, _, _ in offered]  # taps may lie behind the map of their row
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
        if spec.encoder_feeds is not None:
            raise BackboneError(f"encoder {spec.encoder} cannot be taken apart, so it takes no encoder_feeds")
        return WholeEncoder(network, rows)
    info: Any = network.feature_info
    taps = [*(spec.encoder_taps or info.module_name())]
    if taps[0] == "bn1" and "act1" in chain:  # MobileNetV3 says so, and means its ReLU
        taps[0] = "act1"
    ends = {}
    for i, tap in zip(rows, taps, strict=True):
        chain, ends[i] = tapped(chain, tap, spec.widths[i])
    stages: dict[int, dict[str, nn.Module]] = {}
    left = iter(chain.items())
    for i, end in ends.items():
        stages[i] = {}
        for name, layer in left:
            stages[i][name] = layer
            if name == end:
                break
        else:
            raise BackboneError(f"encoder {spec.encoder} has no layer {end} where row {i} is to end")
    fed = (module.replace(".", "_") for module, _ in spec.encoder_feeds or ())
    feeds = dict(zip(rows[1:], fed, strict=False))
    if missing := next((name for i, name in feeds.items() if name not in stages[i]), ""):
        raise BackboneError(f"encoder {spec.encoder} has no layer {missing} in the row that it is to feed")
    return ChainEncoder(stages, feeds)


def _stored_whole(module: nn.Module) -> bool:
    """Whether a state dict holds all numbers of a module, so that one on shapes alone can be filled from it."""
    parts = list(module.modules())
    held = any(isinstance(value, Tensor) for part in parts for value in vars(part).values())
    return not held and not any(part._non_persistent_buffers_set for part in parts)
