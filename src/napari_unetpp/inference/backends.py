"""How a network is run: its precision, whole or band by band, on one device.

Decides, in this order: which precision is the fastest that this machine has (`choose_precision`),
what is prepared once for a run (`prepare`, `Backend`), and how much of it is held at a time (`Work`).

Results do not depend on how much is held: a pass band by band gives the voxels of a pass over the
whole image, and on a CPU with oneDNN bit by bit.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F

from napari_unetpp.inference.kernels import LAST, TorchLayers, whole_pass
from napari_unetpp.inference.schedule import peak_bytes
from napari_unetpp.inference.streaming import stream
from napari_unetpp.model.unetpp import pad_to_grid, probabilities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_unetpp.inference.kernels import Layers
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.stacks import Stack

Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
VARIABLE = "NAPARI_UNETPP_PRECISION"  # what "auto" means, for whoever wants the same on all machines
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

MEMORY = 256 * 2**20  # bytes for the maps of a network, where nobody says otherwise
_BAND_VOXELS = 2**15  # of the image in one band: as many as four patches of 96, the batch that ran best
_WHOLE_VOXELS = 2**17  # up to here one pass over the whole: its maps are small enough
_LONGEST_BAND = 128
_GAIN = 1.3  # bf16 has to be this much faster than fp32 to be chosen


def choose_precision(device: str, wanted: Precision = "auto") -> str:
    """Precision that a device runs; for ``"auto"`` the fastest floating point that is safe there.

    Instructions alone do not tell: a processor may have those for bf16 and run them at half the
    speed of fp32 (Xeon of the fourth generation without AMX), or at twice (Zen 4). So on a CPU that
    has them, a convolution is timed in both, which takes some hundredths of a second.

    Raises
    ------
    ValueError
        Where the precision is unknown.
    """
    if wanted not in get_args(Precision):
        raise ValueError(f"precision {wanted!r} is unknown; use {', '.join(get_args(Precision))}")
    if wanted == "auto":
        wanted = os.environ.get(VARIABLE, "auto")  # type: ignore[assignment]
    if wanted != "auto":
        return wanted
    kind = torch.device(device).type
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if kind == "cpu" and _has_bf16_instructions() and _bf16_gain() >= _GAIN:
        return "bf16"
    return "fp32"


def _has_bf16_instructions() -> bool:
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asked)


@functools.cache
def _bf16_gain() -> float:
    """How many times as fast as fp32 a typical convolution is in bf16."""
    seconds: dict[torch.dtype, float] = {}
    with torch.inference_mode():
        image, weight = torch.ones((1, 64, 32, 96)), torch.ones((64, 64, 3, 3))
        both = {
            dtype: [t.to(dtype).contiguous(memory_format=LAST[2]) for t in (image, weight)]
            for dtype in (torch.float32, torch.bfloat16)
        }
        for _ in range(5):  # in turns, and the best of each: another process may be at work
            for dtype, (x, w) in both.items():
                began = time.perf_counter()
                F.conv2d(x, w, padding=1)
                seconds[dtype] = min(seconds.get(dtype, math.inf), time.perf_counter() - began)
    return seconds[torch.float32] / seconds[torch.bfloat16]


@dataclass(frozen=True, slots=True)
class Work:
    """How much is done at a time.

    Parameters
    ----------
    workers
        Inputs that are computed beside each other, each with its share of the threads.
    band
        Rows of the first spatial axis that a pass holds at a time; None is the whole image.
    """

    workers: int
    band: int | None


class Backend:
    """A network made ready for one device and precision; it may be used by several threads.

    Parameters
    ----------
    layers
        The prepared layers.
    precision
        Name of what they compute in.
    note
        What a user should know about how the precision was chosen, in a sentence.
    """

    def __init__(self, layers: Layers, device: torch.device, precision: str, note: str = "") -> None:
        self.layers, self.device, self.precision, self.note = layers, device, precision, note
        self.spec: NetworkSpec = layers.spec
        self.memory = MEMORY if device.type == "cpu" else _device_memory(device)

    def plan(self, level: int, extent: Sequence[int], batch: int, inputs: int, memory: int, threads: int) -> Work:
        """How to run `inputs` batches of that spatial extent within `memory` bytes.

        Raises
        ------
        MemoryError
            Where one input takes more, however it is cut.
        """
        options = list(self._bands(level, extent, batch))
        most = max(1, min(threads, inputs)) if self.device.type == "cpu" else 1
        for workers, band in itertools.chain(
            ((workers, options[0]) for workers in range(most, 0, -1)), ((1, band) for band in options[1:])
        ):
            need = self.bytes_held(level, extent, batch, band) * workers
            if need <= memory:
                return Work(workers, band)
        raise MemoryError(
            f"one input of {' x '.join(map(str, extent))} voxels takes {need / 2**20:.0f} MiB "
            f"where {memory / 2**20:.0f} MiB are allowed"
        )

    def region_band(self, extent: Sequence[int], level: int | None) -> int | None:
        """Rows at a time for a single region: as in a run, but never refused."""
        deepest = self.spec.heads_up_to(level)[-1]
        extent = [math.ceil(n / self.spec.grid) * self.spec.grid for n in extent]
        try:
            return self.plan(deepest, extent, 1, 1, self.memory, 1).band
        except MemoryError:
            return list(self._bands(deepest, extent, 1))[-1]

    def bytes_held(self, level: int, extent: Sequence[int], batch: int, band: int | None) -> int:
        """About the most bytes that the maps of one batch take."""
        grid = self.spec.grid
        rows = math.ceil(extent[0] / grid) * grid
        if not self.spec.size_independent:  # no bands, so no schedule; its cousin has as many maps
            return _whole_bytes(self.spec, level, extent, self.layers.item * batch)
        held = batch if band is None else 1
        return peak_bytes(self.spec, level, extent, rows if band is None else band, item=self.layers.item, batch=held)

    def _bands(self, level: int, extent: Sequence[int], batch: int) -> Iterator[int | None]:
        """Ways to cut the rows, the fastest first."""
        if not self.spec.size_independent:
            yield None
            return
        least = 2**level
        rows, across = extent[0], math.prod(extent[1:])
        band = max(least, min(_LONGEST_BAND, _BAND_VOXELS // across) // least * least)
        if batch * rows * across <= _WHOLE_VOXELS or band >= rows:
            yield None
        while band >= least:
            yield band
            band = band // 2 // least * least

    def run(
        self,
        batch: NDArray[np.float32],
        level: int | None = None,
        *,
        band: int | None = None,
        crop: tuple[slice, ...] | None = None,
        counts: bool = False,
        checkpoint: Callable[[], None] = lambda: None,
    ) -> list[NDArray[Any]]:
        """Probabilities (batch, class, [z,] y, x) of every head up to `level`.

        Parameters
        ----------
        batch
            Network input (batch, channel, [z,] y, x).
        band
            Rows at a time; None is the whole image at once.
        crop
            Part of the spatial axes to keep; None is all.
        counts
            Give uint8 with 255 = 1.0 instead of float32.
        checkpoint
            Called every now and then; what it raises ends the pass.
        """
        heads = self.spec.heads_up_to(level)
        crop = crop or tuple(slice(0, n) for n in batch.shape[2:])
        shape = (len(batch), self.spec.classes, *(s.stop - s.start for s in crop))
        out: list[NDArray[Any]] = [np.empty(shape, np.uint8 if counts else np.float32) for _ in heads]
        with torch.inference_mode():
            image = torch.from_numpy(batch)
            for place, d, first, logits in self._pieces(image, heads[-1], band):
                checkpoint()
                _put(logits, first, crop, out[heads.index(d)][place])
        return out

    def _pieces(self, image: Tensor, level: int, band: int | None) -> Iterator[tuple[slice, int, int, Tensor]]:
        """(images, level, first row, logits) in any order."""
        if band is None:
            for d, logits in zip(self.spec.heads_up_to(level), whole_pass(self.layers, image, level), strict=True):
                yield slice(None), d, 0, logits
            return
        padded = pad_to_grid(image, self.spec.grid)
        for place in range(len(image)):
            for d, first, logits in stream(self.layers, padded[place : place + 1], level, band):
                yield slice(place, place + 1), d, first, logits


def _device_memory(device: torch.device) -> int:
    """Bytes of a device that a run may plan with."""
    if device.type != "cuda":
        return 4 * MEMORY
    free = torch.cuda.mem_get_info(device)[0]
    return int(0.7 * free)


def _put(logits: Tensor, first: int, crop: tuple[slice, ...], out: NDArray[Any]) -> None:
    """Turn rows `first` and on of logits into probabilities, and put what `crop` keeps into `out`."""
    rows = crop[0]
    low, high = max(rows.start, first), min(rows.stop, first + logits.shape[2])
    if low >= high:
        return
    kept = logits[:, :, low - first : high - first]
    probability = probabilities(kept[(slice(None), slice(None), slice(None), *crop[1:])].float())
    if out.dtype == np.uint8:
        probability = to_counts(probability)
    torch.from_numpy(out)[:, :, low - rows.start : high - rows.start] = probability


def to_counts(probability: Tensor) -> Tensor:
    """Stored form of a probability: round(255 p). Half counts up where it matters, at p = 0.5.

    >>> to_counts(torch.tensor([0.0, 0.4999, 0.5, 1.0])).tolist()
    [0, 127, 128, 255]
    """
    return torch.round(probability * 255).clamp_(0, 255).to(torch.uint8)


def prepare(model: Model, precision: Precision = "auto", *, stack: Stack | None = None) -> Backend:
    """A model made ready to run on the device that it was loaded for.

    Parameters
    ----------
    stack
        What it will run on; int8 is calibrated on patches of it.

    Raises
    ------
    ValueError
        Where the precision is unknown or not to be had on that device.
    """
    device = model.device
    chosen = choose_precision(str(device), precision)
    dtype = DTYPES[chosen]
    if next(model.network.parameters()).dtype is torch.float64:  # who made them so wants to see the difference
        chosen, dtype = "fp64", torch.float64
    return Backend(TorchLayers(model.network, device, dtype), device, chosen)


def _whole_bytes(spec: NetworkSpec, level: int, extent: Sequence[int], item: int) -> int:
    voxels = math.prod(math.ceil(n / spec.grid) * spec.grid for n in extent)
    maps: float = sum(spec.node_width(i, j) / 2 ** (spec.ndim * i) for i, j in spec.nodes if i + j <= level)
    return math.ceil(3 * item * voxels * maps)
