"""What the best weights so far make of what is on the screen, while they are trained: the live preview of a model that changes.

Decides which image is looked at (`TrainingView.begin`), and what is hidden meanwhile, so that two models are never seen on top of
each other; it comes back when this preview goes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Image
from qtpy.compat import isalive
from qtpy.QtCore import QObject, Signal

from napari_unetpp.gui.catalogue import ModelChoice, model_choice
from napari_unetpp.gui.comparison import HeadComparison
from napari_unetpp.gui.image_layer import suggest_axes
from napari_unetpp.gui.jobs import Job, start_job
from napari_unetpp.gui.layers import followed_in
from napari_unetpp.gui.live_layer import LiveLayer
from napari_unetpp.gui.live_subject import Subject
from napari_unetpp.gui.live_view import LiveView
from napari_unetpp.gui.train_pairs import LayerPair, TrainPair
from napari_unetpp.gui.train_swap import segment_docks

if TYPE_CHECKING:
    from napari import Viewer
    from qtpy.QtWidgets import QWidget

    from napari_unetpp.gui.segment_widget import SegmentWidget


class TrainingView(QObject):
    """The preview; shows nothing before the first best epoch.

    Attributes
    ----------
    live : LiveView
    comparison : HeadComparison or None
        Which level is shown.
    """

    told = Signal(str)  # why there is no preview
    removed = Signal()  # the user has removed it

    def __init__(self, viewer: Viewer, dock: QWidget) -> None:
        super().__init__(dock)
        self.viewer, self._dock = viewer, dock
        self.live = LiveView(viewer, self)
        self.live.layer = LiveLayer(viewer, "training preview")
        self.live.steady = True
        self.live.told.connect(self.told)
        self.live.removed.connect(self.removed)
        self.comparison: HeadComparison | None = None
        self._image: Image | None = None
        self._axes = ""
        self._device = "auto"
        self._choice: ModelChoice | None = None
        self._enabled = True
        self._hidden: list[HeadComparison] = []
        self._silenced: list[SegmentWidget] = []
        self._job: Job | None = None
        self._again: Path | None = None

    def begin(self, pairs: Sequence[TrainPair], heads: Sequence[int], device: str) -> None:
        """Look at the first image that is trained on and in the viewer, else at the one that is chosen there."""
        self.end()
        self.comparison = HeadComparison.of_heads(heads)
        self._device = device
        self._image, self._axes = None, ""
        for pair in pairs:
            if isinstance(pair, LayerPair) and pair.image in self.viewer.layers:
                self._image, self._axes = pair.image, pair.axes
                return
        images = [x for x in self.viewer.layers if isinstance(x, Image)]
        active = self.viewer.layers.selection.active
        if images:
            self._image = active if isinstance(active, Image) else images[-1]
            self._axes = suggest_axes(self._image).axes

    def show_weights(self, out: Path) -> None:
        """The file holds better weights than before."""
        if self._image is None or not self._enabled:
            self._again = out  # for when it is wanted
            return
        if self._job is not None:
            self._again = out
            return
        self._again = None
        self._job = start_job(_read(out), self, yielded=self._on_read, finished=self._on_finished)

    def _on_read(self, choice: ModelChoice) -> None:
        if choice.header is not None and self.comparison is not None:
            self._choice = choice
            self._watch()

    def _on_finished(self) -> None:
        self._job = None
        if self._again is not None:
            self.show_weights(self._again)

    def _watch(self) -> None:
        if not self._enabled or self._choice is None or self._image not in self.viewer.layers:
            return
        shown = self.live.layer.layer
        if shown is not None and not shown.visible:  # the user does not want to see it now
            return
        self._hide_others()
        try:
            self.live.watch(Subject(self._image, self._axes, self._choice, self._device), self.comparison, None)
        except ValueError as error:
            self.told.emit(f"No preview: {error}")

    def set_enabled(self, enabled: bool) -> None:
        """Off: nothing is computed, and what was hidden is back."""
        self._enabled = enabled
        self.live.set_enabled(enabled)
        if not enabled:
            self._show_others()
        elif self._again is not None:
            self.show_weights(self._again)
        else:
            self._watch()

    def end(self) -> None:
        """No preview any more; what was hidden is back."""
        self._choice = self._again = None
        self.live.layer.remove()
        self.live.watch(Subject(), None, None)
        self.comparison = None
        self._show_others()

    def suspend(self) -> None:
        """The dock is gone."""
        self.live.suspend()
        self.live.layer.remove()
        self._show_others()

    def _hide_others(self) -> None:
        for levels in followed_in(self.viewer):
            comparison = levels.comparison
            if self._image is not None and levels.is_of(self._image) and comparison.visible:
                self._hidden.append(comparison)
                comparison.visible = False
        for dock in segment_docks(self._dock):
            if dock.level_box.live.isChecked():
                self._silenced.append(dock)
                dock.level_box.live.setChecked(False)

    def _show_others(self) -> None:
        for comparison in self._hidden:
            comparison.visible = True
        for dock in self._silenced:
            if isalive(dock):
                dock.level_box.live.setChecked(True)
        self._hidden.clear()
        self._silenced.clear()


def _read(out: Path) -> Generator[ModelChoice]:
    yield model_choice(out.stem, out)
