"""The encoders of the UNet++ authors' Keras package segmentation_models: VGG and DenseNet of Keras itself, ResNets of their own.

In this order: what an encoder is (`KerasEncoder`), which one weights are of (`find_encoder`), what the configuration tells of it
(`told_encoder`), and how its layers are called that the decoder takes (`named_maps`). VGG and DenseNet are timm's here; the
ResNets, which timm has not, are in `backbones_preact.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_unetpp.model.backbones_preact import FIRST_ROW, PREACT, channels_of, feeds_of
from napari_unetpp.model.foreign_found import UnfitError, kernel, shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from napari_unetpp.model.foreign_hdf5 import Layer
    from napari_unetpp.model.spec import NetworkSpec

_VGGS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_DENSENETS = {"densenet121": (6, 12, 24, 16), "densenet169": (6, 12, 32, 32), "densenet201": (6, 12, 48, 32)}
_LAST = "features.norm5"
_REFUSED = {
    r"stage1_unit1_conv2_\d+\.": "ResNeXt, whose grouped convolutions are code in the file",
    r"conv2d_\d+\.|conv_7b\.": "Inception",
}


@dataclass(frozen=True, slots=True)
class KerasEncoder:
    """An encoder of theirs.

    Parameters
    ----------
    name, row, taps, feeds
        As the specification has them.
    first
        Its first convolution.
    channels
        Of the rows from `row` on.
    epsilon
        Of its BatchNorms.
    modules
        Their layer for each of ours.
    """

    name: str
    row: int
    first: str
    channels: tuple[int, ...]
    modules: Mapping[str, str]
    epsilon: float = 0.0
    taps: tuple[str, ...] | None = None
    feeds: tuple[tuple[str, int], ...] | None = None


def find_encoder(weights: Mapping[str, Tensor]) -> KerasEncoder:
    """The encoder that weights are of."""
    if "block1_conv1.weight" in weights:
        return _vgg(weights)
    for pattern, name in _REFUSED.items():
        if any(re.match(pattern, key) for key in weights):
            raise UnfitError(f"its encoder is {name}, which cannot be imported; those of VGG, ResNet and DenseNet can")
    if "stage1_unit1_conv1.weight" in weights:
        return _resnet(weights)
    if "conv2_block1_1_conv.weight" in weights:
        return _densenet(weights)
    raise UnfitError("its encoder is not known; those of VGG, ResNet and DenseNet are")


def _vgg(weights: Mapping[str, Tensor]) -> KerasEncoder:
    name = "vgg19" if "block3_conv4.weight" in weights else "vgg16"
    modules, feeds, number = {}, [], 0
    channels = [kernel(weights, f"block{b}_conv1.weight")[0] for b in range(1, 6)]
    for block, convolutions in enumerate(_VGGS[name], 1):
        for k in range(1, convolutions + 1):
            modules[f"encoder.layers.features_{number}"] = f"block{block}_conv{k}"
            number += 2  # a ReLU behind it
        feeds.append((f"features.{number}", channels[block - 1]))
        number += 1
    widths = (*channels, channels[-1])  # what the last pooling gives is a row of its own
    return KerasEncoder(name, 0, "block1_conv1", widths, modules, feeds=tuple(feeds))


def _resnet(weights: Mapping[str, Tensor]) -> KerasEncoder:
    units = [re.match(r"stage(\d)_unit(\d+)_conv1\.", key) for key in weights]
    counts = tuple(max((int(u[2]) for u in units if u and u[1] == str(stage)), default=0) for stage in (1, 2, 3, 4))
    convolutions = 3 if "stage1_unit1_conv3.weight" in weights else 2
    name = next((name for name, made in PREACT.items() if made == (counts, convolutions)), None)
    if name is None:
        raise UnfitError(f"its encoder is a ResNet of {counts} blocks, which the original has not")
    layers = {key.rpartition(".")[0] for key in weights if re.match(r"stage\d|bn_data\.|bn0\.|bn1\.|conv0\.", key)}
    modules = {f"encoder.layers.{layer}": layer for layer in layers}
    return KerasEncoder(name, FIRST_ROW, "conv0", channels_of(name), modules, epsilon=2e-5, feeds=feeds_of(name))


def _densenet(weights: Mapping[str, Tensor]) -> KerasEncoder:
    layers = [re.match(r"conv(\d)_block(\d+)_0_bn\.weight", key) for key in weights]
    counts = tuple(max((int(n[2]) for n in layers if n and n[1] == str(block)), default=0) for block in (2, 3, 4, 5))
    name = next((name for name, made in _DENSENETS.items() if made == counts), None)
    if name is None:
        raise UnfitError(f"its encoder is a DenseNet of {counts} layers, which Keras has not")
    stem = _stem(weights, "{}conv.weight").removesuffix("conv.weight")
    modules = {"features_conv0": f"{stem}conv", "features_norm0": f"{stem}bn", "features_norm5": "bn"}
    for block, count in enumerate(counts, 1):
        for k in range(1, count + 1):
            ours, theirs = f"features_denseblock{block}.denselayer{k}", f"conv{block + 1}_block{k}"
            modules |= {f"{ours}.norm1": f"{theirs}_0_bn", f"{ours}.conv1": f"{theirs}_1_conv"}
            modules |= {f"{ours}.norm2": f"{theirs}_1_bn", f"{ours}.conv2": f"{theirs}_2_conv"}
        if block < len(counts):
            ours, theirs = f"features_transition{block}", f"pool{block + 1}"
            modules |= {f"{ours}_norm": f"{theirs}_bn", f"{ours}_conv": f"{theirs}_conv"}
    between = [kernel(weights, f"pool{k}_conv.weight")[0] for k in (2, 3, 4)]
    channels = (kernel(weights, f"{stem}conv.weight")[0], *between, *shape(weights, "bn.weight"))
    # Keras 2.2.2, which the original asks for, forgot the last ReLU.
    taps = ("features.norm0", *(f"features.transition{k}.conv" for k in (1, 2, 3)), f"{_LAST}.drop")
    modules = {f"encoder.layers.{ours}": theirs for ours, theirs in modules.items()}
    return KerasEncoder(name, 1, f"{stem}conv", channels, modules, epsilon=1.001e-5, taps=taps)


def _stem(names: Mapping[str, object], pattern: str) -> str:
    """Name of a layer before the first block, whose slash became an underscore in Keras 3."""
    return next(
        (name for start in ("conv1/", "conv1_") if (name := pattern.format(start)) in names), pattern.format("conv1/")
    )


def told_encoder(spec: NetworkSpec, told: Mapping[str, Layer]) -> NetworkSpec:
    """The specification with the ReLU at the end of a DenseNet, where the configuration tells of it."""
    if spec.encoder not in _DENSENETS or spec.encoder_taps is None or "relu" not in told:
        return spec
    return replace(spec, encoder_taps=(*spec.encoder_taps[:-1], _LAST))


def named_maps(spec: NetworkSpec, told: Mapping[str, Layer]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Their layers that give the maps of the rows, and those whose output X^{i,1} up-samples where these are others."""
    if spec.encoder in PREACT:
        maps = ("relu0", *(f"stage{stage}_unit1_relu1" for stage in (2, 3, 4)), "relu1")
        return maps, tuple(layer for layer, _ in feeds_of(spec.encoder))
    if spec.encoder in _DENSENETS:
        last = "relu" if spec.encoder_taps and spec.encoder_taps[-1] == _LAST else "bn"
        return (_stem(told, "{}relu"), "pool2_conv", "pool3_conv", "pool4_conv", last), ()
    pools = tuple(f"block{block}_pool" for block in range(1, 6))
    return (*(f"block{block}_conv{k}" for block, k in enumerate(_VGGS[spec.encoder], 1)), pools[-1]), pools
