"""Voxels of a stack as a network's intensities see them; training and inference look at a stack in the same way.

In this order: the one scaling of a whole stack (`scale_stack`), a stack as that scaling shows it (`as_seen`), reading a box, a
hash that tells images apart, gray for several channels.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from napari_unetpp.box import Box
from napari_unetpp.model.intensity import Scaling, difference, measure, scaled
from napari_unetpp.model.picture import CELL, Look, find_padding, look_at
from napari_unetpp.model.robust import Planes, plane_scaling, robust_scaling
from napari_unetpp.stacks import Stack, not_finite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from napari_unetpp.model.intensity import Intensity

MIRRORED = 64  # voxels from the picture up to which padding shows its mirror image
PLANES = 16  # planes that are looked at for the intensities of a stack
SAMPLE_VOXELS = 2**20  # percentiles of so many are good to 1e-3 of a percent and take 0.1 s
HASHED_EDGE = 256  # voxels; three such squares tell images apart and take no time to read
LOOKED = 64  # planes that a robust rule looks at
LOOK_VOXELS = 2**23  # which it keeps of them, as float32 and some copies
READ_VOXELS = 2**22  # planes are read in bands of about so many, whatever their size


def scale_stack(stack: Stack, intensity: Intensity, channels: int) -> Scaling:
    """Scaling of a whole stack for a network of `channels`, from up to 16 evenly spaced planes thinned to about 2**20 voxels.

    A robust rule looks at up to 64 planes, and at all where they differ in brightness; one of planes at all. The same stack
    always gives the same numbers. Nothing is read for a fixed intensity rule.

    Raises
    ------
    ValueError
        Where the sample holds NaN inside the picture, or infinity.
    """
    if intensity.kind == "fixed":
        return measure(intensity, np.zeros((channels, 1), np.float32))
    leading = stack.shape_predicted[:-2]
    count = math.prod(leading)
    chosen = _spread(count, PLANES)
    thinned = as_channels(_thinned(stack, chosen), channels)
    plain = measure(intensity, thinned)
    if intensity.over == "stack" or (intensity.over == "plane" and count == 1):
        return plain
    base = _base(stack, thinned)
    looked = np.arange(count) if intensity.over == "plane" else np.union1d(chosen, _spread(count, LOOKED))
    budget = max(LOOK_VOXELS // len(looked), CELL**2)
    planes = Planes(
        stack.axes_predicted[:-2],
        leading,
        tuple(looked.tolist()),
        base,
        channels,
        lambda plane: _looks(stack, plane, base, budget, alone=intensity.per_channel),
    )
    return (
        plane_scaling(intensity, plain, planes)
        if intensity.over == "plane"
        else (robust_scaling(intensity, plain, difference(thinned, np.array(base, object)), planes))
    )


def as_seen(stack: Stack, scaling: Scaling) -> tuple[Stack, Scaling]:
    """A stack as a scaling shows it, and the scaling that is left to apply; both as they are where the scaling is plain.

    Otherwise a lazy stack of float32, which is network input already: with the offset and gain of each plane, and without
    broken pixels. What is read does not depend on how the stack is cut into boxes.
    """
    if scaling.plain:
        return stack, scaling
    axes = stack.axes_predicted
    offsets, gains = scaling.offsets or (scaling.offset,), scaling.gains or (scaling.gain,)
    counts = scaling.counts or (1,) * (len(axes) - 2)
    large = any(isinstance(value, int) for row in offsets for value in row)
    tables = [
        np.array(table, kind).reshape(*counts, len(scaling.offset))
        for table, kind in ((offsets, object if large else np.float64), (gains, np.float64))
    ]

    def enter(box: Box, margin: int) -> tuple[NDArray[np.float32], NDArray[np.bool_], tuple[slice, ...]]:
        """Network input around a box, where it is no picture, and where in it the box is."""
        widest = margin + (1 if scaling.speck else 0)
        around = box.grow((0,) * (box.ndim - 2) + (widest, widest)).intersect(Box.of(stack.shape_predicted))
        raw = as_channels(read_raw(stack, around), len(scaling.offset))
        spans = [range(a, b) if scaling.axes else range(1) for a, b in zip(box.start[:-2], box.stop[:-2], strict=True)]
        offset, gain = (
            np.moveaxis(table[np.ix_(*spans)] if spans else table[...], -1, 0)[..., None, None] for table in tables
        )
        nothing = _nothing(raw, scaling.padding)
        if scaling.speck:
            raw = _without_specks(raw, scaling.speck)
        return scaled(raw, offset, gain), nothing, box.shift([-n for n in around.start]).slices

    def read(box: Box) -> NDArray[np.float32]:
        entered, nothing, inside = enter(box, 0)
        if scaling.fill and nothing[inside].any():
            entered, nothing, inside = enter(box, 2 * MIRRORED)
            fill_outside(entered, nothing, inside, scaling.fill)
        return entered[(slice(None), *inside)]

    seen = Stack(
        _Seen((len(scaling.offset), *stack.shape_predicted), read),
        f"c{axes}",
        (None, *stack.spacing_predicted_um),
        stack.name,
        stack.path,
        notes=stack.notes,
    )
    return seen, Scaling((0.0,) * len(scaling.offset), (1.0,) * len(scaling.offset))


def fill_outside(
    entered: NDArray[np.float32],
    nothing: NDArray[np.bool_],
    inside: tuple[slice, ...],
    fill: tuple[float, ...],
) -> None:
    """Put the mirror image of the picture where there is none, as it lies beyond the border of an image; further away, `fill`.

    What a voxel gets depends on nothing further away than twice `MIRRORED`, so it is the same however a stack is cut.

    Parameters
    ----------
    entered
        Network input (channel, ..., y, x), changed in place within `inside`.
    nothing
        (..., y, x), true where there is no picture.
    """
    *leading, rows, columns = inside
    height, width = nothing.shape[-2:]
    for place in np.ndindex(nothing.shape[:-2]):
        if not all(span.start <= k < span.stop for span, k in zip(leading, place, strict=True)):
            continue
        outside = nothing[place]
        y, x = np.nonzero(outside[rows, columns])
        y, x = y + rows.start, x + columns.start
        if not len(y):
            continue
        plane = entered[(slice(None), *place)]
        values = np.repeat(np.asarray(fill, np.float32)[:, None], len(y), axis=1)
        if not outside.all():
            distance, (near_y, near_x) = ndimage.distance_transform_edt(outside, return_indices=True)
            near_y, near_x = near_y[y, x], near_x[y, x]
            beyond_y, beyond_x = 2 * near_y - y, 2 * near_x - x
            there = (beyond_y >= 0) & (beyond_y < height) & (beyond_x >= 0) & (beyond_x < width)
            there[there] = ~outside[beyond_y[there], beyond_x[there]]
            from_y, from_x = np.where(there, beyond_y, near_y), np.where(there, beyond_x, near_x)
            close = distance[y, x] <= MIRRORED
            values[:, close] = plane[:, from_y[close], from_x[close]]
        plane[:, y, x] = values


class _Seen:
    """An array (channel, ...) of float32 that is computed where it is sliced."""

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...], read: Callable[[Box], NDArray[np.float32]]) -> None:
        self.shape, self._read = shape, read

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[np.float32]:
        first, *spans = (s.indices(n) for s, n in zip(key, self.shape, strict=True))
        box = Box(tuple(s[0] for s in spans), tuple(s[1] for s in spans))
        return self._read(box)[first[0] : first[1]]


def _nothing(raw: NDArray[Any], padding: tuple[tuple[float, ...], ...]) -> NDArray[np.bool_]:
    """Where voxels (channel, ...) are no picture: NaN, or in all channels what stands for that."""
    nothing: NDArray[np.bool_] = np.isnan(raw).any(axis=0) if raw.dtype.kind == "f" else np.zeros(raw.shape[1:], bool)
    for row in padding:
        nothing |= np.logical_and.reduce([channel == value for channel, value in zip(raw, row, strict=True)])
    return nothing


def _without_specks(raw: NDArray[Any], speck: tuple[float, ...]) -> NDArray[Any]:
    """Voxels (channel, ..., y, x) where broken pixels have become the median of their neighbours."""
    size = (1,) * (raw.ndim - 2) + (3, 3)
    filled = np.where(np.isnan(raw), 0, raw) if raw.dtype.kind == "f" else raw
    median = ndimage.median_filter(filled, size, mode="reflect")
    far = np.maximum(filled, median) - np.minimum(filled, median)  # never below 0, so that unsigned integers do
    return np.where(far > np.reshape(speck, (-1,) + (1,) * (raw.ndim - 1)), median, raw)


def _spread(count: int, most: int) -> NDArray[np.intp]:
    """Up to so many planes, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))


def _bands(stack: Stack, plane: int, multiple: int) -> Iterator[NDArray[Any]]:
    """Raw voxels (channel, rows, width) of one plane, rows a multiple of some number so that thinning stays regular."""
    *leading, height, width = stack.shape_predicted
    rows = max(1, READ_VOXELS // width // multiple) * multiple
    place = tuple(int(i) for i in np.unravel_index(plane, leading)) if leading else ()
    after = tuple(i + 1 for i in place)
    for top in range(0, height, rows):
        raw = read_raw(stack, Box((*place, top, 0), (*after, min(top + rows, height), width)))
        yield raw.reshape(raw.shape[0], -1, width)


def _thinned(stack: Stack, planes: NDArray[np.intp]) -> NDArray[Any]:
    """About 2**20 voxels (channel, voxel) of planes, without NaN."""
    height, width = stack.shape_predicted[-2:]
    step = math.ceil(math.sqrt(max(1.0, len(planes) * height * width / SAMPLE_VOXELS)))
    bands = (band[:, ::step, ::step] for plane in planes for band in _bands(stack, plane, step))
    voxels = np.concatenate([band.reshape(band.shape[0], -1) for band in bands], axis=1)
    if voxels.dtype.kind == "f" and (nan := np.isnan(voxels).any(axis=0)).any():
        voxels = voxels[:, ~nan]
    if not voxels.size:
        raise ValueError(
            f"{stack.name!r} holds nothing but NaN where it was looked at; there are no intensities to measure"
        )
    return voxels


def _looks(stack: Stack, plane: int, base: int, budget: int, *, alone: bool) -> list[Look]:
    """One plane, of each channel alone or of their mean, in cells that are thinned to about a budget of voxels."""
    height, width = stack.shape_predicted[-2:]
    channels = stack.channels if alone else 1
    every = CELL * math.ceil(math.sqrt(max(1.0, height * width * channels / budget)))
    bands = []
    columns = _in_cells(width, every)
    for band in _bands(stack, plane, every):
        part = difference(band[:, _in_cells(band.shape[1], every)][..., columns], np.array(base, object))
        bands.append((part if alone else part.mean(axis=0, keepdims=True)).astype(np.float32))
    voxels = np.concatenate(bands, axis=1)
    found = [find_padding(channel) for channel in voxels]
    padded = np.logical_and.reduce([mask for mask, _ in found])
    return [look_at(channel, padded, values) for channel, (_, values) in zip(voxels, found, strict=True)]


def _in_cells(extent: int, every: int) -> NDArray[np.intp]:
    """Places along an axis, a cell of `CELL` voxels in every so many."""
    places = np.arange(extent)
    return places[places % every < CELL] if extent >= CELL else places


def _base(stack: Stack, voxels: NDArray[Any]) -> int:
    """What is taken away from large integers first, so that the rest is exact."""
    return int(voxels.flat[0]) if stack.dtype.kind in "iu" and stack.dtype.itemsize > 2 else 0


def read_raw(stack: Stack, box: Box) -> NDArray[Any]:
    """Raw voxels (channel, *box.shape), mirrored past the border.

    NaN that reaches the border of the box, or fills a rectangle, is padding and stays.

    Raises
    ------
    ValueError
        Where they hold other NaN or infinity, or what is infinite as float32, which would spread over everything around them.
    """
    raw = stack.read(box)
    if raw.dtype.kind == "f" and (wrong := not_finite(raw)).any():
        first = np.argwhere(wrong)[0][1:]
        place = ", ".join(
            f"{axis} {start + offset}"
            for axis, start, offset in zip(stack.axes_predicted, box.start, first, strict=True)
        )
        what = "numbers beyond float32" if np.isfinite(raw[wrong]).all() else "NaN or infinity"
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
