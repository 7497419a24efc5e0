"""An image with its labels, and what the painted numbers mean to a network.

In this order: a pair, the rule that turns painted numbers into targets, a target read from disk, pairs out of corrections.

What counts as annotated is decided here and nowhere else::

    unpainted "background"   0 background, 1.. classes     everything, or only the boxes that somebody reviewed
    unpainted "ignore"       0 not annotated, 1 background, 2.. classes     everything that is painted

Numbers below 0 are not annotated in either case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_unetpp.box import Box
from napari_unetpp.label_stacks import shape_hint
from napari_unetpp.label_values import unknown_value
from napari_unetpp.stacks import aligned
from napari_unetpp.training.losses import IGNORE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_unetpp.stacks import Stack
    from napari_unetpp.training.corrections import Corrections

Unpainted = Literal["background", "ignore"]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """An image stack and its label stack, of the same extent. Labels may lack axes of extent 1.

    Pairs with the same group are never split between sets.

    Parameters
    ----------
    reviewed
        Boxes (prediction axes) in which a 0 is background because somebody looked; all else is not annotated. None: the whole
        stack is. Without meaning where 0 is not annotated anyway.
    unpainted
        What label 0 means here; None is what the run's options say.

    Raises
    ------
    ValueError
        If the extents differ or the labels have channels or are no integers.
    """

    image: Stack
    label: Stack
    group: str | None = None
    reviewed: tuple[Box, ...] | None = None
    unpainted: Unpainted | None = None

    def __post_init__(self) -> None:
        image = self.image
        object.__setattr__(self, "label", aligned(self.label, image.axes_predicted, image.shape_predicted))
        if self.label.channel_axis is not None or self.label.dtype.kind not in "bui":
            raise ValueError(
                f"labels {self.label.name} have axes {self.label.axes} and dtype {self.label.dtype}; integers without a "
                "channel axis are wanted"
            )
        if self.image.shape_predicted != self.label.shape_predicted:
            raise ValueError(
                f"image {self.image.name} has shape {self.image.shape_predicted} ({self.image.axes_predicted}) but its labels "
                f"{self.label.name} have {self.label.shape_predicted}; they must be equal"
                + shape_hint(self.image.shape_predicted, self.label.shape_predicted, self.image.axes_predicted)
            )

    @property
    def whole(self) -> Box:
        return Box.of(self.image.shape_predicted)


@dataclass(frozen=True, slots=True)
class Rule:
    """How painted numbers become targets.

    Parameters
    ----------
    classes
        Channels of the heads. With one, every label above the background is foreground, so instance labels become binary.
    unpainted
        What 0 means where a pair does not say it.
    foreground
        For one class: the painted number that alone is foreground, as one class of many; 0 is every one.
    """

    classes: int = 1
    unpainted: Unpainted = "background"
    foreground: int = 0

    def ignores_zero(self, pair: Pair) -> bool:
        return (pair.unpainted or self.unpainted) == "ignore"


class UnknownLabel(ValueError):
    """A label, `value`, that is no class of the network."""

    def __init__(self, value: int, classes: int) -> None:
        super().__init__(f"labels hold {value}, but the model has only the classes 0 to {classes - 1}")
        self.value = value


def to_target(label: NDArray[Any], rule: Rule, ignore_zero: bool) -> NDArray[np.uint8]:
    """Target (uint8: class, or IGNORE) out of painted labels; numbers below 0 are not annotated.

    Parameters
    ----------
    ignore_zero
        True: 0 was not annotated, 1 is background, 2.. are the classes. False: 0 is background.

    Raises
    ------
    UnknownLabel
        If a label is no class of the network.
    """
    shift = 1 if ignore_zero else 0
    if rule.classes == 1:
        target = (label == rule.foreground if rule.foreground else label > shift).astype(np.uint8)
    else:
        highest = int(label.max(initial=0))
        if highest - shift >= rule.classes:
            raise UnknownLabel(highest, rule.classes)
        target = np.maximum(label.astype(np.int64) - shift, 0).astype(np.uint8)
    if ignore_zero:
        target[label == 0] = IGNORE
    if label.dtype.kind == "i":
        target[label < 0] = IGNORE
    return target


def read_target(pair: Pair, box: Box, rule: Rule) -> NDArray[np.uint8]:
    """Target (*box.shape) of a box of a pair; what nobody annotated is IGNORE.

    Raises
    ------
    ValueError
        If a label is no class of the network; the message lists the values of all labels of the pair.
    """
    ignore = rule.ignores_zero(pair)
    if pair.reviewed is None or ignore:
        return _target(pair, box, rule, ignore)
    target = np.full(box.shape, IGNORE, np.uint8)
    for reviewed in pair.reviewed:
        part = box.intersect(reviewed)
        if part.size:
            inside = part.shift([-n for n in box.start]).slices
            target[inside] = _target(pair, part, rule, ignore)
    return target


def negative_line(pair: Pair, annotated: int, rule: Rule) -> str:
    """The line for the user about labels below 0, out of the number of voxels that are annotated; empty without any."""
    if pair.label.dtype.kind != "i" or pair.reviewed is not None or rule.ignores_zero(pair):
        return ""  # nothing is below 0, or voxels are left out for other reasons as well
    left = pair.whole.size - annotated
    if not left:
        return ""
    return (
        f"labels {pair.label.name}: {left} voxels ({100 * left / pair.whole.size:.2g} %) are below 0, which means not annotated; "
        "they count neither in the loss nor in the score"
    )


def _target(pair: Pair, box: Box, rule: Rule, ignore: bool) -> NDArray[np.uint8]:
    try:
        return to_target(pair.label.read(box)[0], rule, ignore)
    except UnknownLabel as error:
        line = unknown_value(pair.label.name, error.value, pair.label.data, rule.classes, ignore)
        raise ValueError(line) from None


def corrections_pair(image: Stack, corrections: Corrections) -> Pair:
    """An image and its corrections: what was reviewed, or painted, is what counts.

    Raises
    ------
    ValueError
        If the corrections are of an image of another extent.
    """
    from napari_unetpp.training.corrections import stack_of

    reviewed = corrections.reviewed if corrections.unpainted == "background" else None
    return Pair(image, stack_of(corrections), reviewed=reviewed, unpainted=corrections.unpainted)
