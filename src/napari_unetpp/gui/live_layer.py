"""The live preview as a layer: labels where the view was taken, nothing where a run has stored something.

Decides, in this order: how an answer is drawn (`LiveLayer.show`), where it lies, and its colours.

The layer has the extent of its image and is empty outside the view, because new labels in the same
place are drawn five times sooner than a layer that moves or appears. Where planes are so large that
drawing them takes long, it has the extent of the view instead, and moves with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from napari.utils import DirectLabelColormap
from napari.utils.transforms import Affine
from qtpy.QtCore import QTimer

from napari_unetpp._image_axes import in_image_axes
from napari_unetpp.gui.comparison import ENSEMBLE
from napari_unetpp.gui.image_layer import extents
from napari_unetpp.gui.level_colors import LEVEL_COLORS, OPACITY
from napari_unetpp.gui.live import ENSEMBLE_LABEL, Looked
from napari_unetpp.gui.placing import placement, selection_kept
from napari_unetpp.inference.labels import LazyLabels

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels
    from numpy.typing import NDArray

    from napari_unetpp.box import ArrayLike, Box
    from napari_unetpp.model.card import ClassInfo
    from napari_unetpp.stacks import Stack

LIVE_KEY = "napari-unetpp live"  # in the metadata of the layer
DRAWN_MS = 500  # after which a layer that became visible has been drawn
LARGEST_PLANE = 2048**2  # voxels of a plane that is drawn as a whole


class LiveLayer:
    """The one preview of a viewer; made when there is something to see.

    Attributes
    ----------
    layer : Labels or None
    """

    def __init__(self, viewer: Viewer, title: str = "live") -> None:
        self._viewer, self._title = viewer, title
        self.layer: Labels | None = None
        self._looked: Looked | None = None
        self._classes: Sequence[ClassInfo] = ()
        self._contour = 0
        self._moves = False
        self._over: tuple[Image, str, Stack] | None = None  # the image, its axes, and it for the engine

    def begin(self, classes: Sequence[ClassInfo], *, stay: bool = False) -> None:
        """Another image or model: what was shown is not of it, and goes unless it may `stay` and has the same classes."""
        if not stay or tuple(classes) != tuple(self._classes):
            self.remove()
        self._classes = classes

    def show(self, image: Image, axes: str, stack: Stack, looked: Looked) -> None:
        """Draw an answer over its image; the layer is made with the first that holds a label.

        Parameters
        ----------
        axes
            Of the image's data.
        stack
            The same image for the engine, whose prediction axes are those of the labels.
        """
        if looked.reached is not None and looked.empty:
            self.empty()
            return
        moved = self._moves and (self._looked is None or self._looked.box != looked.box)
        self._looked = looked
        if self.layer is None:
            if not looked.empty:
                self._moves = math.prod(stack.shape_predicted[-2:]) > LARGEST_PLANE
                self._add(image, axes, stack, looked.box)
        elif moved:
            self.layer.visible = False  # draw once, and not the old labels at the new place
            self.layer.translate = self._translate(image, axes, stack, looked.box)
            self.layer.data = self._data(image, axes, stack, looked.box)
            self.layer.visible = True
        else:
            self._redraw()

    def clear(self, box: Box) -> None:
        """Empty a box, in prediction axes."""
        looked = self._looked
        if looked is None or self.layer is None:
            return
        part = box.intersect(looked.box)
        if part.size:
            looked.labels[part.shift([-a for a in looked.box.start]).slices] = 0
            self._redraw()

    def empty(self) -> None:
        """Nothing of what is on the screen is live."""
        if self._looked is not None:
            self._looked = None
            self._redraw()

    def _redraw(self) -> None:
        if self.layer is not None:
            if not self.layer.visible:
                self.layer.visible = True
            self.layer.refresh(extent=False)

    def set_contour(self, width: int) -> None:
        """Outlines of so many voxels; 0 fills the labels."""
        self._contour = width
        if self.layer is not None:
            self.layer.contour = width

    def hide(self) -> None:
        if self.layer is not None and self.layer.visible:
            self.layer.visible = False

    def remove(self) -> None:
        layer = self.layer
        self.forget()
        if layer is None or layer not in self._viewer.layers:
            return
        if layer.visible:
            self._viewer.layers.remove(layer)
        else:
            # napari 0.9.2 draws from freed memory, and crashes, when a Labels layer was removed while it was hidden and
            # another one comes. It is empty by now, so it can be drawn once more.
            layer.visible = True
            QTimer.singleShot(DRAWN_MS, partial(_remove, ref(self._viewer), ref(layer)))

    def forget(self) -> None:
        """The layer is gone already."""
        self.layer = self._looked = None
        if self._over is not None:
            for event in self._placing(self._over[0]):
                event.disconnect(self._on_placed)
            self._over = None

    def is_layer(self, layer: Any) -> bool:
        """Whether this is the preview."""
        return self.layer is not None and layer is self.layer

    def _data(self, image: Image, axes: str, stack: Stack, view: Box) -> ArrayLike:
        """What is looked at, in the axes of the image, as large as the image or as the view."""
        shape, origin = (view.shape, view.start) if self._moves else (stack.shape_predicted, (0,) * view.ndim)

        def compute(box: Box) -> NDArray[np.uint8]:
            labels = np.zeros(box.shape, np.uint8)
            looked, place = self._looked, box.shift(origin)
            if looked is not None and (part := place.intersect(looked.box)).size:
                inside = part.shift([-a for a in looked.box.start])
                labels[part.shift([-a for a in place.start]).slices] = looked.labels[inside.slices]
            return labels

        letters, extent = axes[: image.ndim], dict(zip(stack.axes_predicted, shape, strict=True))
        wanted = [extent.get(axis, n) for axis, n in zip(letters, extents(image), strict=True)]
        labels = LazyLabels(shape, stack.axes_predicted, np.uint8, compute)
        return in_image_axes(labels, stack.axes_predicted, letters, wanted)

    def _translate(self, image: Image, axes: str, stack: Stack, view: Box) -> NDArray[np.float64]:
        """Where the first voxel lies."""
        start = dict(zip(stack.axes_predicted, view.start, strict=True)) if self._moves else {}
        offset = np.array([start.get(axis, 0) for axis in axes[: image.ndim]], float)
        to_world = Affine(scale=image.scale, rotate=image.rotate, shear=image.shear, ndim=image.ndim)
        return np.asarray(image.translate) + to_world.linear_matrix @ offset

    def _add(self, image: Image, axes: str, stack: Stack, view: Box) -> None:
        with selection_kept(self._viewer):
            self.layer = self._viewer.add_labels(
                self._data(image, axes, stack, view),
                name=f"{image.name} {self._title}",
                colormap=self._colormap(),
                opacity=OPACITY,
                metadata={LIVE_KEY: True},
                **{**placement(image), "translate": self._translate(image, axes, stack, view)},
            )
            self.layer.editable = False
            self.layer.contour = self._contour
        self._over = image, axes, stack
        for event in self._placing(image):
            event.connect(self._on_placed)

    @staticmethod
    def _placing(image: Image) -> list[Any]:
        events = image.events
        return [events.scale, events.translate, events.rotate, events.shear, events.affine, events.units]

    def _on_placed(self, _event: object = None) -> None:
        """The image lies elsewhere, or has another scale: so does its preview."""
        if self.layer is None or self._over is None:
            return
        image, axes, stack = self._over
        for name, value in placement(image).items():
            if name not in ("axis_labels", "translate"):
                setattr(self.layer, name, value)
        box = self._looked.box if self._looked is not None else None
        self.layer.translate = image.translate if box is None else self._translate(image, axes, stack, box)

    def _colormap(self) -> DirectLabelColormap:
        """With one class the colour of the level that says so, so that one sees how far a view is."""
        if len(self._classes) == 1:
            colors: dict[int | None, str] = {
                ENSEMBLE_LABEL if d == ENSEMBLE else int(d): color for d, color in LEVEL_COLORS.items()
            }
        else:
            colors = {number: info.color for number, info in enumerate(self._classes) if number > 0}
        return DirectLabelColormap(color_dict={None: "transparent", 0: "transparent", **colors})


def _remove(viewer: ref[Viewer], layer: ref[Labels]) -> None:
    there, gone = viewer(), layer()
    if there is not None and gone in there.layers:
        there.layers.remove(gone)
