"""What is read, computed and collected at once, for either way to tile.

Decides, in this order: what a run consists of (`Run`, `run_stages`), the stages of seamless tiles
(`_SeamlessStages`) and those of overlapping patches (`_OverlapStages`). `pipeline.py` runs them
beside each other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from napari_unetpp.inference.allocator import giving_back
from napari_unetpp.inference.crew import Crew
from napari_unetpp.inference.inputs import network_input
from napari_unetpp.inference.outputs import to_uint8
from napari_unetpp.inference.overlap import BandSums, PatchGroup, PatchReader, patch_groups
from napari_unetpp.inference.pace import Pace
from napari_unetpp.inference.pipeline import run_pipeline
from napari_unetpp.inference.tiling import Overlap
from napari_unetpp.model.sampling import read_raw

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from numpy.typing import NDArray

    from napari_unetpp.box import Box
    from napari_unetpp.inference.backends import Backend, Work
    from napari_unetpp.inference.seen import SeenVoxels
    from napari_unetpp.inference.tiles import Tile, Tiles
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.intensity import Scaling
    from napari_unetpp.stacks import Stack

Result = TypeVar("Result")
Parts = list[tuple["Tile", dict[int, "NDArray[Any]"]]]


@dataclass(frozen=True, slots=True)
class Run:
    """All that decides the numbers of a run.

    Parameters
    ----------
    batch
        Most tiles or patches in one pass; they are grouped by it.
    counts
        Give uint8 with 255 = 1.0 instead of float32.
    seen
        Keeps the hashes of what is read; None keeps none.
    """

    stack: Stack
    model: Model
    backend: Backend
    tiles: Tiles
    scaling: Scaling
    batch: int
    counts: bool
    seen: SeenVoxels | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch {self.batch} is not a number of images; use 1 or more")

    @property
    def levels(self) -> tuple[int, ...]:
        return self.model.spec.heads_up_to(self.tiles.level)

    def read(self, box: Box) -> NDArray[Any]:
        """Raw voxels (channel, *box.shape)."""
        raw = read_raw(self.stack, box)
        if self.seen is not None:
            self.seen.keep(box, raw)
        return raw

    def inputs(self, raws: list[NDArray[Any]]) -> NDArray[np.float32]:
        """Network input (batch, channel, *spatial) of raw voxels."""
        return np.stack([network_input(raw, self.model, self.scaling) for raw in raws])


def run_stages(
    run: Run,
    wanted: NDArray[np.bool_],
    then: Callable[[Parts], Result],
    *,
    memory: int | None = None,
    threads: int | None = None,
    pace: Pace | None = None,
    heartbeat: float | None = None,
) -> Generator[Result | None, None, None]:
    """What `then` makes of the finished tiles of each job; None where a heartbeat passed without any.

    The work is planned by this call, before anything runs.

    Parameters
    ----------
    wanted
        Which tiles, by number. It is looked at, and changed, while the stages run.
    then
        Called in one thread, beside the network.

    Raises
    ------
    MemoryError
        Where `memory` is too little for one input.
    """
    pace, threads = Pace(pace), threads or torch.get_num_threads()
    kind = _OverlapStages if isinstance(run.tiles.tiling, Overlap) else _SeamlessStages
    stages: _Stages = kind(run, wanted)
    tiles = run.tiles
    stages.work = run.backend.plan(tiles.level, tiles.input_extent, run.batch, stages.passes, memory, threads)
    return _running(stages, then, threads, pace, heartbeat)


def _running(
    stages: _Stages, then: Callable[[Parts], Result], threads: int, pace: Pace, heartbeat: float | None
) -> Generator[Result | None, None, None]:
    workers, hands = stages.work.workers, stages.work.hands
    # Patches are small, and their maps best kept; what is held of long images is not.
    with giving_back(2**20 if stages.work.band else 2 * 2**20):
        stages.crew = Crew(workers * (hands - 1), workers, pace)
        try:
            yield from run_pipeline(
                stages.jobs(),
                stages.read,
                stages.compute,
                lambda job, computed: then(stages.collect(job, computed)),
                workers=workers,
                threads=1 if hands > 1 else max(1, threads // workers),
                pace=pace,
                heartbeat=heartbeat,
            )
        finally:
            stages.crew.close()


class _Stages(ABC):
    """One way to tile: its jobs, and what is done to each.

    Attributes
    ----------
    passes
        Through the network, at most: what `work` is planned for.
    """

    passes: int
    work: Work
    crew: Crew

    def __init__(self, run: Run, wanted: NDArray[np.bool_]) -> None:
        self._run, self._wanted = run, wanted

    @abstractmethod
    def jobs(self) -> Iterator[Any]: ...

    @abstractmethod
    def read(self, job: Any) -> Any: ...

    @abstractmethod
    def compute(self, read: Any) -> list[NDArray[Any]]: ...

    @abstractmethod
    def collect(self, job: Any, computed: list[NDArray[Any]]) -> Parts: ...


@dataclass(frozen=True, slots=True)
class _Group:
    """Tiles that go through the network together: `outer` boxes of one shape, `inner` at one place in them."""

    tiles: list[Tile]
    wanted: list[bool]
    crop: tuple[slice, ...]


class _SeamlessStages(_Stages):
    def __init__(self, run: Run, wanted: NDArray[np.bool_]) -> None:
        super().__init__(run, wanted)
        self.passes = math.ceil(len(run.tiles) / run.batch)

    def jobs(self) -> Iterator[_Group]:
        tiles, batch = self._run.tiles, self._run.batch
        for chosen in tiles:
            number = tiles.number(chosen.index)
            if not self._wanted[number]:
                continue
            first = number // batch * batch
            neighbours = [tiles.tile(tiles.index(n)) for n in range(first, min(first + batch, len(tiles)))]
            crop = self._crop(chosen)
            group = [t for t in neighbours if t.outer.shape == chosen.outer.shape and self._crop(t) == crop]
            numbers = [tiles.number(t.index) for t in group]
            yield _Group(group, [bool(self._wanted[n]) for n in numbers], crop)
            self._wanted[numbers] = False

    def _crop(self, tile: Tile) -> tuple[slice, ...]:
        return tile.inner.shift([-a for a in tile.outer.start]).slices[self._run.tiles.leading :]

    def read(self, group: _Group) -> tuple[NDArray[np.float32], tuple[slice, ...]]:
        return self._run.inputs([self._run.read(t.outer) for t in group.tiles]), group.crop

    def compute(self, read: tuple[NDArray[np.float32], tuple[slice, ...]]) -> list[NDArray[Any]]:
        batch, crop = read
        run = self._run
        return run.backend.run(
            batch,
            run.tiles.level,
            band=self.work.band,
            crop=crop,
            counts=run.counts,
            crew=self.crew,
        )

    def collect(self, group: _Group, heads: list[NDArray[Any]]) -> Parts:
        parts: Parts = []
        for place, (tile, wanted) in enumerate(zip(group.tiles, group.wanted, strict=True)):
            if wanted:
                shape = (heads[0].shape[1], *tile.inner.shape)
                levels = zip(self._run.levels, heads, strict=True)
                parts.append((tile, {d: head[place].reshape(shape) for d, head in levels}))
        return parts


class _OverlapStages(_Stages):
    def __init__(self, run: Run, wanted: NDArray[np.bool_]) -> None:
        super().__init__(run, wanted)
        tiles = run.tiles
        assert isinstance(tiles.tiling, Overlap)
        in_plane = math.prod(map(len, tiles.patch_starts))
        self.passes = math.ceil(in_plane * math.prod(tiles.shape[: tiles.leading]) / run.batch)
        self._reader = PatchReader(tiles, run.read)
        self._sums = BandSums(tiles)

    def jobs(self) -> Iterator[PatchGroup]:
        tiles = self._run.tiles
        return patch_groups(tiles, (t for t in tiles if self._wanted[tiles.number(t.index)]), self._run.batch)

    def read(self, group: PatchGroup) -> NDArray[np.float32] | None:
        patches = self._reader.patches(group)
        return self._run.inputs(patches) if patches else None

    def compute(self, read: NDArray[np.float32] | None) -> list[NDArray[Any]]:
        if read is None:
            return []
        run = self._run
        return run.backend.run(read, run.tiles.level, band=self.work.band, crew=self.crew)

    def collect(self, group: PatchGroup, heads: list[NDArray[Any]]) -> Parts:
        complete = self._sums.add(group, heads)
        if complete is None:
            return []
        stored: list[NDArray[Any]] = [to_uint8(p) for p in complete] if self._run.counts else list(complete)
        return [(group.band, dict(zip(self._run.levels, stored, strict=True)))]
