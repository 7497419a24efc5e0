"""Which annotations are trained on and which are held out: the parts never share a group or neighbouring slices.

Of several images whole groups are held out (a group: images that show the same thing); one image is cut (`cuts`). Every class
that is annotated in two places which can be separated is in both parts, as far as any of these splits can do that. Where none of
them leaves foreground in both parts, or all of them take a class out of the training, nothing is held out: a score on a part
without foreground says nothing, and a class that is not trained is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_unetpp.training.cuts import SLICE_GAP, STRIP_GAP, Cut, cut_pair, faults

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_unetpp.box import Box
    from napari_unetpp.training.blocks import Annotated
    from napari_unetpp.training.pairs import Pair

_FEW = 12  # groups: 4094 choices take a few milliseconds
_BEGINNINGS = 16

__all__ = ["SLICE_GAP", "STRIP_GAP", "Region", "Split", "split_pairs"]


@dataclass(frozen=True, slots=True)
class Region:
    """A box (prediction axes) of the pair with that index."""

    pair: int
    box: Box


@dataclass(frozen=True, slots=True)
class Split:
    """Regions to train on and regions held out; no voxel is in both.

    `validation` is empty where no split can be scored; then everything is trained on.
    """

    training: tuple[Region, ...]
    validation: tuple[Region, ...]


def split_pairs(
    pairs: Sequence[Pair],
    annotated: Sequence[Annotated],
    ndim: int,
    fraction: float,
    seed: int,
    same: Sequence[int] | None = None,
) -> Split:
    """Regions of all pairs, about `fraction` of the annotated voxels held out for validation.

    Parameters
    ----------
    annotated
        What `scan` found, one a pair; pairs without annotations are left out.
    ndim
        Spatial dimensions of the network; a 3D network needs at least two slices on either side.
    same
        Per pair the index of the first pair with the same image; they are kept together. None: all images differ.

    Raises
    ------
    ValueError
        If there is nothing to split.
    """
    if not pairs:
        raise ValueError("no image was given; name at least one image and its labels")
    if not 0 < fraction < 1:
        raise ValueError(f"validation fraction {fraction} must lie between 0 and 1, exclusive")
    used = [index for index, found in enumerate(annotated) if found.counts.any()]
    if not used:
        raise ValueError("nothing is annotated in any image; annotate some of it")
    groups: dict[str, list[int]] = {}
    for index in used:
        group = pairs[index].group
        alone = f"#{index if same is None else same[index]}"
        groups.setdefault(group if group is not None else alone, []).append(index)
    named = any(pairs[index].group is not None for index in used) or any(len(g) > 1 for g in groups.values())
    total = np.sum([found.counts for found in annotated], axis=0)

    @cache
    def cut(index: int) -> Cut | None:
        return cut_pair(annotated[index], pairs[index].whole, ndim, fraction)

    candidates = []
    if len(groups) > 1:
        single = {i for g in groups.values() if len(g) == 1 for i in g if pairs[i].group is None}
        candidates.append(
            _by_groups(groups, pairs, annotated, lambda i: cut(i) if i in single else None, fraction, seed)
        )
    if len(groups) == 1 or (candidates and not named and _faults(candidates[0], total, fraction)[2]):
        # cuts come first where whole images would be too much
        candidates.insert(0, {i: cut(i) or _whole(pairs[i], annotated[i], held=False) for i in used})
    best = min(candidates, key=lambda parts: (not _scores(parts, total), *_faults(parts, total, fraction)[:2]))
    if not _scores(best, total):
        return Split(tuple(Region(i, pairs[i].whole) for i in used), ())
    return Split(
        tuple(Region(i, box) for i, cut in sorted(best.items()) for box in cut.training),
        tuple(Region(i, box) for i, cut in sorted(best.items()) for box in cut.validation),
    )


def _by_groups(
    groups: Mapping[str, Sequence[int]],
    pairs: Sequence[Pair],
    annotated: Sequence[Annotated],
    cut: Callable[[int], Cut | None],
    fraction: float,
    seed: int,
) -> dict[int, Cut]:
    """Whole groups held out; an image that alone holds a class, and is a group by itself, is cut where that helps."""
    names = sorted(groups)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    names = [names[k] for k in order]
    counts = np.array([np.sum([annotated[i].counts for i in groups[name]], axis=0) for name in names])
    held = _held_out(counts, fraction)
    parts = {
        i: _whole(pairs[i], annotated[i], held=bool(held[k])) for k, name in enumerate(names) for i in groups[name]
    }
    total = counts.sum(axis=0)
    while any(now := _faults(parts, total, fraction)[:2]):
        trained, out = (np.sum([getattr(p, side) for p in parts.values()], axis=0) for side in ("trained", "held"))
        missing = ((trained == 0) | (out == 0)) & (total > 0)
        tried = [
            {**parts, i: found}
            for i, part in parts.items()
            if annotated[i].counts[missing].any() and (found := cut(i)) is not None and found is not part
        ]
        better = min(tried, key=lambda some: _faults(some, total, fraction), default=parts)
        if _faults(better, total, fraction)[:2] >= now:
            break
        parts = better
    return parts


def _held_out(counts: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """Which groups are held out, at least one and not all, out of their annotated voxels (group, class), in order of preference.

    The first groups that make up `fraction`. Where these leave a class out, or hold next to nothing of it, the best of all choices
    for few groups; for many, groups are moved and exchanged one at a time as long as that helps, from several beginnings.
    """
    total, sizes, many = counts.sum(axis=0), counts.sum(axis=1), len(counts)

    def fault(held: NDArray[np.bool_]) -> tuple[float, ...]:
        out = counts[held].sum(axis=0)
        return tuple(faults(total - out, out, total, fraction))

    first = int(np.searchsorted(sizes.cumsum(), fraction * sizes.sum()))
    held = np.arange(many) <= min(first, many - 2)
    if not any(fault(held)[:4]):
        return held
    if many <= _FEW:
        choices = np.arange(1, 2**many - 1)[:, None] >> np.arange(many) & 1
        sums = choices @ counts
        return np.asarray(choices[np.lexsort(faults(total - sums, sums, total, fraction).T[::-1])[0]], bool)
    best = _improved(held, counts, fraction)
    lonely = np.flatnonzero(
        np.count_nonzero(counts, axis=0) == 1
    )  # classes of one group, which cannot be in both parts
    least = (0, sum(2 if k else 1 for k in lonely))
    for turn in range(1, _BEGINNINGS):
        if fault(best)[:2] <= least:
            break
        best = min(best, _improved(np.roll(held, turn * many // _BEGINNINGS), counts, fraction), key=fault)
    return best


def _improved(held: NDArray[np.bool_], counts: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """The choice after all single moves and exchanges of groups that make it better."""
    total, held = counts.sum(axis=0), held.copy()
    base = counts[held].sum(axis=0)
    now = tuple(faults(total - base, base, total, fraction))
    while any(now[:4]):
        best, move = now, None
        for out in (None, *np.flatnonzero(held)):  # what is given back to the training, and what is held out for it
            left = base if out is None else base - counts[out]
            rows = faults(total - left - counts, left + counts, total, fraction)
            rows[held] = np.inf
            k = int(np.lexsort(rows.T[::-1])[0])
            choices: list[tuple[tuple[float, ...], tuple[int | None, int | None]]]
            choices = [(tuple(rows[k]), (out, k))] if out is not None or np.count_nonzero(~held) > 1 else []
            if out is not None and np.count_nonzero(held) > 1:
                choices.append((tuple(faults(total - left, left, total, fraction)), (out, None)))
            for row, choice in choices:
                if row < best and row[:4] < now[:4]:  # the share alone is not worth the search
                    best, move = row, choice
        if move is None:
            break
        out, inside = move
        if out is not None:
            held[out] = False
        if inside is not None:
            held[inside] = True
        base, now = counts[held].sum(axis=0), best
    return held


def _whole(pair: Pair, annotated: Annotated, *, held: bool) -> Cut:
    """A pair that lies in one part as a whole."""
    nothing = np.zeros_like(annotated.counts)
    if held:
        return Cut((), (pair.whole,), nothing, annotated.counts)
    return Cut((pair.whole,), (), annotated.counts, nothing)


def _faults(parts: Mapping[int, Cut], total: NDArray[np.int64], fraction: float) -> tuple[float, ...]:
    trained = np.sum([cut.trained for cut in parts.values()], axis=0)
    held = np.sum([cut.held for cut in parts.values()], axis=0)
    return tuple(faults(trained, held, total, fraction))


def _scores(parts: Mapping[int, Cut], total: NDArray[np.int64]) -> bool:
    """Whether a score of these parts means something: both hold some foreground class, and training lacks no class."""
    trained, held = (np.sum([getattr(cut, side) for cut in parts.values()], axis=0) for side in ("trained", "held"))
    return bool((held > 0)[1:].any() and (trained > 0)[total > 0].all())
