"""Files and folders that are there as a whole or not at all.

In this order: where they are made (`beside`), a file (`whole_file`), a folder (`whole_folder`), and how one that is not wanted
goes away (`remove_folder`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = 40  # characters of a name that its temporary neighbour repeats: systems allow 255 bytes in all
_WAITING = "writes that were begun"  # name of the tasks of `_settled`


def beside(target: Path, ending: str) -> Path:
    """A free, hidden path in the same folder: a rename is atomic only within a file system."""
    return target.with_name(f".{target.name[:_NAME]}.{uuid.uuid4().hex[:8]}.{ending}")


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A private file to be written beside `target`, which it replaces where the block ends well.

    After an error or a kill `target` is what it was before. Who wants others to read it changes its mode in the block.

    Raises
    ------
    FileNotFoundError
        Where the folder went while the block wrote; also whatever the block raises.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:_NAME]}.", dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.replace(target)
    except Exception as error:
        if not os.path.lexists(temporary):
            raise gone(target) from error
        raise
    finally:
        with suppress(OSError):  # nothing that could be said beside the error above
            temporary.unlink()
    if not target.is_file():
        raise gone(target)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A free path beside `target` for a folder that the block makes, and at its end renames to `target`.

    Where the block fails or is stopped, nothing of that folder is left.

    Raises
    ------
    FileNotFoundError
        Where the folder around it went while the block wrote; also whatever the block raises.
    """
    temporary = beside(target, "new")
    try:
        yield temporary
    except BaseException as error:
        lost = isinstance(error, FileNotFoundError) and not any(map(os.path.lexists, (temporary, target)))
        remove_folder(temporary, error)
        if lost:
            raise gone(target) from error
        raise
    if not target.is_dir():
        raise gone(target)


def gone(target: Path) -> FileNotFoundError:
    """The error for a file or folder that could not be finished because the folder around it went meanwhile."""
    return FileNotFoundError(
        errno.ENOENT, "the folder was moved or deleted while this was written; write it elsewhere", str(target)
    )


def remove_folder(folder: Path, error: BaseException) -> None:
    """Remove what an error left unfinished; where that cannot be, the error says so in a note.

    Zarr writes several files at once and gives up at the first that fails, but the others are still on their way: removed at
    once, the folder would be made again by the last of them.
    """
    if os.path.lexists(folder):
        _settle()
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        error.add_note(f"{folder} is not finished and could not be removed; remove it")


def _settle() -> None:
    """Wait for all that zarr has begun to read or write."""
    from zarr.core.sync import sync

    sync(_settled())


async def _settled() -> None:
    mine = asyncio.current_task()
    assert mine is not None
    mine.set_name(_WAITING)  # two that waited for each other would wait for ever
    while others := [task for task in asyncio.all_tasks() if task.get_name() != _WAITING]:
        await asyncio.wait(others)
