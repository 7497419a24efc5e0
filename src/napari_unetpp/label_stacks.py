"""Labels of an image, in whatever lossless form somebody has saved them: integers without a channel axis, read lazily.

`open_labels` opens a file, `as_labels` takes a stack that is open. What cannot be read as labels without a loss is refused where it
is read, and the message names the place.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp._image_axes import one_key_per_axis
from napari_unetpp.box import Box, read_box
from napari_unetpp.label_sides import check_sides
from napari_unetpp.label_values import MOST_VALUES, LabelMap, blocks_of, find_values, unknown_value
from napari_unetpp.stacks import Stack, open_stack

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

# Largest number up to which a float of that many bytes tells every whole number from the next.
_EXACT = {2: 2**11, 4: 2**24, 8: 2**53}
_LARGEST = 2**63 - 1  # what all later arithmetic on labels, in int64, can hold


def open_labels(
    source: str | os.PathLike[str],
    *,
    axes: str | None = None,
    values: LabelMap | None = None,
    image: Stack | None = None,
) -> Stack:
    """The labels of a file, as `as_labels` gives them; closing them closes the file.

    Parameters
    ----------
    image
        The image that they are the labels of; None where the file may be anything.

    Raises
    ------
    ValueError
        Where the file is a JPEG, or not labels, or the labels were named as the image.
    """
    path = Path(source)
    if _is_jpeg(path):
        raise ValueError(f"labels {path} are JPEG, whose compression changes label numbers; save them as PNG or TIFF")
    stack = open_stack(path, axes=axes, labels=True)
    try:
        if image is not None:
            check_sides(image, stack)
        return as_labels(stack, values)
    except BaseException:
        stack.close()
        raise


def as_labels(stack: Stack, values: LabelMap | None = None) -> Stack:
    """The same labels as integers without a channel axis; `notes` say what is taken for what.

    Integers stay as they are. Bool becomes 0 and 1. Whole numbers in floats become integers. Equal channels become one. Every
    part is checked when it is read. Numbers below 0 are kept: they mean "not annotated".

    Parameters
    ----------
    values
        Which numbers or colours of the file stand for label 0, 1, 2..; None takes the numbers as they are.

    Raises
    ------
    ValueError
        Where the data are no labels; while they are read, where a number is not whole, too large for its type, or none of
        `values`, or channels differ.
    """
    kind, notes = stack.dtype.kind, list(stack.notes)
    channels = stack.channel_axis
    if channels is not None and stack.channels not in (1, 3, 4):
        raise ValueError(
            f"labels {stack.name} have axes {stack.axes} and {stack.channels} channels; labels have one channel. "
            "Save the channel with the labels alone"
        )
    if values is not None and values.colours and (channels is None or stack.channels == 1):
        raise ValueError(f"labels {stack.name} have one channel, so their values are numbers and not colours")
    if channels is None and kind in "bi" and values is None:
        return stack
    if channels is None and kind == "u" and stack.dtype.itemsize < 8 and values is None:
        return stack
    view = _LabelView(stack, values)
    if values is not None:
        notes.append(f"the values {values} are labels 0 to {len(values.values) - 1}")
    elif channels is not None and stack.channels > 1:
        alpha = "; alpha is left out" if stack.channels == 4 else ""
        notes.append(f"{stack.channels} channels are read as one; red, green and blue must be equal{alpha}")
    if kind == "f":
        notes.append(f"{stack.dtype} is read as integers; all numbers must be whole")
    kept = [k for k, axis in enumerate(stack.axes) if axis != "c"]
    return replace(
        stack,
        data=view,
        axes=stack.axes.replace("c", ""),
        spacing_um=tuple(stack.spacing_um[k] for k in kept),
        notes=tuple(notes),
        colours=None,
    )


def check_labels(labels: Stack, classes: int = 1, ignore_zero: bool = False) -> int:
    """Number of voxels below 0, not annotated; labels that may be wrong are read once, in parts, before any work is done.

    Parameters
    ----------
    classes
        Of a model; with 2 and more a label beyond them is refused. With 1 every label will do.
    ignore_zero
        Whether 0 is not annotated and 1 the background.

    Raises
    ------
    ValueError
        As `as_labels` when read, and where a label is no class.
    """
    below = 0
    if classes == 1 and not isinstance(labels.data, _LabelView) and labels.dtype.kind != "i":
        return below
    for box in blocks_of(Box.of(labels.shape)):
        found = read_box(labels.data, box)
        highest = int(found.max(initial=0))
        below += int((found < 0).sum())
        if classes > 1 and highest - ignore_zero >= classes:
            raise ValueError(unknown_value(labels.name, highest, labels.data, classes, ignore_zero))
    return below


def shape_hint(image: tuple[int, ...], labels: tuple[int, ...], axes: str) -> str:
    """What may be wrong where an image and its labels have different shapes, as the end of a sentence; empty if nothing is known.

    >>> shape_hint((8, 64, 32), (8, 32, 64), "zyx")
    '; with --label-axes zxy they fit'
    >>> shape_hint((64, 32), (64, 33), "yx")
    ''
    """
    if len(image) != len(labels) or len(axes) != len(labels):
        return ""
    sizes = dict(zip(axes, image, strict=True))
    fitting = [p for p in permutations(axes) if tuple(sizes[axis] for axis in p) == labels]
    return f"; with --label-axes {''.join(fitting[0])} they fit" if len(fitting) == 1 else ""


def _is_jpeg(path: Path) -> bool:
    """Whether a path is a JPEG, or a folder or pattern of such files."""
    if path.is_file():
        with path.open("rb") as file:
            return file.read(3) == b"\xff\xd8\xff"
    endings = (".jpg", ".jpeg")
    return path.suffix.lower() in endings or (
        path.is_dir() and any(p.suffix.lower() in endings for p in path.iterdir())
    )


class _LabelView:
    """Integers out of a stack's data, converted and checked where they are sliced; without its channel axis.

    `packed` gives every colour as a number instead, 0xRRGGBB, to count the colours.
    """

    def __init__(self, stack: Stack, values: LabelMap | None, packed: bool = False) -> None:
        self._stack, self._data, self._channels = stack, stack.data, stack.channel_axis
        self._values, self._packed = values, packed
        self._axes = stack.axes.replace("c", "")
        self.shape = tuple(n for k, n in enumerate(stack.shape) if k != self._channels)
        self.ndim = len(self.shape)
        self.dtype = np.dtype(np.int64) if packed else _dtype(stack.dtype) if values is None else np.dtype(np.int16)

    @property
    def chunks(self) -> Any:
        chunks = getattr(self._data, "chunks", None)
        return chunks and tuple(n for k, n in enumerate(chunks) if k != self._channels)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        keys = one_key_per_axis(key, self.ndim)
        if self._channels is None:
            return self._checked(np.asarray(self._data[tuple(keys)]), keys)
        keys_all = list(keys)
        keys_all.insert(self._channels, slice(None))
        voxels = np.asarray(self._data[tuple(keys_all)])
        at = sum(isinstance(k, slice) for k in keys_all[: self._channels])
        voxels = np.moveaxis(voxels, at, 0)
        if self._packed:
            return pack_colours(voxels)
        if self._values is not None and self._values.colours:
            return self._checked(pack_colours(voxels), keys)
        different = (voxels[1:3] != voxels[0]).any(axis=0)
        if different.any():
            where = _first(different)
            raise self._colours([int(channel[where]) for channel in voxels[:3]], self._place(keys, where))
        return self._checked(voxels[0], keys)

    def _checked(self, voxels: NDArray[Any], keys: list[int | slice]) -> NDArray[Any]:
        """Integers of the same values, or of the labels that the values stand for."""
        kind = voxels.dtype.kind
        if kind == "f":
            wrong = ~(np.isfinite(voxels) & (voxels == np.floor(voxels)))
            self._refuse(wrong, voxels, keys, "labels are whole numbers; if this is the image, exchange the two")
            most = _EXACT[voxels.dtype.itemsize]
            beyond = np.abs(voxels) > most
            self._refuse(beyond, voxels, keys, f"{voxels.dtype} is exact up to {most} only; save labels as integers")
            voxels = voxels.astype(np.int64)
        elif kind == "u" and voxels.dtype.itemsize == 8:
            self._refuse(voxels > _LARGEST, voxels, keys, f"labels up to {_LARGEST} can be read; number them anew")
        if self._values is None:
            return voxels.astype(self.dtype, copy=False)
        labels, unknown = self._values.apply(voxels.astype(np.int64, copy=False))
        if unknown.any():
            where = _first(unknown)
            found = self._values.text(int(voxels[where]))
            raise ValueError(
                f"labels {self._stack.name} hold {found} at {self._place(keys, where)}, which is none of the given values "
                f"{self._values}; name every value in the order of the labels 0, 1, 2"
            )
        return labels.astype(self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self[...], dtype=dtype)

    def _refuse(self, wrong: NDArray[np.bool_], voxels: NDArray[Any], keys: list[int | slice], why: str) -> None:
        if wrong.any():
            where = _first(wrong)
            place = self._place(keys, where)
            raise ValueError(f"labels {self._stack.name} hold {voxels[where]} at {place}; {why}")

    def _colours(self, colour: list[int], place: str) -> ValueError:
        """That these are colours, which were found, and what to do with them."""
        head = f"labels {self._stack.name} are colours: red, green, blue are {', '.join(map(str, colour))} at {place}"
        if self._data.dtype.itemsize > 1:
            return ValueError(f"{head}; save label numbers in one channel")
        found = find_values(_LabelView(self._stack, None, packed=True))
        if found.many:
            return ValueError(f"{head}, and there are over {MOST_VALUES} colours; name label numbers, not a picture")
        as_map = LabelMap(tuple(found.values), colours=True)
        return ValueError(
            f"{head}. Found: {as_map}. Give the colours of labels 0, 1, 2 in this order, as --label-values '{as_map}', or save "
            "label numbers in one channel"
        )

    def _place(self, keys: list[int | slice], where: tuple[int, ...]) -> str:
        """The place of a voxel of what was read, such as ``z 3, y 0, x 17``."""
        inside = iter(where)
        places = []
        for axis, key, extent in zip(self._axes, keys, self.shape, strict=True):
            at = range(extent)[key]
            places.append(f"{axis} {at[next(inside)] if isinstance(at, range) else at}")
        return ", ".join(places)


def pack_colours(voxels: NDArray[Any]) -> NDArray[np.int64]:
    """One number, 0xRRGGBB, out of the channels (first axis) of 8-bit colours."""
    packed: NDArray[np.int64] = np.zeros(voxels.shape[1:], np.int64)
    for channel in voxels[:3]:
        packed = (packed << 8) | channel
    return packed


def _dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind != "f":
        return dtype
    return np.dtype(np.int64 if dtype.itemsize == 8 else np.int32)


def _first(found: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(map(int, np.unravel_index(int(np.argmax(found)), found.shape)))
