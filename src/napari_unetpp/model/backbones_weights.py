"""Weights that an encoder was trained to on photographs: from timm where there is a network, or from a file (`load_pretrained`).

A first convolution of three channels is brought to those of the image as timm does it: summed for one channel, repeated for more.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from napari_unetpp.model import backbones
from napari_unetpp.model.backbones_timm import BackboneError, import_timm, name_in_timm
from napari_unetpp.model.checkpoint import ModelFileError, all_finite
from napari_unetpp.model.foreign_files import read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.model.unetpp import UNetPlusPlus

FROM_TIMM = "timm"


def load_pretrained(network: UNetPlusPlus, source: str | Path) -> None:
    """Put pretrained weights into the encoder of a network; nothing is changed unless all of them fit.

    Parameters
    ----------
    source
        ``"timm"`` fetches those that timm names for this encoder, or takes them from its cache. Else a file: the state dict of
        timm's classifier or of its features, as .pth or .safetensors; nothing in it is run.

    Raises
    ------
    BackboneError
        If the network has no encoder, or timm is missing, offline, or has no weights for it.
    FileNotFoundError, ModelFileError
        If there is no such file, or it is damaged, would run code, or lacks weights of the encoder.
    """
    if network.encoder is None:
        raise BackboneError("this network has no encoder from timm, so it takes no pretrained weights of one")
    wanted = network.encoder.state_dict()
    if source == FROM_TIMM:
        state = _fetched(network.spec)
    else:
        path = Path(source)
        state = _fitted(path, read_checkpoint(path).weights, wanted, network.spec)
    network.encoder.load_state_dict({key: value.to(wanted[key].dtype) for key, value in state.items()})


def _fetched(spec: NetworkSpec) -> Mapping[str, Tensor]:
    """State of the encoder as timm gives it."""
    configuration = import_timm().models.get_pretrained_cfg(name_in_timm(spec.encoder), allow_unregistered=True)
    if not configuration.has_weights:
        raise BackboneError(f"timm has no pretrained weights for {spec.encoder}; leave them out, or name a file")
    try:
        with torch.device("cpu"):
            return backbones.build_encoder(spec, pretrained=True).state_dict()
    except BackboneError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever its network libraries raise, there is nothing else to try
        said = " ".join(str(error).split())[:120]
        raise BackboneError(
            f"timm could not fetch the weights of {spec.encoder} ({said}); without a network, name a file that holds them"
        ) from None


def _fitted(
    path: Path, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], spec: NetworkSpec
) -> dict[str, Tensor]:
    state, missing = {}, []
    for key, like in wanted.items():
        their = next((name for name in _names(key) if name in weights), None)
        if their is None:
            if key.endswith("num_batches_tracked"):  # files of before 2018 count none
                state[key] = like
            else:
                missing.append(next(_names(key)))
            continue
        value = _of_channels(weights[their], like, spec)
        if value.shape != like.shape:
            raise ModelFileError(
                f"{path}: its weight {their} has shape {tuple(value.shape)} where {spec.encoder} has {tuple(like.shape)}; "
                "it is of another network"
            )
        if not all_finite(value):
            raise ModelFileError(f"{path}: its weight {their} holds NaN or infinity; fetch it again")
        state[key] = value
    if missing:
        raise ModelFileError(
            f"{path} lacks {len(missing)} of {len(wanted)} weights of {spec.encoder}, the first is {missing[0]}; give the state "
            "dict of timm's network of that name"
        )
    return state


def _names(key: str) -> Iterator[str]:
    """What timm's own networks may call a weight of ours, likeliest first.

    >>> list(_names("layers.blocks_1_0.bn1.bias"))
    ['blocks.1.0.bn1.bias', 'blocks_1.0.bn1.bias', 'blocks_1_0.bn1.bias']
    >>> list(_names("layers.layer1.0.bn1.bias"))
    ['layer1.0.bn1.bias']
    """
    name = key.partition(".")[2]
    module, dot, rest = name.partition(".")
    parts = module.split("_")
    for flat in range(1, len(parts) + 1):  # so many parts of it are one name
        yield ".".join(["_".join(parts[:flat]), *parts[flat:]]) + dot + rest


def _of_channels(value: Tensor, like: Tensor, spec: NetworkSpec) -> Tensor:
    """A first convolution over red, green and blue as one over the channels of the image."""
    first = value.ndim == 4 and value.shape[1] == 3 != like.shape[1] == spec.in_channels
    if not first or value.shape[0] != like.shape[0]:
        return value
    from timm.models import adapt_input_conv

    adapted: Tensor = adapt_input_conv(spec.in_channels, value)
    return adapted
