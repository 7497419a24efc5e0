"""Our own runs: from an array to probabilities, and from a TIFF to labels on disk, in every mode."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from napari_unetpp.inference.backends import Backend, prepare
from napari_unetpp.inference.fast import prepare_int8
from napari_unetpp.inference.labels import label_view
from napari_unetpp.inference.predict import predict_array, predict_stack
from napari_unetpp.inference.runs import open_run
from napari_unetpp.inference.store import PredictionStore
from napari_unetpp.inference.tiles import Overlap, Seamless, Tiling, plan_tiles
from napari_unetpp.model.checkpoint import Model
from napari_unetpp.stacks import Stack, open_stack, save_labels

TILINGS: dict[str, Tiling] = {
    "overlap": Overlap(96, 48, "mean"),
    "exact": Seamless(halo="exact"),
    "fast": Seamless(halo="fast"),
    "seams": Seamless(inner=128, halo="fast"),  # small images have seams as well: for accuracy, not for speed
}
TIMED = ("overlap", "exact", "fast")
CPU_PRECISIONS = ("fp32", "bf16", "int8")
CUDA_PRECISIONS = ("fp32", "bf16", "fp16")

# Where the input's shape, the weight's shape and the padding stand among the operators' arguments. Only the
# operators that compute are named, not those that call them, so that nothing counts twice.
_CONVOLUTIONS = {
    "aten::mkldnn_convolution": (0, 1, 3),
    "aten::_slow_conv2d_forward": (0, 1, 5),
    "aten::slow_conv3d_forward": (0, 1, 5),
    "aten::cudnn_convolution": (0, 1, 2),
    "aten::cudnn_convolution_relu": (0, 1, 4),
    "mkldnn::_convolution_pointwise": (0, 1, 3),
    "mkldnn::_convolution_pointwise_": (1, 2, 4),
    "onednn::qconv_pointwise": (0, 3, 8),
    "onednn::qconv2d_pointwise": (0, 3, 8),
}


@dataclass(frozen=True, slots=True)
class Mode:
    """A tiling, a precision and the deepest level; named `exact-bf16`, `fast-int8-L2`."""

    tiling: str
    precision: str
    level: int

    @property
    def name(self) -> str:
        return f"{self.tiling}-{self.precision}" + ("" if self.level == 4 else f"-L{self.level}")


def modes(device: str = "cpu", short_levels: bool = True) -> list[Mode]:
    """All tilings at all precisions at L4, then L3..L1 of exact seamless tiling."""
    precisions = CUDA_PRECISIONS if device.startswith("cuda") else CPU_PRECISIONS
    found = [Mode(tiling, precision, 4) for tiling in TIMED for precision in precisions]
    if short_levels:
        found += [Mode("exact", precision, level) for precision in precisions for level in (3, 2, 1)]
    return found


@dataclass(frozen=True, slots=True)
class Prepared:
    """A backend and how long its making took; without one, why it cannot be had."""

    backend: Backend | None
    seconds: float = 0.0
    reason: str = ""


def prepared(model: Model, precision: str, image: np.ndarray) -> Prepared:
    """The model made ready in that precision, calibrated on the image where it needs to be; nothing else in its place."""
    began = time.perf_counter()
    try:
        # int8 whatever its labels are: those of a network that learned nothing change at a breath. How many agree is
        # measured on real images and trained networks (`accuracy`).
        int8 = precision == "int8"
        backend = prepare_int8(model, as_stack(image), least=0) if int8 else prepare(model, precision)
    except (ValueError, RuntimeError, KeyError, ImportError) as error:
        return Prepared(None, reason=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    seconds = time.perf_counter() - began
    if backend.precision != precision:
        return Prepared(None, seconds, f"became {backend.precision}: {backend.note}")
    return Prepared(backend, seconds)


def as_stack(image: np.ndarray) -> Stack:
    """An array (y, x) or (z, y, x) as a stack."""
    return open_stack(image, axes="zyx"[-image.ndim :])


def array_run(
    model: Model, backend: Backend, image: np.ndarray, mode: Mode, threads: int, memory: int | None = None
) -> Callable[[], dict[int, np.ndarray]]:
    """Call that turns the image (z, y, x or y, x) into {level: probabilities (class, ...)}."""
    stack, tiling = as_stack(image), TILINGS[mode.tiling]

    def run() -> dict[int, np.ndarray]:
        return predict_array(
            stack, model, tiling=tiling, level=mode.level, backend=backend, memory=memory, threads=threads
        )

    return run


def disk_run(
    model: Model, backend: Backend, tiff: Path, folder: Path, mode: Mode, threads: int, memory: int | None = None
) -> Callable[[], Path]:
    """Call that turns a TIFF into a store of all levels up to the mode's, and that level's labels as TIFF."""
    out, labels = folder / f"{mode.name}.ome.zarr", folder / f"{mode.name}.tif"

    def run() -> Path:
        with open_stack(tiff) as stack:
            tiles = plan_tiles(stack.shape_predicted, model.spec, TILINGS[mode.tiling], level=mode.level)
            store = open_run(out, stack, model, tiles, overwrite=True, precision=backend.precision)
            for _ in predict_stack(stack, model, tiles, store, backend=backend, memory=memory, threads=threads):
                pass
            save_labels(labels, label_view(store, mode.level), store.axes, store.spacing_um)
        return labels

    return run


def profiled_flops(run: Callable[[], Any]) -> float:
    """Operations of all convolutions that torch executed in a run, in whichever thread, from their shapes.

    Counted from outside, so halos, overlaps and whatever else an engine computes twice are in it. 0 where the work was
    not done by torch.
    """
    config = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    cpu = [ProfilerActivity.CPU]
    with _silenced(), profile(activities=cpu, record_shapes=True, experimental_config=config) as profiler:
        run()
    return sum(
        _convolution_flops(event.input_shapes, event.concrete_inputs, *_CONVOLUTIONS[event.name])
        for event in profiler.events()
        if event.name in _CONVOLUTIONS
    )


@contextmanager
def _silenced() -> Iterator[None]:
    """Without what the profiler writes straight to the error stream at its start and end."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _convolution_flops(shapes: list[Any], values: list[Any], image: int, weight: int, padding: int) -> float:
    """Operations of one convolution of stride 1: 2 * products of a voxel * voxels that come out."""
    batch, _, *extent = shapes[image]
    out, channels, *kernel = shapes[weight]
    around = values[padding] or [0] * len(kernel)
    voxels = 1
    for n, k, p in zip(extent, kernel, around, strict=True):
        voxels *= n + 2 * p - k + 1
    return 2.0 * batch * out * channels * int(np.prod(kernel)) * voxels


@contextmanager
def split_times(device: str) -> Iterator[dict[str, float]]:
    """Seconds spent inside, as {"read", "write"}, and on CUDA {"copy", "compute"} of the device.

    Threads run side by side, so the parts may add up to more than the wall clock.
    """
    spent = {"read": 0.0, "write": 0.0}
    real_read, real_write = Stack.read, PredictionStore.write

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return real(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - began

        return call

    Stack.read = counted("read", real_read)  # type: ignore[method-assign]
    PredictionStore.write = counted("write", real_write)  # type: ignore[method-assign]
    activities = [ProfilerActivity.CUDA] if device.startswith("cuda") else []
    profiler = profile(activities=activities) if activities else None
    try:
        if profiler is None:
            yield spent
        else:
            with profiler:
                yield spent
            copy = compute = 0.0
            for event in profiler.key_averages():
                seconds = event.self_device_time_total / 1e6
                if event.key.startswith("Memcpy"):
                    copy += seconds
                elif not event.key.startswith("Memset"):
                    compute += seconds
            spent |= {"copy": copy, "compute": compute}
    finally:
        Stack.read, PredictionStore.write = real_read, real_write  # type: ignore[method-assign]
