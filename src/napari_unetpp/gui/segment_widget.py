"""The Segment dock: choose, run, look.

Decides, in this order: what is offered and when a run is possible, how a run goes through the
states of `STATES`, and how its layers fill in. The work itself is `segmenting`, in a worker; what is
on the screen is the business of `level_box`. Here widgets are only bound and called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image, Shapes
from qtpy.compat import isalive
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_unetpp.box import Box
from napari_unetpp.gui.catalogue import Catalogue, look_around
from napari_unetpp.gui.command import describe_command
from napari_unetpp.gui.comparison import HeadComparison
from napari_unetpp.gui.jobs import Job, JobError, start_job
from napari_unetpp.gui.layers import LevelLayers, add_levels, predictions_in
from napari_unetpp.gui.preferences import preferences
from napari_unetpp.gui.progress import RunProgress
from napari_unetpp.gui.segment_form import Choices
from napari_unetpp.gui.segment_panel import SegmentPanel, show_details
from napari_unetpp.gui.segment_requests import command_request, run_request, subject_of
from napari_unetpp.gui.segmenting import Prepared, segment
from napari_unetpp.gui.shared import shared
from napari_unetpp.gui.status import report
from napari_unetpp.gui.versions import camera_of, unwrapped
from napari_unetpp.inference.events import Checking, PlaneDone, TileDone, Waiting
from napari_unetpp.inference.folders import GoneError
from napari_unetpp.inference.pace import Pace
from napari_unetpp.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    import napari.viewer
    from qtpy.QtGui import QShowEvent

STATES = ("idle", "running", "paused", "cancelled", "done", "failed")
AIR_SECONDS = 0.4  # that a run keeps back after the last movement in the window
REFRESH_MS = 250  # layers that fill in are drawn at most so often


class SegmentWidget(SegmentPanel):
    """The dock.

    Attributes
    ----------
    state : str
        One of `STATES`.
    job : Job or None
        The run, while there is one.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        napari_viewer = unwrapped(napari_viewer)
        self._preferred = preferences()
        super().__init__(napari_viewer, self._preferred)
        self.viewer = napari_viewer
        self.state = "idle"
        self.job: Job | None = None
        self._chosen: Choices | None = None
        self._looking = True
        self._progress = RunProgress()
        self._fresh: list[Box] = []  # stored since the layers were drawn for the last time
        self._pace: Pace | None = None
        self._error: JobError | None = None
        self._refresh = QTimer(self)
        self._refresh.setSingleShot(True)
        self._refresh.setInterval(REFRESH_MS)
        self._refresh.timeout.connect(self._draw)
        self.form.changed.connect(self._on_form)
        self.run_button.clicked.connect(self.run)
        self.pause_button.clicked.connect(self.pause)
        self.cancel_button.clicked.connect(self.cancel)
        self.copy_button.clicked.connect(self.copy_command)
        self.details_button.clicked.connect(self._on_details)
        self.elsewhere_button.clicked.connect(self._run_elsewhere)
        self.level_box.live_view.busy.connect(self._on_used)
        self.level_box.live_view.ranged.connect(self.form.intensity.say)
        for used in (napari_viewer.dims.events.point, camera_of(napari_viewer).events):
            used.connect(self._on_used)
        self.reset_choices()
        self._look_around()
        self._enter("idle")

    @property
    def levels(self) -> LevelLayers | None:
        """The prediction that the slider moves."""
        return self.level_box.levels

    def _on_used(self, _event: object = None) -> None:
        """Somebody scrolls, pans or zooms, or looks at a preview: leave a core to the window for a moment."""
        if self._pace is not None:
            self._pace.hold(AIR_SECONDS)

    # What is offered, and when a run is possible

    def reset_choices(self, _event: object = None) -> None:
        """Offer the image layers of the viewer; napari calls it when its layers change."""
        images = [layer for layer in self.viewer.layers if isinstance(layer, Image)]
        active = self.viewer.layers.selection.active
        preferred = active if active in images else (images[-1] if images else None)
        self.form.set_images(images, preferred)
        self.form.set_shapes([layer for layer in self.viewer.layers if isinstance(layer, Shapes)])
        self._follow()

    def _look_around(self) -> None:
        """Find models and devices, at first and whenever the models have changed."""
        if not isalive(self):
            return
        start_job(look_around(), self, yielded=self._on_catalogue, failed=self._on_failed, finished=self._on_looked)

    def _on_catalogue(self, catalogue: Catalogue) -> None:
        shown = self.levels.store.record.get("model") if self.levels is not None else None
        self.form.set_catalogue(catalogue, preferred=shown or DEFAULT_MODEL)

    def _on_looked(self) -> None:
        self._looking = False
        if self.state == "idle":
            self._enter("idle")

    def _on_form(self) -> None:
        """Any choice has changed: what the last run said no longer holds."""
        if self.job is None:
            self._enter("idle")
            self._follow()

    def _follow(self) -> None:
        """Tell what would be predicted, so that the slider and the preview are about that."""
        self.level_box.follow(subject_of(self.form))

    def _enter(self, state: str, text: str = "") -> None:
        self.state = state
        running = state in ("running", "paused")
        problem = "Looking for models …" if self._looking else self.form.problem()
        self.form.setEnabled(not running)
        self.run_button.setEnabled(not running and not problem)
        self.run_button.setToolTip(problem or "Segment the image.")
        self.pause_button.setEnabled(running)
        self.pause_button.setText("Resume" if state == "paused" else "Pause")
        self.cancel_button.setEnabled(running)
        self.copy_button.setEnabled(not problem)
        self.details_button.setVisible(state == "failed" and self._error is not None)
        self.elsewhere_button.setVisible(state == "failed" and _is_gone(self._error))
        self.bar.setVisible(state != "idle")
        self.say(text or problem or "Ready.", error=state == "failed")

    # A run

    def run(self) -> None:
        """Start with what the form says; nothing happens while a run is under way."""
        if self.job is not None:
            return
        try:
            chosen = self.form.choices()
            request = run_request(self.viewer, chosen, self._preferred.memory_mib)
        except ValueError as error:
            self._on_failed(JobError(error))
            return
        self._chosen, self._progress, self._error = chosen, RunProgress(), None
        self.show_progress(0, 0)
        self._enter("running", "Loading the model …")
        self.job = start_job(
            segment(request),
            self,
            yielded=self._on_event,
            returned=self._on_returned,
            cancelled=self._on_cancelled,
            failed=self._on_failed,
            finished=self._on_finished,
        )
        self._pace = request.pace

    def pause(self) -> None:
        """Hold the run, or go on with it."""
        if self.job is not None and self.job.paused:
            self._progress.resume()
            self.job.resume()
            self._enter("running", "Going on …")
        elif self.job is not None:
            self._progress.pause()
            self.job.pause()
            self._enter("paused", f"Paused{self._progress.safe}.")

    def cancel(self) -> None:
        """Stop after the tile in work; what is done stays."""
        if self.job is not None:
            self.job.cancel()
            self.cancel_button.setEnabled(False)
            self.pause_button.setEnabled(False)
            self.say("Stopping after this tile …")

    def copy_command(self) -> None:
        """Put the command line that does the same into the clipboard."""
        try:
            request = command_request(self.viewer, self.form.choices(), self._preferred.memory_mib)
        except ValueError as error:
            self.say(str(error), error=True)
            return
        self.say("Comparing the image with its file …")
        start_job(describe_command(request), self, yielded=self._on_command, failed=self._on_no_command)

    def _on_command(self, line: str | Waiting) -> None:
        if isinstance(line, Waiting):  # the file is being compared with the layer
            return
        QApplication.clipboard().setText(line)
        self.say(f"Copied: {line}")

    def _on_no_command(self, error: JobError) -> None:
        self.say(str(error), error=True)

    def _on_event(self, event: Prepared | TileDone | PlaneDone | Waiting) -> None:
        if isinstance(event, Prepared):
            self._progress.prepared = event
            self._show_prepared(event)
        elif isinstance(event, TileDone):
            self._progress.last = event
            self._fresh.append(event.tile.inner)
            if not self._refresh.isActive():
                self._refresh.start()
        elif isinstance(event, PlaneDone):
            self._progress.last = event
        elif isinstance(event, Checking):
            self.show_progress(event.done, event.total)
            self.say(f"Comparing the image with that of an earlier run: {event.done} of {event.total} tiles")
            return
        else:  # it only wants to be asked whether to go on
            return
        self.show_progress(*self._progress.reached, self._progress.seconds_left)
        if self.cancel_button.isEnabled() and self.state == "running":
            self.say(self._progress.under_way)

    def _on_returned(self, _value: object) -> None:
        self._draw()
        self.level_box.live_view.layer.remove()  # it comes back where nothing is stored
        self.show_progress(1, 1)
        run, outcome = self._progress, self._progress.outcome
        if run.prepared is not None and self._chosen is not None and self._chosen.folder:
            outcome += f"\nPredictions are in {run.prepared.store.path}"
        self._enter("done", outcome)

    def _on_cancelled(self) -> None:
        self._draw()
        self.show_progress(*self._progress.reached)  # without a time that never comes
        self._enter("cancelled", f"Stopped{self._progress.safe}. Run goes on from there.")

    def _on_failed(self, error: JobError) -> None:
        self._error = error
        if _is_gone(error):
            self._remove_gone()
        self._draw()
        self.show_progress(*self._progress.reached)
        self._enter("failed", str(error))
        report(error)

    def _remove_gone(self) -> None:
        """Take away the layers of a store that is gone: they would be empty."""
        run = self._progress.prepared
        for levels in predictions_in(self.viewer):
            if run is not None and levels.store is run.store:
                levels.remove()

    def _run_elsewhere(self) -> None:
        if self.form.choose_folder() and self.run_button.isEnabled():
            self.run()

    def _on_details(self) -> None:
        if self._error is not None:
            show_details(self, self._error)

    def _on_finished(self) -> None:
        self.job = None
        self._pace = None
        self._follow()

    # Its layers

    def _show_prepared(self, event: Prepared) -> None:
        """The layers of the run's store: those that show it already, or new ones."""
        for levels in predictions_in(self.viewer):
            if levels.store.path == event.store.path:
                levels.comparison.visible = True
                self.level_box.show_levels(levels)
                return
        if self._chosen is None:
            return
        heads = event.store.levels
        level = self.level_box.first_level(heads, event.card.recommended_level)
        comparison = HeadComparison.of_heads(heads, level)
        image, axes = self._chosen.image, self._chosen.axes
        self.level_box.show_levels(add_levels(self.viewer, image, axes, event.store, comparison))

    def _draw(self) -> None:
        if self.levels is not None:
            self.levels.refresh()
        for box in self._fresh:
            self.level_box.live_view.forget(box)
        self._fresh.clear()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        shared.models_changed.connect(self._look_around, unique=True)
        self.level_box.live_view.resume()

    def stop(self) -> None:
        shared.models_changed.disconnect(self._look_around, missing_ok=True)
        self.level_box.live_view.suspend()
        if self.job is not None:
            self.job.yielded.disconnect(self._on_event)
            self.job.cancel()


def _is_gone(error: JobError | None) -> bool:
    """Whether a run failed because its folder is no longer there."""
    return error is not None and isinstance(error.__cause__, GoneError)
