"""What the Segment dock says where an image has another resolution than the model was trained at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_unetpp.gui.image_layer import stack_from_layer

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_unetpp.gui.catalogue import ModelChoice


def resolution_note(image: Image | None, axes: str, model: ModelChoice | None) -> str:
    """One line, or nothing where the resolutions are alike or one of them is not known."""
    from napari_unetpp.inference.resolution import other_resolution

    if image is None or model is None or model.header is None:
        return ""
    try:
        words = other_resolution(stack_from_layer(image, axes), model.header.card)
    except ValueError:  # the form says it
        return ""
    return words and f"{words}. Copy as command, with --resample model, brings it there."
