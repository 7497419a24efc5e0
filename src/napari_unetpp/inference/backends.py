"""How a network is run: whole or band by band, on one device.

Decides, in this order: what is prepared once for a run and runs it (`Backend`), and what that is on
this machine (`prepare`). How much is held at a time is planned in `planning.py`.

Results do not depend on how much is held: a pass band by band gives the voxels of a pass over the
whole image, and on a CPU with oneDNN bit by bit. So a pass that runs out of memory is gone on with
in smaller steps (`ladder.py`). Cards have a file of their own (`gpu.py`), and so has another engine
for the CPU (`openvino.py`).
"""

from __future__ import annotations

import math
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from napari_unetpp.inference.crew import ALONE
from napari_unetpp.inference.joining import Buffer
from napari_unetpp.inference.kernels import TorchLayers, whole_pass
from napari_unetpp.inference.ladder import Ladder, Rung, rungs
from napari_unetpp.inference.outputs import Results, finished
from napari_unetpp.inference.planning import MEMORY, Planner, Work
from napari_unetpp.inference.precision import DTYPES, Precision, choose_precision
from napari_unetpp.inference.streaming import stream
from napari_unetpp.model.unetpp import pad_to_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_unetpp.inference.crew import Crew
    from napari_unetpp.inference.kernels import Layers
    from napari_unetpp.inference.quantise import Calibration
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.stacks import Stack

__all__ = ["MEMORY", "Backend", "Engine", "Precision", "Work", "choose_precision", "prepare"]

Engine = Literal["torch", "openvino"]


class Backend(Planner):
    """A network made ready for one device and precision; it may be used by several threads.

    Parameters
    ----------
    layers
        The prepared layers.
    precision
        Name of what they compute in.
    note
        What a user should know about how the precision was chosen, in a sentence.
    calibration
        The numbers that int8 was made with; who goes on with a run needs the same.
    """

    def __init__(
        self,
        layers: Layers,
        device: torch.device,
        precision: str,
        note: str = "",
        calibration: Calibration | None = None,
    ) -> None:
        self.layers, self.device, self.precision, self.remark = layers, device, precision, note
        self.calibration = calibration
        self.spec, self.item = layers.spec, layers.item
        self.ladder = Ladder(str(device))
        self._mine = threading.local()
        self._in_need: Callable[[], Backend] | None = None  # what does the work where the device has no memory

    @property
    def note(self) -> str:
        """What a user should know about the precision and, in the course of a run, about memory."""
        return "; ".join(filter(None, (self.remark, self.ladder.note)))

    def computing(self) -> AbstractContextManager[None]:
        """Around everything that uses `layers` from outside."""
        return nullcontext()

    def run(
        self,
        batch: NDArray[np.float32],
        level: int | None = None,
        *,
        band: int | None = None,
        crop: tuple[slice, ...] | None = None,
        counts: bool = False,
        crew: Crew = ALONE,
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
        crew
            Who helps, and when to stop: what its `checkpoint` raises ends the pass.
        """
        heads = self.spec.heads_up_to(level)
        crop = crop or tuple(slice(0, n) for n in batch.shape[2:])
        shape = (len(batch), self.spec.classes, *(s.stop - s.start for s in crop))
        results = Results(heads, crop, [np.empty(shape, np.uint8 if counts else np.float32) for _ in heads])
        self._fill(batch, band, results, crew)
        return results.out

    def _fill(self, batch: NDArray[np.float32], band: int | None, results: Results, crew: Crew) -> None:
        """Fill the results in as many steps as the memory asks for."""
        extent, level = batch.shape[2:], results.level

        def attempt(images: slice, rung: Rung) -> None:
            if rung.on_cpu:
                assert self._in_need is not None
                cpu = self._in_need()
                cpu._fill(batch[images], cpu.region_band(extent, level), results.of(images), crew)
            else:
                self._pass(batch[images], rung.band, results.of(images), crew)

        rows = math.ceil(extent[0] / self.spec.grids[0]) * self.spec.grids[0]
        grid = 2**level if self.spec.streams else None
        ways = list(rungs(len(batch), rows, band, grid=grid, cpu=self._in_need is not None))
        self.ladder.climb((extent, level), ways, len(batch), attempt)

    def _pass(self, batch: NDArray[np.float32], band: int | None, results: Results, crew: Crew) -> None:
        """Fill the results in one go."""
        with torch.inference_mode():
            for images, d, first, logits in self._pieces(torch.from_numpy(batch), results.level, band, crew):
                crew.checkpoint()
                if place := results.place(images, d, first, logits.shape[2]):
                    taken, into = place
                    into.copy_(finished(logits[taken], results.counts))

    def _buffer(self) -> Buffer:
        """The calling thread's own."""
        if not hasattr(self._mine, "buffer"):
            self._mine.buffer = Buffer()
        buffer: Buffer = self._mine.buffer
        return buffer

    def _pieces(
        self, image: Tensor, level: int, band: int | None, crew: Crew = ALONE
    ) -> Iterator[tuple[slice, int, int, Tensor]]:
        """(images, level, first row, logits) in any order."""
        if band is None:
            every = whole_pass(self.layers, image, level, self._buffer())
            for d, logits in zip(self.spec.heads_up_to(level), every, strict=True):
                yield slice(None), d, 0, logits
            return
        padded = pad_to_grid(image, self.spec.grid)
        for place in range(len(image)):
            for d, first, logits in stream(self.layers, padded[place : place + 1], level, band, crew):
                yield slice(place, place + 1), d, first, logits


def prepare(
    model: Model,
    precision: Precision = "auto",
    *,
    stack: Stack | None = None,
    calibration: Calibration | None = None,
    engine: Engine = "torch",
) -> Backend:
    """A model made ready to run on the device that it was loaded for.

    Parameters
    ----------
    stack
        What it will run on; int8 is calibrated on patches of it.
    calibration
        For int8 in place of that: `Backend.calibration` of the run which is continued.
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
    if chosen == "int8":
        from napari_unetpp.inference.fast import prepare_int8

        return prepare_int8(model, stack, calibration=calibration)
    dtype = DTYPES[chosen]
    if next(model.network.parameters()).dtype is torch.float64:  # who made them so wants to see the difference
        chosen, dtype = "fp64", torch.float64
    if device.type != "cpu":
        from napari_unetpp.inference.gpu import prepare_gpu

        return prepare_gpu(model.network, device, chosen, dtype)
    return Backend(TorchLayers(model.network, device, dtype), device, chosen)
