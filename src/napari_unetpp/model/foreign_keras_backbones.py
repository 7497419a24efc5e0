"""Xnet, Nestnet and Unet of the UNet++ authors' Keras package segmentation_models: nested decoders on pretrained encoders.

In this order: the network out of the names and shapes of its weights (`find_backbone`), and what the file's configuration adds or
contradicts (`agreed_backbone`). Which encoder they are of is found in `foreign_keras_encoders.py`.

``decoder_stage{a}-{b}`` of Xnet (UNet++) and Nestnet (UNet+) is X^{a-1,b}; ``decoder_stage{k}`` of Unet is X^{4-k,k+1}. The grid
has five levels and one head. What X^{i,1} up-samples is X^{i+1,0} on DenseNet alone: on VGG it is X^{i,0} pooled, on ResNet a map
that lies a block before X^{i+1,0}. All but VGG have no map for row 0, so that X^{0,5} receives nothing but X^{1,4}. The widths of
the nested decoders are 32, 64, 128, 256, 16 from row 0 down: a slip of the original that trained weights keep.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_unetpp.model.backbones_preact import PREACT
from napari_unetpp.model.foreign_found import Found, UnfitError, exclusive, kernel, node
from napari_unetpp.model.foreign_hdf5 import odd_setting
from napari_unetpp.model.foreign_keras_encoders import find_encoder, named_maps, told_encoder
from napari_unetpp.model.spec import NetworkSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from napari_unetpp.model.foreign_found import Asked
    from napari_unetpp.model.foreign_hdf5 import Layer
    from napari_unetpp.model.spec_checks import Skips

_DEPTH = 5
_HEAD = "final_conv"
_EPSILON = 1e-3  # of BatchNorm, Keras' own


def find_backbone(weights: Mapping[str, Tensor], asked: Asked) -> Found:
    """Xnet, Nestnet or Unet on VGG or ResNet, with up-sampling or transposed convolutions in the decoder."""
    if asked.upsampling is not None:
        raise UnfitError(f"its layers tell its up-sampling, so it cannot be {asked.upsampling}; leave --upsampling out")
    blocks = _blocks(weights)
    depth = max(i + j for i, j in blocks)
    if depth != _DEPTH or (0, _DEPTH) not in blocks:
        raise UnfitError(
            f"its decoder has {depth} rows where {_DEPTH} are wanted; it was made with another n_upsample_blocks"
        )
    nested = any("-" in name for name in blocks.values())
    encoder = find_encoder(weights)
    last = blocks[0, _DEPTH]
    transposed = f"{last}_upsample.weight" in weights
    normed = f"{last}_bn2.running_mean" in weights
    decoder = tuple(kernel(weights, f"{blocks[i, _DEPTH - i]}_conv2.weight")[0] for i in range(_DEPTH))
    spec = NetworkSpec(
        in_channels=kernel(weights, f"{encoder.first}.weight")[1],
        classes=kernel(weights, f"{_HEAD}.weight")[0],
        widths=(*decoder[: encoder.row], *encoder.channels),
        heads=(_DEPTH,),
        skips="plain",
        upsampling="transposed4-relu" if transposed else "nearest",
        block="conv-bn-relu" if normed else "conv-relu",
        conv_bias=not normed,
        head="conv3",
        concatenation="up-first",
        decoder_widths=decoder,
        decoder_convolutions=1 if transposed else 2,
        lone_rows=encoder.row,
        encoder=encoder.name,
        encoder_row=encoder.row,
        encoder_taps=encoder.taps,
        encoder_feeds=encoder.feeds if nested else None,
    )
    if nested:
        spec = replace(spec, skips=_skips(weights, spec, blocks, "conv2" if transposed else "conv1"))
    modules = {f"heads.{_DEPTH}": _HEAD, **encoder.modules}
    for (i, j), their in blocks.items():
        modules |= node(spec.block, i, j, *_convolutions(their, transposed=transposed))
        if transposed:
            modules |= {f"ups.{i}_{j}.0": f"{their}_upsample", f"ups.{i}_{j}.1": f"{their}_bn1"}
    name = {"plain": "Unet", "short": "Nestnet (UNet+)", "dense": "Xnet (UNet++)"}[spec.skips]
    like = encoder.name.removeprefix("keras-")
    return Found(
        f"{name} on {like} of its authors' Keras package segmentation_models",
        spec,
        modules,
        "raw",
        notes=()
        if encoder.name in PREACT
        else (f"its encoder is timm's {encoder.name}, which must be installed to run it",),
        epsilons=_epsilons(weights, encoder.epsilon),
    )


def _blocks(weights: Mapping[str, Tensor]) -> dict[tuple[int, int], str]:
    """Their name of each node; all have a second convolution."""
    blocks = {}
    for key in weights:
        if found := re.fullmatch(r"(decoder_stage(\d{1,2})(?:-(\d{1,2}))?)_conv2\.weight", key):
            name, a, b = found.groups()
            blocks[(_DEPTH - 1 - int(a), int(a) + 1) if b is None else (int(a) - 1, int(b))] = name
    if not blocks or min(i for i, _ in blocks) < 0:
        raise UnfitError("its decoder has other blocks than the original's; it is another network")
    return blocks


def _skips(
    weights: Mapping[str, Tensor], spec: NetworkSpec, blocks: Mapping[tuple[int, int], str], first: str
) -> Skips:
    """What each node receives of its row, by the channels that the convolutions behind the concatenations take."""
    taken = {at: kernel(weights, f"{their}_{first}.weight")[1] for at, their in blocks.items()}
    kinds: tuple[Skips, ...] = ("dense", "short")
    for skips in kinds:
        asked = replace(spec, skips=skips)
        wanted = {
            (i, j): asked.up_width(i, j) + sum(asked.node_width(*beside) for beside in asked.same_row(i, j))
            for i, j in asked.nodes
            if j > 0
        }
        if taken == wanted:
            return skips
    raise UnfitError("its nodes take other maps than those of Xnet or Nestnet; it was made with other skip_connections")


def _convolutions(their: str, *, transposed: bool) -> tuple[str | None, ...]:
    if transposed:
        return f"{their}_conv2", f"{their}_bn2", None, None
    return f"{their}_conv1", f"{their}_bn1", f"{their}_conv2", f"{their}_bn2"


def _epsilons(weights: Mapping[str, Tensor], of_encoder: float) -> dict[str, float]:
    layers = [key.removesuffix(".running_var") for key in weights if key.endswith(".running_var")]
    return {layer: _EPSILON if layer.startswith("decoder_") else of_encoder for layer in layers}


# --- what the configuration tells -------------------------------------------------------------------------------------


_KINDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "InputLayer": {},
    "Conv2D": {"dilation_rate": (1,), "groups": (1,)},
    "Conv2DTranspose": {"strides": (2,), "kernel_size": (4,), "padding": ("same",), "activation": ("linear", None)},
    "BatchNormalization": {"axis": (3, -1)},
    "Activation": {"activation": ("relu", "sigmoid", "softmax", "linear")},
    "MaxPooling2D": {"strides": (2,)},
    "AveragePooling2D": {"strides": (2,), "pool_size": (2,)},
    "ZeroPadding2D": {},
    "UpSampling2D": {"size": (2,), "interpolation": ("nearest",)},
    "Concatenate": {"axis": (3, -1)},
    "Add": {},
}


def agreed_backbone(found: Found, told: Mapping[str, Layer]) -> Found:
    """The network with the epsilons that its configuration tells, which must have its layers in the original's order.

    Raises
    ------
    UnfitError
        If it tells of connections that the network does not have.
    """
    found = replace(found, spec=told_encoder(found.spec, told))
    for i, j in found.spec.nodes:
        if j > 0:
            _check_inputs(found, told, i, j)
    given = {name: told[name].config.get("epsilon") for name in found.epsilons}
    epsilons = {name: float(e) if isinstance(e, int | float) else found.epsilons[name] for name, e in given.items()}
    last = next((layer for layer in told.values() if _HEAD in layer.inputs), None)
    activation = None if last is None else last.config.get("activation")
    return replace(found, epsilons=epsilons, notes=(*found.notes, *exclusive(found.spec, activation)))


def backbone_problem(name: str, layer: Layer) -> str:
    """What of a layer our network does not have; empty where it has all of it."""
    if layer.kind not in _KINDS:
        return f"its layer {name[:80]} of the kind {layer.kind[:80]} is not in the original; it is another network"
    wanted = dict(_KINDS[layer.kind])
    if layer.kind == "Conv2D":
        wanted["activation"] = ("relu",) if re.match(r"block\d_conv", name) else ("linear", None)
    return odd_setting(name, layer, wanted)


def _check_inputs(found: Found, told: Mapping[str, Layer], i: int, j: int) -> None:
    """Refuse a node that receives something else than in our grid, or in another order."""
    maps, fed = named_maps(found.spec, told)
    first = found.modules[f"nodes.{i}_{j}.0"]
    their = first.rpartition("_")[0]
    up = f"{their}_relu1" if found.spec.decoder_convolutions == 1 else f"{their}_upsample"

    def output(a: int, b: int) -> str:
        return (
            maps[a - found.spec.encoder_row]
            if b == 0
            else found.modules[f"nodes.{a}_{b}.0"].rpartition("_")[0] + "_relu2"
        )

    def inputs(layer: str) -> tuple[str, ...]:
        given = told[layer].inputs if layer in told else ()
        joined = len(given) == 1 and given[0] in told and told[given[0]].kind == "Concatenate"
        return told[given[0]].inputs if joined else given

    below = fed[i - found.spec.encoder_row] if found.spec.below(i, j)[1] < 0 else output(i + 1, j - 1)
    wanted = ((up, *(output(*beside) for beside in found.spec.same_row(i, j))), (below,))
    for layer, names in zip((first, f"{their}_upsample"), wanted, strict=True):
        if (given := inputs(layer)) != names:
            raise UnfitError(
                f"its layer {layer[:80]} receives {', '.join(given)[:160] or 'nothing'} where {', '.join(names)} is wanted; it was "
                "made with other skip_connections"
            )
