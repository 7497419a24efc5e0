"""Which annotations are trained on and which are held out: never empty, never sharing a group or neighbouring slices.

In this order: the split of several pairs, whole groups, the cut through one pair.

Several groups (a group: images that show the same thing) are held out whole. One image, or one stack, is cut by slices with a
gap between, or through the plane where too few slices are annotated::

    z  0 ............ 19 | 20 21 | 22 .. 24          training | gap, used by nobody | validation

The cut looks at what is annotated, not at the extent of the stack: both sides hold some of it, of every class where possible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_unetpp.box import Box

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_unetpp.training.blocks import Annotated
    from napari_unetpp.training.pairs import Pair

SLICE_GAP = 2  # slices between training and validation: neighbours in a stack look alike
STRIP_GAP = 16  # voxels, for the same reason within a plane
_LARGEST_SHARE = 0.4  # a held-out part larger than this share of the annotations is too much to give away


@dataclass(frozen=True, slots=True)
class Region:
    """A box (prediction axes) of the pair with that index."""

    pair: int
    box: Box


@dataclass(frozen=True, slots=True)
class Split:
    """Regions to train on and regions held out; no voxel is in both."""

    training: tuple[Region, ...]
    validation: tuple[Region, ...]


@dataclass(frozen=True, slots=True)
class _Cut:
    training: Box
    validation: Box
    missing: int  # classes that one side lacks although the pair has them
    share: float  # of the annotations that is held out


def split_pairs(pairs: Sequence[Pair], annotated: Sequence[Annotated], ndim: int, fraction: float, seed: int) -> Split:
    """Regions of all pairs, about `fraction` of the annotated voxels held out for validation.

    Parameters
    ----------
    annotated
        What `scan` found, one a pair; pairs without annotations are left out.
    ndim
        Spatial dimensions of the network; a 3D network needs at least two slices on either side.

    Raises
    ------
    ValueError
        If there is nothing to split, or too little is annotated to hold anything out of it.
    """
    if not pairs:
        raise ValueError("no image was given; name at least one image and its labels")
    if not 0 < fraction < 1:
        raise ValueError(f"validation fraction {fraction} must lie between 0 and 1, exclusive")
    sizes = [int(found.counts.sum()) for found in annotated]
    used = [index for index, size in enumerate(sizes) if size]
    groups: dict[str, list[int]] = {}
    for index in used:
        group = pairs[index].group
        groups.setdefault(group if group is not None else f"#{index}", []).append(index)
    if len(groups) > 1:
        held = _held_out(groups, sizes, fraction, seed)
        share = sum(sizes[i] for name in held for i in groups[name]) / sum(sizes)
        if share <= max(_LARGEST_SHARE, fraction) or any(pairs[i].group is not None for i in used):
            out = {i for name in held for i in groups[name]}
            return Split(
                tuple(Region(i, pairs[i].whole) for i in used if i not in out),
                tuple(Region(i, pairs[i].whole) for i in used if i in out),
            )
    training, validation = [], []
    for index in used:
        cut = _cut(annotated[index], pairs[index].whole, ndim, fraction)
        if cut is None:  # too small to be shared: the other pairs have to do for validation
            training.append(Region(index, pairs[index].whole))
        else:
            training.append(Region(index, cut.training))
            validation.append(Region(index, cut.validation))
    if not validation:
        one = pairs[used[0]] if used else pairs[0]
        raise ValueError(
            f"too little of {one.image.name} of shape {one.whole.shape} is annotated, or it is too small, to hold a part out for "
            f"validation; annotate another slice more than {SLICE_GAP} away, another image, or at least {3 * STRIP_GAP} pixels "
            "along one side"
        )
    return Split(tuple(training), tuple(validation))


def _held_out(groups: dict[str, list[int]], sizes: Sequence[int], fraction: float, seed: int) -> list[str]:
    """Names of whole groups, at least one and not all, that hold about `fraction` of the annotations."""
    names = sorted(groups)
    generator = torch.Generator().manual_seed(seed)
    order = [names[k] for k in torch.randperm(len(names), generator=generator).tolist()]
    wanted, held, total = fraction * sum(sizes), [], 0
    for name in order[:-1]:
        held.append(name)
        total += sum(sizes[i] for i in groups[name])
        if total >= wanted:
            break
    return held


def _cut(annotated: Annotated, whole: Box, ndim: int, fraction: float) -> _Cut | None:
    """The best cut: through slices before through the plane, unless that keeps a class or too much from the training."""
    least = 1 if ndim == 2 else 2
    reach = [np.ptp(np.flatnonzero(total.sum(axis=1))) for total in annotated.along]
    plane = sorted(range(whole.ndim - 2, whole.ndim), key=lambda axis: -reach[axis])
    axes = [(axis, SLICE_GAP, least) for axis in range(whole.ndim - 2)]
    axes += [(axis, STRIP_GAP, STRIP_GAP) for axis in plane]
    found: list[_Cut] = []
    for axis, gap, minimum in axes:
        cuts = list(_cuts(annotated.along[axis], whole, axis, gap, minimum))
        if cuts:  # the last slices before the first ones where both are as good
            found.append(min(cuts, key=lambda cut: (cut.missing, round(abs(cut.share - fraction), 9))))
    return min(found, key=lambda cut: (cut.missing, cut.share > max(_LARGEST_SHARE, fraction)), default=None)


def _cuts(along: NDArray[np.int64], whole: Box, axis: int, gap: int, minimum: int) -> Iterator[_Cut]:
    """Cuts across one axis with at least `minimum` slices, and something annotated, on either side of the gap."""
    extent = len(along)
    voxels = along.sum(axis=1)
    places = np.flatnonzero(voxels)
    first, last = int(places[0]), int(places[-1])
    before = np.concatenate([np.zeros_like(along[:1]), along.cumsum(axis=0)])  # voxels of each class below a place
    total = before[-1]
    for at in range(extent - minimum, first, -1):  # the far end is held out
        if last + 1 - at >= minimum and at - gap - first >= minimum:
            yield _made(whole, axis, (0, at - gap), (at, extent), before[at - gap], total - before[at], total)
    for at in range(minimum, last + 1):  # the near end is
        if at - first >= minimum and last + 1 - at - gap >= minimum:
            yield _made(whole, axis, (at + gap, extent), (0, at), total - before[at + gap], before[at], total)


def _made(
    whole: Box,
    axis: int,
    training: tuple[int, int],
    validation: tuple[int, int],
    trained: NDArray[np.int64],
    held: NDArray[np.int64],
    total: NDArray[np.int64],
) -> _Cut:
    sides = []
    for low, high in (training, validation):
        start, stop = list(whole.start), list(whole.stop)
        start[axis], stop[axis] = low, high
        sides.append(Box(tuple(start), tuple(stop)))
    missing = sum(int(np.count_nonzero((side == 0) & (total > 0))) for side in (trained, held))
    return _Cut(sides[0], sides[1], missing, float(held.sum() / total.sum()))
