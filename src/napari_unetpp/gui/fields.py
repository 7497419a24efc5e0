"""The few kinds of fields that the docks are built from: no wider than their place, never cut."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import QComboBox, QFormLayout, QGroupBox, QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_unetpp.gui.elided import ElidedCombo

if TYPE_CHECKING:
    from collections.abc import Sequence

LABEL_WIDTH = 50  # of the longest label in napari's font, so that the groups have one column


def combo_box(tooltip: str) -> QComboBox:
    """A combo box that is as wide as its place, not as its longest text, which it shortens in the middle."""
    combo = ElidedCombo()
    combo.setToolTip(tooltip)
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(8)
    combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return combo


def offer(combo: QComboBox, layers: Sequence[Any], *kept: object) -> None:
    """Offer these layers by name, silently; the first of `kept` that is among them is chosen, else the first of all."""
    with QSignalBlocker(combo):
        combo.clear()
        combo.addItems([layer.name for layer in layers])
        places = [k for one in kept for k, layer in enumerate(layers) if layer == one]
        combo.setCurrentIndex(places[0] if places else min(0, len(layers) - 1))


def stacked(field: QWidget, note: QLabel) -> QVBoxLayout:
    """A field with its note below, which takes no room while it is hidden."""
    layout = QVBoxLayout()
    layout.setSpacing(3)
    layout.addWidget(field)
    layout.addWidget(note)
    return layout


def group(title: str, fields: Sequence[tuple[str, Any]]) -> tuple[QGroupBox, QFormLayout]:
    """A titled box of rows, and the rows."""
    box = QGroupBox(title)
    form = rows(box, fields)
    form.setContentsMargins(6, 6, 6, 8)
    return box, form


def rows(parent: QWidget, fields: Sequence[tuple[str, Any]]) -> QFormLayout:
    """Rows of a name and a field or layout, their names in one column in all docks."""
    form = QFormLayout(parent)
    form.setContentsMargins(0, 0, 0, 0)
    form.setHorizontalSpacing(4)
    form.setVerticalSpacing(5)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for label, field in fields:
        name = QLabel(label)
        name.setMinimumWidth(LABEL_WIDTH)
        form.addRow(name, field)
    return form


def swatch(color: str) -> QIcon:
    """A square of a colour, which stays that colour in a selected row."""
    square = QPixmap(16, 16)
    square.fill(QColor(color))
    icon = QIcon(square)
    icon.addPixmap(square, QIcon.Mode.Selected)
    return icon


def note_label() -> QLabel:
    """A small text below a field, of as many lines as it needs."""
    note = wrapping_label()
    note.setVisible(False)
    font = note.font()
    font.setPointSizeF(font.pointSizeF() * 0.9)
    note.setFont(font)
    return note


def wrapping_label() -> QLabel:
    """A label as wide as its place and as high as its text then needs."""
    return wrap(QLabel())


def wrap(label: QLabel) -> QLabel:
    """The label, made as wide as its place and as high as its text then needs."""
    label.setWordWrap(True)
    label.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
    policy = QSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    policy.setHeightForWidth(True)
    label.setSizePolicy(policy)
    return label


def breakable(text: str, longest: int = 24) -> str:
    """The text with invisible places to break words that are too long for a line, such as paths."""
    zero_width_space = "\u200b"
    return re.sub(rf"(\S{{{longest}}})(?=\S)", rf"\1{zero_width_space}", text)
