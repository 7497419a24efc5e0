"""What is found out of the weights of somebody's network, and how its names become ours.

In this order: what may be asked by whoever imports (`Asked`), what a format finds (`Found`), and the few questions that every
format puts to the shapes of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from napari_unetpp.model.spec import MAX_DEPTH
from napari_unetpp.model.spec_checks import Padding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from napari_unetpp.model.spec import Block, NetworkSpec, Upsampling

Free = Literal["bilinear-aligned", "bilinear", "nearest"]
FREE: tuple[Free, ...] = get_args(Free)
Heads = Literal["all", "last", "mean"]
HEADS: tuple[Heads, ...] = get_args(Heads)
Intensities = Literal["imagenet-255", "imagenet", "unit", "raw", "percentile", "zscore"]
INTENSITIES: tuple[Intensities, ...] = get_args(Intensities)
PADDINGS: tuple[Padding, ...] = get_args(Padding)

# Where conv, norm, conv, norm stand in a block of `unetpp._node`.
_PLACES: dict[str, tuple[int | None, ...]] = {
    "conv-relu": (0, None, 2, None),
    "conv-relu-dropout": (0, None, 3, None),
    "conv-bn-relu": (0, 1, 3, 4),
    "conv-in-relu": (0, 1, 3, 4),
    "bn-relu-conv": (2, 0, 5, 3),
}


class UnfitError(ValueError):
    """The weights are not those of the network that their names promise; the message is one line without the file's name."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a checkpoint cannot say, and the person who imports it can; None takes the format's usual.

    Parameters
    ----------
    upsampling
        Of a network that has no weights for it.
    classes
        Name of every class; the background's may be left out.
    intensities
        How images were scaled before they entered: ``unit`` is divided by 255, ``imagenet`` also normalised by ImageNet's mean
        and standard deviation, ``imagenet-255`` divided by 255 once more, ``raw`` as they are.
    heads
        Which of several heads were trained: all (deep supervision), the last, or the mean of their logits.
    negative_slope
        Of the network's LeakyReLU; 0 is a ReLU.
    padding
        Of its convolutions, as `spec.NetworkSpec` has it, where the same weights go with several.
    encoder
        Name of its encoder in timm, where its weights do not tell it (``tu-`` of segmentation_models.pytorch, without the ``tu-``).
    """

    upsampling: Free | None = None
    classes: tuple[str, ...] = ()
    intensities: Intensities | None = None
    heads: Heads | None = None
    negative_slope: float | None = None
    padding: Padding | None = None
    encoder: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A network of somebody, told in ours.

    Parameters
    ----------
    name
        What it is, in words.
    modules
        Their module for each of ours, by the names in the two state dicts.
    intensities, heads
        As in `Asked`, where nothing else was asked.
    notes
        Sentences: what was assumed, and which option says otherwise.
    bgr
        Whether it was trained on blue, green, red.
    patch
        Extent of the patches it is best run on, voxels.
    recommended
        Level to use first; None is the deepest.
    smaller_kernels
        Whether kernels of theirs may be smaller than those of our row: they are then surrounded by zeros.
    epsilons
        Of the BatchNorms that have another epsilon than torch's, by their name.
    unused
        Patterns that begin the names of weights that take no part in what it gives.
    """

    name: str
    spec: NetworkSpec
    modules: Mapping[str, str]
    intensities: Intensities
    heads: Heads = "all"
    notes: tuple[str, ...] = ()
    bgr: bool = False
    patch: int = 256
    recommended: int | None = None
    smaller_kernels: bool = False
    unused: tuple[str, ...] = ()
    epsilons: Mapping[str, float] = field(default_factory=dict)


def shape(weights: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    """Shape of a weight that must be there."""
    if key not in weights:
        raise UnfitError(f"its weight {key} is missing; fetch or save it again")
    return tuple(weights[key].shape)


def kernel(weights: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    """Shape of the kernel of a convolution in 2 or 3 dimensions that must be there."""
    found = shape(weights, key)
    if len(found) not in (4, 5) or 0 in found:
        raise UnfitError(f"its weight {key} has shape {found} where a kernel of 2 or 3 dimensions is wanted")
    return found


def rows(weights: Mapping[str, Tensor], pattern: str, first: int = 0) -> int:
    """Rows of the grid, out of the highest number that stands for the ``{}`` of a pattern, from `first` on."""
    highest = max((i for i in range(first, 100) if pattern.format(i) in weights), default=-1)
    for i in range(first, highest + 1):
        shape(weights, pattern.format(i))
    if highest < 0:
        raise UnfitError(f"its weight {pattern.format(first)} is missing; fetch or save it again")
    if not 1 <= highest <= MAX_DEPTH:
        raise UnfitError(f"it has {highest + 1} rows where 2 to {MAX_DEPTH + 1} are wanted")
    return highest + 1


def node(block: Block, i: int, j: int, *theirs: str | None) -> Iterator[tuple[str, str]]:
    """(our module, their module) of X^{i,j}, whose modules are given in the order conv, norm, conv, norm."""
    for place, module in zip(_PLACES[block], theirs, strict=True):
        if place is not None and module is not None:
            yield f"nodes.{i}_{j}.{place}", module


def free_upsampling(asked: Asked, notes: list[str]) -> Upsampling:
    """Up-sampling of a network without weights for it: the one that was asked for, or bilinear with aligned corners."""
    if asked.upsampling is None:
        others = " or ".join(kind for kind in FREE if kind != "bilinear-aligned")
        notes.append(
            "its up-sampling has no weights that would tell; bilinear with aligned corners is assumed, as in the original: a fork "
            f"may need --upsampling {others}"
        )
    return asked.upsampling or "bilinear-aligned"


def learned_upsampling(asked: Asked) -> None:
    """Refuse to be told what the weights say."""
    if asked.upsampling is not None:
        raise UnfitError(f"its up-sampling is learned, so it cannot be {asked.upsampling}; leave --upsampling out")


def exclusive(spec: NetworkSpec, activation: Any) -> Iterator[str]:
    """What to say where several classes of Keras are not known to be exclusive."""
    if spec.classes > 1 and activation != "softmax":
        yield (
            f"its {spec.classes} channels are taken for exclusive classes, the first for the background; the original lets each "
            "say yes or no by itself (sigmoid)"
        )
