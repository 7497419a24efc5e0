"""UnetPlusPlus and Unet of segmentation_models.pytorch: encoders that timm has as well, under a decoder of its own.

In this order: the two decoders (`find_nested_smp`, `find_plain_smp`), and which encoder the weights are of (`_encoder`).

Its block ``x_p_q`` is X^{n-1-q,q-p+1} of a grid of depth n, whose rows begin at the encoder's first map: the map at half the
resolution is row 1. Row 0 holds nothing but one block on the last map, up-sampled (`NetworkSpec.lone_rows`). Concatenated
are what was up-sampled, then the nodes of the row from the newest to the encoder's. Blocks of the last diagonal (p = 0) have the
widths of the decoder, all others those of the encoder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from napari_unetpp.model.backbones import build_encoder
from napari_unetpp.model.foreign_found import Found, UnfitError, kernel, node, rows
from napari_unetpp.model.spec import NetworkSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

    from napari_unetpp.model.foreign_found import Asked
    from napari_unetpp.model.spec import Block

_HEAD = "segmentation_head.0"
_CLASSIFIER = r"classification_head\."


def find_nested_smp(weights: Mapping[str, Tensor], asked: Asked) -> Found:
    """UnetPlusPlus, whatever its depth and widths."""
    depth = rows(weights, "decoder.blocks.x_0_{}.conv1.0.weight")
    blocks = {(0, depth): f"decoder.blocks.x_0_{depth - 1}"}
    for q in range(depth - 1):
        for p in range(q + 1):
            blocks[depth - 1 - q, q - p + 1] = f"decoder.blocks.x_{p}_{q}"
    # It makes a center for the encoders of VGG, and never calls it.
    return _found("UnetPlusPlus", weights, asked, blocks, (r"decoder\.center\.",))


def find_plain_smp(weights: Mapping[str, Tensor], asked: Asked) -> Found:
    """Unet, which has the last diagonal alone."""
    depth = rows(weights, "decoder.blocks.{}.conv1.0.weight")
    if any(key.startswith("decoder.center.") for key in weights):
        raise UnfitError("two more convolutions follow its encoder of VGG, for which there is no place here")
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
    encoder = _encoder(weights)
    block, bias = _block(weights, blocks[0, depth])
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
        lone_rows=1,
        encoder=encoder.name,
        encoder_row=encoder.row,
        encoder_taps=None if encoder.taps is None else encoder.taps[: depth + 1 - encoder.row],
    )
    if len(spec.widths) != depth + 1:
        raise UnfitError(f"its decoder has {depth} blocks, which its encoder {encoder.name} has too few maps for")
    modules = {f"heads.{depth}": _HEAD}
    for (i, j), their in blocks.items():
        modules |= node(block, i, j, *(f"{their}.conv{k}.{layer}" for k in (1, 2) for layer in (0, 1)))
    with torch.device("meta"):
        ours = {key.rpartition(".")[0] for key in build_encoder(spec).state_dict()}
    theirs = {f"encoder.{module}": encoder.their(module) for module in ours}
    modules |= theirs
    notes = [f"its encoder is timm's {encoder.name}, which must be installed to run it"]
    if asked.upsampling is None:
        notes.append(
            "its up-sampling has no weights that would tell; nearest is assumed, its default: else --upsampling bilinear"
        )
    if any(re.match(_CLASSIFIER, key) for key in weights):
        notes.append("its head for the class of the whole image was left out")
    return Found(
        f"{name} of segmentation_models.pytorch on {encoder.name}",
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


@dataclass(frozen=True, slots=True)
class _Encoder:
    """An encoder of theirs: timm's name of it, its maps, and how its modules are called.

    Parameters
    ----------
    first
        The weight of its first convolution.
    row
        Of its first map in our grid.
    channels
        Of its maps.
    renamed
        (pattern, what for it) pairs that make a module's name of theirs out of one of timm's, the first that fits.
    numbered
        Begins the names of its layers, with their number from the top.
    taps
        As in the specification.
    below
        Begins the names of what always lies below its last map.
    """

    name: str
    first: str
    row: int
    channels: tuple[int, ...]
    renamed: tuple[tuple[str, str], ...]
    numbered: str
    taps: tuple[str, ...] | None = None
    below: tuple[str, ...] = ()

    def above(self, width: int) -> tuple[int, ...]:
        return (width,) * self.row

    def their(self, module: str) -> str:
        name = module.removeprefix("layers.")
        for pattern, theirs in self.renamed:
            if re.fullmatch(pattern, name):
                return re.sub(pattern, theirs, name)
        return f"encoder.{name}"

    def unused(self, weights: Iterable[str], used: Iterable[str]) -> Iterator[str]:
        """Patterns of the layers below its last map, which it keeps however few blocks its decoder has."""
        reached = max((int(n[1]) for module in used if (n := re.match(self.numbered, f"{module}."))), default=-1)
        yield from (re.escape(key) for key in weights if (n := re.match(self.numbered, key)) and int(n[1]) > reached)
        yield from self.below


# (blocks in each layer, whether they have three convolutions, channels of the second of the first block) of timm's ResNets.
_RESNETS: dict[tuple[tuple[int, ...], bool, tuple[int, ...]], str] = {
    ((2, 2, 2, 2), False, (64, 64)): "resnet18",
    ((3, 4, 6, 3), False, (64, 64)): "resnet34",
    ((3, 4, 6, 3), True, (64, 64)): "resnet50",
    ((3, 4, 23, 3), True, (64, 64)): "resnet101",
    ((3, 8, 36, 3), True, (64, 64)): "resnet152",
    ((3, 4, 6, 3), True, (128, 4)): "resnext50_32x4d",
    ((3, 4, 23, 3), True, (128, 4)): "resnext101_32x4d",
    ((3, 4, 23, 3), True, (256, 8)): "resnext101_32x8d",
    ((3, 4, 23, 3), True, (512, 16)): "resnext101_32x16d",
    ((3, 4, 23, 3), True, (1024, 32)): "resnext101_32x32d",
}
_VGGS = {8: "vgg11", 10: "vgg13", 13: "vgg16", 16: "vgg19"}
_B0 = (1, 2, 2, 3, 3, 4, 1)  # blocks in each stage of an EfficientNet-B0, which they count through


def _encoder(weights: Mapping[str, Tensor]) -> _Encoder:
    if "encoder.layer1.0.conv1.weight" in weights:
        return _resnet(weights, "encoder")
    if "encoder.model.layer1.0.conv1.weight" in weights:  # through timm, under the name tu-
        return _resnet(weights, "encoder.model")
    if "encoder.features.0.weight" in weights:
        return _vgg(weights)
    if "encoder._conv_stem.weight" in weights:
        return _efficientnet(weights)
    if "encoder.features.denseblock1.denselayer1.conv1.weight" in weights:
        raise UnfitError("its encoder is a DenseNet, whose maps it takes from places where timm has none")
    first = next((key for key in weights if key.startswith("encoder.")), "none")
    raise UnfitError(
        f"its encoder is not known, its first weight is {first[:80]}; those of ResNet, ResNeXt, VGG and EfficientNet-B0 are"
    )


def _resnet(weights: Mapping[str, Tensor], prefix: str) -> _Encoder:
    names = [re.match(rf"{re.escape(prefix)}\.layer(\d)\.(\d+)\.", key) for key in weights]
    counts = {
        layer: 1 + max(int(n[2]) for n in names if n and n[1] == layer) for layer in sorted({n[1] for n in names if n})
    }
    second = kernel(weights, f"{prefix}.layer1.0.conv2.weight")[:2]
    three = f"{prefix}.layer1.0.conv3.weight" in weights
    found = (tuple(counts.values()), three, second)
    like = (
        name
        for (blocks, *rest), name in _RESNETS.items()
        if [*rest] == [*found[1:]] and blocks[: len(counts)] == found[0]
    )
    name = _RESNETS.get(found) or next(like, None)  # timm cuts what is below the last map
    if name is None:
        raise UnfitError(f"its encoder is a ResNet of {found[0]} blocks that timm has not in that form")
    last = "conv3" if three else "conv2"
    channels = [kernel(weights, f"{prefix}.conv1.weight")[0]]
    channels += [kernel(weights, f"{prefix}.layer{layer}.0.{last}.weight")[0] for layer in counts]
    renamed = ((r"(.+)", rf"{prefix}.\1"),)
    return _Encoder(name, f"{prefix}.conv1.weight", 1, tuple(channels), renamed, rf"{re.escape(prefix)}\.layer(\d)\.")


def _vgg(weights: Mapping[str, Tensor]) -> _Encoder:
    found = [re.fullmatch(r"encoder\.features\.(\d+)\.weight", key) for key in weights]
    convolutions = sorted(int(f[1]) for f in found if f and weights[f[0]].ndim == 4)
    if len(convolutions) not in _VGGS:
        raise UnfitError(
            f"its encoder has {len(convolutions)} convolutions where a VGG has {', '.join(map(str, _VGGS))}"
        )
    norm = "_bn" if "encoder.features.1.running_mean" in weights else ""
    channels = (64, 128, 256, 512, 512, 512)
    renamed = ((r"features_(\d+)", r"encoder.features.\1"),)
    name = f"{_VGGS[len(convolutions)]}{norm}"
    return _Encoder(name, "encoder.features.0.weight", 0, channels, renamed, r"encoder\.features\.(\d+)\.")


def _efficientnet(weights: Mapping[str, Tensor]) -> _Encoder:
    found = [re.match(r"encoder\._blocks\.(\d+)\.", key) for key in weights]
    count = 1 + max(int(f[1]) for f in found if f)
    stem = kernel(weights, "encoder._conv_stem.weight")
    if count != sum(_B0) or stem[0] != 32:
        raise UnfitError(
            f"its encoder is an EfficientNet of {count} blocks, which pads by the size it was made for; timm has "
            "B0 alone in that form"
        )
    inner = {
        "conv_pw": "_expand_conv",
        "bn1": "_bn0",
        "conv_dw": "_depthwise_conv",
        "bn2": "_bn1",
        "conv_pwl": "_project_conv",
    }
    inner |= {"bn3": "_bn2", "se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
    outer = inner | {
        "conv_pw": "_project_conv",
        "bn1": "_bn1",
        "bn2": "_bn2",
    }  # of the first block, which expands nothing
    renamed = [("conv_stem", "encoder._conv_stem"), ("bn1", "encoder._bn0")]
    number = 0
    for stage, blocks in enumerate(_B0):
        for block in range(blocks):
            for ours, theirs in (outer if stage == 0 else inner).items():
                renamed.append((rf"blocks_{stage}_{block}\.{re.escape(ours)}", f"encoder._blocks.{number}.{theirs}"))
            number += 1
    taps = ("bn1", "blocks.1", "blocks.2", "blocks.4.0", "blocks.6")  # the fourth is one block behind the stage's begin
    channels = (32, 24, 40, 112, 320)
    below = (r"encoder\._conv_head\.", r"encoder\._bn1\.")
    numbered = r"encoder\._blocks\.(\d+)\."
    first = "encoder._conv_stem.weight"
    return _Encoder("tf_efficientnet_b0", first, 1, channels, tuple(renamed), numbered, taps, below)
