"""The files of a package, out of a zip or a folder that may come from anybody.

In this order: whether a path is a package (`is_package`), the open package (`opened`), and what it refuses before anything is read:
too many files, more bytes than its size allows, names that lead out of it, links. Nothing is unpacked but the one file that is
asked for, under a name of ours.
"""

from __future__ import annotations

import hashlib
import stat
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, TypeVar

from napari_unetpp.model.checkpoint import ModelFileError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

T = TypeVar("T")

DESCRIPTIONS = ("rdf.yaml", "bioimageio.yaml", "model.yaml")  # the names that bioimage.io had, the first is the oldest
MOST_FILES = 1000
MOST_BYTES = 8 * 2**30  # the largest packages of bioimage.io hold 1 to 2 GB
MOST_TEXT = 256 * 2**10  # bytes of a description; a long one has 20 000
# What may be unpacked: so many times the size of the zip, and so many bytes more, for empty test images.
_RATIO = 100
_FREE = 64 * 2**20
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class PackageFiles:
    """The files of a package by their names in it, with ``/`` between folders; `sizes` is what each says to hold, bytes."""

    path: Path
    sizes: Mapping[str, int]
    open: Callable[[str], IO[bytes]]

    def read(self, name: str, most: int) -> bytes:
        """Content of a file of at most `most` bytes."""
        self._check(name, most)
        data = self._guarded(name, lambda file: file.read(most + 1))
        if len(data) > most:
            raise ModelFileError(f"{self.path}: its file {name} has more than {most} bytes, which is refused")
        return data

    def extract(self, name: str, target: Path, sha256: str = "") -> str:
        """Copy a file to `target` and return its hash, which must be `sha256` where that is given."""
        self._check(name, MOST_BYTES)
        digest = self._guarded(name, lambda file: _copied(file, target, self.sizes[name]))
        if not digest:
            raise ModelFileError(f"{self.path}: its file {name} unpacks to more than it says, which is refused")
        if sha256 and digest != sha256.lower():
            raise ModelFileError(
                f"{self.path}: its file {name} has sha256 {digest[:12]} where its description says {sha256[:12]}; fetch it again"
            )
        return digest

    def _check(self, name: str, most: int) -> None:
        if name not in self.sizes:
            raise ModelFileError(
                f"{self.path}: its description names the file {name[:80]!r}, which it lacks; fetch it again"
            )
        if self.sizes[name] > most:
            raise ModelFileError(
                f"{self.path}: its file {name} has {self.sizes[name]} bytes, more than {most}; it is refused"
            )

    def _guarded(self, name: str, use: Callable[[IO[bytes]], T]) -> T:
        try:
            with self.open(name) as file:
                return use(file)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
            raise ModelFileError(
                f"{self.path}: its file {name} is damaged ({one_line(error)[:80]}); fetch it again"
            ) from None


def is_package(path: Path) -> bool:
    """Whether this looks like a package of bioimage.io, however damaged: a folder or zip with a description, or any ``.zip``."""
    if path.is_dir():
        return any((path / name).is_file() for name in DESCRIPTIONS)
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                return False
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return path.suffix.lower() == ".zip" and path.is_file()
    if any(name in DESCRIPTIONS for name in names):
        return True
    torch_s = any(PurePosixPath(name).name == "data.pkl" for name in names)  # its checkpoints are zips too
    return path.suffix.lower() == ".zip" and not torch_s


@contextmanager
def opened(path: Path) -> Iterator[PackageFiles]:
    """The files of a package, while the block lasts.

    Raises
    ------
    ModelFileError
        If it is damaged, too large, or holds names or links that lead out of it.
    """
    if path.is_dir():
        yield _folder(path)
        return
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelFileError(f"{path} is no whole zip ({one_line(error)[:80]}); fetch it again") from None
    with archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        _check_count(path, len(entries))
        for entry in entries:
            _check_name(path, entry.filename)
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise ModelFileError(f"{path}: its entry {entry.filename[:80]!r} is a link, which is refused")
            if entry.flag_bits & 1:
                raise ModelFileError(f"{path}: its file {entry.filename[:80]!r} is encrypted; fetch one that is not")
        sizes = {entry.filename: entry.file_size for entry in entries}
        if len(sizes) != len(entries):
            raise ModelFileError(f"{path} holds two files of the same name, which is refused")
        unpacked, packed = sum(sizes.values()), path.stat().st_size
        if unpacked > MOST_BYTES or unpacked > _RATIO * packed + _FREE:
            raise ModelFileError(f"{path} has {packed} bytes and would unpack to {unpacked}, which is refused")
        yield PackageFiles(path, sizes, archive.open)


def _folder(path: Path) -> PackageFiles:
    sizes: dict[str, int] = {}
    for file in path.rglob("*"):
        if file.is_symlink():
            raise ModelFileError(f"{path}: its entry {file.name[:80]!r} is a link, which is refused")
        if file.is_file():
            sizes[file.relative_to(path).as_posix()] = file.stat().st_size
            _check_count(path, len(sizes))
    return PackageFiles(path, sizes, lambda name: (path / name).open("rb"))


def _check_count(path: Path, files: int) -> None:
    if files > MOST_FILES:
        raise ModelFileError(f"{path} holds {files} files or more, more than {MOST_FILES}; it is refused")


def _check_name(path: Path, name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name:
        raise ModelFileError(f"{path}: its entry {name[:80]!r} leads out of the package, which is refused")


def _copied(file: IO[bytes], target: Path, size: int) -> str:
    """Hash of what was copied; empty where it is more than `size` bytes."""
    digest, copied = hashlib.sha256(), 0
    with target.open("wb") as copy:
        while block := file.read(_BLOCK):
            copied += len(block)
            if copied > size:
                return ""
            digest.update(block)
            copy.write(block)
    return digest.hexdigest()
