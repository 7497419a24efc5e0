"""A model cut down to one of its levels, to be kept as a file of its own.

Decides, in this order: what the file holds (`save_pruned`: the nodes with i + j <= level and the heads on them, in half precision
where that loses no bit), and what its card may still say (`pruned_card`): nothing about levels that are gone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from napari_unetpp.model.checkpoint import save_model
from napari_unetpp.model.unetpp import prune
from napari_unetpp.model.zoo import file_sha256

if TYPE_CHECKING:
    from napari_unetpp.model.card import Card
    from napari_unetpp.model.checkpoint import Model


def save_pruned(model: Model, level: int, path: str | Path, *, name: str | None = None) -> Path:
    """Path of the written model file, whose heads L1..`level` give the same bits as those of `model`.

    Written as `save_model` does: under its name only once it is whole, in place of what was there.

    Parameters
    ----------
    level
        A level that has a head; the deepest one keeps the whole network.
    name
        What the card calls it; None makes it out of the model's name and the level.

    Raises
    ------
    ValueError
        If the level has no head in this network, or `path` is the file that `model` came from.
    OSError
        As `save_model`.
    """
    network = prune(model.network, level)
    target = Path(path)
    if target.is_file() and model.sha256 == file_sha256(target):
        raise ValueError(f"{target} is the model itself, whose deeper levels would be lost; name another file")
    card = pruned_card(model, level, name or f"{model.card.name}-L{level}")
    small = replace(model, spec=network.spec, network=network, card=card, sha256="")
    return save_model(small, target, torch.float16 if fits_half(network) else torch.float32)


def pruned_card(model: Model, level: int, name: str) -> Card:
    """Card of the model pruned to `level`: what its parent's says, less what is true of deeper levels only.

    The record of the training stays and gains ``"pruned_from"``: name, sha256 (empty for a model that was never saved) and depth
    of the parent.
    """
    card, depth = model.card, model.spec.depth
    kept = {f"L{d}" for d in model.spec.heads_up_to(level)}
    if level == depth:
        kept.add("ensemble")  # the mean of other heads would be another one
    scores = {
        split: {head: values for head, values in heads.items() if head in kept} for split, heads in card.scores.items()
    }
    parent = {"name": card.name, "sha256": model.sha256, "depth": depth}
    if earlier := card.training.get("pruned_from"):
        parent["pruned_from"] = earlier
    return replace(
        card,
        name=name,
        description=f"L{level} of {card.name}. {card.description}".rstrip(),
        training={**card.training, "pruned_from": parent},
        scores={split: heads for split, heads in scores.items() if heads},
        recommended_level=min(card.recommended_level, level),
    )


def fits_half(network: torch.nn.Module) -> bool:
    """Whether the kernels came from half precision, so that it holds them to the last bit."""
    kernels = (value for value in network.state_dict().values() if value.ndim > 1)
    return all(torch.equal(value, value.half().to(value.dtype)) for value in kernels)
