"""How the Segment dock looks: the form, Run, Pause and Stop, progress, status line, the level on the screen.

Builds and shows; `segment_widget` binds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QHBoxLayout,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_unetpp.gui.dock import Dock
from napari_unetpp.gui.level_box import LevelBox
from napari_unetpp.gui.progress import duration
from napari_unetpp.gui.segment_form import SegmentForm
from napari_unetpp.gui.status import StatusLabel

if TYPE_CHECKING:
    from napari import Viewer

    from napari_unetpp.gui.jobs import JobError
    from napari_unetpp.gui.preferences import Preferences

WIDTH = 320


class SegmentPanel(Dock):
    """The widgets of the dock, laid out."""

    def __init__(self, viewer: Viewer, preferred: Preferences) -> None:
        super().__init__()
        self.form = SegmentForm(preferred)
        self.run_button = QPushButton("Run")
        self.pause_button = QPushButton("Pause")
        self.pause_button.setToolTip("Hold after the tiles in work, and go on later.")
        self.cancel_button = QPushButton("Stop")
        self.cancel_button.setToolTip("Stop after the tile in work; Run goes on from there.")
        self.bar = QProgressBar()
        self.bar.setVisible(False)
        self.status = StatusLabel()
        self.details_button = QPushButton("Details …")
        self.details_button.setToolTip("The whole story of the error.")
        self.details_button.setVisible(False)
        self.elsewhere_button = QPushButton("Run elsewhere …")
        self.elsewhere_button.setToolTip("Choose another folder for the predictions, and run again.")
        self.elsewhere_button.setVisible(False)
        self.copy_button = QPushButton("Copy as command")
        self.copy_button.setToolTip("The command line that does the same, for a script or a cluster.")
        self.level_box = LevelBox(viewer, live=preferred.live)
        self.slider, self.show_labels = self.level_box.slider, self.level_box.show_labels
        self.setMinimumWidth(WIDTH)
        self._lay_out()

    def _lay_out(self) -> None:
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(4, 8, 4, 6)
        layout.setSpacing(8)
        buttons = QHBoxLayout()
        buttons.setSpacing(6)
        for button in (self.run_button, self.pause_button, self.cancel_button):
            buttons.addWidget(button, 1)
        below = QHBoxLayout()
        below.addWidget(self.copy_button)
        below.addStretch(1)
        below.addWidget(self.elsewhere_button)
        below.addWidget(self.details_button)
        layout.addWidget(self.form)
        layout.addLayout(buttons)
        layout.addWidget(self.bar)
        layout.addWidget(self.status)
        layout.addLayout(below)
        layout.addWidget(self.level_box)
        layout.addStretch(1)
        self.fill(content)

    def say(self, text: str, *, error: bool = False) -> None:
        """Put one line (which may wrap) into the status."""
        self.status.say(text, error=error)

    def show_progress(self, done: int, total: int, left_seconds: float | None = None) -> None:
        """Fill the bar; with `total` 0 it only moves, for work of unknown length."""
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        left = "" if left_seconds is None else f" · {duration(left_seconds)} left"
        self.bar.setFormat(f"%p %{left}")


def show_details(parent: QWidget, error: JobError) -> QMessageBox:
    """A box with the whole story of an error, which does not stop the window; closing it removes it."""
    box = QMessageBox(QMessageBox.Icon.Warning, "napari-unetpp", str(error), QMessageBox.StandardButton.Close, parent)
    box.setDetailedText(error.details)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.setModal(False)
    box.show()
    return box
