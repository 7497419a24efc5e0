"""How the Segment dock looks: the form, Run and Cancel, progress, status line, level slider.

Builds and shows; `segment_widget` binds it.
"""

from __future__ import annotations

import re

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QFrame,
    QGroupBox,
    QHBoxLayout,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_unetpp.gui.fields import wrapping_label
from napari_unetpp.gui.level_slider import LevelSlider
from napari_unetpp.gui.segment_form import SegmentForm

ERROR_COLOR = "#e5484d"  # legible on napari's dark and on its light background
WIDTH = 320


class SegmentPanel(QWidget):
    """The widgets of the dock, laid out."""

    def __init__(self) -> None:
        super().__init__()
        self.form = SegmentForm()
        self.run_button = QPushButton("Run")
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop after the tile in work; Run goes on from there.")
        self.bar = QProgressBar()
        self.bar.setVisible(False)
        self.status = wrapping_label()
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.slider = LevelSlider()
        self.show_labels = QCheckBox("Show labels")
        self.show_labels.setToolTip("Off: the bare image.")
        self._lay_out()

    def _lay_out(self) -> None:
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(6, 8, 6, 6)
        layout.setSpacing(8)
        buttons = QHBoxLayout()
        buttons.setSpacing(6)
        buttons.addWidget(self.run_button, 1)
        buttons.addWidget(self.cancel_button, 1)
        level = QGroupBox("Level on the screen")
        inside = QVBoxLayout(level)
        inside.setContentsMargins(8, 6, 8, 8)
        inside.setSpacing(6)
        inside.addWidget(self.slider)
        inside.addWidget(self.show_labels)
        layout.addWidget(self.form)
        layout.addLayout(buttons)
        layout.addWidget(self.bar)
        layout.addWidget(self.status)
        layout.addWidget(level)
        layout.addStretch(1)
        # On a small screen the dock scrolls instead of squeezing its rows.
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(content)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addWidget(scroll)
        self.setMinimumWidth(WIDTH)

    def say(self, text: str, *, error: bool = False) -> None:
        """Put one line (which may wrap) into the status."""
        self.status.setText(breakable(text))
        self.status.setToolTip(text)
        self.status.setStyleSheet(f"color: {ERROR_COLOR};" if error else "")

    def show_progress(self, done: int, total: int, left_seconds: float | None = None) -> None:
        """Fill the bar; with `total` 0 it only moves, for work of unknown length."""
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        left = "" if left_seconds is None else f" · {duration(left_seconds)} left"
        self.bar.setFormat(f"%p %{left}")


def breakable(text: str, longest: int = 24) -> str:
    """The text with invisible places to break words that are too long for a line, such as paths."""
    zero_width_space = "\u200b"
    return re.sub(rf"(\S{{{longest}}})(?=\S)", rf"\1{zero_width_space}", text)


def duration(seconds: float) -> str:
    """A time as one reads it.

    Examples
    --------
    >>> duration(7.6), duration(75), duration(7320)
    ('8 s', '1 min 15 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def speed(voxels_per_second: float) -> str:
    """A speed as one reads it.

    Examples
    --------
    >>> speed(876), speed(10_234), speed(3.21e6)
    ('876 voxels/s', '10 kvoxel/s', '3.2 Mvoxel/s')
    """
    if voxels_per_second < 1e3:
        return f"{voxels_per_second:.0f} voxels/s"
    if voxels_per_second < 1e6:
        return f"{voxels_per_second / 1e3:.0f} kvoxel/s"
    return f"{voxels_per_second / 1e6:.1f} Mvoxel/s"
