"""What the docks offer: models and devices, with words for them.

Decides, in this order: what is known of a model before it is loaded (`ModelChoice`), how all of it
is found (`look_around`: that means importing torch, so it is a job), and in which words a model,
its levels and its tilings are offered. Knows neither Qt nor napari.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetpp._opened import one_line
from napari_unetpp.gui.devices import Devices, find_devices
from napari_unetpp.gui.loaded import load_ready
from napari_unetpp.model.zoo import file_sha256

if TYPE_CHECKING:
    from napari_unetpp.model.card import Card
    from napari_unetpp.model.checkpoint import Header


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model of the zoo as the dock offers it; `header` is None where its file is unreadable.

    Attributes
    ----------
    levels, tilings : tuple of (value, text)
        What can be chosen with it, in order; of the tilings the recommended is the first.
    problem : str
        Why it cannot be used, in one line.
    sha256 : str
        Of its file, which tells the predictions of this model from those of another with its name.
    """

    name: str
    path: Path
    header: Header | None = None
    levels: tuple[tuple[int, str], ...] = ()
    tilings: tuple[tuple[str, str], ...] = ()
    summary: str = ""
    details: str = ""
    problem: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What there is to choose from."""

    models: tuple[ModelChoice, ...]
    devices: Devices


def look_around() -> Generator[Catalogue]:
    """The models of the zoo and the devices that torch finds, as one event; then the first model is loaded."""
    from napari_unetpp.model.zoo import DEFAULT_MODEL, model_entries

    models = tuple(model_choice(entry.name, entry.path) for entry in model_entries())
    yield Catalogue(models, find_devices())
    for choice in models:
        if choice.name == DEFAULT_MODEL and not choice.problem:
            load_ready(choice.path)


def known_sha256(path: Path) -> str:
    """Hash of a model file, read anew only if the file has changed since the last time."""
    about = path.stat()
    return _sha256_of(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=64)
def _sha256_of(path: Path, _modified: int, _size: int) -> str:
    return file_sha256(path)


def model_choice(name: str, path: Path) -> ModelChoice:
    """What is known of a model file without loading it; an unreadable one is offered with its problem."""
    from napari_unetpp.model.checkpoint import read_header

    try:
        header = read_header(path)
        sha256 = known_sha256(path)
        spec, card = header.spec, header.card
        levels = tuple((d, _level_text(d, spec.heads, card.recommended_level)) for d in spec.heads)
        tilings = tuple(
            (kind, text + (" (recommended)" if place == 0 else ""))
            for place, (kind, text) in enumerate(_tilings(card, spec.ndim, exact=spec.size_independent))
        )
    except (ValueError, TypeError, OSError) as error:  # one bad file must not hide the others
        line = one_line(error)
        return ModelChoice(name, path, summary=line, details=escape(line), problem=line)
    return ModelChoice(name, path, header, levels, tilings, _summary(header), _details(header), sha256=sha256)


def _level_text(level: int, heads: tuple[int, ...], recommended: int) -> str:
    text = f"L{level}" if level == heads[0] else f"L{heads[0]} to L{level}"
    return text + (" (recommended)" if level == recommended != heads[-1] else "")


def _tilings(card: Card, ndim: int, *, exact: bool) -> list[tuple[str, str]]:
    from napari_unetpp.inference.tiling import Overlap, Seamless, in_words, tiling_from_card

    recommended = tiling_from_card(card.tiling, ndim)
    overlap = tiling_from_card({"kind": "overlap"}, ndim) if isinstance(recommended, Seamless) else recommended
    assert isinstance(overlap, Overlap)
    numbers = f"Overlap {in_words(overlap.patch)}/{in_words(overlap.stride)}, {overlap.aggregate}"
    offered = [("seamless", "Seamless")] if exact or overlap is not recommended else []
    offered.insert(0 if overlap is recommended else len(offered), ("overlap", numbers))
    return offered


def _summary(header: Header) -> str:
    spec, card = header.spec, header.card
    names = ", ".join(c.name for c in card.classes[1 if spec.classes > 1 else 0 :])
    parts = [f"{spec.ndim}D", names, f"L{card.recommended_level} recommended"]
    source = " · ".join(text for text in (_short(card.licence, 30), _short(card.data)) if text)
    return " · ".join(parts) + (f"\n{source}" if source else "")


def _short(text: str, length: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rsplit(" ", 1)[0] + " …"


def _details(header: Header) -> str:
    spec, card = header.spec, header.card
    channels = "1 channel" if spec.in_channels == 1 else f"{spec.in_channels} channels"
    spacing = card.spacing_um and " x ".join(f"{s:g}" for s in card.spacing_um) + " um"
    about = {
        "Finds": card.description or ", ".join(c.name for c in card.classes),
        "Input": f"{spec.ndim}D, {channels}" + (f", trained at {spacing}" if spacing else ""),
        "Data": card.data,
        "Licence": card.licence,
        "Credit": card.credit,
        "Level": f"L{card.recommended_level} of L{spec.depth} is recommended",
    }
    rows = "".join(f"<p><b>{k}:</b> {escape(v)}</p>" for k, v in about.items() if v)
    return f"<qt>{rows}</qt>"  # rich text, which a tooltip wraps
