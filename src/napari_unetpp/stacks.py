"""Opening microscopy stacks lazily, and writing labels.

Decides what a stack is (`Stack`: a lazy array with named axes and spacing), how one is opened from
a file or an array (`open_stack`), whether its numbers can be predicted on (`check_finite`), and how
labels become a TIFF (`save_labels`). Axes are named by the file or the caller and never guessed
from a length of 3 or 4. `_formats` knows which reader opens which file; `_settled` decides what becomes of alpha, and
of axes that nobody names.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp._arrays import wrap_array
from napari_unetpp._formats import open_path
from napari_unetpp._image_axes import in_image_axes
from napari_unetpp._label_tiff import save_labels
from napari_unetpp._opened import close_nothing
from napari_unetpp._outside import nan_inside
from napari_unetpp._settled import settled
from napari_unetpp._views import View
from napari_unetpp.box import ArrayLike, Box, chunk_extent, read_box

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from napari_unetpp._opened import Opened

__all__ = ["Stack", "aligned", "check_finite", "open_stack", "save_labels"]

_AXES = "tczyx"
_PREDICTED = "tzyx"
_BYTES_AT_ONCE = 2**27  # what check_finite holds in memory


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """A lazy array whose axes have names and, where they are lengths, spacing.

    `axes` holds one letter per axis of `data`, out of "tczyx"; `spacing_um` one number per axis,
    None where it is unknown and for c and t. `notes` are sentences for the user about what was chosen
    or left out while the stack was opened, one choice each. `colours` tells whether the channels are red, green and
    blue (None: unknown), `interval_s` the seconds between the frames of a time series.
    Boxes are in prediction axes: those of `axes` except
    c, in the order t, z, y, x. Several threads may read at once. A stack closes its file on
    `close()` or at the end of a with statement.

    >>> stack = Stack(np.arange(24).reshape(2, 4, 3), "yxc", (0.5, 0.5, None), "rgb")
    >>> stack.axes_predicted, stack.shape_predicted, stack.channels
    ('yx', (2, 4), 3)
    >>> stack.read(Box((0, 0), (2, 2))).shape
    (3, 2, 2)

    Raises
    ------
    ValueError
        Where axes, spacing and data do not fit together, the data are empty, or of a type that is
        no image (complex, object, structured, dates).
    """

    data: ArrayLike
    axes: str
    spacing_um: tuple[float | None, ...]
    name: str
    path: Path | None = None
    close: Callable[[], None] = close_nothing
    notes: tuple[str, ...] = ()
    colours: bool | None = None
    interval_s: float | None = None

    def __post_init__(self) -> None:
        shape, who = self.shape, str(self.path or self.name)
        _check_dtype(self.data, who)
        _check_axes(self.axes, shape, who)
        if 0 in shape:
            msg = f"{who} of shape {shape} is empty; every axis needs at least one voxel"
            raise ValueError(msg)
        known = [s for s in self.spacing_um if s is not None]
        if len(self.spacing_um) != len(shape) or any(not 0 < s < np.inf for s in known):
            msg = (
                f"spacing {self.spacing_um} does not fit the axes {self.axes} of {who};"
                " give one positive number of micrometres or None per axis"
            )
            raise ValueError(msg)

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of `data`, in the order of `axes`."""
        return tuple(map(int, self.data.shape))

    @property
    def ndim(self) -> int:
        return len(self.axes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of what `read` gives: native byte order, uint8 for bool."""
        dtype = np.dtype(self.data.dtype)
        return np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")

    @property
    def channel_axis(self) -> int | None:
        return self.axes.index("c") if "c" in self.axes else None

    @property
    def channels(self) -> int:
        """Number of channels; 1 without a channel axis."""
        return self.shape[self.axes.index("c")] if "c" in self.axes else 1

    @property
    def axes_predicted(self) -> str:
        return "".join(axis for axis in _PREDICTED if axis in self.axes)

    @property
    def shape_predicted(self) -> tuple[int, ...]:
        return tuple(self.shape[self.axes.index(axis)] for axis in self.axes_predicted)

    @property
    def spacing_predicted_um(self) -> tuple[float | None, ...]:
        return tuple(self.spacing_um[self.axes.index(axis)] for axis in self.axes_predicted)

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels `(c, *box.shape)` of a box in prediction axes, mirrored past the border.

        Only what the box needs is read. The result may be a view of an array given to
        `open_stack`: copy before writing.

        Raises
        ------
        ValueError
            Where the box has another number of axes.
        """
        if box.ndim != len(self.axes_predicted):
            msg = f"a box of {box.ndim} axes is none in {self.axes_predicted} of {self.name}"
            raise ValueError(msg)
        spans = dict(zip(self.axes_predicted, zip(box.start, box.stop, strict=True), strict=True))
        spans["c"] = (0, self.channels)
        stored = Box(*zip(*(spans[axis] for axis in self.axes), strict=True))
        voxels = read_box(self.data, stored)
        voxels = voxels.transpose([self.axes.index(a) for a in "c" + _PREDICTED if a in self.axes])
        if "c" not in self.axes:
            voxels = voxels[np.newaxis]
        if voxels.dtype.kind == "b":
            return voxels.view(np.uint8)
        return voxels.astype(self.dtype, copy=False)

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_stack(
    source: str | os.PathLike[str] | ArrayLike | Sequence[ArrayLike],
    *,
    axes: str | None = None,
    series: int | None = None,
    spacing_um: Sequence[float | None] | None = None,
    labels: bool = False,
) -> Stack:
    """A stack from a file, a folder or an array, without reading its voxels.

    docs/formats.md lists the files that can be read. Arrays are whatever is sliced like numpy; of a list of
    resolutions (a multiscale napari layer) the first is taken. An alpha channel is dropped, and so are axes of extent 1
    that the file does not name; `Stack.notes` tells it.

    Parameters
    ----------
    axes
        One letter per axis out of "tczyx", in the order of storage. By default the file's own:
        RGB samples are c, and the pages of a TIFF that says no more are slices, z. Arrays and .npy
        are "yx" or "zyx"; with more axes they must be named.
    series
        Which image of a file with several, from 0; by default the first.
    spacing_um
        One number of micrometres or None per axis, in the order of `axes`, in place of the file's.
        A plain TIFF's resolution is ignored, since it is nearly always that of a screen.
    labels
        The file holds labels, not a picture: the numbers of an image with a palette are kept, and not its colours.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where the source is no image that can be read, truncated or empty, or its axes stay open.
    """
    path = None
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        opened = open_path(path, series, labels=labels)
    else:
        opened = wrap_array(source, series)
    try:
        opened = settled(opened, axes, str(path or opened.name))
        named = axes if axes is not None else opened.axes
        assert named is not None  # `settled` refuses an image whose axes nobody names
        if spacing_um is None:
            spacing_um = [opened.spacing_um.get(axis) for axis in named]
        return Stack(
            opened.data,
            named,
            tuple(spacing_um),
            opened.name,
            path,
            opened.close,
            opened.notes,
            _colours(opened, named) if "c" in named else None,
            opened.interval_s if "t" in named else None,
        )
    except BaseException:
        opened.close()
        raise


def _colours(opened: Opened, axes: str) -> bool | None:
    """Whether the channel axis holds colours, as far as the file says it of the axis that `axes` calls c."""
    if opened.axes is None or opened.axes.find("c") != axes.index("c"):
        return None
    return opened.colours


def aligned(labels: Stack, axes: str, shape: Sequence[int]) -> Stack:
    """Labels with the axes and extents of their image, where they differ from it in axes of extent 1 alone; else as they are.

    Neither ImageJ nor OME-TIFF keeps such axes, so the labels of an image (1, y, x) come back as (y, x).

    >>> labels = Stack(np.zeros((4, 5), np.uint8), "yx", (None, None), "labels")
    >>> aligned(labels, "zyx", (1, 4, 5)).shape_predicted, aligned(labels, "zyx", (2, 4, 5)).shape_predicted
    ((1, 4, 5), (4, 5))

    Parameters
    ----------
    axes, shape
        Those of the image that are predicted.
    """
    own = labels.shape_predicted
    long = [axis for axis, extent in enumerate(own) if extent > 1]
    alike = own == tuple(shape) and labels.channel_axis is None
    if labels.channels > 1 or alike or [n for n in shape if n > 1] != [own[a] for a in long]:
        return labels
    rest = iter(long)
    plain = View(labels.data, [place for place, axis in enumerate(labels.axes) if axis != "c"])
    ordered = in_image_axes(plain, labels.axes.replace("c", ""), labels.axes_predicted, own)
    data = View(ordered, [next(rest) if extent > 1 else None for extent in shape])
    spacing = dict(zip(labels.axes, labels.spacing_um, strict=True))
    return replace(labels, data=data, axes=axes, spacing_um=tuple(spacing.get(axis) for axis in axes))


def check_finite(stack: Stack) -> None:
    """Read a floating-point stack once, and refuse it where it holds NaN, infinity or what float32 takes for it.

    NaN outside the picture, as `nan_inside` knows it, is allowed: nothing is there. Integers cannot hold any, so they return
    at once. Reads whole planes, a bounded number of bytes at once.

    Raises
    ------
    ValueError
        Naming the first plane that is not finite.
    """
    if stack.dtype.kind != "f":
        return
    shape = stack.shape_predicted
    names = stack.axes_predicted[:-2]
    for box in _slabs(stack):
        voxels = stack.read(box)
        wrong = not_finite(voxels)
        finite = ~wrong.any(axis=(0, -2, -1))
        if not finite.all():
            where = np.add(np.argwhere(~finite)[0], box.start[:-2]) if names else ()
            what = "numbers beyond float32" if np.isfinite(voxels[wrong]).all() else "NaN or infinity"
            plane = ", ".join(f"{n} = {i} of {e}" for n, i, e in zip(names, where, shape, strict=False))
            msg = (
                f"{stack.name} holds {what}{plane and f', first in plane {plane}'};"
                " replace them first, for instance with numpy.nan_to_num"
            )
            raise ValueError(msg)


def not_finite(voxels: NDArray[Any]) -> NDArray[np.bool_]:
    """Which floats (..., y, x) no network can take: NaN inside the picture, and what is infinite as float32, like 1e39."""
    with np.errstate(over="ignore"):
        single = voxels.astype(np.float32, copy=False)
    wrong: NDArray[np.bool_] = np.isinf(single)
    if (nan := np.isnan(single)).any():
        wrong |= nan_inside(nan)
    return wrong


def _slabs(stack: Stack) -> Iterator[Box]:
    """Boxes that partition a stack in order, along chunks so that none is decoded often."""
    shape = stack.shape_predicted
    steps = [1] * len(shape)
    steps[-1] = shape[-1]
    room = _BYTES_AT_ONCE // (stack.dtype.itemsize * stack.channels * shape[-1])
    steps[-2] = max(1, min(shape[-2], room))
    if "z" in stack.axes:
        deep = chunk_extent(stack.data, stack.axes.index("z"))
        steps[-3] = max(1, min(shape[-3], deep, room // shape[-2]))
    for start in itertools.product(*map(range, [0] * len(shape), shape, steps)):
        stop = np.minimum(np.add(start, steps), shape)
        yield Box(start, tuple(stop))


def _check_dtype(data: ArrayLike, name: str) -> None:
    try:
        dtype = np.dtype(data.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        msg = f"{name} is of type {data.dtype}; wanted are integers, floats up to 64 bit, or bool"
        raise ValueError(msg)


def _check_axes(axes: str, shape: tuple[int, ...], name: str) -> None:
    if len(axes) != len(shape):
        msg = f'axes "{axes}" name {len(axes)} axes, but {name} has shape {shape}'
    elif not set(axes) <= set(_AXES) or len(set(axes)) < len(axes):
        msg = f'axes "{axes}" of {name} are not unique letters out of "{_AXES}"'
    elif not set("yx") <= set(axes):
        msg = f'axes "{axes}" of {name} lack y or x; a stack needs both'
    else:
        return
    msg += '; pass for instance axes="zyx"'
    raise ValueError(msg)
