"""Along which axes a 2D model goes: the field of the Segment dock, and when it is offered.

Decides when there is a choice at all (`planes_reason`), and keeps what was wished for while there is none (`PlanesField`).
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox

from napari_unetpp.gui.image_layer import stack_from_layer
from napari_unetpp.inference.planes import why_not_planes, why_unequal

if TYPE_CHECKING:
    from napari.layers import Image
    from qtpy.QtWidgets import QFormLayout

    from napari_unetpp.gui.catalogue import ModelChoice

ABOUT = (
    "z: slice by slice.\n"
    "z, y and x: planes across all three axes, and the mean of the three. It takes\n"
    "three times as long, and fills in after the planes across y and x of many\n"
    "slices are there; a slice alone takes hardly less than these.\n"
    "The live preview goes slice by slice in any case."
)


def planes_reason(image: Image | None, axes: str, model: ModelChoice | None) -> str | None:
    """Why a model may go along z alone; empty where it may go along all three, None where there is no z to speak of."""
    if image is None or model is None or model.header is None or model.header.spec.ndim != 2:
        return None
    try:
        stack = stack_from_layer(image, axes)
    except ValueError:  # the form says it
        return None
    if "z" not in stack.axes:
        return None
    return why_not_planes(stack, model.header.spec) or why_unequal(stack)


class PlanesField(QComboBox):
    """The choice; emits `chosen` when a user or a script has made one.

    Parameters
    ----------
    three
        What is wished for at first.
    """

    chosen = Signal()

    def __init__(self, three: bool) -> None:
        super().__init__()
        self.addItem("z", False)
        self.addItem("z, y and x", True)
        self._wish = three
        self.currentIndexChanged.connect(self._on_index)

    @property
    def three(self) -> bool:
        """Whether a run goes along z, y and x."""
        return bool(self.currentData())

    def offer(self, reason: str | None, rows: QFormLayout) -> None:
        """Be there or not, and be what was wished for where that is possible; `reason` is that of `planes_reason`."""
        rows.setRowVisible(self, reason is not None)
        with QSignalBlocker(self):
            self.setCurrentIndex(int(self._wish and reason == ""))
        self.setEnabled(not reason)
        self.setToolTip("\n".join(textwrap.wrap(f"Along z alone: {reason}.", 72)) if reason else ABOUT)

    def _on_index(self) -> None:
        self._wish = self.three
        self.chosen.emit()
