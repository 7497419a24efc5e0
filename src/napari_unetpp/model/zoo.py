"""Which models there are by name: the bundled ones, and those in the user's folder.

The user's folder is ``$NAPARI_UNETPP_HOME/models`` where that is set, else the platform's data folder. A user's model hides a
bundled one of the same name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

SUFFIX = ".safetensors"
DEFAULT_MODEL = "nuclei"  # what is offered first to somebody who has not chosen yet
_BUNDLED = Path(__file__).parent.parent / "models"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that has a name."""

    name: str
    path: Path
    origin: Literal["bundled", "user"]


def user_folder() -> Path:
    """Folder where the user's models live; it need not exist yet."""
    home = os.environ.get("NAPARI_UNETPP_HOME")
    return (Path(home) if home else Path(platformdirs.user_data_dir("napari-unetpp", appauthor=False))) / "models"


def model_entries() -> list[ModelEntry]:
    """All named models, the user's first, each group by name."""
    entries: dict[str, ModelEntry] = {}
    folders: tuple[tuple[Path, Literal["bundled", "user"]], ...] = ((user_folder(), "user"), (_BUNDLED, "bundled"))
    for folder, origin in folders:
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            entries.setdefault(path.stem, ModelEntry(path.stem, path, origin))
    return list(entries.values())


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
