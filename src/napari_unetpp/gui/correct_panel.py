"""How the Correct dock looks: the form, what can be done with it, progress, labels, what was reviewed, the tour, status.

Builds and shows; `correct_widget` binds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_unetpp.gui.correct_form import CorrectForm
from napari_unetpp.gui.correct_labels import LabelsBox
from napari_unetpp.gui.correct_rescue import RescueBox
from napari_unetpp.gui.correct_review import ReviewBox
from napari_unetpp.gui.correct_tour import TourBox
from napari_unetpp.gui.dock import Dock
from napari_unetpp.gui.segment_panel import WIDTH
from napari_unetpp.gui.status import StatusLabel

if TYPE_CHECKING:
    from napari import Viewer


class CorrectPanel(Dock):
    """The widgets of the dock, laid out."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.form = CorrectForm()
        self.make_button = QPushButton("Make corrections")
        self.open_button = QPushButton("Open corrections")
        self.take_button = QPushButton("Take over the new prediction")
        self.take_button.setToolTip(
            "Labels that you neither painted nor reviewed follow the level on the screen.\nAll others stay as they are."
        )
        self.stop_button = QPushButton("Stop")
        self.stop_button.setToolTip("What has arrived stays; taking over once more brings the rest.")
        self.bar = QProgressBar()
        self.labels, self.review, self.tour = LabelsBox(), ReviewBox(viewer), TourBox(viewer)
        self.rescue = RescueBox()
        self.status = StatusLabel()
        self.setMinimumWidth(WIDTH)
        self._lay_out()

    def _lay_out(self) -> None:
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(4, 8, 4, 6)
        layout.setSpacing(8)
        running = QHBoxLayout()
        running.addWidget(self.bar, 1)
        running.addWidget(self.stop_button)
        layout.addWidget(self.rescue)
        layout.addWidget(self.form)
        for button in (self.make_button, self.open_button, self.take_button):
            layout.addWidget(button)
        layout.addLayout(running)
        for box in (self.labels, self.review, self.tour):
            layout.addWidget(box)
        layout.addWidget(self.status)
        layout.addStretch(1)
        self.fill(content)

    def say(self, text: str, *, error: bool = False) -> None:
        """Put one line (which may wrap) into the status."""
        self.status.say(text, error=error)

    def show_progress(self, done: int, total: int) -> None:
        """Show so many of `total`; nothing where that is 0."""
        self.bar.setVisible(total > 0)
        self.stop_button.setVisible(total > 0)
        self.bar.setRange(0, max(total, 1))
        self.bar.setValue(done)
