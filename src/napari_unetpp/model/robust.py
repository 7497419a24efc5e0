"""The range of a picture in whatever surrounds and spoils it.

The plain range, that of all voxels, stays as it is unless something is found that moves it: padding, mostly empty area, broken
pixels, or planes of different brightness. So ordinary images keep their numbers to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_unetpp.model.intensity import Scaling, scaling_of, statistics
from napari_unetpp.model.picture import Found, Look, examine, structure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_unetpp.model.intensity import Intensity

Span = tuple[float, float]
Chosen = tuple[Span, "Found", dict[str, str]]

# Ordinary images of nuclei, EM and phase contrast stay within these by a margin; the bundled networks hardly feel less.
_PADDING = 0.001  # share of voxels
# Percentile that padding takes: background of fluorescence, glass of H&E, and in EM neither membrane nor bright lumen. Of 3, 10,
# 15, .. 90 the one with the least loss in a frame of 40 voxels on all three; on EM 3 costs 0.046 and 50 costs 0.020 of IoU.
_QUIET = 20
_RARE = 0.0002  # share of voxels
_BROKEN, _GLARING = 0.001, 0.0001  # shares of voxels; textures reach half of the first
_SHIFT, _STRETCH = 0.02, 1.15  # of the range; what padding must move to be left out
_BELOW, _ABOVE = 0.1, 0.3  # of the range; padding outside of that disturbs a network far into the picture
_SPARSE = ((0.12, 1.4), (0.25, 2.0))  # share of blocks with signal, and how much wider their range is
_DIFFER = 1.75  # ratio of contrasts; the planes of ordinary volumes reach 1.65
_JUMP = 1.5  # ratio of contrasts of neighbouring planes
_CONTRAST = 5.0  # over the noise: noise alone has 2, blurred haze of other planes 3
_SHARP = 1.7  # ratio of sharpness between planes in focus
_DARK = 0.05  # of the range: a background below it says nothing about brightness


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """The planes of a stack along its leading axes.

    Parameters
    ----------
    axes, counts
        Leading axes ("t", "z", "tz" or none) and their extents.
    looked
        Numbers of the planes to look at, in the order of storage.
    base
        What was taken away from all intensities.
    channels
        Of the network.
    look
        One `Look` a channel, or one for all, of a plane by number.
    """

    axes: str
    counts: tuple[int, ...]
    looked: tuple[int, ...]
    base: int
    channels: int
    look: Callable[[int], list[Look]]


def robust_scaling(intensity: Intensity, plain: Scaling, sample: NDArray[np.float64], planes: Planes) -> Scaling:
    """Scaling of the picture in a stack: `plain`, that of all voxels (channel, ...), where nothing speaks against it."""
    looks = [planes.look(plane) for plane in planes.looked]
    if min(looks[0][0].medians.shape) < 4:  # hardly a picture
        return plain
    rows = sample if intensity.per_channel else sample.reshape(1, -1)
    chosen = [_chosen(intensity, row, [look[min(k, len(look) - 1)] for look in looks]) for k, row in enumerate(rows)]
    if (differ := _differ(intensity, looks, planes)) is not None:
        return _of_planes(intensity, planes, looks, differ, chosen)
    if not any(words for _, _, words in chosen):
        # Where NaN is all that is wrong the numbers stay, and the network sees the picture's mirror image there.
        outside = any(np.isnan(one.voxels).any() and not len(one.values) for look in looks for one in look)
        return _padded(plain, planes, looks, chosen) if outside else plain
    repeat = planes.channels // len(rows)
    scaling = scaling_of([span for span, _, _ in chosen] * repeat, planes.base)
    specks: tuple[float, ...] = ()
    if any("broken" in words for _, _, words in chosen):
        specks = tuple(found.speck for _, found, _ in chosen) * repeat
    note = "; ".join(dict.fromkeys(word for _, _, words in chosen for word in words.values()))
    return replace(_padded(scaling, planes, looks, chosen), speck=specks, note=note)


def _padded(scaling: Scaling, planes: Planes, looks: Sequence[list[Look]], chosen: Sequence[Chosen]) -> Scaling:
    """The scaling with what stands for padding, where the picture has it nowhere, and a quiet value of the picture for it."""
    if not any(found.padding for _, found, _ in chosen):
        return scaling
    rows = []
    most = max(len(one.values) for look in looks for one in look)
    for k in range(most):
        for look in looks:
            row = [one.values[k] for one in look if len(one.values) > k]
            if len(row) == len(look) and not any(
                _holds(found, value) for (_, found, _), value in zip(chosen, row, strict=False)
            ):
                rows.append(
                    tuple(planes.base + (int(v) if planes.base else v) for v in row) * (planes.channels // len(row))
                )
    quiet = tuple(
        (float(np.percentile(found.values, _QUIET)) + planes.base - offset) * gain if found.values.size else 0.0
        for (_, found, _), offset, gain in zip(
            list(chosen) * (planes.channels // len(chosen)), scaling.offset, scaling.gain, strict=True
        )
    )
    return replace(scaling, padding=tuple(dict.fromkeys(rows)), fill=quiet)


def _holds(found: Found, value: float) -> bool:
    """Whether a picture holds a value more than now and then."""
    return bool(found.values.size) and float((found.values == value).mean()) > _RARE


def plane_scaling(intensity: Intensity, plain: Scaling, planes: Planes) -> Scaling:
    """Scaling of each plane by itself; one that holds nothing has the stack's."""
    spans = []
    for plane in range(math.prod(planes.counts)):
        of = [look.voxels[~np.isnan(look.voxels)].astype(np.float64) for look in planes.look(plane)]
        spans.append([statistics(intensity, values) if values.size else None for values in of])
    fallback = [(o - planes.base, 1 / g) for o, g in zip(plain.offset, plain.gain, strict=True)]
    filled = [[span or fallback[k] for k, span in enumerate(row)] for row in spans]
    return _table(planes, filled, "each plane has its own range")


def _chosen(
    intensity: Intensity, sample: NDArray[np.float64], looks: Sequence[Look]
) -> tuple[Span, Found, dict[str, str]]:
    """Numbers of one channel, what was found in it, and in which words they differ from the plain ones."""
    low, high = np.percentile(sample, [intensity.low, intensity.high])
    found = examine(looks, intensity.low, intensity.high)
    words: dict[str, str] = {}
    if not found.values.size:
        return statistics(intensity, sample), found, words
    least, most = np.percentile(found.values, [intensity.low, intensity.high])
    values, stretch = found.values, 1.0
    if found.lively.size:
        first, last = np.percentile(found.lively, [intensity.low, intensity.high])
        stretch = (last - first) / (most - least) if most > least else math.inf
    left_out = found.padding
    if sparse := any(found.signal < share and stretch > ratio for share, ratio in _SPARSE):
        values, (least, most) = found.lively, (first, last)
        left_out += (1 - found.padding) * (1 - found.signal)
    spread = most - least
    moved = spread > 0 and (
        abs(least - low) > _SHIFT * spread or not spread / _STRETCH < high - low < spread * _STRETCH
    )
    strange = any(
        not -_BELOW < (v - low) / (high - low) < 1 + _ABOVE for look in looks for v in look.values if high > low
    )
    if sparse or (found.padding > _PADDING and (moved or strange)):
        words["empty"] = f"{_percent(left_out)} of the image is padding or empty and was left out"
    if _is_broken(found):
        words["broken"] = (
            f"about {_percent(found.broken)} of the pixels are broken (far from all their neighbours) and were replaced by"
            " the median of these"
        )
    return statistics(intensity, values.astype(np.float64)), found, words


def _is_broken(found: Found) -> bool:
    return found.broken > _BROKEN or found.glaring > _GLARING


def _differ(intensity: Intensity, looks: Sequence[Sequence[Look]], planes: Planes) -> NDArray[np.bool_] | None:
    """Which planes have a range of their own, where planes differ in brightness; None where they do not.

    Content differs between planes too. Brightness it is where sharp planes differ much in contrast and their background goes
    with it, or neighbours differ at once, or along time.
    """
    if len(looks) < 2:
        return None
    low, high, contrast, sharp = np.array([structure(look[0], intensity.low, intensity.high) for look in looks]).T
    span = high - low
    bright = span >= np.median(span[span > 0]) if (span > 0).any() else span > 0
    if not bright.any():
        return None
    usual = np.median(sharp[bright])
    real = (contrast > _CONTRAST) & (sharp > usual / _SHARP) & (sharp < usual * _SHARP) & (span > 0)
    if real.sum() < 2 or span[real].max() < _DIFFER * span[real].min():
        return None
    dim, best = (int(k) for k in (np.where(real, span, np.inf).argmin(), np.where(real, span, -np.inf).argmax()))
    ratio = span[dim] / span[best]
    informs = low[best] > _DARK * span[best]
    follows = informs and low[dim] / low[best] < (1 + ratio) / 2
    steps = span[real][1:] / span[real][:-1]
    jumps = len(looks) == math.prod(planes.counts) and np.maximum(steps, 1 / steps).max() > _JUMP
    time = "t" in planes.axes and planes.counts[planes.axes.index("t")] > 1
    return real if follows or jumps or time else None


def _of_planes(
    intensity: Intensity,
    planes: Planes,
    looks: Sequence[list[Look]],
    real: NDArray[np.bool_],
    chosen: Sequence[Chosen],
) -> Scaling:
    """Scaling of planes that differ: a plane without a picture has the numbers of the nearest that has one."""
    count = math.prod(planes.counts)
    spans: dict[int, list[Span]] = {}
    known = dict(zip(planes.looked, zip(looks, real, strict=True), strict=True))
    usual = np.median(
        [structure(look[0], intensity.low, intensity.high)[3] for look, is_real in known.values() if is_real]
    )
    for plane in range(count):
        look, is_real = known.get(plane) or (planes.look(plane), None)
        if is_real is None:
            _, _, contrast, sharp = structure(look[0], intensity.low, intensity.high)
            is_real = contrast > _CONTRAST and usual / _SHARP < sharp < usual * _SHARP
        if is_real:
            spans[plane] = [_chosen_of_plane(intensity, one) for one in look]
    places = np.array(sorted(spans))
    filled = [spans[int(places[np.abs(places - plane).argmin()])] for plane in range(count)]
    widths = [row[0][1] for row in spans.values()]
    broken = max(found.broken for _, found, _ in chosen)
    note = f"planes differ in brightness (x {min(widths) / max(widths):.2g} to 1): each has its own range"
    scaling = _padded(_table(planes, filled, note), planes, looks, chosen)
    if not any(_is_broken(found) for _, found, _ in chosen):
        return scaling
    limits = [min(spans[plane][k][1] for plane in spans) / 2 for k in range(len(filled[0]))]
    words = f"about {_percent(broken)} of the pixels are broken and were replaced by their neighbours"
    repeat = planes.channels // len(limits)
    return replace(scaling, speck=tuple(limits) * repeat, note=f"{note}; {words}")


def _chosen_of_plane(intensity: Intensity, look: Look) -> Span:
    found = examine([look], intensity.low, intensity.high)
    values = found.values
    if found.lively.size:
        (a, b), (c, d) = (np.percentile(v, [intensity.low, intensity.high]) for v in (found.values, found.lively))
        if any(found.signal < share and d - c > ratio * (b - a) for share, ratio in _SPARSE):
            values = found.lively
    return statistics(intensity, values.astype(np.float64))


def _table(planes: Planes, spans: Sequence[list[Span]], note: str) -> Scaling:
    repeat = planes.channels // len(spans[0])
    rows = [scaling_of(row * repeat, planes.base) for row in spans]
    widest = min(range(len(rows)), key=lambda k: rows[k].gain[0])
    return replace(
        rows[widest],
        axes=planes.axes,
        counts=planes.counts,
        offsets=tuple(row.offset for row in rows),
        gains=tuple(row.gain for row in rows),
        note=note,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
