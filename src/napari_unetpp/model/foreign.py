"""Somebody else's network becomes a model: recognised by the names of its weights, converted, and kept like any other.

In this order: what comes out (`Imported`), the whole way from a file to a model (`import_checkpoint`) and to the user's folder
(`add_foreign`), what the names of weights say (`recognise`), and the weights under our names.

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
from napari_unetpp.model.checkpoint import Model, ModelFileError, one_line, save_model
from napari_unetpp.model.foreign_card import classes_of, intensity_of, notes_of, tiling_of
from napari_unetpp.model.foreign_files import KERAS_LAYERS, is_own, read_checkpoint
from napari_unetpp.model.foreign_fork import find_fork
from napari_unetpp.model.foreign_found import HEADS, Asked, Found, Heads, UnfitError
from napari_unetpp.model.foreign_heads import average_heads, keep_last_head, rgb_first, surrounded
from napari_unetpp.model.foreign_keras import agreed, find_keras, refuse_backbone
from napari_unetpp.model.foreign_nested import find_nested, find_shawnbit, find_wide
from napari_unetpp.model.foreign_smp import find_nested_smp, find_plain_smp
from napari_unetpp.model.foreign_unets import find_milesial, find_monai_nested, find_monai_plain
from napari_unetpp.model.names import check_name, safe_name
from napari_unetpp.model.packages import import_package, is_package
from napari_unetpp.model.unetpp import UNetPlusPlus
from napari_unetpp.model.zoo import SUFFIX, ModelEntry, check_free, copy_model, file_sha256, user_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from torch import Tensor

    from napari_unetpp.model.spec import NetworkSpec

__all__ = ["Asked", "Imported", "add_foreign", "import_checkpoint", "is_own", "recognise", "save_foreign"]

# The first pattern that the name of any weight begins with says what the network is.
_KNOWN: tuple[tuple[str, str, Callable[[dict[str, Tensor], Asked], Found]], ...] = (
    (r"CONV\d_\d\.Conv_forward\.", "UnetPlusPlus with stage_, CONV and final_super_", find_wide),
    (r"upcat_\d_\d\.convs\.", "BasicUNetPlusPlus of MONAI", find_monai_nested),
    (r"upcat_\d\.convs\.", "BasicUNet of MONAI", find_monai_plain),
    (r"up_concat\d\d\.", "UNet_Nested of ShawnBIT", find_shawnbit),
    (r"inc\.(double_conv|conv\.conv)\.", "U-Net of milesial", find_milesial),
    (r"loc\d\.\d\.\d\.blocks\.", "UNet++ of its authors' PyTorch code (a fork of nnU-Net)", find_fork),
    (r"conv\d\d_[12]\.", "U-Net or UNet++ of its authors' Keras code", find_keras),
    (r"decoder_stage\d", "a network of its authors' Keras package segmentation_models", refuse_backbone),
    (r"decoder\.blocks\.x_\d_\d\.", "UnetPlusPlus of segmentation_models.pytorch", find_nested_smp),
    (r"decoder\.blocks\.\d+\.conv1\.", "Unet of segmentation_models.pytorch", find_plain_smp),
    (r"conv\d_\d\.conv[12]\.", "NestedUNet or UNet of pytorch-nested-unet", find_nested),
)
_NOT_YET: tuple[tuple[str, str], ...] = (
    (r"conv_blocks_(context|localization)\.", "a network of nnU-Net's first version"),
    (r"(encoder|decoder)\.stages\.", "a network of nnU-Net"),
)
_UNBIASED = (r"seg_outputs\.\d+", r"up\d\.\d")  # nnU-Net's heads and up-sampling, without bias: all of a kind or none


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """A model made of a checkpoint; `what` is what it was recognised as, `notes` what was assumed, `found` what its weights say."""

    model: Model
    what: str
    notes: tuple[str, ...]
    found: Found | None = None

    @property
    def lines(self) -> dict[str, str]:
        """What was recognised, by what it is called."""
        spec, intensity = self.model.spec, self.model.intensity
        heads = ", ".join(f"L{d}" for d in spec.heads)
        scaled = f"{intensity.kind} of each stack"
        if intensity.kind == "fixed":
            pairs = zip(intensity.fixed_offset, intensity.fixed_gain, strict=True)
            scaled = ", ".join(f"(raw - {offset:g}) * {gain:.6g}" for offset, gain in pairs)
        steps = {"steps": ", ".join("x".join(map(str, step)) for step in spec.steps)} if spec.steps else {}
        return {
            "recognised": self.what,
            "input": f"{spec.ndim}D, {spec.in_channels} channel{'s' * (spec.in_channels > 1)}",
            "widths": ", ".join(map(str, spec.widths)),
            **steps,
            "heads": heads,
            "up-sampling": spec.upsampling,
            "preprocessing": scaled,
            "classes": ", ".join(c.name for c in self.model.classes),
        }


def import_checkpoint(path: Path, asked: Asked = Asked(), name: str | None = None) -> Imported:  # noqa: B008 (frozen)
    """Model out of a checkpoint; nothing is written.

    Parameters
    ----------
    name
        What its card calls it; None is like the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If it is damaged, would run code, is of no known format, or is not what the names of its weights promise.
    ValueError
        If an option does not fit what was found.
    """
    if is_package(path):
        return import_package(path, asked, name)
    checkpoint = read_checkpoint(path)
    what, finder = _finder(path, checkpoint.weights)
    try:
        found = finder(checkpoint.weights, asked)
        if KERAS_LAYERS in checkpoint.extras:
            found = agreed(found, checkpoint.extras[KERAS_LAYERS])
        if asked.padding not in (None, found.spec.padding):
            raise UnfitError(f"its convolutions are padded, so --padding {asked.padding} does not fit; leave it out")
        state = _converted(checkpoint.weights, found)
        chosen = asked.heads or found.heads
        spec, state = _with_heads(found.spec, state, chosen)
        if found.bgr:
            state = rgb_first(state)
        intensity = intensity_of(asked.intensities or found.intensities, spec.in_channels, bgr=found.bgr)
        classes = classes_of(spec.classes, asked.classes, checkpoint.extras)
    except ValueError as error:  # NetworkSpec's own words among them
        raise ModelFileError(f"{path}: {what}: {error}") from None
    network = UNetPlusPlus(spec, initialise=False)
    network.load_state_dict(state)
    notes = tuple(notes_of(found, spec, asked))
    card = Card(
        name or safe_name(path.stem),
        classes,
        description=f"Imported: {found.name}",
        training={"imported": found.name, "file": path.name, "sha256": file_sha256(path), "notes": list(notes)},
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
    check_free(wanted)
    imported = import_checkpoint(path, asked, wanted)
    target = user_folder() / f"{wanted}{SUFFIX}"
    save_foreign(imported, target, make_folder=True)
    return ModelEntry(wanted, target, "user"), imported


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
        state[key] = value.to(like.dtype).clone()
        if like.is_floating_point() and not bool(torch.isfinite(state[key]).all()):
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
