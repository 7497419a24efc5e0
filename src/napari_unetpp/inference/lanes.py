"""The ways between a computer's memory and a card's, and what a card repeats by itself.

Decides, in this order: how a thread sends and fetches (`Lane`, `CudaLane`), how results come back
while the next are computed (`Returning`), and which passes become CUDA graphs (`Graphs`). Only
`CudaLane` needs a card; it has not run on one yet.

Each thread that computes has a lane: a stream of its own, in which copies and kernels keep their
order. Two such threads are what keeps a card busy: one copies and collects while the other computes::

    thread 1   send ── compute ──────── fetch          send ── compute ────
    thread 2               send ─────── compute ──────── fetch
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from torch import Tensor

log = logging.getLogger(__name__)

_ON_THE_WAY = 2  # results that come back while others are computed; their memory is held so long
_SEEN = 2  # passes of one shape before it is recorded: by then cuDNN has chosen and allocated
_MOST_GRAPHS = 4  # each holds all maps of a pass


class Lane:
    """A device without streams: a copy is over when it returns."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.graphs = Graphs(None)

    def computing(self) -> AbstractContextManager[object]:
        """Where kernels of this lane are launched."""
        return nullcontext()

    def send(self, image: Tensor) -> Tensor:
        """The image on the device."""
        return image.to(self.device)

    def fetch(self, values: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """Values in the computer's memory, valid once the second has returned."""
        return values.cpu(), _nothing


class CudaLane(Lane):
    """Two streams of one thread: kernels and what they read in one, results in the other.

    Memory that is pinned comes from torch's own pool, which waits with lending it again until the
    copies out of or into it are over. So nothing here counts buffers.
    """

    def __init__(self, device: torch.device, *, graphs: bool = True) -> None:
        super().__init__(device)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._back = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle() if graphs else None
        self.graphs = Graphs(self._record if graphs else None)

    def computing(self) -> AbstractContextManager[object]:
        context: AbstractContextManager[object] = torch.cuda.stream(self._stream)
        return context

    def send(self, image: Tensor) -> Tensor:
        return image.pin_memory().to(self.device, non_blocking=True)

    def fetch(self, values: Tensor) -> tuple[Tensor, Callable[[], None]]:
        values = values.contiguous()
        here = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._back.wait_stream(self._stream)
        with torch.cuda.stream(self._back):
            here.copy_(values, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._back)
        values.record_stream(self._back)
        return here, arrived.synchronize

    def _record(self, image: Tensor, compute: Callable[[Tensor], list[Tensor]]) -> Callable[[Tensor], list[Tensor]]:
        taken = image.clone()
        graph = torch.cuda.CUDAGraph()
        # One recording at a time in a process is torch's limit; other threads may go on with kernels.
        with _recording, torch.cuda.graph(graph, self._pool, self._stream, "thread_local"):
            results = compute(taken)

        def replay(image: Tensor) -> list[Tensor]:
            # Graphs of a lane share their memory: the results of a pass are fetched before the next one.
            self._stream.wait_stream(self._back)
            taken.copy_(image, non_blocking=True)
            graph.replay()
            return results

        return replay


_recording = threading.Lock()


def _nothing() -> None:
    return


class Returning:
    """Results on their way into arrays, a few at a time.

    Parameters
    ----------
    fetch
        Begins to copy values, as `Lane.fetch`.
    """

    def __init__(self, fetch: Callable[[Tensor], tuple[Tensor, Callable[[], None]]]) -> None:
        self._fetch = fetch
        self._coming: deque[tuple[Tensor, Callable[[], None], Tensor]] = deque()

    def put(self, values: Tensor, into: Tensor) -> None:
        """Have values copied into a view of an array; the oldest may have to arrive first."""
        while len(self._coming) >= _ON_THE_WAY:
            self._land()
        self._coming.append((*self._fetch(values), into))

    def finish(self) -> None:
        """Return when all is there."""
        while self._coming:
            self._land()

    def _land(self) -> None:
        here, arrived, into = self._coming.popleft()
        arrived()
        into.copy_(here)


class Graphs:
    """Passes over inputs of the same shape, recorded once and then launched as one.

    Parameters
    ----------
    record
        Records a computation of an image and gives what repeats it for another; None is not to.
    """

    def __init__(
        self, record: Callable[[Tensor, Callable[[Tensor], list[Tensor]]], Callable[[Tensor], list[Tensor]]] | None
    ) -> None:
        self._record = record
        self._seen: Counter[Hashable] = Counter()
        self._replays: dict[Hashable, Callable[[Tensor], list[Tensor]]] = {}

    def run(self, key: Hashable, image: Tensor, compute: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        """What `compute` makes of the image; valid until the next call.

        Parameters
        ----------
        key
            Same key, same computation of images of the same shape.
        """
        if key not in self._replays and self._worth_it(key):
            self._try(key, image, compute)
        return self._replays.get(key, compute)(image)

    def give_up(self) -> None:
        """Free all recordings and make no more."""
        self._record = None
        self._replays.clear()

    def _worth_it(self, key: Hashable) -> bool:
        self._seen[key] += 1
        return self._record is not None and self._seen[key] > _SEEN and len(self._replays) < _MOST_GRAPHS

    def _try(self, key: Hashable, image: Tensor, compute: Callable[[Tensor], list[Tensor]]) -> None:
        assert self._record is not None
        try:
            self._replays[key] = self._record(image, compute)
        except RuntimeError as error:
            log.info("no CUDA graphs: %s", str(error).partition("\n")[0])
            self.give_up()
