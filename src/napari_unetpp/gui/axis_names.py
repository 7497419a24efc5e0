"""The offer to give a layer the axis names that the Segment form knows, so that napari's sliders show z and not -3.

It is a button, not done by itself: the names are the user's to change, other docks and other plugins take them for certain, and
they are saved with the layer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QPushButton

from napari_unetpp.gui.image_layer import AXES, check_axes

if TYPE_CHECKING:
    from napari_unetpp.gui.segment_form import SegmentForm


class AxisNames(QPushButton):
    """The button; seen only where the form knows axes that the layer does not name."""

    def __init__(self, form: SegmentForm) -> None:
        super().__init__("Name the layer's axes")
        self._form = form
        self.clicked.connect(self.name_axes)
        form.changed.connect(self.follow)
        self.setVisible(False)

    def follow(self) -> None:
        """Be there where there is something to name."""
        names = self.names()
        self.setVisible(bool(names))
        self.setToolTip(
            f"Have napari's sliders, and other docks, call the axes of the layer {', '.join(names)}\n"
            f"instead of {', '.join(self._present())}."
        )

    def names(self) -> tuple[str, ...]:
        """Names that the layer could get; none where it has them, or others that somebody chose."""
        image = self._form.chosen_image()
        try:
            names = tuple(check_axes(image, self._form.axes.text())[: image.ndim]) if image is not None else ()
        except ValueError:
            return ()
        free = all(re.fullmatch(r"-\d+", label) or label.lower() in [*AXES] for label in self._present())
        return names if free and names != self._present() else ()

    def name_axes(self) -> None:
        """Give the layer these names."""
        image = self._form.chosen_image()
        if image is not None and (names := self.names()):
            image.axis_labels = names
            self._form.axes_note.setVisible(False)  # which said that nothing names them
        self.follow()

    def _present(self) -> tuple[str, ...]:
        image = self._form.chosen_image()
        return tuple(map(str, image.axis_labels)) if image is not None else ()
