"""From a stack's raw voxels to network input.

Decides, in this order: which stacks a model takes (`check_input`), the one scaling of all tiles of
a stack (`measure_stack`), and how a box is read (`read_raw`) and becomes input (`network_input`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.box import Box
from napari_unetpp.model.intensity import measure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.intensity import Scaling
    from napari_unetpp.stacks import Stack

PLANES = 16  # planes that are looked at for the intensities of a stack
SAMPLE_VOXELS = 2**20  # percentiles of so many are good to 1e-3 of a percent and take 0.1 s
READ_VOXELS = 2**22  # planes are read in bands of about so many, whatever their size


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


def measure_stack(stack: Stack, model: Model) -> Scaling:
    """Scaling of a whole stack, from up to 16 evenly spaced planes thinned to about 2**20 voxels.

    The same stack always gives the same numbers. Nothing is read for a fixed intensity rule.

    Raises
    ------
    ValueError
        Where the sample holds NaN or infinity.
    """
    if model.intensity.kind == "fixed":
        return measure(model.intensity, np.zeros((model.spec.in_channels, 1), np.float32))
    *leading, height, width = stack.shape_predicted
    count = math.prod(leading)
    planes = np.unique(np.linspace(0, count - 1, min(PLANES, count)).round().astype(int))
    step = math.ceil(math.sqrt(max(1.0, len(planes) * height * width / SAMPLE_VOXELS)))
    rows = max(1, READ_VOXELS // width // step) * step  # a multiple keeps the thinning regular
    parts = []
    for plane in planes:
        place = tuple(int(i) for i in np.unravel_index(plane, leading)) if leading else ()
        after = tuple(i + 1 for i in place)
        for top in range(0, height, rows):
            box = Box((*place, top, 0), (*after, min(top + rows, height), width))
            band = read_raw(stack, box)[..., ::step, ::step]
            parts.append(band.reshape(band.shape[0], -1))
    return measure(model.intensity, _as_channels(np.concatenate(parts, axis=1), model))


def read_raw(stack: Stack, box: Box) -> NDArray[Any]:
    """Raw voxels (channel, *box.shape), mirrored past the border.

    Raises
    ------
    ValueError
        Where they hold NaN or infinity, which would spread over everything around them.
    """
    raw = stack.read(box)
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        first = np.argwhere(~np.isfinite(raw))[0][1:]
        place = ", ".join(
            f"{axis} {start + offset}"
            for axis, start, offset in zip(stack.axes_predicted, box.start, first, strict=True)
        )
        raise ValueError(
            f"{stack.name!r} holds NaN or infinity near {place}; replace them first, for example with numpy.nan_to_num"
        )
    return raw


def network_input(raw: NDArray[Any], model: Model, scaling: Scaling) -> NDArray[np.float32]:
    """Float32 (channel, *spatial) out of raw voxels (channel, 1.., *spatial).

    A single gray channel is repeated for a network of several.
    """
    spatial = raw.shape[raw.ndim - model.spec.ndim :]
    return scaling.apply(_as_channels(raw.reshape(raw.shape[0], *spatial), model))


def _as_channels(raw: NDArray[Any], model: Model) -> NDArray[Any]:
    if raw.shape[0] == 1 and model.spec.in_channels > 1 and model.intensity.replicate_gray:
        return np.repeat(raw, model.spec.in_channels, axis=0)
    return raw
