"""When the tiles of a prediction are counted: those that are done, and again those that somebody painted on.

Decides, in this order: what is looked at (`Counting.look_at`, `Counting.compare_with`), how turns of counting follow each other,
and what an edit of the reference means for them.

Counting goes in turns of a second. A prediction that is not complete is looked at again and again, more and more seldom while
nothing comes. What has changed meanwhile abandons the turn: what it would still tell is of the past.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal

from napari_unetpp.gui.compare_reference import reference_from_layer, touched_tiles
from napari_unetpp.gui.compare_work import Asked, Counted, Opened, Turn, count
from napari_unetpp.gui.jobs import Job, JobError, start_job

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Labels

    from napari_unetpp.evaluation.agreement import Reference, Tally
    from napari_unetpp.evaluation.levels import Unpainted
    from napari_unetpp.gui.layers import LevelLayers
    from napari_unetpp.inference.tiles import Tiles

SOON_MS, LATE_MS = 500, 4000  # between two looks at a prediction in the making: at first, and when nothing comes
EDIT_MS = 500  # after the last stroke in the reference


class Counting(QObject):
    """The counts of one prediction, kept up to date while somebody looks at them.

    Attributes
    ----------
    agreement, score : Tally or None
        Against the deepest level, and against the reference where there is one.
    last : Turn
        How many tiles are on the disk, of how many, and how many of them are still to be counted.
    highest : int
        The highest label that was found in the reference.
    """

    changed = Signal()
    failed = Signal(object)  # JobError

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.levels: LevelLayers | None = None
        self.layer: Labels | None = None
        self.agreement: Tally | None = None
        self.score: Tally | None = None
        self.last = Turn(0, 0, 0)
        self.highest = 0
        self._unpainted: Unpainted = "background"
        self._reference: Reference | None = None
        self._tiles: Tiles | None = None
        self._job: Job | None = None
        self._found = False
        self._seen: tuple[Any, ...] = ()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SOON_MS)
        self._timer.timeout.connect(self._start)

    # What is looked at

    def look_at(self, levels: LevelLayers | None) -> None:
        """Count the tiles of this prediction from now on, and of no other; None stops."""
        if self.levels is not None:
            self.levels.comparison.events.threshold.disconnect(self._anew, missing_ok=True)
        self._forget_layer()
        self.levels = levels
        if levels is not None and len(levels.store.classes) == 1:  # several classes need no threshold
            levels.comparison.events.threshold.connect(self._anew)
        self._anew()

    def compare_with(self, layer: Labels | None, unpainted: Unpainted = "background") -> None:
        """Score against this layer from now on, from the beginning; None is no reference."""
        self._forget_layer()
        self._unpainted = unpainted
        if layer is not None and self.levels is not None:
            try:
                self._reference = reference_from_layer(layer, self.levels, unpainted)
            except ValueError as error:
                self.failed.emit(JobError(error))
            else:
                self.layer, self._seen = layer, self._view(layer)
                layer.events.paint.connect(self._on_paint)
                layer.events.set_data.connect(self._on_drawn)
                layer.events.data.connect(self._on_data)
                layer.events.visible.connect(self._on_visible)
        self._abandon()
        self.changed.emit()
        self._start()

    def beyond(self) -> str:
        """A line about labels of the reference that are no class of the prediction; empty where there are none."""
        if self.levels is None or self.layer is None or len(self.levels.store.classes) == 1:
            return ""
        last = len(self.levels.store.classes) - 1
        if self.highest - (self._unpainted == "ignore") <= last:
            return ""
        return (
            f"{self.layer.name} holds label {self.highest}, but the prediction has only the classes 0 to {last}; such labels count "
            "as none of its classes. Give gray values the numbers 0, 1, 2 first."
        )

    def resume(self) -> None:
        """Look again, after the dock was out of sight."""
        if self._job is None:
            self._start()

    def _forget_layer(self) -> None:
        if self.layer is not None:
            self.layer.events.paint.disconnect(self._on_paint)
            self.layer.events.set_data.disconnect(self._on_drawn)
            self.layer.events.data.disconnect(self._on_data)
            self.layer.events.visible.disconnect(self._on_visible)
        self.layer = self._reference = self.score = None
        self.highest = 0

    def _anew(self, _threshold: object = None) -> None:
        """Forget all counts."""
        self._abandon()
        self.agreement = self.score = self._tiles = None
        self.last = Turn(0, 0, 0)
        self.changed.emit()
        # A threshold is dragged: what it passes on its way is of no interest.
        self._timer.start(EDIT_MS if _threshold is not None else 0)

    # Turns

    def _start(self) -> None:
        parent = self.parent()
        if self.levels is None or self._job is not None or not parent.isVisible():
            return
        asked = Asked(
            self.levels.store.path,
            self.levels.comparison.threshold,
            self._reference,
            agreed=None if self.agreement is None else self.agreement.counted.copy(),
            scored=None if self.score is None else self.score.counted.copy(),
        )
        self._found = False
        self._job = start_job(
            count(asked),
            self,
            yielded=self._on_event,
            returned=self._on_turn,
            failed=self._on_failed,
            cancelled=self._on_cancelled,
        )

    def _abandon(self) -> None:
        """Hear no more of the turn under way."""
        self._timer.stop()
        if self._job is not None:
            self._job.yielded.disconnect(self._on_event)
            self._job.returned.disconnect(self._on_turn)
            self._job.failed.disconnect(self._on_failed)
            self._job.cancelled.disconnect(self._on_cancelled)
            self._job.cancel()
            self._job = None

    def _on_event(self, event: Opened | Counted) -> None:
        if isinstance(event, Opened):
            self._on_opened(event)
            return
        if self.agreement is not None and event.agreement is not None:
            self.agreement.put(event.number, event.agreement)
        if self.score is not None and event.score is not None:
            self.score.put(event.number, event.score)
            self.highest = max(self.highest, event.highest)
        self._found = True
        self.changed.emit()

    def _on_opened(self, event: Opened) -> None:
        from napari_unetpp.evaluation.agreement import Tally  # the job has imported it by now

        self._tiles = event.tiles
        if self.agreement is None:
            self.agreement = Tally.of(event.store, event.tiles)
        if self.score is None and self._reference is not None:
            self.score = Tally.of(event.store, event.tiles)

    def _on_turn(self, turn: Turn) -> None:
        self._job = None
        self.last = turn
        self.changed.emit()
        if turn.left:
            self._timer.start(0)
        elif turn.done < turn.total or not turn.total:
            self._timer.start(SOON_MS if self._found else min(LATE_MS, max(SOON_MS, 2 * self._timer.interval())))

    def _on_cancelled(self) -> None:
        self._job = None  # napari cancels all workers when it ends

    def _on_failed(self, error: JobError) -> None:
        self._job = None
        self.failed.emit(error)

    # Edits of the reference

    def _on_paint(self, event: Any) -> None:
        if self.layer is not None and self.levels is not None and self._tiles is not None:
            self._outdate(touched_tiles(event.value, self.layer, self.levels, self._tiles))

    def _on_drawn(self, _event: object) -> None:
        """Undo, redo and a refresh after a script: nothing tells of those but that the layer is drawn anew."""
        if self.layer is None:
            return
        seen, self._seen = self._seen, self._view(self.layer)
        if seen == self._seen:  # else it was drawn because something else is to be seen
            self._outdate(slice(None))

    def _on_visible(self, _event: object) -> None:
        self._seen = ()

    def _on_data(self, _event: object) -> None:
        self.compare_with(self.layer, self._unpainted)

    def _outdate(self, numbers: Any) -> None:
        if self.score is not None:
            self._abandon()
            self.score.outdate(numbers)
            self._timer.start(EDIT_MS)

    def _view(self, layer: Labels) -> tuple[Any, ...]:
        dims = self.viewer.dims
        drawn = (layer.contour, layer.colormap, layer.iso_gradient_mode, layer.show_selected_label)
        return (dims.point, dims.displayed, drawn)
