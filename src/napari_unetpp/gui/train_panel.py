"""How the Train dock looks: pairs, form, plan, buttons, progress, curves, what came of it.

Builds and shows; `train_widget` binds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_unetpp.gui.dock import Dock
from napari_unetpp.gui.fields import wrapping_label
from napari_unetpp.gui.progress import duration
from napari_unetpp.gui.segment_panel import WIDTH
from napari_unetpp.gui.status import StatusLabel
from napari_unetpp.gui.train_curves import Curves
from napari_unetpp.gui.train_form import TrainForm
from napari_unetpp.gui.train_left import LeftRuns
from napari_unetpp.gui.train_pair_box import PairBox
from napari_unetpp.gui.train_rescue import RescueButton
from napari_unetpp.gui.train_result import ResultBox
from napari_unetpp.gui.train_view_row import ViewRow

if TYPE_CHECKING:
    from napari import Viewer


class TrainPanel(Dock):
    """The widgets of the dock, laid out."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.left_runs = LeftRuns(viewer)
        self.pair_box = PairBox(viewer)
        self.form = TrainForm()
        self.plan_box = QGroupBox("Plan")
        self.plan_text = wrapping_label()
        self.plan_button = QPushButton("Plan")
        self.plan_button.setToolTip("Read the labels, choose what is held out, and measure how long it will take.")
        self.start_button = QPushButton("Start")
        self.pause_button = QPushButton("Pause")
        self.pause_button.setToolTip("Hold after the next batches, and go on later.")
        self.keep_button = QPushButton("Stop and keep the best")
        self.discard_button = QPushButton("Cancel and discard")
        self.discard_button.setToolTip("Stop, and remove what was trained.")
        self.sure_box = QWidget()
        self.sure_text = wrapping_label()
        self.sure_button = QPushButton("Discard")
        self.not_sure_button = QPushButton("Go on")
        self.bar = QProgressBar()
        self.status = StatusLabel()
        self.running_box = QGroupBox("Progress")
        self.curves = Curves()
        self.view_row = ViewRow(viewer)
        self.result = ResultBox()
        self.copy_button = QPushButton("Copy as command")
        self.copy_button.setToolTip("The command line that does the same, for a script or a cluster.")
        self.details_button = QPushButton("Details …")
        self.details_button.setToolTip("The whole story of the error.")
        self.rescue = RescueButton()
        self.setMinimumWidth(WIDTH + 40)  # two long buttons beside each other, and the scroll bar
        self._lay_out()
        for hidden in (self.plan_box, self.sure_box, self.bar, self.running_box, self.result):
            hidden.setVisible(False)
        self.details_button.setVisible(False)

    def _lay_out(self) -> None:
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(4, 8, 4, 6)
        layout.setSpacing(8)
        _question(self.sure_box, self.sure_text, self.sure_button, self.not_sure_button)
        inside = QVBoxLayout(self.plan_box)
        inside.setContentsMargins(6, 6, 6, 8)
        inside.addWidget(self.plan_text)
        running = QVBoxLayout(self.running_box)
        running.setContentsMargins(6, 6, 6, 8)
        running.setSpacing(6)
        running.addWidget(self.curves)
        running.addWidget(self.view_row)
        for item in (
            self.left_runs,
            self.pair_box,
            self.form,
            self.plan_box,
            _row(self.plan_button, self.start_button, self.pause_button),
            _row(self.keep_button, self.discard_button),
            self.sure_box,
            self.bar,
            self.status,
            self.rescue,
            _row(self.copy_button, None, self.details_button),
            self.result,
            self.running_box,
        ):
            if isinstance(item, QWidget):
                layout.addWidget(item)
            else:
                layout.addLayout(item)
        layout.addStretch(1)
        self.fill(content)

    def say(self, text: str, *, error: bool = False) -> None:
        """Put one line (which may wrap) into the status."""
        self.status.say(text, error=error)

    def show_buttons(self, *, running: bool) -> None:
        """Those of before a run, or those of a run."""
        for before in (self.plan_button, self.start_button):
            before.setVisible(not running)
        for during in (self.pause_button, self.keep_button, self.discard_button):
            during.setVisible(running)

    def show_plan(self, text: str) -> None:
        """Put the plan into its box, and bring it and the button below it into sight."""
        self.plan_text.setText(text)
        self.plan_box.setVisible(True)
        QTimer.singleShot(0, self._scroll_to_start)  # once it has its place

    def _scroll_to_start(self) -> None:
        self.findChild(QScrollArea).ensureWidgetVisible(self.status)

    def scroll_to_rescue(self) -> None:
        """Bring the button that saves a model elsewhere, and the line above it, into sight."""
        QTimer.singleShot(0, self._scroll_to_rescue)

    def _scroll_to_rescue(self) -> None:
        self.findChild(QScrollArea).ensureWidgetVisible(self.rescue)

    def show_progress(self, done: int, total: int, left_seconds: float | None = None) -> None:
        """Fill the bar; with `total` 0 it only moves, for work of unknown length."""
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        left = "" if left_seconds is None else f" · at most {duration(left_seconds)} left"
        self.bar.setFormat(f"%p %{left}")


def _question(box: QWidget, text: QLabel, yes: QPushButton, no: QPushButton) -> None:
    """A text above its two answers, in the dock, so that nothing stops meanwhile."""
    layout = QVBoxLayout(box)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(4)
    layout.addWidget(text)
    layout.addLayout(_row(yes, no))


def _row(*widgets: QWidget | None) -> QHBoxLayout:
    """Widgets beside each other, equally wide; None is room between."""
    layout = QHBoxLayout()
    layout.setSpacing(6)
    for widget in widgets:
        if widget is None:
            layout.addStretch(1)
        else:
            layout.addWidget(widget, 0 if None in widgets else 1)
    return layout
