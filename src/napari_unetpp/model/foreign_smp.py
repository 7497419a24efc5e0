"""UnetPlusPlus and Unet of segmentation_models.pytorch: encoders that timm has as well, under a decoder of its own.

Here are the two decoders (`find_nested_smp`, `find_plain_smp`); which encoder the weights are of is in `foreign_smp_encoders.py`.

Its block ``x_p_q`` is X^{n-1-q,q-p+1} of a grid of depth n, whose rows begin at the encoder's first map: the map at half the
resolution is row 1. Row 0 holds nothing but one block on the last map, up-sampled (`NetworkSpec.lone_rows`). Concatenated
are what was up-sampled, then the nodes of the row from the newest to the encoder's. Blocks of the last diagonal (p = 0) have the
widths of the decoder, all others those of the encoder.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from napari_unetpp.model.backbones import build_encoder
from napari_unetpp.model.backbones_timm import name_in_timm
from napari_unetpp.model.foreign_found import Found, UnfitError, kernel, node, rows
from napari_unetpp.model.foreign_smp_encoders import find_encoder
from napari_unetpp.model.foreign_smp_families import with_center
from napari_unetpp.model.spec import NetworkSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from napari_unetpp.model.foreign_found import Asked
    from napari_unetpp.model.spec import Block

_HEAD = "segmentation_head.0"
_CLASSIFIER = r"classification_head\."
_CENTER = r"decoder\.center\."


def find_nested_smp(weights: Mapping[str, Tensor], asked: Asked) -> Found:
    """UnetPlusPlus, whatever its depth and widths."""
    depth = rows(weights, "decoder.blocks.x_0_{}.conv1.0.weight")
    blocks = {(0, depth): f"decoder.blocks.x_0_{depth - 1}"}
    for q in range(depth - 1):
        for p in range(q + 1):
            blocks[depth - 1 - q, q - p + 1] = f"decoder.blocks.x_{p}_{q}"
    # It makes a center for the encoders of VGG, and never calls it.
    return _found("UnetPlusPlus", weights, asked, blocks, (_CENTER,))


def find_plain_smp(weights: Mapping[str, Tensor], asked: Asked) -> Found:
    """Unet, which has the last diagonal alone."""
    depth = rows(weights, "decoder.blocks.{}.conv1.0.weight")
    return _found("Unet", weights, asked, {(depth - 1 - k, k + 1): f"decoder.blocks.{k}" for k in range(depth)}, ())


def _found(
    name: str,
    weights: Mapping[str, Tensor],
    asked: Asked,
    blocks: Mapping[tuple[int, int], str],
    unused: tuple[str, ...],
) -> Found:
    depth = max(i + j for i, j in blocks)
    if strange := next((key for key in weights if re.match(r"decoder\.blocks\.\w+\.attention", key)), None):
        raise UnfitError(f"its decoder has attention ({strange}), for which there is no place here")
    encoder = find_encoder(weights, asked.encoder, depth)
    block, bias = _block(weights, blocks[0, depth])
    if not unused and any(re.match(_CENTER, key) for key in weights):
        if block != "conv-bn-relu":
            raise UnfitError(
                "two convolutions without BatchNorm follow its encoder of VGG, for which there is no place here"
            )
        encoder = with_center(encoder)
    # Encoders that begin at a quarter of the resolution give an empty map at the half, where only the last diagonal has a block.
    lone = max(1, encoder.row)
    blocks = {(i, j): their for (i, j), their in blocks.items() if i >= lone or i + j == depth}
    outputs = {at: kernel(weights, f"{their}.conv2.0.weight")[0] for at, their in blocks.items()}
    last = tuple(outputs[i, depth - i] for i in range(depth))
    first = kernel(weights, encoder.first)
    head = kernel(weights, f"{_HEAD}.weight")
    spec = NetworkSpec(
        in_channels=first[1],
        classes=head[0],
        widths=(*encoder.above(last[0]), *encoder.channels)[: depth + 1],
        heads=(depth,),
        skips="dense" if name == "UnetPlusPlus" else "plain",
        upsampling=asked.upsampling or "nearest",
        block=block,
        conv_bias=bias,
        head="conv3",
        concatenation="up-first",
        newest_first=True,
        last_widths=last,
        lone_rows=lone,
        encoder=encoder.name,
        encoder_row=encoder.row,
        encoder_taps=None if encoder.taps is None else encoder.taps[: depth + 1 - encoder.row],
    )
    if len(spec.widths) != depth + 1:
        raise UnfitError(f"its decoder has {depth} blocks, which its encoder {encoder.theirs} has too few maps for")
    modules = {f"heads.{depth}": _HEAD}
    for (i, j), their in blocks.items():
        modules |= node(block, i, j, *(f"{their}.conv{k}.{layer}" for k in (1, 2) for layer in (0, 1)))
    with torch.device("meta"):
        ours = {key.rpartition(".")[0] for key in build_encoder(spec).state_dict()}
    theirs = {f"encoder.{module}": encoder.their(module) for module in ours}
    modules |= theirs
    notes = [f"its encoder is timm's {name_in_timm(encoder.name)}, which must be installed to run it"]
    if asked.upsampling is None:
        notes.append(
            "its up-sampling has no weights that would tell; nearest is assumed, its default: else --upsampling bilinear"
        )
    if any(re.match(_CLASSIFIER, key) for key in weights):
        notes.append("its head for the class of the whole image was left out")
    return Found(
        f"{name} of segmentation_models.pytorch on {encoder.theirs}",
        spec,
        modules,
        "imagenet" if first[1] == 3 else "unit",
        notes=tuple(notes),
        unused=(*unused, _CLASSIFIER, *encoder.unused(weights, theirs.values())),
    )


def _block(weights: Mapping[str, Tensor], their: str) -> tuple[Block, bool]:
    """Our block of one of its blocks, and whether its convolutions have a bias."""
    bias = f"{their}.conv1.0.bias" in weights
    if f"{their}.conv1.1.running_mean" in weights:
        return "conv-bn-relu", bias
    if f"{their}.conv1.1.weight" in weights:
        raise UnfitError(
            "its decoder is normalised by something other than BatchNorm, for which there is no place here"
        )
    return "conv-relu", bias
