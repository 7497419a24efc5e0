"""Random changes to training patches that leave their labels true.

In this order: the presets, geometry (flips, quarter turns, and in 2D a smooth warp: rotation, scale, elastic displacement, taken
from a larger context so that no border is invented), then intensity (contrast, brightness, gamma, blur, noise, inversion).

All randomness comes from the generator that is passed in: the same generator state gives the same patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How strongly patches are changed; all probabilities are per patch, all amounts in scaled intensities or voxels.

    Parameters
    ----------
    warp
        Probability of a warp (2D only): any rotation, a scale within ``1 / scale .. scale``, elastic displacements of standard
        deviation `elastic` voxels on a grid of 4 nodes per axis.
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


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(warp=0.0, contrast=0.0, brightness=0.0, gamma=0.0, blur=0.0, noise=0.0),
    # Membranes are drawn equally thick whatever the magnification, so EM patches are hardly scaled.
    "em": Augmentation(warp=0.25, scale=1.1),
    # Light microscopy varies more: magnification, exposure, background, noise.
    "light": Augmentation(warp=0.4, scale=1.5, contrast=0.4, brightness=0.15, gamma=0.6, blur=0.25, noise=0.1),
}
CONTEXT = 1.5  # a warped patch reads this much more than it shows


def context_extent(patch: int, augmentation: Augmentation, ndim: int) -> int:
    """Voxels per axis to read for a patch of `patch` voxels."""
    return math.ceil(patch * CONTEXT / 2) * 2 if ndim == 2 and augmentation.warp > 0 else patch


def augment(
    image: Tensor, target: Tensor, patch: int, augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Image and target of one patch, changed at random.

    Parameters
    ----------
    image
        (channel, [z,] y, x) float32, scaled, of `context_extent` voxels per axis.
    target
        ([z,] y, x) uint8 of the same extent.
    patch
        Voxels per axis of the result.

    Returns
    -------
    tuple of Tensor
        (channel, [z,] y, x) and ([z,] y, x), `patch` voxels per axis.
    """
    ndim = target.ndim
    if ndim == 2 and _chance(augmentation.warp, generator):
        image, target = _warp(image, target, patch, augmentation, generator)
    else:
        crop = tuple(slice((n - patch) // 2, (n - patch) // 2 + patch) for n in target.shape)
        image, target = image[(slice(None), *crop)], target[crop]
    for axis in range(ndim):
        if _chance(0.5, generator):
            image, target = image.flip(axis + 1), target.flip(axis)
    if _chance(0.5, generator):  # with the flips: all eight symmetries of the plane
        image, target = image.transpose(-1, -2), target.transpose(-1, -2)
    return _intensity(image, augmentation, generator).contiguous(), target.contiguous()


def _warp(
    image: Tensor, target: Tensor, patch: int, augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Patch resampled along a rotated, scaled and elastically displaced grid about the middle of its context."""
    angle = _uniform(-math.pi, math.pi, generator)
    zoom = math.exp(_uniform(-1, 1, generator) * math.log(augmentation.scale))
    axis = torch.arange(patch, dtype=torch.float32) - (patch - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    cos, sin = math.cos(angle) * zoom, math.sin(angle) * zoom
    coarse = torch.randn((1, 2, 4, 4), generator=generator) * augmentation.elastic
    bend = F.interpolate(coarse, size=(patch, patch), mode="bicubic", align_corners=True)[0]
    # grid_sample wants (x, y) in -1..1 over the context, whose voxel centres are the align_corners=False positions.
    extent = torch.tensor([target.shape[1], target.shape[0]], dtype=torch.float32)
    grid = torch.stack([cos * x - sin * y + bend[1], sin * x + cos * y + bend[0]], dim=-1) * (2 / extent)
    grid = grid.unsqueeze(0)
    warped = F.grid_sample(image.unsqueeze(0), grid, mode="bilinear", padding_mode="reflection", align_corners=False)[0]
    labels = F.grid_sample(
        target[None, None].float(), grid, mode="nearest", padding_mode="reflection", align_corners=False
    )[0, 0]
    return warped, labels.to(target.dtype)


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
