"""Runs that were not finished: what lies beside a model while it trains, and how it is found again.

Decides, in this order: what is written (`hold_request`), which runs can go on (`unfinished`), and how a run is asked for again out
of what was written (`rebuild`). Beside ``cells tuned.safetensors`` in the user's folder lie::

    cells tuned.safetensors.training            the engine's: weights, optimizer, how far the run was
    cells tuned.safetensors.training.json       ours: which data, which parent, which options

The second is written as a whole or not at all, before the first step; the first comes with the first epoch, so that without it
there is nothing to go on with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from napari_unetpp._locks import Hold
from napari_unetpp._whole import whole_file
from napari_unetpp.gui.train_pairs import PairRequest
from napari_unetpp.gui.train_work import Scratch, TrainRequest
from napari_unetpp.model.zoo import SUFFIX, file_sha256, user_folder
from napari_unetpp.training.run_files import STATE, discard, holding, is_training, state_path

FORMAT = 1
REQUEST = ".training.json"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run that can go on; `values` is what was written, empty where that is missing or damaged."""

    out: Path
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.out.name.removesuffix(SUFFIX)


@contextmanager
def hold_request(request: TrainRequest, *, resume: bool) -> Iterator[Hold]:
    """The right to train a model, until the run ends, and the file of the run, written unless the run goes on.

    Raises
    ------
    ValueError
        If another window or program trains the same model.
    """
    path = _request_path(request.out)
    with holding(request.out) as hold:
        try:
            if not (resume and path.exists()):
                _write(path, _values(request))
            yield hold
        finally:
            if not state_path(request.out).exists():  # it ended by itself, or before its first epoch
                forget_request(request.out)


def forget_request(out: Path) -> None:
    """The run will not go on."""
    with suppress(PermissionError):  # on Windows while it is open: then it goes when that is closed
        _request_path(out).unlink(missing_ok=True)


def unfinished() -> Generator[tuple[Unfinished, ...]]:
    """The runs in the user's folder that nobody is at, as one event."""
    folder, found = user_folder(), []
    for path in folder.glob(f"*{SUFFIX}{REQUEST}"):  # of a run that was killed before its first epoch
        out = path.with_name(path.name.removesuffix(REQUEST))
        if not state_path(out).exists() and not is_training(out):
            forget_request(out)
    for state in sorted(folder.glob(f"*{SUFFIX}{STATE}")):
        out = state.with_name(state.name.removesuffix(STATE))
        if not is_training(out):
            found.append(Unfinished(out, _read(_request_path(out))))
    yield tuple(found)


def discard_run(out: Path) -> Generator[str]:
    """Remove a run that was not finished, with the model that it had made; tells its name.

    Raises
    ------
    InUse
        If somebody trains it now.
    """
    discard(out)
    forget_request(out)
    yield out.name.removesuffix(SUFFIX)


def rebuild(run: Unfinished, open_pair: Callable[[Mapping[str, Any]], PairRequest]) -> TrainRequest:
    """The request of a run.

    Parameters
    ----------
    open_pair
        Finds the data that a pair was of.

    Raises
    ------
    ValueError
        If what is needed is gone or changed, in one line.
    """
    values = run.values
    if not values:
        raise ValueError(f"{run.name} does not say what it was trained on; discard it, and train anew")
    try:
        new = values["scratch"]
        start = Scratch(**new) if new else Path(values["start"])
        pairs = tuple(open_pair(memo) for memo in values["pairs"])
        options, classes = dict(values["options"]), tuple(values["classes"])
        parent, replay = str(values["parent"]), bool(values["replay"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"the file of the run {run.name} is damaged ({error}); discard it") from None
    if isinstance(start, Path):
        if not start.is_file():
            raise ValueError(
                f"{parent}, from which {run.name} started, is gone ({start}); put it back, or discard the run"
            )
        if file_sha256(start) != values["sha256"]:
            raise ValueError(f"{parent}, from which {run.name} started, has changed since; the run cannot go on")
    return TrainRequest(pairs, start, options, run.name, classes, parent, replay)


def _values(request: TrainRequest) -> dict[str, Any]:
    scratch = asdict(request.start) if isinstance(request.start, Scratch) else None
    start = None if isinstance(request.start, Scratch) else request.start
    return {
        "format": FORMAT,
        "scratch": scratch,
        "start": str(start) if start else None,
        "sha256": file_sha256(start) if start else "",
        "parent": request.parent,
        "replay": request.replay,
        "options": request.options,
        "classes": list(request.classes),
        "pairs": [pair.memo for pair in request.pairs],
    }


def _request_path(out: Path) -> Path:
    return out.with_name(out.name + REQUEST)


def _write(path: Path, values: Mapping[str, Any]) -> None:
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) and values.get("format") == FORMAT else {}
