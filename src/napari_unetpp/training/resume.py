"""What a killed training run left behind, and continuing from it.

One file beside the model, ``<model>.training``, replaced as a whole after every epoch: weights, optimizer, how far the run was,
and the record (options, network, split) that a resumed run must share. Read with ``weights_only=True``, so it cannot execute
code.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from napari_unetpp._whole import whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_VERSION = 2  # 1 had no batch, no history and no parent's scores


@dataclass(frozen=True, slots=True, eq=False)
class RunState:
    """How far a run is: `epoch` epochs done, best score so far, `stale` epochs without a better one, seconds spent.

    `batch` is the one that was found at the start; `before` the parent's scores on the held-out part; `history` one JSON object
    an epoch.
    """

    batch: int
    epoch: int = 0
    best: float = -1.0
    stale: int = 0
    seconds: float = 0.0
    before: Mapping[str, Any] | None = None
    history: tuple[Mapping[str, Any], ...] = ()
    network: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)


def state_path(out: Path) -> Path:
    """File that an unfinished run of the model `out` keeps beside it."""
    return out.with_name(out.name + ".training")


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
        raise ValueError(
            f"{path} has version {version} where this version reads {_VERSION}; remove it to start the run anew"
        )
    now = json.loads(json.dumps(record))
    if differing := _differing(before, now):
        raise ValueError(
            f"{path} belongs to a run with other {', '.join(differing)}; repeat it as it was, or remove the file"
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


def forget(out: Path) -> None:
    """Remove what the run of `out` could be resumed from; its best weights so far stay what they are."""
    state_path(out).unlink(missing_ok=True)


def discard(out: Path) -> None:
    """Remove a run with all that it left: its best weights too."""
    forget(out)
    out.unlink(missing_ok=True)


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of what differs; for the options, the names of the options."""
    names = []
    for key in sorted({*before, *now}):
        one, other = before.get(key), now.get(key)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            names += [f"{key}.{name}" for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
        else:
            names.append(key)
    return names
