"""The files of open corrections, on the disk and in memory: what was painted is not lost where the folder or the disk goes.

zarr makes missing folders anew without a word, so that a stroke painted after the folder was deleted would lie in a folder that
nothing can open. Before and after each write this store asks whether the folder still is the one that was opened. Where it is
not, or where the disk refuses, the write stays in memory, in its order, and reading goes on from there.
"""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, WrapperStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

ROOT = "zarr.json"
MOST_BYTES = 2**28  # of compressed voxels in memory, but for strokes, which are kept in any case
MOST_FILES = 20_000  # that are read at opening: a second or two


class KeptStore(WrapperStore[LocalStore]):
    """A folder for zarr. Metadata that cannot be written raise; voxels that cannot be written wait in memory.

    Attributes
    ----------
    fault : OSError or None
        Why the disk lacks what memory has.
    complete : bool
        Whether memory has every file of the folder; False for folders larger than `MOST_BYTES`.
    bulk : bool
        Whether what is written now can be had again, such as a model's labels, and so need not be kept.
    """

    def __init__(self, folder: Path, arrays: Sequence[str]) -> None:
        super().__init__(LocalStore(folder))
        self.folder = folder
        self.fault: OSError | None = None
        self.bulk = False
        self._room = MOST_BYTES
        self._needed = (ROOT, *(f"{name}/{ROOT}" for name in arrays))
        self._identity = _identity(folder)
        self._files: dict[str, Buffer] = {}
        self._memory = MemoryStore(self._files)
        self._waiting: list[tuple[str, Buffer | None]] = []  # None: deleted
        self.complete = self._load(arrays)

    # Whether the folder is the one that was opened

    def check(self) -> None:
        """Do nothing where the folder still is what was opened.

        Raises
        ------
        OSError
            Where it is gone, was replaced by another, or lacks its metadata.
        """
        try:
            found = _identity(self.folder)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "the folder was moved or deleted") from None
        if found != self._identity:
            raise FileNotFoundError(errno.ENOENT, "another folder lies in its place now")
        for name in self._needed:
            if not (self.folder / name).is_file():
                raise FileNotFoundError(errno.ENOENT, f"{name} was deleted from the folder")

    def look(self) -> None:
        """Remember as `fault` that the folder is not what was opened."""
        if self.fault is None:
            try:
                self.check()
            except OSError as error:
                self.fault = error

    # What zarr asks for

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if self.fault is None:
            try:
                found = await super().get(key, prototype, byte_range)
            except OSError as error:  # the disk was unplugged, or fails
                self.fault = error
            else:
                if found is not None or key not in self._files:
                    return found
                await asyncio.to_thread(self.look)
        if key in self._files or self.complete or any(key == waiting for waiting, _ in self._waiting):
            return await self._memory.get(key, prototype, byte_range)
        return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        kept = default_buffer_prototype().buffer.from_bytes(value.to_bytes())
        if key.endswith(ROOT):
            if self.fault is not None:
                raise again(self.fault)
            await self._write(key, kept)
        elif self.fault is None:
            try:
                await self._write(key, kept)
            except OSError as error:
                self.fault = error
        lacks = self.fault is not None and not key.endswith(ROOT)
        if lacks:
            self._waiting.append((key, kept))
        self._keep(key, kept, needed=lacks or not self.bulk)

    def _keep(self, key: str, value: Buffer, *, needed: bool) -> bool:
        room = self._room + (len(self._files[key]) if key in self._files else 0) - len(value)
        if needed or room >= 0:
            self._files[key], self._room = value, room
            return True
        if (before := self._files.pop(key, None)) is not None:  # it is no longer what the disk holds
            self._room += len(before)
        self.complete = False
        return False

    async def delete(self, key: str) -> None:
        if (before := self._files.pop(key, None)) is not None:
            self._room += len(before)
        if self.fault is None:
            try:
                await self._write(key, None)
            except OSError as error:
                self.fault = error
        if self.fault is not None:
            self._waiting.append((key, None))

    async def _write(self, key: str, value: Buffer | None) -> None:
        await asyncio.to_thread(self.check)
        if value is None:
            await self._store.delete(key)
            return
        await self._store.set(key, value)
        try:
            await asyncio.to_thread(self.check)
        except OSError:
            await asyncio.to_thread(self._unmake, key)
            raise

    def _unmake(self, key: str) -> None:
        """Remove what zarr made anew of a folder that is gone."""
        if not (self.folder / ROOT).exists():
            file = self.folder / key
            with suppress(OSError):
                file.unlink()
                for parent in file.parents:
                    parent.rmdir()
                    if parent == self.folder:
                        break

    # What the disk lacks

    def flush(self) -> None:
        """Write what waits in memory, if anything does.

        Raises
        ------
        OSError
            Where it still cannot be written; it goes on waiting.
        """
        if self.fault is None:
            return
        try:
            self.check()
            while self._waiting:
                sync(self._write(*self._waiting[0]))
                del self._waiting[0]
        except OSError as error:
            self.fault = error
            raise again(error) from None
        self.fault = None

    def copy_to(self, folder: Path) -> bool:
        """Write all of it as a new folder, and read that back; whether nothing is missing.

        Where memory is not complete the rest comes from the old folder, if that can still be read.

        Raises
        ------
        OSError
            Where it cannot be written, or something else is read than was written.
        """
        for key, value in self._files.items():
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(value.to_bytes())
        deleted = {key for key, value in self._waiting if value is None}
        whole = self.complete
        if not whole:
            with suppress(OSError):
                self.check()
                for key in self._on_disk([name.split("/")[0] for name in self._needed[1:]]):
                    if key not in self._files and key not in deleted:
                        (folder / key).parent.mkdir(parents=True, exist_ok=True)
                        (folder / key).write_bytes((self.folder / key).read_bytes())
                whole = True
        for key, value in self._files.items():
            if (folder / key).read_bytes() != value.to_bytes():
                raise OSError(errno.EIO, f"{key} was not written as it is", str(folder))
        return whole

    def move_to(self, folder: Path) -> None:
        """Go on in a folder that `copy_to` wrote."""
        self._identity = _identity(folder)
        self.folder = self._store.root = folder
        self._waiting, self.fault = [], None

    def _load(self, arrays: Sequence[str]) -> bool:
        for count, key in enumerate(chain(self._needed, self._on_disk(arrays))):
            with suppress(FileNotFoundError):  # a temporary file of a write that was cut off
                value = default_buffer_prototype().buffer.from_bytes((self.folder / key).read_bytes())
                if count > MOST_FILES or not self._keep(key, value, needed=key.endswith(ROOT)):
                    return False
        return True

    def _on_disk(self, arrays: Sequence[str]) -> Iterator[str]:
        for name in arrays:
            for root, _, files in os.walk(self.folder / name / "c"):
                within = os.path.relpath(root, self.folder).replace(os.sep, "/")
                yield from (f"{within}/{file}" for file in files if "." not in file)


def again(fault: OSError) -> OSError:
    """The same error, without what was raised from it before."""
    return OSError(fault.errno, fault.strerror or str(fault), fault.filename)


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino
