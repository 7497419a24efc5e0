"""What a checkpoint of somebody else holds, read without running anything in it.

In this order: the file by its first bytes (`read_checkpoint`: Keras' in `foreign_hdf5`, safetensors, or torch's own with
``weights_only``), the state dict inside the usual wrappers, and what a weight must be to be looked at. Nothing is believed that the
size of the file does not allow.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from napari_unetpp.model.checkpoint import ModelFileError, one_line
from napari_unetpp.model.foreign_hdf5 import is_keras, read_keras

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
_PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.")  # DataParallel, Lightning, torch.compile
_DEEPEST = 5  # wrappers in each other
KERAS_LAYERS = "keras layers"  # among the extras: what a file of Keras tells of its layers
# Numbers of numpy that a trainer kept beside the weights (losses, scores). numpy's own makers of them believe what a file says of
# its data type, so these stand in for them, and what they are given is forgotten.
_NUMBERS = (("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"), ("numpy", "dtype"))
_AGAIN = "save its state_dict alone, with torch.save(network.state_dict(), ...)"


class _Forgotten:
    """Takes what a pickle gives it, and keeps none of it."""

    def __new__(cls, *given: object) -> _Forgotten:
        del given
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        del state


_FORGOTTEN = [type(name, (_Forgotten,), {"__module__": module}) for module, name in _NUMBERS]


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """The weights of a network of somebody, by the names that it gave them; `extras` is what else lay beside them."""

    path: Path
    weights: dict[str, Tensor]
    extras: Mapping[str, Any] = field(default_factory=dict)


def is_own(path: Path) -> bool:
    """Whether the file says that it is a model of this package, however damaged it may be."""
    try:
        with safe_open(path, framework="pt") as file:
            return "spec" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read_checkpoint(path: Path) -> Checkpoint:
    """Weights of a checkpoint, on the CPU, unwrapped.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If it is damaged, no checkpoint, or would run code when it is loaded; the message is one line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name a model file or a checkpoint")
    if is_keras(path):
        read, layers = read_keras(path)
        return Checkpoint(path, read, {KERAS_LAYERS: layers})
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:9] == b"{":
        values: Any = _read_safetensors(path)
    else:
        values = _load_torch(path)
    values = _unwrapped(values)
    if not isinstance(values, Mapping) or not any(isinstance(v, Tensor) for v in values.values()):
        raise ModelFileError(f"{path} is no model file of napari-unetpp, and holds no weights of a network; {_AGAIN}")
    named = {str(key): value for key, value in values.items()}
    weights = {key: value.detach() for key, value in named.items() if isinstance(value, Tensor)}
    _check_weights(path, weights)
    extras = {key: value for key, value in named.items() if not isinstance(value, Tensor)}
    return Checkpoint(path, _without_prefixes(weights), extras)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(
            f"{path} is no model file of napari-unetpp, or is damaged ({one_line(error)[:120]}); fetch it again"
        ) from None


def _load_torch(path: Path) -> Any:
    """What torch finds in the file, with nothing but tensors and plain values allowed in it."""
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of odd versions: what comes out is checked
            with _numbers_forgotten():
                return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise ModelFileError(f"{path} asks for more memory than there is; {_AGAIN}") from None
    except Exception as error:  # noqa: BLE001 - whatever a pickle machine stumbles over, the file is at fault
        text = one_line(error)
    if found := re.search(r"GLOBAL ([\w.]+)|[Uu]nsupported (?:global|class) ([\w.]+)", text):
        asked = found[1] or found[2]
        raise ModelFileError(
            f"{path} asks for code to be run when it is loaded ({asked[:80]}), which is refused; {_AGAIN}"
        )
    if "TorchScript" in text:
        raise ModelFileError(f"{path} is a TorchScript program, not a checkpoint; {_AGAIN}")
    if "weights only" in text.lower():
        raise ModelFileError(
            f"{path} is no model file of napari-unetpp, and holds more than weights, which is refused; {_AGAIN}"
        )
    raise ModelFileError(
        f"{path} is no model file of napari-unetpp, and torch cannot read it as a checkpoint ({text[:80]}); fetch it again"
    )


def _numbers_forgotten() -> AbstractContextManager[Any]:
    """Torch before 2.5 knows no other globals than its own: there such files are refused."""
    allow = getattr(torch.serialization, "safe_globals", None)
    return nullcontext() if allow is None else cast("AbstractContextManager[Any]", allow(_FORGOTTEN))


def _check_archive(path: Path) -> None:
    """Refuse a zip that unpacks to more than it is; torch stores its tensors as they are."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelFileError(f"{path} is damaged ({one_line(error)[:80]}); fetch it again") from None
    if unpacked > 2 * path.stat().st_size + 2**20:
        raise ModelFileError(
            f"{path} would unpack to {unpacked} bytes, many times its size, which is refused; {_AGAIN}"
        )


def _unwrapped(values: Any) -> Any:
    for _ in range(_DEEPEST):
        if not isinstance(values, Mapping):
            break
        inner = next((values[k] for k in _WRAPPERS if isinstance(values.get(k), Mapping)), None)
        if inner is None:
            break
        values = inner
    return values


def _check_weights(path: Path, weights: dict[str, Tensor]) -> None:
    size, claimed = path.stat().st_size, 0
    for key, value in weights.items():
        odd = (
            value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_complex()
        )
        if odd:
            raise ModelFileError(
                f"{path}: weight {key[:80]} is no plain tensor ({value.dtype}, {value.layout}); {_AGAIN}"
            )
        claimed += value.numel() * value.element_size()
        if claimed > size:  # overlapping or repeated storage: a small file would fill the memory
            raise ModelFileError(f"{path}: its weights, up to {key[:80]}, claim more bytes than the file has; {_AGAIN}")


def _without_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for _ in range(_DEEPEST):
        prefix = next((p for p in _PREFIXES if all(key.startswith(p) for key in weights)), None)
        if prefix is None:
            break
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights
