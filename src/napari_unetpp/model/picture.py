"""Which part of a plane is picture: not padding, not empty, not a broken pixel.

A plane is looked at in cells of 3 x 3 voxels and in blocks of 8 x 8 cells::

    +---+---+--     cell: its median is free of single hot or dead pixels, and of much noise
    |3x3|   |       block: empty where its cells hardly differ, compared with those of other blocks
    +---+---+--     padding: one value that reaches the border in straight runs, with a step to the picture beside it
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CELL, BLOCK = 3, 8
_RUN = 16  # voxels: padding is made of straight runs at least so long
_STEP = 0.6  # beside padding the picture starts at once; beside a saturated nucleus it falls off slowly
_PLANE = 400  # cells, 60 x 60 voxels: the brightest of fewer say more about content than about brightness
_LEAST = 0.001  # of a plane; less padding than that moves no percentile
_NOISE = 2.0  # times the typical spread of a block: noise alone seldom reaches it
_FAINT, _SURE = 0.1, 0.25  # of the largest spread: below is empty, above never is
_SPECK = 0.5  # of the range: what a broken pixel differs by from its neighbours
_GLARING = 2.0  # of the range
_ALIKE = 0.2  # of the range: what the other neighbours of a broken pixel differ by


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One plane of one channel, or of the mean of several: voxels with NaN for padding, medians of cells, spreads of blocks."""

    voxels: NDArray[np.float32]
    medians: NDArray[np.float32]
    spreads: NDArray[np.float32]
    windows: NDArray[np.float32]  # (row, column, 4): least, second least, second largest, largest voxel of each cell
    values: tuple[float, ...]  # of its padding, beside NaN

    @property
    def padding(self) -> float:
        """Share of the plane that is padding."""
        return float(np.isnan(self.voxels).mean())


@dataclass(frozen=True, slots=True)
class Found:
    """What some planes hold.

    Parameters
    ----------
    values
        Voxels of the picture, without broken pixels: of all blocks that are no padding, and of those with signal alone.
    padding, signal, broken, glaring
        Shares: of all voxels, of blocks that are no padding, of voxels that are broken for sure, and of those that are so far
        off that a few of them spoil a prediction.
    speck
        What a broken pixel differs by from the median of its neighbours.
    """

    values: NDArray[np.float32]
    lively: NDArray[np.float32]
    padding: float
    signal: float
    broken: float
    glaring: float
    speck: float


def look_at(plane: NDArray[np.float32], padded: NDArray[np.bool_], values: Sequence[float] = ()) -> Look:
    """A plane of at least a cell, seen in cells and blocks; `padded` is its padding (`find_padding`)."""
    voxels = np.where(padded, np.float32(np.nan), plane)
    height, width = (n // CELL for n in voxels.shape)
    cells = _split(voxels[: height * CELL, : width * CELL], CELL)
    cells.sort(axis=-1)  # NaN last
    known = (~np.isnan(cells)).sum(axis=-1)
    last = np.maximum(known - 1, 0)

    def nth(place: NDArray[np.intp]) -> NDArray[np.float32]:
        return np.take_along_axis(cells, np.clip(place, 0, CELL**2 - 1)[..., None], -1)[..., 0]

    medians = np.where(known > CELL**2 // 2, nth(last // 2), np.float32(np.nan))
    windows = np.stack([nth(0 * last), nth(0 * last + 1), nth(last - 1), nth(last)], axis=-1)
    return Look(voxels, medians, _spreads(medians), windows, tuple(values))


def find_padding(plane: NDArray[np.float32]) -> tuple[NDArray[np.bool_], list[float]]:
    """Where a plane is no picture, and the values that stand for it.

    That is NaN, a constant frame, side or corner that touches the border, and a missing tile.
    """
    nan = np.isnan(plane)
    padded, found = nan.copy(), []
    border = np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]])
    for values in (border[~np.isnan(border)], plane[~nan]):
        numbers, counts = np.unique(values, return_counts=True)
        for value in numbers[np.argsort(-counts, kind="stable")][:2].tolist():
            if value not in found and counts[numbers == value][0] >= min(_RUN, *plane.shape):
                more = _padding_of(plane, value, nan)
                if more.any():
                    found.append(value)
                    padded |= more
    return padded, found


def examine(looks: Sequence[Look], low: float, high: float) -> Found:
    """What planes of one channel hold, for the percentiles `low` and `high`; empty values where all is padding."""
    spreads = np.concatenate([look.spreads.reshape(-1) for look in looks])
    spreads = np.sort(spreads[~np.isnan(spreads)])
    padding = float(np.mean([look.padding for look in looks]))
    if not spreads.size:
        nothing = np.empty(0, np.float32)
        return Found(nothing, nothing, padding, 0.0, 0.0, 0.0, 0.0)
    largest = spreads[-min(3, len(spreads))]
    floor = max(min(_NOISE * float(np.median(spreads)), _SURE * largest), _FAINT * largest)
    values, medians, lively = [], [], []
    blocks = signal = 0
    for look in looks:
        # Beside a block with signal lies the background that belongs to it.
        live = ndimage.binary_dilation(np.nan_to_num(look.spreads) > floor, np.ones((3, 3))) & ~np.isnan(look.spreads)
        blocks, signal = blocks + int((~np.isnan(look.spreads)).sum()), signal + int(live.sum())
        known = ~np.isnan(look.voxels)
        values.append(look.voxels[known])
        medians.append(_grown(look.medians, CELL, known.shape)[known])
        lively.append(_grown(live, CELL * BLOCK, known.shape)[known])
    value, median, alive = np.concatenate(values), np.concatenate(medians), np.concatenate(lively)
    least, most = np.nanpercentile(median[alive] if alive.any() else median, [low, high])
    span = float(most - least)
    sound = ~(np.abs(value - median) > _SPECK * span)  # a cell that is mostly padding has no median
    cells = np.concatenate([np.column_stack([look.windows.reshape(-1, 4), look.medians.reshape(-1)]) for look in looks])
    below, above = cells[:, 4] - cells[:, 0], cells[:, 3] - cells[:, 4]
    # One of nine that is far from the median while the next is not.
    single = np.where(cells[:, 2] - cells[:, 4] < _ALIKE * span, above, 0)
    single = np.maximum(single, np.where(cells[:, 4] - cells[:, 1] < _ALIKE * span, below, 0))
    voxels = max(1, int((~np.isnan(cells[:, 4])).sum())) * CELL**2
    broken, glaring = (int((single > far * span).sum()) / voxels if span > 0 else 0.0 for far in (_SPECK, _GLARING))
    return Found(value[sound], value[sound & alive], padding, signal / blocks, broken, glaring, _SPECK * span)


def structure(look: Look, low: float, high: float) -> tuple[float, float, float, float]:
    """Low and high of a plane's cells, its contrast over its noise, and how sharp it is; zeros where there is nothing.

    Both do not depend on brightness. A plane of noise has little contrast over noise, one that is out of focus is less sharp.
    """
    medians = look.medians[~np.isnan(look.medians)]
    if medians.size < _PLANE:
        return 0.0, 0.0, 0.0, 0.0
    least, most = map(float, np.percentile(medians, [low, high]))
    noise = (
        float(np.nanmedian(look.windows[..., 3] - look.windows[..., 0])) / CELL
    )  # a range of nine is three deviations
    steps = np.abs(np.diff(look.medians, axis=1))
    steps = steps[~np.isnan(steps)]
    if most <= least or not steps.size:
        return least, most, 0.0, 0.0
    return (
        least,
        most,
        (most - least) / max(noise, 1e-6 * (most - least)),
        float(np.percentile(steps, 99)) / (most - least),
    )


def _padding_of(plane: NDArray[np.float32], value: float, nan: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a plane is padded with this value, and one voxel around it, where a rotation has mixed both."""
    nothing = np.zeros(plane.shape, bool)
    flat = (plane == value) | nan
    straight = nothing.copy()
    for axis in (0, 1):
        line = np.ones((min(_RUN, plane.shape[0]), 1) if axis == 0 else (1, min(_RUN, plane.shape[1])), bool)
        straight |= ndimage.binary_opening(flat, line)
    straight &= ~nan
    parts, _ = ndimage.label(straight)
    ours = set(np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])).tolist()) - {0}
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        inside = parts[box] == number
        if min(inside.shape) >= 2 * _RUN and inside.mean() > 0.98:  # a missing tile
            ours.add(number)
    padded = np.isin(parts, list(ours))
    if padded.sum() < max(_RUN, _LEAST * plane.size):
        return nothing
    if padded.all():
        return padded
    distance = ndimage.distance_transform_cdt(~padded, "chessboard")
    picture = ~straight & ~nan
    beside, behind = (
        np.abs(plane[picture & where] - value) for where in (distance == 2, (distance >= 4) & (distance <= 6))
    )
    if min(beside.size, behind.size) < BLOCK:
        return nothing
    step, beyond = float(np.median(beside)), float(np.median(behind))
    if beyond <= 0 or step < _STEP * beyond or np.mean(beside == 0) > 0.05:
        return nothing
    return np.asarray(distance <= 1)


def _spreads(medians: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest minus least median of each block; NaN where most of it is padding."""
    height, width = (-(-n // BLOCK) * BLOCK for n in medians.shape)
    whole = np.full((height, width), np.nan, np.float32)
    whole[: medians.shape[0], : medians.shape[1]] = medians
    cells = _split(whole, BLOCK)
    known = ~np.isnan(cells)
    most, least = np.where(known, cells, -np.inf).max(-1), np.where(known, cells, np.inf).min(-1)
    return np.where(known.sum(-1) >= BLOCK, most - least, np.float32(np.nan)).astype(np.float32)


def _split(plane: NDArray[np.float32], edge: int) -> NDArray[np.float32]:
    """(row, column, edge * edge) of squares, out of a plane whose extents are multiples of the edge."""
    height, width = (n // edge for n in plane.shape)
    return plane.reshape(height, edge, width, edge).swapaxes(1, 2).reshape(height, width, edge * edge)


def _grown(squares: NDArray[np.generic], edge: int, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """The value of its square for every voxel; beyond the last whole square, that of the last."""
    rows, columns = (np.minimum(np.arange(n) // edge, m - 1) for n, m in zip(shape, squares.shape, strict=True))
    return squares[np.ix_(rows, columns)]
