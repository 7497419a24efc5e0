"""What a file of Keras holds, read without Keras and without running anything in it.

In this order: the file (`read_keras`: HDF5 of Keras 2 and 3, or a .keras archive with such a file in it), the weights under torch's
names and in torch's order of axes, and what its configuration tells of its layers (`Layer`), which is read as JSON alone: the code
that Lambda layers carry stays text. Links to elsewhere, and sizes that the file does not have, are refused.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_unetpp.model.checkpoint import ModelFileError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

HDF5 = b"\x89HDF\r\n\x1a\n"
_IN_ARCHIVE = "model.weights.h5"  # of a .keras file, beside config.json
_MOST_OBJECTS = 100_000  # groups and weights: a group may contain itself
_DEEPEST = 16  # groups in each other
_AGAIN = 'save it again, with model.save("model.h5") in Keras'
_LEAVES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# In the files of Keras 3 the weights of a layer have numbers, in the order of their making; so many a layer.
_STATISTICS = ("moving_mean", "moving_variance")
_NUMBERED: dict[int, tuple[str, ...]] = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    3: ("beta", *_STATISTICS),  # no `scale`, as in the ResNets of the authors' package
    4: ("gamma", "beta", *_STATISTICS),
}


class _OddError(ValueError):
    """What is wrong with a file, without its name."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What a file says of a layer: its class in Keras, its settings, and the layers whose output it takes; empty where untold."""

    kind: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()


def odd_setting(name: str, layer: Layer, wanted: Mapping[str, tuple[Any, ...]]) -> str:
    """Which setting of a layer is none of those that are wanted, in words; empty where all are. The first one is the usual."""
    for setting, values in wanted.items():
        given = layer.config.get(setting, values[0])
        if any(value not in values for value in (given if isinstance(given, list) else [given])):
            return f"its layer {name[:80]} has {setting} {str(given)[:80]} where {values[0]} is wanted"
    return ""


def is_keras(path: Path) -> bool:
    """Whether the first bytes, or the members of an archive, are those of Keras."""
    with path.open("rb") as file:
        if file.read(len(HDF5)) == HDF5:
            return True
    try:
        with zipfile.ZipFile(path) as archive:
            return _IN_ARCHIVE in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def read_keras(path: Path) -> tuple[dict[str, Tensor], dict[str, Layer]]:
    """Weights by layer and by torch's names for them, float32, and what is known of each layer, also of those without weights.

    Kernels (..., in, out) of convolutions and (..., out, in) of transposed ones become (out, in, ...) and (in, out, ...).

    Raises
    ------
    ModelFileError
        If h5py is not installed, or the file is damaged, links elsewhere, or claims more than it has; the message is one line.
    """
    try:
        import h5py
    except ImportError:
        raise ModelFileError(
            f'{path} is a file of Keras, which is read with h5py: pip install "napari-unetpp[keras]"'
        ) from None
    try:
        source, size, config = _opened(path)
        with h5py.File(source, "r") as file:
            weights, names = _weights(file, size)
            told = config or file.attrs.get("model_config", "")
        layers = dict.fromkeys(names, Layer()) | _told(told, names)
    except _OddError as error:
        raise ModelFileError(f"{path}: {error}") from None
    except MemoryError:
        raise ModelFileError(f"{path} asks for more memory than there is; {_AGAIN}") from None
    except Exception as error:  # noqa: BLE001 - whatever HDF5 stumbles over, the file is at fault
        raise ModelFileError(
            f"{path} is damaged: it cannot be read as a file of Keras ({one_line(error)[:80]}); fetch it again"
        ) from None
    return weights, layers


def _opened(path: Path) -> tuple[Any, int, bytes]:
    """What h5py is to open, bytes of it, and the configuration where that is a file by itself."""
    if not zipfile.is_zipfile(path):
        return path, path.stat().st_size, b""
    with zipfile.ZipFile(path) as archive:
        size = path.stat().st_size
        members = [archive.getinfo(name) for name in (_IN_ARCHIVE, "config.json")]
        if sum(member.file_size for member in members) > 2 * size + 2**20:  # config.json alone is worth compressing
            raise _OddError(f"it would unpack to many times its size, which is refused; {_AGAIN}")
        inner = archive.read(members[0])
        return io.BytesIO(inner), len(inner), archive.read(members[1])


def _weights(file: Any, size: int) -> tuple[dict[str, Tensor], set[str]]:
    import h5py

    inner = next((name for name in ("model_weights", "layers") if name in file), None)
    if inner is not None and not isinstance(file.get(inner, getlink=True), h5py.HardLink):
        raise _OddError(f"its {inner} is a link to elsewhere, which is not followed; {_AGAIN}")
    root, numbered = file if inner is None else file[inner], inner == "layers"
    found: list[tuple[str, str, Any]] = []
    names: set[str] = set()
    claimed = 0
    parents: dict[str, set[tuple[str, ...]]] = {}
    items = list(_walk(root, h5py))
    known = {*_text_list(root.attrs, "layer_names")}
    for path, item in items:
        if isinstance(item, h5py.Dataset):
            parents.setdefault(path[0], set()).add(path[:-1])
    for path, item in items:
        if not isinstance(item, h5py.Dataset):
            names |= {_name(item)} if numbered else {path[0]} if len(path) == 1 else set()
            continue
        if len(path) < 2:
            raise _OddError(f"its weight {path[-1][:80]} belongs to no layer; {_AGAIN}")
        leaf = path[-1].split(":")[0]
        if numbered:
            layer = _name(item.parent)
            if not layer:
                raise _OddError(f"its layers have no names, as some versions of Keras write them; {_AGAIN}")
            leaves = _NUMBERED.get(len(item.parent), ())
            leaf = leaves[int(leaf)] if leaf.isdecimal() and int(leaf) < len(leaves) else leaf
        else:  # a group that holds several is a model in the model, as for several GPUs
            slashed = next((n for k in range(len(path) - 1, 1, -1) if (n := "/".join(path[:k])) in known), "")
            layer = slashed or (path[0] if len(parents[path[0]]) == 1 else path[-2])
        claimed += _checked(item, f"{layer}/{leaf}"[:80])
        if claimed > size:
            raise _OddError(
                f"its weights, up to {layer[:80]}, claim more bytes than the file has, which is refused; {_AGAIN}"
            )
        names.add(layer)
        found.append((layer, leaf, item))
    weights: dict[str, Tensor] = {}
    for layer, leaf, item in found:
        key = f"{layer}.{_LEAVES.get(leaf, leaf)}"
        if key in weights:
            raise _OddError(f"its layer {layer[:80]} is there twice; {_AGAIN}")
        value = torch.from_numpy(np.asarray(item[()], np.float32))
        if leaf == "kernel" and value.ndim > 2:
            value = value.permute(-1, -2, *range(value.ndim - 2)).contiguous()
        weights[key] = value
    if not weights:
        raise _OddError(f"it holds no weights of a network; {_AGAIN}")
    for layer in [key.removesuffix(".running_mean") for key in weights if key.endswith(".running_mean")]:
        mean = weights[f"{layer}.running_mean"]
        weights.setdefault(f"{layer}.weight", torch.ones_like(mean))  # BatchNormalization with scale=False
        weights.setdefault(f"{layer}.bias", torch.zeros_like(mean))
    return weights, names - {""}


def _walk(root: Any, h5py: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every group and data set below `root`, by its path; a link is refused before it is followed."""
    todo: list[tuple[tuple[str, ...], Any]] = [((), root)]
    count = 0
    while todo:
        above, group = todo.pop()
        for name in group:
            count += 1
            if count > _MOST_OBJECTS or len(above) > _DEEPEST:
                raise _OddError(f"its groups contain each other without an end; {_AGAIN}")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _OddError(f"its {name[:80]} is a link to elsewhere, which is not followed; {_AGAIN}")
            path, item = (*above, name), group[name]
            yield path, item
            if isinstance(item, h5py.Group):
                todo.append((path, item))


def _text_list(attributes: Any, name: str) -> Iterator[str]:
    """Texts of an attribute of Keras 2, which long lists are cut for: name0, name1 and so on."""
    for key in attributes:
        if re.fullmatch(rf"{name}\d*", key):
            yield from (text.decode() if isinstance(text, bytes) else str(text) for text in np.ravel(attributes[key]))


def _name(group: Any) -> str:
    name = group.attrs.get("name", "")
    return name.decode() if isinstance(name, bytes) else str(name)


def _checked(data: Any, name: str) -> int:
    """Bytes of a weight, which must be plain numbers that lie in this file."""
    if data.shape is None or data.dtype.kind != "f" or data.dtype.itemsize > 8:
        raise _OddError(f"its weight {name} is no plain floating-point array ({data.dtype}); {_AGAIN}")
    if data.external or data.is_virtual:
        raise _OddError(f"its weight {name} lies in another file, which is refused; {_AGAIN}")
    claimed = int(data.size) * int(data.dtype.itemsize)
    if not data.id.get_create_plist().get_nfilters() and data.id.get_storage_size() < claimed:
        raise _OddError(f"its weight {name} of {claimed} bytes is not in the file; fetch it again")
    return claimed


def _told(text: str | bytes, names: set[str]) -> dict[str, Layer]:
    """Layers of the model, or of the model in it, that most of `names` belong to."""
    models = list(_models(json.loads(text))) if text else []
    return max(models, key=lambda layers: len(names & set(layers)), default={})


def _models(config: Any) -> Iterator[dict[str, Layer]]:
    inner = config.get("config") if isinstance(config, dict) else None
    layers = inner.get("layers") if isinstance(inner, dict) else None
    if not isinstance(layers, list):
        return
    found = {}
    for layer in layers:
        yield from _models(layer)
        if isinstance(layer, dict) and isinstance(settings := layer.get("config"), dict):
            name = str(layer.get("name") or settings.get("name"))
            sources = tuple(_sources(layer.get("inbound_nodes")))
            found[name] = Layer(str(layer.get("class_name")), settings, sources)
    yield found


def _sources(value: Any) -> Iterator[str]:
    """Names of layers in ``inbound_nodes``: lists that begin with a name and two numbers, in Keras 2 and in Keras 3."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return
    if len(value) > 2 and isinstance(value[0], str) and all(isinstance(n, int) for n in value[1:3]):
        yield value[0]
        return
    for inner in value:
        yield from _sources(inner)
