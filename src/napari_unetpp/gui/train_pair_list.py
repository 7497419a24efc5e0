"""The list of annotated images in the Train dock: three lines each, as high as it needs to be."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QListWidget, QListWidgetItem

from napari_unetpp.gui.elided import elide_rows

ROWS = 4  # that are seen without scrolling


class PairList(QListWidget):
    """What is trained on: names above, extent and what is annotated below."""

    def __init__(self) -> None:
        super().__init__()
        self.setSelectionMode(QListWidget.SelectionMode.ExtendedSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        elide_rows(self)
        self.setResizeMode(QListWidget.ResizeMode.Adjust)

    def chosen(self) -> set[int]:
        """Places of the selected rows."""
        return {self.row(item) for item in self.selectedItems()}

    def show_pairs(self, pairs: Sequence[tuple[str, str, str]]) -> None:
        """Fill it with image, labels and what is annotated; what was selected stays so."""
        chosen = self.chosen()
        with QSignalBlocker(self):
            self.clear()
            for place, (image, label, about) in enumerate(pairs):
                item = QListWidgetItem(f"{image} + {label}\n{about}", self)
                item.setToolTip(item.text())
                item.setSelected(place in chosen)
        self.setVisible(bool(pairs))
        rows = [self.sizeHintForRow(place) for place in range(min(len(pairs), ROWS))]
        self.setFixedHeight(sum(rows) + 2 * self.frameWidth() + 4)
