"""Encoders of segmentation_models.pytorch: which network of timm their weights are of.

It makes most encoders itself or takes them from torchvision, and their weights tell which they are (`foreign_smp_families.py`).
Those of timm under the names ``tu-`` are so many that their name is asked for, and held against the weights.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from napari_unetpp.model.backbones import build_encoder, encoder_spec
from napari_unetpp.model.foreign_found import UnfitError, shape
from napari_unetpp.model.foreign_smp_families import Encoder, densenet, efficientnet, efficientnet_of_timm, resnet, vgg

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

# Layers of a ResNet in timm that many a variant of it adds to.
_PLAIN_RESNET = r"encoder\.model\.((conv|bn)1|layer\d\.\d+\.((conv|bn)\d|downsample\.[01]))\."


def find_encoder(weights: Mapping[str, Tensor], asked: str | None, depth: int) -> Encoder:
    """Encoder under a decoder of so many blocks.

    Parameters
    ----------
    asked
        Name of it, where somebody knows it: timm's or theirs.

    Raises
    ------
    UnfitError, BackboneError
        If the weights are of no encoder that timm has in the same form, or not of the one that was asked for.
    """
    # What follows the dot in a name of timm's says which weights it came with.
    name = None if asked is None else asked.removeprefix("tu-").partition(".")[0]
    if any(key.startswith("encoder.model.") for key in weights):  # timm's own, under the names tu-
        return _of_timm(weights) if name is None else _named(weights, name, depth)
    found = _known(weights, depth)
    if name not in (None, found.name, found.theirs):
        raise UnfitError(f"its encoder is {found.theirs}, so --encoder {asked} does not fit; leave it out")
    return found


def _known(weights: Mapping[str, Tensor], depth: int) -> Encoder:
    if "encoder.layer0.conv1.weight" in weights:
        return resnet(weights, "encoder", "layer0.")
    if {"encoder.conv1.weight", "encoder.layer1.0.conv1.weight"} <= set(weights):
        return resnet(weights, "encoder", "")
    if "encoder.features.denseblock1.denselayer1.conv1.weight" in weights:
        return densenet(weights)
    if "encoder.features.0.weight" in weights:
        return vgg(weights, depth)
    if "encoder._conv_stem.weight" in weights:
        return efficientnet(weights, depth)
    if "encoder.blocks.0.0.conv_dw.weight" in weights:
        return efficientnet_of_timm(weights)
    first = next((key for key in weights if key.startswith("encoder.")), "none")
    raise UnfitError(
        f"its encoder is not known, its first weight is {first[:80]}; those of ResNet, ResNeXt, SENet, VGG, DenseNet, EfficientNet "
        "and timm (tu-) are"
    )


def is_untold(weights: Mapping[str, Tensor]) -> bool:
    """Whether the encoder is one of timm's own whose name only a person can tell."""
    return any(key.startswith("encoder.model.") for key in weights) and _plain_resnet(weights) is None


def _plain_resnet(weights: Mapping[str, Tensor]) -> Encoder | None:
    theirs = [key for key in weights if key.startswith("encoder.model.")]
    if "encoder.model.layer1.0.conv1.weight" in weights and all(re.match(_PLAIN_RESNET, key) for key in theirs):
        with suppress(UnfitError):  # of other numbers of blocks or widths, for which timm has many a name
            return resnet(weights, "encoder.model", "")
    return None


def _of_timm(weights: Mapping[str, Tensor]) -> Encoder:
    """One of timm's own whose name nobody told."""
    if (found := _plain_resnet(weights)) is not None:
        return found
    theirs = [key for key in weights if key.startswith("encoder.model.")]
    raise UnfitError(
        f"its encoder is one of timm's, whose name its weights do not tell (the first is {theirs[0][:80]}); say what stands "
        "behind tu-, as --encoder convnext_tiny"
    )


def _named(weights: Mapping[str, Tensor], name: str, depth: int) -> Encoder:
    """The one of that name, if the weights are of it."""
    spec = encoder_spec(name, depth=depth)
    if spec.multiple:
        raise UnfitError(f"its encoder {name} cannot be taken apart into stages, so it has no place here")
    with torch.device("meta"):
        ours = build_encoder(spec).state_dict()
    first = next(key for key, like in ours.items() if like.ndim == 4)
    found = Encoder(
        name,
        f"tu-{name}",
        "",
        spec.encoder_row,
        spec.widths[spec.encoder_row :],
        ((r"blocks_(\d+)_(\d+)\.(.+)", r"encoder.model.blocks.\1.\2.\3"), (r"(.+)", r"encoder.model.\1")),
        r"encoder\.model\.blocks\.(\d+)\.",
    )
    for key, like in ours.items():
        theirs = found.their(key)
        if key.endswith("num_batches_tracked"):
            continue
        if theirs not in weights:
            raise UnfitError(f"its encoder is not timm's {name}, which has {theirs} as well; name another --encoder")
        own, want = shape(weights, theirs), tuple(like.shape)
        if key == first:  # takes as many channels as the image has
            want = (want[0], *own[1:2], *want[2:])
        if own != want:
            raise UnfitError(
                f"its encoder is not timm's {name}: {theirs} has shape {own} where {want} is wanted; name another --encoder"
            )
    return replace(found, first=found.their(first))
