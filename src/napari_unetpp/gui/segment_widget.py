"""The Segment dock: choose, run, look.

Decides, in this order: what is offered and when a run is possible, how a run goes through the
states of `STATES`, how its layers fill in, and when it must stop because the dock is gone. The
work itself is `segmenting`, in a worker; here widgets are only bound and called.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from napari.layers import Image
from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, QObject, QSignalBlocker, QTimer

from napari_unetpp.gui.catalogue import Catalogue, look_around
from napari_unetpp.gui.comparison import HeadComparison
from napari_unetpp.gui.image_layer import slice_box, stack_from_layer, visible_box
from napari_unetpp.gui.jobs import Job, JobError
from napari_unetpp.gui.layers import LevelLayers, add_levels, predictions_in
from napari_unetpp.gui.level_slider import bind_level_keys
from napari_unetpp.gui.segment_form import SLICE, Choices
from napari_unetpp.gui.segment_panel import SegmentPanel, duration, speed
from napari_unetpp.gui.segmenting import Prepared, Request, segment
from napari_unetpp.inference.events import TileDone, Waiting
from napari_unetpp.inference.pace import Pace
from napari_unetpp.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    import napari.viewer
    from qtpy.QtGui import QCloseEvent, QShowEvent


log = logging.getLogger(__name__)

STATES = ("idle", "running", "cancelled", "done", "failed")
AIR_SECONDS = 0.4  # that a run keeps back after the last movement in the window
REFRESH_MS = 250  # layers that fill in are drawn at most so often


class SegmentWidget(SegmentPanel):
    """The dock.

    Attributes
    ----------
    state : str
        One of `STATES`.
    levels : LevelLayers or None
        The prediction that the slider moves.
    job : Job or None
        The run, while there is one.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.state = "idle"
        self.levels: LevelLayers | None = None
        self.job: Job | None = None
        self._chosen: Choices | None = None
        self._looking = True
        self._prepared: Prepared | None = None
        self._last: TileDone | None = None
        self._pace: Pace | None = None
        self._window: QObject | None = None
        self._refresh = QTimer(self)
        self._refresh.setSingleShot(True)
        self._refresh.setInterval(REFRESH_MS)
        self._refresh.timeout.connect(self._draw)
        self.form.changed.connect(self._on_form)
        self.run_button.clicked.connect(self.run)
        self.cancel_button.clicked.connect(self.cancel)
        self.show_labels.toggled.connect(self._on_show_labels)
        bind_level_keys(napari_viewer)
        camera = getattr(napari_viewer, "scene", napari_viewer).camera  # napari before 0.9 has no scene
        for used in (napari_viewer.dims.events.point, camera.events):
            used.connect(self._on_used)
        existing = predictions_in(napari_viewer)
        self.show_levels(existing[-1] if existing else None)
        self.reset_choices()
        self._enter("idle")
        look = Job(look_around(), self)
        look.yielded.connect(self._on_catalogue)
        look.failed.connect(self._on_failed)
        look.finished.connect(self._on_looked)
        look.start()

    def _on_used(self, _event: object = None) -> None:
        """Somebody scrolls, pans or zooms: leave a core to the window for a moment."""
        if self._pace is not None:
            self._pace.hold(AIR_SECONDS)

    # What is offered, and when a run is possible

    def reset_choices(self, _event: object = None) -> None:
        """Offer the image layers of the viewer; napari calls it when its layers change."""
        images = [layer for layer in self.viewer.layers if isinstance(layer, Image)]
        active = self.viewer.layers.selection.active
        preferred = active if active in images else (images[-1] if images else None)
        self.form.set_images(images, preferred)

    def _on_catalogue(self, catalogue: Catalogue) -> None:
        shown = self.levels.store.record.get("model") if self.levels is not None else None
        self.form.set_catalogue(catalogue, preferred=shown or DEFAULT_MODEL)

    def _on_looked(self) -> None:
        self._looking = False
        if self.state == "idle":
            self._enter("idle")

    def _on_form(self) -> None:
        """Any choice has changed: what the last run said no longer holds."""
        if self.state != "running":
            self._enter("idle")

    def _enter(self, state: str, text: str = "") -> None:
        self.state = state
        running = state == "running"
        problem = "Looking for models …" if self._looking else self.form.problem()
        self.form.setEnabled(not running)
        self.run_button.setEnabled(not running and not problem)
        self.run_button.setToolTip(problem or "Segment the image.")
        self.cancel_button.setEnabled(running)
        self.bar.setVisible(state != "idle")
        self.say(text or problem or "Ready.", error=state == "failed")

    # A run

    def run(self) -> None:
        """Start with what the form says; nothing happens while a run is under way."""
        if self.job is not None:
            return
        try:
            chosen = self.form.choices()
            request = self._request(chosen)
        except ValueError as error:
            self._on_failed(JobError(error))
            return
        self._chosen, self._prepared, self._last = chosen, None, None
        self.show_progress(0, 0)
        self._enter("running", "Loading the model …")
        self.job = Job(segment(request), self)
        self.job.yielded.connect(self._on_event)
        self.job.returned.connect(self._on_returned)
        self.job.cancelled.connect(self._on_cancelled)
        self.job.failed.connect(self._on_failed)
        self.job.finished.connect(self._on_finished)
        self._pace = request.pace
        self.job.start()

    def cancel(self) -> None:
        """Stop after the tile in work; what is done stays."""
        if self.job is not None:
            self.job.cancel()
            self.cancel_button.setEnabled(False)
            self.say("Stopping after this tile …")

    def _request(self, chosen: Choices) -> Request:
        image, axes = chosen.image, chosen.axes
        only_slice = chosen.region == SLICE
        return Request(
            stack=stack_from_layer(image, axes),
            model=chosen.model.path,
            level=chosen.level,
            tiling=chosen.tiling,
            device=chosen.device,
            fast=chosen.fast,
            visible=visible_box(self.viewer, image, axes),
            region=slice_box(self.viewer, image, axes) if only_slice else None,
            folder=chosen.folder,
        )

    def _on_event(self, event: Prepared | TileDone | Waiting) -> None:
        if isinstance(event, Prepared):
            self._prepared = event
            self._show_prepared(event)
            self.show_progress(event.done, event.total)
        elif isinstance(event, TileDone):
            self._last = event
            self.show_progress(event.done, event.total, self._seconds_left())
            if not self._refresh.isActive():
                self._refresh.start()
        else:  # it only wants to be asked whether to go on
            return
        if self.cancel_button.isEnabled():
            self.say(f"Segmenting: {event.done} of {event.total} tiles{self._note()}")

    def _seconds_left(self) -> float | None:
        if self._last is None or self._prepared is None:
            return None
        since = self._last.done - self._prepared.done
        return self._last.seconds / since * (self._last.total - self._last.done) if since else None

    def _on_returned(self, _value: object) -> None:
        self._draw()
        self.show_progress(1, 1)
        done = "Nothing left to do, all was there already."
        if self._last is not None:
            seconds = max(self._last.seconds, 1e-6)
            done = f"Done in {duration(seconds)}, {speed(self._last.voxels / seconds)}."
        if self._prepared is not None and self._chosen is not None and self._chosen.folder:
            done += f" Predictions are in {self._prepared.store.path}"
        self._enter("done", done + self._note())

    def _note(self) -> str:
        """What came otherwise than usual: another precision, a device without memory."""
        note = self._prepared.note() if self._prepared else ""
        return f"\n{note[:1].upper()}{note[1:]}." if note else ""

    def _on_cancelled(self) -> None:
        self._draw()
        self._stop_bar()
        run = self._prepared
        where = f" after {run.safe()} of {run.total} tiles" if run else ""
        self._enter("cancelled", f"Cancelled{where}. Run goes on from there.")

    def _on_failed(self, error: JobError) -> None:
        self._draw()
        self._stop_bar()
        self._enter("failed", str(error))
        show_error(str(error))
        log.error("%s\n%s", error, error.details)  # the whole story, for the console

    def _stop_bar(self) -> None:
        """Leave the bar where the run stopped, without a time that never comes."""
        reached = self._last or self._prepared
        self.show_progress(reached.done if reached else 0, reached.total if reached else 1)

    def _on_finished(self) -> None:
        if self.job is not None:
            self.job.deleteLater()
            self.job = None

    # Its layers

    def _show_prepared(self, event: Prepared) -> None:
        """The layers of the run's store: those that show it already, or new ones."""
        for levels in predictions_in(self.viewer):
            if levels.store.path == event.store.path:
                present = set(self.viewer.layers)
                if all(layer in present for layer in levels.layers.values()):
                    levels.comparison.visible = True
                    self.show_levels(levels)
                    return
        if self._chosen is None:
            return
        heads, enough = event.store.levels, event.card.recommended_level
        comparison = HeadComparison.of_heads(heads, enough if enough in heads else None)
        image, axes = self._chosen.image, self._chosen.axes
        self.show_levels(add_levels(self.viewer, image, axes, event.store, comparison))

    def show_levels(self, levels: LevelLayers | None) -> None:
        """Attach slider and check box to a prediction."""
        if self.levels is not None:
            self.levels.comparison.events.visible.disconnect(self._on_visible, missing_ok=True)
        self.levels = levels
        self.slider.bind(levels.comparison if levels else None)
        self.show_labels.setEnabled(levels is not None)
        self._on_visible(levels.comparison.visible if levels else True)
        if levels is not None:
            levels.comparison.events.visible.connect(self._on_visible)

    def _on_visible(self, visible: bool) -> None:
        with QSignalBlocker(self.show_labels):
            self.show_labels.setChecked(visible)

    def _on_show_labels(self, checked: bool) -> None:
        if self.levels is not None:
            self.levels.comparison.visible = checked

    def _draw(self) -> None:
        if self.levels is not None:
            self.levels.refresh()

    # The end of the dock

    def stop(self) -> None:
        """Cancel without a word: nobody is there to read it, and no layer may be added any more."""
        if self.job is not None:
            self.job.yielded.disconnect(self._on_event)
            self.job.cancel()

    def event(self, event: QEvent) -> bool:
        # napari takes a dock's widget out of the dock when it is closed, and deletes it never
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.stop()
        return super().event(event)

    def closeEvent(self, event: QCloseEvent) -> None:
        self.stop()
        super().closeEvent(event)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        window: QObject = self
        while window.parent() is not None:  # a floating dock is a window of its own
            window = window.parent()
        if window is not self and window is not self._window:
            self._window = window
            window.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        hidden = event.type() == QEvent.Type.Hide and not event.spontaneous()
        if watched is self._window and hidden:  # closed; minimised would be spontaneous
            self.stop()
        return super().eventFilter(watched, event)
