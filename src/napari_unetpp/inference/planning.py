"""How much of a run is held and done at a time.

Decides, in this order: what that is (`Work`), which of it fits into memory and keeps all threads busy
(`Planner.plan`), how many inputs go into one pass (`best_batch`), and how a long image is cut (`_bands`).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_unetpp.inference.schedule import peak_bytes
from napari_unetpp.model.extents import margins

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_unetpp.model.spec import NetworkSpec

MEMORY = 128 * 2**20  # bytes for the maps of a network, where nobody says otherwise: more is not faster
_BAND_BYTES = 2**17  # of one channel of the image in one band; see docs/performance.md for band against speed
_WHOLE_VOXELS = 2**17  # up to here one pass over the whole: its maps are small enough
_LONGEST_BAND = 128
_MOST_IMAGES = 2  # in one pass: more gain nothing on a CPU, and hold more
_LARGE_VOXELS = 2**19  # from here on two hands at one input lose nothing against two inputs, and hold half
_MOST_HANDS = 8  # at one input: more wait for each other


@dataclass(frozen=True, slots=True)
class Work:
    """How much is done at a time.

    Parameters
    ----------
    workers
        Inputs that are computed beside each other, each with its share of the threads.
    band
        Rows of the first spatial axis that a pass holds at a time; None is the whole image.
    hands
        Threads that work at one input, step by step; 1 leaves the threads to torch, layer by layer.
    """

    workers: int
    band: int | None
    hands: int = 1


class Planner:
    """What a device can do at a time with one network; that of a CPU.

    Attributes
    ----------
    item
        Bytes of an element of a map.
    memory
        Bytes that a run may plan with, where nobody says otherwise.
    """

    spec: NetworkSpec
    item: int
    memory: int = MEMORY

    def plan(
        self, level: int, extent: Sequence[int], batch: int, inputs: int, memory: int | None, threads: int
    ) -> Work:
        """How to run `inputs` batches of that spatial extent within `memory` bytes.

        Parameters
        ----------
        memory
            None is what the device has for it; an input that takes more, however it is cut, is not refused then.

        Raises
        ------
        MemoryError
            Where `memory` is given, and one input takes more.
        """
        most = max(1, min(self._workers(threads), inputs))
        bound = self.memory if memory is None else memory
        leanest: tuple[int, Work] | None = None
        for work in self._ways(level, extent, batch, most, threads):
            need = self.bytes_held(level, extent, batch, work.band, work.hands) * work.workers
            if need <= bound:
                return work
            if leanest is None or need < leanest[0]:
                leanest = need, work
        assert leanest is not None
        need, work = leanest
        if memory is None:
            return work
        raise MemoryError(
            f"one input of {' x '.join(map(str, extent))} voxels takes {need / 2**20:.0f} MiB "
            f"where {bound / 2**20:.0f} MiB are allowed"
        )

    def _ways(self, level: int, extent: Sequence[int], batch: int, most: int, threads: int) -> Iterator[Work]:
        """What may be done, the fastest first."""
        bands = list(self._bands(level, extent, batch))
        if bands[0] is None:
            yield from (Work(workers, None) for workers in range(most, 0, -1))
        # All threads at lower bands before fewer threads: a band of half the rows costs some 10 %. And an input for
        # each before two hands at one, who wait for each other at its begin and end.
        for busy in range(threads, 0, -1):
            shared = [Work(n, None, self._hands(busy // n)) for n in range(1, min(most, busy) + 1)]
            shared = [work for work in reversed(shared) if work.workers * work.hands == busy]
            if math.prod(extent) >= _LARGE_VOXELS:
                shared.sort(key=lambda work: work.hands != 2)
            for band, work in itertools.product(filter(None, bands), shared):
                yield replace(work, band=band)

    def best_batch(self, level: int, extent: Sequence[int]) -> int:
        """Inputs of that extent in one pass that keep the device busy; of large ones, one.

        It belongs into the record of a run, which is to be continued in equal batches.
        """
        return max(1, min(_MOST_IMAGES, _WHOLE_VOXELS // math.prod(extent)))

    def region_band(self, extent: Sequence[int], level: int | None) -> int | None:
        """Rows at a time for a single region: as in a run, but never refused."""
        deepest = self.spec.heads_up_to(level)[-1]
        extent = [math.ceil(n / grid) * grid for n, grid in zip(extent, self.spec.grids, strict=True)]
        return self.plan(deepest, extent, 1, 1, None, 1).band

    def bytes_held(self, level: int, extent: Sequence[int], batch: int, band: int | None, hands: int = 1) -> int:
        """About the most bytes that the maps of one batch take."""
        grid = self.spec.grids[0]
        rows = math.ceil(extent[0] / grid) * grid
        if not self.spec.streams:  # no bands, so no schedule; its cousin has as many maps
            return _whole_bytes(self.spec, level, extent, self.item * batch)
        if band is None:
            return peak_bytes(self.spec, level, extent, rows, item=self.item, batch=batch)
        return peak_bytes(self.spec, level, extent, band, item=self.item, hands=hands)

    def _workers(self, threads: int) -> int:
        """Passes that are worth running beside each other."""
        return threads

    def _hands(self, threads: int) -> int:
        """Threads that are worth having at one input that goes band by band."""
        return min(threads, _MOST_HANDS)

    def _bands(self, level: int, extent: Sequence[int], batch: int) -> Iterator[int | None]:
        """Ways to cut the rows, the fastest first."""
        if not self.spec.streams:
            yield None
            return
        least = 2**level
        rows, across = extent[0], math.prod(extent[1:])
        band = max(least, min(_LONGEST_BAND, _BAND_BYTES // self.item // across) // least * least)
        if batch * rows * across <= _WHOLE_VOXELS or band >= rows:
            yield None
        while band >= least:
            yield band
            band = band // 2 // least * least


def _whole_bytes(spec: NetworkSpec, level: int, extent: Sequence[int], item: int) -> int:
    voxels = math.prod(math.ceil(n / grid) * grid for n, grid in zip(extent, spec.grids, strict=True))
    if spec.padding != "same":
        voxels = math.prod(n + sum(margins(spec, axis, n)) for axis, n in enumerate(extent))
    maps: float = sum(spec.node_width(i, j) / math.prod(spec.reduction(i)) for i, j in spec.nodes if i + j <= level)
    return math.ceil(3 * item * voxels * maps)
