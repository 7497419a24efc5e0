"""Opening microscopy stacks lazily, and writing labels.

Decides what a stack is (`Stack`: a lazy array with named axes and spacing), how one is opened from
a file or an array (`open_stack`), whether its numbers can be predicted on (`check_finite`), and how
labels become a TIFF (`save_labels`). Axes are named by the file or the caller and never guessed
from a length of 3 or 4. The readers of single formats are `_tiff`, `_ngff` and `_arrays`.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp._arrays import read_npy, wrap_array
from napari_unetpp._label_tiff import save_labels
from napari_unetpp._ngff import read_zarr
from napari_unetpp._opened import Opened, close_nothing
from napari_unetpp._outside import nan_inside
from napari_unetpp._tiff import SIGNATURES, read_tiff
from napari_unetpp.box import ArrayLike, Box, chunk_extent, read_box

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

__all__ = ["Stack", "check_finite", "open_stack", "save_labels"]

_AXES = "tczyx"
_PREDICTED = "tzyx"
_BYTES_AT_ONCE = 2**27  # what check_finite holds in memory


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """A lazy array whose axes have names and, where they are lengths, spacing.

    `axes` holds one letter per axis of `data`, out of "tczyx"; `spacing_um` one number per axis,
    None where it is unknown and for c and t. `notes` are sentences for the user about what was chosen
    or left out while the stack was opened, one choice each. Boxes are in prediction axes: those of `axes` except
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
) -> Stack:
    """A stack from a file or an array, without reading its voxels.

    Files are known by their content: TIFF (any size and compression, ImageJ, OME, tiled, RGB),
    OME-Zarr (at full resolution) and plain zarr folders, .npy. Arrays are whatever is sliced like
    numpy; of a list of resolutions (a multiscale napari layer) the first is taken.

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
        opened = _open_file(path, series)
    else:
        opened = wrap_array(source, series)
    try:
        shape = tuple(opened.data.shape)
        named = axes if axes is not None else opened.axes
        if named is None and not 2 <= len(shape) <= len(_AXES):
            raise ValueError(f"{path or opened.name} has shape {shape}; a stack has 2 to {len(_AXES)} axes")
        if named is None:
            example = {2: "yx", 3: "zyx", 5: "tczyx"}.get(len(shape), "zcyx")
            msg = (
                f"{path or opened.name} of shape {shape} does not name its axes ({opened.says});"
                f' pass axes, one letter out of "{_AXES}" each, like axes="{example}"'
            )
            raise ValueError(msg)
        spacing = tuple(spacing_um) if spacing_um is not None else tuple(opened.spacing_um.get(axis) for axis in named)
        return Stack(opened.data, named, spacing, opened.name, path, opened.close, opened.notes)
    except BaseException:
        opened.close()
        raise


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


def _open_file(path: Path, series: int | None) -> Opened:
    if not path.exists():
        msg = f"{path} does not exist; check the name"
        raise FileNotFoundError(msg)
    if path.is_dir():
        return read_zarr(path, series)
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] in SIGNATURES:
        return read_tiff(path, series)
    if head[:6] == b"\x93NUMPY":
        return read_npy(path, series)
    begins = f"begins with {head!r}" if head else "is empty"
    msg = f"{path} is no image that can be read: it {begins}; give a TIFF, OME-Zarr or .npy"
    raise ValueError(msg)


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
