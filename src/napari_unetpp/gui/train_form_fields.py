"""The fields of the Train dock's form, laid out in two groups; `train_form` binds them."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_unetpp.gui.elided import ElidedLineEdit
from napari_unetpp.gui.fields import combo_box, group, note_label, rows, stacked
from napari_unetpp.gui.train_fields import PatchField, number_box
from napari_unetpp.model.presets import PRESET_NAMES

TRAINABLE = {"all": "everything", "decoder": "decoder and heads", "heads": "heads only"}
NO_ENCODER = "none"
ENCODERS = ("resnet34", "vgg19_bn", "resnet152", "densenet201")  # a small one, and those of the paper
AUGMENTATIONS = {"em": "EM", "light": "light microscopy", "anatomy": "anatomy", "none": "none"}


class FormFields(QWidget):
    """Every field of the form, by name."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.start = combo_box("A model that goes on learning, or a new network that knows nothing yet.")
        self.card = note_label()
        self.preset = combo_box("Network of the literature.")
        self.preset.addItems(PRESET_NAMES)
        self.encoder = combo_box(
            "A classification network of timm that reads the image, under the nested decoder;\nany name of timm's may be typed."
        )
        self.encoder.setEditable(True)
        self.encoder.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.encoder.addItems([NO_ENCODER, *ENCODERS])
        self.encoder_note = note_label()
        self._encoder_row = stacked(self.encoder, self.encoder_note)
        self.pretrained = QCheckBox("Trained on photographs")
        self.pretrained.setToolTip("The encoder begins with trained weights, which timm fetches once.")
        self.width = number_box(0, 512, "Channels of the first row; they double downwards.", "as preset")
        self.depth = number_box(0, 10, "Down-samplings: so many levels.", "as preset")
        self.ndim = combo_box("2D: slice by slice. 3D: whole volumes.")
        self.ndim.addItem("2D", 2)
        self.ndim.addItem("3D", 3)
        self.target = combo_box("What the labels mean to the network.")
        self.classes = ElidedLineEdit("object")
        self.classes.setToolTip("Names of the classes, in the order of their labels, with commas between.")
        self.classes_note = note_label()
        self.name = ElidedLineEdit()
        self.name.setToolTip("Name of the new model; it is kept among your models.")
        self.trainable = combo_box(
            "Everything learns most. Decoder and heads, or heads only, change less\nand forget less where little is annotated."
        )
        for key, text in TRAINABLE.items():
            self.trainable.addItem(text, key)
        self.epochs = number_box(1, 100_000, "At most so many rounds.")
        self.patience = number_box(1, 100_000, "Stop after so many epochs without a better score on the held-out part.")
        self.augmentation = combo_box(
            "How patches are changed at random, so that few of them teach more: as images of\n"
            "electron or light microscopes vary, as anatomy does (never mirrored), or no more\nthan turned and mirrored."
        )
        for key, text in AUGMENTATIONS.items():
            self.augmentation.addItem(text, key)
        self.preview_button = QPushButton("Preview …")
        self.preview_button.setToolTip("Look at augmented patches with their labels.")
        self.more_button = QToolButton()
        self.more_button.setText("More")
        self.more_button.setCheckable(True)
        self.more_button.setAutoRaise(True)
        self.more_button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.steps = number_box(1, 100_000, "Batches in an epoch, after which the held-out part is scored.")
        self.batch = number_box(0, 4096, "Patches in a batch.", "automatic")
        self.patch = PatchField(
            "Voxels of a patch, multiples of 2 to the power of the depth: one number,\n"
            "or one for each of z, y, x where slices are thick, as in 16 x 96 x 96."
        )
        self.rate = QDoubleSpinBox()
        self.rate.setDecimals(6)
        self.rate.setRange(1e-6, 1)
        self.rate.setSingleStep(1e-4)
        self.rate.setToolTip("How far a step goes (Adam).")
        self.seed = number_box(0, 2**31 - 1, "Decides all that is random; the same seed gives the same model.")
        self.balance = QCheckBox("Rare classes weigh more")
        self.replay = QCheckBox("Replay the model's own data")
        self.replay.setToolTip(
            "Against forgetting: patches of the model's own training data, where this computer has them."
        )
        self.device = combo_box("Where the network is trained, out of what torch finds here.")
        self._lay_out()

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        looked = QHBoxLayout()
        looked.setSpacing(6)
        looked.addWidget(self.augmentation, 1)
        looked.addWidget(self.preview_button)
        model: list[tuple[str, Any]] = [
            ("Start", stacked(self.start, self.card)),
            ("Encoder", self._encoder_row),
            ("", self.pretrained),
            ("Preset", self.preset),
            ("Width", self.width),
            ("Depth", self.depth),
            ("Slices", self.ndim),
            ("Labels", self.target),
            ("Classes", stacked(self.classes, self.classes_note)),
            ("Name", self.name),
        ]
        training: list[tuple[str, Any]] = [
            ("Learns", self.trainable),
            ("Epochs", self.epochs),
            ("Patience", self.patience),
            ("Augment", looked),
        ]
        more: list[tuple[str, Any]] = [
            ("Steps", self.steps),
            ("Batch", self.batch),
            ("Patch", self.patch),
            ("Rate", self.rate),
            ("Seed", self.seed),
            ("Device", self.device),
            ("", self.balance),
            ("", self.replay),
        ]
        box, self._model_rows = group("Model", model)
        layout.addWidget(box)
        box, training_rows = group("Training", training)
        training_rows.addRow(self.more_button)
        self.more = QWidget()
        self._more_rows = rows(self.more, more)
        training_rows.addRow(self.more)
        layout.addWidget(box)
