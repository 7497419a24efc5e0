"""Which NaN of a plane lie outside its picture: mosaics and aligned stacks are padded with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TILE = 16  # voxels: a hole that is a full rectangle of at least this edge is a missing tile


def nan_inside(nan: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which NaN (..., y, x) are holes in a picture.

    Outside are two or more NaN that are connected to the border of their plane, and full rectangles: missing tiles.

    >>> plane = np.zeros((5, 5), bool)
    >>> plane[0, :2] = plane[3, 3] = True
    >>> np.argwhere(nan_inside(plane)).tolist()
    [[3, 3]]
    """
    from scipy import ndimage

    inside = np.zeros(nan.shape, bool)
    for place in np.argwhere(nan.any(axis=(-2, -1))):
        plane = nan[tuple(place)]
        parts, _ = ndimage.label(plane, np.ones((3, 3)))
        border = set(np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])).tolist())
        for number, box in enumerate(ndimage.find_objects(parts), 1):
            edges = [s.stop - s.start for s in box]
            outside = max(edges) > 1 if number in border else min(edges) >= _TILE and plane[box].all()
            if not outside:
                inside[tuple(place)] |= parts == number
    return inside
