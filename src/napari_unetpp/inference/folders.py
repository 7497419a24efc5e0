"""A prediction store as a folder on a disk that may be full, read-only or somebody else's.

Decides, in this order: what is ours and may be replaced, how a new store takes its place, and in
which words the disk's and a store's faults are told.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetpp._whole import beside

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "napari-unetpp"  # of the root's attributes; a folder without it is not ours


class StoreError(ValueError):
    """The folder is not a prediction store, is damaged, or does not fit; one line for the user."""


class GoneError(StoreError):
    """The folder of a store is no longer the one that was opened."""


def refuse_occupied(path: Path, *, overwrite: bool) -> None:
    """Refuse to create a store where something else is, or where its folder is missing.

    Raises
    ------
    FileNotFoundError, FileExistsError
        The message says what to do.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"folder {path.parent} does not exist; make it, or write elsewhere")
    for folder in path.absolute().parents:
        if is_store(folder):
            raise FileExistsError(f"{path} lies in the predictions {folder}; name another path")
    if not os.path.lexists(path):
        return
    if not is_store(path) or path.is_symlink():
        raise FileExistsError(f"{path} exists and is not a prediction store, so it is not touched; name another path")
    if not overwrite:
        raise FileExistsError(
            f"{path} holds predictions already; go on with them (open_store(path, 'r+')), "
            "overwrite them, or name another path"
        )


def refuse_stack(path: Path, stack: Path | None) -> None:
    """Refuse predictions in the place of what they are made of, in it or around it: `overwrite` would remove it.

    Raises
    ------
    FileExistsError
        The message says what to do.
    """
    if stack is None:
        return
    output, source = Path(os.path.realpath(path)), Path(os.path.realpath(stack))
    if output == source or output in source.parents or source in output.parents:
        raise FileExistsError(f"{path} is, holds or lies in the stack {stack}; name another path for the predictions")


def is_store(path: Path) -> bool:
    """Whether the folder was made by `create_store`, going by its record alone."""
    try:
        root = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        return "levels" in root["attributes"][KEY]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a folder from another of the same name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remove_remains(path: Path) -> None:
    """Remove what zarr made anew of a store that was deleted: chunks without the metadata of any array.

    zarr makes the folders that it writes into. Such a folder cannot be opened by anybody.
    """
    if path.is_dir() and not path.is_symlink() and not any(path.rglob("zarr.json")):
        ours = {"done", ".lock", ".planes"}
        if all(entry.name in ours or re.fullmatch(r"L\d+", entry.name) for entry in path.iterdir()):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def leaving_nothing(path: Path) -> Iterator[None]:
    """Where the block ends because its store is gone, remove what was written after that.

    Who deletes a folder needs a while, and the last writes of a run may lie in between, so it looks for up to a second.
    """
    mine = identity(path)
    try:
        yield
    except GoneError:
        for _ in range(20):
            remove_remains(path)
            if not os.path.lexists(path) or (identity(path) != mine and is_store(path)):
                break
            time.sleep(0.05)
        raise


def put_in_place(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Rename; with `overwrite` an old store is moved aside first and removed last.

    Raises
    ------
    FileExistsError
        Where another run has made a store there meanwhile.
    """
    if not overwrite or not path.exists():
        if os.path.lexists(path):
            raise FileExistsError(f"{path} was made by another run meanwhile; wait for it, or name another path")
        temporary.rename(path)
        return
    old = beside(path, "old")
    path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def damaged(path: Path, what: str) -> StoreError:
    """The error for a store of which a part is missing or unreadable."""
    line = " ".join(what.split())
    return StoreError(f"predictions at {path} are damaged ({line}); overwrite them")


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Errors of the disk as one line that names the store."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(f"cannot write predictions to {path}: {error}") from error
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot write predictions: {reason}", str(path)) from error
