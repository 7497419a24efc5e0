"""Maps joined along their channels, into memory that is kept.

Decides, in this order: where the joined map lies (`Buffer`), how maps of one extent become one
(`side_by_side`), and pieces of maps (`place`).

A map with its channels last is a matrix of voxels by channels, and some of its rows are a block of
that matrix. So joining is copying blocks. Memory taken anew for each would cost more in page faults
than the copying, and torch copies bytes one by one but floats many at a time: four counts go as one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


class Buffer:
    """Memory that is taken once and lent to one joined map after the other; for one thread."""

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def matrix(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """Uninitialised (rows, columns), valid until the next one is asked for."""
        if self._memory is None or self._memory.numel() < rows * columns or self._memory.dtype != like.dtype:
            self._memory = None  # before the new one is there
            self._memory = like.new_empty(rows * columns)
        return self._memory[: rows * columns].view(rows, columns)


def side_by_side(maps: list[Tensor], buffer: Buffer | None = None) -> Tensor:
    """Maps (batch, channel, [z,] y, x) of one extent as one, their channels one after the other.

    Parameters
    ----------
    buffer
        Where to; None takes new memory.
    """
    if buffer is None:
        return torch.cat(maps, dim=1)
    batch, _, *extent = maps[0].shape
    channels = sum(m.shape[1] for m in maps)
    matrix = buffer.matrix(batch * math.prod(extent), channels, maps[0])
    place([[m] for m in maps], matrix)
    return matrix.view(batch, *extent, channels).movedim(-1, 1)


def place(sources: list[list[Tensor]], matrix: Tensor) -> None:
    """Copy pieces of rows into a matrix (voxels, channels of all sources)."""
    blocks = [[piece.movedim(1, -1).reshape(-1, piece.shape[1]).contiguous() for piece in pieces] for pieces in sources]
    if not any(pieces[0].shape[-1] % 4 for pieces in blocks):
        blocks, matrix = [[as_floats(block) for block in pieces] for pieces in blocks], as_floats(matrix)
    ends = sorted({end for pieces in blocks for end in _ends(pieces)})
    start = 0
    for end in ends:
        torch.cat([_block(pieces, start, end) for pieces in blocks], dim=1, out=matrix[start:end])
        start = end


def _ends(blocks: list[Tensor]) -> list[int]:
    ends, at = [], 0
    for block in blocks:
        at += len(block)
        ends.append(at)
    return ends


def _block(blocks: list[Tensor], start: int, end: int) -> Tensor:
    """Rows `start` to `end`, which lie in one of the blocks."""
    for block in blocks:
        if end <= len(block):
            return block[start:end]
        start, end = start - len(block), end - len(block)
    raise AssertionError("unreachable")


def as_floats(counts: Tensor) -> Tensor:
    """The same bytes, four of the last axis in one float32; other types as they are."""
    return counts.view(torch.float32) if counts.dtype is torch.uint8 else counts
