"""The curves of a training run: the loss of every batch, and what each level reaches on the held-out part.

Decides what is drawn (`Curves.show_run`), with which colours, and how often. Two plots share one axis, epochs::

    loss   batches thin, epochs thick
    IoU    a curve per level in its colour; dashed: what the parent reaches there

Curves are made once per run and given new data (`setData`), at most five times a second. The colours of
axes and texts are those of napari's theme, also after that has changed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtCore import QEvent, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QIcon, QPainter, QPalette, QPen, QPixmap
from qtpy.QtWidgets import QHBoxLayout, QLabel, QToolButton, QVBoxLayout, QWidget

from napari_unetpp.gui.comparison import ENSEMBLE, Level, level_name
from napari_unetpp.gui.level_colors import LEVEL_COLORS
from napari_unetpp.gui.train_progress import MEASURES, Training

if TYPE_CHECKING:
    from collections.abc import Sequence

DRAW_MS = 200  # between two drawings: what one can follow, and little work for the window
LOSS_HEIGHT, SCORE_HEIGHT = 110, 150
AXIS_WIDTH = 50  # the same for both, so that their epochs lie below each other
_RESTYLED = (QEvent.Type.StyleChange, QEvent.Type.PaletteChange)


class Curves(QWidget):
    """Loss above, scores below, and a legend whose names switch their curves.

    Attributes
    ----------
    batches, losses : PlotDataItem
        Loss of batches and of epochs.
    scores, parents : dict
        From level to its curve, and to the dashed line of the parent.
    """

    measured = Signal()  # the other measure was chosen

    def __init__(self) -> None:
        super().__init__()
        self.measure = "iou"
        self._run = Training()
        self._levels: tuple[Level, ...] = ()
        self.loss_plot, self.score_plot = _plot("loss", LOSS_HEIGHT), _plot(MEASURES["iou"], SCORE_HEIGHT)
        self.score_plot.setXLink(self.loss_plot)
        self.loss_plot.getAxis("bottom").setStyle(showValues=False)
        self.score_plot.setLabel("bottom", "epoch")
        self.batches = self.loss_plot.plot()
        self.losses = self.loss_plot.plot()
        self.scores: dict[Level, Any] = {}
        self.parents: dict[Level, Any] = {}
        self.names: dict[Level, QToolButton] = {}
        self._switches = {key: _switch(text) for key, text in MEASURES.items()}
        self._legend = QHBoxLayout()
        self._legend.setSpacing(0)
        self.part_note = QLabel()
        self.parent_note = QLabel("- - parent")
        self.parent_note.setToolTip("Dashed: what the model that the run started from reaches on the held-out part.")
        self._lay_out()
        self._switches["iou"].setChecked(True)
        for key, button in self._switches.items():
            button.setProperty("measure", key)
            button.clicked.connect(self._on_measure)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(DRAW_MS)
        self._timer.timeout.connect(self.draw)
        self._color()

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        above = QHBoxLayout()
        above.setSpacing(2)
        above.addWidget(self.part_note)
        for button in self._switches.values():
            above.addWidget(button)
        above.addStretch(1)
        above.addWidget(self.parent_note)
        layout.addWidget(self.loss_plot)
        layout.addLayout(above)
        layout.addWidget(self.score_plot)
        layout.addLayout(self._legend)

    def show_run(self, run: Training, levels: Sequence[Level]) -> None:
        """Draw this run from now on."""
        self._run = run
        if tuple(levels) != self._levels:
            self._levels = tuple(levels)
            self._make_curves()
        self.draw()

    def draw_soon(self) -> None:
        """The run has more to show."""
        if not self._timer.isActive():
            self._timer.start()

    def draw(self) -> None:
        """Show all that the run has told by now."""
        run = self._run
        self.batches.setData(*_columns(run.batches))
        self.losses.setData(*_columns(run.losses))
        self.parent_note.setVisible(run.before is not None)
        self.part_note.setText("Held-out part:" if run.scored else "No epoch is scored; the lowest loss is kept.")
        for shown in (self.score_plot, *self._switches.values()):
            shown.setVisible(run.scored)
        self.loss_plot.getAxis("bottom").setStyle(showValues=not run.scored)
        for level, curve in self.scores.items():
            name = level_name(level) if level != ENSEMBLE else ENSEMBLE
            known = [(epoch, values[name][self.measure]) for epoch, values in run.scores if name in values]
            curve.setData(*_columns(known))
            shown = self.names[level].isChecked()
            curve.setVisible(shown)
            parent = self.parents[level]
            before = (run.before or {}).get(name)
            parent.setVisible(shown and before is not None)
            if before is not None:
                parent.setValue(before[self.measure])
        self.score_plot.setLabel("left", MEASURES[self.measure])
        self._set_ranges()

    def _set_ranges(self) -> None:
        """Epochs from 0 to a little past the last; scores so that every curve and every parent's line is seen."""
        run = self._run
        last = max([x for x, _ in run.batches[-1:]] + [float(e) for e, _ in run.scores[-1:]] + [run.first + 1.0])
        self.loss_plot.setXRange(run.first, last, padding=0.03)
        tables = [values for _, values in run.scores] + ([run.before] if run.before else [])
        wanted = [level_name(x) if x != ENSEMBLE else ENSEMBLE for x in self.scores if self.names[x].isChecked()]
        values = [table[name][self.measure] for table in tables for name in wanted if name in table]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        room = max(0.02, 0.08 * (high - low))  # one epoch alone has no extent
        self.score_plot.setYRange(low - room, high + room, padding=0)

    def _make_curves(self) -> None:
        for item in (*self.scores.values(), *self.parents.values()):
            self.score_plot.removeItem(item)
        while (item := self._legend.takeAt(0)) is not None:
            if item.widget() is not None:
                item.widget().deleteLater()
        self.scores, self.parents, self.names = {}, {}, {}
        for level in self._levels:
            color = QColor(LEVEL_COLORS.get(level, "#888888"))
            self.scores[level] = self.score_plot.plot(
                pen=pg.mkPen(color, width=2), symbol="o", symbolSize=4, symbolBrush=color, symbolPen=None
            )
            dashed = pg.mkPen(color, width=1, style=Qt.PenStyle.DashLine)
            self.parents[level] = pg.InfiniteLine(angle=0, pen=dashed)
            self.score_plot.addItem(self.parents[level], ignoreBounds=True)
            name = _switch(level_name(level))
            name.setIcon(_line(color))
            name.setIconSize(QSize(14, 10))
            name.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
            name.setToolTip(f"Show or hide the curve of {level_name(level)}.")
            name.setChecked(True)
            name.toggled.connect(self._on_name)
            self.names[level] = name
            self._legend.addWidget(name)
        self._legend.addStretch(1)

    def _on_name(self, _checked: bool) -> None:
        self.draw()

    def _on_measure(self) -> None:
        self.measure = self.sender().property("measure")
        for key, button in self._switches.items():
            button.setChecked(key == self.measure)
        self.draw()
        self.measured.emit()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() in _RESTYLED and hasattr(self, "_timer"):
            self._color()

    def showEvent(self, event: Any) -> None:
        super().showEvent(event)
        self._color()  # only now is the style sheet of the window applied

    def _color(self) -> None:
        text = self.palette().color(QPalette.ColorRole.WindowText)
        faint = QColor(text)
        faint.setAlpha(90)
        for plot in (self.loss_plot, self.score_plot):
            for side in ("left", "bottom"):
                plot.getAxis(side).setPen(faint)
                plot.getAxis(side).setTextPen(text)
        self.batches.setPen(pg.mkPen(faint, width=1))
        self.losses.setPen(pg.mkPen(text, width=2))


def _plot(label: str, height: int) -> Any:
    """A plot without a background, a menu or a reaction to the mouse: the wheel scrolls the dock."""
    plot = pg.PlotWidget(background=None)
    plot.setFixedHeight(height)
    plot.setFrameShape(plot.Shape.NoFrame)
    plot.setStyleSheet("background: transparent;")  # napari's style sheet gives one to all views
    plot.getPlotItem().setMouseEnabled(x=False, y=False)
    plot.getPlotItem().setMenuEnabled(False)
    plot.getPlotItem().hideButtons()
    plot.showGrid(x=False, y=True, alpha=0.2)
    plot.setLabel("left", label)
    plot.getAxis("left").setWidth(AXIS_WIDTH)
    for side in ("left", "bottom"):
        plot.getAxis(side).enableAutoSIPrefix(False)
        plot.getAxis(side).setStyle(maxTickLevel=0)
    plot.getPlotItem().setContentsMargins(0, 4, 8, 0)
    return plot


def _columns(points: Sequence[tuple[float, float]]) -> tuple[Any, Any]:
    """X and y of points."""
    table = np.array(points, float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _switch(text: str) -> QToolButton:
    button = QToolButton()
    button.setText(text)
    button.setCheckable(True)
    button.setAutoRaise(True)
    button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    button.toggled.connect(partial(_embolden, button))
    return button


def _embolden(button: QToolButton, checked: bool) -> None:
    """Say in bold what is on; napari's style sheet draws checked and unchecked alike."""
    font = button.font()
    font.setBold(checked)
    button.setFont(font)


def _line(color: QColor) -> QIcon:
    pixmap = QPixmap(28, 20)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setPen(QPen(color, 5))
    painter.drawLine(2, 10, 26, 10)
    painter.end()
    return QIcon(pixmap)
