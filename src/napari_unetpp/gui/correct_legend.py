"""What each label of corrections means, in its colour; a click makes the brush paint it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Signal
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap
from qtpy.QtWidgets import QButtonGroup, QGridLayout, QPushButton, QSizePolicy, QWidget

from napari_unetpp.gui.correct_layer import label_color

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_unetpp.model.card import ClassInfo

SWATCH = 12
COLUMNS = 2
NOT_ANNOTATED = "not annotated"


class Legend(QWidget):
    """A button a label, of which that of the brush is down; emits `chosen` with the label that was clicked."""

    chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.buttons: dict[int, QPushButton] = {}
        self._group = QButtonGroup(self)
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(4)
        for column in range(COLUMNS):
            self._grid.setColumnStretch(column, 1)

    def show_labels(self, legend: Mapping[int, ClassInfo | None]) -> None:
        """Show these, in this order."""
        for button in self.buttons.values():
            self._group.removeButton(button)
            self._grid.removeWidget(button)
            button.hide()
            button.deleteLater()
        self.buttons = {}
        for place, (label, info) in enumerate(legend.items()):
            name = info.name if info is not None else NOT_ANNOTATED
            button = QPushButton()
            button.setCheckable(True)
            button.setText(f"{label}  {name}")
            button.setToolTip(f"Paint {name} (label {label}).\nKeys of napari: - and = for the one before and after.")
            button.setStyleSheet("text-align: left;")
            button.setIcon(swatch(label_color(info) if label else "transparent"))
            button.setIconSize(QSize(SWATCH, SWATCH))
            button.setMinimumWidth(0)
            button.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            button.clicked.connect(partial(self._on_clicked, label))
            self._group.addButton(button)
            self._grid.addWidget(button, place // COLUMNS, place % COLUMNS)
            self.buttons[label] = button

    def show_chosen(self, label: int) -> None:
        """Press the button of the label that the brush paints; none where it is another."""
        # An exclusive group keeps one button down, which a label without a button must not leave there.
        self._group.setExclusive(False)
        for number, button in self.buttons.items():
            button.setChecked(number == label)
        self._group.setExclusive(True)

    def _on_clicked(self, label: int, _checked: Any = None) -> None:
        self.chosen.emit(label)


def swatch(color: str) -> QIcon:
    """A square of the colour; of none, an empty frame."""
    pixmap = QPixmap(SWATCH, SWATCH)
    pixmap.fill(QColor(0, 0, 0, 0))
    painter = QPainter(pixmap)
    painter.setPen(QColor("#808080"))
    if color != "transparent":
        painter.setBrush(QColor(color))
    painter.drawRect(0, 0, SWATCH - 1, SWATCH - 1)
    painter.end()
    return QIcon(pixmap)
