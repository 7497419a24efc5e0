"""Single frames, read one at a time, as one array; those that were read last are kept."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp._image_axes import one_key_per_axis

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

# Tiles beside each other read the same frames again: those of a volume's tile, where they are small enough.
_KEPT_BYTES = 2**28
_KEPT_AT_LEAST = 2


class Frames:
    """An array of which `read(index)` gives a frame; `outer` are the extents that the index counts.

    >>> frames = Frames((5,), (2, 3), np.dtype(int), lambda index: np.full((2, 3), index[0]))
    >>> frames.shape, frames[1:4, 0, ::2].tolist()
    ((5, 2, 3), [[1, 1], [2, 2], [3, 3]])
    """

    def __init__(
        self,
        outer: Sequence[int],
        frame: Sequence[int],
        dtype: np.dtype[Any],
        read: Callable[[tuple[int, ...]], NDArray[Any]],
    ) -> None:
        self._outer, self._frame = tuple(outer), tuple(frame)
        self.shape, self.dtype = (*self._outer, *self._frame), dtype
        self.ndim = len(self.shape)
        self.chunks = (*[1] * len(self._outer), *self._frame)
        size = max(1, math.prod(self._frame) * dtype.itemsize)
        self._read = functools.lru_cache(maxsize=max(_KEPT_AT_LEAST, _KEPT_BYTES // size))(read)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        keys = one_key_per_axis(key, self.ndim)
        count = len(self._outer)
        places = [range(n)[k] for n, k in zip(self._outer, keys[:count], strict=True)]
        spans = [place if isinstance(place, range) else (place,) for place in places]
        inner = tuple(keys[count:])
        shape = np.broadcast_to(np.empty((), self.dtype), self._frame)[inner].shape
        voxels = np.empty((*map(len, spans), *shape), self.dtype)
        for at in itertools.product(*(range(len(span)) for span in spans)):
            voxels[at] = self._read(tuple(span[i] for span, i in zip(spans, at, strict=True)))[inner]
        return voxels[tuple(slice(None) if isinstance(place, range) else 0 for place in places)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self[...], dtype=dtype)

    def forget(self) -> None:
        """Drop the frames that are kept."""
        self._read.cache_clear()
