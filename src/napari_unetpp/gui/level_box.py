"""The level on the screen: slider, what it moves, and the live preview where nothing is stored.

Decides which prediction the slider moves (`LevelBox.follow`): that of the chosen image by the chosen
model; else one that was just opened from disk; else the live preview; where that is off, whatever
prediction there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QCheckBox, QGroupBox, QHBoxLayout, QLabel, QVBoxLayout

from napari_unetpp.gui.comparison import ENSEMBLE, HeadComparison, Level, level_name
from napari_unetpp.gui.fields import note_label
from napari_unetpp.gui.layers import LevelLayers, hide_others, predictions_in
from napari_unetpp.gui.level_slider import LevelSlider, bind_level_keys
from napari_unetpp.gui.level_views import LevelViews
from napari_unetpp.gui.live_subject import Subject
from napari_unetpp.gui.live_view import LiveView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari import Viewer


class LevelBox(QGroupBox):
    """Slider, check boxes, and the note that tells how far the preview is.

    Attributes
    ----------
    levels : LevelLayers or None
        The prediction that the slider moves; None where it moves the preview, or nothing.
    comparison : HeadComparison or None
        What the slider moves.
    """

    def __init__(self, viewer: Viewer, *, live: bool = True) -> None:
        super().__init__("Level on the screen")
        self.viewer = viewer
        self.levels: LevelLayers | None = None
        self.comparison: HeadComparison | None = None
        self._subject = Subject()
        self._opened: LevelLayers | None = None
        self._seen: WeakSet[LevelLayers] = WeakSet()
        self.slider = LevelSlider()
        self.show_labels = QCheckBox("Show labels")
        self.show_labels.setToolTip("Off: the bare image.")
        self.live = QCheckBox("Live")
        self.live.setChecked(live)
        self.live.setToolTip(
            "Predict what is on the screen wherever nothing is stored yet,\n"
            "L1 first and then up to the level of the slider."
        )
        self.reached = QLabel()
        self.note = note_label()
        self.views = LevelViews()
        self.live_view = LiveView(viewer, self)
        self.live_view.set_enabled(live)
        self._lay_out()
        self.show_labels.toggled.connect(self._on_show_labels)
        self.live.toggled.connect(self._on_live)
        self.live_view.progressed.connect(self._on_progressed)
        self.live_view.told.connect(self._on_told)
        self.live_view.removed.connect(self._on_preview_removed)
        bind_level_keys(viewer, self.slider)
        self.follow(Subject())

    def _lay_out(self) -> None:
        boxes = QHBoxLayout()
        boxes.addWidget(self.show_labels)
        boxes.addWidget(self.live)
        boxes.addWidget(self.reached, 1)
        inside = QVBoxLayout(self)
        inside.setContentsMargins(8, 6, 8, 8)
        inside.setSpacing(6)
        inside.addWidget(self.slider)
        inside.addLayout(boxes)
        inside.addWidget(self.note)
        inside.addWidget(self.views)

    def follow(self, subject: Subject) -> None:
        """Another image, model or level was chosen, or the layers have changed."""
        before, self._subject = self._subject, subject
        chosen_anew = before.complete and (before.image, before.model) != (subject.image, subject.model)
        existing = predictions_in(self.viewer)
        found = self._prediction(existing)
        if opened := [levels for levels in existing if levels not in self._seen]:
            self._opened = opened[-1]
        elif chosen_anew or self._opened not in existing:
            self._opened = None
        self._seen = WeakSet(existing)
        previewed = found is None and self._opened is None and self.live.isChecked()
        if chosen_anew and subject.image is not None and subject.complete and (found is not None or previewed):
            hide_others(self.viewer, subject.image, but=found)
        if found is not None and subject.complete:
            if chosen_anew:
                found.comparison.visible = True
            self._show(found, found.comparison)
        elif previewed and subject.complete:
            self._show(None, self._preview_comparison())
        else:
            shown = self._opened or (self.levels if self.levels in existing else existing[-1] if existing else None)
            self._show(shown, shown.comparison if shown is not None else None)
        self._watch(found)

    def show_levels(self, levels: LevelLayers) -> None:
        """A run has begun: its layers are what the slider moves."""
        self._show(levels, levels.comparison)
        self._watch(self._prediction(predictions_in(self.viewer)))

    def first_level(self, heads: tuple[int, ...], recommended: int) -> Level | None:
        """Level to begin with: that of the slider where it is one of these, else the recommended."""
        current = self.comparison.level if self.comparison is not None and self.levels is None else None
        offered: tuple[Level, ...] = (*heads, ENSEMBLE) if len(heads) > 1 else heads
        if current in offered:
            return current
        return recommended if recommended in heads else None

    def _prediction(self, existing: Sequence[LevelLayers]) -> LevelLayers | None:
        """The newest of these that is of the chosen image, by the chosen model."""
        image, model = self._subject.image, self._subject.model
        if image is None or model is None or model.header is None:
            return None
        fitting = [
            levels
            for levels in existing
            if levels.is_of(image) and levels.store.record.get("model_sha256") == model.sha256
        ]
        return fitting[-1] if fitting else None

    def _preview_comparison(self) -> HeadComparison | None:
        model = self._subject.model
        if model is None or model.header is None:
            return None
        heads = model.header.spec.heads_up_to(self._subject.level or None)
        previous = self.comparison if self.levels is None else None
        if previous is not None and previous.heads == heads:
            return previous
        level = self.first_level(heads, model.header.card.recommended_level)
        return HeadComparison.of_heads(heads, level)

    def _show(self, levels: LevelLayers | None, comparison: HeadComparison | None) -> None:
        if self.comparison is not comparison:
            if self.comparison is not None:
                self.comparison.events.visible.disconnect(self._on_visible, missing_ok=True)
            if comparison is not None:
                comparison.events.visible.connect(self._on_visible)
            self.slider.bind(comparison)
        if self.comparison is not comparison or self.levels is not levels:
            self.views.bind(levels, comparison)
        self.levels, self.comparison = levels, comparison
        self.show_labels.setEnabled(comparison is not None)
        self._on_visible(comparison.visible if comparison is not None else True)

    def _watch(self, found: LevelLayers | None) -> None:
        """Have the rest of what is on the screen predicted, if `found`, or nothing yet, is what the slider moves."""
        mine = self.levels is found and self._subject.complete
        store = found.store if found is not None else None
        nothing = Subject(open_choice=self._subject.open_choice)
        self.live_view.watch(*(self._subject, self.comparison, store) if mine else (nothing, None, None))

    def _on_visible(self, visible: bool) -> None:
        with QSignalBlocker(self.show_labels):
            self.show_labels.setChecked(visible)

    def _on_show_labels(self, checked: bool) -> None:
        if self.comparison is not None:
            self.comparison.visible = checked

    def _on_live(self, checked: bool) -> None:
        self.live_view.set_enabled(checked)
        self.follow(self._subject)

    def _on_preview_removed(self) -> None:
        """Who deletes the layer does not want another one in its place."""
        self.live.setChecked(False)

    def _on_progressed(self, level: Level | None) -> None:
        self.reached.setText("" if level is None else f"shows {level_name(level)}")

    def _on_told(self, text: str) -> None:
        self.note.setText(text)
        self.note.setVisible(bool(text))
