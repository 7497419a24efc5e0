"""A part of a stack as a stack, without reading it: one channel, or a region."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_unetpp.box import Box
from napari_unetpp.cli._output import BadUsage
from napari_unetpp.inference.labels import LazyView

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_unetpp.stacks import Stack


def one_channel(stack: Stack, channel: int) -> Stack:
    """The stack without its channel axis, showing that channel."""
    if stack.channel_axis is None:
        raise BadUsage(f"--channel {channel}: {stack.name} (axes {stack.axes}) has no channels")
    if not 0 <= channel < stack.channels:
        raise BadUsage(f"--channel {channel}: {stack.name} has channels 0..{stack.channels - 1}")

    def compute(box: Box) -> NDArray[Any]:
        voxels: NDArray[Any] = stack.read(box)[channel]
        return voxels

    return replace(
        stack,
        data=LazyView(stack.shape_predicted, stack.axes_predicted, stack.dtype, compute),
        axes=stack.axes_predicted,
        spacing_um=stack.spacing_predicted_um,
    )


def cropped(stack: Stack, region: Box) -> Stack:
    """The stack within a box in prediction axes; past the box it is mirrored, like any image."""

    def compute(box: Box) -> NDArray[Any]:
        inside = Box(box.start[1:], box.stop[1:]).shift(region.start)
        return stack.read(inside)[box.start[0] : box.stop[0]]

    axes = f"c{stack.axes_predicted}"
    data = LazyView((stack.channels, *region.shape), axes, stack.dtype, compute)
    crop = replace(stack, data=data, axes=axes, spacing_um=(None, *stack.spacing_predicted_um))
    return crop if stack.channel_axis is not None else one_channel(crop, 0)
