"""The Correct dock: make or open corrections of an image, paint, say what was reviewed, go where the model is in doubt.

Decides, in this order: which image, corrections and prediction the dock is about, what can be done now, and how corrections are
made, opened and brought up to date. The work is `correct_work`, in workers; brush, marks and tour are boxes of their own. Here
widgets are only bound and called.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, QTimer

from napari_unetpp.gui.correct_form import EMPTY, SHOWN
from napari_unetpp.gui.correct_keys import KEYS, BoundKeys
from napari_unetpp.gui.correct_layer import OpenCorrections, add_corrections, corrections_in
from napari_unetpp.gui.correct_panel import CorrectPanel
from napari_unetpp.gui.correct_predictions import FOREGROUND, classes_of, is_news, prediction_of, proposed_of
from napari_unetpp.gui.correct_work import Arrived, Request, make, open_at, take_over
from napari_unetpp.gui.image_layer import stack_from_layer, visible_box
from napari_unetpp.gui.jobs import Job, JobError, start_job
from napari_unetpp.gui.layers import LevelLayers, hide_others
from napari_unetpp.gui.status import report
from napari_unetpp.gui.versions import unwrapped
from napari_unetpp.training.corrections import Corrections

if TYPE_CHECKING:
    from pathlib import Path

    import napari.viewer
    from qtpy.QtGui import QShowEvent

LOOK_MS = 1000  # after which a run is asked whether it has predicted more
REFRESH_MS = 250  # labels that arrive are drawn at most so often


class CorrectWidget(CorrectPanel):
    """The dock.

    Attributes
    ----------
    opened : OpenCorrections or None
        The corrections of the chosen image, if they are a layer of the viewer.
    levels : LevelLayers or None
        The prediction of the chosen image.
    job : Job or None
        What makes, opens or brings up to date, while there is one.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        viewer = unwrapped(napari_viewer)
        super().__init__(viewer)
        self.viewer = viewer
        self.opened: OpenCorrections | None = None
        self.levels: LevelLayers | None = None
        self.job: Job | None = None
        self._subject: tuple[Image, str] | None = None  # what the corrections that are being opened are of
        self._kept: str = ""  # what the status says until something else happens
        self._keys = BoundKeys(viewer)
        self._refresh, self._look = QTimer(self), QTimer(self)
        self._refresh.setSingleShot(True)
        self._refresh.setInterval(REFRESH_MS)
        self._refresh.timeout.connect(self._draw)
        self._look.setInterval(LOOK_MS)
        self._look.timeout.connect(self._look_for_news)
        self.form.changed.connect(self._on_form)
        self.make_button.clicked.connect(self.make)
        self.open_button.clicked.connect(self.open)
        self.take_button.clicked.connect(self.take_over)
        self.stop_button.clicked.connect(self.cancel)
        for box in (self.labels, self.review, self.tour, self.rescue):
            box.failed.connect(self._on_failed)
        self.review.told.connect(self.tell)
        self.rescue.told.connect(self.tell)
        self.rescue.moved.connect(self._on_moved)
        self.show_progress(0, 0)
        self.reset_choices()

    # What it is about

    def reset_choices(self, _event: object = None) -> None:
        """Offer the image layers of the viewer; napari calls it when its layers change."""
        images = [layer for layer in self.viewer.layers if isinstance(layer, Image)]
        active = self.viewer.layers.selection.active
        self.form.set_images(images, active if active in images else (images[-1] if images else None))
        self._follow()

    def _on_form(self) -> None:
        self._kept = ""
        self._follow()

    def _follow(self) -> None:
        """Be about what there is of the chosen image."""
        image = self.form.chosen_image()
        self.levels = prediction_of(self.viewer, image, self._axes())
        comparison = self.levels.comparison if self.levels is not None else None
        self.form.set_levels(*((comparison.levels, comparison.level) if comparison is not None else ((), None)))
        found = [opened for opened in corrections_in(self.viewer) if opened.image_layer is image]
        self._show_opened(found[-1] if found and image is not None else None)
        self._allow()

    def _axes(self) -> str:
        try:
            return self.form.chosen_axes()
        except ValueError:  # the form says it
            return ""

    def _show_opened(self, opened: OpenCorrections | None) -> None:
        if self.opened is not opened:
            if self.opened is not None:
                self.opened.failed.disconnect(self._on_unsaved, missing_ok=True)
                if self.opened.layer not in self.viewer.layers:
                    self.tell(f"Removed from the viewer; the corrections are in {self.opened.corrections.path}")
            if opened is not None:
                opened.failed.connect(self._on_unsaved)
                self._kept = ""
            self.opened = opened
        self.labels.follow(opened)
        self.review.follow(opened)
        self.rescue.follow(opened)

    def _look_for_news(self) -> None:
        """A run may have predicted more, or somebody made or removed the folder."""
        if self.opened is not None:
            self.opened.look()
        if self.job is None:
            self._allow()

    def _allow(self) -> None:
        """Show and enable what can be done now, and say why not."""
        opened, busy, problem = self.opened, self.job is not None, self.form.problem()
        exists = opened is None and self.form.exists()
        self.form.show_open(opened.corrections.path if opened is not None else None)
        self.form.setEnabled(not busy)
        self.make_button.setVisible(opened is None and not exists)
        self.open_button.setVisible(exists)
        for button in (self.make_button, self.open_button):
            button.setEnabled(not busy and not problem)
            button.setToolTip(problem)
        for box in (self.labels, self.review, self.tour):
            box.setVisible(opened is not None)
        levels = self.levels
        self.take_button.setVisible(opened is not None and levels is not None and is_news(opened.corrections, levels))
        self.take_button.setEnabled(not busy)
        self.tour.follow(opened, levels.store if levels is not None and opened is not None else None)
        if not busy and not self._kept:
            ready = "They are on the disk; open them to go on." if exists else "Ready."
            self.say("Every stroke is saved." if opened is not None else problem or ready)

    def tell(self, text: str) -> None:
        """Say something that stays until something else happens."""
        self._kept = text
        self.say(text)

    # Making, opening, following a prediction

    def make(self) -> None:
        """Make corrections of the chosen image, as the form says."""
        image, path, start = self.form.chosen_image(), self.form.path(), self.form.chosen_start()
        if image is None or path is None or self.job is not None:
            return
        try:
            axes = self.form.chosen_axes()
            stack = stack_from_layer(image, axes)
        except ValueError as error:
            self._on_failed(JobError(error))
            return
        proposed, classes = None, FOREGROUND
        if self.levels is not None:
            classes = classes_of(self.levels.store)
            if start != EMPTY:
                level = self.levels.comparison.level if start == SHOWN else start
                proposed = proposed_of(self.levels, level, visible_box(self.viewer, image, axes))
        self._subject = image, axes
        request = Request(path, stack, classes, self.form.chosen_unpainted(), proposed)
        self._start(make(request), "Making corrections …")

    def open(self) -> None:
        """Open the corrections of the chosen image that are on the disk."""
        image, path = self.form.chosen_image(), self.form.path()
        if image is not None and path is not None and self.job is None:
            self._subject = image, self._axes()
            self._start(open_at(path), "Opening corrections …")

    def take_over(self) -> None:
        """Have everything that was not accepted follow the level on the screen."""
        opened, levels = self.opened, self.levels
        if opened is None or levels is None or self.job is not None:
            return
        image = opened.image_layer
        first = visible_box(self.viewer, image, opened.axes) if image is not None else None
        steps = take_over(opened.corrections, proposed_of(levels, levels.comparison.level, first))
        self._start(steps, "Taking over the prediction …")

    def cancel(self) -> None:
        """Stop between two blocks; what has arrived stays."""
        if self.job is not None:
            self.job.cancel()
            self.tell("Stopped. What has arrived stays.")

    def _start(self, steps: Generator[Any], text: str) -> None:
        self._kept = ""
        self.say(text)
        self.job = start_job(steps, self, yielded=self._on_event, failed=self._on_failed, finished=self._on_finished)
        self._allow()

    def _on_event(self, event: Corrections | Arrived) -> None:
        if isinstance(event, Corrections):
            self._add(event)
        else:
            self.show_progress(event.done, event.total)
            if not self._refresh.isActive():
                self._refresh.start()

    def _add(self, corrections: Corrections) -> None:
        image, axes = self._subject or (None, "")
        if image is None or image not in self.viewer.layers:
            corrections.close()  # the image was removed meanwhile
            return
        try:
            add_corrections(self.viewer, image, axes, corrections)
        except ValueError as error:
            self._on_failed(JobError(error))
            return
        hide_others(self.viewer, image)  # labels on top of labels would be read as one
        self._follow()

    def _draw(self) -> None:
        if self.opened is not None and self.opened.layer.visible:
            self.opened.layer.refresh(extent=False)

    def _on_failed(self, error: JobError) -> None:
        self._kept = str(error)
        self.say(self._kept, error=True)
        report(error)

    def _on_finished(self) -> None:
        self.job = None
        self.show_progress(0, 0)
        self._draw()
        self._allow()

    # What happens to the layer

    def _on_unsaved(self, error: OSError) -> None:
        if isalive(self):
            self._kept = f"{error.filename}: {error.strerror}"
            self.say(self._kept, error=True)

    def _on_moved(self, path: Path) -> None:
        with QSignalBlocker(self.form.folder):
            self.form.folder.setText(str(path.parent))  # where "Open corrections" looks from now on
        self._follow()

    # Coming and going

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._keys.bind(
            {
                KEYS["next"]: self.tour.next,
                KEYS["previous"]: self.tour.previous,
                KEYS["mark"]: self.review.mark_slice,
                KEYS["unmark"]: self.review.unmark_slice,
                KEYS["draw"]: self.review.draw,
            }
        )
        self._look.start()
        self._follow()

    def stop(self) -> None:
        """Begin nothing more; the layer goes on being saved as it is painted."""
        self._keys.release()
        self._look.stop()
        if self.job is not None:
            self.job.yielded.disconnect(self._on_event)
            self.job.cancel()
        for opened in corrections_in(self.viewer):
            opened.rescue()
        self._show_opened(None)
        self.review.stop()
        self.tour.stop()
