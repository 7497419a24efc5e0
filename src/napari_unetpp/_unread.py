"""A part of an array that is not read before numpy asks for it.

napari takes a slice of a multiscale layer in two steps: first what is on the screen of *all* slices,
then the one slice. Indexing a zarr array reads, so the first step alone would read a whole stack.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp._image_axes import one_key_per_axis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_unetpp.box import ArrayLike


class Unread:
    """A view that indices (integers, slices of any step, an ellipsis) make smaller without reading.

    >>> whole = Unread(np.arange(60).reshape(3, 4, 5))
    >>> whole[:, 1:3, ::-2][2].shape
    (2, 3)
    >>> np.asarray(whole[:, 1:3, ::-2][2])
    array([[49, 47, 45],
           [54, 52, 50]])
    """

    def __init__(self, array: ArrayLike, places: Sequence[range | int] | None = None) -> None:
        self._array = array
        self._places = [range(extent) for extent in array.shape] if places is None else list(places)
        self.shape = tuple(len(place) for place in self._places if isinstance(place, range))
        self.ndim, self.size = len(self.shape), math.prod(self.shape)
        self.dtype = np.dtype(array.dtype)
        self.chunks = getattr(array, "chunks", None) if places is None else None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Unread:
        keys = iter(one_key_per_axis(key, self.ndim))
        return Unread(self._array, [p if isinstance(p, int) else p[next(keys)] for p in self._places])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        read: list[int | slice] = []
        turned: list[slice] = []
        for place in self._places:
            if isinstance(place, int):
                read.append(place)
                continue
            forwards = place if place.step > 0 else place[::-1]
            read.append(slice(forwards.start, max(forwards.start, forwards.stop), forwards.step))
            turned.append(slice(None, None, 1 if place.step > 0 else -1))
        voxels = np.asarray(self._array[tuple(read)])[tuple(turned)]
        return np.array(voxels, dtype=dtype, copy=copy) if copy is not None else np.asarray(voxels, dtype)
