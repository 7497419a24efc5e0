"""The annotated images in the Train dock: chosen out of layers and files, listed with what each holds.

Decides what is offered and taken (`PairBox`), and how what the labels hold is found out: by one job at a time, pair after pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Image, Labels
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QGroupBox,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_unetpp.gui.fields import combo_box, note_label, rows, stacked
from napari_unetpp.gui.image_layer import suggest_axes
from napari_unetpp.gui.jobs import Job, JobError, start_job
from napari_unetpp.gui.train_labels import PairFacts, facts_text, gray_values, look_at_pair, with_values
from napari_unetpp.gui.train_pair_list import PairList
from napari_unetpp.gui.train_pairs import (
    FilePair,
    LayerPair,
    TrainPair,
    corrections_of,
    images_in,
    labels_in,
    match_files,
)
from napari_unetpp.training.label_files import ENDINGS, match_folders

if TYPE_CHECKING:
    from napari import Viewer

FILES = f"Images ({' '.join('*' + ending for ending in ENDINGS if ending != '.zarr')});;All files (*)"
UNPAINTED = {"background": "is background", "ignore": "is not annotated"}


class PairBox(QGroupBox):
    """Fields to add a pair, and the list of pairs.

    Attributes
    ----------
    pairs : list of TrainPair
    facts : dict
        From pair to what it holds, once that was read.
    """

    changed = Signal()  # pairs came or went, or more is known of one
    refused = Signal(str)  # why a pair was not taken, in a line

    def __init__(self, viewer: Viewer) -> None:
        super().__init__("Annotated images")
        self.viewer = viewer
        self.pairs: list[TrainPair] = []
        self.facts: dict[TrainPair, PairFacts] = {}
        self._images: list[Image] = []
        self._labels: list[Labels | Image] = []
        self._job: Job | None = None
        self._reading: TrainPair | None = None
        self.image = combo_box("An image layer.")
        self.label = combo_box(
            "Labels of that image: a Corrections layer, any Labels layer that somebody painted,\n"
            "or an image layer that holds labels."
        )
        self.axes = QLineEdit()
        self.axes.setMaxLength(5)
        self.axes.setToolTip(
            "What each axis of the image is, one letter each:\nt time, c channel, z slice, y row, x column."
        )
        self.axes_note = note_label()
        self.add_button = QPushButton("Add")
        self.add_button.setToolTip("Train on this image and these labels.")
        self.files_button = QPushButton("Files …")
        self.files_button.setToolTip("Add images, and then their labels, matched by name.")
        self.folders_button = QPushButton("Folders …")
        self.folders_button.setToolTip(
            "Add the images of a folder, with the labels of another or of the same, matched by name."
        )
        self.list = PairList()
        self.remove_button = QPushButton("Remove")
        self.remove_button.setToolTip("Do not train on the selected images. Layers and files stay as they are.")
        self.unpainted = combo_box(
            "What 0 means in the labels. Not annotated: it teaches nothing, 1 is background and\n"
            "2, 3 .. are the classes 1, 2 .. Corrections say it themselves."
        )
        for key, text in UNPAINTED.items():
            self.unpainted.addItem(text, key)
        self.values = QCheckBox()
        self.values.setToolTip(
            "The label files hold these values. Tick it where they are gray values of classes,\n"
            "in this order; leave it where they are numbers of objects, or labels with gaps."
        )
        self.left_note = note_label()
        self._lay_out()
        self.image.currentIndexChanged.connect(self._on_image)
        self.label.currentIndexChanged.connect(self._allow)
        self.axes.textEdited.connect(self._on_axes)
        self.add_button.clicked.connect(self.add_layers)
        self.files_button.clicked.connect(self.add_files)
        self.folders_button.clicked.connect(self.add_folders)
        self.remove_button.clicked.connect(self._on_remove)
        self.list.itemSelectionChanged.connect(self._allow)
        self.unpainted.currentIndexChanged.connect(self._show)
        self.values.toggled.connect(self._on_values)
        self._tell_left("")
        self._show()

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 6, 8)
        layout.setSpacing(6)
        fields = QWidget()
        axes = stacked(self.axes, self.axes_note)
        self._rows = rows(fields, [("Image", self.image), ("Axes", axes), ("Labels", self.label)])
        buttons = QHBoxLayout()
        buttons.setSpacing(6)
        for button in (self.add_button, self.files_button, self.folders_button):
            buttons.addWidget(button, 1)
        row = QHBoxLayout()
        row.setSpacing(6)
        row.addWidget(self.unpainted, 1)
        row.addWidget(self.remove_button)
        below = QWidget()
        rows(below, [("Label 0", row)])
        layout.addWidget(fields)
        layout.addLayout(buttons)
        layout.addWidget(self.list)
        layout.addWidget(self.left_note)
        layout.addWidget(self.values)
        layout.addWidget(below)

    # What is offered

    def reset_choices(self) -> None:
        """Offer the layers that there are, and let go of pairs whose layers are gone."""
        self._images = [x for x in self.viewer.layers if isinstance(x, Image)]
        active = self.viewer.layers.selection.active
        self._offer(self.image, self._images, active)
        before, painted = self.chosen_label(), labels_in(self.viewer)
        self._labels = [*painted, *images_in(self.viewer)]
        # Nobody but the user takes an image layer for labels.
        self._offer(
            self.label, self._labels, before if before in self._labels else active if active in painted else None
        )
        there = set(self.viewer.layers)
        kept = [pair for pair in self.pairs if set(pair.layers) <= there]
        if len(kept) < len(self.pairs):
            self._set(kept)
        self._on_image()
        self._show()  # a layer may have another name

    def _offer(self, combo: QComboBox, layers: Sequence[Image | Labels], preferred: object) -> None:
        chosen = combo.currentText()
        with QSignalBlocker(combo):
            combo.clear()
            combo.addItems([layer.name for layer in layers])
            place = combo.findText(chosen)
            if place < 0:
                first = 0 if combo is self.image or any(isinstance(x, Labels) for x in layers) else -1
                place = next((k for k, x in enumerate(layers) if x is preferred), first)
            combo.setCurrentIndex(place if layers else -1)

    def chosen_image(self) -> Image | None:
        place = self.image.currentIndex()
        return self._images[place] if 0 <= place < len(self._images) else None

    def chosen_label(self) -> Labels | Image | None:
        place = self.label.currentIndex()
        return self._labels[place] if 0 <= place < len(self._labels) else None

    def _on_image(self, _place: int = 0) -> None:
        image = self.chosen_image()
        suggestion = suggest_axes(image) if image is not None else None
        self.axes.setText(suggestion.axes if suggestion else "")
        certain = suggestion is None or suggestion.certain
        self._rows.setRowVisible(1, not certain)
        self._note("" if certain or suggestion is None else suggestion.reason)
        self._allow()

    def _on_axes(self) -> None:
        self._note("")
        self._allow()

    def _note(self, text: str) -> None:
        self.axes_note.setText(text)
        self.axes_note.setVisible(bool(text))

    # What is taken

    def add_layers(self) -> None:
        """Take the chosen layers as a pair."""
        image, label = self.chosen_image(), self.chosen_label()
        if image is None or label is None:
            return
        try:
            pair = LayerPair(image, label, self.axes.text().strip().lower(), corrections_of(self.viewer).get(label))
        except ValueError as error:
            self.refused.emit(str(error))
            return
        if any(other.layers == pair.layers for other in self.pairs):
            self.refused.emit(f"{image.name} with {label.name} is in the list already.")
            return
        self._set([*self.pairs, pair])

    def add_files(self) -> None:
        """Ask for images, then for their labels."""
        images, _ = QFileDialog.getOpenFileNames(self, "Images to train on", "", FILES)
        if not images:
            return
        folder = str(Path(images[0]).parent)
        labels, _ = QFileDialog.getOpenFileNames(self, f"Labels of these {len(images)} images", folder, FILES)
        if labels:
            self._match(list(map(Path, images)), list(map(Path, labels)))

    def add_folders(self) -> None:
        """Ask for a folder of images, then for one of labels."""
        images = QFileDialog.getExistingDirectory(self, "Folder of images to train on")
        labels = images and QFileDialog.getExistingDirectory(self, "Folder of their labels", images)
        if images and labels:
            try:
                matched = match_folders(Path(images), Path(labels))
            except ValueError as error:
                self.refused.emit(str(error))
                return
            self._take([FilePair(*pair) for pair in matched.pairs], "\n".join(matched.left_lines()))

    def _match(self, images: Sequence[Path], labels: Sequence[Path]) -> None:
        try:
            found = match_files(images, labels)
        except ValueError as error:
            self.refused.emit(str(error))
            return
        self._take(found)

    def _take(self, found: Sequence[FilePair], left: str = "") -> None:
        """Add pairs of files, and tell which files are left over."""
        self._tell_left(left and left[0].upper() + left[1:])
        self._set([*self.pairs, *(pair for pair in found if pair not in self.pairs)])

    def _tell_left(self, text: str) -> None:
        self.left_note.setText(text)
        self.left_note.setVisible(bool(text))

    def set_pairs(self, pairs: Sequence[TrainPair]) -> None:
        """Take these in place of what is in the list."""
        self._set(list(pairs))

    def _on_remove(self) -> None:
        self._tell_left("")
        gone = self.list.chosen()
        self._set([pair for place, pair in enumerate(self.pairs) if place not in gone])

    def _set(self, pairs: list[TrainPair]) -> None:
        self.pairs = pairs
        self.facts = {pair: facts for pair, facts in self.facts.items() if pair in pairs}
        self._show()
        self._read_next()
        self.changed.emit()

    # What they hold

    def gray_values(self) -> tuple[int, ...]:
        """Values that may be gray values of classes; empty while that is not known."""
        return gray_values(self.facts.values()) if len(self.facts) == len(self.pairs) else ()

    def chosen_values(self) -> tuple[int, ...]:
        """The values that stand for label 0, 1, 2, where somebody said so; else nothing."""
        return self.gray_values() if self.values.isChecked() else ()

    def known_facts(self) -> list[PairFacts]:
        """What the pairs hold as far as that is known, with the labels that values stand for."""
        values = self.chosen_values()
        return [with_values(facts, values) for facts in self.facts.values()]

    def _on_values(self) -> None:
        self._show()
        self.changed.emit()

    def read_again(self, layer: object) -> None:
        """Somebody has painted on this layer."""
        for pair in self.pairs:
            if layer in pair.layers:
                self.facts.pop(pair, None)
        self._read_next()

    def _read_next(self) -> None:
        if self._job is not None:
            return
        self._reading = next((pair for pair in self.pairs if pair not in self.facts), None)
        if self._reading is None:
            return
        self._job = start_job(
            look_at_pair(self._reading.request()),
            self,
            yielded=self._on_read,
            failed=self._on_unreadable,
            finished=self._on_finished,
        )

    def _on_read(self, event: PairFacts | int) -> None:
        if isinstance(event, PairFacts) and self._reading in self.pairs:
            assert self._reading is not None
            self.facts[self._reading] = event
            self._show()
            self.changed.emit()

    def _on_unreadable(self, error: JobError) -> None:
        """A pair that cannot be read is none."""
        gone, self._reading = self._reading, None
        self._set([pair for pair in self.pairs if pair is not gone])
        self.refused.emit(str(error))

    def _on_finished(self) -> None:
        self._job = None
        self._read_next()

    def stop(self) -> None:
        """Nobody is there to see what the labels hold."""
        if self._job is not None:
            self._job.cancel()

    # What is shown

    def _show(self, _place: int = 0) -> None:
        self.list.show_pairs([(*pair.names, self._about(pair)) for pair in self.pairs])
        own = all(f.unpainted for f in self.facts.values()) and len(self.facts) == len(self.pairs) > 0
        self.unpainted.setEnabled(not own)
        self._show_values()
        self._allow()

    def _show_values(self) -> None:
        """Offer gray values as classes; other values than those that were agreed to are asked for anew."""
        values = self.gray_values()
        text = f"Values {_brief(values)} are labels {_brief(range(len(values)))}"
        if text != self.values.text() and len(self.facts) == len(self.pairs):
            with QSignalBlocker(self.values):
                self.values.setChecked(False)
            self.values.setText(text)
        self.values.setVisible(bool(values))

    def _about(self, pair: TrainPair) -> str:
        facts = self.facts.get(pair)
        if facts is None:
            return "reading the labels …"
        text = facts_text(with_values(facts, self.chosen_values()), self.unpainted.currentData())
        return "\n".join((text, *facts.notes))

    def _allow(self, _place: int = 0) -> None:
        self.add_button.setEnabled(self.chosen_image() is not None and self.chosen_label() is not None)
        self.remove_button.setEnabled(bool(self.list.chosen()))


def _brief(numbers: Sequence[int]) -> str:
    """Numbers in words; of many the first ones and the last, because a check box has one line."""
    shown = list(map(str, numbers))
    return ", ".join(shown) if len(shown) <= 5 else ", ".join((*shown[:3], "…", shown[-1]))
