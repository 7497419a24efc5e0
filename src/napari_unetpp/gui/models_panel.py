"""How the Models dock looks: the list, what can be done with a model, its card, a status line.

Builds and shows; `models_widget` binds it.
"""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QBrush, QColor, QTextOption
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QSplitter,
    QTextBrowser,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_unetpp.gui.dock import Dock
from napari_unetpp.gui.fields import combo_box
from napari_unetpp.gui.models_card import card_page
from napari_unetpp.gui.models_work import ModelFile
from napari_unetpp.gui.segment_panel import WIDTH
from napari_unetpp.gui.status import StatusLabel, error_color

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
        header = self.list.header()
        header.setStretchLastSection(False)
        for column, mode in enumerate(("Stretch", "ResizeToContents", "ResizeToContents", "Stretch")):
            header.setSectionResizeMode(column, getattr(QHeaderView.ResizeMode, mode))
        self.import_button = _button("Import …", "Check a model file and copy it to your models.\nOr drop it here.")
        self.rename_button = _button("Rename …", "Give the file another name; the card keeps its own.")
        self.delete_button = _button("Delete …", "Remove the file for good.")
        self.folder_button = _button("Open folder", "Show the folder of your models.")
        self.level = combo_box("The deepest level that the saved model keeps.")
        self.save_button = _button(
            "Save pruned …", "Save a model of fewer weights, with the same output up to this level."
        )
        self._shown = ""  # whose card it is
        self.card = QTextBrowser()
        self.card.setFrameShape(QFrame.Shape.NoFrame)
        self.card.setOpenLinks(False)  # a card is a text of somebody, not a page to wander from
        self.card.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.status = StatusLabel()
        for view in (self.list, self.card):
            view.setAcceptDrops(False)  # a drop is for the dock, wherever it falls
            view.viewport().setAcceptDrops(False)
        self.setAcceptDrops(True)
        self._lay_out()

    def _lay_out(self) -> None:
        rows: tuple[tuple[QWidget, ...], ...] = (
            (self.import_button, self.rename_button, self.delete_button),
            (self.level, self.save_button, self.folder_button),
        )
        above = QWidget()
        upper = QVBoxLayout(above)
        upper.setContentsMargins(0, 0, 0, 0)
        upper.setSpacing(6)
        upper.addWidget(self.list, 1)
        for widgets in rows:
            row = QHBoxLayout()
            row.setSpacing(6)
            for widget in widgets:
                row.addWidget(widget, 1)
            upper.addLayout(row)
        splitter = QSplitter(Qt.Orientation.Vertical)
        splitter.setChildrenCollapsible(False)
        splitter.addWidget(above)
        splitter.addWidget(self.card)
        splitter.setStretchFactor(1, 1)
        splitter.setSizes([200, 500])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 8, 6, 6)
        layout.setSpacing(6)
        layout.addWidget(splitter, 1)
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

    def show_levels(self, model: ModelFile | None) -> None:
        """Offer the levels that a model can be pruned to, the recommended first chosen."""
        self.level.clear()
        if model is None or model.header is None:
            return
        heads, recommended = model.header.spec.heads, model.header.card.recommended_level
        for d in heads:
            self.level.addItem(f"L{d}", d)
        enough = heads.index(recommended) if recommended in heads else len(heads) - 1
        # The deepest keeps all, so it is no pruning; where that is what is recommended, one less is next to it.
        self.level.setCurrentIndex(max(0, enough - (enough == len(heads) - 1)))

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
