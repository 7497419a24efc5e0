"""The U-Nets of milesial, and the U-Net and UNet++ of MONAI.

In this order: milesial/Pytorch-UNet with all its generations of names, MONAI's BasicUNetPlusPlus, MONAI's BasicUNet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_unetpp.model.foreign_found import (
    Found,
    UnfitError,
    free_upsampling,
    kernel,
    learned_upsampling,
    node,
    rows,
)
from napari_unetpp.model.spec import NetworkSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from napari_unetpp.model.foreign_found import Asked
    from napari_unetpp.model.spec import Block, Middle, Upsampling

_SLOPE = 0.1  # of the LeakyReLU that MONAI's two networks have unless told otherwise


def find_milesial(weights: Mapping[str, Tensor], asked: Asked) -> Found:
    """U-Net of milesial: transposed or bilinear, with the convolution bias of v1 and v2 or without, and the names of 2018."""
    old = any(key.startswith("inc.conv.conv.") for key in weights)
    conv = "conv.conv" if old else "double_conv"
    down, up = (".mpconv.1.conv", ".conv.conv") if old else (".maxpool_conv.1.double_conv", ".conv.double_conv")
    depth = rows(weights, f"down{{}}{down}.0.weight", first=1) - 1
    encoder = {0: f"inc.{conv}"} | {i: f"down{i}{down}" for i in range(1, depth + 1)}
    first, head = kernel(weights, f"{encoder[0]}.0.weight"), kernel(weights, "outc.conv.weight")
    transposed = "up1.up.weight" in weights
    decoder = {i: f"up{depth - i}{up}" for i in range(depth)}  # up1 is the deepest
    second = {i: kernel(weights, f"{decoder[i]}.3.weight") for i in decoder}
    halved = any(found[1] != found[0] for found in second.values())
    middle: Middle = "half-in" if halved else "out"
    biased = f"{encoder[0]}.0.bias" in weights
    notes: list[str] = []
    if transposed:
        learned_upsampling(asked)
        upsampling: Upsampling = "transposed2"
        ups = tuple(kernel(weights, f"up{depth - i}.up.weight")[1] for i in range(depth))
    else:
        upsampling, ups = free_upsampling(asked, notes), ()
    spec = NetworkSpec(
        ndim=len(first) - 2,
        in_channels=first[1],
        classes=head[0],
        widths=tuple(kernel(weights, f"{encoder[i]}.3.weight")[0] for i in range(depth + 1)),
        decoder_widths=tuple(second[i][0] for i in range(depth)),
        up_widths=ups or None,
        heads=(depth,),
        skips="plain",
        block="conv-bn-relu",
        upsampling=upsampling,
        middle=middle,
        conv_bias=biased,
        padding=asked.padding or "same",
    )
    modules = {f"heads.{depth}": "outc.conv"}
    for i, their in encoder.items():
        modules |= node("conv-bn-relu", i, 0, *(f"{their}.{k}" for k in (0, 1, 3, 4)))
    for i, their in decoder.items():
        modules |= node("conv-bn-relu", i, depth - i, *(f"{their}.{k}" for k in (0, 1, 3, 4)))
        if transposed:
            modules[f"ups.{i}_{depth - i}"] = f"up{depth - i}.up"
    kind = "transposed" if transposed else "bilinear"
    if biased and transposed and asked.padding is None:  # as in a tutorial's copy of it, whose weights look the same
        notes.append(
            "its convolutions are taken to be padded: --padding late|valid if what is up-sampled is, or nothing"
        )
    notes.append(
        "milesial's training halves its images by default: give it images at half their size if it was trained so"
    )
    return Found(f"U-Net of milesial ({kind})", spec, modules, "unit", notes=tuple(notes))


def find_monai_nested(weights: Mapping[str, Tensor], asked: Asked) -> Found:
    """BasicUNetPlusPlus of MONAI; its heads are there whether they were trained or not."""
    learned_upsampling(asked)
    depth = rows(weights, "conv_{}_0.convs.conv_0.conv.weight", first=1) - 1
    encoder = ["conv_0_0", *(f"conv_{i}_0.convs" for i in range(1, depth + 1))]
    decoder = {(i, j): f"upcat_{i}_{j}" for i in range(depth) for j in range(1, depth + 1 - i)}
    heads = {d: f"final_conv_0_{d}" for d in range(1, depth + 1)}
    notes: tuple[str, ...] = ()
    if asked.heads is None:
        notes = (
            f"it has heads at L1..L{depth} whether they were trained or not; only L{depth} is kept, as without deep "
            "supervision, its default: --heads all if it was trained with deep_supervision=True",
        )
    return _monai("BasicUNetPlusPlus of MONAI", weights, asked, encoder, decoder, heads, notes)


def find_monai_plain(weights: Mapping[str, Tensor], asked: Asked) -> Found:
    """BasicUNet of MONAI."""
    learned_upsampling(asked)
    depth = rows(weights, "down_{}.convs.conv_0.conv.weight", first=1) - 1
    encoder = ["conv_0", *(f"down_{i}.convs" for i in range(1, depth + 1))]
    decoder = {(i, depth - i): f"upcat_{i + 1}" for i in range(depth)}
    return _monai("BasicUNet of MONAI", weights, asked, encoder, decoder, {depth: "final_conv"}, ())


def _monai(
    name: str,
    weights: Mapping[str, Tensor],
    asked: Asked,
    encoder: list[str],
    decoder: dict[tuple[int, int], str],
    heads: dict[int, str],
    notes: tuple[str, ...],
) -> Found:
    depth = len(encoder) - 1
    first = kernel(weights, f"{encoder[0]}.conv_0.conv.weight")
    upsampling: Upsampling = "conv1-bilinear-aligned"
    last = decoder[0, depth]
    if f"{last}.upsample.deconv.weight" in weights:
        upsampling = "transposed2"
    elif strange := next(
        (key for key in weights if key.startswith(f"{last}.upsample.") and "preconv" not in key), None
    ):
        raise UnfitError(f"its up-sampling has weights such as {strange} (pixelshuffle), which cannot be imported yet")
    block, about = _monai_block(weights, encoder[0])
    slope = _SLOPE if asked.negative_slope is None else asked.negative_slope
    if asked.negative_slope is None:
        notes += (
            f"its activation has no weights that would tell; LeakyReLU of slope {_SLOPE} is MONAI's: else --slope",
        )
    # What reaches a node from below is what its first convolution takes beyond its skips.
    widths = tuple(kernel(weights, f"{e}.conv_1.conv.weight")[0] for e in encoder)
    plain = (0, 1) not in decoder or depth == 1
    ups = []
    for i in range(depth):
        j = depth - i if plain else 1
        ups.append(kernel(weights, f"{decoder[i, j]}.convs.conv_0.conv.weight")[1] - widths[i])
    if min(ups) < 1:
        raise UnfitError("the first convolutions of its decoder take fewer channels than its skips give")
    own_last = kernel(weights, f"{last}.convs.conv_1.conv.weight")[0]
    spec = NetworkSpec(
        ndim=len(first) - 2,
        in_channels=first[1],
        classes=kernel(weights, f"{heads[depth]}.weight")[0],
        widths=widths,
        heads=tuple(heads),
        skips="plain" if plain else "dense",
        block=block,
        upsampling=upsampling,
        conv_bias=f"{encoder[0]}.conv_0.conv.bias" in weights,
        up_widths=tuple(ups),
        last_width=None if own_last == widths[0] else own_last,
        negative_slope=slope,
    )
    modules = {f"heads.{d}": their for d, their in heads.items()}
    for i, their in enumerate(encoder):
        modules |= _monai_node(block, i, 0, their)
    for (i, j), their in decoder.items():
        modules |= _monai_node(block, i, j, f"{their}.convs")
        if upsampling == "transposed2":
            modules[f"ups.{i}_{j}"] = f"{their}.upsample.deconv"
        else:
            modules[f"ups.{i}_{j}.0"] = f"{their}.upsample.preconv"
    return Found(name, spec, modules, "percentile", "last" if len(heads) > 1 else "all", notes + about)


def _monai_node(block: Block, i: int, j: int, their: str) -> dict[str, str]:
    return dict(node(block, i, j, *(f"{their}.conv_{k}.{part}" for k in (0, 1) for part in ("conv", "adn.N"))))


def _monai_block(weights: Mapping[str, Tensor], first: str) -> tuple[Block, tuple[str, ...]]:
    """Its normalisation, as far as weights tell: InstanceNorm and GroupNorm look alike."""
    if f"{first}.conv_0.adn.N.running_mean" in weights:
        return "conv-bn-relu", ()
    if f"{first}.conv_0.adn.N.weight" in weights:
        return "conv-in-relu", (
            "its normalisation is taken for InstanceNorm, MONAI's default; GroupNorm would look the same",
        )
    raise UnfitError(
        f"{first}.conv_0.adn.N.weight is missing: a normalisation without weights, or none, which cannot be imported yet"
    )
