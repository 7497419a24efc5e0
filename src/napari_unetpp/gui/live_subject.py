"""What the live preview is of: an image under a model (`Subject`), and the part of it that is on the screen (`view_of`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_unetpp.gui.image_layer import visible_box
from napari_unetpp.gui.live import View
from napari_unetpp.gui.versions import grid_of

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image

    from napari_unetpp.gui.catalogue import ModelChoice
    from napari_unetpp.gui.comparison import HeadComparison
    from napari_unetpp.model.intensity import Over


@dataclass(frozen=True, slots=True)
class Subject:
    """What the dock is about to predict; what is None is not chosen, or not as it should be.

    Attributes
    ----------
    axes : str
        Of the image's data, checked.
    level : int
        The deepest to choose from.
    intensity : str or None
        Of what the range of intensities is measured; None is as the model says.
    channel : int or None
        The one that the model takes; None is the image as it is.
    open_choice : str
        What the user still has to choose before there can be a preview.
    """

    image: Image | None = None
    axes: str = ""
    model: ModelChoice | None = None
    device: str = "auto"
    level: int = 0
    intensity: Over | None = None
    channel: int | None = None
    open_choice: str = ""

    @property
    def complete(self) -> bool:
        return self.image is not None and self.model is not None and bool(self.axes) and not self.open_choice

    def image_in(self, viewer: Viewer) -> Image | None:
        """The image, as long as the viewer has it."""
        return self.image if self.image is not None and self.image in viewer.layers else None


def turned(viewer: Viewer, subject: Subject) -> str:
    """Which two axes are on the screen where these are not y and x; else empty."""
    image, dims = subject.image_in(viewer), viewer.dims
    if image is None or not subject.axes or dims.ndisplay != 2:
        return ""
    offset = dims.ndim - image.ndim
    seen = [subject.axes[axis - offset] for axis in dims.displayed if axis >= offset]
    return "" if set(seen) == {"y", "x"} else " and ".join(seen)


def view_of(viewer: Viewer, subject: Subject, comparison: HeadComparison) -> View | None:
    """What is on the screen; None unless that is a plane of the image on which labels are wanted."""
    image, dims = subject.image_in(viewer), viewer.dims
    gridded = grid_of(viewer).enabled  # where it would have a place of its own
    if image is None or not comparison.visible or dims.ndisplay != 2 or gridded:
        return None
    if turned(viewer, subject):
        return None
    box = visible_box(viewer, image, subject.axes)
    return View(box, comparison.level, comparison.heads, comparison.threshold)
