"""The few kinds of fields that the docks are built from: no wider than their place, never cut."""

from __future__ import annotations

import re

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QLabel, QSizePolicy, QVBoxLayout, QWidget


def combo_box(tooltip: str) -> QComboBox:
    """A combo box that is as wide as its place, not as its longest text."""
    combo = QComboBox()
    combo.setToolTip(tooltip)
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(8)
    combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return combo


def stacked(field: QWidget, note: QLabel) -> QVBoxLayout:
    """A field with its note below, which takes no room while it is hidden."""
    layout = QVBoxLayout()
    layout.setSpacing(3)
    layout.addWidget(field)
    layout.addWidget(note)
    return layout


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
