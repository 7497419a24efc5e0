"""Which models there are by name: the bundled ones, and those in the user's folder; and how the user's come and go.

The user's folder is ``$NAPARI_UNETPP_HOME/models`` where that is set, else the platform's data folder. A user's model hides a
bundled one of the same name.

The name of a model is the stem of its file; what its card calls it is another thing, which travels with the file. Renaming moves
the file and leaves the card, and so the file's hash, as they are: predictions remember a model by that hash.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from napari_unetpp._whole import gone
from napari_unetpp.model.names import LONGEST_NAME, check_name, folded, safe_name

SUFFIX = ".safetensors"
DEFAULT_MODEL = "nuclei"  # what is offered first to somebody who has not chosen yet
Origin = Literal["bundled", "user"]
_BUNDLED = Path(__file__).parent.parent / "models"
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that has a name."""

    name: str
    path: Path
    origin: Origin


def user_folder() -> Path:
    """Folder where the user's models live; it need not exist yet."""
    home = os.environ.get("NAPARI_UNETPP_HOME")
    return (Path(home) if home else Path(platformdirs.user_data_dir("napari-unetpp", appauthor=False))) / "models"


def model_entries() -> list[ModelEntry]:
    """All named models, the user's first, each group by name."""
    entries: dict[str, ModelEntry] = {}
    folders: tuple[tuple[Path, Origin], ...] = ((user_folder(), "user"), (_BUNDLED, "bundled"))
    for folder, origin in folders:
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            if not path.is_dir():
                entries.setdefault(path.stem, ModelEntry(path.stem, path, origin))
    return list(entries.values())


def find_entry(name: str) -> ModelEntry:
    """Entry of the model of that name.

    Raises
    ------
    FileNotFoundError
        If there is none; the message lists the names that there are.
    """
    entries = {entry.name: entry for entry in model_entries()}
    if name not in entries:
        raise FileNotFoundError(f"there is no model {name!r}; known are {', '.join(entries) or 'none'}")
    return entries[name]


def resolve(name_or_path: str | Path) -> Path:
    """File of a model given by name or by path.

    Raises
    ------
    FileNotFoundError
        If there is neither; the message lists the names that there are.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    names = {entry.name: entry.path for entry in model_entries()}
    if str(name_or_path) in names:
        return names[str(name_or_path)]
    raise FileNotFoundError(
        f"model {str(name_or_path)!r} is neither a file nor a known name; known are {', '.join(names) or 'none'}"
    )


def add_model(path: str | Path, name: str | None = None) -> ModelEntry:
    """Entry of a model file that was copied into the user's folder, once it was found to load.

    Parameters
    ----------
    name
        What it shall be called; None makes it out of the file's name (`safe_name`).

    Raises
    ------
    ValueError
        If the file is no model (`ModelFileError`), contradicts itself, or the name will not do (`check_name`).
    FileExistsError
        If a model of that name is there already; nothing is replaced.
    OSError
        If the file cannot be read or copied; nothing is left behind.
    """
    source = Path(path)
    wanted = safe_name(source.stem) if name is None else check_name(name)
    check_free(wanted)
    target = user_folder() / f"{wanted}{SUFFIX}"
    copy_model(source, target, make_folder=True)
    return ModelEntry(wanted, target, "user")


def copy_model(source: Path, target: Path, *, make_folder: bool = False, overwrite: bool = False) -> Path:
    """Path of a copy, to the byte, of a model file that was found to load; it appears under its name once it is whole.

    Raises
    ------
    ValueError
        If the source is no model (`check_file`).
    OSError
        If it cannot be copied, or there is a `target` already and no leave to `overwrite` it; nothing is left behind.
    """
    digest = check_file(source)
    if make_folder:  # only now, so that a refused file leaves not even that
        target.parent.mkdir(parents=True, exist_ok=True)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"folder {target.parent} does not exist; make it, or name another file")
    descriptor, name = tempfile.mkstemp(prefix=".copy-", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as copy, source.open("rb") as original:
            copied = hashlib.sha256()
            while block := original.read(_BLOCK):
                copied.update(block)
                copy.write(block)
            copy.flush()
            os.fsync(copy.fileno())
        if copied.hexdigest() != digest:  # what is kept must be what was checked
            raise OSError(f"{source} changed while it was copied; do it again")
        if file_sha256(temporary) != digest:
            raise OSError(
                f"the copy of {source} in {target.parent} is read back otherwise than it was written; copy it elsewhere"
            )
        temporary.chmod(0o644)  # mkstemp makes it private; a model is shared like any other file
        if overwrite:
            temporary.replace(target)
        else:
            _place(temporary, target)
    except FileNotFoundError as error:
        if not os.path.lexists(temporary):
            raise gone(target) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()
    return target


def rename_model(name: str, to: str) -> ModelEntry:
    """Entry of a model of the user under its new name; the card keeps its own.

    Raises
    ------
    FileNotFoundError
        If there is no model `name`.
    ValueError
        If it is a bundled one, or the new name will not do (`check_name`).
    FileExistsError
        If a model of the new name is there already.
    """
    entry = check_own(name, "renamed; import it under another name instead")
    wanted = check_name(to)
    target = entry.path.with_name(f"{wanted}{SUFFIX}")
    if wanted != name:
        check_free(wanted, but=name)
        if folded(wanted) == folded(name):  # a, A: where case does not matter they are one file, which can move
            entry.path.rename(target)
        else:
            _place(entry.path, target)
    return ModelEntry(wanted, target, "user")


def delete_model(name: str) -> Path:
    """File of a model of the user, which is no more.

    Raises
    ------
    FileNotFoundError
        If there is no model `name`.
    ValueError
        If it is a bundled one.
    """
    path = check_own(name, "deleted").path
    path.unlink()
    return path


def check_own(name: str, done: str) -> ModelEntry:
    """Entry of a model of the user, which can be `done` to.

    Raises
    ------
    FileNotFoundError
        If there is no model of that name.
    ValueError
        If it is a bundled one.
    """
    entry = find_entry(name)
    if entry.origin == "bundled":
        raise ValueError(f"model {name!r} ships with the package and cannot be {done}")
    return entry


def check_file(path: Path) -> str:
    """Hash (sha256) of a model file that loads, and whose card fits its network.

    Raises
    ------
    FileNotFoundError, ModelFileError
        As `load_model`, or if the card names more or fewer classes than the network has.
    """
    # Here, because `checkpoint` looks up its names in this module, and so that a list of names costs no torch.
    from napari_unetpp.model.checkpoint import ModelFileError, load_model, read_header

    read_header(path)  # also refuses a folder, which `load_model` would take for a name
    model = load_model(path, "cpu")
    if len(model.classes) != model.spec.classes:
        raise ModelFileError(
            f"{path}: its card names {len(model.classes)} classes where its network has {model.spec.classes}; save it again"
        )
    return model.sha256


def file_sha256(path: Path) -> str:
    """Hash of a file, by which a prediction remembers its model."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_free(name: str, *, but: str | None = None) -> None:
    """Refuse a name that a model has, whatever the case of its letters, with a FileExistsError; `but` may have it."""
    for entry in model_entries():
        if entry.name != but and folded(entry.name) == folded(name):
            whose = "of yours" if entry.origin == "user" else "that ships with the package"
            raise FileExistsError(f"there is a model {entry.name!r} {whose} already; choose another name")


def free_name(name: str) -> str:
    """`name` itself while no model has it, else the same with the first number that is free."""
    offered, number = safe_name(name), 1
    stem = offered.encode()[: LONGEST_NAME - 6].decode(errors="ignore")
    while True:
        try:
            check_free(offered)
        except FileExistsError:
            number += 1
            offered = f"{stem}-{number}"
        else:
            return offered


def _place(source: Path, target: Path) -> None:
    """Move a file inside its folder, in one step, never onto another."""
    try:
        os.link(source, target)  # unlike a rename it fails where there is a file
    except FileExistsError:
        raise FileExistsError(f"{target} exists already; choose another name") from None
    except OSError:  # a file system without links, such as FAT
        if os.path.lexists(target):
            raise FileExistsError(f"{target} exists already; choose another name") from None
        source.rename(target)
    else:
        source.unlink()
