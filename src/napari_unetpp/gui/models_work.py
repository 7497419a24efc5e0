"""What the Models dock does with files: list, examine, import, rename, delete, export; each a job.

A job yields `Listing`, `ModelFile`, `Taken`, `Foreign`, `Changed`, or a line that tells how far it is. Knows neither
Qt nor napari; torch is imported only by what runs in a job.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetpp._opened import one_line
from napari_unetpp.gui.catalogue import known_sha256
from napari_unetpp.model.names import safe_name
from napari_unetpp.model.zoo import (
    ModelEntry,
    add_model,
    check_free,
    delete_model,
    free_name,
    model_entries,
    rename_model,
)

if TYPE_CHECKING:
    from napari_unetpp.model.checkpoint import Header
    from napari_unetpp.model.exchange import Format, FormatName


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model as the dock lists it.

    Attributes
    ----------
    header : Header or None
        None where the file is unreadable; `problem` then says why, in one line.
    size : int
        Bytes of the file.
    sha256 : str
        Of the file; empty until it was examined.
    """

    entry: ModelEntry
    header: Header | None = None
    problem: str = ""
    size: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """All models, as `model_entries` orders them, and the formats that they can be exported to."""

    models: tuple[ModelFile, ...]
    formats: Mapping[FormatName, Format]


@dataclass(frozen=True, slots=True)
class Taken:
    """Nothing was imported: another model is called like the file; `offered` is a name that is free."""

    path: Path
    offered: str
    reason: str


@dataclass(frozen=True, slots=True)
class Foreign:
    """Nothing was imported: it is a checkpoint of another package, about which one may be asked first (`models_import_work`)."""

    path: Path


@dataclass(frozen=True, slots=True)
class Changed:
    """Something was done, told in `text`; `name` is the model to look at now."""

    text: str
    name: str | None


def list_models() -> Generator[Listing]:
    """The models of the zoo, with their headers, as one event."""
    from napari_unetpp.model.exchange import FORMATS

    yield Listing(tuple(_read(entry) for entry in model_entries()), FORMATS)


def examine(file: ModelFile) -> Generator[ModelFile]:
    """The same with its hash, for which the whole file is read, as one event."""
    yield replace(file, sha256=known_sha256(file.entry.path))


def import_file(path: Path, name: str | None = None) -> Generator[Foreign | Taken | Changed]:
    """Take a model file into the user's folder, called `name` or else like the file; any other file is left for `models_import`."""
    from napari_unetpp.model.foreign import is_own

    if not is_own(path):
        yield Foreign(path)
        return
    wanted = name or safe_name(path.stem)
    if name is None:
        try:
            check_free(wanted)
        except FileExistsError as error:
            yield Taken(path, free_name(wanted), str(error))
            return
    entry = add_model(path, wanted)
    yield Changed(f"Imported {entry.name}.", entry.name)


def rename(name: str, to: str) -> Generator[Changed]:
    """Give a model of the user another name."""
    entry = rename_model(name, to)
    yield Changed(f"{name} is now called {entry.name}.", entry.name)


def delete(name: str) -> Generator[Changed]:
    """Remove a model of the user for good."""
    delete_model(name)
    yield Changed(f"Deleted {name}.", None)


def prune_to(source: ModelEntry, level: int, target: Path) -> Generator[Changed]:
    """Save a model pruned to a level."""
    from napari_unetpp.model.checkpoint import load_model
    from napari_unetpp.model.pruning import save_pruned

    written = save_pruned(load_model(source.path, "cpu"), level, target)
    text = f"Saved {source.name} pruned to L{level}, {written.stat().st_size / 1e6:.1f} MB: {written}"
    yield Changed(text, written.stem)


def export_to(
    source: ModelEntry, kind: FormatName, level: int | None, target: Path, *, overwrite: bool
) -> Generator[str | Changed]:
    """Export a model, whole or pruned to a level, telling each step; the last line says what was checked."""
    from napari_unetpp.model.checkpoint import load_model
    from napari_unetpp.model.exchange import FORMATS, export_model

    exported = yield from export_model(
        load_model(source.path, "cpu"), target, format=kind, level=level, overwrite=overwrite
    )
    what = source.name if level is None else f"{source.name} pruned to L{level}"
    size = f"{exported.bytes / 1e6:.1f} MB"
    text = f"Exported {what}, {FORMATS[kind].title}, {size}: {exported.path}. Checked: {exported.checked}."
    yield Changed(text, exported.path.stem if kind == "safetensors" else None)  # it may lie among the user's models


def _read(entry: ModelEntry) -> ModelFile:
    from napari_unetpp.model.checkpoint import read_header

    try:
        header = read_header(entry.path)
        if header.spec.encoder:
            _count(header)
        return ModelFile(entry, header, size=entry.path.stat().st_size)
    except (ValueError, OSError) as error:  # one bad file must not hide the others
        return ModelFile(entry, problem=one_line(error))


def _count(header: Header) -> None:
    """Count the costs of an encoder here, where timm is imported without the window waiting; they are kept for the card."""
    from napari_unetpp.model.costs import level_costs

    with suppress(ValueError):  # without timm; the card says so
        level_costs(header.spec)
