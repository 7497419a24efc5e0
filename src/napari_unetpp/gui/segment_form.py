"""What the user chooses before a run: image, axes, region, model, levels, tiling, planes, device, speed, output.

The form checks what it can without reading a voxel and says in one line what is missing
(`SegmentForm.problem`); everything else is checked by the run. It computes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Shapes
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_unetpp.gui.axis_names import AxisNames
from napari_unetpp.gui.elided import ElidedLineEdit
from napari_unetpp.gui.fields import breakable, combo_box, group, note_label, offer, stacked
from napari_unetpp.gui.image_layer import check_axes, suggest_axes
from napari_unetpp.gui.segment_channel import ChannelField, offered_channels
from napari_unetpp.gui.segment_intensity import IntensityField
from napari_unetpp.gui.segment_planes import PlanesField, planes_reason
from napari_unetpp.gui.segment_resolution import resolution_note

if TYPE_CHECKING:
    from napari_unetpp.gui.catalogue import Catalogue, ModelChoice
    from napari_unetpp.gui.preferences import Preferences
    from napari_unetpp.model.intensity import Over

WHOLE, SLICE, SCREEN = "stack", "slice", "screen"


@dataclass(frozen=True, slots=True)
class Choices:
    """A complete and plausible form; `region` is `WHOLE`, `SLICE`, `SCREEN`, or the layer whose shapes bound it."""

    image: Image
    axes: str
    region: str | Shapes
    model: ModelChoice
    level: int
    tiling: str
    planes: bool
    device: str
    fast: bool
    folder: Path | None
    intensity: Over | None = None
    channel: int | None = None


class SegmentForm(QWidget):
    """The form; emits `changed` whenever a choice does."""

    changed = Signal()

    def __init__(self, preferred: Preferences, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._preferred = preferred
        self._models: dict[str, ModelChoice] = {}
        self._images: list[Image] = []
        self._shapes: list[Shapes] = []
        self._groups: dict[str, QFormLayout] = {}
        self.image = combo_box("The image layer to segment.")
        self.axes = QLineEdit()
        self.axes.setMaxLength(5)
        self.axes_note = note_label()
        self.axis_names = AxisNames(self)
        self.channel = ChannelField()
        self.region = combo_box(
            "The whole stack, the slice where the sliders stand, what is on the screen,\n"
            "or what the selected shapes of a Shapes layer bound (all, if none is selected).\n"
            "What is on the screen comes first in any case."
        )
        self.model = combo_box("Models that ship with the plugin, and your own.")
        self.card = note_label()
        self.resolution = note_label()
        self.level = combo_box(
            "The deepest level to predict. All levels up to it are kept;\na lower one takes less time."
        )
        self.tiling = combo_box(
            "Overlap: patches that overlap by half, their probabilities combined.\n"
            "Seamless: each voxel predicted once, equal to one pass over the\n"
            "whole image, and several times faster."
        )
        self.planes = PlanesField(preferred.planes == "zyx")
        self.intensity = IntensityField()
        self.device = combo_box("Where the network runs, out of what torch finds here.")
        self.device_note = note_label()
        self.device_note.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.speed = combo_box(
            "Fast: on the CPU in 8-bit integers, several times faster. It is tried\n"
            "on patches of the image first; how many labels stay the same is\n"
            "told below, and where too few do, the run is exact."
        )
        self.speed.addItem("Exact", False)
        self.speed.addItem("Fast (8 bit)", True)
        self.folder = ElidedLineEdit()
        self.folder.setPlaceholderText("temporary")
        self.folder.setToolTip(
            "A folder for the predictions (OME-Zarr).\nEmpty: a temporary one, removed when napari closes."
        )
        self.folder.setClearButtonEnabled(True)
        self.folder.setText(str(preferred.output_folder or ""))
        self.browse = QToolButton()
        self.browse.setText("…")
        self.browse.setToolTip("Choose a folder")
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        axes = stacked(self.axes, self.axes_note)
        axes.addWidget(self.axis_names)
        folder = QHBoxLayout()
        folder.setSpacing(4)
        folder.addWidget(self.folder)
        folder.addWidget(self.browse)
        fields: dict[str, list[tuple[str, Any]]] = {
            "Image": [
                ("Layer", self.image),
                ("Axes", axes),
                ("Channel", self.channel),
                ("Region", stacked(self.region, self.resolution)),
            ],
            "Model": [
                ("Name", stacked(self.model, self.card)),
                ("Levels", self.level),
                ("Tiling", self.tiling),
                ("Planes", self.planes),
                ("Intensity", self.intensity),
                ("Device", stacked(self.device, self.device_note)),
                ("Speed", self.speed),
                ("Output", folder),
            ],
        }
        for title, widgets in fields.items():
            box, rows = group(title, widgets)
            self._groups[title] = rows
            layout.addWidget(box)

    def _connect(self) -> None:
        self.image.currentIndexChanged.connect(self._on_image)
        self.model.currentIndexChanged.connect(self._on_model)
        self.axes.textEdited.connect(self._on_axes)
        self.folder.textChanged.connect(self._emit_changed)
        self.browse.clicked.connect(self.choose_folder)
        self.planes.chosen.connect(self._emit_changed)
        self.intensity.chosen.connect(self._emit_changed)
        self.channel.chosen.connect(self._emit_changed)
        for combo in (self.region, self.level, self.tiling, self.device, self.speed):
            combo.currentIndexChanged.connect(self._emit_changed)

    def set_images(self, images: Sequence[Image], preferred: Image | None = None) -> None:
        """Offer these layers; the chosen one stays chosen while it is among them."""
        chosen = self.chosen_image()
        self._images = list(images)
        offer(self.image, self._images, chosen, preferred)
        if self.chosen_image() != chosen:
            self._on_image()

    def set_catalogue(self, catalogue: Catalogue, preferred: str) -> None:
        """Offer these models and devices; the `preferred` model where none was chosen yet."""
        chosen, device = self.model.currentText() or preferred, self.device.currentData()
        before, kept = self.chosen_model(), {box: box.currentData() for box in (self.level, self.tiling)}
        with QSignalBlocker(self.model), QSignalBlocker(self.device):
            self._models = {model.name: model for model in catalogue.models}
            self.model.clear()
            self.model.addItems(list(self._models))
            self.model.setCurrentIndex(max(0, self.model.findText(chosen)))
            self.device.clear()
            for key, text in catalogue.devices.offered:
                self.device.addItem(text, key)
            self.device.setCurrentIndex(max(0, self.device.findData(device or self._preferred.device)))
        self.device.setToolTip(catalogue.devices.about)
        self.device_note.setText(f"{catalogue.devices.hint} To use it:\n{breakable(catalogue.devices.command)}")
        self.device_note.setVisible(bool(catalogue.devices.hint))
        self._on_model()
        if before is not None and before == self.chosen_model():  # the others have changed
            for box, value in kept.items():
                box.setCurrentIndex(max(0, box.findData(value)))

    def set_shapes(self, shapes: Sequence[Shapes]) -> None:
        """Offer these layers as regions; the chosen region stays chosen while it is among them."""
        self._shapes = list(shapes)
        self._offer_regions()

    def _offer_regions(self) -> None:
        image, chosen = self.chosen_image(), self.region.currentData()
        planar = image is None or image.ndim == 2
        with QSignalBlocker(self.region):
            self.region.clear()
            self.region.addItem("Whole image" if planar else "Whole stack", WHOLE)
            if not planar:
                self.region.addItem("Current slice", SLICE)
            self.region.addItem("What is on the screen", SCREEN)
            for layer in self._shapes:
                self.region.addItem(f"Shapes: {layer.name}", layer)
            places = [i for i in range(self.region.count()) if self.region.itemData(i) == chosen]
            self.region.setCurrentIndex(places[0] if places else 0)
        if self.region.currentData() != chosen:
            self.changed.emit()

    def chosen_image(self) -> Image | None:
        place = self.image.currentIndex()
        return self._images[place] if 0 <= place < len(self._images) else None

    def chosen_model(self) -> ModelChoice | None:
        return self._models.get(self.model.currentText())

    def problem(self) -> str:
        """What is missing before a run can start, in one line; empty if nothing is."""
        image, model = self.chosen_image(), self.chosen_model()
        if image is None:
            return "Open an image first (File > Open, or File > Open Sample)."
        try:
            check_axes(image, self.axes.text())
        except ValueError as error:
            return str(error)
        if model is None:
            return "There is no model."
        if model.header is None:
            return model.problem
        if self.channel.missing:
            return f"{image.name} has {self.channel.count_of_image} channels (axis c); choose which of them the model takes."
        if self.folder.text() and not Path(self.folder.text()).expanduser().is_dir():
            return f"There is no output folder {self.folder.text()}"
        return ""

    def choices(self) -> Choices:
        """What is chosen; only while there is no `problem`."""
        image, model = self.chosen_image(), self.chosen_model()
        if problem := self.problem():
            raise ValueError(problem)
        assert image is not None
        assert model is not None
        folder = self.folder.text()
        return Choices(
            image=image,
            axes=check_axes(image, self.axes.text()),
            region=self.region.currentData(),
            model=model,
            level=self.level.currentData(),
            tiling=self.tiling.currentData(),
            planes=self.planes.three,
            device=self.device.currentData(),
            fast=self.speed.currentData(),
            folder=Path(folder).expanduser() if folder else None,
            intensity=self.intensity.over,
            channel=self.channel.channel,
        )

    def _on_image(self) -> None:
        image = self.chosen_image()
        suggestion = suggest_axes(image) if image is not None else None
        self.axes.setText(suggestion.axes if suggestion else "")
        self.axes.setToolTip(
            "What each axis of the image is, one letter each:\n"
            "t time, c channel, z slice, y row, x column." + (f"\nNow: {suggestion.reason}." if suggestion else "")
        )
        self._offer_regions()
        self._offer_planes()
        self._note_axes("" if suggestion is None or suggestion.certain else suggestion.reason)
        self.changed.emit()

    def _on_axes(self) -> None:
        image = self.chosen_image()
        note = ""
        if image is not None:
            try:
                check_axes(image, self.axes.text())
            except ValueError as error:
                note = str(error)
        self._offer_planes()
        self._note_axes(note)
        self.changed.emit()

    def _note_axes(self, note: str) -> None:
        self.axes_note.setText(note)
        self.axes_note.setVisible(bool(note))

    def _on_model(self) -> None:
        model = self.chosen_model()
        with QSignalBlocker(self.level), QSignalBlocker(self.tiling):
            self.level.clear()
            self.tiling.clear()
            for level, text in model.levels if model else ():
                self.level.addItem(text, level)
            self.level.setCurrentIndex(self.level.count() - 1)
            for kind, text in model.tilings if model else ():
                self.tiling.addItem(text, kind)
            self.tiling.setCurrentIndex(max(0, self.tiling.findData(self._preferred.tiling)))
        self.card.setText(model.summary if model else "")
        self.card.setToolTip(model.details if model else "")
        self.card.setVisible(bool(self.card.text()))
        self.intensity.follow(model)
        self._offer_planes()
        self.changed.emit()

    def _offer_planes(self) -> None:
        image, axes, model = self.chosen_image(), self.axes.text(), self.chosen_model()
        self.planes.offer(planes_reason(image, axes, model), self._groups["Model"])
        self.resolution.setText(resolution_note(image, axes, model))
        self.resolution.setVisible(bool(self.resolution.text()))
        try:
            channels = offered_channels(image, check_axes(image, axes), model) if image is not None else []
        except ValueError:  # the form says it
            channels = []
        self.channel.offer(image, channels, self._groups["Image"])

    def choose_folder(self) -> bool:
        """Ask for the folder of the predictions; whether one was chosen."""
        folder = QFileDialog.getExistingDirectory(self, "Folder for predictions", self.folder.text())
        if folder:
            self.folder.setText(folder)
        return bool(folder)

    def _emit_changed(self) -> None:
        self.changed.emit()
