"""A folder of corrections on a disk that may be full, read-only or used by somebody else.

Decides, in this order: what is ours, who may paint (`hold_folder`), in which words the disk's and a folder's faults are told, and
how values become JSON (`plain`).
"""

from __future__ import annotations

import errno
import json
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from napari_unetpp._locks import Hold, InUse
from napari_unetpp.box import Box
from napari_unetpp.model.card import ClassInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "napari-unetpp-corrections"  # of the root's attributes; a folder without it is not ours
SUFFIX = ".corrections.zarr"


class CorrectionsError(ValueError):
    """The folder holds no corrections, is damaged, does not fit or is in use; one line for the user."""


def is_corrections(path: Path) -> bool:
    """Whether the folder was made by `create_corrections`, going by its attributes alone."""
    try:
        root = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        return "unpainted" in root["attributes"][KEY]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def hold_folder(path: Path) -> Hold:
    """The right to paint on a folder; one window or program at a time has it.

    Raises
    ------
    CorrectionsError
        Where another has it.
    """
    with disk(path):
        try:
            return Hold(
                path / ".lock", f"{path} is being painted on in another window or program; close it there first"
            )
        except InUse as error:
            raise CorrectionsError(str(error)) from None


def damaged(path: Path, what: str) -> CorrectionsError:
    """The error for a folder of which a part is missing or unreadable."""
    line = " ".join(what.split())
    return CorrectionsError(f"corrections at {path} are damaged ({line}); take a copy back, or make new ones elsewhere")


@contextmanager
def disk(path: Path, *, there: bool = True) -> Iterator[None]:
    """Errors of the disk as one line that names the folder; also where the folder is gone, which zarr would make anew."""
    try:
        if there and not (path / "zarr.json").is_file():
            raise FileNotFoundError(errno.ENOENT, "the folder was moved or deleted")
        yield
    except OSError as error:
        raise told(path, error) from error


def told(path: Path, error: OSError) -> OSError:
    """An error of the disk as one line that names the folder."""
    if str(error.strerror).startswith("cannot save corrections"):
        return error
    return OSError(error.errno, f"cannot save corrections: {error.strerror or error}", str(path))


def check_new(path: Path) -> None:
    """Refuse a place where something lies already, or whose folder is missing."""
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} exists already; open it, or name another folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"folder {path.parent} does not exist; make it, or write elsewhere")


def plain(value: Any) -> Any:
    """Classes, boxes and what holds them as JSON keeps them."""
    if isinstance(value, ClassInfo):
        return asdict(value)
    if isinstance(value, Box):
        return [list(value.start), list(value.stop)]
    return [plain(entry) for entry in value] if isinstance(value, tuple | list) else value
