"""The row that switches the preview on the view, and chooses the level that it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QVBoxLayout, QWidget

from napari_unetpp.gui.comparison import Level, level_name
from napari_unetpp.gui.fields import combo_box, note_label
from napari_unetpp.gui.train_view import TrainingView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari import Viewer

    from napari_unetpp.gui.train_pairs import TrainPair


class ViewRow(QWidget):
    """The row.

    Attributes
    ----------
    view : TrainingView
    levels : tuple of int or "ensemble"
        That the model in training has.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.levels: tuple[Level, ...] = ()
        self.shown = QCheckBox("Show on the view:")
        self.shown.setChecked(True)
        self.shown.setToolTip("After every epoch that is the best so far, predict what is on the screen with it.")
        self.level = combo_box("The level that is shown.")
        self.note = note_label()
        self.view = TrainingView(viewer, self)
        row = QHBoxLayout()
        row.setSpacing(6)
        row.addWidget(self.shown)
        row.addWidget(self.level, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addLayout(row)
        layout.addWidget(self.note)
        self.shown.toggled.connect(self.view.set_enabled)
        self.level.currentIndexChanged.connect(self._on_level)
        self.view.removed.connect(self._on_removed)
        self.view.told.connect(self._on_told)

    def begin(self, pairs: Sequence[TrainPair], heads: Sequence[int], device: str) -> None:
        """A run begins; as `TrainingView.begin`."""
        self.view.begin(pairs, heads, device)
        comparison = self.view.comparison
        assert comparison is not None
        self.levels = comparison.levels
        with QSignalBlocker(self.level):
            self.level.clear()
            self.level.addItems([level_name(level) for level in self.levels])
            self.level.setCurrentIndex(self.levels.index(comparison.level))

    def _on_level(self, place: int) -> None:
        if 0 <= place < len(self.levels) and self.view.comparison is not None:
            self.view.comparison.level = self.levels[place]

    def _on_removed(self) -> None:
        """Who deletes the layer does not want another one in its place."""
        self.shown.setChecked(False)

    def _on_told(self, text: str) -> None:
        self.note.setText(text)
        self.note.setVisible(bool(text))
