"""Of what the range of intensities is measured: the field of the Segment dock, with the range that the preview uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_unetpp.gui.fields import combo_box, note_label, stacked

if TYPE_CHECKING:
    from napari_unetpp.gui.catalogue import ModelChoice
    from napari_unetpp.model.intensity import Over

WORDS: dict[Over, str] = {"stack": "All voxels", "plane": "Each plane", "robust": "Picture only"}
ABOUT = (
    "Of what the range is measured that the network sees as dark to bright.\n"
    "All voxels: percentiles of the whole stack.\n"
    "Each plane: for planes or time points of different brightness.\n"
    "Picture only: without padding, empty area and broken pixels, and each plane\n"
    "by itself where planes differ in brightness; ordinary images stay as they are.\n"
    "The live preview follows the choice."
)


class IntensityField(QWidget):
    """The choice, with a note of the range in use; emits `chosen` when a user or a script has made one."""

    chosen = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.combo = combo_box(ABOUT)
        self._model: ModelChoice | None = None
        self.note = note_label()
        layout: QVBoxLayout = stacked(self.combo, self.note)
        layout.setContentsMargins(0, 0, 0, 0)
        self.setLayout(layout)
        self.combo.addItem("The model's", None)
        for over, words in WORDS.items():
            self.combo.addItem(words, over)
        self.combo.currentIndexChanged.connect(self._on_index)

    @property
    def over(self) -> Over | None:
        """What is chosen; None is as the model says."""
        chosen: Over | None = self.combo.currentData()
        return chosen

    def follow(self, model: ModelChoice | None) -> None:
        """Say what the model says; a model of fixed numbers leaves no choice."""
        rule = None if model is None or model.header is None else model.header.intensity
        fixed = rule is not None and rule.kind == "fixed"
        says = "" if rule is None else f": {'fixed numbers' if fixed else WORDS[rule.over].lower()}"
        with QSignalBlocker(self.combo):
            self.combo.setItemText(0, f"The model's{says}")
            if fixed:
                self.combo.setCurrentIndex(0)
        self.combo.setEnabled(not fixed)
        if model != self._model:
            self._model = model
            self.say("")

    def say(self, words: str) -> None:
        """Show the range in use."""
        self.note.setText(words and words[0].upper() + words[1:])
        self.note.setVisible(bool(words))

    def _on_index(self) -> None:
        self.say("")
        self.chosen.emit()
