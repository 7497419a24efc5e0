"""The files beside a model while it trains, who may write them, and how they go away.

Beside ``cells.safetensors`` lie ``cells.safetensors.training``, what a stopped run goes on from, and, while somebody trains,
``.cells.safetensors.lock``. Free of torch, so that a window can look around without it.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from napari_unetpp._locks import Hold, is_held

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STATE = ".training"


def state_path(out: Path) -> Path:
    """File that an unfinished run of the model `out` keeps beside it."""
    return out.with_name(out.name + STATE)


def lock_path(out: Path) -> Path:
    """File that is locked while somebody trains the model `out`."""
    return out.with_name(f".{out.name}.lock")


def is_training(out: Path) -> bool:
    """Whether a window or a program trains the model `out` now."""
    return is_held(lock_path(out))


def hold_run(out: Path) -> Hold:
    """The right to train the model `out`, to go on with its run, or to remove it.

    Raises
    ------
    InUse
        If another window or program has it.
    FileNotFoundError
        If the folder does not exist.
    """
    if not out.parent.is_dir():
        raise FileNotFoundError(f"folder {out.parent} does not exist; make it, or save the model elsewhere")
    return Hold(
        lock_path(out),
        f"{out} is being trained in another window or program; wait until that ends, or choose another name",
    )


@contextmanager
def holding(out: Path, hold: Hold | None = None) -> Iterator[Hold]:
    """The right to write a run's files, given back at the end; where the caller has it already, `hold`, the caller keeps it."""
    mine = hold if hold is not None else hold_run(out)
    try:
        yield mine
    finally:
        if hold is None:
            let_go(out, mine)


def let_go(out: Path, hold: Hold) -> None:
    """Give the right back; its file goes too."""
    with suppress(OSError):  # Windows keeps it while it is open; the folder may be gone
        lock_path(out).unlink(missing_ok=True)
    hold.release()


def forget(out: Path) -> None:
    """Remove what the run of `out` could be resumed from; its best weights so far stay what they are."""
    state_path(out).unlink(missing_ok=True)


def discard(out: Path, hold: Hold | None = None) -> None:
    """Remove a run with all that it left: its best weights too.

    Raises
    ------
    InUse
        If somebody trains it now; `hold` says that it is the caller.
    """
    if not out.parent.is_dir():
        return
    with holding(out, hold):
        forget(out)
        out.unlink(missing_ok=True)
