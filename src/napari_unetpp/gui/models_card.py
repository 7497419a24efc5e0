"""The card of a model as a page of rich text: all that its file says, and what follows from its network.

In this order: the page (`card_page`), its rows, the record of the training in one sentence, the tables per
level. A card may come from anybody, so whatever it says is escaped and cut to a length one can read; colours
are shown only where they are some. Knows neither Qt nor napari.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from napari_unetpp._opened import one_line
from napari_unetpp.gui.models_import_work import plain_note
from napari_unetpp.model.costs import level_costs

if TYPE_CHECKING:
    from napari_unetpp.gui.models_work import ModelFile
    from napari_unetpp.model.checkpoint import Header

LONGEST = 1500  # characters of one text of a card
MOST_CLASSES = 40
MOST_ANCESTORS = 8
MOST_NOTES = 12
FAMILY = {"plain": "U-Net", "ensemble": "U-Net^e", "short": "UNet+", "dense": "UNet++"}
SCORE_NAMES = {
    "iou": "IoU",
    "dice": "Dice",
    "f1": "F1",
    "f2": "F2",
    "tolerant_f1": "F1, tolerant",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "paper_mean_iou": "IoU of papers",
    "mean_iou_per_image": "IoU per image",
}
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


def card_page(file: ModelFile) -> str:
    """Rich text of a model's card, or of what is wrong with its file."""
    title = f"<h3>{_text(file.entry.name)}</h3>"
    if file.header is None:
        return f"{title}<p><b>This file cannot be used.</b> {_text(file.problem)}</p>"
    card = file.header.card
    description = f'<p style="margin-bottom: 8px">{_text(card.description)}</p>' if card.description else ""
    rows = "".join(
        f'<tr><td style="padding-right: 8px"><b>{label}</b></td><td>{text}</td></tr>'
        for label, text in _rows(file, file.header).items()
        if text
    )
    tables = "".join(
        f'<p style="margin-top: 10px"><b>Scores on {_text(split, 80)}</b></p>{_scores(heads, file.header)}'
        for split, heads in card.scores.items()
    )
    return f"{title}{description}<table>{rows}</table>{_costs(file.header)}{tables}"


def _rows(file: ModelFile, header: Header) -> dict[str, str]:
    spec, card = header.spec, header.card
    channels = "1 channel" if spec.in_channels == 1 else f"{spec.in_channels} channels"
    spacing = card.spacing_um and " x ".join(f"{s:g}" for s in card.spacing_um) + " µm"
    levels = f"L{spec.heads[0]} to L{spec.depth}" if spec.heads[1:] else f"L{spec.depth} only"
    classes = "<br>".join(_swatch(c.color) + _text(c.name, 80) for c in card.classes[:MOST_CLASSES])
    more = len(card.classes) - MOST_CLASSES
    widths = ", ".join(map(str, spec.widths))
    return {
        "Classes": classes + (f"<br>and {more} more" if more > 0 else ""),
        "Images": f"{spec.ndim}D, {channels}, {_intensity(header)}",
        "Spacing": spacing or "unknown",
        "Levels": f"{levels}, L{card.recommended_level} recommended",
        "Tiling": _text(", ".join(f"{k} {v}" if k != "kind" else str(v) for k, v in card.tiling.items()), 200),
        "Data": _text(card.data),
        "Licence": _text(card.licence),
        "Credit": _text(card.credit),
        "Training": _text(training_sentence(card.training)),
        "Network": f"{FAMILY[spec.skips]}, widths {widths}, {spec.upsampling} up-sampling",
        "Assumed": "<br>".join(_text(note) for note in _assumed(card.training)),
        "Card name": "" if card.name == file.entry.name else _text(card.name),
        "File": f"{_megabytes(file.size)}<br>{_text(str(file.entry.path))}",
        "SHA-256": file.sha256 or "…",
        "Made from": "<br>".join(_text(f"{what}: {sha256}") for what, sha256 in ancestors(card.training)),
    }


def training_sentence(record: Mapping[str, Any]) -> str:
    """The record of a training run, condensed: how long, on what, from which model.

    Examples
    --------
    >>> options = {"epochs": 12, "steps": 125, "patch": 96}
    >>> training_sentence({"options": options, "training": ["a"], "validation": ["b", "c"], "epoch": 9, "seconds": 90})
    '12 epochs of 125 steps, patch 96, best after 9; 1 region for training, 2 for validation; 2 min'
    >>> training_sentence({"options": {"epochs": 12}, "epoch": 9, "chosen_by": "training loss"})
    '12 epochs, not scored, lowest training loss after 9'
    """
    options = record.get("options")
    options = options if isinstance(options, Mapping) else {}
    about = []
    if "epochs" in options:
        about.append(f"{options['epochs']} epochs" + (f" of {options['steps']} steps" if "steps" in options else ""))
        patch = options.get("patch")
        about += [f"patch {' x '.join(map(str, patch)) if isinstance(patch, list) else patch}"] if patch else []
        what = "not scored, lowest training loss" if record.get("chosen_by") == "training loss" else "best"
        about += [f"{what} after {record['epoch']}"] if isinstance(record.get("epoch"), int) else []
    parts = [", ".join(about)]
    regions = [record.get(kind) for kind in ("training", "validation")]
    if all(isinstance(kind, list) for kind in regions):
        train, held = (len(kind or ()) for kind in regions)
        parts.append(f"{train} region{'s' * (train != 1)} for training, {held} for validation")
    if isinstance(seconds := record.get("seconds"), int | float):
        parts.append(f"{seconds / 60:.0f} min")
    if parent := record.get("parent"):
        parts.append(f"fine-tuned from {str(parent)[:12]}")
    if isinstance(pruned := record.get("pruned_from"), Mapping):
        parts.append(f"pruned from {pruned.get('name')} {str(pruned.get('sha256'))[:12]}")
    return "; ".join(part for part in parts if part)


def ancestors(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what it is, sha256) of each file that a model was made from, the nearest first; a file that was never saved has no hash.

    Examples
    --------
    >>> ancestors({"parent": "9e2c", "pruned_from": {"name": "cells", "sha256": "51ab", "depth": 4}})
    [('cells, unpruned', '51ab'), ('parent, before its training', '9e2c')]
    """
    found: list[tuple[str, str]] = []
    pruned = record.get("pruned_from")
    while isinstance(pruned, Mapping) and len(found) < MOST_ANCESTORS:
        found.append((f"{pruned.get('name')}, unpruned", str(pruned.get("sha256", ""))))
        pruned = pruned.get("pruned_from")
    if parent := record.get("parent"):
        found.append(("parent, before its training", str(parent)))
    if "imported" in record:
        found.append((f"{record.get('file')}, of another package", str(record.get("sha256", ""))))
    return [(what, sha256[:64]) for what, sha256 in found if sha256]


def _assumed(record: Mapping[str, Any]) -> list[str]:
    """What was assumed when it was imported."""
    notes = record.get("notes")
    plain = (plain_note(note) for note in notes if isinstance(note, str)) if isinstance(notes, list) else ()
    return [note for note in plain if note][:MOST_NOTES]


def _intensity(header: Header) -> str:
    rule = header.intensity
    if rule.kind == "percentile":
        of = {"stack": "", "plane": " of each plane", "robust": " of the picture, without padding and empty area,"}
        return f"percentiles {rule.low:g} and {rule.high:g}{of[rule.over]} become 0 and 1"
    return {"zscore": "mean 0, deviation 1", "fixed": "fixed offset and gain"}[rule.kind]


def _costs(header: Header) -> str:
    title = '<p style="margin-top: 10px"><b>Cost</b></p>'
    try:
        costs = level_costs(header.spec)
    except ValueError as error:  # an encoder of timm's, without timm
        return f"{title}<p>{_text(one_line(error))}</p>"
    rows = {
        "Parameters": [_count(cost.parameters) for cost in costs],
        "kFLOP/voxel": [f"{cost.flops_per_voxel / 1e3:.4g}" for cost in costs],
    }
    return f"{title}{_table([f'L{c.level}' for c in costs], rows, header)}"


def _scores(heads: Mapping[str, Mapping[str, float]], header: Header) -> str:
    """A column per level, because there are few, and a row per score, because there may be many."""
    rows = {
        _text(SCORE_NAMES.get(key, key.replace("_", " ")), 40): [
            f"{values[key]:.3f}" if key in values else "" for values in heads.values()
        ]
        for key in dict.fromkeys(key for values in heads.values() for key in values)
    }
    return _table([_text(head, 12) for head in heads], rows, header)


def _table(columns: list[str], rows: Mapping[str, list[str]], header: Header) -> str:
    """The recommended level is in bold."""
    bold = f"L{header.card.recommended_level}"

    def cell(column: str, text: str) -> str:
        return f'<td align="right" style="padding-left: 6px">{f"<b>{text}</b>" if column == bold else text}</td>'

    head = "".join(cell(column, "mean" if column == "ensemble" else column) for column in columns)
    body = "".join(
        f'<tr><td style="white-space: nowrap">{label}</td>{"".join(map(cell, columns, values))}</tr>'
        for label, values in rows.items()
    )
    return f'<table style="font-size: small"><tr><td></td>{head}</tr>{body}</table>'


def _swatch(color: str) -> str:
    return f'<span style="color: {color}">■</span> ' if _COLOR.fullmatch(color) else ""


def _text(text: str, longest: int = LONGEST) -> str:
    return escape(text if len(text) <= longest else f"{text[: longest - 1]}…")


def _count(number: int) -> str:
    return f"{number / 1e6:.3g} M" if number >= 1e6 else f"{number / 1e3:.3g} k"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
