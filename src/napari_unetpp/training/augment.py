"""Random changes to training patches that leave their labels true.

In this order: the presets, which axes may be exchanged (`alike_axes`, `exchangeable`), geometry (a smooth warp: rotation, scale,
elastic displacement, taken from a larger context so that no border is invented; then flips and quarter turns), then intensity
(contrast, brightness, gamma, blur, noise, inversion).

What turns or scales an axis is done only among axes of equal spacing: a volume whose z is coarser is flipped along z, and turned
and warped in its planes alone, all slices alike. An isotropic volume is turned and warped in all three.

All randomness comes from the generator that is passed in: the same generator state gives the same patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How strongly patches are changed; all probabilities are per patch, all amounts in scaled intensities or voxels.

    Parameters
    ----------
    warp
        Probability of a warp: a rotation by up to `turn` degrees (a volume by at most `MOST_TILT`), a scale within
        ``1 / scale .. scale``, elastic displacements of standard deviation `elastic` voxels on a grid of 4 nodes per axis.
    symmetries
        Whether patches are flipped and turned by quarters.
    contrast, brightness, gamma
        Half widths of the ranges: factor ``1 +- contrast``, shift ``+- brightness``, exponent within ``1 / (1+gamma) .. 1+gamma``.
    blur, noise
        Probability of a Gaussian blur (sigma 0.5 to 1.5 voxels); largest standard deviation of Gaussian noise.
    invert
        Probability of turning dark and bright around.
    """

    warp: float = 0.3
    scale: float = 1.25
    elastic: float = 2.0
    contrast: float = 0.25
    brightness: float = 0.15
    gamma: float = 0.4
    blur: float = 0.15
    noise: float = 0.06
    invert: float = 0.0
    turn: float = 180.0
    symmetries: bool = True


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(warp=0.0, contrast=0.0, brightness=0.0, gamma=0.0, blur=0.0, noise=0.0),
    # Membranes are drawn equally thick whatever the magnification, so EM patches are hardly scaled.
    "em": Augmentation(warp=0.25, scale=1.1),
    # Light microscopy varies more: magnification, exposure, background, noise.
    "light": Augmentation(warp=0.4, scale=1.5, contrast=0.4, brightness=0.15, gamma=0.6, blur=0.25, noise=0.1),
    # A body in a scanner: front and back, left and right mean something, and a mirrored one is another class.
    "anatomy": Augmentation(warp=0.4, scale=1.15, elastic=1.0, turn=10.0, symmetries=False),
}
CONTEXT = 1.5  # a warped patch reads this much more than it shows
MOST_TILT = 15.0  # degrees: about three axes at once and scaled, more would leave the context


def alike_axes(spacing_um: Sequence[float | None]) -> tuple[int, ...]:
    """A number per axis, (z,) y, x, equal where the spacing is (within 1 %).

    Where it is unknown, y and x count as equal, and z as unlike both.

    >>> alike_axes((1.0, 1.0, 1.0)), alike_axes((3.0, 1.0, 1.0)), alike_axes((None, None, None))
    ((2, 2, 2), (0, 2, 2), (0, 2, 2))
    """
    last = len(spacing_um) - 1
    *_, y, x = spacing_um
    found = [last - 1 if y and x and not math.isclose(y, x, rel_tol=0.01) else last, last]
    if last == 2:
        z = spacing_um[0]
        near = [
            g for g, s in zip((last, found[0]), (x, y), strict=True) if z and s and math.isclose(z, s, rel_tol=0.01)
        ]
        found.insert(0, near[0] if near else 0)
    return tuple(found)


def exchangeable(patch: Sequence[int], alike: Sequence[int]) -> tuple[int, ...]:
    """The two or three axes of a patch with equal spacing and extent, which may be turned into each other; else none.

    >>> exchangeable((16, 96, 96), (2, 2, 2)), exchangeable((32, 32, 32), (2, 2, 2)), exchangeable((32, 32), (0, 1))
    ((1, 2), (0, 1, 2), ())
    """
    keys = list(zip(alike, patch, strict=True))
    common = max(keys, key=keys.count)
    axes = tuple(axis for axis, key in enumerate(keys) if key == common)
    return axes if len(axes) > 1 else ()


def context_extents(patch: Sequence[int], augmentation: Augmentation, alike: Sequence[int]) -> tuple[int, ...]:
    """Voxels per axis to read for a patch."""
    warped = _warped(patch, augmentation, alike)
    return tuple(math.ceil(n * CONTEXT / 2) * 2 if axis in warped else n for axis, n in enumerate(patch))


def augment(
    image: Tensor,
    target: Tensor,
    patch: Sequence[int],
    augmentation: Augmentation,
    alike: Sequence[int],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Image and target of one patch, changed at random.

    Parameters
    ----------
    image
        (channel, [z,] y, x) float32, scaled, of `context_extents` voxels.
    target
        ([z,] y, x) uint8 of the same extents.
    patch
        Voxels of the result along each axis.
    alike
        Which axes have equal spacing (`alike_axes`).

    Returns
    -------
    tuple of Tensor
        (channel, [z,] y, x) and ([z,] y, x) of the extents `patch`.
    """
    ndim = target.ndim
    warped = _warped(patch, augmentation, alike)
    kept = warped if warped and _chance(augmentation.warp, generator) else ()
    # A warp crops its own axes itself.
    crop = tuple(
        slice(None) if axis in kept else slice((n - p) // 2, (n - p) // 2 + p)
        for axis, (n, p) in enumerate(zip(target.shape, patch, strict=True))
    )
    image, target = image[(slice(None), *crop)], target[crop]
    if len(kept) == 2:
        image, target = _warp_planes(image, target, patch[-1], augmentation, generator)
    elif kept:
        image, target = _warp_volume(image, target, patch[-1], augmentation, generator)
    if augmentation.symmetries:
        for axis in range(ndim):
            if _chance(0.5, generator):
                image, target = image.flip(axis + 1), target.flip(axis)
        order = _turned(ndim, exchangeable(patch, alike), generator)
        image, target = image.permute(0, *(axis + 1 for axis in order)), target.permute(order)
    return _intensity(image, augmentation, generator).contiguous(), target.contiguous()


def _warped(patch: Sequence[int], augmentation: Augmentation, alike: Sequence[int]) -> tuple[int, ...]:
    """The axes that a warp bends: all of them, the last two, or none."""
    axes = exchangeable(patch, alike) if augmentation.warp > 0 else ()
    return axes if len(axes) == len(patch) or axes == (1, 2) else ()


def _turned(ndim: int, axes: Sequence[int], generator: torch.Generator) -> list[int]:
    """Order of the axes after an exchange at random: with the flips all 8 symmetries of a square, all 48 of a cube."""
    order = list(range(ndim))
    if len(axes) == 2 and _chance(0.5, generator):
        order[axes[0]], order[axes[1]] = axes[1], axes[0]
    elif len(axes) == 3:
        order = torch.randperm(3, generator=generator).tolist()
    return order


def _warp_planes(
    image: Tensor, target: Tensor, patch: int, augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Patch resampled along a rotated, scaled and elastically displaced grid about the middle of its context, all planes alike."""
    largest = math.radians(augmentation.turn)
    angle = _uniform(-largest, largest, generator)
    zoom = math.exp(_uniform(-1, 1, generator) * math.log(augmentation.scale))
    axis = torch.arange(patch, dtype=torch.float32) - (patch - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    cos, sin = math.cos(angle) * zoom, math.sin(angle) * zoom
    coarse = torch.randn((1, 2, 4, 4), generator=generator) * augmentation.elastic
    bend = F.interpolate(coarse, size=(patch, patch), mode="bicubic", align_corners=True)[0]
    grid = torch.stack([cos * x - sin * y + bend[1], sin * x + cos * y + bend[0]], dim=-1)
    planes = image.reshape(-1, *image.shape[-2:]), target.reshape(-1, *target.shape[-2:])
    warped, labels = _resampled(*planes, grid)
    return warped.reshape(*image.shape[:-2], patch, patch), labels.reshape(*target.shape[:-2], patch, patch)


def _warp_volume(
    image: Tensor, target: Tensor, patch: int, augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cube resampled along a tilted, scaled and elastically displaced grid about the middle of its context."""
    largest = math.radians(min(augmentation.turn, MOST_TILT))
    matrix = math.exp(_uniform(-1, 1, generator) * math.log(augmentation.scale)) * torch.eye(3)
    for first, second in ((1, 2), (0, 2), (0, 1)):
        angle = _uniform(-largest, largest, generator)
        turn = torch.eye(3)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix = turn @ matrix
    axis = torch.arange(patch, dtype=torch.float32) - (patch - 1) / 2
    places = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1) @ matrix.T  # z, y, x
    coarse = torch.randn((3, 4, 4, 4), generator=generator) * augmentation.elastic
    planes = F.interpolate(coarse, size=(patch, patch), mode="bicubic", align_corners=True)
    bend = F.interpolate(planes.reshape(1, 3, 4, -1), size=(patch, patch**2), mode="bicubic", align_corners=True)
    places = places + bend.reshape(3, patch, patch, patch).movedim(0, -1)
    warped, labels = _resampled(image, target[None], places.flip(-1))
    return warped, labels[0]


def _resampled(image: Tensor, labels: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Image, linearly, and labels, nearest, both (channel, ...), at places (..., axis) x first, in voxels from the middle."""
    # grid_sample wants -1..1 over the context, whose voxel centres are the align_corners=False positions.
    extent = torch.tensor(image.shape[:0:-1], dtype=torch.float32)
    grid = (places * (2 / extent)).unsqueeze(0)
    warped = F.grid_sample(image.unsqueeze(0), grid, mode="bilinear", padding_mode="reflection", align_corners=False)[0]
    nearest = F.grid_sample(
        labels.unsqueeze(0).float(), grid, mode="nearest", padding_mode="reflection", align_corners=False
    )[0]
    return warped, nearest.to(labels.dtype)


def _intensity(image: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    if _chance(augmentation.invert, generator):
        image = 1.0 - image
    if augmentation.gamma > 0:
        largest = math.log1p(augmentation.gamma)
        exponent = math.exp(_uniform(-largest, largest, generator))
        image = image.sign() * image.abs() ** exponent  # scaled intensities may lie a little below zero
    factor = 1 + _uniform(-augmentation.contrast, augmentation.contrast, generator)
    image = image * factor + _uniform(-augmentation.brightness, augmentation.brightness, generator)
    if _chance(augmentation.blur, generator):
        image = _blur(image, _uniform(0.5, 1.5, generator))
    if augmentation.noise > 0:
        deviation = _uniform(0, augmentation.noise, generator)
        image = image + deviation * torch.randn(image.shape, generator=generator)
    return image


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur of (channel, ...) along its two last axes."""
    reach = math.ceil(3 * sigma)
    if min(image.shape[-2:]) <= reach:  # nothing to mirror from
        return image
    offsets = torch.arange(-reach, reach + 1, dtype=image.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    planes = image.reshape(-1, 1, *image.shape[-2:])
    planes = F.conv2d(F.pad(planes, (reach, reach, 0, 0), mode="reflect"), kernel.reshape(1, 1, 1, -1))
    planes = F.conv2d(F.pad(planes, (0, 0, reach, reach), mode="reflect"), kernel.reshape(1, 1, -1, 1))
    return planes.reshape(image.shape)


def _chance(probability: float, generator: torch.Generator) -> bool:
    return probability > 0 and _uniform(0, 1, generator) < probability


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
