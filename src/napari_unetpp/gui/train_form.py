"""What the user chooses before a run: what to start from, classes, what is trained and how.

The form says in one line what is missing (`TrainForm.problem`) and what is chosen (`TrainForm.values`). It reads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QWidget

from napari_unetpp.gui.train_form_fields import NO_ENCODER, FormFields
from napari_unetpp.gui.train_labels import EACH, EVERY
from napari_unetpp.gui.train_work import Scratch
from napari_unetpp.model.names import check_name
from napari_unetpp.model.presets import PRESET_NAMES
from napari_unetpp.model.zoo import check_free, free_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_unetpp.gui.catalogue import Catalogue, ModelChoice

SCRATCH = "From scratch"
TIMM_MISSING = 'Encoders need timm: pip install "napari-unetpp[backbones]".'
VOLUMETRIC = tuple(name for name in PRESET_NAMES if "v-net" in name or name.startswith("vnet"))
# A fine-tuning on a laptop is over in minutes; who trains from scratch has patience.
PATCH = 96  # as in the papers
TUNING, ANEW = {"epochs": 10, "patience": 6}, {"epochs": 100, "patience": 20}


@dataclass(frozen=True, slots=True)
class Choices:
    """A complete form."""

    start: Path | Scratch
    parent: str
    name: str
    classes: tuple[str, ...]
    options: dict[str, Any]
    replay: bool


class TrainForm(FormFields):
    """The form; emits `changed` whenever a choice does."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._models: dict[str, ModelChoice] = {}
        self._named_by_hand = self._counted_by_hand = self._target_by_hand = self._cut_by_hand = False
        self.epochs.setValue(TUNING["epochs"])
        self.patience.setValue(TUNING["patience"])
        self.steps.setValue(20)
        self.patch.setValue(PATCH)
        self.rate.setValue(1e-3)  # with the cosine: the best on few slices (docs/training.md)
        self.set_targets([("every label is the class", EVERY)])
        self._connect()
        self._on_more(False)

    def _connect(self) -> None:
        self.start.currentIndexChanged.connect(self._on_start)
        self.preset.currentIndexChanged.connect(self._on_preset)
        self.target.currentIndexChanged.connect(self._on_target)
        self.target.activated.connect(self._on_target_chosen)
        self.name.textEdited.connect(self._on_name)
        self.more_button.toggled.connect(self._on_more)
        for number in (self.epochs, self.patience):
            number.valueChanged.connect(self._on_count)
        self.encoder.currentTextChanged.connect(self._on_encoder)
        self.ndim.currentIndexChanged.connect(self._on_encoder)
        for combo in (self.trainable, self.augmentation, self.device):
            combo.currentIndexChanged.connect(self._emit_changed)
        for number in (self.width, self.depth, self.steps, self.batch, self.rate, self.seed):
            number.valueChanged.connect(self._emit_changed)
        self.patch.textChanged.connect(self._on_patch)
        for text in (self.classes, self.name):
            text.textChanged.connect(self._emit_changed)
        for box in (self.balance, self.replay, self.pretrained):
            box.toggled.connect(self._emit_changed)

    # What is offered

    def set_catalogue(self, catalogue: Catalogue, preferred: str) -> None:
        """Offer these models and devices; the `preferred` model where none was chosen yet."""
        chosen, device = self.start.currentText() or preferred, self.device.currentData() or "auto"
        with QSignalBlocker(self.start), QSignalBlocker(self.device):
            self._models = {model.name: model for model in catalogue.models if model.header is not None}
            self.start.clear()
            self.start.addItems([*self._models, SCRATCH])
            self.start.setCurrentIndex(max(0, self.start.findText(chosen)))
            self.device.clear()
            for key, text in catalogue.devices.offered:
                self.device.addItem(text, key)
            self.device.setCurrentIndex(max(0, self.device.findData(device)))
        self.device.setToolTip(catalogue.devices.about)
        self._on_start()

    def set_targets(self, targets: Sequence[tuple[str, str | int]], names: Sequence[str] = ()) -> None:
        """Offer what can be made of the labels; `names` are those that the labels themselves give to their classes."""
        chosen = self.target.currentData() if self._target_by_hand else None
        with QSignalBlocker(self.target):
            self.target.clear()
            for text, value in targets:
                self.target.addItem(text, value)
            self.target.setCurrentIndex(max(0, self.target.findData(chosen)))
        if names and self.target.currentData() == EACH and not self.classes.isModified():
            self.classes.setText(", ".join(names))
        self._on_target()

    def parent_choice(self) -> ModelChoice | None:
        """The model to start from; None from scratch."""
        return self._models.get(self.start.currentText())

    @property
    def from_scratch(self) -> bool:
        return self.start.currentText() == SCRATCH

    # What is chosen

    def class_names(self) -> tuple[str, ...]:
        """Names of the classes of a new network."""
        return tuple(name.strip() for name in self.classes.text().split(",") if name.strip())

    def encoder_name(self) -> str:
        """Name that timm has for the encoder of a new network; empty for none."""
        text = self.encoder.currentText().strip()
        offered = self.from_scratch and self.ndim.currentData() == 2
        return text if offered and text != NO_ENCODER else ""

    def problem(self, highest: int = 0) -> str:
        """What is missing, in one line; empty if nothing is.

        Parameters
        ----------
        highest
            The highest class that is painted; 0 while that is not known.
        """
        if not self.start.count():
            return "Looking for models …"
        names, model = self.class_names(), self.parent_choice()
        if self.from_scratch:
            if self.encoder_name() and find_spec("timm") is None:
                return TIMM_MISSING
            if not names:
                return "Name the class, or the classes with commas between."
            if self.target.currentData() == EACH and len(names) < max(2, highest):
                return (
                    f"The labels hold {max(2, highest)} classes; name as many, with commas between (now {len(names)})."
                )
            if self.target.currentData() != EACH and len(names) > 1:
                return f"One class is learned; name one (now {len(names)})."
        if text := self.patch.problem(model.header.spec.ndim if model and model.header else self.ndim.currentData()):
            return text
        try:
            check_name(self.name.text())
            check_free(self.name.text())
        except (ValueError, FileExistsError) as error:
            return str(error)
        return ""

    def choices(self) -> Choices:
        """What is chosen; only while there is no `problem`."""
        model, target = self.parent_choice(), self.target.currentData()
        options = {
            "epochs": self.epochs.value(),
            "steps": self.steps.value(),
            "patience": self.patience.value(),
            "batch": self.batch.value(),
            "patch": self.patch.value(),
            "learning_rate": self.rate.value(),
            "schedule": "cosine",
            "seed": self.seed.value(),
            "foreground": target if isinstance(target, int) else 0,
            "augmentation": self.augmentation.currentData(),
            "trainable": self.trainable.currentData(),
            "balance": self.balance.isChecked(),
            "device": self.device.currentData() or "auto",
        }
        if model is not None:
            return Choices(model.path, model.name, self.name.text(), (), options, self.replay.isChecked())
        size = Scratch(
            self.preset.currentText(),
            self.width.value() or None,
            self.depth.value() or None,
            self.ndim.currentData(),
            self.encoder_name(),
        )
        if size.encoder and self.pretrained.isChecked():
            options["encoder_weights"] = "timm"
        return Choices(size, "", self.name.text(), self.class_names(), options, replay=False)

    # What follows from a choice

    def _on_start(self, _place: int = 0) -> None:
        model, scratch = self.parent_choice(), self.from_scratch
        for field in (self.width, self.depth, self.ndim):
            self._model_rows.setRowVisible(field, scratch)
        self.classes.setReadOnly(not scratch)
        self._more_rows.setRowVisible(self.replay, not scratch)
        self.card.setText(model.summary if model else "")
        self.card.setToolTip(model.details if model else "")
        self.card.setVisible(bool(self.card.text()))
        if model is not None and model.header is not None:
            classes = model.header.card.classes
            self.classes.setText(", ".join(info.name for info in (classes if len(classes) == 1 else classes[1:])))
            self.classes.setModified(False)
        if not self._named_by_hand:
            self.suggest_name()
        if not self._cut_by_hand:
            own = model.header.card.tiling.get("patch") if model is not None and model.header is not None else None
            with QSignalBlocker(self.patch):
                self.patch.setValue(tuple(own) if isinstance(own, list) else PATCH)  # a shape that somebody chose
        if not self._counted_by_hand:
            for field, key in ((self.epochs, "epochs"), (self.patience, "patience")):
                with QSignalBlocker(field):
                    field.setValue((ANEW if scratch else TUNING)[key])
        self._on_preset()

    def suggest_name(self) -> None:
        """A name that no model has."""
        with QSignalBlocker(self.name):
            self.name.setText(free_name("new model" if self.from_scratch else f"{self.start.currentText()} tuned"))
        self._named_by_hand = False

    def _on_preset(self, _place: int = 0) -> None:
        volumetric = self.preset.currentText() in VOLUMETRIC
        if volumetric:
            self.ndim.setCurrentIndex(self.ndim.findData(3))
        self.ndim.setEnabled(not volumetric)
        self._on_encoder()

    def _on_encoder(self, _choice: object = None) -> None:
        chosen, scratch = bool(self.encoder_name()), self.from_scratch
        self._model_rows.setRowVisible(self._encoder_row, scratch and self.ndim.currentData() == 2)
        self._model_rows.setRowVisible(self.pretrained, chosen)
        self._model_rows.setRowVisible(self.preset, scratch and not chosen)
        self.ndim.setEnabled(not chosen and self.preset.currentText() not in VOLUMETRIC)
        for number, usual in ((self.width, "32"), (self.depth, "4")):
            number.setSpecialValueText(usual if chosen else "as preset")
        missing = chosen and find_spec("timm") is None
        self.encoder_note.setText(TIMM_MISSING if missing else "")
        self.encoder_note.setVisible(missing)
        self.changed.emit()

    def _on_target(self, _place: int = 0) -> None:
        names = self.class_names()
        numbered = self.target.currentData() == EACH
        text = ", ".join(f"{k} {name}" for k, name in enumerate(names, start=1)) if numbered else ""
        self.classes_note.setText(text)
        self.classes_note.setVisible(bool(text) and len(names) > 1)
        self.changed.emit()

    def _on_target_chosen(self, _place: int) -> None:
        self._target_by_hand = True

    def _on_name(self) -> None:
        self._named_by_hand = True

    def _on_patch(self) -> None:
        self._cut_by_hand = True
        self.changed.emit()

    def _on_count(self) -> None:
        self._counted_by_hand = True
        self.changed.emit()

    def _on_more(self, shown: bool) -> None:
        self.more.setVisible(shown)
        self.more_button.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)

    def _emit_changed(self) -> None:
        self.changed.emit()
