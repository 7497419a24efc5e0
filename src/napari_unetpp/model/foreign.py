"""Somebody else's network becomes a model: recognised by the names of its weights, converted, and kept like any other.

In this order: the whole way from a file to a model (`import_checkpoint`) in its two halves, reading (`read_known`) and converting
(`convert`), which may be done again and again; the way to the user's folder (`add_foreign`); what the names of weights say
(`recognise`), and the weights under our names.

Nothing in a checkpoint is run (`foreign_files`). What its weights cannot say is asked for (`foreign_found.Asked`) or taken as the
original has it, and then told.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from napari_unetpp.model.card import Card
from napari_unetpp.model.checkpoint import Model, ModelFileError, all_finite, network_of, one_line, save_model
from napari_unetpp.model.foreign_card import Imported, classes_of, intensity_of, notes_of, tiling_of
from napari_unetpp.model.foreign_files import KERAS_LAYERS, is_own, read_checkpoint
from napari_unetpp.model.foreign_fork import find_fork
from napari_unetpp.model.foreign_found import HEADS, Asked, Found, Heads, UnfitError
from napari_unetpp.model.foreign_heads import average_heads, keep_last_head, rgb_first, surrounded
from napari_unetpp.model.foreign_keras import agreed, find_keras
from napari_unetpp.model.foreign_keras_backbones import find_backbone
from napari_unetpp.model.foreign_nested import find_nested, find_shawnbit, find_wide
from napari_unetpp.model.foreign_smp import find_nested_smp, find_plain_smp
from napari_unetpp.model.foreign_smp_encoders import is_untold
from napari_unetpp.model.foreign_unets import find_milesial, find_monai_nested, find_monai_plain
from napari_unetpp.model.names import check_name, safe_name
from napari_unetpp.model.packages import Package, convert_package, is_package, read_package
from napari_unetpp.model.unetpp import UNetPlusPlus
from napari_unetpp.model.zoo import SUFFIX, ModelEntry, check_free, copy_model, file_sha256, user_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from torch import Tensor

    from napari_unetpp.model.foreign_files import Checkpoint
    from napari_unetpp.model.spec import NetworkSpec

__all__ = [
    "Asked",
    "Imported",
    "Known",
    "Package",
    "add_foreign",
    "add_known",
    "asks_encoder",
    "convert",
    "import_checkpoint",
    "is_own",
    "read_known",
    "recognise",
    "save_foreign",
]

# The first pattern that the name of any weight begins with says what the network is.
_KNOWN: tuple[tuple[str, str, Callable[[dict[str, Tensor], Asked], Found]], ...] = (
    (r"CONV\d_\d\.Conv_forward\.", "UnetPlusPlus with stage_, CONV and final_super_", find_wide),
    (r"upcat_\d_\d\.convs\.", "BasicUNetPlusPlus of MONAI", find_monai_nested),
    (r"upcat_\d\.convs\.", "BasicUNet of MONAI", find_monai_plain),
    (r"up_concat\d\d\.", "UNet_Nested of ShawnBIT", find_shawnbit),
    (r"inc\.(double_conv|conv\.conv)\.", "U-Net of milesial", find_milesial),
    (r"loc\d\.\d\.\d\.blocks\.", "UNet++ of its authors' PyTorch code (a fork of nnU-Net)", find_fork),
    (r"conv\d\d_[12]\.", "U-Net or UNet++ of its authors' Keras code", find_keras),
    (r"decoder_stage\d", "a network of its authors' Keras package segmentation_models", find_backbone),
    (r"decoder\.blocks\.x_\d_\d\.", "UnetPlusPlus of segmentation_models.pytorch", find_nested_smp),
    (r"decoder\.blocks\.\d+\.conv1\.", "Unet of segmentation_models.pytorch", find_plain_smp),
    (r"conv\d_\d\.conv[12]\.", "NestedUNet or UNet of pytorch-nested-unet", find_nested),
)
_NOT_YET: tuple[tuple[str, str], ...] = (
    (r"conv_blocks_(context|localization)\.", "a network of nnU-Net's first version"),
    (r"(encoder|decoder)\.stages\.", "a network of nnU-Net"),
)
_ON_ENCODERS = (find_nested_smp, find_plain_smp)
_EPSILON = 1e-5  # of BatchNorm in torch
_UNBIASED = (r"seg_outputs\.\d+", r"up\d\.\d")  # nnU-Net's heads and up-sampling, without bias: all of a kind or none


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A checkpoint that was recognised, its weights in memory; `sha256` is its file's, `finder` tells its network in ours."""

    checkpoint: Checkpoint
    what: str
    finder: Callable[[dict[str, Tensor], Asked], Found]
    sha256: str

    @property
    def path(self) -> Path:
        """The file it was read from, which is not needed any more."""
        return self.checkpoint.path


def import_checkpoint(path: Path, asked: Asked = Asked(), name: str | None = None) -> Imported:  # noqa: B008 (frozen)
    """Model out of a checkpoint; nothing is written.

    Parameters
    ----------
    name
        What its card calls it; None is like the file.

    Raises
    ------
    FileNotFoundError, ModelFileError
        As `read_known` and `convert`.
    """
    return convert(read_known(path), asked, name)


def read_known(path: Path) -> Known | Package:
    """A checkpoint or a package of bioimage.io, read once and for all, and recognised.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If it is damaged, would run code, or is of no known format.
    """
    return read_package(path) if is_package(path) else known_of(path)


def known_of(path: Path, sha256: str = "") -> Known:
    """A checkpoint, as `read_known`; its hash is not taken again where it is given."""
    checkpoint = read_checkpoint(path)
    return Known(checkpoint, *_finder(path, checkpoint.weights), sha256 or file_sha256(path))


def asks_encoder(known: Known | Package) -> bool:
    """Whether nothing becomes of it before `Asked.encoder` is told."""
    inside = known.inside if isinstance(known, Package) else known
    return isinstance(inside, Known) and inside.finder in _ON_ENCODERS and is_untold(inside.checkpoint.weights)


def convert(known: Known | Package, asked: Asked = Asked(), name: str | None = None) -> Imported:  # noqa: B008 (frozen)
    """Model out of what was read, with weights of its own; `asked` may be another each time.

    Raises
    ------
    ModelFileError
        If it is not what the names of its weights promise, or an option does not fit what was found.
    """
    if isinstance(known, Package):
        return convert_package(known, asked, name)
    path, weights, extras = known.path, known.checkpoint.weights, known.checkpoint.extras
    try:
        found = known.finder(weights, asked)
        if KERAS_LAYERS in extras:
            found = agreed(found, extras[KERAS_LAYERS])
        if asked.padding not in (None, found.spec.padding):
            raise UnfitError(f"its convolutions are padded, so --padding {asked.padding} does not fit; leave it out")
        if asked.encoder is not None and known.finder not in _ON_ENCODERS:
            raise UnfitError(f"its weights tell its encoder, so --encoder {asked.encoder} does not fit; leave it out")
        state = _converted(weights, found)
        chosen = asked.heads or found.heads
        spec, state = _with_heads(found.spec, state, chosen)
        if found.bgr:
            state = rgb_first(state)
        intensity = intensity_of(asked.intensities or found.intensities, spec.in_channels, bgr=found.bgr)
        classes = classes_of(spec.classes, asked.classes, extras)
    except ValueError as error:  # NetworkSpec's own words among them
        raise ModelFileError(f"{path}: {known.what}: {error}") from None
    network = network_of(spec, state)
    notes = tuple(notes_of(found, spec, asked))
    card = Card(
        name or safe_name(path.stem),
        classes,
        description=f"Imported: {found.name}",
        training={"imported": found.name, "file": path.name, "sha256": known.sha256, "notes": list(notes)},
        recommended_level=spec.depth if len(spec.heads) == 1 else found.recommended or spec.depth,
        tiling=tiling_of(spec, found.patch),
    )
    return Imported(Model(spec, network.eval(), intensity, card, torch.device("cpu")), found.name, notes, found)


def add_foreign(path: Path, name: str | None = None, asked: Asked = Asked()) -> tuple[ModelEntry, Imported]:  # noqa: B008
    """Entry of a checkpoint that became a model in the user's folder, and what was told of it.

    Raises
    ------
    FileExistsError
        If a model of that name is there already; nothing is replaced.
    ValueError, OSError
        As `import_checkpoint` and `zoo.add_model`; nothing is left behind.
    """
    wanted = safe_name(path.stem) if name is None else check_name(name)
    check_free(wanted)  # before it is read in vain
    return add_known(read_known(path), wanted, asked)


def add_known(known: Known | Package, name: str, asked: Asked = Asked()) -> tuple[ModelEntry, Imported]:  # noqa: B008
    """As `add_foreign`, of what was read."""
    check_free(check_name(name))
    imported = convert(known, asked, name)
    target = user_folder() / f"{name}{SUFFIX}"
    save_foreign(imported, target, make_folder=True)
    return ModelEntry(name, target, "user"), imported


def save_foreign(imported: Imported, target: Path, *, make_folder: bool = False) -> Path:
    """Path of the model file, which was found to load before it got its name; there must be none yet."""
    with tempfile.TemporaryDirectory(prefix="napari-unetpp-") as folder:
        return copy_model(save_model(imported.model, Path(folder) / target.name), target, make_folder=make_folder)


def recognise(names: Collection[str]) -> str:
    """What the names of weights belong to, in words; empty where nobody knows.

    >>> recognise(["conv0_0.conv1.weight", "conv0_1.conv1.weight"])
    'NestedUNet or UNet of pytorch-nested-unet'
    """
    known = [(pattern, what) for pattern, what, _ in _KNOWN]
    return next((what for pattern, what in (*known, *_NOT_YET) if _begins(pattern, names)), "")


def _begins(pattern: str, names: Collection[str]) -> bool:
    return any(re.match(pattern, name) for name in names)


def _begins_any(patterns: Iterable[str], name: str) -> bool:
    return any(re.match(pattern, name) for pattern in patterns)


def _finder(path: Path, weights: dict[str, Tensor]) -> tuple[str, Callable[[dict[str, Tensor], Asked], Found]]:
    for pattern, what, finder in _KNOWN:
        if _begins(pattern, weights):
            return what, finder
    if what := recognise(weights):
        raise ModelFileError(f"{path} is {what}, which is recognised but cannot be imported yet")
    first = next(iter(weights))[:80]
    raise ModelFileError(f"{path} holds the weights of a network that is not known, the first is {first}")


def _converted(weights: dict[str, Tensor], found: Found) -> dict[str, Tensor]:
    """State of our network, float32, every weight of theirs used or explained."""
    try:
        with torch.device("meta"):  # shapes alone: what was found may be more than fits into the memory
            wanted = UNetPlusPlus(found.spec, initialise=False).state_dict()
    except (RuntimeError, OverflowError) as error:
        raise UnfitError(
            f"the network of its widths {found.spec.widths} cannot be built: {one_line(error)[:120]}"
        ) from None
    state, used, unbiased = {}, set(), set()
    for pattern in _UNBIASED:
        biases = {f"{their}.bias" for their in found.modules.values() if re.fullmatch(pattern, their)}
        unbiased |= biases if biases.isdisjoint(weights) else set()
    for key, like in wanted.items():
        module, _, leaf = key.rpartition(".")
        their = f"{found.modules.get(module, module)}.{leaf}"
        if their not in weights:
            if leaf != "num_batches_tracked" and their not in unbiased:
                raise UnfitError(f"its weight {their} is missing; fetch or save it again")
            state[key] = torch.zeros(like.shape, dtype=like.dtype)  # none was counted, none was added
            continue
        value = weights[their]
        if found.smaller_kernels and value.ndim > 2:
            value = surrounded(value, like.shape[2:])
        if value.shape != like.shape:
            raise UnfitError(f"its weight {their} has shape {tuple(value.shape)} where {tuple(like.shape)} is wanted")
        state[key] = value.to(like.dtype)  # no copy, `network_of` makes one: what was read stays what it is
        if leaf == "running_var":  # sqrt(variance + epsilon) stays what it was
            state[key] = state[key] + (found.epsilons.get(their.rpartition(".")[0], _EPSILON) - _EPSILON)
        if not all_finite(state[key]):
            raise UnfitError(f"its weight {their} holds NaN or infinity; fetch or save it again")
        used.add(their)
    if left := sorted(key for key in set(weights) - used if not _begins_any(found.unused, key)):
        raise UnfitError(
            f"{len(left)} of its weights are of no known use, the first is {left[0][:80]}; it is another network"
        )
    return state


def _with_heads(spec: NetworkSpec, state: dict[str, Tensor], chosen: Heads) -> tuple[NetworkSpec, dict[str, Tensor]]:
    if chosen not in HEADS:
        raise UnfitError(f"heads {chosen!r} are unknown; use {', '.join(HEADS)}")
    if chosen == "all" or len(spec.heads) == 1:
        return spec, state
    return keep_last_head(spec, state) if chosen == "last" else average_heads(spec, state)
