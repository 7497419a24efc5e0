"""Corrections as a Labels layer that is painted on, lying on its image.

Decides, in this order: what belongs to a layer of corrections (`OpenCorrections`), how one is made (`add_corrections`), and
how all of a viewer are found (`corrections_in`). The layer is the user's: where it is removed the folder stays, free for
others.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from napari.utils import DirectLabelColormap
from napari.utils.notifications import show_warning
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_unetpp.gui.correct_array import PaintedLabels
from napari_unetpp.gui.correct_work import free_folder, user_corrections
from napari_unetpp.gui.image_layer import extents
from napari_unetpp.gui.jobs import JobError
from napari_unetpp.gui.level_colors import OPACITY
from napari_unetpp.gui.placing import place_like, placement, when_placed
from napari_unetpp.gui.status import report
from napari_unetpp.gui.versions import unwrapped
from napari_unetpp.training.corrections_folder import CorrectionsError

if TYPE_CHECKING:
    from pathlib import Path

    from napari import Viewer
    from napari.layers import Labels

    from napari_unetpp.box import Box
    from napari_unetpp.training.corrections import Corrections

log = logging.getLogger(__name__)

CORRECTIONS_KEY = "napari-unetpp corrections"  # in the metadata of the layer
BRUSH = 10  # voxels
WHAT_NOW = "What you painted is in memory alone: press 'Save elsewhere' in the Correct dock."
BACKGROUND = "#b0b0b0"  # of voxels that a person calls background, which only "not annotated" has to show


class OpenCorrections:
    """Corrections that are on the screen.

    Lives as long as the layer, which holds it in its metadata.

    Attributes
    ----------
    layer : Labels
    corrections : Corrections
    painted : PaintedLabels
        The data of the layer.
    axes : str
        Of the image's data, one letter each.
    """

    gone = Signal()
    """The layer was removed; the folder is closed."""

    failed = Signal(OSError)
    """Why strokes are not on the disk; they are in memory, and `save_elsewhere` writes them."""

    saved = Signal()
    """What was in memory alone is on the disk again."""

    def __init__(self, viewer: Viewer, layer: Labels, corrections: Corrections, image: Image, axes: str) -> None:
        self.layer, self.corrections, self.axes = layer, corrections, axes
        self.painted: PaintedLabels = layer.data
        self._viewer, self._image = weakref.ref(viewer), weakref.ref(image)
        self._image_name = image.name
        when_placed(image, self._on_image_placed)
        viewer.layers.events.removing.connect(self._on_removing)
        viewer.layers.events.removed.connect(self._on_removed)
        self._told = ""  # the fault that was told last
        self.painted.failed.connect(self._on_failed)
        self.painted.written.connect(self._on_written)

    @property
    def viewer(self) -> Viewer | None:
        """The viewer that the layer was added to; None once it is gone."""
        return self._viewer()

    @property
    def image_layer(self) -> Image | None:
        """The image that is corrected, if the viewer still has it."""
        image, viewer = self._image(), self._viewer()
        if image is None or viewer is None or image not in viewer.layers:
            return None
        self._image_name = image.name
        return image

    @property
    def image(self) -> str:
        """Name of the image layer, the last that it was seen to have."""
        image = self.image_layer
        return image.name if image is not None else self._image_name

    @property
    def saves(self) -> bool:
        """Whether what is painted goes to the disk: nobody gave the layer other data, or closed the folder."""
        return self.layer.data is self.painted and self.corrections.writable

    def look(self) -> None:
        """Tell where the folder is gone, also before somebody paints."""
        if self.layer.data is self.painted and (fault := self.corrections.check()) is not None:
            self._on_failed(fault)

    def retry(self) -> None:
        """Write what is in memory alone to where it belongs, or tell why not."""
        self._told = ""
        self._after(self.corrections.retry())

    def save_elsewhere(self, path: Path) -> bool:
        """Write all corrections into a new folder and go on there; whether nothing is missing. Raises OSError and ValueError."""
        whole = self.corrections.save_elsewhere(path)
        self._after(None)
        return whole

    def _after(self, fault: OSError | None) -> None:
        if fault is not None:
            self._on_failed(fault)
            return
        self._told = ""
        self._show_stored()
        self.saved.emit()

    def recolor(self) -> None:
        """Show the classes in their colours."""
        self.layer.colormap = DirectLabelColormap(color_dict=correction_colors(self.corrections))

    def _on_image_placed(self, event: Any) -> None:
        """The image was scaled, moved or turned after the corrections were opened."""
        image = self._image()
        if event.source is image and image is not None and extents(image) == self.painted.shape:
            place_like([self.layer], image)

    def _on_removing(self, event: Any) -> None:
        viewer = self.viewer
        if viewer is not None and viewer.layers[event.index] is self.layer and self.layer.mode != "pan_zoom":
            self.layer.mode = "pan_zoom"
            # napari 0.9 ends in the graphics driver when a layer with a brush goes and the next Labels layer comes
            # (napari#8471 looks like it), unless a frame was drawn without the brush in between.
            viewer.screenshot(flash=False)

    def _on_removed(self, event: Any) -> None:
        if event.value is self.layer:
            self.rescue()
            self.corrections.close()
            viewer = self.viewer
            if viewer is not None:
                viewer.layers.events.removing.disconnect(self._on_removing)
                viewer.layers.events.removed.disconnect(self._on_removed)
            self.gone.emit()

    def rescue(self) -> None:
        """Save strokes that are in memory alone among the user's corrections, because the layer or the window goes."""
        if self.corrections.fault is None or self.corrections.retry() is None:
            return
        path = free_folder(user_corrections(), self.image)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.corrections.save_elsewhere(path)
        except (OSError, ValueError) as error:
            report(JobError(error))
            return
        text = f"Corrections of {self.image} could not be saved in their folder. They were saved in {path}"
        show_warning(text)
        log.warning(text)  # where the window goes, this is all that is left to read

    def _on_written(self, _box: Box) -> None:
        if self._told and self.corrections.fault is None:
            self._told = ""
            self.saved.emit()

    def _on_failed(self, error: OSError) -> None:
        if str(error) != self._told:
            self._told = str(error)
            kept = self.corrections.writable
            if not kept:
                self.layer.mode = "pan_zoom"  # no brush that leaves nothing behind; else the stroke goes on in memory
            why = str(error.strerror)
            text = f"{why[:1].upper()}{why[1:]}. {WHAT_NOW if kept else ''} Image {self.image}, folder {error.filename}"
            report(JobError(OSError(" ".join(text.split()))))
            self.failed.emit(error)
        QTimer.singleShot(0, self._show_stored)  # when napari has drawn what is not there

    def _show_stored(self) -> None:
        self.layer.refresh(extent=False)


def correction_colors(corrections: Corrections) -> dict[int | None, str]:
    """Colour by label; what nobody annotated and, where that is the rule, what is background are transparent."""
    colors: dict[int | None, str] = {None: "transparent"}
    for label, info in corrections.legend.items():
        colors[label] = label_color(info) if label else "transparent"
    return colors


def label_color(info: Any) -> str:
    """Colour of an entry of the legend."""
    return "transparent" if info is None else info.color or BACKGROUND


def first_class(corrections: Corrections) -> int:
    """The label of the first class, which a brush paints to begin with."""
    return 2 if corrections.unpainted == "ignore" else 1


def check_fits(corrections: Corrections, image: Image, axes: str) -> None:
    """Refuse corrections of an image of another shape.

    Raises
    ------
    CorrectionsError
        Naming both shapes.
    """
    extent = dict(zip(axes, extents(image), strict=False))
    found = tuple(extent.get(axis, 0) for axis in corrections.axes)
    lacks = [axis for axis in axes[: image.ndim] if axis not in corrections.axes + "c"]
    if found != corrections.shape or lacks:
        raise CorrectionsError(
            f"{corrections.path} corrects an image of {_text(corrections.shape)} ({corrections.axes}), but {image.name} has "
            f"{_text(extents(image))} ({axes[: image.ndim]}); choose the image that they were made for, or another folder"
        )


def add_corrections(viewer: Viewer, image: Image, axes: str, corrections: Corrections) -> OpenCorrections:
    """The layer of open corrections, above its image, its brush ready.

    Call it in the thread of the window only.

    Parameters
    ----------
    axes
        Of the image's data, one letter each out of "tczyx".

    Raises
    ------
    CorrectionsError
        Where they are of an image of another shape; they are closed then.
    """
    viewer, image = unwrapped(viewer), unwrapped(image)
    try:
        check_fits(corrections, image, axes)
    except CorrectionsError:
        corrections.close()
        raise
    layer = viewer.add_labels(
        PaintedLabels(corrections, axes, extents(image)),
        name=f"Corrections ({image.name})",
        colormap=DirectLabelColormap(color_dict=correction_colors(corrections)),
        opacity=OPACITY,
        multiscale=False,
        cache=False,
        **placement(image),
    )
    opened = OpenCorrections(viewer, layer, corrections, image, axes)
    layer.metadata = {**layer.metadata, CORRECTIONS_KEY: opened}
    layer.brush_size = BRUSH
    layer.selected_label = first_class(corrections)
    viewer.layers.selection.active = layer
    layer.mode = "paint"
    return opened


def corrections_in(viewer: Viewer) -> list[OpenCorrections]:
    """The corrections that are layers of the viewer, in the order of the layers."""
    found = ((layer, layer.metadata.get(CORRECTIONS_KEY)) for layer in viewer.layers)
    return [
        opened for layer, opened in found if isinstance(opened, OpenCorrections) and opened.layer is unwrapped(layer)
    ]


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
