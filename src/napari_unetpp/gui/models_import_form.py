"""The form that is filled in when a checkpoint of another package comes in: what it is, and what its weights do not say.

Decides, in this order: which fields there are for what was recognised (`show_recognised`), what was answered (`asked`), and how
what becomes of it is told (`show_becoming`). `models_import` binds it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QLineEdit, QVBoxLayout, QWidget

from napari_unetpp.gui.fields import combo_box, group, wrapping_label
from napari_unetpp.gui.models_card import MOST_CLASSES

if TYPE_CHECKING:
    from napari_unetpp.gui.models_import_work import Becoming, Recognised
    from napari_unetpp.model.foreign_choices import Choices
    from napari_unetpp.model.foreign_found import Asked

# What is offered, in the few words that there is room for, and what it means.
UPSAMPLING = {
    "bilinear-aligned": ("bilinear, aligned", "Bilinear, corner on corner (align_corners=True)."),
    "bilinear": ("bilinear", "Bilinear, edge on edge (align_corners=False)."),
    "nearest": ("nearest", "Each voxel becomes a block of equal ones."),
}
HEADS = {
    "all": ("all", "Each was trained (deep supervision): each is a level of the slider."),
    "last": ("the last", "The others were not trained: the slider has one position."),
    "mean": ("their mean", "The mean of their logits is the answer: the slider has one position."),
}
PADDINGS = {
    "same": ("padded", "Its maps keep their extent."),
    "late": ("before joining", "Nothing is padded but what is up-sampled, before it is joined: a tutorial's variant."),
    "valid": ("nothing padded", "What is joined is cropped, as in the U-Net of 2015."),
}
INTENSITIES = {
    None: ("as its file says", "In numbers of its own, which you see above."),
    "unit": ("divided by 255", "8-bit images became 0 to 1."),
    "imagenet": ("ImageNet", "8-bit images became 0 to 1, less ImageNet's mean, divided by its standard deviation."),
    "imagenet-255": ("ImageNet, / 255", "As ImageNet, and divided by 255 once more."),
    "raw": ("as they are", "The network was given the numbers in the file."),
    "percentile": ("percentiles", "Percentiles 1 and 99.8 of each stack become 0 and 1."),
    "zscore": ("z-score", "Each stack gets mean 0 and standard deviation 1."),
}


class ImportForm(QWidget):
    """The form; `changed` says that another model would come of it."""

    changed = Signal()
    encoder_named = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._choices: Choices | None = None
        self._first: Mapping[str, str] = {}
        self._becoming: Becoming | None = None
        self._encoder: str | None = None
        self.facts = wrapping_label()
        self.facts.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.encoder = QLineEdit()
        self.encoder.setAcceptDrops(False)  # a drop is for the dock, wherever it falls
        self.encoder.setPlaceholderText("convnext_tiny")
        self.encoder.setToolTip(
            "Its name in timm: what stood behind tu- when the network was made. Press Enter to try it."
        )
        self.upsampling = combo_box(
            "How maps grow to twice their extent. It has no weights, so a fork may do otherwise."
        )
        self.padding = combo_box("Whether its convolutions keep the extent of their maps; the weights look the same.")
        self.heads = combo_box("Which of its heads were trained: each is a level of the slider.")
        self.slope = QDoubleSpinBox()
        self.slope.setToolTip("Of its LeakyReLU below 0; 0 is a ReLU.")
        self.slope.setDecimals(3)
        self.slope.setRange(0, 0.999)
        self.slope.setSingleStep(0.01)
        self.intensities = combo_box("How the intensities of images were scaled before the network was given them.")
        self.classes: list[QLineEdit] = []
        self.notes = wrapping_label()
        self.fields, self._form = group(
            "Assumed, as its weights do not say",
            (
                ("Encoder", self.encoder),
                ("Up-sampling", self.upsampling),
                ("Convolutions", self.padding),
                ("Heads", self.heads),
                ("Slope", self.slope),
                ("Intensities", self.intensities),
            ),
        )
        self._lay_out()
        for combo in (self.upsampling, self.padding, self.heads, self.intensities):
            combo.currentIndexChanged.connect(self._on_changed)
        self.slope.valueChanged.connect(self._on_changed)
        self.encoder.editingFinished.connect(self._on_encoder)

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 4, 0)
        layout.setSpacing(6)
        for widget in (self.facts, self.notes, self.fields):
            layout.addWidget(widget)
        layout.addStretch(1)

    # Which fields there are

    def show_untold(self, what: str) -> None:
        """Ask for the encoder, and for nothing else before it is known."""
        from napari_unetpp.model.foreign_choices import Choices

        self._offer(Choices())
        self._encoder = None
        self.encoder.clear()
        self._form.setRowVisible(self.encoder, True)
        self.fields.setVisible(True)
        self.facts.setText(escape(what))
        self.notes.setText(
            "It stands on an encoder of timm whose name its weights do not tell. Name it, and press Enter."
        )
        self.notes.setVisible(True)

    def refuse_encoder(self, why: str) -> None:
        """Say why it is not the one that was named; another may be."""
        self.notes.setText(escape(why))

    def show_recognised(self, recognised: Recognised) -> None:
        """Offer what this checkpoint leaves open, with what is taken unless asked chosen; nothing is told of it."""
        self._offer(recognised.choices)
        self._encoder = recognised.usual.asked.encoder
        self.encoder.setText(self._encoder or "")
        self._form.setRowVisible(self.encoder, self._encoder is not None)
        self.show_becoming(recognised.usual)

    def _offer(self, choices: Choices) -> None:
        self.blockSignals(True)
        self._choices, self._first, self._becoming = choices, {}, None
        _fill(self.upsampling, UPSAMPLING, choices.upsampling)
        _fill(self.padding, PADDINGS, choices.padding)
        _fill(self.heads, HEADS, choices.heads)
        _fill(self.intensities, INTENSITIES, choices.intensities)
        self.slope.setValue(choices.slope or 0)
        fields = {
            self.upsampling: bool(choices.upsampling),
            self.padding: bool(choices.padding),
            self.heads: bool(choices.heads),
            self.slope: choices.slope is not None,
            self.intensities: bool(choices.intensities),
        }
        for field, is_open in fields.items():
            self._form.setRowVisible(field, is_open)
        self._offer_classes(choices.classes)
        self.fields.setVisible(any(fields.values()) or bool(choices.classes))
        self.blockSignals(False)

    def _offer_classes(self, names: Sequence[str]) -> None:
        for field in self.classes:
            self._form.removeRow(field)
        self.classes = []
        for number, name in enumerate(names[:MOST_CLASSES]):
            field = QLineEdit()
            field.setPlaceholderText(name)
            field.setAcceptDrops(False)  # a drop is for the dock, wherever it falls
            field.setToolTip(f"What it is called. Left empty, it is called {name}.")
            field.textChanged.connect(self._on_class_named)
            label = "Class" if len(names) == 1 else f"Class {number}" if number else "Background"
            self._form.addRow(label, field)
            self.classes.append(field)

    # What was answered

    @property
    def complete(self) -> bool:
        """Whether something becomes of it: where an encoder has to be named, it was, and is this one."""
        return self._becoming is not None and self.encoder.text().strip() == (self._encoder or "")

    def _on_encoder(self) -> None:
        text = self.encoder.text().strip()
        if text and text != self._encoder:
            self.encoder_named.emit(text)
        elif self._becoming is not None:
            self.show_becoming(self._becoming)

    def asked(self) -> Asked:
        """What was answered otherwise than it is taken."""
        from napari_unetpp.model.foreign_found import Asked

        choices = self._choices
        slope = None
        if choices is not None and choices.slope is not None and abs(self.slope.value() - choices.slope) > 5e-4:
            slope = self.slope.value()
        return Asked(
            upsampling=_answer(self.upsampling),
            classes=self._names() if any(field.text().strip() for field in self.classes) else (),
            intensities=_answer(self.intensities),
            heads=_answer(self.heads),
            negative_slope=slope,
            padding=_answer(self.padding),
            encoder=self._encoder,
        )

    def _names(self) -> tuple[str, ...]:
        """Of all classes, as they will be."""
        usual = self._choices.classes if self._choices is not None else ()
        typed = [field.text().strip() for field in self.classes]
        return tuple(text or name for text, name in zip(typed, usual, strict=False)) + usual[len(typed) :]

    def _on_changed(self, *_: object) -> None:
        self.changed.emit()

    def _on_class_named(self, *_: object) -> None:
        if self._becoming is not None:
            self.show_becoming(self._becoming)

    # What becomes of it

    def show_becoming(self, becoming: Becoming) -> None:
        """Tell what becomes of the checkpoint, in bold what is otherwise than at first."""
        lines = dict(becoming.lines)
        if names := self._names():  # else the file is sure of them
            more = f" and {len(names) - MOST_CLASSES} more" if len(names) > MOST_CLASSES else ""
            lines["classes"] = ", ".join(names[:MOST_CLASSES]) + more
        self._becoming, self._first = becoming, self._first or lines
        cells = []
        for key, text in lines.items():
            broken = re.sub(
                r"(?<=[_.])(?=[a-z])", "\u200b", escape(text)
            )  # long names; a zero-width space is a place to break
            shown = broken if text == self._first.get(key) else f"<b>{broken}</b>"
            cells.append(f'<tr><td style="padding-right: 8px">{escape(key.capitalize())}</td><td>{shown}</td></tr>')
        self.facts.setText(f"<table>{''.join(cells)}</table>")
        notes = "".join(f'<p style="margin: 0 0 4px 0">{escape(note)}</p>' for note in becoming.notes)
        self.notes.setText(notes)
        self.notes.setVisible(bool(notes))


def _fill(combo: QComboBox, texts: Mapping[Any, tuple[str, str]], values: Sequence[Any]) -> None:
    """The first is what is taken, so that choosing it asks for nothing."""
    combo.clear()
    for place, value in enumerate(values):
        text, meaning = texts.get(value, (str(value), ""))
        combo.addItem(text, value if place else None)
        combo.setItemData(place, meaning, Qt.ItemDataRole.ToolTipRole)


def _answer(combo: QComboBox) -> Any:
    return combo.currentData()
