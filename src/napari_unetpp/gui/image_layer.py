"""An image layer of napari as the engine sees it.

Decides, in this order: which axis of the layer is what (`suggest_axes`, `check_axes`), the layer as
a `Stack` (`stack_from_layer`), and which part of it is on the screen (`visible_box`, `slice_box`) or
marked by shapes (`shapes_box`).

napari counts the axes of a layer without the samples of an RGB image, the last axis of its data;
"axes" here are those of the data, so that an RGB image is "yxc" and not "yx".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.box import Box, read_box
from napari_unetpp.inference.labels import LazyView
from napari_unetpp.stacks import Stack, open_stack

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels, Shapes
    from numpy.typing import NDArray

AXES = "tczyx"


@dataclass(frozen=True, slots=True)
class AxesSuggestion:
    """The axes of an image layer as far as it names them.

    Attributes
    ----------
    axes : str
        One letter per axis of the data (the samples of an RGB layer are its last, c); empty where
        nothing names them and their number does not either.
    reason : str
        Where they come from, for a tooltip.
    certain : bool
        False where only their number spoke, so that the user should look.
    """

    axes: str
    reason: str
    certain: bool


def suggest_axes(layer: Image) -> AxesSuggestion:
    """The axes that the layer's labels, metadata or RGB flag name; extents are never looked at."""
    samples = "c" if layer.rgb else ""
    named = "".join(str(label).lower() for label in layer.axis_labels) + samples
    if _valid(named, layer):
        return AxesSuggestion(named, "named by the layer's axis labels", certain=True)
    written = str(layer.metadata.get("axes", "")).lower().replace("s", "c")
    if _valid(written, layer):
        return AxesSuggestion(written, "named by the layer's metadata", certain=True)
    if layer.ndim == 2:
        return AxesSuggestion("yx" + samples, "a plane", certain=True)
    if layer.ndim == 3:
        return AxesSuggestion("zyx" + samples, "assumed, nothing in the layer names its axes", certain=False)
    return AxesSuggestion("", "nothing in the layer names its axes", certain=False)


def check_axes(layer: Image, axes: str) -> str:
    """The axes in lower case, if they can be those of the layer.

    Raises
    ------
    ValueError
        Saying what is wanted instead.
    """
    axes, ndim = axes.strip().lower(), layer.ndim + layer.rgb
    example = AXES.replace("c", "")[-layer.ndim :] + ("c" if layer.rgb else "")
    if not axes:
        raise ValueError(f"Name the {ndim} axes of the image, for example {example}.")
    if unknown := "".join(a for a in dict.fromkeys(axes) if a not in AXES):
        raise ValueError(f"Axes {axes!r}: {unknown!r} is not one of t, c, z, y, x.")
    if len(set(axes)) != len(axes):
        raise ValueError(f"Axes {axes!r} name an axis twice.")
    if len(axes) != ndim:
        raise ValueError(f"Axes {axes!r} name {len(axes)}; the image has {ndim}, like {example}.")
    if not {"y", "x"} <= set(axes):
        raise ValueError(f"Axes {axes!r} lack y or x.")
    if layer.rgb and axes[-1] != "c":
        raise ValueError(f"Axes {axes!r}: this is a colour image, its last axis is c.")
    return axes


def _valid(axes: str, layer: Image) -> bool:
    try:
        check_axes(layer, axes)
    except ValueError:
        return False
    return True


def stack_from_layer(layer: Image, axes: str | None = None, channel: int | None = None) -> Stack:
    """The image as a stack over the same data (of a multiscale image, its full resolution).

    Parameters
    ----------
    axes : str, optional
        One letter per axis of the data out of "tczyx"; where None the layer has to name them.
    channel : int, optional
        Only this one, as an image without channels.

    Raises
    ------
    ValueError
        If the axes do not fit the layer, or it does not name them.
    """
    axes = check_axes(layer, suggest_axes(layer).axes if axes is None else axes)
    stack = open_stack(finest(layer), axes=axes, spacing_um=_spacing_um(layer, axes))
    colours = bool(layer.rgb) if "c" in axes else None
    stack = replace(stack, name=layer.name, colours=colours, interval_s=layer.metadata.get("interval_s"))
    return stack if channel is None else _one_channel(stack, channel)


def _one_channel(stack: Stack, channel: int) -> Stack:
    at = stack.axes.index("c")

    def compute(box: Box) -> NDArray[Any]:
        stored = Box((*box.start[:at], channel, *box.start[at:]), (*box.stop[:at], channel + 1, *box.stop[at:]))
        return read_box(stack.data, stored).take(0, axis=at)

    axes, shape = stack.axes.replace("c", ""), stack.shape[:at] + stack.shape[at + 1 :]
    data = LazyView(shape, axes, np.dtype(stack.data.dtype), compute)
    return replace(stack, data=data, axes=axes, spacing_um=stack.spacing_um[:at] + stack.spacing_um[at + 1 :])


def _spacing_um(layer: Image, axes: str) -> tuple[float | None, ...]:
    """The layer's scale in micrometres; None for axes that are no length, or in pixels."""
    spacing: list[float | None] = []
    for scale, unit in zip(layer.scale, layer.units, strict=True):
        length = unit.is_compatible_with("micrometer")
        micrometres = abs(float((scale * unit).to("micrometer").magnitude)) if length else 0.0
        spacing.append(micrometres or None)  # a negative scale mirrors, it does not shrink
    spacing += [None] * layer.rgb
    return tuple(s if a in "zyx" else None for s, a in zip(spacing, axes, strict=True))


def visible_box(viewer: Viewer, layer: Image, axes: str) -> Box:
    """What of the layer is on the screen, in prediction axes (the planes of a 3D view are all)."""
    first, last = np.asarray(layer.corner_pixels, dtype=float)
    if layer.multiscale:  # then they count voxels of the resolution that is drawn
        factors = layer.downsample_factors[layer.data_level]
        first, last = first * factors, (last + 1) * factors - 1
    shape = extents(layer)
    spans = slice_spans(viewer, layer)
    for axis, (start, stop) in enumerate(spans):
        if stop - start == shape[axis]:  # on the screen, and not a slider's place
            low = int(np.clip(np.floor(first[axis]), 0, shape[axis] - 1))
            spans[axis] = (low, int(np.clip(np.ceil(last[axis]) + 1, low + 1, shape[axis])))
    return _predicted(spans, axes)


def slice_box(viewer: Viewer, layer: Image, axes: str) -> Box:
    """The slice where the sliders stand, with its whole extent, in prediction axes."""
    shape, spans = extents(layer), slice_spans(viewer, layer)
    for axis, letter in enumerate(axes[: layer.ndim]):
        if letter in "yx":  # what a network needs whole, even if the view is turned
            spans[axis] = (0, shape[axis])
    return _predicted(spans, axes)


def shapes_box(shapes: Shapes, image: Image, axes: str) -> Box:
    """What the selected shapes of a layer bound (all, where none is selected), in prediction axes.

    Axes that the shapes lack are taken whole: a rectangle drawn on a plane means all slices.

    Raises
    ------
    ValueError
        Where there is no shape, or none of it is on the image.
    """
    chosen = [shapes.data[i] for i in sorted(shapes.selected_data)] or list(shapes.data)
    if not chosen:
        raise ValueError(f"There is no shape in {shapes.name}; draw a rectangle around what is to be segmented.")
    shape = extents(image)
    common = min(shapes.ndim, image.ndim)
    corners = []
    for corner in np.concatenate(chosen):
        place = np.zeros(image.ndim)
        place[image.ndim - common :] = shapes.data_to_world(corner)[shapes.ndim - common :]
        corners.append(image.world_to_data(place))
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    spans = []
    for axis, extent in enumerate(shape):
        if axis < image.ndim - common:
            spans.append((0, extent))
            continue
        # voxel i reaches from i - 0.5 to i + 0.5
        start, stop = int(np.floor(low[axis] + 0.5)), int(np.floor(high[axis] + 0.5)) + 1
        if stop <= 0 or start >= extent:
            raise ValueError(f"The shapes in {shapes.name} lie beside {image.name}; draw on the image.")
        spans.append((max(start, 0), min(stop, extent)))
    return _predicted(spans, axes)


def slice_spans(viewer: Viewer, layer: Image) -> list[tuple[int, int]]:
    """Per axis of the layer, one place where there is a slider, else the whole extent."""
    offset = viewer.dims.ndim - layer.ndim  # napari aligns the axes of its layers at the last
    at = layer.world_to_data(viewer.dims.point[offset:])
    spans = []
    for axis, extent in enumerate(extents(layer)):
        if axis + offset in viewer.dims.displayed:
            spans.append((0, extent))
        else:
            place = int(np.clip(round(float(at[axis])), 0, extent - 1))
            spans.append((place, place + 1))
    return spans


def _predicted(spans: Sequence[tuple[int, int]], axes: str) -> Box:
    ordered = [spans[axes.index(letter)] for letter in AXES if letter in axes and letter != "c"]
    return Box(tuple(a for a, _ in ordered), tuple(b for _, b in ordered))


def finest(layer: Image | Labels) -> Any:
    """The layer's data at full resolution."""
    return layer.data[0] if layer.multiscale else layer.data


def extents(layer: Image) -> tuple[int, ...]:
    """Extents of the layer's axes at full resolution; the samples of RGB are none of them."""
    return tuple(finest(layer).shape[: layer.ndim])
