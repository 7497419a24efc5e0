"""The live preview in the window: follows what is on the screen, and shows what `live.look` answers.

Decides, in this order: what is followed (`LiveView.watch`), when a view is looked at anew (after the
last movement, so that scrolling through ten slices asks for one), how the one job goes, and what
becomes of its answers. How they are drawn is in `live_layer.py`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, QTimer, Signal

from napari_unetpp.gui.comparison import HeadComparison, Level
from napari_unetpp.gui.image_layer import stack_from_layer, visible_box
from napari_unetpp.gui.jobs import Job, JobError
from napari_unetpp.gui.live import LiveSession, Looked, View, look
from napari_unetpp.gui.live_layer import LiveLayer

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image

    from napari_unetpp.box import Box
    from napari_unetpp.gui.catalogue import ModelChoice
    from napari_unetpp.inference.store import PredictionStore

log = logging.getLogger(__name__)

SETTLE_MS = 60  # of rest before a view is looked at: less than one notices, more than a wheel's clicks are apart


class LiveView(QObject):
    """Predicts what is on the screen wherever nothing is stored.

    Attributes
    ----------
    layer : LiveLayer
    reached : int or "ensemble" or None
        Level that all of the preview shows by now.
    """

    busy = Signal()  # again and again while it computes: others should leave it a core
    progressed = Signal(object)  # the level that all of the preview shows by now, or None where there is none
    told = Signal(str)  # why there is no preview, in a line; empty where nothing is wrong
    removed = Signal()  # the user has removed the preview

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.layer = LiveLayer(viewer)
        self.reached: Level | None = None
        self._enabled, self._suspended = True, False
        self._image: Image | None = None
        self._axes = ""
        self._comparison: HeadComparison | None = None
        self._session: LiveSession | None = None
        self._watched: tuple[Any, ...] = ()
        self._job: Job | None = None
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.timeout.connect(self._look)
        camera = getattr(viewer, "scene", viewer).camera  # napari before 0.9 has no scene and no canvas
        for moved in (viewer.dims.events.point, viewer.dims.events.order, camera.events):
            moved.connect(self._on_moved)
        viewer.dims.events.ndisplay.connect(self._on_ndisplay)
        if hasattr(viewer, "canvas"):
            viewer.canvas.events.size.connect(self._on_moved)
        viewer.layers.events.removed.connect(self._on_layer_removed)

    # What is followed

    def watch(
        self,
        image: Image | None,
        axes: str,
        model: ModelChoice | None,
        device: str,
        comparison: HeadComparison | None,
        store: PredictionStore | None,
    ) -> None:
        """Follow this image under this model from now on; with None anywhere, nothing.

        Parameters
        ----------
        axes
            Of the image's data, checked.
        comparison
            What the slider moves.
        store
            What a run has predicted of the same image with the same model, if one has.
        """
        if self._comparison is not comparison:
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
        watched = (image, axes, model, device)
        if self._image is not image:
            for layer, connect in ((self._image, False), (image, True)):
                if layer is not None and connect:
                    layer.events.data.connect(self._on_data)
                elif layer is not None:
                    layer.events.data.disconnect(self._on_data)
        if image is None or model is None or model.header is None or comparison is None:
            self._stop()
            self._session = None
        elif self._session is None or watched != self._watched:
            self._stop()
            self._session = LiveSession(stack_from_layer(image, axes), model.path, device)
            self.layer.begin(model.header.card.classes[: model.header.spec.classes])
            self.told.emit("")
        if self._session is None:
            self._hide()
        else:
            self._session.store = store
            self._session.wanted = None  # what is stored may have changed
        self._image, self._axes, self._watched = image, axes, watched
        self._on_moved()

    def _on_data(self, _event: object = None) -> None:
        """The image holds other voxels now: what was answered is not of them."""
        image, axes, model, device = self._watched
        store = self._session.store if self._session is not None else None
        self._watched = ()
        try:
            self.watch(image, axes, model, device, self._comparison, store)
        except ValueError as error:  # of another number of axes
            self._session = None
            self.told.emit(f"No live preview: {error}")

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
            self._hide()
            self.layer.remove()
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
        session, comparison = self._session, self._comparison
        if session is None or comparison is None or not self._possible():
            self._hide()
            return
        box = visible_box(self.viewer, self._image, self._axes)
        if box.shape[-2:] == (1, 1):  # nothing was drawn yet, so that napari does not know what is on the screen
            self._on_moved()
            return
        view = View(box, comparison.level, comparison.heads, comparison.threshold)
        if view != session.wanted:
            session.wanted = view
            if self._job is None:
                self._start(session)

    def _possible(self) -> bool:
        """Whether the screen shows a plane of the image, and labels are wanted on it."""
        image, dims = self._image, self.viewer.dims
        if image is None or image not in self.viewer.layers or not self._comparison or not self._comparison.visible:
            return False
        offset = dims.ndim - image.ndim
        shown = {self._axes[axis - offset] for axis in dims.displayed if axis >= offset}
        grid = getattr(self.viewer, "canvas", self.viewer).grid  # where it would have a place of its own
        return dims.ndisplay == 2 and shown == {"y", "x"} and not grid.enabled

    # The work

    def _start(self, session: LiveSession) -> None:
        self._job = Job(look(session), self)
        self._job.yielded.connect(self._on_event)
        self._job.failed.connect(self._on_failed)
        self._job.finished.connect(self._on_finished)
        self._job.start()

    def _on_event(self, event: object) -> None:
        self.busy.emit()
        if isinstance(event, Looked) and self._session is not None and event.view is self._session.wanted:
            self._show(event)

    def _on_failed(self, error: JobError) -> None:
        self._session = None  # not again and again; another choice makes a new one
        self._hide()
        self.told.emit(f"No live preview: {error}")
        show_error(str(error))
        log.error("%s\n%s", error, error.details)

    def _on_finished(self) -> None:
        session, job = self._session, self._job
        self._job = None
        if job is not None:
            job.deleteLater()
        # what was wanted since the job looked for the last time
        if session is not None and session.wanted is not None and session.wanted is not session.served:
            self._start(session)

    # What it shows

    def _show(self, looked: Looked) -> None:
        assert self._session is not None
        if self._image is None or self._image not in self.viewer.layers:
            return
        self.reached = looked.reached
        self.layer.show(self._image, self._axes, self._session.stack, looked)
        if looked.reached is not None:
            self.progressed.emit(looked.reached if looked.labels.any() else None)  # all may be stored

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
        elif event.value is self._image and not self._suspended:
            self._stop()
            self._session, self._image = None, None
            self.layer.remove()

    def _tell_removed(self) -> None:
        if self._image is not None and self._image in self.viewer.layers:
            self.removed.emit()
