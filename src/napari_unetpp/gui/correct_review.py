"""What was reviewed of the corrections on the screen: marked, unmarked, outlined and counted.

Decides what marking does. Where 0 is background it only remembers the box. Where 0 is "not annotated" it first paints what is
unpainted in the box as the model says, as one step that napari's undo takes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from qtpy.compat import isalive
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QGroupBox, QPushButton, QVBoxLayout

from napari_unetpp.gui.correct_counting import Counting
from napari_unetpp.gui.correct_keys import KEYS
from napari_unetpp.gui.correct_reviewed import Outlines
from napari_unetpp.gui.correct_seen import check_plane, seen_box
from napari_unetpp.gui.correct_work import Filled, fill
from napari_unetpp.gui.fields import note_label, wrapping_label
from napari_unetpp.gui.jobs import JobError, start_job

if TYPE_CHECKING:
    from napari import Viewer

    from napari_unetpp.box import Box
    from napari_unetpp.gui.correct_layer import OpenCorrections

WHAT_COUNTS = {
    "background": "Training counts only what is reviewed.",
    "ignore": "Training counts what is painted; marking paints the rest as the prediction says.",
}


class ReviewBox(QGroupBox):
    """The buttons and the count; emits `marked` when what is reviewed has changed, `told` with what did not work."""

    marked = Signal()
    told = Signal(str)
    failed = Signal(object)

    def __init__(self, viewer: Viewer) -> None:
        super().__init__("Reviewed")
        self.viewer = viewer
        self._opened: OpenCorrections | None = None
        self.counting = Counting(self)
        self.outlines = Outlines(viewer, self)
        self.counted = wrapping_label()
        self.note = note_label()
        self.mark_button = QPushButton()
        self.unmark_button = QPushButton(f"Unmark ({KEYS['unmark']})")
        self.draw_button = QPushButton(f"Draw rectangle ({KEYS['draw']})")
        self.draw_button.setCheckable(True)
        self._lay_out()
        self.mark_button.clicked.connect(self.mark_slice)
        self.unmark_button.clicked.connect(self.unmark_slice)
        self.draw_button.clicked.connect(self.draw)
        self.counting.changed.connect(self._show_counts)
        self.counting.failed.connect(self.failed)
        self.outlines.changed.connect(self._on_drawing)
        self.outlines.drawn.connect(self.mark)
        self.outlines.beside.connect(self.told)

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 6, 8)
        layout.setSpacing(6)
        buttons = QGridLayout()
        buttons.setSpacing(6)
        buttons.addWidget(self.mark_button, 0, 0)
        buttons.addWidget(self.unmark_button, 0, 1)
        buttons.addWidget(self.draw_button, 1, 0, 1, 2)
        layout.addWidget(self.counted)
        layout.addLayout(buttons)
        layout.addWidget(self.note)

    def follow(self, opened: OpenCorrections | None) -> None:
        """Be about these."""
        changed, self._opened = opened is not self._opened, opened
        self.counting.follow(opened)
        self.outlines.follow(opened)
        if opened is not None and changed:
            what = "image" if len(opened.corrections.shape) == 2 else "slice"
            self.mark_button.setText(f"Mark {what} ({KEYS['mark']})")
            self.mark_button.setToolTip(
                f"All labels of the {what} on the screen are as they should be, also in a turned view."
            )
            self.unmark_button.setToolTip(f"Nothing of the {what} is reviewed any more; its labels stay.")
            self.draw_button.setToolTip("Drag a rectangle over the image: its labels are as they should be.")
            self.note.setText(WHAT_COUNTS[opened.corrections.unpainted])
            self.note.setVisible(True)
        self._show_counts()

    # Marking

    def mark_slice(self) -> None:
        """The slice on the screen is reviewed."""
        if (box := self._slice()) is not None:
            self.mark(box)

    def unmark_slice(self) -> None:
        """Nothing of the slice on the screen is reviewed any more."""
        if self._opened is not None and (box := self._slice()) is not None:
            self._change(self._opened.corrections.unmark, box)

    def draw(self) -> None:
        """Draw a rectangle that is reviewed, or give up drawing one."""
        image = self._opened.image_layer if self._opened is not None else None
        try:
            if self._opened is not None and image is not None and self.outlines.drawing is None:
                check_plane(self.viewer, image, self._opened.axes)
            self.outlines.draw()
        except ValueError as error:
            self.told.emit(str(error))
        self._on_drawing()

    def mark(self, box: Box) -> None:
        """A box, in prediction axes, is reviewed."""
        if self._opened is None:
            return
        if self._opened.corrections.unpainted == "ignore":
            start_job(fill(self._opened.corrections, box), self, yielded=self._on_filled, failed=self.failed)
        else:
            self._change(self._opened.corrections.mark, box)

    def _slice(self) -> Box | None:
        image = self._opened.image_layer if self._opened is not None else None
        if self._opened is None or image is None:
            self.told.emit("The image of these corrections was removed; open it again to mark what is reviewed.")
            return None
        try:
            return seen_box(self.viewer, image, self._opened.axes)
        except ValueError as error:
            self.told.emit(str(error))
            return None

    def _change(self, how: Callable[[Box], None], box: Box) -> None:
        try:
            how(box)
        except (OSError, ValueError) as error:
            self.failed.emit(JobError(error))
            return
        self.outlines.update()
        self._show_counts()
        self.marked.emit()

    def _on_filled(self, filled: Filled) -> None:
        opened = self._opened
        if opened is None or opened.corrections is not filled.of or not opened.saves:
            return
        layer, corrections = opened.layer, opened.corrections
        at = np.round(layer.world_to_data(self.viewer.dims.point[self.viewer.dims.ndim - layer.ndim :])).astype(int)
        places = dict(zip(corrections.axes, filled.places, strict=True))
        channel = int(at[opened.axes.index("c")]) if "c" in opened.axes[: layer.ndim] else 0
        missing = np.full(len(filled.values), channel)
        index = tuple(places.get(axis, missing) for axis in opened.axes[: layer.ndim])
        if len(filled.values):
            free = layer.data[index] == 0  # somebody may have painted since they were looked up
            layer.data_setitem(tuple(part[free] for part in index), filled.values[free])
            layer.refresh(extent=False)
        self._change(corrections.mark, filled.box)

    # What is shown

    def _on_drawing(self) -> None:
        self.draw_button.setChecked(self.outlines.drawing is not None)

    def _show_counts(self) -> None:
        if not isalive(self) or self._opened is None:
            return
        corrections = self._opened.corrections
        planar, plane = len(corrections.shape) == 2, corrections.shape[-2:]
        whole = [box for box in corrections.reviewed if box.shape[-2:] == plane]
        slices = sum(math.prod(box.shape[:-2]) for box in whole)
        rectangles = len(corrections.reviewed) - len(whole)
        reviewed = [_number(rectangles, "rectangle")] if rectangles else []
        if slices or not rectangles:
            reviewed.insert(0, _number(slices, "image" if planar else "slice"))
        painted = (
            f"{_number(self.counting.painted, 'voxel')} painted" if self.counting.complete else "counting voxels …"
        )
        self.counted.setText(f"{' and '.join(reviewed)} reviewed, {painted}")

    def stop(self) -> None:
        """Leave the viewer, and count no more."""
        self._opened = None
        self.counting.follow(None)
        self.outlines.follow(None)


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
