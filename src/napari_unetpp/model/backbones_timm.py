"""What timm offers: the package itself, the maps that a network of it gives, and such a network with its layers in order.

A map of somebody else's network may lie inside a layer of timm's, or behind what timm has not; `tapped` makes a place for it.

timm is optional, and imported here alone, in functions.
"""

from __future__ import annotations

from copy import deepcopy
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import Any, cast

import torch
from torch import nn


class BackboneError(ValueError):
    """timm is missing, or has no such encoder, or one that does not fit the grid; the message is one line."""


def import_timm() -> Any:
    """The package timm.

    Raises
    ------
    BackboneError
        If it is not installed, or does not load.
    """
    try:
        import timm
    except ImportError:
        raise BackboneError(
            'encoders need timm, which is not installed: pip install "napari-unetpp[backbones]"'
        ) from None
    except RuntimeError as error:  # a torchvision that was built for another torch
        said = " ".join(str(error).split())[:120]
        raise BackboneError(
            f"encoders need timm, which does not load here ({said}); install it and torchvision again"
        ) from None
    return timm


@cache
def offered_maps(name: str) -> tuple[tuple[int, int, str], ...]:
    """(reduction, channels, module) of each map that timm's network of that name gives, finest first."""
    timm = import_timm()
    bare = name_in_timm(name)
    if not timm.is_model(bare):
        near = get_close_matches(bare, timm.list_models(), n=3) or ["resnet34", "vgg19_bn"]
        raise BackboneError(f"encoder {name!r} is unknown to timm; did you mean {' or '.join(near)}?")
    if timm.models.get_pretrained_cfg(bare, allow_unregistered=True).fixed_input_size:
        raise BackboneError(f"encoder {name} takes images of one size only; use one of convolutions, as resnet34")
    network: Any = timm_network(name, 3, None, torch.device("meta"))
    if getattr(network, "output_fmt", "NCHW") != "NCHW":
        raise BackboneError(f"encoder {name} gives maps with channels last; use one of convolutions, as resnet34")
    info = network.feature_info.info
    return tuple((int(f["reduction"]), int(f["num_chs"]), str(f["module"])) for f in info)


def name_in_timm(name: str) -> str:
    """Name of an encoder without the extent of image that its padding is of.

    >>> name_in_timm("tf_efficientnet_b3@300")
    'tf_efficientnet_b3'
    """
    return name.partition("@")[0]


def timm_network(
    name: str, in_channels: int, indices: tuple[int, ...] | None, device: torch.device, *, pretrained: bool = False
) -> nn.Module:
    """Network of timm that gives maps; `name` may end in ``@300``, which pads any image as TensorFlow pads one of that extent."""
    if device.type == "meta" and not pretrained:
        return deepcopy(_on_shapes(name, in_channels, indices))
    network = _created(name_in_timm(name), in_channels, indices, device, pretrained=pretrained)
    return _padded(network, name)


# One model is built again and again, by who counts, checks and loads; timm takes ten times as long as a copy.
@lru_cache(maxsize=8)
def _on_shapes(name: str, in_channels: int, indices: tuple[int, ...] | None) -> nn.Module:
    network = _created(name_in_timm(name), in_channels, indices, torch.device("meta"), pretrained=False)
    return _padded(network, name)


def _created(
    name: str, in_channels: int, indices: tuple[int, ...] | None, device: torch.device, *, pretrained: bool
) -> nn.Module:
    timm = import_timm()
    given: dict[str, Any] = {"features_only": True, "pretrained": pretrained, "in_chans": in_channels}
    if indices is not None:
        given["out_indices"] = indices
    try:
        with device:
            return cast("nn.Module", timm.create_model(name, **given))
    except NotImplementedError:  # some draw up their layers with operators that shapes alone have not
        if device.type != "meta":
            raise
        with torch.device("cpu"):
            return cast("nn.Module", timm.create_model(name, **given).to(device))
    except (RuntimeError, AssertionError, AttributeError, TypeError) as error:
        if pretrained:
            raise
        said = " ".join(str(error).split())[:120]
        raise BackboneError(f"encoder {name} gives no maps ({said}); use another, as resnet34") from None


def _padded(network: nn.Module, name: str) -> nn.Module:
    """The network; where an extent stands in its name, convolutions that halve a map pad as they would on an image of that extent.

    For an odd map a kernel k of stride 2 takes k - 1 voxels of padding, as many on both sides; for an even one, as all maps of the
    grid are, k - 2.
    """
    _, at, said = name.partition("@")
    if not at:
        return network
    extent = int(said) if said.isdecimal() else 0
    from timm.layers.conv2d_same import Conv2dSame

    found: list[tuple[str, Any]] = [(path, m) for path, m in network.named_modules() if isinstance(m, Conv2dSame)]
    if not extent or not found:
        raise BackboneError(
            f"encoder {name}: only padding of TensorFlow depends on an extent; leave out what follows the @"
        )
    for path, conv in found:
        if extent % 2:
            kernel, bias = conv.kernel_size, conv.bias is not None
            odd = nn.Conv2d(
                conv.in_channels,
                conv.out_channels,
                kernel,
                conv.stride,
                kernel[0] // 2,
                groups=conv.groups,
                bias=bias,
                device="meta",
            )
            odd.weight, odd.bias = conv.weight, conv.bias
            outer, _, leaf = path.rpartition(".")
            setattr(network.get_submodule(outer), leaf, odd)
        extent = -(-extent // 2)
    return network


def chain_of(network: nn.Module) -> dict[str, nn.Module] | None:
    """Layers that run one after the other, by name; None where timm does not put them so."""
    from timm.models._features import FeatureDictNet
    from timm.models.efficientnet import EfficientNetFeatures
    from timm.models.mobilenetv3 import MobileNetV3Features

    if isinstance(network, FeatureDictNet):
        return dict(network.items())
    if isinstance(network, EfficientNetFeatures | MobileNetV3Features) and network.feature_hooks is None:
        layers = {name: module for name, module in network.named_children() if name != "blocks"}
        stages = network.blocks.named_children()
        return layers | {
            f"blocks_{stage}_{name}": layer for stage, blocks in stages for name, layer in blocks.named_children()
        }
    return None


def tapped(chain: dict[str, nn.Module], tap: str, width: int) -> tuple[dict[str, nn.Module], str]:
    """(chain, its layer that gives a map), where the layer that a tap lies in is cut apart; all others keep their names.

    ============================== ==================================================================
    tap                            whose output
    ============================== ==================================================================
    ``blocks.1``                   a layer, or the last one of a stage
    ``features.transition1.norm``  a layer of a Sequential
    ``features.norm5.drop``        a normalisation in front of its ReLU
    ``features.43.center``         two convolutions behind a layer, with BatchNorm and ReLU, as wide as it
    ============================== ==================================================================

    A tap that lies nowhere comes back as a name that the chain has not.

    Parameters
    ----------
    width
        Channels of the map.
    """
    from timm.layers.norm_act import BatchNormAct2d

    end = tap.replace(".", "_")
    if end in chain:
        return chain, end
    if last := next((name for name in reversed(chain) if name.startswith(f"{end}_")), ""):
        return chain, last
    outer = next((name for name in chain if end.startswith(f"{name}_")), "")
    layer: Any = chain.get(outer)
    inner = end.removeprefix(f"{outer}_")
    if layer is not None and inner == "center":
        return _with(chain, outer, {outer: layer, end: _center(chain, width)}), end
    if isinstance(layer, BatchNormAct2d) and inner == "drop":
        relu = layer.act
        layer.act = nn.Identity()
        return _with(chain, outer, {outer: layer, f"{outer}_act": relu}), outer
    if isinstance(layer, nn.Sequential):
        parts = {f"{outer}_{name}": part for name, part in layer.named_children()}
        return tapped(_with(chain, outer, parts), tap, width)
    return chain, end


def _with(chain: dict[str, nn.Module], name: str, parts: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The chain with `parts` in place of one layer."""
    return {new: part for old, layer in chain.items() for new, part in (parts if old == name else {old: layer}).items()}


def _center(chain: dict[str, nn.Module], width: int) -> nn.Module:
    """What segmentation_models.pytorch puts behind a VGG, on the device of the chain."""
    like = next(weight for layer in chain.values() for weight in layer.parameters())
    with like.device:
        return nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
                for _ in range(2)
            )
        )
