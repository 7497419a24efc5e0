"""How an image comes onto the grid of a network, how maps of different extents meet, and how logits come back.

In this order: the image in (`enter`: mirrored past its ends), one row down (`down`), what is concatenated brought to one extent
(`fitted`), and the logits out (`leave`: cropped to the image).

Without padding (the U-Net of 2015) each convolution takes a voxel off every side::

    image 388 -> mirrored to 572 -> X^{0,0} 568 ... X^{4,0} 28 ... up 392 beside X^{0,0} cropped to 392 -> X^{0,4} 388

so an image is mirrored past *all* its ends by what the deepest head loses, 92 voxels at depth 4, and no border is lost.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_unetpp.model.spec import NetworkSpec


def enter(image: Tensor, spec: NetworkSpec) -> Tensor:
    """Image (batch, channel, [z,] y, x) of an extent that the network takes, mirrored past its ends."""
    if spec.padding == "same":
        return pad_to_grid(image, spec.grids)
    for axis in range(spec.ndim):
        image = _mirrored(image, 2 + axis, *margins(spec, axis, image.shape[2 + axis]))
    return image


def leave(logits: Tensor, spec: NetworkSpec, extent: Sequence[int]) -> Tensor:
    """Logits over the image of that extent, out of what a head gave for `enter`."""
    crop = [slice(None), slice(None)]
    for axis, wanted in enumerate(extent):
        first = 0
        if spec.padding != "same":
            before, after = margins(spec, axis, wanted)
            lost = before + wanted + after - logits.shape[2 + axis]
            first = before - lost // 2
        crop.append(slice(first, first + wanted))
    return logits[tuple(crop)]


def down(spec: NetworkSpec, i: int, x: Tensor) -> Tensor:
    """X^{i,0} as the first convolution of X^{i+1,0} takes it: pooled, unless that has the stride."""
    if spec.pooling == "stride":
        return x
    return F.max_pool2d(x, spec.step(i)) if spec.ndim == 2 else F.max_pool3d(x, spec.step(i))


def fitted(spec: NetworkSpec, skips: list[Tensor], up: Tensor) -> tuple[list[Tensor], Tensor]:
    """Maps that are concatenated, of one extent: skips lose their borders, or what is up-sampled gains one of zeros."""
    if spec.padding == "same":
        return skips, up
    if spec.padding == "valid":
        return [_middle(skip, up.shape[2:]) for skip in skips], up
    wanted = skips[0].shape[2:]
    around: list[int] = []
    for have, want in zip(reversed(up.shape[2:]), reversed(wanted), strict=True):  # F.pad begins with the last axis
        missing = want - have
        around += [missing // 2, missing - missing // 2]
    return [_middle(skip, wanted) for skip in skips], F.pad(up, around)


@cache
def margins(spec: NetworkSpec, axis: int, extent: int) -> tuple[int, int]:
    """Voxels that an image of that extent is mirrored by at its near and its far end, where convolutions are not padded.

    >>> from napari_unetpp.model.presets import preset
    >>> margins(preset("unet-2015"), 0, 388)
    (92, 92)
    """
    kernels = [spec.kernel(i)[axis] for i in range(spec.depth + 1)]
    steps = [spec.step(i)[axis] for i in range(spec.depth)]
    bottom = 1
    while True:  # the deepest map decides: all others follow from its extent
        given, taken = _through(spec.padding == "valid", kernels, steps, bottom)
        if given >= extent:
            near = (taken - given) // 2
            return near, taken - near - extent
        bottom += 1


def _through(valid: bool, kernels: Sequence[int], steps: Sequence[int], bottom: int) -> tuple[int, int]:
    """Extent of the deepest head's logits, and of the image, for an extent of the last encoder node."""
    lost = [2 * (k - 1) for k in kernels]
    above = bottom  # of X^{i,0}, from the bottom up
    rows = [above]
    for i in range(len(steps) - 1, -1, -1):
        above = steps[i] * (above + lost[i + 1])
        rows.append(above)
    taken = rows[-1] + lost[0]
    rows.reverse()
    given = bottom
    for i in range(len(steps) - 1, -1, -1):
        given = (steps[i] * given if valid else rows[i]) - lost[i]
    return given, taken


def pad_to_grid(image: Tensor, grid: int | Sequence[int]) -> Tensor:
    """Image mirrored past the far end of every spatial axis up to a multiple of `grid`, one number or one for each axis.

    Mirrored without repeating the border voxel, back and forth where the axis is shorter than what is missing, so that axes
    of one voxel work as well.
    """
    grids = (grid,) * (image.ndim - 2) if isinstance(grid, int) else tuple(grid)
    for axis, multiple in enumerate(grids, start=2):
        image = _mirrored(image, axis, 0, -image.shape[axis] % multiple)
    return image


def _mirrored(image: Tensor, axis: int, before: int, after: int) -> Tensor:
    extent: Any = image.shape[axis]
    # A symbol for the extent: the graph that is exported shall fit every one, and there the ends are symbols too.
    if not isinstance(extent, torch.SymInt) and not before and not after:
        return image
    index = torch.arange(-before, extent + after, device=image.device)
    last = index[before + extent - 1 : before + extent]
    period = (2 * last).clamp(min=1)
    index = index % period
    return image.index_select(axis, torch.where(index > last, period - index, index))


def _middle(x: Tensor, extent: Sequence[int]) -> Tensor:
    crop = [slice(None), slice(None)]
    for have, want in zip(x.shape[2:], extent, strict=True):
        first = (have - want) // 2
        crop.append(slice(first, first + want))
    return x[tuple(crop)]
