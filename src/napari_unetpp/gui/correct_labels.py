"""The labels that a brush can paint: the legend that chooses one, and classes that the user adds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.compat import isalive
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGroupBox, QHBoxLayout, QInputDialog, QPushButton, QVBoxLayout

from napari_unetpp.gui.correct_legend import Legend
from napari_unetpp.gui.jobs import JobError
from napari_unetpp.model.card import CLASS_COLORS, ClassInfo

if TYPE_CHECKING:
    from napari_unetpp.gui.correct_layer import OpenCorrections


class LabelsBox(QGroupBox):
    """The labels of the corrections that are followed; emits `failed` with the JobError of what could not be saved."""

    failed = Signal(object)

    def __init__(self) -> None:
        super().__init__("Labels")
        self._opened: OpenCorrections | None = None
        self.legend = Legend()
        self.add_button = QPushButton("Add class …")
        self.add_button.setToolTip("One more class to paint, for a model that is trained to find it.")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 6, 8)
        layout.setSpacing(6)
        layout.addWidget(self.legend)
        below = QHBoxLayout()
        below.addWidget(self.add_button)
        below.addStretch(1)
        layout.addLayout(below)
        self.legend.chosen.connect(self.paint_with)
        self.add_button.clicked.connect(self.add_class)

    def follow(self, opened: OpenCorrections | None) -> None:
        """Show the labels of these."""
        if opened is self._opened:
            return
        if self._opened is not None:
            self._opened.layer.events.selected_label.disconnect(self._on_label)
        self._opened = opened
        if opened is not None:
            opened.layer.events.selected_label.connect(self._on_label)
            self.legend.show_labels(opened.corrections.legend)
            self._on_label()

    def paint_with(self, label: int) -> None:
        """Take up the brush, with this label."""
        opened = self._opened
        if opened is None or (viewer := opened.viewer) is None:
            return
        viewer.layers.selection.active = opened.layer
        opened.layer.selected_label = label
        if opened.layer.mode in ("pan_zoom", "transform", "pick", "erase"):
            opened.layer.mode = "paint"
        self._on_label()

    def add_class(self) -> None:
        """Ask for the name of one more class, and paint it next."""
        if self._opened is None:
            return
        corrections = self._opened.corrections
        place = len(corrections.classes)
        if not (name := self.ask_name(f"class {place + 1}")):
            return
        color = CLASS_COLORS[place % len(CLASS_COLORS)]
        try:
            corrections.set_classes((*corrections.classes, ClassInfo(name, color)))
        except (OSError, ValueError) as error:
            self.failed.emit(JobError(error))
            return
        self._opened.recolor()
        self.legend.show_labels(corrections.legend)
        self.paint_with(max(corrections.legend))

    def ask_name(self, proposed: str) -> str:
        """Name of a new class; empty if the user thought better of it."""
        name, sure = QInputDialog.getText(self, "Add class", "What is the class called?", text=proposed)
        return name.strip() if sure else ""

    def _on_label(self, _event: object = None) -> None:
        if isalive(self) and self._opened is not None:
            self.legend.show_chosen(int(self._opened.layer.selected_label))
