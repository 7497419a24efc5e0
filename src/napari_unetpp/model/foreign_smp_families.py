"""Encoders of segmentation_models.pytorch by families: what the shapes of their weights tell of each.

In this order: what is known of one (`Encoder`), ResNet and its kin, DenseNet, VGG, and the two kinds of EfficientNet.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_unetpp.model.backbones_timm import offered_maps
from napari_unetpp.model.foreign_found import UnfitError, kernel, shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder of theirs: timm's name of it, its maps, and how its modules are called.

    Parameters
    ----------
    theirs
        Their own name of it.
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
    theirs: str
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
    ((3, 8, 36, 3), True, (256, 2)): "senet154",
}
_VGGS = {8: "vgg11", 10: "vgg13", 13: "vgg16", 16: "vgg19"}
# Layers in each dense block.
_DENSENETS = {
    (6, 12, 24, 16): "densenet121",
    (6, 12, 36, 24): "densenet161",
    (6, 12, 32, 32): "densenet169",
    (6, 12, 48, 32): "densenet201",
}
_B0 = (1, 2, 2, 3, 3, 4, 1)  # blocks in each stage of an EfficientNet-B0
# By how much the stages are deeper, channels of the last block, and the extent of image that it was made for.
_EFFICIENTNETS: dict[str, tuple[float, int, int]] = {
    "b0": (1.0, 320, 224),
    "b1": (1.1, 320, 240),
    "b2": (1.2, 352, 260),
    "b3": (1.4, 384, 300),
    "b4": (1.8, 448, 380),
    "b5": (2.2, 512, 456),
    "b6": (2.6, 576, 528),
    "b7": (3.1, 640, 600),
    "b8": (3.6, 704, 672),
    "l2": (5.3, 1376, 800),
}


def resnet(weights: Mapping[str, Tensor], prefix: str, stem: str) -> Encoder:
    """ResNet, ResNeXt, and with squeeze-and-excitation, whose stem is a layer of its own."""
    names = [re.match(rf"{re.escape(prefix)}\.layer([1-4])\.(\d+)\.", key) for key in weights]
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
    channels = [kernel(weights, f"{prefix}.layer1.0.conv1.weight")[1]]
    channels += [kernel(weights, f"{prefix}.layer{layer}.0.{last}.weight")[0] for layer in counts]
    ours = f"legacy_{name.replace('res', 'seres')}" if stem else name
    return Encoder(
        ours,
        f"tu-{name}" if prefix.endswith("model") else name.replace("res", "se_res") if stem else name,
        f"{prefix}.{stem}conv1.weight",
        1,
        tuple(channels),
        ((r"(.+)", rf"{prefix}.\1"),),
        rf"{re.escape(prefix)}\.layer(\d)\.",
    )


def densenet(weights: Mapping[str, Tensor]) -> Encoder:
    """Its maps lie in the transitions, behind their ReLU, and the last in front of one."""
    names = [re.match(r"encoder\.features\.denseblock(\d)\.denselayer(\d+)\.", key) for key in weights]
    blocks = sorted({n[1] for n in names if n})
    counts = tuple(max(int(n[2]) for n in names if n and n[1] == block) for block in blocks)
    if counts not in _DENSENETS:
        raise UnfitError(f"its encoder is a DenseNet of {counts} layers, which timm has not in that form")
    norms = ("norm0", "transition1.norm", "transition2.norm", "transition3.norm", "norm5")
    taps = tuple(f"features.{norm}" for norm in norms[:-1])
    return Encoder(
        _DENSENETS[counts],
        _DENSENETS[counts],
        "encoder.features.conv0.weight",
        1,
        tuple(shape(weights, f"encoder.features.{norm}.weight")[0] for norm in norms),
        ((r"features_(transition\d)_(.+)", r"encoder.features.\1.\2"), (r"features_(.+)", r"encoder.features.\1")),
        r"encoder\.features\.(?:denseblock|transition|norm)(\d)\.",
        (*taps, "features.norm5.drop"),
        (r"encoder\.features\.transition\d\.conv\.",),
    )


def vgg(weights: Mapping[str, Tensor], depth: int) -> Encoder:
    found = [re.fullmatch(r"encoder\.features\.(\d+)\.weight", key) for key in weights]
    convolutions = sorted(int(f[1]) for f in found if f and weights[f[0]].ndim == 4)
    if len(convolutions) not in _VGGS:
        raise UnfitError(
            f"its encoder has {len(convolutions)} convolutions where a VGG has {', '.join(map(str, _VGGS))}"
        )
    name = f"{_VGGS[len(convolutions)]}{'_bn' if 'encoder.features.1.running_mean' in weights else ''}"
    maps = offered_maps(name)[: depth + 1]
    return Encoder(
        name,
        name,
        "encoder.features.0.weight",
        0,
        tuple(channels for _, channels, _ in maps),
        ((r"features_\d+_center\.(.+)", r"decoder.center.\1"), (r"features_(\d+)", r"encoder.features.\1")),
        r"encoder\.features\.(\d+)\.",
    )


def with_center(encoder: Encoder) -> Encoder:
    """A VGG with the two convolutions that Unet, and no UnetPlusPlus, puts behind its last map."""
    modules = [module for _, _, module in offered_maps(encoder.name)][: len(encoder.channels)]
    return replace(encoder, taps=(*modules[:-1], f"{modules[-1]}.center"))


def _stages(deeper: float, *, lite: bool = False) -> tuple[int, ...]:
    """Blocks in each stage; the first and the last of a "lite" one stay as they are."""
    stages = tuple(math.ceil(blocks * deeper) for blocks in _B0)
    return (1, *stages[1:-1], 1) if lite else stages


def efficientnet(weights: Mapping[str, Tensor], depth: int) -> Encoder:
    """One whose padding is that of TensorFlow, of images of the extent that it was made for, on images of any."""
    found = [re.match(r"encoder\._blocks\.(\d+)\.", key) for key in weights]
    count = 1 + max((int(f[1]) for f in found if f), default=0)
    last = kernel(weights, f"encoder._blocks.{count - 1}._project_conv.weight")[0]
    size = next(
        (s for s, (deeper, width, _) in _EFFICIENTNETS.items() if (sum(_stages(deeper)), width) == (count, last)), ""
    )
    if not size:
        raise UnfitError(f"its encoder is an EfficientNet of {count} blocks, which timm has not in that form")
    deeper, _, extent = _EFFICIENTNETS[size]
    inner = {
        "conv_pw": "_expand_conv",
        "bn1": "_bn0",
        "conv_dw": "_depthwise_conv",
        "bn2": "_bn1",
        "conv_pwl": "_project_conv",
    }
    inner |= {"bn3": "_bn2", "se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
    # Blocks of the first stage expand nothing.
    outer = inner | {"conv_pw": "_project_conv", "bn1": "_bn1", "bn2": "_bn2"}
    renamed = [("conv_stem", "encoder._conv_stem"), ("bn1", "encoder._bn0")]
    ends = []
    number = 0
    for stage, blocks in enumerate(_stages(deeper)):
        for block in range(blocks):
            for ours, theirs in (outer if stage == 0 else inner).items():
                renamed.append((rf"blocks_{stage}_{block}\.{re.escape(ours)}", f"encoder._blocks.{number}.{theirs}"))
            number += 1
        ends.append(kernel(weights, f"encoder._blocks.{number - 1}._project_conv.weight")[0])
    name = f"tf_efficientnet_{size}"
    if any(math.ceil(extent / 2**row) % 2 for row in range(depth)):  # else it is that of any image of whole multiples
        name += f"@{extent}"
    first = "encoder._conv_stem.weight"
    fourth = "blocks.4.0" if size == "b0" else "blocks.4"  # one block behind the stage's begin, by a slip of theirs
    return Encoder(
        name,
        f"efficientnet-{size}",
        first,
        1,
        (kernel(weights, first)[0], *(ends[stage] for stage in (1, 2, 4, 6))),
        tuple(renamed),
        r"encoder\._blocks\.(\d+)\.",
        ("bn1", "blocks.1", "blocks.2", fourth, "blocks.6"),
        (r"encoder\._conv_head\.", r"encoder\._bn1\."),
    )


def efficientnet_of_timm(weights: Mapping[str, Tensor]) -> Encoder:
    """One made of timm's layers, whose padding is as usual; without squeeze-and-excitation it is a "lite" one."""
    found = [re.match(r"encoder\.blocks\.(\d+)\.(\d+)\.", key) for key in weights]
    numbers = [(int(f[1]), int(f[2])) for f in found if f]
    counts = tuple(
        1 + max(block for at, block in numbers if at == stage) for stage in sorted({at for at, _ in numbers})
    )
    lite = not any(".se." in key for key in weights)
    ends = {
        stage: kernel(weights, f"encoder.blocks.{stage}.0.{'conv_pwl' if stage else 'conv_pw'}.weight")[0]
        for stage in range(len(counts))
    }
    known = {(_stages(deeper, lite=lite), width): size for size, (deeper, width, _) in _EFFICIENTNETS.items()}
    size = known.get((counts, ends.get(6, 0)), "")
    if not size:
        raise UnfitError(f"its encoder is an EfficientNet of {counts} blocks, which timm has not in that form")
    first = "encoder.conv_stem.weight"
    return Encoder(
        f"efficientnet_{'lite' + size[1:] if lite else size}",
        f"timm-tf_efficientnet_lite{size[1:]}" if lite else f"timm-efficientnet-{size}",
        first,
        1,
        (kernel(weights, first)[0], *(ends[stage] for stage in (1, 2, 4, 6))),
        ((r"blocks_(\d+)_(\d+)\.(.+)", r"encoder.blocks.\1.\2.\3"),),
        r"encoder\.blocks\.(\d+)\.",
        ("bn1", "blocks.1", "blocks.2", "blocks.4", "blocks.6"),
        (r"encoder\.conv_head\.", r"encoder\.bn2\."),
    )
