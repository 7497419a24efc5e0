"""What a killed training run left behind, and continuing from it.

One file beside the model, ``<model>.training``, replaced as a whole after every epoch: weights, optimizer, how far the run was,
and the record (options, network, split) that a resumed run must share. Read with ``weights_only=True``, so it cannot execute
code.
"""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from napari_unetpp._whole import whole_file
from napari_unetpp.training.identity import differences
from napari_unetpp.training.run_files import discard, forget, state_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["RunState", "discard", "forget", "load_state", "save_state", "state_path"]

_VERSION = 3  # 2 knew only a sample of each image


@dataclass(frozen=True, slots=True, eq=False)
class RunState:
    """How far a run is: `epoch` epochs done, best score so far, `stale` epochs without a better one, seconds spent.

    `best` is the mean IoU of the heads, or minus the training loss where nothing is scored. `batch` is the one that was found
    at the start; `before` the parent's scores on the held-out part; `history` one JSON object an epoch.
    """

    batch: int
    epoch: int = 0
    best: float = -math.inf
    stale: int = 0
    seconds: float = 0.0
    before: Mapping[str, Any] | None = None
    history: tuple[Mapping[str, Any], ...] = ()
    network: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)


def save_state(state: RunState, out: Path, record: Mapping[str, Any]) -> None:
    """Replace the run's file as a whole; a crash leaves the old one or the new one."""
    with whole_file(state_path(out)) as temporary:
        torch.save(
            {
                "version": _VERSION,
                "record": json.dumps(record),
                "told": json.dumps({"before": state.before, "history": list(state.history)}),
                "batch": state.batch,
                "epoch": state.epoch,
                "best": state.best,
                "stale": state.stale,
                "seconds": state.seconds,
                "network": dict(state.network),
                "optimizer": dict(state.optimizer),
            },
            temporary,
        )


def load_state(out: Path, record: Mapping[str, Any]) -> RunState | None:
    """State of the unfinished run of `out`, or None where there is none.

    Raises
    ------
    ValueError
        If the file is damaged, or belongs to a run with other options, data or network.
    """
    path = state_path(out)
    if not path.exists():
        return None
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        version, before = values["version"], json.loads(values["record"])
        told = json.loads(values["told"]) if version == _VERSION else {}
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path} is damaged ({reason}); remove it to start the run anew") from None
    if version != _VERSION:
        why = (
            "it was written by an earlier version, which noted a sample of each image alone, so that nobody can tell whether "
            "the images are still the same"
            if version in (1, 2)
            else f"it has version {version} where this version reads {_VERSION}"
        )
        raise ValueError(f"{path} cannot be resumed: {why}; remove it to start the run anew")
    now = json.loads(json.dumps(record))
    if differing := differences(before, now):
        raise ValueError(
            f"{path} belongs to a run with {'; '.join(differing)}; repeat it as it was, or remove the file to start anew"
        )
    if values["epoch"] >= now["options"]["epochs"]:
        raise ValueError(
            f"the run of {path} has {values['epoch']} epochs behind it; resume it with more epochs than that"
        )
    return RunState(
        batch=values["batch"],
        epoch=values["epoch"],
        best=values["best"],
        stale=values["stale"],
        seconds=values["seconds"],
        before=told["before"],
        history=tuple(told["history"]),
        network=values["network"],
        optimizer=values["optimizer"],
    )
