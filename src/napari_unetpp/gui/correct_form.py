"""What the user chooses before corrections are made: image, where they start from, what unpainted means, where they are kept.

The form says in one line what is missing (`CorrectForm.problem`). It computes nothing, and reads no more of the disk than
whether there are corrections already.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QFileDialog, QGroupBox, QHBoxLayout, QLineEdit, QToolButton, QWidget

from napari_unetpp.gui.comparison import Level, level_name
from napari_unetpp.gui.correct_work import default_folder, kept_in, user_corrections
from napari_unetpp.gui.elided import ElidedLineEdit
from napari_unetpp.gui.fields import breakable, combo_box, note_label, offer, rows
from napari_unetpp.gui.image_layer import check_axes, suggest_axes
from napari_unetpp.training.corrections import is_corrections

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_unetpp.training.corrections import Unpainted

SHOWN, EMPTY = "shown", "empty"


class CorrectForm(QGroupBox):
    """The form; emits `changed` whenever a choice does."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Image", parent)
        self._images: list[Image] = []
        self._fits = False
        self.image = combo_box("The image layer to correct the labels of.")
        self.axes = QLineEdit()
        self.axes.setMaxLength(5)
        self.axes.setToolTip(
            "What each axis of the image is, one letter each:\nt time, c channel, z slice, y row, x column."
        )
        self.start = combo_box(
            "What is there to begin with: the labels of a level of the prediction of this\n"
            "image, or nothing. The prediction itself is never changed."
        )
        self.unpainted = combo_box(
            "Background: 0 is background, and only what you mark as reviewed counts for training.\n"
            "Not annotated: only what you paint counts; 1 is background, the classes follow.\n"
            "Then scribbles are enough."
        )
        self.unpainted.addItem("background", "background")
        self.unpainted.addItem("not annotated", "ignore")
        self.folder = ElidedLineEdit()
        self.folder.setToolTip("The folder in which the corrections are kept, saved as you paint.")
        self.browse = QToolButton()
        self.browse.setText("…")
        self.browse.setToolTip("Choose a folder")
        self.note = note_label()
        self._lay_out()
        self.image.currentIndexChanged.connect(self._on_image)
        self.axes.textEdited.connect(self._emit_changed)
        self.folder.textChanged.connect(self._emit_changed)
        self.browse.clicked.connect(self._choose_folder)
        for combo in (self.start, self.unpainted):
            combo.currentIndexChanged.connect(self._emit_changed)

    def _lay_out(self) -> None:
        folder = QHBoxLayout()
        folder.setSpacing(4)
        folder.addWidget(self.folder)
        folder.addWidget(self.browse)
        named = [
            ("Layer", self.image),
            ("Axes", self.axes),
            ("Start", self.start),
            ("Unpainted", self.unpainted),
            ("Kept in", folder),
        ]
        form = rows(self, named)
        form.setContentsMargins(6, 6, 6, 8)
        form.addRow(self.note)
        self._rows: dict[str, tuple[QWidget, ...]] = {}
        for text, field in named:
            fields = (self.folder, self.browse) if field is folder else (field,)
            self._rows[text] = (form.labelForField(field), *fields)

    # What is offered

    def set_images(self, images: Sequence[Image], preferred: Image | None = None) -> None:
        """Offer these layers; the chosen one stays chosen while it is among them."""
        chosen = self.chosen_image()
        self._images = list(images)
        offer(self.image, self._images, chosen, preferred)
        if self.chosen_image() is not chosen:
            self._on_image()

    def set_levels(self, levels: Sequence[Level], shown: Level | None) -> None:
        """Offer these levels of a prediction to start from; without any, only nothing."""
        chosen = self.start.currentData()
        with QSignalBlocker(self.start):
            self.start.clear()
            if shown is not None:
                self.start.addItem("the level on the screen", SHOWN)
            for level in levels:
                self.start.addItem(level_name(level), level)
            self.start.addItem("empty", EMPTY)
            places = [i for i in range(self.start.count()) if self.start.itemData(i) == chosen]
            # A prediction that has come is what the user wants to correct.
            self.start.setCurrentIndex(places[0] if places and chosen != EMPTY else 0)

    def show_open(self, path: Path | None) -> None:
        """Hide what cannot be chosen any more once corrections are open, and say where they are."""
        for name in ("Start", "Unpainted", "Kept in"):
            for widget in self._rows[name]:
                widget.setVisible(path is None)
        image = self.chosen_image()
        sure = image is None or suggest_axes(image).certain
        for widget in self._rows["Axes"]:
            widget.setVisible(path is None and not sure)
        text = ""
        if path is not None:
            text = f"Saved as you paint in {path}"
        elif image is not None and (kept := self.path()) is not None:
            text = f"There are corrections of it in {kept}" if self.exists() else f"As {kept.name}"
        self.note.setText(breakable(text))
        self.note.setToolTip(text)
        self.note.setVisible(bool(text))

    # What is chosen

    def chosen_image(self) -> Image | None:
        place = self.image.currentIndex()
        return self._images[place] if 0 <= place < len(self._images) else None

    def chosen_axes(self) -> str:
        """One letter per axis of the data; raises ValueError where they do not fit the image."""
        image = self.chosen_image()
        return check_axes(image, self.axes.text()) if image is not None else ""

    def chosen_start(self) -> Any:
        """A level, `SHOWN` or `EMPTY`."""
        return self.start.currentData() or EMPTY

    def chosen_unpainted(self) -> Unpainted:
        return self.unpainted.currentData()

    def path(self) -> Path | None:
        """Where the corrections are, or would be, kept."""
        image, folder = self.chosen_image(), self.folder.text().strip()
        if image is None or not folder:
            return None
        try:
            return kept_in(Path(folder).expanduser(), image.name)
        except RuntimeError:  # "~somebody" of whom this machine knows nothing
            return None

    def exists(self) -> bool:
        """Whether there are corrections at `path` already."""
        path = self.path()
        return path is not None and is_corrections(path)

    def problem(self) -> str:
        """What is missing, in one line; empty if nothing is."""
        image, path = self.chosen_image(), self.path()
        if image is None:
            return "Open an image first (File > Open, or File > Open Sample)."
        try:
            self.chosen_axes()
        except ValueError as error:
            return str(error)
        if path is None:
            return "Choose a folder in which the corrections are kept."
        if not path.parent.is_dir() and path.parent != user_corrections():
            return f"There is no folder {path.parent}"
        if path.exists() and not self.exists():
            return f"{path} is something else or damaged; choose another folder."
        return ""

    def _on_image(self) -> None:
        image = self.chosen_image()
        if image is not None:
            self.axes.setText(suggest_axes(image).axes)
            source = image.source.path or image.metadata.get("path")
            with QSignalBlocker(self.folder):
                self.folder.setText(str(default_folder(source)))
        self.changed.emit()

    def _choose_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder for corrections", self.folder.text())
        if folder:
            self.folder.setText(folder)

    def _emit_changed(self) -> None:
        self.changed.emit()
