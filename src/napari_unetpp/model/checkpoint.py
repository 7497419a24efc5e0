"""The model file: one safetensors file whose JSON header holds everything but the weights.

Header metadata (all strings, as safetensors asks): ``format`` (version of this layout), ``spec``, ``intensity``, ``card`` (JSON
each), ``weights_sha256``. Weights carry the names of `UNetPlusPlus.state_dict`. Nothing in such a file can execute code.

A file cannot hold its own hash, so its header holds that of the weights (`weights_sha256`), which is checked when it is loaded;
files of earlier versions have none. Predictions remember the hash of the whole file, card included.

Convolution kernels may be stored in half precision; they are widened to float32 when they are loaded. Biases and the statistics of
BatchNorm stay float32: they are few, and small variances would lose their digits.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from napari_unetpp._whole import whole_file
from napari_unetpp.model.backbones import build_encoder
from napari_unetpp.model.card import Card, ClassInfo
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus
from napari_unetpp.model.zoo import file_sha256, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = "1"
_KEYS = ("format", "spec", "intensity", "card")


class ModelFileError(ValueError):
    """The file is not a model that this version can read; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Header:
    """Everything of a model file but its weights; reading it costs no torch work.

    `weights_sha256` is the hash that the weights must have, empty in files of earlier versions.
    """

    spec: NetworkSpec
    intensity: Intensity
    card: Card
    weights_sha256: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A network ready to run, with what belongs to it.

    `network` is in evaluation mode on `device`; `sha256` is the hash of the file it came from (empty for one that was never
    saved).
    """

    spec: NetworkSpec
    network: UNetPlusPlus
    intensity: Intensity
    card: Card
    device: torch.device
    sha256: str = ""

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """One entry per channel of the heads."""
        return self.card.classes


def load_model(name_or_path: str | Path, device: str | torch.device = "auto") -> Model:
    """Model of that name in the zoo, or in that file.

    Parameters
    ----------
    device
        ``"auto"`` takes CUDA, else Apple's MPS, else the CPU.

    Raises
    ------
    FileNotFoundError
        If neither a file nor a model of the zoo has that name.
    ModelFileError
        If the file is damaged, truncated, no model, or of an unknown version.
    """
    path = resolve(name_or_path)
    header = read_header(path)
    try:
        with torch.device("meta"):  # shapes alone: what the header says may be more than fits into the memory
            wanted = UNetPlusPlus(header.spec, initialise=False).state_dict()
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ModelFileError(f"{path} describes a network that cannot be built: {one_line(error)[:200]}") from None
    try:
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} is damaged: {one_line(error)}; fetch or save it again") from None
    if missing := sorted(set(wanted) - set(weights)):
        raise ModelFileError(
            f"{path} lacks {len(missing)} weights of its network, the first is {missing[0]}; save it again"
        )
    if extra := sorted(set(weights) - set(wanted)):
        raise ModelFileError(
            f"{path} holds {len(extra)} weights that its network has not, the first is {extra[0]}; save it again"
        )
    for key, value in weights.items():
        if value.shape != wanted[key].shape:
            raise ModelFileError(
                f"{path}: weight {key} has shape {tuple(value.shape)} where {tuple(wanted[key].shape)} is wanted; save it again"
            )
        if not all_finite(value):
            raise ModelFileError(f"{path}: weight {key} holds NaN or infinity; train or fetch the model again")
    if header.weights_sha256 and weights_sha256(weights) != header.weights_sha256:
        raise ModelFileError(
            f"{path}: its weights are not those that its header tells the sha256 of ({header.weights_sha256[:12]}); fetch it again"
        )
    network = network_of(header.spec, {key: value.to(wanted[key].dtype) for key, value in weights.items()})
    chosen = choose_device(device)
    digest = file_sha256(path)
    return Model(header.spec, network.to(chosen).eval(), header.intensity, header.card, chosen, digest)


def save_model(model: Model, path: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Path of the written model file; convolution kernels are stored as `dtype`.

    The file appears under its name only once it is whole.

    Raises
    ------
    OSError
        If the folder cannot be written or the disk is full, or something else is read back; nothing is left behind.
    """
    target = Path(path)
    weights = {
        key: (value.to("cpu", dtype) if value.ndim > 1 else value.cpu()).contiguous()
        for key, value in model.network.state_dict().items()
    }
    metadata = {
        "format": FORMAT,
        "spec": json.dumps(model.spec.to_json()),
        "intensity": json.dumps(model.intensity.to_json()),
        "card": json.dumps(model.card.to_json()),
        "weights_sha256": weights_sha256(weights),
    }
    if not target.parent.is_dir():
        raise FileNotFoundError(f"folder {target.parent} does not exist; make it, or save the model elsewhere")
    try:
        with whole_file(target) as temporary:
            save_file(weights, temporary, metadata=metadata)
            _read_back(temporary, metadata)
            temporary.chmod(0o644)  # a model is shared like any other file
    except SafetensorError as error:  # its way of saying that the disk is full
        raise OSError(f"model {target} could not be written: {one_line(error)}") from None
    return target


def _read_back(path: Path, metadata: Mapping[str, str]) -> None:
    """Raise OSError unless a file that was just written holds this header, and the weights of which it names the hash."""
    with safe_open(path, framework="pt") as file:
        whole = file.metadata() == metadata
        whole = whole and weights_sha256({k: file.get_tensor(k) for k in file.keys()}) == metadata["weights_sha256"]  # noqa: SIM118
    if not whole:
        raise OSError(errno.EIO, "what was read back is not what was written", str(path))


def read_header(path: str | Path) -> Header:
    """Specification, intensity rule and card of a model file, without its weights.

    Raises
    ------
    FileNotFoundError, ModelFileError
        As `load_model`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name a model file or one of `napari-unetpp models list`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelFileError(
            f"{path} is no model file of napari-unetpp, or is damaged ({one_line(error)}); a .safetensors model is wanted"
        ) from None
    if missing := [key for key in _KEYS if key not in metadata]:
        raise ModelFileError(
            f"{path} is a safetensors file without {', '.join(missing)} in its header, so no napari-unetpp model"
        )
    if metadata["format"] != FORMAT:
        raise ModelFileError(
            f"{path} has format version {metadata['format']!r} where this version reads {FORMAT!r}; update napari-unetpp"
        )
    try:
        return Header(
            NetworkSpec.from_json(_json_object(metadata, "spec")),
            Intensity.from_json(_json_object(metadata, "intensity")),
            Card.from_json(_json_object(metadata, "card")),
            metadata.get("weights_sha256", ""),
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelFileError(f"{path}: {one_line(error)}") from None


def network_of(spec: NetworkSpec, weights: Mapping[str, torch.Tensor]) -> UNetPlusPlus:
    """Network with a copy of these weights, on the CPU."""
    with torch.device("meta"):  # else torch draws weights first, which takes longer than reading these
        network = UNetPlusPlus(spec, initialise=False)
    if spec.encoder:  # may hold numbers that are in no state dict
        network.encoder = build_encoder(spec, initialise=False)
    copies = {key: value.clone(memory_format=torch.contiguous_format) for key, value in weights.items()}
    network.load_state_dict(copies, assign=True)
    return network


def all_finite(weight: torch.Tensor) -> bool:
    """Whether a weight holds neither NaN nor infinity."""
    if not weight.is_floating_point() or not weight.numel():
        return True
    # NaN is handed on to both ends, which are found in a tenth of the time that looking at each value takes; not in 8 bits
    return all(math.isfinite(end) for end in torch.aminmax(weight.float() if weight.itemsize == 1 else weight))


def weights_sha256(weights: Mapping[str, torch.Tensor]) -> str:
    """Hash of weights as they are stored: of name, dtype, shape and bytes of each, by name."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        value = weights[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """Device of that name, or the fastest that torch finds for ``"auto"``.

    Raises
    ------
    ValueError
        If torch does not know or does not find the device.
    """
    if isinstance(device, torch.device):
        return device
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device {device!r} is unknown; use auto, cpu, cuda or mps") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device cuda was asked for, but torch finds no CUDA device; use --device cpu or install a CUDA build of torch"
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device mps was asked for, but torch finds no Apple GPU; use --device cpu")
    return chosen


def _json_object(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    value = json.loads(metadata[key])
    if not isinstance(value, dict):
        raise TypeError(f"header entry {key} is a {type(value).__name__} where a JSON object is wanted")
    return value


def one_line(error: BaseException) -> str:
    """Text of an error without its line ends."""
    return " ".join(str(error).split())
