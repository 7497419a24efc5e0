"""What of the image is on the screen, for marks that must not mean more than what was looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_unetpp.box import Box
from napari_unetpp.gui.image_layer import extents, slice_spans

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image

_VOLUME = "The 3D view shows all slices at once, and nobody has looked at each: go back to 2D (the button below the layer list)"


def check_plane(viewer: Viewer, image: Image, axes: str) -> None:
    """Refuse a view that shows no plane of the image.

    Raises
    ------
    ValueError
        In 3D, where several slices are projected onto the screen, where a slider stands beside the image, and where the image
        lies askew to the view or lacks one of its axes.
    """
    dims, offset = viewer.dims, viewer.dims.ndim - image.ndim
    if dims.ndisplay != 2:
        raise ValueError(f"{_VOLUME} to mark a slice or to draw a rectangle.")
    if min(dims.displayed) < offset:
        raise ValueError(
            f"{image.name} lacks an axis of this view; roll the view's axes until the image is a plane in it."
        )
    point = np.array(dims.point[offset:], float)
    at = np.asarray(image.world_to_data(point), float)
    sliders = [axis for axis in range(image.ndim) if axis + offset not in dims.displayed]
    for axis in dims.displayed:
        aside = point.copy()
        aside[axis - offset] += max(dims.range[axis].stop - dims.range[axis].start, 1)
        if np.abs(np.asarray(image.world_to_data(aside), float) - at)[sliders].max(initial=0) > 0.5:
            raise ValueError(
                f"{image.name} is rotated or sheared out of the plane of the view, which cuts through several of its slices; "
                "choose a view along its own axes."
            )
    thick = (np.array([dims.thickness[axis + offset] for axis in sliders]) / image.scale[sliders] > 1).any()
    if thick and str(image.projection_mode) != "none":
        raise ValueError(
            f"{image.name} shows several slices as one; set its projection mode to none to mark a single one."
        )
    for axis in sliders:
        if not -0.5 <= at[axis] <= extents(image)[axis] - 0.5:
            raise ValueError(f"{image.name} ends before this place along {axes[axis]}; move the slider back onto it.")


def seen_box(viewer: Viewer, image: Image, axes: str) -> Box:
    """The whole plane on the screen, in prediction axes: one place along each slider, also in a turned view (xz, yz).

    Raises
    ------
    ValueError
        As `check_plane`.
    """
    check_plane(viewer, image, axes)
    spans = dict(zip(axes, slice_spans(viewer, image), strict=False))
    ordered = [spans[axis] for axis in "tzyx" if axis in spans]
    return Box(tuple(a for a, _ in ordered), tuple(b for _, b in ordered))


def shown_letters(viewer: Viewer, image: Image, axes: str) -> str:
    """The letters of the axes on the screen, from top to bottom and from left to right."""
    offset = viewer.dims.ndim - image.ndim
    return "".join(axes[axis - offset] for axis in viewer.dims.displayed if axis >= offset)
