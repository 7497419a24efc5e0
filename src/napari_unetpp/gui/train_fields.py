"""Fields of the Train dock that come more than once: numbers."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLayout, QSizePolicy, QSpinBox


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


def empty(layout: QLayout) -> None:
    """Remove the widgets of a layout."""
    while (item := layout.takeAt(0)) is not None:
        if item.widget() is not None:
            item.widget().deleteLater()
