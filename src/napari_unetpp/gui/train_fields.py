"""Fields of the Train dock that come more than once: numbers, and rows in groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFormLayout, QGroupBox, QLabel, QLayout, QSizePolicy, QSpinBox, QWidget

from napari_unetpp.gui.segment_form import LABEL_WIDTH


def number_box(low: int, high: int, tooltip: str, lowest: str = "") -> QSpinBox:
    """A number in a range; the lowest can have a word in its place."""
    box = QSpinBox()
    box.setRange(low, high)
    box.setToolTip(tooltip)
    box.setSpecialValueText(lowest)
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    box.setFocusPolicy(Qt.FocusPolicy.StrongFocus)  # the wheel scrolls the dock, not the number below it
    box.setKeyboardTracking(False)
    return box


def group(title: str, fields: Sequence[tuple[str, Any]]) -> tuple[QGroupBox, QFormLayout]:
    """A titled box of rows, and the rows."""
    box = QGroupBox(title)
    form = rows(box, fields)
    form.setContentsMargins(6, 6, 6, 8)
    return box, form


def rows(parent: QWidget, fields: Sequence[tuple[str, Any]]) -> QFormLayout:
    """Rows of a name and a field or layout, their names in one column with those of the other docks."""
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


def empty(layout: QLayout) -> None:
    """Remove the widgets of a layout."""
    while (item := layout.takeAt(0)) is not None:
        if item.widget() is not None:
            item.widget().deleteLater()
