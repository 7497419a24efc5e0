"""Corrections as the data of a Labels layer: every stroke, undo and redo goes to the disk before it is seen.

A stroke that the disk refuses stays in memory, is seen like the others, and `failed` tells of it. The axes are those of the image:
permuted, and with channels the same labels for each, as in `_image_axes`. Knows neither Qt nor napari.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from napari_unetpp._image_axes import in_image_axes, one_key_per_axis
from napari_unetpp.box import Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_unetpp.training.corrections import Corrections


class PaintedLabels:
    """Labels that are written through; what is not on the disk is told by `failed` instead of raised into napari's mouse.

    Parameters
    ----------
    axes, extents
        Of the image's data and layer; what `axes` names beyond `extents` are RGB samples.
    """

    written = Signal(Box)
    """A box, in prediction axes, was painted; emitted in the thread that painted."""

    failed = Signal(OSError)
    """Why a stroke, or a part of one, is not on the disk but in memory alone; emitted after `written`."""

    def __init__(self, corrections: Corrections, axes: str, extents: Sequence[int]) -> None:
        self._corrections = corrections
        self._axes = axes[: len(extents)]
        self._view = in_image_axes(corrections.labels, corrections.axes, axes, extents)
        self.shape = tuple(extents)
        self.ndim = len(self.shape)
        self.dtype = np.dtype(np.uint8)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        places = self._places(key)
        if places is None:
            # napari paints into what it has read, so it must be nobody else's.
            return np.array(self._view[key])
        found = np.zeros(np.broadcast_shapes(*(p.shape for p in places)), np.uint8)
        for box, inside, chosen in self._planes(places):
            found[chosen] = np.asarray(self._corrections.labels[box.slices])[inside]
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        if not self._corrections.writable:
            why = "cannot save corrections: they are closed; open them again in the Correct dock"
            self.failed.emit(OSError(None, why, str(self._corrections.path)))
            return
        with self._corrections.writing:
            self._corrections.retry()  # the disk may have room again
            places = self._places(key)
            boxes = self._set_box(key, value) if places is None else self._set_places(places, value)
            fault = self._corrections.check()
        for box in boxes:
            self.written.emit(box)
        if fault is not None:
            self.failed.emit(fault)

    def _set_box(self, key: Any, value: Any) -> list[Box]:
        keys = one_key_per_axis(key, self.ndim)
        spans = {}
        for axis, part, extent in zip(self._axes, keys, self.shape, strict=True):
            if isinstance(part, slice):
                start, stop, step = part.indices(extent)
                if step != 1:
                    raise IndexError(f"labels cannot be painted in steps of {step}")
                spans[axis] = (start, max(start, stop))
            else:
                spans[axis] = (part % extent, part % extent + 1)
        kept = [axis for axis, part in zip(self._axes, keys, strict=True) if isinstance(part, slice)]
        values = np.broadcast_to(value, [spans[axis][1] - spans[axis][0] for axis in kept])
        if values.size == 0:
            return []
        if "c" in kept:  # the same for all channels
            values = values.take(-1, axis=kept.index("c"))
            kept.remove("c")
        order = [axis for axis in self._corrections.axes if axis in kept]
        values = values.transpose([kept.index(axis) for axis in order])
        box = Box(*zip(*(spans[axis] for axis in self._corrections.axes), strict=True))
        self._corrections.labels[box.slices] = values.reshape(box.shape).astype(np.uint8)
        return [box]

    def _set_places(self, places: list[NDArray[np.intp]], value: Any) -> list[Box]:
        shape = np.broadcast_shapes(*(p.shape for p in places))
        values, boxes = np.broadcast_to(value, shape), []
        for box, inside, chosen in self._planes(places):
            # A whole box: zarr is slow with single voxels.
            voxels = np.array(self._corrections.labels[box.slices])
            voxels[inside] = values[chosen]
            self._corrections.labels[box.slices] = voxels
            boxes.append(box)
        return boxes

    def _places(self, key: Any) -> list[NDArray[np.intp]] | None:
        """Indices per axis of the image, where the key holds arrays of them and no slices."""
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) != self.ndim or not any(isinstance(p, np.ndarray | list | tuple) for p in parts):
            return None
        if any(isinstance(p, slice) or p is Ellipsis for p in parts):
            return None
        return [np.asarray(p, np.intp) % n for p, n in zip(parts, self.shape, strict=True)]

    def _planes(self, places: list[NDArray[np.intp]]) -> list[tuple[Box, tuple[NDArray[np.intp], ...], Any]]:
        """Per plane: the box around its voxels, where in it they are, and which of the places they were."""
        of_axis = dict(zip(self._axes, np.broadcast_arrays(*places), strict=True))
        wanted = [of_axis[axis] for axis in self._corrections.axes]
        if wanted[0].size == 0:
            return []
        leading, found = wanted[:-2], []
        number = np.zeros(wanted[0].shape, np.intp)  # of the plane of each place
        for at, extent in zip(leading, self._corrections.shape, strict=False):
            number = number * extent + at
        one = number.min() == number.max()
        for plane in [number.flat[0]] if one else np.unique(number):
            chosen: Any = ... if one else number == plane
            of_plane = [p[chosen] for p in wanted]
            start = tuple(int(p.min()) for p in of_plane)
            box = Box(start, tuple(int(p.max()) + 1 for p in of_plane))
            inside = tuple(p - a for p, a in zip(of_plane, start, strict=True))
            found.append((box, inside, chosen))
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("labels on the disk cannot be had without a copy")
        return np.asarray(self[...], dtype)

    def __deepcopy__(self, memo: Any) -> NDArray[np.uint8]:
        """What a duplicate of the layer gets: labels in memory that are nobody's corrections."""
        return self[...]
