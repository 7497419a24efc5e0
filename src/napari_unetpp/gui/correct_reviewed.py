"""What was reviewed, as outlines on the slice on the screen, and a rectangle that the user draws to mark one more.

Decides, in this order: which outlines the slice has (`Outlines.show`), and how a rectangle is drawn (`Outlines.draw`): in a
Shapes layer that is there only as long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Shapes
from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer, Signal

from napari_unetpp.gui.correct_seen import shown_letters
from napari_unetpp.gui.image_layer import shapes_box, slice_spans
from napari_unetpp.gui.placing import place_like, placement, selection_kept, when_placed

if TYPE_CHECKING:
    from napari import Viewer

    from napari_unetpp.gui.correct_layer import OpenCorrections

COLOR = "#ffe600"  # in no legend, and seen on dark and on bright images
SHARE = 1 / 300  # of the longer edge of the image that an outline is wide: thin, and seen where all of it is
REVIEWED_KEY = "napari-unetpp reviewed"  # in the metadata of the layer


class Outlines(QObject):
    """The outlines of one layer of corrections.

    Attributes
    ----------
    layer : Shapes or None
        There as soon as something was reviewed.
    drawing : Shapes or None
        There while the user draws.
    """

    drawn = Signal(object)  # the Box, in prediction axes
    beside = Signal(str)  # why a rectangle is none
    changed = Signal()  # drawing began or ended

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.layer: Shapes | None = None
        self.drawing: Shapes | None = None
        self._opened: OpenCorrections | None = None
        self._shown: list[tuple[tuple[float, ...], ...]] = []
        self._unwanted = False  # the user has removed it; putting it back at once would never end where all layers go

    def follow(self, opened: OpenCorrections | None) -> None:
        """Outline what of these was reviewed."""
        if opened is not self._opened:
            self.end_drawing()
            self._remove()
            events = self.viewer.dims.events
            for moved in (events.current_step, events.order, events.ndisplay):
                if self._opened is not None:
                    moved.disconnect(self._on_view)
                if opened is not None:
                    moved.connect(self._on_view)
            self._opened, self._unwanted = opened, False
            if opened is not None:
                when_placed(opened.layer, self._on_placed)
        self.show()

    def update(self) -> None:
        """Outline what was reviewed by now, also where the user had removed the outlines."""
        self._unwanted = False
        self.show()

    def _on_placed(self, event: Any) -> None:
        if isalive(self) and self._opened is not None and event.source is self._opened.layer:
            place_like([layer for layer in (self.layer, self.drawing) if layer is not None], self._opened.layer)

    def _on_view(self, _event: object = None) -> None:
        if not isalive(self):
            return
        if self.viewer.dims.ndisplay != 2:
            self.end_drawing()  # a rectangle in a volume has no depth
        self.show()

    def show(self) -> None:
        """Outline what was reviewed of the slice on the screen; none in 3D, where it would hide what is behind."""
        opened = self._opened
        if not isalive(self) or opened is None or (image := opened.image_layer) is None:
            return
        spans = dict(zip(opened.axes, slice_spans(self.viewer, image), strict=False))
        corners = []
        shown = shown_letters(self.viewer, image, opened.axes)
        for box in opened.corrections.reviewed if len(shown) == 2 else ():
            within = dict(zip(opened.corrections.axes, zip(box.start, box.stop, strict=True), strict=True))
            parts = {axis: (max(a, spans[axis][0]), min(b, spans[axis][1])) for axis, (a, b) in within.items()}
            if all(a < b for a, b in parts.values()):
                corners.append(self._rectangle(opened, {**spans, **parts}, shown))
        if self.layer is not None and self.layer not in self.viewer.layers:
            self.layer, self._shown, self._unwanted = None, [], True
        if corners == self._shown or self._unwanted:
            return
        self._shown = corners
        if self.layer is None:
            self._add(opened)
        assert self.layer is not None
        self.layer.data = []
        if corners:
            self.layer.add_rectangles([np.array(c) for c in corners])
        self.layer.editable = False

    def _rectangle(
        self, opened: OpenCorrections, spans: dict[str, tuple[int, int]], shown: str
    ) -> tuple[tuple[float, ...], ...]:
        """Corners of the outline, in the axes of the layer, around whole voxels of the two axes that are shown."""
        letters = opened.axes[: opened.layer.ndim]
        corners = []
        for ends in ((0, 0), (0, 1), (1, 1), (1, 0)):
            corner = []
            for letter in letters:
                start, stop = spans[letter]
                end = dict(zip(shown, ends, strict=True)).get(letter)
                corner.append(float(start) if end is None else (stop if end else start) - 0.5)
            corners.append(tuple(corner))
        return tuple(corners)

    def _add(self, opened: OpenCorrections) -> None:
        with selection_kept(self.viewer):
            self.layer = self._new_layer(opened, f"Reviewed ({opened.image})")
        self.layer.metadata = {REVIEWED_KEY: True}

    def _new_layer(self, opened: OpenCorrections, name: str) -> Shapes:
        edge = max(opened.corrections.shape[-2:])
        return self.viewer.add_shapes(
            None,
            ndim=opened.layer.ndim,
            name=name,
            face_color="transparent",
            edge_color=COLOR,
            edge_width=max(1.0, edge * SHARE),
            **placement(opened.layer),
        )

    def _remove(self) -> None:
        layer, self.layer, self._shown = self.layer, None, []
        if layer is not None and layer in self.viewer.layers:
            self.viewer.layers.remove(layer)

    # A rectangle

    def draw(self) -> None:
        """Let the user draw a rectangle on the slice; a second call gives up."""
        if self.drawing is not None:
            self.end_drawing()
        elif self._opened is not None:
            self.drawing = self._new_layer(self._opened, "Draw a rectangle")
            self.viewer.layers.selection.active = self.drawing
            self.drawing.mode = "add_rectangle"
            self.drawing.events.data.connect(self._on_drawn)
            self.changed.emit()

    def end_drawing(self) -> None:
        """Go back to the brush."""
        drawing, self.drawing = self.drawing, None
        if drawing is None:
            return
        drawing.events.data.disconnect(self._on_drawn)
        if drawing in self.viewer.layers:
            self.viewer.layers.remove(drawing)
        if self._opened is not None and self._opened.layer in self.viewer.layers:
            self.viewer.layers.selection.active = self._opened.layer
        self.changed.emit()

    def _on_drawn(self, event: Any) -> None:
        if str(getattr(event.action, "value", event.action)) == "added":
            QTimer.singleShot(0, self._take_drawn)  # napari is still at work on its layer

    def _take_drawn(self) -> None:
        if not isalive(self) or self.drawing is None or self._opened is None:
            return
        image = self._opened.image_layer
        try:
            box = shapes_box(self.drawing, image, self._opened.axes) if image is not None else None
        except ValueError:
            box = None
        self.end_drawing()
        if box is None:
            self.beside.emit("The rectangle lies beside the image; draw on it.")
        else:
            self.drawn.emit(box)
