"""Lazy views of an image: axes dropped, added or shortened, and each number changed, as parts are read.

stored      y  x  s     (20, 30, 4)      red, green, blue, alpha
view        y  x  s     (20, 30, 3)      the last sample is never shown
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp._image_axes import one_key_per_axis

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_unetpp.box import ArrayLike


class View:
    """An array whose axes and numbers are those of another one, changed while they are read.

    Parameters
    ----------
    axes
        For each axis of the view the axis of `array` that it shows, in increasing order; None is a new axis of
        extent 1. An axis of `array` that is not named is read at its first place.
    stop
        Extents of axes of `array` that are shown in part, from their beginning.
    change
        What becomes of the numbers that were read.
    samples
        Extent of an axis that `change` adds at the end; 0 where it adds none.

    >>> view = View(np.arange(24).reshape(1, 2, 3, 4), [1, 2, 3], stop={3: 3}, change=np.negative)
    >>> view.shape, view[1, :, 2].tolist()
    ((2, 3, 3), [-14, -18, -22])
    >>> View(np.arange(3), [None, 0])[:, 1:].tolist()
    [[1, 2]]
    """

    def __init__(
        self,
        array: ArrayLike,
        axes: Sequence[int | None] | None = None,
        *,
        stop: Mapping[int, int] | None = None,
        change: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
        dtype: Any = None,
        samples: int = 0,
    ) -> None:
        self._array, self._change, self._samples = array, change, samples
        self._axes = list(range(array.ndim)) if axes is None else list(axes)
        stops = [(stop or {}).get(axis, extent) for axis, extent in enumerate(array.shape)]
        shape = tuple(1 if axis is None else int(stops[axis]) for axis in self._axes)
        self.shape = (*shape, samples) if samples else shape
        self.ndim = len(self.shape)
        self.dtype = np.dtype(array.dtype if dtype is None else dtype)
        self.chunks = self._chunks(getattr(array, "chunks", None))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        keys = one_key_per_axis(key, self.ndim)
        read: list[int | slice] = [0] * self._array.ndim
        turned, added = [], []
        place = 0  # in the array that is read, once integers have removed their axes
        for axis, extent, wanted in zip(self._axes, self.shape, keys, strict=False):
            places = range(extent)[wanted]
            if axis is None:
                if isinstance(places, range):
                    added.append((place, len(places)))
                    turned.append(slice(None))
                    place += 1
                continue
            if isinstance(places, int):
                read[axis] = places
                continue
            forwards = places if places.step > 0 else places[::-1]
            read[axis] = slice(forwards.start, max(forwards.start, forwards.stop), forwards.step)
            turned.append(slice(None, None, 1 if places.step > 0 else -1))
            place += 1
        voxels: NDArray[Any] = np.asarray(self._array[tuple(read)])
        for place, count in added:
            voxels = np.expand_dims(voxels, place).repeat(count, axis=place)
        seen: NDArray[Any] = voxels[tuple(turned)]
        if self._change is not None:
            seen = self._change(seen)
        if self._samples:
            seen = seen[(..., keys[-1])]
        return seen

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self[...], dtype=dtype)

    def _chunks(self, stored: Sequence[int | tuple[int, ...]] | None) -> tuple[int | tuple[int, ...], ...] | None:
        if not stored:
            return None
        chunks = tuple(1 if axis is None else stored[axis] for axis in self._axes)
        return (*chunks, self._samples) if self._samples else chunks


def inverted(array: ArrayLike, bits: int) -> View:
    """The array with white as its largest number; `bits` are those of a voxel as stored."""
    dtype = np.dtype(array.dtype).newbyteorder("=")

    def change(voxels: NDArray[Any]) -> NDArray[Any]:
        turned: NDArray[Any]
        if dtype.kind == "f":
            turned = np.negative(voxels)
        elif dtype.kind in "bi":
            turned = np.invert(voxels)  # -1 - v stays within the type
        else:
            turned = np.subtract(dtype.type(2**bits - 1), voxels, dtype=dtype)
        return turned

    return View(array, change=change, dtype=dtype)


def looked_up(array: ArrayLike, table: NDArray[Any]) -> ArrayLike:
    """Gray values (of a table of equal columns) or red, green and blue as a last axis; `table` has a row per number."""
    gray = bool((table == table[:, :1]).all())
    if gray and np.array_equal(table[:, 0], np.arange(len(table))):
        return array
    rows = table[:, 0] if gray else table
    samples = 0 if gray else table.shape[1]
    return View(array, change=lambda voxels: rows[voxels.astype(np.intp)], dtype=rows.dtype, samples=samples)
