"""How the Models dock looks: the list, what can be done with a model, its card or the form of an import, a status line.

Builds and shows; `models_widget` binds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QBrush, QColor, QTextOption
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QSplitter,
    QStackedWidget,
    QTextBrowser,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_unetpp.gui.dock import Dock
from napari_unetpp.gui.elided import elide_rows
from napari_unetpp.gui.models_card import card_page
from napari_unetpp.gui.models_export import ExportBox
from napari_unetpp.gui.models_import import ImportBox
from napari_unetpp.gui.segment_panel import WIDTH
from napari_unetpp.gui.status import StatusLabel, error_color

if TYPE_CHECKING:
    from napari_unetpp.gui.models_work import ModelFile

COLUMNS = ("Name", "Origin", "Images", "Classes")
ORIGINS = {"bundled": "shipped", "user": "own"}


class ModelsPanel(Dock):
    """The widgets of the dock, laid out."""

    def __init__(self) -> None:
        super().__init__()
        self.list = QTreeWidget()
        self.list.setHeaderLabels(COLUMNS)
        self.list.setRootIsDecorated(False)
        self.list.setUniformRowHeights(True)
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        elide_rows(self.list)
        header = self.list.header()
        header.setStretchLastSection(False)
        for column, mode in enumerate(("Stretch", "ResizeToContents", "ResizeToContents", "Stretch")):
            header.setSectionResizeMode(column, getattr(QHeaderView.ResizeMode, mode))
        self.import_button = _button(
            "Import …",
            "Take in a model file, a checkpoint of another package, or a package\nof bioimage.io. Or drop it here.",
        )
        self.rename_button = _button("Rename …", "Give the file another name; the card keeps its own.")
        self.delete_button = _button("Delete …", "Remove the file for good.")
        self.folder_button = _button("Open folder", "Show the folder of your models.")
        self.export_box = ExportBox()
        self._shown = ""  # whose card it is
        self._sizes: list[int] = []  # of the list and of what is below it, before an import
        self.card = QTextBrowser()
        self.card.setFrameShape(QFrame.Shape.NoFrame)
        self.card.setOpenLinks(False)  # a card is a text of somebody, not a page to wander from
        self.card.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.import_box = ImportBox()
        self.status = StatusLabel()
        for view in (self.list, self.card):
            view.setAcceptDrops(False)  # a drop is for the dock, wherever it falls
            view.viewport().setAcceptDrops(False)
        self.setAcceptDrops(True)
        self._lay_out()

    def _lay_out(self) -> None:
        above = QWidget()
        upper = QVBoxLayout(above)
        upper.setContentsMargins(0, 0, 0, 0)
        upper.setSpacing(6)
        upper.addWidget(self.list, 1)
        row = QHBoxLayout()
        row.setSpacing(6)
        for button in (self.import_button, self.rename_button, self.delete_button):
            row.addWidget(button, 1)
        upper.addLayout(row)
        self.export_box.buttons.addWidget(self.folder_button, 1)
        upper.addWidget(self.export_box)
        self.below = QStackedWidget()
        self.below.addWidget(self.card)
        self.below.addWidget(self.import_box)
        self._splitter = splitter = QSplitter(Qt.Orientation.Vertical)
        splitter.setChildrenCollapsible(False)
        splitter.addWidget(above)
        splitter.addWidget(self.below)
        splitter.setStretchFactor(1, 1)
        splitter.setSizes([200, 500])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 8, 6, 6)
        layout.setSpacing(6)
        layout.addWidget(splitter, 1)
        layout.addWidget(self.export_box.bar)
        layout.addWidget(self.status)
        self.setMinimumWidth(WIDTH)

    def show_models(self, models: Sequence[ModelFile], chosen: str | None) -> None:
        """Fill the list; `chosen` or else the first is selected, and nothing is told of it."""
        with QSignalBlocker(self.list):
            self.list.clear()
            for model in models:
                item = QTreeWidgetItem(_columns(model))
                for column in range(len(COLUMNS)):
                    item.setToolTip(column, model.problem or item.text(column))
                if model.problem:
                    item.setForeground(len(COLUMNS) - 1, QBrush(QColor(error_color(self))))
                self.list.addTopLevelItem(item)
            names = [model.entry.name for model in models]
            if names:
                self.list.setCurrentItem(self.list.topLevelItem(names.index(chosen) if chosen in names else 0))

    def show_card(self, model: ModelFile | None) -> None:
        """Show all of a model; where it was scrolled to stays while it is the same."""
        name = model.entry.name if model else ""
        bar = self.card.verticalScrollBar()
        place = bar.value() if name == self._shown else 0
        self._shown = name
        self.card.setHtml(card_page(model) if model else "")
        bar.setValue(place)

    def show_import(self, *, shown: bool) -> None:
        """The form of an import where the card is, or the card."""
        if shown == (self.below.currentWidget() is self.import_box):
            return
        self.below.setCurrentWidget(self.import_box if shown else self.card)
        if shown:  # its fields need the room that a list can do without
            self._sizes = self._splitter.sizes()
            self._splitter.setSizes([0, sum(self._sizes)])
        else:
            self._splitter.setSizes(self._sizes)

    def say(self, text: str, *, error: bool = False) -> None:
        """Put one line (which may wrap) into the status; an empty one takes no room."""
        self.status.setVisible(bool(text))
        self.status.say(text, error=error)


def _button(text: str, tooltip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tooltip)
    return button


def _columns(model: ModelFile) -> list[str]:
    origin = ORIGINS[model.entry.origin]
    if model.header is None:
        return [model.entry.name, origin, "", "unreadable"]
    spec, classes = model.header.spec, model.header.card.classes
    found = classes[1:] if spec.classes > 1 else classes  # the first of several is the background
    return [model.entry.name, origin, f"{spec.ndim}D", ", ".join(c.name for c in found)]
