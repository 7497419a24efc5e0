"""What a killed training run left behind, and continuing from it.

One file beside the model, ``<model>.training``, replaced as a whole after every epoch: weights, optimizer, how far the run was,
and the record (options, network, split) that a resumed run must share. Read with ``weights_only=True``, so it cannot execute
code.
"""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class RunState:
    """How far a run is: `epoch` epochs done, best score so far, `stale` epochs without a better one, seconds spent."""

    epoch: int = 0
    best: float = -1.0
    stale: int = 0
    seconds: float = 0.0
    network: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)


def state_path(out: Path) -> Path:
    """File that an unfinished run of the model `out` keeps beside it."""
    return out.with_name(out.name + ".training")


def save_state(state: RunState, out: Path, record: Mapping[str, Any]) -> None:
    """Replace the run's file as a whole; a crash leaves the old one or the new one."""
    target = state_path(out)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save(
                {
                    "version": _VERSION,
                    "record": json.dumps(record),
                    "epoch": state.epoch,
                    "best": state.best,
                    "stale": state.stale,
                    "seconds": state.seconds,
                    "network": dict(state.network),
                    "optimizer": dict(state.optimizer),
                },
                file,
            )
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)


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
        values["epoch"], values["best"], values["stale"], values["seconds"], values["network"], values["optimizer"]
    )


def remove_state(out: Path) -> None:
    """Forget the unfinished run, which is finished."""
    state_path(out).unlink(missing_ok=True)


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
