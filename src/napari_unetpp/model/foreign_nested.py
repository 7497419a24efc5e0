"""The nested networks among the public ones that are written in plain PyTorch.

In this order: NestedUNet and UNet of 4uiiurz1/pytorch-nested-unet, the UnetPlusPlus of 64 to 1024 channels, and UNet_Nested of
ShawnBIT/UNet-family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_unetpp.model.foreign_found import (
    Found,
    UnfitError,
    free_upsampling,
    kernel,
    learned_upsampling,
    node,
    rows,
    shape,
)
from napari_unetpp.model.spec import NetworkSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from napari_unetpp.model.foreign_found import Asked, Heads
    from napari_unetpp.model.spec import Block, Upsampling

_ONE = torch.ones(())  # steps of a BatchNorm whose count is not there


def find_nested(weights: Mapping[str, Tensor], asked: Asked) -> Found:
    """NestedUNet or UNet of pytorch-nested-unet, or a fork of it with other widths, 3D kernels or ``seg_outputs``."""
    depth = rows(weights, "conv{}_0.conv1.weight") - 1
    first = kernel(weights, "conv0_0.conv1.weight")
    nested = any(key.startswith("conv0_1.") for key in weights) or depth == 1
    names = {d: name for d in range(1, depth + 1) if (name := _nested_head(weights, d, depth)) is not None}
    if depth not in names:
        raise UnfitError("its head final, final4 or seg_outputs.3 is missing; fetch or save it again")
    notes: list[str] = []
    spec = NetworkSpec(
        ndim=len(first) - 2,
        in_channels=first[1],
        classes=kernel(weights, f"{names[depth]}.weight")[0],
        widths=tuple(kernel(weights, f"conv{i}_0.conv1.weight")[0] for i in range(depth + 1)),
        heads=tuple(names) if nested else (depth,),
        skips="dense" if nested else "plain",
        block="conv-bn-relu" if "conv0_0.bn1.weight" in weights else "conv-relu",
        upsampling=free_upsampling(asked, notes),
        conv_bias="conv0_0.conv1.bias" in weights,
    )
    modules = {f"heads.{d}": name for d, name in names.items()}
    for i, j in spec.nodes:
        their = f"conv{i}_{j}"
        modules |= node(spec.block, i, j, f"{their}.conv1", f"{their}.bn1", f"{their}.conv2", f"{their}.bn2")
    if spec.classes > 1:
        notes.append(
            f"its {spec.classes} channels are taken for exclusive classes, the first for the background; the original lets each "
            "say yes or no by itself"
        )
    name = "NestedUNet" if nested else "UNet"
    colours = spec.in_channels == 3
    return Found(
        f"{name} of pytorch-nested-unet",
        spec,
        modules,
        # cv2's BGR, albumentations' Normalize, and another division by 255 in its dataset.py
        intensities="imagenet-255" if colours else "percentile",
        notes=tuple(notes),
        bgr=colours,
        patch=96,  # its images are resized to 96 x 96, and aligned corners depend on the extent
    )


def _nested_head(weights: Mapping[str, Tensor], d: int, depth: int) -> str | None:
    names = (f"final{d}", f"seg_outputs.{d - 1}", *("final",) * (d == depth))
    return next((name for name in names if f"{name}.weight" in weights), None)


def find_wide(weights: Mapping[str, Tensor], asked: Asked) -> Found:
    """The UnetPlusPlus of tutorials: pre-activated decoder, 4 x 4 transposed convolutions, heads of a 3 x 3 convolution."""
    learned_upsampling(asked)
    depth = rows(weights, "stage_{}.Conv_forward.0.weight") - 1
    first = kernel(weights, "stage_0.Conv_forward.0.weight")
    levels = [d for d in range(1, depth + 1) if f"final_super_0_{d}.2.weight" in weights]
    spec = NetworkSpec(
        ndim=len(first) - 2,
        in_channels=first[1],
        classes=kernel(weights, f"final_super_0_{depth}.2.weight")[0],
        widths=tuple(kernel(weights, f"stage_{i}.Conv_forward.0.weight")[0] for i in range(depth + 1)),
        heads=tuple(levels),
        block="conv-bn-relu",
        decoder_block="bn-relu-conv",
        upsampling="transposed4",
        head="bn-relu-conv3",
        concatenation="up-first",
        conv_bias="stage_0.Conv_forward.0.bias" in weights,
    )
    modules: dict[str, str] = {}
    for i, j in spec.nodes:
        if j == 0:
            modules |= node("conv-bn-relu", i, 0, *(f"stage_{i}.Conv_forward.{k}" for k in (0, 1, 3, 4)))
        else:
            modules |= node("bn-relu-conv", i, j, *(f"CONV{i}_{j}.Conv_forward.{k}" for k in (2, 0, 5, 3)))
            modules[f"ups.{i}_{j}"] = f"upsample_{i}_{j}"
    for d in levels:
        modules |= {f"heads.{d}.{k}": f"final_super_0_{d}.{k}" for k in (0, 2)}
    steps = {d: float(weights.get(f"final_super_0_{d}.0.num_batches_tracked", _ONE).sum()) for d in levels}
    heads: Heads = "last" if steps[depth] > 0 and not any(steps[d] for d in levels[:-1]) else "all"
    notes = ("the heads of its shallower levels never saw an image, so they are left out",) if heads == "last" else ()
    return Found("UnetPlusPlus (stage_, CONV, final_super_)", spec, modules, "unit", heads, notes)


def find_shawnbit(weights: Mapping[str, Tensor], asked: Asked) -> Found:
    """UNet_Nested of UNet-family: BatchNorm in the encoder alone; what it gives is the mean of the logits of its heads."""
    learned_upsampling(asked)
    depth = rows(weights, "conv{}0.conv1.0.weight") - 1
    first = kernel(weights, "conv00.conv1.0.weight")
    transposed = "up_concat01.up.weight" in weights
    upsampling: Upsampling = "transposed2" if transposed else "conv1-bilinear-aligned"
    block: Block = "conv-bn-relu" if "conv00.conv1.1.weight" in weights else "conv-relu"
    spec = NetworkSpec(
        ndim=len(first) - 2,
        in_channels=first[1],
        classes=kernel(weights, f"final_{depth}.weight")[0],
        widths=tuple(kernel(weights, f"conv{i}0.conv1.0.weight")[0] for i in range(depth + 1)),
        heads=tuple(range(1, depth + 1)),
        block=block,
        decoder_block="conv-relu",
        upsampling=upsampling,
        concatenation="up-first",
        up_widths=tuple(_shawnbit_up(weights, i, transposed) for i in range(depth)),
    )
    modules = {f"heads.{d}": f"final_{d}" for d in spec.heads}
    for i, j in spec.nodes:
        if j == 0:
            modules |= node(block, i, 0, *(f"conv{i}0.conv{a}.{b}" for a in (1, 2) for b in (0, 1)))
        else:
            their = f"up_concat{i}{j}"
            modules |= node("conv-relu", i, j, f"{their}.conv.conv1.0", None, f"{their}.conv.conv2.0", None)
            modules |= {f"ups.{i}_{j}": f"{their}.up"} if transposed else {f"ups.{i}_{j}.0": f"{their}.up.1"}
    notes = (
        "its output is the mean of the logits of its heads, as with is_ds=True, its default: --heads last if it was trained "
        "without, --heads all if each head was trained by itself",
    )
    return Found(
        "UNet_Nested of UNet-family (ShawnBIT)", spec, modules, "unit", "mean", notes if asked.heads is None else ()
    )


def _shawnbit_up(weights: Mapping[str, Tensor], i: int, transposed: bool) -> int:
    found = shape(weights, f"up_concat{i}1.up.weight" if transposed else f"up_concat{i}1.up.1.weight")
    if len(found) < 2:
        raise UnfitError(f"the up-sampling of its row {i} has shape {found}")
    return found[1] if transposed else found[0]
