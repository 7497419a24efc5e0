"""From a stack's raw voxels to network input.

Decides, in this order: which stacks a model takes (`check_input`), of what their range is measured (`with_intensity`), the one
scaling of all tiles of a stack (`measure_stack`), and how voxels become input (`network_input`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_unetpp.model.sampling import as_channels, scale_stack

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.intensity import Over, Scaling
    from napari_unetpp.stacks import Stack


def check_input(stack: Stack, model: Model) -> None:
    """Refuse a stack that the model cannot take.

    Raises
    ------
    ValueError
        Where the z axis of a 3D model is missing, or the channels are not those of the model.
    """
    name = model.card.name
    if model.spec.ndim == 3 and "z" not in stack.axes:
        raise ValueError(
            f"{stack.name!r} has axes {stack.axes} and no z, which the 3D model {name!r} needs; "
            "use a 2D model, or name the axes of the stack"
        )
    wanted = model.spec.in_channels
    if stack.channel_axis is None:
        if wanted > 1 and not model.intensity.replicate_gray:
            raise ValueError(
                f"{stack.name!r} has no channel axis where model {name!r} takes {wanted} channels; "
                "use a stack with channels, or a model of one channel"
            )
        return
    channels = stack.channels
    if channels != wanted and not (channels == 1 and model.intensity.replicate_gray):
        choose = (
            f"choose one with data[..., i] in Python or Split Channels in napari, or use a model of {channels} channels"
            if wanted == 1
            else f"use a stack of {wanted} channels"
        )
        raise ValueError(
            f"{stack.name!r} has {channels} channels (axis c) where model {name!r} takes {wanted}; {choose}"
        )


def with_intensity(model: Model, over: Over | None) -> Model:
    """The same network, with its range of intensities measured of this; None is as the model says.

    Raises
    ------
    ValueError
        Where the model's intensities are fixed numbers.
    """
    if over is None or over == model.intensity.over:
        return model
    if model.intensity.kind == "fixed":
        raise ValueError(
            f"model {model.card.name!r} scales intensities by fixed numbers and measures no range; leave out the choice {over!r}"
        )
    return replace(model, intensity=replace(model.intensity, over=over))


def measure_stack(stack: Stack, model: Model, intensity: Over | None = None) -> Scaling:
    """Scaling of a whole stack for a model, as `scale_stack` measures it; `intensity` is that of `with_intensity`."""
    return scale_stack(stack, with_intensity(model, intensity).intensity, model.spec.in_channels)


def in_words(scaling: Scaling) -> str:
    """The range that is used, and how it differs from that of all voxels, in one line."""
    low, high = scaling.range
    return f"{scaling.note}{'; ' * bool(scaling.note)}range {low:.6g} to {high:.6g}"


def network_input(raw: NDArray[Any], model: Model, scaling: Scaling) -> NDArray[np.float32]:
    """Float32 (channel, *spatial) out of raw voxels (channel, 1.., *spatial).

    A single gray channel is repeated for a network of several.
    """
    spatial = raw.shape[raw.ndim - model.spec.ndim :]
    return scaling.apply(as_channels(raw.reshape(raw.shape[0], *spatial), model.spec.in_channels))
