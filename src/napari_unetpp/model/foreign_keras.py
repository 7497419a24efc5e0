"""The networks of the UNet++ authors' Keras code: U-Net, wide U-Net, and UNet++ with one head or four.

In this order: the network out of the names and shapes of its weights (`find_keras`), and what the file's own configuration adds or
contradicts (`agreed`). The networks on pretrained encoders of the same authors are in `foreign_keras_backbones.py`.

Their layer ``conv{a}{b}_{k}`` is convolution k of X^{a-1,b-1}, ``up{a}{b}`` the up-sampling before it, ``output_{d}`` the head of
level d (``output`` of a U-Net). Their heads end in a sigmoid, ours before it: the weights are the same.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_unetpp.model.foreign_found import (
    Found,
    UnfitError,
    exclusive,
    kernel,
    learned_upsampling,
    node,
    rows,
    shape,
)
from napari_unetpp.model.foreign_hdf5 import odd_setting
from napari_unetpp.model.foreign_keras_backbones import agreed_backbone, backbone_problem
from napari_unetpp.model.spec import NetworkSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from napari_unetpp.model.foreign_found import Asked
    from napari_unetpp.model.foreign_hdf5 import Layer

_DROPOUT = 0.5  # after every convolution of the original
_WEIGHTLESS = ("InputLayer", "Dropout", "Concatenate", "MaxPooling2D", "MaxPooling3D")
_NAMES: dict[tuple[int, ...], str] = {
    (32, 64, 128, 256, 512): "U-Net",
    (35, 70, 140, 280, 560): "wide U-Net",
}


def find_keras(weights: Mapping[str, Tensor], asked: Asked) -> Found:
    """U-Net, wide U-Net or UNet++ of helper_functions.py, of any widths and depth."""
    learned_upsampling(asked)
    depth = rows(weights, "conv{}1_1.weight", first=1) - 2
    if depth < 1:
        raise UnfitError("it has one row, so no level; two are wanted")
    first = kernel(weights, "conv11_1.weight")
    nested = depth == 1 or any(key.startswith("conv12_1.") for key in weights)
    heads = {d: f"output_{d}" for d in range(1, depth + 1) if f"output_{d}.weight" in weights}
    if depth not in heads and "output.weight" in weights:
        heads = {depth: "output"}
    if depth not in heads:
        raise UnfitError(f"its head output or output_{depth} is missing; fetch or save it again")
    last = heads[depth]
    widths = tuple(kernel(weights, f"conv{i + 1}1_1.weight")[0] for i in range(depth + 1))
    ups = tuple(_up_width(weights, i, 1 if nested else depth - i) for i in range(depth))
    spec = NetworkSpec(
        ndim=len(first) - 2,
        in_channels=first[1],
        classes=kernel(weights, f"{last}.weight")[0],
        widths=widths,
        heads=tuple(heads) if nested else (depth,),
        skips="dense" if nested else "plain",
        block="conv-relu-dropout",
        upsampling="transposed2",
        concatenation="up-first",
        up_widths=None if ups == widths[:-1] else ups,
        dropout=_DROPOUT,
    )
    modules = {f"heads.{d}": their for d, their in heads.items()}
    for i, j in spec.nodes:
        name = f"{i + 1}{j + 1}"
        modules |= node(spec.block, i, j, f"conv{name}_1", None, f"conv{name}_2", None)
        if j:
            modules[f"ups.{i}_{j}"] = f"up{name}"
    kind = "UNet++" if nested else _NAMES.get(widths, "U-Net")
    return Found(f"{kind} of its authors' Keras code", spec, modules, "percentile")


def _up_width(weights: Mapping[str, Tensor], i: int, j: int) -> int:
    found = shape(weights, f"up{i + 1}{j + 1}.weight")
    if len(found) < 2:
        raise UnfitError(f"the up-sampling of its row {i} has shape {found}")
    return found[1]


def agreed(found: Found, layers: Mapping[str, Layer]) -> Found:
    """The network with what the configuration in its file tells: dropout, order of concatenation, last activation.

    Raises
    ------
    UnfitError
        If it tells of layers or settings that the network does not have.
    """
    told = {name: layer for name, layer in layers.items() if layer.kind}
    if not told:
        assumed = (
            "the original's layers and their order are assumed"
            if found.spec.encoder
            else "ReLU, dropout 0.5 and the original's concatenation (up-sampled first) are assumed"
        )
        note = f"it holds weights alone: {assumed}; a file of the whole model, model.save, would tell"
        return replace(found, notes=(*found.notes, note, *exclusive(found.spec, "sigmoid")))
    if untold := sorted(set(found.modules.values()) - set(told)):
        raise UnfitError(f"its configuration does not tell of its layer {untold[0][:80]}; fetch or save it again")
    problem_of = backbone_problem if found.spec.encoder else _problem
    for name, layer in told.items():
        if problem := problem_of(name, layer):
            raise UnfitError(problem)
    if found.spec.encoder:
        return agreed_backbone(found, told)
    rates = {_number(layer.config.get("rate")) for layer in told.values() if layer.kind == "Dropout"}
    if len(rates) > 1:
        raise UnfitError(f"its dropout differs from layer to layer ({', '.join(f'{r:g}' for r in sorted(rates))})")
    spec = replace(found.spec, dropout=rates.pop() if rates else 0.0, concatenation=_concatenation(found.spec, told))
    activation = told[found.modules[f"heads.{spec.depth}"]].config.get("activation")
    return replace(found, spec=spec, notes=(*found.notes, *exclusive(spec, activation)))


def _problem(name: str, layer: Layer) -> str:
    """What of a layer our network does not have; empty where it has all of it."""
    if layer.kind == "Lambda":
        return f"its layer {name[:80]} is a Lambda, code that is not run, so what it does is unknown"
    known = re.fullmatch(r"(conv\d+_[12]|up\d+|output(?:_\d+)?)", name)
    kinds = ("Conv2DTranspose", "Conv3DTranspose") if name.startswith("up") else ("Conv2D", "Conv3D")
    if layer.kind not in (kinds if known else _WEIGHTLESS):
        return f"its layer {name[:80]} of the kind {layer.kind[:80]} is not in the original; it is another network"
    stride = 2 if layer.kind.startswith("MaxPooling") or name.startswith("up") else 1
    wanted: dict[str, tuple[Any, ...]] = {"dilation_rate": (1,), "groups": (1,), "strides": (stride,)}
    if layer.kind.startswith("MaxPooling"):
        wanted = {"pool_size": (2,), "strides": (2, None)}  # None: its size
    elif name.startswith("conv"):
        wanted |= {"activation": ("relu",), "padding": ("same",)}
    elif name.startswith("up"):
        wanted |= {"activation": ("linear", None)}
    elif known:
        wanted |= {"activation": ("sigmoid", "softmax", "linear", None)}
    else:
        return ""
    return odd_setting(name, layer, wanted)


def _concatenation(spec: NetworkSpec, layers: Mapping[str, Layer]) -> Any:
    """Order in which the first convolutions take what arrives, the same for all; the original's where nothing tells."""
    orders = set()
    for i, j in spec.nodes:
        given = [(int(n[0]), int(n[1])) for n in _node_names(layers, f"merge{i + 1}{j + 1}")]
        skips = [(a + 1, b + 1) for a, b in spec.same_row(i, j)] if j else []
        if not given:
            continue
        up = (i + 1, j + 1)
        orders.add({(up, *skips): "up-first", (*skips, up): "skips-first"}.get(tuple(given), "mixed"))
    if len(orders) > 1 or "mixed" in orders:
        raise UnfitError("its layers are concatenated in another order than any that is known")
    return orders.pop() if orders else spec.concatenation


def _node_names(layers: Mapping[str, Layer], name: str) -> Iterator[str]:
    for source in layers[name].inputs if name in layers else ():
        if match := re.fullmatch(r"(?:conv|dp|up)(\d\d)(?:_[12])?", source):
            yield match[1]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else _DROPOUT
