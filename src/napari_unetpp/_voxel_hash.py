"""A hash of every voxel of a stack, by which a run knows its images again."""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING

import numpy as np

from napari_unetpp.box import Box, chunk_extent

if TYPE_CHECKING:
    from napari_unetpp.stacks import Stack

_BYTES_AT_ONCE = 2**26


def stack_digest(stack: Stack) -> str:
    """Hash (sha256) of all voxels, the shape, the axes and the type of a stack, whatever its chunks and byte order.

    The stack is read once, along its chunks, 64 MiB at a time. Each plane of each channel has a hash of its own, fed row by row;
    the result is the hash of these.
    """
    *leading, height, width = stack.shape_predicted
    dtype = stack.dtype.newbyteorder("<")
    digest = hashlib.sha256(repr((stack.axes_predicted, stack.shape_predicted, stack.channels, dtype.str)).encode())
    deep = min(leading[-1], chunk_extent(stack.data, stack.axes.index("z"))) if "z" in stack.axes else 1
    row = width * stack.channels * dtype.itemsize
    deep = max(1, min(deep, _BYTES_AT_ONCE // row))
    rows = max(1, min(height, _BYTES_AT_ONCE // (row * deep)))
    tall = chunk_extent(stack.data, stack.axes.index("y"))
    if rows < height and rows > tall:
        rows = rows // tall * tall
    steps = [1] * len(leading)
    if "z" in stack.axes:
        steps[-1] = deep
    for start in itertools.product(*(range(0, n, step) for n, step in zip(leading, steps, strict=True))):
        stop = tuple(min(a + step, n) for a, step, n in zip(start, steps, leading, strict=True))
        planes = int(np.prod([b - a for a, b in zip(start, stop, strict=True)], dtype=int))
        hashes = [hashlib.sha256() for _ in range(planes * stack.channels)]
        for top in range(0, height, rows):
            voxels = stack.read(Box((*start, top, 0), (*stop, min(top + rows, height), width)))
            bands = np.moveaxis(voxels.reshape(stack.channels, planes, -1), 0, 1).reshape(len(hashes), -1)
            for one, band in zip(hashes, bands, strict=True):
                one.update(np.ascontiguousarray(band, dtype).data)
        for one in hashes:
            digest.update(one.digest())
    return digest.hexdigest()
