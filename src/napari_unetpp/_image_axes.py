"""A lazy array with the axes of an image: permuted, and repeated along those that it lacks.

Predictions come in the order t z y x and without channels; an image has any order, and channels::

    image         z c y x      (3, 2, 64, 64)
    prediction    z   y x      (3,    64, 64)
    in its axes   z c y x      (3, 2, 64, 64)      the same labels for both channels
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_unetpp.box import ArrayLike


def in_image_axes(labels: ArrayLike, axes: str, image_axes: str, extents: Sequence[int]) -> LabelsInImageAxes:
    """Labels with axes `axes` as a lazy array with the axes of an image.

    Parameters
    ----------
    image_axes, extents
        Of the image's data and layer; what `image_axes` names beyond `extents` are RGB samples.
    """
    return LabelsInImageAxes(labels, axes, image_axes[: len(extents)], extents)


class LabelsInImageAxes:
    """A view that permutes axes and repeats those that the labels lack."""

    def __init__(self, labels: ArrayLike, axes: str, image_axes: str, extents: Sequence[int]) -> None:
        self._labels, self._axes, self._image_axes = labels, axes, image_axes
        self.shape = tuple(extents)
        self.ndim = len(self.shape)
        self.dtype = np.dtype(labels.dtype)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        keys = dict(zip(self._image_axes, one_key_per_axis(key, self.ndim), strict=True))
        voxels = np.asarray(self._labels[tuple(keys[axis] for axis in self._axes)])
        kept = [axis for axis in self._axes if isinstance(keys[axis], slice)]
        wanted = [axis for axis in self._image_axes if isinstance(keys[axis], slice)]
        voxels = voxels.transpose([kept.index(axis) for axis in wanted if axis in kept])
        for place, axis in enumerate(wanted):
            span = keys[axis]
            if axis not in kept and isinstance(span, slice):
                extent = self.shape[self._image_axes.index(axis)]
                repeats = len(range(*span.indices(extent)))
                shape = (*voxels.shape[:place], repeats, *voxels.shape[place:])
                voxels = np.broadcast_to(np.expand_dims(voxels, place), shape)
        return voxels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self[...], dtype=dtype)


def one_key_per_axis(key: Any, ndim: int) -> list[int | slice]:
    """An index as an integer or a slice for each axis.

    >>> one_key_per_axis((..., 1), 3)
    [slice(None, None, None), slice(None, None, None), 1]
    """
    keys = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys[at : at + 1] = [slice(None)] * (ndim - len(keys) + 1)
    if len(keys) > ndim:
        raise IndexError(f"{len(keys)} indices for {ndim} axes")
    keys += [slice(None)] * (ndim - len(keys))
    return [k if isinstance(k, slice) else operator.index(k) for k in keys]
