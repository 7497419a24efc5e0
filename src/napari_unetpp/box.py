"""Half-open boxes of voxels, and reading one from an array.

Decides, in this order: what a box is and how boxes combine (`Box`), which voxel stands for a place
past the border (`fold_indices`), and how a box that may reach past the border is read without
touching more of the array than it needs (`read_box`).

    fold:    4 3 2 1 | 0 1 2 3 4 | 3 2 1 0 | 1 2 ...      the border voxel is not repeated
                     ^ array of extent 5 ^
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class ArrayLike(Protocol):
    """Anything that is sliced like an array: numpy, memmap, zarr, dask, a napari layer's data."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def ndim(self) -> int: ...
    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open n-D box of voxels; it may reach past the array, also to negative places.

    >>> inner = Box((0, 8), (4, 16))
    >>> inner.shape, inner.size
    ((4, 8), 32)
    >>> outer = inner.grow((2, 4))
    >>> outer
    Box(start=(-2, 4), stop=(6, 20))
    >>> outer.intersect(Box.of((5, 18)))
    Box(start=(0, 4), stop=(5, 18))
    >>> inner.inside(outer), outer.inside(inner)
    (True, False)
    >>> inner.shift((1, -8))
    Box(start=(1, 0), stop=(5, 8))

    Raises
    ------
    ValueError
        Where `start` and `stop` differ in length or a stop lies before its start.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        # numpy integers become int, so that a box is JSON-able and hashes alike from any source.
        object.__setattr__(self, "start", tuple(map(operator.index, self.start)))
        object.__setattr__(self, "stop", tuple(map(operator.index, self.stop)))
        if len(self.start) != len(self.stop):
            msg = f"box start {self.start} and stop {self.stop} differ in length"
            raise ValueError(msg)
        if any(a > b for a, b in zip(self.start, self.stop, strict=True)):
            msg = f"box stop {self.stop} lies before its start {self.start}; swap them"
            raise ValueError(msg)

    @classmethod
    def of(cls, shape: Sequence[int]) -> Box:
        """The box of a whole array of that shape.

        >>> Box.of((3, 5))
        Box(start=(0, 0), stop=(3, 5))
        """
        return cls((0,) * len(shape), tuple(shape))

    @property
    def ndim(self) -> int:
        return len(self.start)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Slices for indexing an array.

        >>> Box((0, 8), (4, 16)).slices
        (slice(0, 4, None), slice(8, 16, None))

        Raises
        ------
        ValueError
            Where the box starts before 0: Python would count from the far end, silently.
        """
        if any(a < 0 for a in self.start):
            msg = f"box start {self.start} lies before the array; use read_box, or intersect first"
            raise ValueError(msg)
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def grow(self, halo: Sequence[int]) -> Box:
        """The box with `halo[axis]` voxels more on both sides."""
        return Box(
            tuple(a - h for a, h in zip(self.start, halo, strict=True)),
            tuple(b + h for b, h in zip(self.stop, halo, strict=True)),
        )

    def shift(self, offset: Sequence[int]) -> Box:
        return Box(
            tuple(a + o for a, o in zip(self.start, offset, strict=True)),
            tuple(b + o for b, o in zip(self.stop, offset, strict=True)),
        )

    def intersect(self, other: Box) -> Box:
        """What both boxes hold; a box of size 0 where they share nothing."""
        start = tuple(map(max, zip(self.start, other.start, strict=True)))
        stop = map(min, zip(self.stop, other.stop, strict=True))
        return Box(start, tuple(map(max, zip(start, stop, strict=True))))

    def inside(self, other: Box) -> bool:
        """Whether `other` holds every voxel of this box (an empty box is inside any)."""
        return self.size == 0 or (
            all(a >= b for a, b in zip(self.start, other.start, strict=True))
            and all(a <= b for a, b in zip(self.stop, other.stop, strict=True))
        )


def fold_indices(start: int, stop: int, extent: int) -> NDArray[np.intp]:
    """Indices into an axis for the places `start..stop-1`, mirrored at both borders.

    The border voxel is not repeated (numpy's "reflect"); any distance folds back and forth.

    >>> fold_indices(-3, 6, 4).tolist()
    [3, 2, 1, 0, 1, 2, 3, 2, 1]
    >>> fold_indices(-2, 3, 1).tolist()
    [0, 0, 0, 0, 0]

    Raises
    ------
    ValueError
        Where the extent is 0: there is nothing to mirror.
    """
    if extent < 1:
        msg = f"cannot mirror an axis of extent {extent}; the array needs at least one voxel"
        raise ValueError(msg)
    places = np.arange(start, stop, dtype=np.intp)
    if start >= 0 and stop <= extent:
        return places
    if extent == 1:
        return np.zeros_like(places)
    folded = places % (2 * (extent - 1))
    return np.minimum(folded, 2 * (extent - 1) - folded)


def read_box(array: ArrayLike, box: Box) -> NDArray[Any]:
    """The voxels of `box` as numpy of `box.shape`, mirrored where it reaches past the border.

    Only the smallest slab of `array` that holds them is read. Where the box lies inside a numpy
    array the result is a view of it, so copy before writing.

    >>> read_box(np.arange(5), Box((-2,), (7,))).tolist()
    [2, 1, 0, 1, 2, 3, 4, 3, 2]

    Raises
    ------
    ValueError
        Where box and array differ in their number of axes, or an axis of the array is empty.
    """
    if box.ndim != array.ndim:
        msg = f"a box of {box.ndim} axes cannot be read from an array of shape {array.shape}"
        raise ValueError(msg)
    if box.size == 0:
        return np.empty(box.shape, array.dtype)
    if box.inside(Box.of(array.shape)):
        return np.asarray(array[box.slices])
    folds = [fold_indices(a, b, extent) for a, b, extent in zip(box.start, box.stop, array.shape, strict=True)]
    # Mirroring moves one voxel at a time, so the folded places are a range without gaps.
    slab = Box(tuple(int(f.min()) for f in folds), tuple(int(f.max()) + 1 for f in folds))
    voxels = np.asarray(array[slab.slices])
    for axis, (fold, first) in enumerate(zip(folds, slab.start, strict=True)):
        if len(fold) != voxels.shape[axis] or fold[0] > fold[-1]:
            voxels = voxels.take(fold - first, axis=axis)
    return voxels


def chunk_extent(array: ArrayLike, axis: int) -> int:
    """How many voxels along an axis an array stores together: 1 where it has no chunks.

    >>> chunk_extent(np.zeros((4, 4)), 0)
    1
    """
    chunks = getattr(array, "chunks", None)  # zarr, h5py: an int per axis; dask: a tuple per axis
    if not chunks:
        return 1
    extent = chunks[axis]
    return max(extent) if isinstance(extent, tuple) else int(extent)
