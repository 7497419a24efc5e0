"""A pass over an image that holds a few bands of rows instead of whole maps.

Decides, in this order: how the steps of `schedule.py` are carried out (`stream`), how rows of a map
are kept and found again (`_Map`), and how the input of a convolution is gathered (`_Gathering`). The
logits are those of one pass over the whole image.

A map of one image with its channels last is a matrix of voxels by channels, and some of its rows
are a block of that matrix. So gathering is copying blocks, into one buffer that is kept: memory
taken anew for each convolution would cost more in page faults than the copying.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from concurrent.futures import wait
from operator import itemgetter
from typing import TYPE_CHECKING

import torch

from napari_unetpp.inference.crew import ALONE, Turns
from napari_unetpp.inference.joining import Buffer, place
from napari_unetpp.inference.schedule import FIRST, HEAD, SECOND, Rows, schedule, up_reach

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from napari_unetpp.inference.crew import Crew
    from napari_unetpp.inference.kernels import Layers, Unit
    from napari_unetpp.inference.schedule import Step


def stream(
    layers: Layers, image: Tensor, level: int, band: int, crew: Crew = ALONE
) -> Iterator[tuple[int, int, Tensor]]:
    """(level, first row, logits) of every head, in pieces of about `band` rows, as they come.

    Parameters
    ----------
    image
        (1, channel, [z,] y, x) float32, its extent a multiple of the grid.
    band
        Rows of the first spatial axis that enter at once, a multiple of ``2**level``.
    crew
        Who helps; pieces come in another order then, and are the same.
    """
    if len(image) != 1:
        raise ValueError(f"a batch of {len(image)} images; one at a time goes band by band")
    running = _Pass(layers, image, level, band, crew.hands)
    helpers = crew.help(running.step, lambda: running.turns.over)
    try:
        while running.step():
            yield from running.given()
        for helper in helpers:
            helper.result()
        yield from running.given()
    finally:
        running.turns.end()
        wait(helpers)
        running.release()


class _Pass:
    """One pass: what is there of every map, and what is to be done; several threads may call `step`."""

    def __init__(self, layers: Layers, image: Tensor, level: int, band: int, hands: int) -> None:
        self._layers, self._image = layers, image
        nodes = [node for node in layers.spec.nodes if sum(node) <= level]
        self._maps = {Rows(*node, part): _Map() for node in nodes for part in (FIRST, SECOND)}
        self._steps = schedule(layers.spec, level, image.shape[2], band)
        self._heads: deque[tuple[int, int, Tensor]] = deque()
        self._mine = threading.local()
        self.turns = Turns(self._steps, hands, self._forget)

    def step(self) -> bool:
        """Do one step; False where there is none left."""
        number = self.turns.take()
        if number is None:
            return False
        step = self._steps[number]
        try:
            y = _Gathering(self._layers, self._maps, self._image, step, self._buffer()).convolved()
        except BaseException as error:
            self.turns.end(error)
            raise
        self.turns.finish(number, lambda: self._keep(step, y))
        return True

    def given(self) -> Iterator[tuple[int, int, Tensor]]:
        """Logits that are there by now, each once."""
        while self._heads:
            yield self._heads.popleft()

    def release(self) -> None:
        """Give up all memory now: what `turns` calls back would keep it until Python looks for cycles."""
        self._maps.clear()
        self._heads.clear()
        self._mine = threading.local()

    def _keep(self, step: Step, y: Tensor) -> None:
        if step.rows.part == HEAD:
            self._heads.append((step.rows.j, step.start, y))
        else:
            self._maps[step.rows].put(step.start, y)

    def _forget(self, step: Step) -> None:
        for rows, below in step.frees:
            self._maps[rows].forget(below)

    def _buffer(self) -> Buffer:
        if not hasattr(self._mine, "buffer"):
            self._mine.buffer = Buffer()
        buffer: Buffer = self._mine.buffer
        return buffer


class _Map:
    """Rows of one map, in the pieces in which they were computed, each with its first row.

    Who writes takes turns; who reads meanwhile has the pieces that were there when it began.
    """

    def __init__(self) -> None:
        self._pieces: tuple[tuple[int, Tensor], ...] = ()

    def put(self, start: int, rows: Tensor) -> None:
        self._pieces = tuple(sorted([*self._pieces, (start, rows)], key=itemgetter(0)))

    def forget(self, below: int) -> None:
        """Drop the pieces that end at row `below` or before."""
        self._pieces = tuple(piece for piece in self._pieces if piece[0] + piece[1].shape[2] > below)

    def pieces(self, start: int, stop: int) -> list[Tensor]:
        """Views of rows `start` to `stop`, one a piece."""
        return [
            rows[:, :, max(start - at, 0) : stop - at]
            for at, rows in self._pieces
            if at < stop and at + rows.shape[2] > start
        ]

    def rows(self, start: int, stop: int) -> Tensor:
        found = self.pieces(start, stop)
        return found[0] if len(found) == 1 else torch.cat(found, dim=2)


class _Gathering:
    """The input of one step, from wherever its rows are."""

    def __init__(self, layers: Layers, maps: dict[Rows, _Map], image: Tensor, step: Step, buffer: Buffer) -> None:
        self.layers, self.maps, self.image, self.rows, self.buffer = layers, maps, image, step.rows, buffer
        i, j, part = step.rows
        self.unit: Unit = layers.head(j) if part == HEAD else layers.node(i, j)[part]
        self.height = image.shape[2] >> i
        # The rows that the convolution looks at, and those of them that the image has.
        self.start, self.stop = step.start - self.unit.reach, step.stop + self.unit.reach
        self.low, self.high = max(self.start, 0), min(self.stop, self.height)

    def convolved(self) -> Tensor:
        sources = self._sources()
        whole = self.start < 0 and self.stop > self.height  # then the convolution pads by itself
        if whole or not self.unit.reach:
            self.start, self.stop = self.low, self.high
        return self.unit(self._joined(sources), context=bool(self.unit.reach) and not whole)

    def _sources(self) -> list[list[Tensor]]:
        """Pieces of rows `low` to `high`, one list for each input of a concatenation."""
        (i, j, part), low, high = self.rows, self.low, self.high
        spec = self.layers.spec
        if part != FIRST:
            return [self.maps[Rows(i, j, part - 1)].pieces(low, high)]
        if j == 0:
            if i == 0:
                return [[self.layers.enter(self.image[:, :, low:high])]]
            return [[self.layers.pool(i - 1, self.maps[Rows(i - 1, 0, SECOND)].rows(2 * low, 2 * high))]]
        skips = [self.maps[Rows(*node, SECOND)].pieces(low, high) for node in spec.same_row(i, j)]
        up = [self._up(i, j, low, high)]
        return [up, *skips] if spec.concatenation == "up-first" else [*skips, up]

    def _up(self, i: int, j: int, low: int, high: int) -> Tensor:
        """Rows `low` to `high` of the up-sampled map, from the rows of it that they look at."""
        reach = up_reach(self.layers.spec)
        first = max(low // 2 - reach, 0)
        last = min(-(-high // 2) + reach, self.height // 2)
        up = self.layers.up(i, j, self.maps[Rows(i + 1, j - 1, SECOND)].rows(first, last))
        return up[:, :, low - 2 * first : high - 2 * first]

    def _joined(self, sources: list[list[Tensor]]) -> Tensor:
        """The pieces side by side along the channels, and zeros in the rows beyond the image."""
        before, like = self.unit.before, sources[0][0]
        inside = (self.start, self.stop) == (self.low, self.high)
        if inside and len(sources) == 1 == len(sources[0]):
            return like if before is None else before(like)
        across = like.shape[3:]
        row = math.prod(across)
        channels = sum(pieces[0].shape[1] for pieces in sources)
        height = self.stop - self.start
        matrix = self.buffer.matrix(height * row, channels, like)
        top, bottom = (self.low - self.start) * row, (self.high - self.start) * row
        place(sources, matrix[top:bottom])
        joined = matrix.view(1, height, *across, channels).movedim(-1, 1)
        if before is not None:
            joined = before(joined)
        if not inside:
            joined[:, :, : self.low - self.start] = 0
            joined[:, :, self.high - self.start :] = 0
        return joined
