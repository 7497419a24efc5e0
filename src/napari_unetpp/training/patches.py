"""Which voxels are trained on, which are held out, and patches drawn from them.

In this order: a pair of image and label stack, the split into training and validation regions (never empty, never sharing a
group or neighbouring slices), regions in memory, patches.

One image, or one stack, is split by slices with a gap between, or by a strip of the plane where there are too few slices::

    z  0 ............ 19 | 20 21 | 22 .. 24          training | gap, used by nobody | validation

Several groups (a group: images that show the same thing) are held out whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from napari_unetpp.box import Box, read_box
from napari_unetpp.model.intensity import Intensity, Scaling, measure
from napari_unetpp.training.augment import Augmentation, augment, context_extent
from napari_unetpp.training.losses import IGNORE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_unetpp.stacks import Stack

SLICE_GAP = 2  # slices between training and validation: neighbours in a stack look alike
STRIP_GAP = 16  # voxels, for the same reason within a plane
_LARGEST_SHARE = 0.4  # a held-out group larger than this share of the voxels is too much to give away
_SAMPLE_VOXELS = 2**20  # enough for percentiles; reading more tells nothing new


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """An image stack and its label stack, of the same extent; pairs with the same group are never split between sets.

    Raises
    ------
    ValueError
        If the extents differ or the labels have channels or are no integers.
    """

    image: Stack
    label: Stack
    group: str | None = None

    def __post_init__(self) -> None:
        if self.label.channel_axis is not None or self.label.dtype.kind not in "bui":
            raise ValueError(
                f"labels {self.label.name} have axes {self.label.axes} and dtype {self.label.dtype}; integers without a "
                "channel axis are wanted"
            )
        if self.image.shape_predicted != self.label.shape_predicted:
            raise ValueError(
                f"image {self.image.name} has shape {self.image.shape_predicted} ({self.image.axes_predicted}) but its labels "
                f"{self.label.name} have {self.label.shape_predicted}; they must be equal"
            )


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


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A region in memory: image (channel, *box) raw, target (*box) uint8 class or IGNORE, and the scaling of its stack."""

    image: NDArray[Any]
    target: NDArray[np.uint8]
    scaling: Scaling


def split_pairs(pairs: Sequence[Pair], ndim: int, fraction: float, seed: int) -> Split:
    """Regions of all pairs, about `fraction` of the voxels held out for validation.

    Parameters
    ----------
    ndim
        Spatial dimensions of the network; a 3D network needs at least two slices on either side.

    Raises
    ------
    ValueError
        If there is nothing to split, or one image is too small to hold anything out of it.
    """
    if not pairs:
        raise ValueError("no image was given; name at least one image and its labels")
    if not 0 < fraction < 1:
        raise ValueError(f"validation fraction {fraction} must lie between 0 and 1, exclusive")
    groups: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        groups.setdefault(pair.group if pair.group is not None else f"#{index}", []).append(index)
    sizes = [Box.of(pair.image.shape_predicted).size for pair in pairs]
    if len(groups) > 1:
        held = _held_out(groups, sizes, fraction, seed)
        share = sum(sizes[i] for name in held for i in groups[name]) / sum(sizes)
        if share <= max(_LARGEST_SHARE, fraction) or any(pair.group is not None for pair in pairs):
            out = {i for name in held for i in groups[name]}
            regions = [Region(i, Box.of(pair.image.shape_predicted)) for i, pair in enumerate(pairs)]
            return Split(tuple(r for r in regions if r.pair not in out), tuple(r for r in regions if r.pair in out))
    training, validation = [], []
    for index, pair in enumerate(pairs):
        one, other = _split_box(Box.of(pair.image.shape_predicted), pair.image.name, ndim, fraction)
        training.append(Region(index, one))
        validation.append(Region(index, other))
    return Split(tuple(training), tuple(validation))


def _held_out(groups: dict[str, list[int]], sizes: Sequence[int], fraction: float, seed: int) -> list[str]:
    """Names of whole groups, at least one and not all, that hold about `fraction` of the voxels."""
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


def _split_box(box: Box, name: str, ndim: int, fraction: float) -> tuple[Box, Box]:
    """Training and validation part of one stack: by its slowest axis with enough slices, else by a strip of the plane."""
    least = 1 if ndim == 2 else 2
    candidates = [(axis, SLICE_GAP, least) for axis in range(box.ndim - 2)]
    longest = max(range(box.ndim - 2, box.ndim), key=lambda axis: box.shape[axis])
    candidates.append((longest, STRIP_GAP, STRIP_GAP))
    for axis, gap, minimum in candidates:
        extent = box.shape[axis]
        held = max(minimum, round(fraction * extent))
        if extent - gap - held >= minimum:
            stop, start = list(box.stop), list(box.start)
            stop[axis] = box.stop[axis] - held - gap
            start[axis] = box.stop[axis] - held
            return Box(box.start, tuple(stop)), Box(tuple(start), box.stop)
    raise ValueError(
        f"image {name} of shape {box.shape} is too small to hold a part out for validation; annotate a second image, or one of at "
        f"least {3 * STRIP_GAP} pixels along one side"
    )


def load_region(
    pair: Pair, region: Region, intensity: Intensity, channels: int, classes: int, ignore_zero: bool
) -> Loaded:
    """Region in memory, labels turned into targets.

    Parameters
    ----------
    channels
        Input channels of the network; a gray image is repeated where the intensity rule allows it.
    classes
        Channels of the heads. With one, every label above zero is foreground, so instance labels become binary.
    ignore_zero
        True: 0 was not annotated, 1 is background, 2.. are the classes. False: 0 is background.

    Raises
    ------
    ValueError
        If channels or label values do not fit the network.
    """
    image, label = pair.image.read(region.box), pair.label.read(region.box)[0]
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError(f"image {pair.image.name} contains NaN or infinity; replace them by finite intensities first")
    if image.shape[0] != channels:
        if image.shape[0] != 1 or not intensity.replicate_gray:
            raise ValueError(
                f"image {pair.image.name} has {image.shape[0]} channels where the network takes {channels}; choose as many"
            )
        image = np.repeat(image, channels, axis=0)
    return Loaded(image, to_target(label, classes, ignore_zero, pair.label.name), measure(intensity, _sample(image)))


def to_target(label: NDArray[Any], classes: int, ignore_zero: bool, name: str = "labels") -> NDArray[np.uint8]:
    """Target (uint8: class, or IGNORE) out of painted labels; see `load_region` for what the numbers mean."""
    shift = 1 if ignore_zero else 0
    if classes == 1:
        target = (label > shift).astype(np.uint8)
    else:
        highest = int(label.max(initial=0)) - shift
        if highest >= classes:
            raise ValueError(
                f"{name} hold class {highest} where the network knows 0..{classes - 1}; train with more classes, or make instance "
                f"labels binary by training one class"
            )
        target = np.maximum(label.astype(np.int64) - shift, 0).astype(np.uint8)
    if ignore_zero:
        target[label == 0] = IGNORE
    return target


def _sample(image: NDArray[Any]) -> NDArray[Any]:
    """Every n-th voxel of each channel, at most about `_SAMPLE_VOXELS`."""
    flat = image.reshape(image.shape[0], -1)
    return flat[:, :: max(1, flat.shape[1] // _SAMPLE_VOXELS)]


def annotated_weights(regions: Sequence[Loaded]) -> Tensor:
    """Number of annotated voxels of each region: patches are drawn where people painted.

    Raises
    ------
    ValueError
        If nothing is annotated at all.
    """
    weights = torch.tensor([float(np.count_nonzero(region.target != IGNORE)) for region in regions])
    if not bool(weights.sum() > 0):
        raise ValueError(
            "no voxel is annotated; paint background as 1 and classes as 2 and up, or train with --unpainted background"
        )
    return weights


def draw_batch(
    regions: Sequence[Loaded],
    weights: Tensor,
    ndim: int,
    patch: int,
    batch: int,
    augmentation: Augmentation,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Batch of augmented patches: image (batch, channel, [z,] y, x) float32 and target (batch, [z,] y, x) uint8.

    Patches lie inside a region where that is as large as they are; a smaller one is mirrored. Each patch is centred near an
    annotated voxel, so that partly annotated slices lose no step to empty patches.
    """
    chosen = torch.multinomial(weights, batch, replacement=True, generator=generator).tolist()
    drawn = [_draw(regions[k], ndim, patch, augmentation, generator) for k in chosen]
    return torch.stack([image for image, _ in drawn]), torch.stack([target for _, target in drawn])


def _draw(
    region: Loaded, ndim: int, patch: int, augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    shape = region.target.shape
    for _ in range(50):  # dense labels succeed at once; 5 % scribbles within some twenty
        middle = [int(torch.randint(n, (), generator=generator)) for n in shape]
        if region.target[tuple(middle)] != IGNORE:
            break
    else:
        places = np.flatnonzero(region.target != IGNORE)
        pick = places[int(torch.randint(len(places), (), generator=generator))]
        middle = [int(k) for k in np.unravel_index(pick, shape)]
    context = context_extent(patch, augmentation, ndim)
    start, stop = [], []
    for axis, (n, m) in enumerate(zip(shape, middle, strict=True)):
        width = context if axis >= len(shape) - ndim else 1
        # The patch, not its context, is kept inside; what the context lacks is mirrored.
        slack = (width - patch) // 2 if width > 1 else 0
        first = m - width // 2
        if n >= width - 2 * slack:
            first = min(max(first, -slack), n - width + slack)
        start.append(first)
        stop.append(first + width)
    box = Box(tuple(start), tuple(stop))
    target = read_box(region.target, box).reshape((context,) * ndim)
    channels = Box((0, *box.start), (region.image.shape[0], *box.stop))
    image = read_box(region.image, channels).reshape(-1, *(context,) * ndim)
    return augment(
        torch.from_numpy(region.scaling.apply(image)), torch.from_numpy(target), patch, augmentation, generator
    )
