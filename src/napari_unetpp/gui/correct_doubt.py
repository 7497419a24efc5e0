"""The tour of the most doubtful regions of a prediction: ranked once, then one after the other on the screen.

Decides when they are ranked anew (another prediction, another method), which comes next (one that was reviewed meanwhile is
left out), and how the view gets there (`look_at`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_unetpp.box import Box
from napari_unetpp.gui.correct_work import rank
from napari_unetpp.gui.jobs import Job, JobError, start_job
from napari_unetpp.gui.versions import camera_of

if TYPE_CHECKING:
    from napari import Viewer

    from napari_unetpp.evaluation.doubt import Doubt
    from napari_unetpp.gui.correct_layer import OpenCorrections
    from napari_unetpp.inference.store import PredictionStore

AIR = 2.0  # a region and what is around it: so many times its edge on the screen
CANVAS = (800, 600)  # where napari (before 0.9) does not tell


class DoubtTour(QObject):
    """Where the tour is.

    Attributes
    ----------
    ranked : tuple of Doubt or None
        None before they are ranked.
    place : int
        Of the region on the screen; -1 before the first.
    percent : int or None
        How far the ranking is, while it is under way.
    """

    changed = Signal()
    arrived = Signal(object)  # the Doubt to look at
    failed = Signal(object)  # JobError

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.ranked: tuple[Doubt, ...] | None = None
        self.place = -1
        self.percent: int | None = None
        self.method = ""
        self._opened: OpenCorrections | None = None
        self._store: PredictionStore | None = None
        self._known: tuple[object, ...] = ()
        self._job: Job | None = None
        self._step = 0

    def follow(self, opened: OpenCorrections | None, store: PredictionStore | None, method: str) -> None:
        """Tour this prediction by this method; nothing happens where that is so already."""
        known = (opened, store.path if store else None, method, store.done_count if store else 0)
        self._opened, self._store = opened, store
        if known != self._known:
            self._known, self.method = known, method
            self.stop()
            self.ranked, self.place = None, -1
            self.changed.emit()

    def step(self, by: int) -> None:
        """Go to the next (1) or the previous (-1) region, once they are ranked."""
        if self._opened is None or self._store is None:
            return
        if self.ranked is not None:
            self._go(by)
        elif self._job is None:
            self._step = by
            self.percent = 0
            self._job = start_job(
                rank(self._store, self.method, self._opened.corrections.reviewed),
                self,
                yielded=self._on_percent,
                returned=self._on_ranked,
                failed=self._on_failed,
                finished=self._on_finished,
            )
            self.changed.emit()

    def stop(self) -> None:
        """Rank no more."""
        if self._job is not None:
            job, self._job, self.percent = self._job, None, None
            for signal, slot in (
                (job.yielded, self._on_percent),
                (job.returned, self._on_ranked),
                (job.failed, self._on_failed),
                (job.finished, self._on_finished),
            ):
                signal.disconnect(slot)
            job.cancel()

    @property
    def text(self) -> str:
        """Where it is, in words."""
        if self.percent is not None:
            return f"Ranking, {self.percent} % …"
        if self.ranked is None:
            return ""
        if not self.ranked:
            return "No doubtful region: nothing is predicted yet, or all is reviewed."
        if not 0 <= self.place < len(self.ranked):
            return f"{len(self.ranked)} regions are ranked."
        return f"{self.place + 1} of {len(self.ranked)}, {self.method} {self.ranked[self.place].score:.2f}"

    def _go(self, by: int) -> None:
        assert self.ranked is not None
        assert self._opened is not None
        reviewed, place = self._opened.corrections.reviewed, self.place + by
        while 0 <= place < len(self.ranked):
            doubt = self.ranked[place]
            if not any(doubt.box.inside(box) for box in reviewed):
                self.place = place
                self.arrived.emit(doubt)
                break
            place += by
        self.changed.emit()

    def _on_percent(self, percent: int) -> None:
        self.percent = percent
        self.changed.emit()

    def _on_ranked(self, ranked: tuple[Doubt, ...]) -> None:
        self.ranked, self.place, self.percent = ranked, -1, None
        self._go(max(self._step, 1))

    def _on_failed(self, error: JobError) -> None:
        self.failed.emit(error)

    def _on_finished(self) -> None:
        self._job, self.percent = None, None
        self.changed.emit()


def look_at(viewer: Viewer, opened: OpenCorrections, box: Box) -> None:
    """Bring a box, in prediction axes, to the middle of the screen: its slice, and its surroundings."""
    layer, offset = opened.layer, viewer.dims.ndim - opened.layer.ndim
    if viewer.dims.ndisplay != 2:
        viewer.dims.ndisplay = 2
    letters = opened.axes[: layer.ndim]
    spans = dict(zip(opened.corrections.axes, zip(box.start, box.stop, strict=True), strict=True))
    at = np.asarray(layer.world_to_data(viewer.dims.point[offset:]), float)  # the channel stays
    low, high = at.copy(), at.copy()
    for axis, letter in enumerate(letters):
        if letter in spans:
            start, stop = spans[letter]
            low[axis], high[axis] = start - 0.5, stop - 0.5
    first, last = (np.asarray(layer.data_to_world(corner), float) for corner in (low, high))
    middle = (first + last) / 2
    for axis in range(layer.ndim):
        if axis + offset not in viewer.dims.displayed:
            viewer.dims.set_point(axis + offset, middle[axis])
    shown = [axis - offset for axis in viewer.dims.displayed]
    camera = camera_of(viewer)
    camera.center = (0.0, *(float(middle[axis]) for axis in shown))
    canvas = getattr(getattr(viewer, "canvas", None), "size", CANVAS)
    edges = [abs(last[axis] - first[axis]) * AIR for axis in shown]
    camera.zoom = min(extent / edge for extent, edge in zip(canvas, edges, strict=True) if edge > 0)
