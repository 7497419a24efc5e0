"""Which channel of an image goes into the model: the field of the Segment dock, and when it is offered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox

from napari_unetpp.gui.image_layer import finest

if TYPE_CHECKING:
    from napari.layers import Image
    from qtpy.QtWidgets import QFormLayout

    from napari_unetpp.gui.catalogue import ModelChoice

ALL = -1


def offered_channels(image: Image | None, axes: str, model: ModelChoice | None) -> list[int]:
    """Channels to choose from, `ALL` for all of them; empty where there is no choice.

    Three channels are never taken for red, green and blue unless the layer is a colour image.
    """
    if image is None or model is None or model.header is None or "c" not in axes:
        return []
    count, wanted = int(finest(image).shape[axes.index("c")]), model.header.spec.in_channels
    if count == 1 or (count == wanted and (image.rgb or count != 3)):
        return []
    single = list(range(count)) if wanted == 1 or model.header.intensity.replicate_gray else []
    return [ALL] * (count == wanted) + single


class ChannelField(QComboBox):
    """The choice, none at first; emits `chosen` when a user or a script has made one."""

    chosen = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setToolTip("The image has several channels: which of them the model takes.")
        self._of: object = None
        self._offered: list[int] = []
        self.currentIndexChanged.connect(self.chosen)

    def offer(self, image: Image | None, offered: list[int], rows: QFormLayout) -> None:
        """Be there if there is a choice; what was chosen stays for the same image and the same choices."""
        rows.setRowVisible(self, bool(offered))
        if (id(image), offered) == (self._of, self._offered):
            return
        self._of, self._offered = id(image), offered
        with QSignalBlocker(self):
            self.clear()
            self.addItem("choose …", None)
            for channel in offered:
                self.addItem("All, as colours" if channel == ALL else f"Channel {channel}", channel)

    @property
    def count_of_image(self) -> int:
        """Channels that the image has."""
        return max(len([c for c in self._offered if c != ALL]), 3 * (ALL in self._offered))

    @property
    def missing(self) -> bool:
        """Whether a choice is still to be made."""
        return bool(self._offered) and self.currentData() is None

    @property
    def channel(self) -> int | None:
        """The one channel; None is the image as it is."""
        chosen = self.currentData()
        return None if chosen in (None, ALL) else int(chosen)
