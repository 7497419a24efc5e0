"""How a network is run: whole or band by band, on one device.

Decides, in this order: how much is held at a time (`Work`), what is prepared once for a run
(`Backend`), and what that is on this machine (`prepare`).

Results do not depend on how much is held: a pass band by band gives the voxels of a pass over the
whole image, and on a CPU with oneDNN bit by bit. So a pass that runs out of memory is gone on with
in smaller steps (`ladder.py`). Cards have a file of their own (`gpu.py`), and so has another engine
for the CPU (`openvino.py`).
"""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from napari_unetpp.inference.kernels import TorchLayers, whole_pass
from napari_unetpp.inference.ladder import Ladder, Rung, rungs
from napari_unetpp.inference.outputs import finished, wanted_part
from napari_unetpp.inference.precision import DTYPES, Precision, choose_precision
from napari_unetpp.inference.schedule import peak_bytes
from napari_unetpp.inference.streaming import stream
from napari_unetpp.model.unetpp import pad_to_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_unetpp.inference.kernels import Layers
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.stacks import Stack

__all__ = ["MEMORY", "Backend", "Engine", "Precision", "Work", "choose_precision", "prepare"]

Engine = Literal["torch", "openvino"]

MEMORY = 256 * 2**20  # bytes for the maps of a network, where nobody says otherwise
_BAND_VOXELS = 2**15  # of the image in one band: as many as four patches of 96, the batch that ran best
_WHOLE_VOXELS = 2**17  # up to here one pass over the whole: its maps are small enough
_LONGEST_BAND = 128


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

    engine: Engine = "torch"

    def __init__(self, layers: Layers, device: torch.device, precision: str, note: str = "") -> None:
        self.layers, self.device, self.precision, self._note = layers, device, precision, note
        self.spec: NetworkSpec = layers.spec
        self.memory = MEMORY
        self.ladder = Ladder(str(device))
        self._in_need: Callable[[], Backend] | None = None  # what does the work where the device has no memory

    @property
    def note(self) -> str:
        """What a user should know about the precision and, in the course of a run, about memory."""
        return "; ".join(filter(None, (self._note, self.ladder.note)))

    def computing(self) -> AbstractContextManager[None]:
        """Around everything that uses `layers` from outside."""
        return nullcontext()

    def plan(self, level: int, extent: Sequence[int], batch: int, inputs: int, memory: int, threads: int) -> Work:
        """How to run `inputs` batches of that spatial extent within `memory` bytes.

        Raises
        ------
        MemoryError
            Where one input takes more, however it is cut.
        """
        options = list(self._bands(level, extent, batch))
        most = max(1, min(self._workers(threads), inputs))
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

    def _workers(self, threads: int) -> int:
        """Passes that are worth running beside each other."""
        return threads

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
        self._fill(batch, heads[-1], band, crop, out, checkpoint)
        return out

    def _fill(
        self,
        batch: NDArray[np.float32],
        level: int,
        band: int | None,
        crop: tuple[slice, ...],
        out: list[NDArray[Any]],
        checkpoint: Callable[[], None],
    ) -> None:
        """Fill `out`, one array for each head up to `level`, in as many steps as the memory asks for."""
        extent = batch.shape[2:]

        def attempt(images: slice, rung: Rung) -> None:
            part, into = batch[images], [head[images] for head in out]
            if rung.on_cpu:
                assert self._in_need is not None
                cpu = self._in_need()
                cpu._fill(part, level, cpu.region_band(extent, level), crop, into, checkpoint)
            else:
                self._pass(part, level, rung.band, crop, into, checkpoint)

        rows = math.ceil(extent[0] / self.spec.grid) * self.spec.grid
        grid = 2**level if self.spec.size_independent else None
        ways = list(rungs(len(batch), rows, band, grid=grid, cpu=self._in_need is not None))
        self.ladder.climb((extent, level), ways, len(batch), attempt)

    def _pass(
        self,
        batch: NDArray[np.float32],
        level: int,
        band: int | None,
        crop: tuple[slice, ...],
        out: list[NDArray[Any]],
        checkpoint: Callable[[], None],
    ) -> None:
        """Fill `out` in one go."""
        heads = self.spec.heads_up_to(level)
        with torch.inference_mode():
            for images, d, first, logits in self._pieces(torch.from_numpy(batch), level, band):
                checkpoint()
                into = out[heads.index(d)]
                if part := wanted_part(first, logits.shape[2], crop):
                    torch.from_numpy(into)[images, :, part[1]] = finished(logits[part[0]], into.dtype == np.uint8)

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


def prepare(
    model: Model, precision: Precision = "auto", *, stack: Stack | None = None, engine: Engine = "torch"
) -> Backend:
    """A model made ready to run on the device that it was loaded for.

    Parameters
    ----------
    stack
        What it will run on; int8 is calibrated on patches of it.
    engine
        ``"openvino"`` runs on the CPU alone, and is an extra to install.

    Raises
    ------
    ValueError
        Where the precision is unknown or not to be had on that device.
    ImportError
        Where the engine is not installed.
    """
    device = model.device
    chosen = choose_precision(str(device), precision)
    if engine == "openvino":
        from napari_unetpp.inference.openvino import prepare_openvino

        return prepare_openvino(model, chosen)
    dtype = DTYPES[chosen]
    if next(model.network.parameters()).dtype is torch.float64:  # who made them so wants to see the difference
        chosen, dtype = "fp64", torch.float64
    if device.type != "cpu":
        from napari_unetpp.inference.gpu import prepare_gpu

        return prepare_gpu(model.network, device, chosen, dtype)
    return Backend(TorchLayers(model.network, device, dtype), device, chosen)


def _whole_bytes(spec: NetworkSpec, level: int, extent: Sequence[int], item: int) -> int:
    voxels = math.prod(math.ceil(n / spec.grid) * spec.grid for n in extent)
    maps: float = sum(spec.node_width(i, j) / 2 ** (spec.ndim * i) for i, j in spec.nodes if i + j <= level)
    return math.ceil(3 * item * voxels * maps)
