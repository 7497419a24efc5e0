"""The peers, each called as its documentation calls it, with the same network, windows and image.

A runner takes an image (y, x), float32 in 0..1, and gives the probabilities (head, y, x) as numpy. Peers that are not
installed are left out and named; none is imitated. nnU-Net's predictor runs as it is: of its plans it reads nothing but the patch
size and the number of heads, which are given to it directly because the network is no nnU-Net.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tifffile
import torch

from benchmarks.networks import Heads

Runner = Callable[[np.ndarray], np.ndarray]
PATCH, STRIDE = 96, 48
BATCHES = (1, 4, 16)
CUDA_BATCHES = (64, 256)
BASELINE = "monai-constant-4"
SAME_WINDOWS = ("naive-loop", "monai-constant-1", "monai-constant-4", "monai-constant-16", "monai-buffered-4")


def peers(heads: Heads, device: str) -> tuple[dict[str, Runner], dict[str, str]]:
    """Runners by name, and why others are missing."""
    found: dict[str, Runner] = {"naive-loop": naive(heads, device)}
    absent: dict[str, str] = {}
    if _installed("monai"):
        batches = BATCHES + (CUDA_BATCHES if device.startswith("cuda") else ())
        found |= {f"monai-constant-{b}": monai(heads, device, batch=b) for b in batches}
        found["monai-gaussian-4"] = monai(heads, device, mode="gaussian")
        found["monai-buffered-4"] = monai(heads, device, buffer_steps=4)
    else:
        absent["monai"] = "not installed (pip install monai)"
    if _installed("nnunetv2"):
        try:
            found["nnunet"] = nnunet(heads, device)
        except (ImportError, RuntimeError) as error:
            absent["nnunetv2"] = str(error).partition("\n")[0]
    else:
        absent["nnunetv2"] = "not installed (pip install nnunetv2)"
    if _installed("tiler"):
        found["tiler-4"] = tiler(heads, device, batch=4)
    else:
        absent["tiler"] = "not installed (pip install tiler)"
    return found, absent


def naive(heads: Heads, device: str) -> Runner:
    """One window at a time, added up in numpy: what one writes first."""

    def run(image: np.ndarray) -> np.ndarray:
        total = np.zeros((len(heads.network.spec.heads), *image.shape), np.float32)
        count = np.zeros(image.shape, np.float32)
        for y in window_starts(image.shape[0]):
            for x in window_starts(image.shape[1]):
                part = slice(y, y + PATCH), slice(x, x + PATCH)
                with torch.no_grad():
                    output = heads(torch.from_numpy(image[part][None, None]).to(device))
                total[:, *part] += output[0].cpu().numpy()
                count[part] += 1
        return total / count

    return run


def window_starts(extent: int) -> list[int]:
    """Where windows start along an axis: every stride, the last one flush."""
    return [*range(0, extent - PATCH, STRIDE), extent - PATCH]


def monai(
    heads: Heads, device: str, batch: int = 4, roi: int = PATCH, overlap: float = STRIDE / PATCH, **options: Any
) -> Runner:
    """MONAI's sliding_window_inference."""
    from monai.inferers import sliding_window_inference

    def run(image: np.ndarray) -> np.ndarray:
        batched = torch.from_numpy(image[None, None]).to(device)
        with torch.no_grad():
            output = sliding_window_inference(batched, (roi, roi), batch, heads, overlap=overlap, **options)
        return output[0].cpu().numpy()

    return run


def nnunet(heads: Heads, device: str) -> Runner:
    """nnU-Net's sliding window (Gaussian, one window a pass, half-precision sums) without its test-time mirroring."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    on_gpu = device.startswith("cuda")
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(
            tile_step_size=STRIDE / PATCH,
            use_gaussian=True,
            use_mirroring=False,
            perform_everything_on_device=on_gpu,
            device=torch.device(device),
            allow_tqdm=False,
        )
    predictor.network = heads
    predictor.configuration_manager = SimpleNamespace(patch_size=[PATCH, PATCH])
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=len(heads.network.spec.heads))

    def run(image: np.ndarray) -> np.ndarray:
        output = predictor.predict_sliding_window_return_logits(torch.from_numpy(image[None, None]))
        return output[:, 0].float().cpu().numpy()

    return run


def tiler(heads: Heads, device: str, batch: int) -> Runner:
    """The package tiler: mirrored padding, boxcar merging."""
    from tiler import Merger, Tiler

    def run(image: np.ndarray) -> np.ndarray:
        channels = image[None]
        cut = Tiler(data_shape=channels.shape, tile_shape=(1, PATCH, PATCH), overlap=STRIDE, channel_dimension=0)
        shape, padding = cut.calculate_padding()
        cut.recalculate(data_shape=shape)
        merger = Merger(cut, window="boxcar", logits=len(heads.network.spec.heads), save_visits=False)
        with torch.no_grad():
            for number, tiles in cut(np.pad(channels, padding, mode="reflect"), batch_size=batch):
                output = heads(torch.from_numpy(tiles).to(device)).cpu().numpy()
                merger.add_batch(number, batch, output[:, :, None])
        return merger.merge(extra_padding=padding)[:, 0]

    return run


def monai_candidates(heads: Heads, device: str, extent: int) -> dict[str, Runner]:
    """MONAI with its own default overlap (0.25) and windows up to the whole image: what a user would tune."""
    if not _installed("monai"):
        return {}
    grid = heads.network.spec.grid
    edges = [edge for edge in (96, 128, 160, 192, 256, 320, 384, 512, 768, 1024) if edge <= extent and edge % grid == 0]
    batches = (1, 4, 16) if device.startswith("cuda") else (1, 4)
    return {
        f"roi {edge}, sw_batch {batch}": monai(heads, device, batch=batch, roi=edge, overlap=0.25)
        for edge in edges
        for batch in batches
        if batch * edge * edge <= 2 * 1024 * 1024
    }


def over_slices(runner: Runner, image: np.ndarray, slices: int) -> Callable[[], np.ndarray]:
    """Call from uint8 array to probabilities (head, [z,] y, x); of a stack the first `slices`, one after the other."""

    def run() -> np.ndarray:
        if image.ndim == 2:
            return runner(_scaled(image))
        return np.stack([runner(_scaled(plane)) for plane in image[:slices]], axis=1)

    return run


def from_tiff(runner: Runner, tiff: Path, folder: Path, name: str, slices: int) -> Callable[[], Path]:
    """Call from TIFF on disk to labels of the last head on disk (zlib, as ours are)."""
    labels = folder / f"{name}.tif"

    def run() -> Path:
        planes: Sequence[np.ndarray] = tifffile.imread(tiff, key=range(slices)).reshape(slices, *_page_shape(tiff))
        found = np.stack([(runner(_scaled(plane))[-1] >= 0.5).astype(np.uint8) for plane in planes])
        tifffile.imwrite(labels, found, compression="zlib")
        return labels

    return run


def _page_shape(tiff: Path) -> tuple[int, ...]:
    with tifffile.TiffFile(tiff) as file:
        return tuple(file.pages[0].shape)


def _scaled(plane: np.ndarray) -> np.ndarray:
    return plane.astype(np.float32) * np.float32(1 / 255)


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
