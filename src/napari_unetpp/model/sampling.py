"""Voxels of a stack as a network's intensities see them; training and inference look at a stack in the same way.

In this order: the one scaling of a whole stack (`scale_stack`), reading a box, a hash that tells images apart, gray for several
channels.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.box import Box
from napari_unetpp.model.intensity import measure
from napari_unetpp.stacks import is_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_unetpp.model.intensity import Intensity, Scaling
    from napari_unetpp.stacks import Stack

PLANES = 16  # planes that are looked at for the intensities of a stack
SAMPLE_VOXELS = 2**20  # percentiles of so many are good to 1e-3 of a percent and take 0.1 s
HASHED_EDGE = 256  # voxels; three such squares tell images apart and take no time to read
READ_VOXELS = 2**22  # planes are read in bands of about so many, whatever their size


def scale_stack(stack: Stack, intensity: Intensity, channels: int) -> Scaling:
    """Scaling of a whole stack for a network of `channels`, from up to 16 evenly spaced planes thinned to about 2**20 voxels.

    The same stack always gives the same numbers. Nothing is read for a fixed intensity rule.

    Raises
    ------
    ValueError
        Where the sample holds NaN or infinity.
    """
    if intensity.kind == "fixed":
        return measure(intensity, np.zeros((channels, 1), np.float32))
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
    return measure(intensity, as_channels(np.concatenate(parts, axis=1), channels))


def read_raw(stack: Stack, box: Box) -> NDArray[Any]:
    """Raw voxels (channel, *box.shape), mirrored past the border.

    Raises
    ------
    ValueError
        Where they hold NaN or infinity, or what is infinite as float32, which would spread over everything around them.
    """
    raw = stack.read(box)
    if raw.dtype.kind == "f" and not (finite := is_finite(raw)).all():
        first = np.argwhere(~finite)[0][1:]
        place = ", ".join(
            f"{axis} {start + offset}"
            for axis, start, offset in zip(stack.axes_predicted, box.start, first, strict=True)
        )
        what = "numbers beyond float32" if np.isfinite(raw).all() else "NaN or infinity"
        raise ValueError(
            f"{stack.name!r} holds {what} near {place}; replace them first, for example with numpy.nan_to_num"
        )
    return raw


def stack_hash(stack: Stack) -> str:
    """Hash of the middle of the first, the middle and the last plane: tells one image from another without reading it all."""
    *leading, height, width = stack.shape_predicted
    plane = [((n - HASHED_EDGE) // 2 if n > HASHED_EDGE else 0) for n in (height, width)]
    stop = [min(a + HASHED_EDGE, n) for a, n in zip(plane, (height, width), strict=True)]
    digest = hashlib.sha256()
    for part in (0, 1, 2):
        place = [(n - 1) * part // 2 for n in leading]
        raw = stack.read(Box((*place, *plane), (*(i + 1 for i in place), *stop)))
        digest.update(np.ascontiguousarray(raw, raw.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def as_channels(raw: NDArray[Any], channels: int) -> NDArray[Any]:
    """Voxels (channel, ...) for a network of `channels`: a single gray one is repeated."""
    return np.repeat(raw, channels, axis=0) if raw.shape[0] == 1 and channels > 1 else raw
