"""Fields of the Train dock for numbers: one in a range, and the voxels of a patch, which may differ from axis to axis."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLayout, QLineEdit, QSizePolicy, QSpinBox

from napari_unetpp.inference.tiling import in_words

if TYPE_CHECKING:
    from napari_unetpp.inference.tiling import Voxels

LARGEST = 4096  # voxels along an axis of a patch


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


class PatchField(QLineEdit):
    """Voxels of a patch: one number for all axes, or one for each, as in 16 x 96 x 96."""

    def __init__(self, tooltip: str) -> None:
        super().__init__()
        self.setToolTip(tooltip)
        self.editingFinished.connect(self._tidy)

    def value(self) -> Voxels | None:
        """What is written there; None where that is no patch."""
        words = re.split(r"[x\u00d7,;\s]+", self.text().strip().lower())
        if not all(word.isdecimal() and 2 <= int(word) <= LARGEST for word in words):
            return None
        numbers = tuple(int(word) for word in words)
        return numbers[0] if len(numbers) == 1 else numbers

    def setValue(self, voxels: Voxels) -> None:
        """Write it there."""
        self.setText(in_words(voxels))

    def problem(self, ndim: int) -> str:
        """Why a network of so many dimensions cannot take it, in one line; empty if it can."""
        value = self.value()
        if value is None:
            return f"Patch: 2 to {LARGEST} voxels along each axis, as 96, or 16 x 96 x 96."
        if not isinstance(value, int) and len(value) != ndim:
            return f"Patch {self.text()}: the network is {ndim}D; give one number, or {ndim}."
        return ""

    def _tidy(self) -> None:
        value = self.value()
        if value is not None:
            self.setValue(value)


def empty(layout: QLayout) -> None:
    """Remove the widgets of a layout."""
    while (item := layout.takeAt(0)) is not None:
        if item.widget() is not None:
            item.widget().deleteLater()
