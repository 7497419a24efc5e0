"""Where on this computer the data are that a model was trained on, so that a later training can replay them.

One JSON file in the folder of the user's models. A model file itself names its data and their hashes but no folders: it is made
to be given away.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetpp._whole import whole_file
from napari_unetpp.model.zoo import user_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = "training-data.json"


@dataclass(frozen=True, slots=True)
class Source:
    """An image file and what was painted on it: a label file, or a folder of corrections."""

    image: Path
    label: Path

    @property
    def exists(self) -> bool:
        return self.image.exists() and self.label.exists()


def remember(model_sha256: str, sources: Sequence[Source]) -> None:
    """Note that the model of that hash was trained on these; the file is replaced as a whole."""
    folder = user_folder()
    folder.mkdir(parents=True, exist_ok=True)
    known = _read(folder / _NAME)
    known[model_sha256] = [{"image": str(s.image.absolute()), "label": str(s.label.absolute())} for s in sources]
    with whole_file(folder / _NAME) as temporary:
        temporary.write_text(json.dumps(known, indent=1))


def known_data(model_sha256: str) -> tuple[Source, ...]:
    """What of a model's training data is still where it was; nothing for a model that was trained elsewhere."""
    entries = _read(user_folder() / _NAME).get(model_sha256, [])
    sources = [Source(Path(entry["image"]), Path(entry["label"])) for entry in entries]
    return tuple(source for source in sources if source.exists)


def _read(path: Path) -> dict[str, list[dict[str, str]]]:
    """What is remembered; nothing where the file is missing or was damaged, which costs no more than a convenience."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    wanted = {"image", "label"}
    return {
        key: entries
        for key, entries in (values.items() if isinstance(values, dict) else ())
        if isinstance(entries, list) and all(isinstance(e, dict) and wanted <= set(e) for e in entries)
    }
