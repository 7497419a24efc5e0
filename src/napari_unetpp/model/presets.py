"""The networks that have a name, as changes to the papers' layout.

The papers' layout (UNet++, dissertation chapter 4, and the Keras code of its authors): two 3x3 convolutions with bias and
ReLU per node, 2x2 transposed convolutions to the width of the row above, 1x1 heads. Their "V-Net" family is the same grid with
3x3x3 kernels: that alone gives the printed numbers of parameters (22.6, 27.0, 25.3 and 26.2 million).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_unetpp.model.spec import NetworkSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

_PAPER = NetworkSpec(block="conv-relu", upsampling="transposed2")
_ONE_HEAD = (4,)
_WIDE = (35, 70, 140, 280, 560)

PRESETS: dict[str, NetworkSpec] = {
    # Ours: nothing depends on the size of the input, so seamless tiling is exact; BatchNorm is folded when it runs.
    "default": NetworkSpec(conv_bias=False),
    "unet": replace(_PAPER, skips="plain", heads=_ONE_HEAD),
    "wide-unet": replace(_PAPER, skips="plain", heads=_ONE_HEAD, widths=_WIDE),
    "unet-e": replace(_PAPER, skips="ensemble"),
    "unet+": replace(_PAPER, skips="short"),
    "unet++": _PAPER,
    # NestedUNet of 4uiiurz1/pytorch-nested-unet, deeply supervised.
    "pytorch-nested-unet": NetworkSpec(block="conv-bn-relu", upsampling="bilinear-aligned"),
    # A UnetPlusPlus of twice the width that circulates in tutorials.
    "unetplusplus-64": NetworkSpec(
        widths=(64, 128, 256, 512, 1024),
        block="conv-bn-relu",
        decoder_block="bn-relu-conv",
        upsampling="transposed4",
        head="bn-relu-conv3",
        concatenation="up-first",
    ),
    # milesial's U-Net with the convolution bias it had until 2021, padded so that every size works.
    "milesial-unet": NetworkSpec(
        widths=(64, 128, 256, 512, 1024), heads=_ONE_HEAD, skips="plain", block="conv-bn-relu", upsampling="transposed2"
    ),
}
# The U-Net of 2015 as published: nothing is padded, skips are cropped, 572 x 572 voxels in and 388 x 388 out.
PRESETS["unet-2015"] = replace(PRESETS["milesial-unet"], block="conv-relu", padding="valid")
# A tutorial's variant of it: nothing is padded but what is up-sampled, before it is concatenated; 572 in and 564 out.
PRESETS["unet-late-padding"] = replace(PRESETS["milesial-unet"], padding="late")
# The bilinear variant halves the deepest width and the outputs of its decoder. As printed in tutorials (full widths, 1024
# channels expected where 1536 arrive) it cannot run; `replace(preset("milesial-unet"), upsampling="bilinear-aligned")` is that
# network with the channels that do arrive.
PRESETS["milesial-unet-bilinear"] = replace(
    PRESETS["milesial-unet"],
    widths=(64, 128, 256, 512, 512),
    decoder_widths=(64, 64, 128, 256),
    middle="half-in",
    upsampling="bilinear-aligned",
)
_VOLUMETRIC = {"v-net": "unet", "wide-v-net": "wide-unet", "vnet-e": "unet-e", "vnet+": "unet+", "vnet++": "unet++"}
PRESET_NAMES = (*PRESETS, *_VOLUMETRIC)


def for_spacing(spec: NetworkSpec, spacing_um: Sequence[float]) -> NetworkSpec:
    """The same network, which samples down only along axes that are not yet coarser than the finest one.

    While a voxel is more than the square root of 2 longer along an axis than along its shortest edge, that axis is neither
    sampled down nor convolved across: stacks of thick slices are first treated as slices, and become cubes on their way down.

    >>> spec = for_spacing(preset("vnet++"), (4.0, 1.0, 1.0))
    >>> spec.steps
    ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    >>> spec.kernels
    ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    >>> for_spacing(preset("vnet++"), (1.2, 1.0, 1.0)) == preset("vnet++")
    True

    Parameters
    ----------
    spacing_um
        Of the stack along (z, y, x), in any unit.

    Raises
    ------
    ValueError
        If the numbers are not one positive number for each axis of the network.
    """
    if len(spacing_um) != spec.ndim or any(not s > 0 for s in spacing_um):
        raise ValueError(f"spacing {tuple(spacing_um)} must name {spec.ndim} axes with a positive number each")
    edges = [float(s) for s in spacing_um]
    steps, kernels = [], []
    for _ in range(spec.depth + 1):
        fine = [edge <= min(edges) * 2**0.5 for edge in edges]
        kernels.append(tuple(3 if f else 1 for f in fine))
        steps.append(tuple(2 if f else 1 for f in fine))
        edges = [edge * step for edge, step in zip(edges, steps[-1], strict=True)]
    if all(k == (3,) * spec.ndim for k in kernels):
        return replace(spec, steps=None, kernels=None)
    return replace(spec, steps=tuple(steps[:-1]), kernels=tuple(kernels), multiple=0)


def preset(name: str, ndim: int = 2, in_channels: int = 1, classes: int = 1) -> NetworkSpec:
    """Network of that name; the V-Net family is always 3D, whatever `ndim` says.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if name in _VOLUMETRIC:
        name, ndim = _VOLUMETRIC[name], 3
    if name not in PRESETS:
        raise ValueError(f"network {name!r} is unknown; use one of {', '.join(PRESET_NAMES)}")
    return replace(PRESETS[name], ndim=ndim, in_channels=in_channels, classes=classes)
