"""What timm offers: the package itself, the maps that a network of it gives, and such a network with its layers in order.

timm is optional, and imported here alone, in functions.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
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
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3) or ["resnet34", "vgg19_bn"]
        raise BackboneError(f"encoder {name!r} is unknown to timm; did you mean {' or '.join(near)}?")
    if timm.models.get_pretrained_cfg(name, allow_unregistered=True).fixed_input_size:
        raise BackboneError(f"encoder {name} takes images of one size only; use one of convolutions, as resnet34")
    network: Any = timm_network(name, 3, None, torch.device("meta"))
    if getattr(network, "output_fmt", "NCHW") != "NCHW":
        raise BackboneError(f"encoder {name} gives maps with channels last; use one of convolutions, as resnet34")
    info = network.feature_info.info
    return tuple((int(f["reduction"]), int(f["num_chs"]), str(f["module"])) for f in info)


def timm_network(
    name: str, in_channels: int, indices: tuple[int, ...] | None, device: torch.device, *, pretrained: bool = False
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
