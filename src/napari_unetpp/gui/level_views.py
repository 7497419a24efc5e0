"""Buttons for how a prediction is looked at: threshold, contours, maps, all heads side by side.

They show and change the fields of a `HeadComparison` and keep no state of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget
from superqt import QLabeledDoubleSlider

if TYPE_CHECKING:
    from napari_unetpp.gui.comparison import HeadComparison
    from napari_unetpp.gui.layers import LevelLayers

CONTOUR = 2  # voxels: one is lost where the canvas shows fewer pixels than the image has

SWITCHES = {
    "contour": ("Contour", "Outlines instead of filled labels, at every level."),
    "grid": ("Grid", "All heads side by side, each on the image."),
    "probability": ("Probability", "How sure the level on the screen is of the foreground, 0 (dark) to 1."),
    "disagreement": (
        "Disagreement",
        "Where the heads disagree: at each voxel the highest minus the lowest probability of foreground\n"
        "among all heads, 0 (dark, all agree) to 1.",
    ),
}


class LevelViews(QWidget):
    """Bound to one prediction, or disabled while there is none.

    Attributes
    ----------
    levels : LevelLayers or None
    buttons : dict
        From the field that it switches to the button.
    threshold : QLabeledDoubleSlider
        In a row that only predictions of one class have.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.levels: LevelLayers | None = None
        self.comparison: HeadComparison | None = None
        self._outlined = False  # by us, for a map
        self.threshold = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.threshold.setRange(0, 1)
        self.threshold.setSingleStep(0.01)
        self.threshold.setPageStep(0.1)
        self.threshold.setDecimals(2)
        self.threshold.setToolTip("Least probability of what is labelled.")
        self.threshold.valueChanged.connect(self._on_threshold)
        self.buttons = {field: QPushButton(text) for field, (text, _) in SWITCHES.items()}
        for field, button in self.buttons.items():
            button.setCheckable(True)
            button.setToolTip(SWITCHES[field][1])
        self.buttons["contour"].toggled.connect(self._on_contour)
        self.buttons["grid"].toggled.connect(self._on_grid)
        self.buttons["probability"].toggled.connect(self._on_probability)
        self.buttons["disagreement"].toggled.connect(self._on_disagreement)
        self._lay_out()
        self.bind(None)

    def _lay_out(self) -> None:
        self._threshold_row = QWidget()
        row = QHBoxLayout(self._threshold_row)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(QLabel("Threshold"))
        row.addWidget(self.threshold, 1)
        grid = QGridLayout()
        grid.setSpacing(4)
        for place, button in enumerate(self.buttons.values()):
            grid.addWidget(button, place // 2, place % 2)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self._threshold_row)
        layout.addLayout(grid)

    def bind(self, levels: LevelLayers | None, comparison: HeadComparison | None = None) -> None:
        """Show this prediction from now on, and no other.

        Parameters
        ----------
        comparison
            What is looked at while nothing is stored yet: a preview has a threshold and contours, and no maps.
        """
        if self.comparison is not None:
            self.comparison.events.disconnect(self._show)
        if self.levels is not None:
            self.levels.gone.disconnect(self._on_gone, missing_ok=True)
        self.levels = levels
        self.comparison = levels.comparison if levels is not None else comparison
        self.setEnabled(self.comparison is not None)
        if self.comparison is not None:
            self.comparison.events.connect(self._show)
        if levels is not None:
            levels.gone.connect(self._on_gone)
        self._show()

    def _show(self, _event: object = None) -> None:
        """Set every button to what is so."""
        levels, comparison = self.levels, self.comparison
        several_heads = levels is not None and len(levels.comparison.heads) > 1
        for field, button in self.buttons.items():
            with QSignalBlocker(button):  # what is set here was told by somebody else
                button.setChecked(comparison is not None and bool(getattr(comparison, field)))
        self.buttons["grid"].setEnabled(several_heads)
        self.buttons["disagreement"].setEnabled(several_heads)
        self.buttons["probability"].setEnabled(levels is not None)
        self._threshold_row.setVisible(levels is None or len(levels.store.classes) == 1)
        with QSignalBlocker(self.threshold):
            self.threshold.setValue(comparison.threshold if comparison is not None else 0.5)

    def _on_gone(self) -> None:
        self.bind(None)

    def _on_threshold(self, value: float) -> None:
        if self.comparison is not None:
            self.comparison.threshold = min(max(round(value, 2), 0.0), 1.0)

    def _on_contour(self, checked: bool) -> None:
        self._outlined = False
        if self.comparison is not None:
            self.comparison.contour = CONTOUR if checked else 0

    def _on_grid(self, checked: bool) -> None:
        if self.levels is not None:
            self.levels.comparison.grid = checked

    def _on_probability(self, checked: bool) -> None:
        if self.levels is not None:
            self.levels.comparison.probability = checked
            self._outline(self.levels.comparison)

    def _on_disagreement(self, checked: bool) -> None:
        if self.levels is not None:
            self.levels.comparison.disagreement = checked
            self._outline(self.levels.comparison)

    def _outline(self, comparison: HeadComparison) -> None:
        """Filled labels would hide a map: they are outlined as long as there is one, unless they were already."""
        mapped = comparison.probability or comparison.disagreement
        if mapped and comparison.contour == 0:
            comparison.contour, self._outlined = CONTOUR, True
        elif not mapped and self._outlined:
            comparison.contour, self._outlined = 0, False
