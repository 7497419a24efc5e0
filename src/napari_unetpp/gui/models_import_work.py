"""What the import of a checkpoint of another package does, as jobs: read it, see what it would become, bring it in.

Knows neither Qt nor napari; torch is imported only by what runs in a job.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_unetpp.gui.models_work import Changed
from napari_unetpp.model.names import safe_name
from napari_unetpp.model.zoo import free_name

if TYPE_CHECKING:
    from pathlib import Path

    from napari_unetpp.model.foreign import Imported, Known, Package
    from napari_unetpp.model.foreign_choices import Choices
    from napari_unetpp.model.foreign_found import Asked


_FIELDS = ("--class", "--upsampling", "--slope", "--padding")  # options with fields that say what their notes would


@dataclass(frozen=True, slots=True)
class Becoming:
    """What a checkpoint becomes when this is asked: `Imported.lines` and the notes, without what a form shows by itself."""

    asked: Asked
    lines: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recognised:
    """What was read, what becomes of it when nothing is asked, what can be asked, and a name that is free."""

    known: Known | Package
    usual: Becoming
    choices: Choices
    name: str


@dataclass(frozen=True, slots=True)
class Untold:
    """What was read, of which nothing becomes before its encoder is named, and a name that is free."""

    known: Known | Package
    name: str


def recognise(path: Path) -> Generator[Recognised | Untold]:
    """What a checkpoint is, as one event; nothing is written, and the file is not read again."""
    from napari_unetpp.model.foreign import asks_encoder, read_known

    known = read_known(path)
    if asks_encoder(known):
        yield Untold(known, free_name(safe_name(path.stem)))
    else:
        yield from recognise_on(known, None)


def recognise_on(known: Known | Package, encoder: str | None) -> Generator[Recognised]:
    """The same, with an encoder of that name where one has to be named.

    Raises
    ------
    ModelFileError
        If nothing becomes of it. Where the encoder is another than the named, the message says how it differs, and no more.
    """
    from napari_unetpp.model.checkpoint import ModelFileError
    from napari_unetpp.model.foreign import Asked, convert
    from napari_unetpp.model.foreign_choices import open_choices

    asked = Asked(encoder=encoder)
    try:
        imported = convert(known, asked)
    except ModelFileError as error:
        if encoder is None:
            raise
        reason = (
            str(error).rpartition(f"{known.what}: ")[2].replace(" --encoder", " encoder")
        )  # there is a field for it
        raise ModelFileError(f"{reason[:1].upper()}{reason[1:]}.") from None
    choices = open_choices(known, imported, asked)
    yield Recognised(known, _becoming(asked, imported), choices, free_name(safe_name(known.path.stem)))


def become(known: Known | Package, asked: Asked) -> Generator[Becoming]:
    """What a checkpoint becomes when this is asked, as one event; nothing is written."""
    from napari_unetpp.model.foreign import convert

    yield _becoming(asked, convert(known, asked))


def bring_in(known: Known | Package, name: str, asked: Asked) -> Generator[Changed]:
    """Take a checkpoint into the user's folder as a model of that name."""
    from napari_unetpp.model.foreign import add_known

    entry, imported = add_known(known, name, asked)
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


def _becoming(asked: Asked, imported: Imported) -> Becoming:
    notes = (plain_note(note) for note in imported.notes if not any(option in note for option in _FIELDS))
    return Becoming(asked, imported.lines, tuple(note for note in notes if note))
