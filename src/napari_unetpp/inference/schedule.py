"""In which order a network is computed band by band, so that no map is ever held whole.

Decides, in this order: what is computed at once (`Step`), the order of the steps of a whole image
(`schedule`), and how many bytes are held while they run (`peak_bytes`).

Every layer of the network looks at a few neighbouring rows only. So the image can enter from above
a band of rows at a time; each node follows as far as its inputs allow, and forgets the rows that no
node below or beside it will ask for again. Along the first spatial axis (y, or z in 3D) there is no
halo then, nothing is computed twice, and the result is that of one pass over the whole image::

    image  |########################|---band---|
    X00    |........######################|            held: from where X04 will read on
    X10    |............####|                          (in rows of its own resolution)
    X04    |###############|                           given away as soon as it is there

Rows are counted at a node's own resolution: row r of X^{i,j} lies over rows r * 2**i of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from napari_unetpp.inference.crew import steps_ahead

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_unetpp.model.spec import NetworkSpec


class Rows(NamedTuple):
    """Whose rows: the first (0) or the second (1) convolution of node (i, j), or its head (2)."""

    i: int
    j: int
    part: int


FIRST, SECOND, HEAD = 0, 1, 2
# A rest of so few rows is done with the band before it: a call for one row costs nearly a band.
_REST = 2


@dataclass(frozen=True, slots=True)
class Step:
    """Compute rows `start` to `stop` of `rows`.

    Parameters
    ----------
    needs
        Numbers of the earlier steps whose rows it looks at.
    frees
        Rows of others below these are done with, once this and all earlier steps are.
    """

    rows: Rows
    start: int
    stop: int
    needs: tuple[int, ...]
    frees: tuple[tuple[Rows, int], ...]


def up_reach(spec: NetworkSpec) -> int:
    """Rows beyond its own half that an up-sampled row looks at."""
    return 0 if spec.upsampling in ("nearest", "transposed2") else 1


def head_reach(spec: NetworkSpec) -> int:
    """Rows at either side that a head looks at."""
    return 0 if spec.head == "conv1" else 1


@lru_cache(maxsize=64)
def schedule(spec: NetworkSpec, level: int, height: int, band: int) -> tuple[Step, ...]:
    """Steps that compute the heads of L1..`level` of an image of `height` rows.

    Parameters
    ----------
    height
        A multiple of ``spec.grid``.
    band
        Rows of the image that enter at once, a multiple of ``2**level``.

    Raises
    ------
    ValueError
        Where a number is off the grid, or the network's rows depend on the extent of the image.
    """
    if not spec.streams:
        raise ValueError(
            f"{spec.size_dependence or 'rows that are not those of the plain grid'}; it cannot go band by band"
        )
    if height % spec.grid or band % 2**level or band < 1:
        raise ValueError(f"height {height} and band {band} are no multiples of {spec.grid} and {2**level}")
    return tuple(_Plan(spec, level, height, band).steps())


class _Plan:
    """How far every map has come, in rows; the whole state of the order of steps."""

    def __init__(self, spec: NetworkSpec, level: int, height: int, band: int) -> None:
        self.spec, self.height, self.band = spec, height, band
        self.heads = spec.heads_up_to(level)
        self.nodes = [node for node in spec.nodes if sum(node) <= level]
        self.order = [
            Rows(i, j, part)
            for i, j in self.nodes
            for part in ((FIRST, SECOND, HEAD) if i == 0 and j in self.heads and j > 0 else (FIRST, SECOND))
        ]
        self.stop = dict.fromkeys(self.order, 0)
        self.freed = dict.fromkeys(self.order, 0)
        self.pieces: dict[Rows, list[tuple[int, int, int]]] = {rows: [] for rows in self.order}

    def steps(self) -> Iterator[Step]:
        """Round after round, every map advances by at most a band."""
        number = 0
        while any(self.stop[rows] < self.extent(rows) for rows in self.order):
            for rows in self.order:
                start, stop = self.stop[rows], self.reachable(rows)
                if stop > start:
                    self.stop[rows] = stop
                    self.pieces[rows].append((start, stop, number))
                    number += 1
                    yield Step(rows, start, stop, tuple(self.needs(rows, start, stop)), tuple(self.frees(rows)))

    def extent(self, rows: Rows) -> int:
        """All rows that there will be."""
        return self.height >> rows.i

    def reachable(self, rows: Rows) -> int:
        """How far the rows can be computed in this round."""
        whole, now = self.extent(rows), self.stop[rows]
        reach = head_reach(self.spec) if rows.part == HEAD else 1
        there = min(self.there(source, rows.i) for source in self.sources(rows)) if rows != (0, 0, FIRST) else whole
        limit = whole if there == whole else max(now, there - reach)
        step = self.band >> rows.i
        return limit if limit == whole and whole - now <= step + _REST else min(limit, now + step)

    def sources(self, rows: Rows) -> list[Rows]:
        i, j, part = rows
        if part != FIRST:
            return [Rows(i, j, part - 1)]
        if j == 0:
            return [Rows(i - 1, 0, SECOND)] if i else []
        return [*(Rows(*node, SECOND) for node in self.spec.same_row(i, j)), Rows(i + 1, j - 1, SECOND)]

    def there(self, source: Rows, i: int) -> int:
        """Rows at resolution i that a source gives by now."""
        done, whole = self.stop[source], self.extent(source)
        if source.i > i:
            return 2 * (done if done == whole else max(0, done - up_reach(self.spec)))
        return done // 2 if source.i < i else done

    def needs(self, rows: Rows, start: int, stop: int) -> Iterator[int]:
        """Steps that gave the rows which these look at."""
        for source in self.sources(rows):
            low, high = self.seen(rows, source, start, stop)
            for first, last, number in reversed(self.pieces[source]):
                if last <= low:
                    break
                if first < high:
                    yield number

    def seen(self, rows: Rows, source: Rows, start: int, stop: int) -> tuple[int, int]:
        """Rows of a source that rows `start` to `stop` look at; they may lie beyond the image."""
        reach = head_reach(self.spec) if rows.part == HEAD else 1
        low, high = start - reach, stop + reach
        if source.i > rows.i:
            return low // 2 - up_reach(self.spec), -(-high // 2) + up_reach(self.spec)
        return (2 * low, 2 * high) if source.i < rows.i else (low, high)

    def frees(self, changed: Rows) -> Iterator[tuple[Rows, int]]:
        """Sources of what was just computed that have rows which nobody will read again."""
        for source in self.sources(changed):
            below = min(self.needed(reader, source) for reader in self.order if source in self.sources(reader))
            if below > self.freed[source]:
                self.freed[source] = below
                yield source, below

    def needed(self, reader: Rows, source: Rows) -> int:
        """First row of a source that a reader will still look at."""
        now = self.stop[reader]
        if now == self.extent(reader):
            return self.extent(source)
        return max(0, self.seen(reader, source, now, now)[0])


def peak_bytes(
    spec: NetworkSpec, level: int, extent: Sequence[int], band: int, *, item: int, batch: int = 1, hands: int = 1
) -> int:
    """About the most bytes that a pass holds beside the image and the result.

    Counted are the rows held, the input gathered for a convolution and its output; the libraries
    behind it take some more.

    Parameters
    ----------
    extent
        Spatial extent of the image; a `band` of all its rows is a pass over the whole.
    item
        Bytes of one element: 4 for fp32, 2 for bf16 and fp16, 1 for int8.
    hands
        Threads at the pass. Each gathers its own input, and none is far ahead of the others
        (`crew.steps_ahead`), so rows are held for so many steps more.
    """
    height, *across = (math.ceil(n / spec.grid) * spec.grid for n in extent)
    across_voxels = math.prod(across)
    # A short image has the same steps at its begin and end as a long one, and the same band between.
    short = 16 * 2**level + 4 * band
    height = min(height, math.ceil(short / spec.grid) * spec.grid)
    peak = held = largest = 0
    live: dict[Rows, list[int]] = {}

    def size(rows: Rows, count: int, channels: int) -> int:
        return batch * item * count * (across_voxels >> rows.i * len(across)) * channels

    steps = schedule(spec, level, height, min(band, height))
    later = steps_ahead(hands) - 1
    for number, step in enumerate(steps):
        rows, count = step.rows, step.stop - step.start
        gathered, output = size(rows, count + 2, _inputs(spec, rows)), size(rows, count, _channels(spec, rows))
        largest = max(largest, gathered + output)
        peak = max(peak, held + gathered + output)
        if rows.part != HEAD:
            live.setdefault(rows, [0, 0])[1] = step.stop
            held += output
        for freed, below in steps[number - later].frees if number >= later else ():
            held -= size(freed, below - live[freed][0], _channels(spec, freed))
            live[freed][0] = below
    return peak + (hands - 1) * largest


def _channels(spec: NetworkSpec, rows: Rows) -> int:
    return spec.classes if rows.part == HEAD else spec.node_width(rows.i, rows.j)


def _inputs(spec: NetworkSpec, rows: Rows) -> int:
    """Channels that are gathered for a convolution."""
    i, j, part = rows
    if part != FIRST:
        return spec.node_width(i, j)
    if j == 0:
        return spec.in_channels if i == 0 else spec.widths[i - 1]
    return spec.up_width(i, j) + sum(spec.node_width(*node) for node in spec.same_row(i, j))
