"""A network on a card: CUDA, or the GPU of a Mac (MPS).

Decides, in this order: what one pass does beside the network itself (`GpuBackend`), how many inputs
go into one (`best_batch`), in which arithmetic float32 is computed there (`full_precision`), and
whether a card is believed at all (`prepare_gpu`). `lanes.py` copies; no card was at hand when
this was written: what is tested is all but the kernels, the copies and the recording of graphs.

Probabilities are made on the card, cropped and brought into 8 bits there, so a voxel comes back in
one byte a class and level. cuDNN is not asked to try out its algorithms (`benchmark`): it may choose
another one the next day, and a continued run shall end in the same bytes.
"""

from __future__ import annotations

import copy
import functools
import logging
import math
import threading
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from napari_unetpp.inference.backends import Backend
from napari_unetpp.inference.kernels import TorchLayers, whole_pass
from napari_unetpp.inference.ladder import Ladder
from napari_unetpp.inference.lanes import CudaLane, Lane, Returning
from napari_unetpp.inference.outputs import finished
from napari_unetpp.inference.planning import MEMORY, Work
from napari_unetpp.inference.streaming import stream
from napari_unetpp.model.memory import give_back
from napari_unetpp.model.unetpp import pad_to_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_unetpp.inference.crew import Crew
    from napari_unetpp.inference.kernels import Layers
    from napari_unetpp.inference.outputs import Results
    from napari_unetpp.model.unetpp import UNetPlusPlus

log = logging.getLogger(__name__)

# Patches in one pass. Four of 96 voxels are 39 GFLOP at L4: a tenth of a millisecond of a large card,
# which is less than it takes to launch their kernels.
_MOST_IMAGES = 64
# Up to so many voxels in one pass, launching takes longer than computing, and a graph is worth its memory.
_GRAPH_VOXELS = 2**20
_FREE = 0.7  # of the memory that is free: cuDNN takes some to work in, and others use the card


class GpuBackend(Backend):
    """A network made ready for a card.

    Parameters
    ----------
    in_need
        Gives the same network on the CPU, for inputs that the card has no memory for.
    lane
        How a thread sends and fetches; None is what the device has.
    tf32
        Let CUDA round the factors of fp32 convolutions to 10 bits. Off: fp32 is what the other
        precisions are measured against; who wants speed has bf16, which is as coarse and faster.
    """

    def __init__(
        self,
        layers: Layers,
        device: torch.device,
        precision: str,
        note: str = "",
        *,
        in_need: Callable[[], Backend] | None = None,
        lane: Callable[[], Lane] | None = None,
        tf32: bool = False,
    ) -> None:
        super().__init__(layers, device, precision, note)
        self.memory = _device_memory(device)
        self.ladder = Ladder(str(device), self._empty)
        self._in_need = in_need
        self._new_lane = lane or functools.partial(CudaLane if device.type == "cuda" else Lane, device)
        self._rounded = tf32 or device.type != "cuda" or precision != "fp32"

    def computing(self) -> AbstractContextManager[None]:
        """Around everything that uses `layers`."""
        return nullcontext() if self._rounded else full_precision()

    def best_batch(self, level: int, extent: Sequence[int]) -> int:
        """Inputs of that extent in one pass that keep the card busy, within the memory that is free now."""
        images = _MOST_IMAGES
        while images > 1 and self._workers(1) * self.bytes_held(level, extent, images, None) > self.memory:
            images //= 2
        return images

    def _workers(self, threads: int) -> int:
        return 2 if self.device.type == "cuda" else 1  # a second one computes while the first copies

    def _ways(self, level: int, extent: Sequence[int], batch: int, most: int, threads: int) -> Iterator[Work]:
        # A kernel is run by all of the card, whoever launches it: high bands before a second worker.
        for band in self._bands(level, extent, batch):
            yield from (Work(workers, band) for workers in range(most if band is None else 1, 0, -1))

    def _bands(self, level: int, extent: Sequence[int], batch: int) -> Iterator[int | None]:
        """One pass over the whole, or bands as high as there is memory for: small ones leave a card idle."""
        yield None
        least = 2**level
        band = extent[0] // 2 // least * least
        while band >= least and self.spec.streams:
            yield band
            band = band // 2 // least * least

    def _pass(self, batch: NDArray[np.float32], band: int | None, results: Results, crew: Crew) -> None:
        lane = self._lane()
        with torch.inference_mode(), lane.computing(), self.computing():
            sent = torch.from_numpy(batch)  # a pass mirrors unpadded networks' images itself
            image = lane.send(pad_to_grid(sent, self.spec.grids) if self.spec.padding == "same" else sent)
            returning = Returning(lane.fetch)
            for images, d, first, values in self._finished(lane, image, results.level, band, results.counts):
                crew.checkpoint()
                if place := results.place(images, d, first, values.shape[2]):
                    taken, into = place
                    returning.put(values[taken], into)
            returning.finish()

    def _finished(
        self, lane: Lane, image: Tensor, level: int, band: int | None, counts: bool
    ) -> Iterator[tuple[slice, int, int, Tensor]]:
        """(images, level, first row, what is kept of the logits) in any order."""
        if band is not None:
            for place in range(len(image)):
                for d, first, logits in stream(self.layers, image[place : place + 1], level, band):
                    yield slice(place, place + 1), d, first, finished(logits, counts)
            return

        def compute(image: Tensor) -> list[Tensor]:
            return [finished(logits, counts) for logits in whole_pass(self.layers, image, level)]

        small = len(image) * math.prod(image.shape[2:]) <= _GRAPH_VOXELS
        every = lane.graphs.run((image.shape, level, counts), image, compute) if small else compute(image)
        for d, values in zip(self.spec.heads_up_to(level), every, strict=True):
            yield slice(None), d, 0, values

    def _lane(self) -> Lane:
        if not hasattr(self._mine, "lane"):
            self._mine.lane = self._new_lane()
        lane: Lane = self._mine.lane
        return lane

    def _empty(self) -> None:
        """Give back what the allocator keeps, and the memory of recorded passes."""
        self._lane().graphs.give_up()
        give_back(self.device)


def _device_memory(device: torch.device) -> int:
    """Bytes of a device that a run may plan with."""
    if device.type != "cuda":
        return 6 * MEMORY
    return int(_FREE * torch.cuda.mem_get_info(device)[0])


_inside = 0
_outside_tf32 = True
_counting = threading.Lock()


@contextmanager
def full_precision() -> Iterator[None]:
    """While any thread is inside, cuDNN multiplies float32 as float32; torch's own default is TF32.

    The switch is one for the whole process, so the first thread turns it and the last turns it back.
    """
    global _inside, _outside_tf32
    with _counting:
        if not _inside:
            _outside_tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
        _inside += 1
    try:
        yield
    finally:
        with _counting:
            _inside -= 1
            if not _inside:
                torch.backends.cudnn.allow_tf32 = _outside_tf32


def prepare_gpu(network: UNetPlusPlus, device: torch.device, precision: str, dtype: torch.dtype) -> Backend:
    """A network made ready for a card, or for the CPU where the card computes something else.

    MPS is asked for proof: convolutions whose input or weights lie in memory in another order than
    usual were wrong there, without an error, in several releases (pytorch #180984, #197114).
    """
    spare = copy.deepcopy(network).cpu()  # training may go on with the original

    @functools.cache
    def on_cpu() -> Backend:
        name, exact = ("fp64", torch.float64) if dtype is torch.float64 else ("fp32", torch.float32)
        return Backend(TorchLayers(spare, torch.device("cpu"), exact), torch.device("cpu"), name)

    layers = TorchLayers(network, device, dtype)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # the weights are there before a stream of a lane reads them
    elif not agrees(layers, on_cpu().layers):
        cpu = on_cpu()
        note = f"{device} computes other numbers than the CPU with this network; the CPU does the work, in fp32"
        return Backend(cpu.layers, cpu.device, cpu.precision, note)
    return GpuBackend(layers, device, precision, in_need=on_cpu)


def agrees(layers: Layers, reference: Layers) -> bool:
    """Whether a network runs as prepared, and gives about what another preparation of it gives.

    Asked with one random image, whole and band by band.
    """
    spec = layers.spec
    extent = (4 * spec.grid, *(2 * spec.grid,) * (spec.ndim - 1))
    image = torch.randn((1, spec.in_channels, *extent), generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            wanted = [finished(logits, counts=False) for logits in whole_pass(reference, image)]
            ways = [[finished(logits, counts=False).cpu() for logits in whole_pass(layers, image)]]
            if spec.streams:
                bands: dict[int, list[Tensor]] = {d: [] for d in spec.heads}
                for d, _, logits in stream(layers, image, spec.depth, 2**spec.depth):
                    bands[d].append(finished(logits, counts=False).cpu())
                ways.append([torch.cat(rows, dim=2) for rows in bands.values()])
    except RuntimeError as error:  # a layer that this release has not
        log.info("%s", str(error).partition("\n")[0])
        return False
    # Half precision is within 0.05 of fp32 (tests/inference/test_backends.py); a wrong layer is not.
    return all(bool(((a - b).abs() < 0.1).all()) for way in ways for a, b in zip(way, wanted, strict=True))
