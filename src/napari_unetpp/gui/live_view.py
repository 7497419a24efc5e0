"""The live preview in the window: follows what is on the screen, and shows what `live.look` answers.

Decides, in this order: what is followed (`LiveView.watch`), when a view is looked at anew (after the
last movement, so that scrolling through ten slices asks for one), how the one job goes, and what
becomes of its answers. What there is to look at is in `live_subject.py`, how answers are drawn in `live_layer.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal

from napari_unetpp.gui.comparison import HeadComparison, Level
from napari_unetpp.gui.image_layer import stack_from_layer
from napari_unetpp.gui.jobs import Job, JobError, start_job
from napari_unetpp.gui.live import LiveSession, Looked, look
from napari_unetpp.gui.live_layer import LiveLayer
from napari_unetpp.gui.live_subject import Subject, turned, view_of
from napari_unetpp.gui.status import report
from napari_unetpp.gui.versions import camera_of

if TYPE_CHECKING:
    from napari import Viewer

    from napari_unetpp.box import Box
    from napari_unetpp.inference.store import PredictionStore

SETTLE_MS = 60  # of rest before a view is looked at: less than one notices, more than a wheel's clicks are apart


class LiveView(QObject):
    """Predicts what is on the screen wherever nothing is stored.

    Attributes
    ----------
    layer : LiveLayer
    reached : int or "ensemble" or None
        Level that all of the preview shows by now.
    steady : bool
        Under another model of the same classes, go on to show what the last one said until the new one has said it.
    """

    busy = Signal()  # again and again while it computes: others should leave it a core
    progressed = Signal(object)  # the level that all of the preview shows by now, or None where there is none
    told = Signal(str)  # why there is no preview, in a line; empty where nothing is wrong
    ranged = Signal(str)  # the range of intensities that is used, in words
    removed = Signal()  # the user has removed the preview

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.layer = LiveLayer(viewer)
        self.reached: Level | None = None
        self.steady = False
        self._enabled, self._suspended = True, False
        self._subject = Subject()
        self._across = ""  # the axes on the screen, where there is no preview across them
        self._comparison: HeadComparison | None = None
        self._session: LiveSession | None = None
        self._job: Job | None = None
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.timeout.connect(self._look)
        for moved in (viewer.dims.events.point, viewer.dims.events.order, camera_of(viewer).events):
            moved.connect(self._on_moved)
        viewer.dims.events.ndisplay.connect(self._on_ndisplay)
        if hasattr(viewer, "canvas"):  # since napari 0.9
            viewer.canvas.events.size.connect(self._on_moved)
        viewer.layers.events.removed.connect(self._on_layer_removed)

    # What is followed

    def watch(self, subject: Subject, comparison: HeadComparison | None, store: PredictionStore | None) -> None:
        """Follow this image under this model from now on; where something of it is missing, nothing.

        Parameters
        ----------
        comparison
            What the slider moves.
        store
            What a run has predicted of the same image with the same model, if one has.
        """
        self._follow_comparison(comparison)
        before, self._subject = self._subject, subject
        if before.image is not subject.image:
            if before.image is not None:
                before.image.events.data.disconnect(self._on_data)
                before.image.events.set_data.disconnect(self._on_drawn)
            if subject.image is not None:
                subject.image.events.data.connect(self._on_data)
                subject.image.events.set_data.connect(self._on_drawn)
        if not subject.complete or comparison is None:
            self._stop()
            self._session = None
            self._hide()
            self.told.emit(f"No live preview: {subject.open_choice}" if subject.open_choice and self._enabled else "")
        elif self._session is None or replace(before, level=0) != replace(subject, level=0):
            self._begin(stay=self.steady and before.image is subject.image)
        if self._session is not None:
            self._session.store = store
            self._session.wanted = None  # what is stored may have changed
        self._on_moved()

    def _begin(self, *, stay: bool) -> None:
        """Forget what was answered, and unless it may stay what is shown: it is of another image or model."""
        image, model = self._subject.image, self._subject.model
        assert image is not None
        assert model is not None
        assert model.header is not None
        self._stop()
        self._session = LiveSession(
            stack_from_layer(image, self._subject.axes, self._subject.channel),
            model.path,
            self._subject.device,
            intensity=self._subject.intensity,
        )
        self.layer.begin(model.header.card.classes[: model.header.spec.classes], stay=stay)
        self.told.emit("")

    def _on_data(self, _event: object = None) -> None:
        """The image holds other voxels now."""
        store = self._session.store if self._session is not None else None
        self._session = None
        try:
            self.watch(self._subject, self._comparison, store)
        except ValueError as error:  # of another number of axes
            self.told.emit(f"No live preview: {error}")

    def _on_drawn(self, _event: object = None) -> None:
        """The image was drawn anew, as after a change in place: the same view may hold other voxels."""
        if self._session is not None:
            self._session.wanted = None
        self._on_moved()

    def _follow_comparison(self, comparison: HeadComparison | None) -> None:
        if self._comparison is comparison:
            return
        for event in self._events():
            event.disconnect(self._on_level, missing_ok=True)
        if self._comparison is not None:
            self._comparison.events.contour.disconnect(self.layer.set_contour, missing_ok=True)
        self._comparison = comparison
        for event in self._events():
            event.connect(self._on_level)
        if comparison is not None:
            comparison.events.contour.connect(self.layer.set_contour)
            self.layer.set_contour(comparison.contour)

    def _events(self) -> list[Any]:
        """What of the comparison changes what is predicted, or whether it is."""
        if self._comparison is None:
            return []
        events = self._comparison.events
        return [events.level, events.visible, events.threshold, events.grid]

    def set_enabled(self, enabled: bool) -> None:
        """Off: nothing is computed, and the preview is gone."""
        self._enabled = enabled
        if enabled:
            self._on_moved()
        else:
            self._stop()
            self.layer.remove()
            self._hide()
            self.told.emit("")

    def suspend(self) -> None:
        """The dock is gone: whatever moves, nothing happens until `resume`."""
        self._suspended = True
        self._stop()

    def resume(self) -> None:
        """The dock is there again."""
        if self._suspended:
            self._suspended = False
            self._on_moved()

    def _stop(self) -> None:
        """Compute nothing any more until something moves."""
        self._settle.stop()
        if self._session is not None:
            self._session.wanted = None
        if self._job is not None:
            self._job.cancel()

    @property
    def computing(self) -> bool:
        """Whether something is still to come."""
        return self._job is not None or self._settle.isActive()

    # When a view is looked at

    def _on_moved(self, _event: object = None) -> None:
        if self._enabled and not self._suspended:
            self._settle.start(SETTLE_MS)

    def _on_ndisplay(self, _event: object = None) -> None:
        if self.viewer.dims.ndisplay == 3 and not self._suspended:
            self._hide()  # at once: a volume of nothing would be drawn
        self._on_moved()

    def _on_level(self, _value: object = None) -> None:
        if self._enabled and not self._suspended:
            self._settle.start(0)

    def _look(self) -> None:
        session, comparison, subject = self._session, self._comparison, self._subject
        view = view_of(self.viewer, subject, comparison) if session is not None and comparison is not None else None
        across = turned(self.viewer, subject) if session is not None else ""
        if across or self._across:
            self._across = across
            self.told.emit(
                f"No live preview of {across}: the model sees y and x. Roll the axes back, or press Run to see it here."
                if across
                else ""
            )
        if session is None or view is None:
            self._hide()
        elif view.box.shape[-2:] == (1, 1):  # nothing was drawn yet, so that napari does not know what is on the screen
            self._on_moved()
        elif view != session.wanted:
            session.wanted = view
            if self._job is None:
                self._start(session)

    # The work

    def _start(self, session: LiveSession) -> None:
        self._job = start_job(
            look(session), self, yielded=self._on_event, failed=self._on_failed, finished=self._on_finished
        )

    def _on_event(self, event: object) -> None:
        self.busy.emit()
        if self._session is not None and self._session.words:
            self.ranged.emit(self._session.words)
        if isinstance(event, Looked) and self._session is not None and event.view is self._session.wanted:
            self._show(event)

    def _on_failed(self, error: JobError) -> None:
        self._session = None  # not again and again; another choice makes a new one
        self._hide()
        self.told.emit(f"No live preview: {error}")
        report(error)

    def _on_finished(self) -> None:
        session, self._job = self._session, None
        # what was wanted since the job looked for the last time
        if session is not None and session.wanted is not None and session.wanted is not session.served:
            self._start(session)

    # What it shows

    def _show(self, looked: Looked) -> None:
        assert self._session is not None
        if (image := self._subject.image_in(self.viewer)) is None:
            return
        self.reached = looked.reached
        self.layer.show(image, self._subject.axes, self._session.stack, looked)
        if looked.reached is not None:
            self.progressed.emit(None if looked.empty else looked.reached)  # all may be stored

    def forget(self, done: Box) -> None:
        """A run has stored this box: the preview leaves it to the layers of the run."""
        self.layer.clear(done)

    def _hide(self) -> None:
        if self._session is not None:
            self._session.wanted = None
        self.reached = None
        self.layer.hide()
        self.progressed.emit(None)

    def _on_layer_removed(self, event: Any) -> None:
        if self.layer.is_layer(event.value):
            self.layer.forget()
            if not self._suspended:  # who removes all layers has nothing against this one
                QTimer.singleShot(0, self._tell_removed)
        elif event.value is self._subject.image and not self._suspended:
            self._stop()
            self._session = None
            self.layer.remove()

    def _tell_removed(self) -> None:
        if self._subject.image_in(self.viewer) is not None:
            self.removed.emit()
