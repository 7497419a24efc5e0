"""The network and the images that are timed, and how many operations they cost.

The network is `NetworkSpec.preset("default")`, UNet++ of widths 32..512 with four heads, with seeded weights: speed
does not depend on what they know. Its BatchNorm statistics are those of the image, so that activations have the spread
of a trained network and int8 calibration sees something sensible. A multiply-add counts as two operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import tifffile
import torch

from napari_unetpp.model.card import Card
from napari_unetpp.model.checkpoint import Model
from napari_unetpp.model.costs import flops_per_voxel
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus, probabilities

INTENSITY = Intensity(kind="fixed", fixed_offset=(0.0,), fixed_gain=(1 / 255,))
TINY = (4, 8, 16, 32, 64)


def standard_spec(quick: bool = False) -> NetworkSpec:
    """UNet++ 32..512, or a tiny one for a smoke run."""
    spec = NetworkSpec.preset("default")
    return spec.with_width(TINY[0]) if quick else spec


def make_model(spec: NetworkSpec, device: str = "cpu", seed: int = 0) -> Model:
    """Seeded model of that network whose BatchNorm knows the spread of `texture`."""
    torch.manual_seed(seed)
    network = UNetPlusPlus(spec)
    sample = torch.from_numpy(texture((192, 192), seed)[None, None].astype(np.float32) / 255)
    sample = sample.expand(1, spec.in_channels, *sample.shape[2:])
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the average of all that was seen, here of one image
    with torch.no_grad():
        network(sample)
    # A model from a file brings its hash along; without one every run would hash the weights anew.
    digest = f"{seed:064x}"
    return Model(spec, network.to(device).eval(), INTENSITY, Card(name="benchmark"), torch.device(device), digest)


def texture(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Cells and membranes of a kind: uint8 noise, smooth at two scales, the last two axes y and x."""
    rng = np.random.default_rng(seed)
    height, width = shape[-2:]
    tile = rng.standard_normal((min(height, 1024), min(width, 1024)))
    coarse = scipy.ndimage.gaussian_filter(tile, 8, mode="wrap")
    fine = scipy.ndimage.gaussian_filter(tile, 1.5, mode="wrap")
    both = np.abs(coarse / coarse.std()) + 0.5 * fine / fine.std()
    plane = np.clip(90 + 50 * both, 0, 255).astype(np.uint8)
    repeats = (math.ceil(height / plane.shape[0]), math.ceil(width / plane.shape[1]))
    plane = np.tile(plane, repeats)[:height, :width]
    if len(shape) == 2:
        return plane
    return np.stack([np.roll(plane, 7 * z, axis=0) for z in range(math.prod(shape[:-2]))]).reshape(tuple(shape))


def write_tiff(path: Path, shape: tuple[int, int, int], seed: int = 0) -> Path:
    """TIFF of that many slices, compressed as microscopes do (zlib), never whole in memory."""
    plane = texture(shape[1:], seed)
    pages = (np.roll(plane, 7 * z, axis=0) for z in range(shape[0]))
    tifffile.imwrite(
        path, pages, shape=shape, dtype=np.uint8, compression="zlib", metadata={"axes": "ZYX"}, photometric="minisblack"
    )
    return path


class Heads(torch.nn.Module):
    """The same network for peers that keep one tensor: probabilities of all heads, one after the other as channels."""

    def __init__(self, network: UNetPlusPlus) -> None:
        super().__init__()
        self.network = network
        self.calls: list[tuple[int, ...]] | None = None  # input shapes, while someone counts

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.calls is not None:
            self.calls.append(tuple(image.shape))
        return torch.cat([probabilities(logits) for logits in self.network(image)], dim=1)

    def counted_flops(self, run: Any) -> float:
        """Operations of all passes of one run."""
        self.calls = []
        run()
        total = sum(network_flops(self.network.spec, shape[2:], batch=shape[0]) for shape in self.calls)
        self.calls = None
        return total


def network_flops(spec: NetworkSpec, extent: Sequence[int], level: int | None = None, batch: int = 1) -> float:
    """Operations of one pass to `level` over images of that spatial extent: convolutions and heads, two a multiply-add.

    >>> round(network_flops(NetworkSpec.preset("default"), (96, 96)) / 1e9, 2)
    9.69
    """
    pruned = spec if level is None else spec.pruned(level)
    padded = math.prod(math.ceil(n / spec.grid) * spec.grid for n in extent)
    return batch * padded * flops_per_voxel(pruned)
