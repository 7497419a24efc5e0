"""A model leaves: whole or pruned, as a file of ours, as a graph for other programs, or as a package of bioimage.io.

In this order: what there is to choose from (`FORMATS`), and the way of one model to one file (`export_model`). A graph gets its
name only after the program that will run it has read it back and given the network's answers (`exchange_graphs.checked`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from napari_unetpp._whole import whole_file
from napari_unetpp.model import exchange_graphs as graphs
from napari_unetpp.model.checkpoint import Model, save_model
from napari_unetpp.model.pruning import fits_half, pruned_card, save_pruned
from napari_unetpp.model.unetpp import prune
from napari_unetpp.model.zoo import file_sha256

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

FormatName = Literal["safetensors", "onnx", "torchscript", "bioimageio"]


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write a model: how its file ends, what it is called, and who reads it."""

    suffix: str
    title: str
    about: str


FORMATS: dict[FormatName, Format] = {
    "safetensors": Format(".safetensors", "Model file", "for napari-unetpp; nothing is lost"),
    "onnx": Format(".onnx", "ONNX", "for onnxruntime and programs in any language; any image size"),
    "torchscript": Format(
        ".pt", "TorchScript", "for torch in Python, C++ and Java without this package; any image size"
    ),
    "bioimageio": Format(
        ".zip", "bioimage.io package", "for ilastik, deepImageJ, bioimageio.core and others; comes back whole"
    ),
}


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written; `checked` says in words what was found right about it."""

    path: Path
    bytes: int
    checked: str


def format_of(path: Path) -> FormatName:
    """Format that a file of that name has.

    Raises
    ------
    ValueError
        If no format ends so.

    Examples
    --------
    >>> from pathlib import Path
    >>> format_of(Path("cells.onnx"))
    'onnx'
    """
    for name, about in FORMATS.items():
        if path.suffix.lower() == about.suffix:
            return name
    endings = ", ".join(f"{about.suffix} ({about.title})" for about in FORMATS.values())
    raise ValueError(f"{path.name} names no format; let it end in {endings}")


def export_model(
    model: Model,
    target: Path,
    *,
    format: FormatName,  # noqa: A002 (what everybody calls it)
    level: int | None = None,
    overwrite: bool = False,
) -> Generator[str, None, Exported]:
    """Write `model` to `target`, yielding a line for each finished step; returns the `Exported`.

    The file appears under its name only once it is whole and was checked; stopping before leaves what was there.

    Parameters
    ----------
    level
        Keep only the nodes and heads that this level and those below it need; None is the whole model.
    overwrite
        Leave to replace a file that is there.

    Raises
    ------
    ModuleNotFoundError
        If a package for the format is missing; the message names the extra to install.
    ValueError
        If the format is unknown or has no way to say this network, the level has no head, or the answers of the written graph
        differ from the network's.
    OSError
        If there is a `target` already and no leave to overwrite it, or it cannot be written.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is unknown; use {', '.join(FORMATS)}")
    check_target(target, overwrite=overwrite)
    if (
        format != "safetensors" and model.spec.padding != "same"
    ):  # the margin it needs follows the extent by no rule of a graph
        raise ValueError(
            "a network without padding in its convolutions has no graph for any size; export it as safetensors"
        )
    small = smaller(model, level)
    if format == "safetensors":
        if level is not None:
            save_pruned(model, level, target)
        elif target.is_file() and model.sha256 == file_sha256(target):
            raise ValueError(f"{target} is the model itself; name another file")
        else:
            save_model(model, target, torch.float16 if fits_half(model.network) else torch.float32)
        return Exported(target, target.stat().st_size, "equal weights, to the bit")
    with whole_file(target) as temporary:
        if format == "bioimageio":
            from napari_unetpp.model.exchange_package import write_package

            checked = yield from write_package(model, small, temporary)
        else:
            checked = yield from write_graph(small, temporary, format, model.sha256)
        temporary.chmod(0o644)  # a model is shared like any other file
    return Exported(target, target.stat().st_size, checked)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a place where nothing can be written, before work that would be in vain."""
    if not target.parent.is_dir():
        raise FileNotFoundError(f"folder {target.parent} does not exist; make it, or name another file")
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; name a file")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; name another file, or --overwrite")


def smaller(model: Model, level: int | None) -> Model:
    """The model, on the CPU, with nothing that `level` and those below it do not need."""
    network = copy.deepcopy(model.network) if level is None else prune(model.network, level)
    network = network.cpu().float().eval()
    card = model.card if level is None else pruned_card(model, level, f"{model.card.name}-L{level}")
    return replace(model, spec=network.spec, network=network, card=card, device=torch.device("cpu"), sha256="")


def write_graph(
    model: Model, path: Path, kind: Literal["onnx", "torchscript"], source_sha256: str
) -> Generator[str, None, str]:
    """Write the graph of a model and check it, yielding a line for each; returns what was found, in words."""
    texts = graphs.about(model, source_sha256)
    heads = ", ".join(f"L{d}" for d in model.spec.heads)
    if kind == "onnx":
        opset = graphs.write_onnx(model.network, path, texts)
        yield f"ONNX graph of {heads}, opset {opset}"
    else:
        graphs.write_torchscript(model.network, path, texts)
        yield f"TorchScript graph of {heads}"
    found = graphs.checked(model.network, path, kind)
    yield found
    return found
