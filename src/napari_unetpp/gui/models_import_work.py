"""What the import of a checkpoint of another package does, as jobs: recognise it, see what it would become, bring it in.

Knows neither Qt nor napari; torch is imported only by what runs in a job.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetpp.gui.models_work import Changed
from napari_unetpp.model.names import safe_name
from napari_unetpp.model.zoo import free_name

if TYPE_CHECKING:
    from napari_unetpp.model.foreign import Imported
    from napari_unetpp.model.foreign_choices import Choices
    from napari_unetpp.model.foreign_found import Asked


_FIELDS = ("--class", "--upsampling", "--slope", "--padding")  # options with fields that say what their notes would


@dataclass(frozen=True, slots=True)
class Becoming:
    """What a checkpoint becomes when this is asked: `Imported.lines` and the notes, without what a form shows by itself."""

    path: Path
    asked: Asked
    lines: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a checkpoint becomes when nothing is asked, what can be asked, and a name that is free."""

    usual: Becoming
    choices: Choices
    name: str


def recognise(path: Path) -> Generator[Recognised]:
    """What a checkpoint is, as one event; nothing is written."""
    from napari_unetpp.model.foreign import Asked, import_checkpoint
    from napari_unetpp.model.foreign_choices import open_choices

    imported = import_checkpoint(path)
    usual = _becoming(path, Asked(), imported)
    yield Recognised(usual, open_choices(path, imported), free_name(safe_name(path.stem)))


def become(path: Path, asked: Asked) -> Generator[Becoming]:
    """What a checkpoint becomes when this is asked, as one event; nothing is written."""
    from napari_unetpp.model.foreign import import_checkpoint

    yield _becoming(path, asked, import_checkpoint(path, asked))


def bring_in(path: Path, name: str, asked: Asked) -> Generator[Changed]:
    """Take a checkpoint into the user's folder as a model of that name."""
    from napari_unetpp.model.foreign import add_foreign

    entry, imported = add_foreign(path, name, asked)
    yield Changed(f"Imported {entry.name}: {imported.what}.", entry.name)


def plain_note(note: str) -> str:
    """The note as a sentence, without its last part if that says how the command line is told otherwise; empty if that was all.

    Examples
    --------
    >>> plain_note("its preprocessing is taken to be unit: else --intensities raw"), plain_note("--class NAME")
    ('Its preprocessing is taken to be unit.', '')
    """
    said, option, _ = note.partition("--")
    plain = said[: max(0, *(said.rfind(mark) for mark in (": ", "; ")))] if option else note.rstrip(".")
    return plain and f"{plain[0].upper()}{plain[1:]}."


def _becoming(path: Path, asked: Asked, imported: Imported) -> Becoming:
    notes = (plain_note(note) for note in imported.notes if not any(option in note for option in _FIELDS))
    return Becoming(path, asked, imported.lines, tuple(note for note in notes if note))
