"""Which numbers a label image holds, and which of them stand for label 0, 1, 2.

Gray values such as 0, 127, 255 are a common way to save the classes 0, 1, 2. They are never guessed: `find_values` lists them, and
a `LabelMap` that the user gave says what they mean.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.box import Box, read_box

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from napari_unetpp.box import ArrayLike

MOST_VALUES = 64  # more different numbers than that are numbers of objects, not classes
OPTION = "--label-values"
_AT_ONCE = 2**22  # voxels that are counted at once


@dataclass(frozen=True, slots=True)
class LabelMap:
    """The numbers, or 8-bit colours as 0xRRGGBB, that stand for label 0, 1, 2.. in this order.

    >>> found, unknown = LabelMap((0, 127, 255)).apply(np.array([255, 0, 127, 3, -1]))
    >>> found[~unknown].tolist(), unknown.tolist()
    ([2, 0, 1, -1], [False, False, False, True, False])
    >>> str(LabelMap((0, 0xFF0000), colours=True))
    '#000000,#ff0000'

    Raises
    ------
    ValueError
        If a number is named twice.
    """

    values: tuple[int, ...]
    colours: bool = False

    def __post_init__(self) -> None:
        if len({*self.values}) < len(self.values):
            raise ValueError(f"values {self} name a value twice; each stands for one label")

    def __str__(self) -> str:
        return ",".join(map(self.text, self.values))

    def text(self, value: int) -> str:
        return f"#{value:06x}" if self.colours else str(value)

    def apply(self, voxels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Labels, and where a voxel holds none of the values; other numbers below 0 stay -1, not annotated."""
        order = np.argsort(self.values)
        known = np.array(self.values, np.int64)[order]
        places = np.minimum(np.searchsorted(known, voxels), len(known) - 1)
        hit = known[places] == voxels
        labels = np.where(hit, order[places], -1)
        return labels, ~hit & (voxels >= 0)


def parse_values(text: str) -> LabelMap:
    """A map out of ``0,127,255`` or ``#000000,#ff0000``.

    Raises
    ------
    ValueError
        In one line, if it is neither.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and all(re.fullmatch(r"#[0-9a-fA-F]{6}", part) for part in parts):
        return LabelMap(tuple(int(part[1:], 16) for part in parts), colours=True)
    if len(parts) > 1 and all(re.fullmatch(r"-?\d{1,18}", part) for part in parts):
        return LabelMap(tuple(map(int, parts)))
    raise ValueError(
        f"{OPTION} {text}: give the value of label 0, 1, 2 in this order, as 0,127,255, or colours as #000000,#ff0000"
    )


@dataclass(frozen=True, slots=True)
class Values:
    """The different numbers of a label image in order; `many` where there are over `MOST_VALUES`, of which these are some."""

    values: tuple[int, ...]
    many: bool = False


def find_values(labels: ArrayLike) -> Values:
    """The different numbers of a label array, read a bounded part at a time; reading ends once there are too many."""
    found: set[int] = set()
    for box in blocks_of(Box.of(labels.shape)):
        found |= count_values(read_box(labels, box)).keys()
        if len(found) > MOST_VALUES:
            return Values(tuple(sorted(found)[:MOST_VALUES]), many=True)
    return Values(tuple(sorted(found)))


def count_values(labels: NDArray[Any], most: int | None = None) -> Counter[int]:
    """Voxels of each number; of `most` numbers at most."""
    if labels.dtype.kind in "bu" and labels.dtype.itemsize <= 2:  # several times as fast as sorting
        counts = np.bincount(labels.reshape(-1))
        numbers = np.flatnonzero(counts)
        counts = counts[numbers]
    else:
        numbers, counts = np.unique(labels, return_counts=True)
    return Counter(dict(zip(numbers[:most].tolist(), counts[:most].tolist(), strict=True)))


def blocks_of(box: Box, voxels: int = _AT_ONCE) -> Iterator[Box]:
    """The box in pieces of at most about `voxels` voxels, in order, along its first axes."""
    steps, room = [], voxels
    for extent in reversed(box.shape):
        steps.append(max(1, min(extent, room)))
        room //= steps[-1]
    steps.reverse()
    for start in itertools.product(*(range(a, b, n) for a, b, n in zip(box.start, box.stop, steps, strict=True))):
        stop = tuple(min(a + n, b) for a, n, b in zip(start, steps, box.stop, strict=True))
        yield Box(start, stop)


def needs_map(values: Iterable[int], most: int = MOST_VALUES) -> tuple[int, ...]:
    """The values (0 and up) in order, if they may be gray values of classes: at least three, not numbered 0, 1, 2.

    >>> needs_map([0, 127, 255]), needs_map([0, 1, 2]), needs_map([0, 255])
    ((0, 127, 255), (), ())
    """
    known = tuple(sorted(value for value in {*map(int, values)} if value >= 0))
    return known if 3 <= len(known) <= most and known[-1] != len(known) - 1 else ()


def unknown_value(name: str, value: int, labels: ArrayLike, classes: int, ignore_zero: bool) -> str:
    """The line about labels that hold a class which the model does not have: what they hold, and what can be done."""
    shift = 1 if ignore_zero else 0
    head = f"labels {name} hold {value}, but the model has only the classes 0 to {classes - 1}"
    if ignore_zero:
        head += f" (labels 1 to {classes}; 0 is not annotated)"
    found = find_values(labels)
    if found.many:
        return (
            f"{head}. They hold over {MOST_VALUES} different values, so these are numbers of objects; train a model of one class "
            "for them, which takes every label above 0"
        )
    known, wanted = [v for v in found.values if v >= 0], classes + shift
    head += f". Values found: {listing(found.values)}"
    if len(known) == wanted:
        return f"{head}. If these are labels 0 to {wanted - 1} in this order, say so with {OPTION} {','.join(map(str, known))}"
    if len(known) < wanted:
        return (
            f"{head}. If these are gray values of classes, give the values of labels 0 to {wanted - 1} in this order with "
            f"{OPTION}, also those that only other images hold"
        )
    return f"{head}. Use a model with as many classes, or one class for all of them"


def listing(values: Iterable[int], most: int = 16) -> str:
    """Values in words, of many the first."""
    every = list(map(str, values))
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
