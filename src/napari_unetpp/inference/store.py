"""Predictions on disk: one OME-Zarr group a run, which can be continued after any interruption.

Decides, in this order: what an open store offers (`PredictionStore`), how one is made
(`create_store`) and opened (`open_store`), and what is refused. Layout (zarr v3, NGFF 0.5)::

    OUT.ome.zarr/        ome: multiscales L4, L3, L2, L1 (paths "L4/0" ...)
      zarr.json          napari-unetpp: format, axes, shape, levels, classes, spacing_um, interval_s, record
      L1/ .. L4/         ome: a multiscale image by itself, omero: names of the classes
        0                uint8 (t, c, z, y, x; those that the stack has, c always), 255 = 1.0
      done/L1 .. L4      uint8, one element a tile: 1 once its voxels are safe
      done/seen          uint64, one element a tile: hash of the image's voxels that it was predicted from
      .lock              held by whoever writes

Each level is an image of its own because levels are four answers to one question, not resolutions
and not channels that belong on top of each other. The root is a multiscale image as well, deepest
level first, so that whoever is given OUT.ome.zarr alone sees the best prediction; bioformats2raw's
layout, the other way to put images side by side, is not read by the ome-zarr library.

"Safe" means handed to the operating system in whole chunks, and only then marked: it survives the
end of the process at any moment. Each chunk has a checksum. One run at a time may write to a store
(`hold`), and it notices when the folder is no longer the one that it opened (`check`).
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import zarr

from napari_unetpp._locks import Hold
from napari_unetpp._whole import whole_folder
from napari_unetpp.box import Box
from napari_unetpp.inference.folders import (
    KEY,
    GoneError,
    StoreError,
    damaged,
    disk,
    identity,
    is_store,
    put_in_place,
    refuse_occupied,
    remove_remains,
)
from napari_unetpp.inference.layout import (
    SEEN,
    array_axes,
    create_done,
    create_level,
    root_attributes,
    stored_array,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_unetpp.inference.tiles import Tile
    from napari_unetpp.stacks import Stack

__all__ = ["DECIDING", "PredictionStore", "StoreError", "create_store", "open_store"]

FORMAT = 1
# What decides the voxels of a run: a run may continue one in which all of these are the same.
DECIDING = ("model_sha256", "tiling", "levels", "shape", "precision", "stack_sample", "planes", "intensity", "resample")
_BEFORE = {"precision": "fp32", "intensity": "stack"}  # of records that were written before there was a choice
LOCK = ".lock"  # in the store's folder
_CHUNK = 512  # chunk edge in the plane where no plan of tiles says better


class PredictionStore:
    """An open store. All boxes are in prediction axes (t z y x without channels).

    Reading is thread-safe, also while another thread of this process writes.
    """

    def __init__(self, path: Path, group: zarr.Group) -> None:
        self.path = path
        self._group = group
        self._identity = identity(path)
        self.measured: Stack | None = None  # of which the intensities were measured for this run
        try:
            about: dict[str, Any] = dict(group.attrs[KEY])  # type: ignore[arg-type]
            if about["format"] != FORMAT:
                raise StoreError(
                    f"{path} has store format {about['format']} where this version reads {FORMAT}; update napari-unetpp"
                )
            self.shape: tuple[int, ...] = tuple(map(int, about["shape"]))
            self.axes: str = about["axes"]
            self.levels: tuple[int, ...] = tuple(map(int, about["levels"]))
            self.classes: tuple[str, ...] = tuple(about["classes"])
            self.spacing_um: tuple[float | None, ...] = tuple(about["spacing_um"])
            self.interval_s: float | None = about.get("interval_s")
            self.record: dict[str, Any] = dict(about["record"])
            self._arrays = {level: stored_array(group, f"L{level}/0") for level in self.levels}
            self._class_axis = array_axes(self.axes).index("c")
            self._load_done()
        except (KeyError, TypeError) as error:
            raise damaged(path, f"{error} is missing or of a wrong kind") from None
        expected = list(self.shape)
        expected.insert(self._class_axis, len(self.classes))
        if any(a.shape != tuple(expected) or a.dtype != np.uint8 for a in self._arrays.values()):
            raise damaged(path, f"an array is not uint8 of shape {tuple(expected)}")

    def probability(self, level: int) -> zarr.Array[Any]:
        """The stored array of a level: uint8, 255 = 1.0, class channel at its NGFF place."""
        if level not in self._arrays:
            have = ", ".join(f"L{d}" for d in self.levels)
            raise ValueError(f"level {level} is not in {self.path}; it holds {have}")
        return self._arrays[level]

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Probabilities (class, *box.shape), 255 = 1.0; 0 where nothing was predicted yet."""
        array = self.probability(level)
        selection = list(box.slices)
        selection.insert(self._class_axis, slice(None))
        try:
            voxels = np.asarray(array[tuple(selection)])
        except (ValueError, RuntimeError) as error:
            raise damaged(self.path, f"L{level} at {box.start}: {error}") from error
        if identity(self.path) != self._identity:  # what zarr does not find it takes for 0
            raise GoneError(
                f"the predictions {self.path} were moved, deleted or replaced; open them where they are now"
            )
        return np.moveaxis(voxels, self._class_axis, 0)

    def hold(self) -> Hold:
        """The right to write, until it is released.

        Raises
        ------
        InUse
            Where another run has it, in this program or in another.
        """
        return hold_store(self.path)

    def check(self) -> None:
        """Refuse to go on where the folder is no longer the one that was opened.

        Raises
        ------
        GoneError
            Where it was moved, deleted or replaced. What zarr made anew of it is removed.
        """
        files = ["zarr.json", *(f"L{level}/0/zarr.json" for level in self.levels)]
        if self._done:
            files += [f"done/L{level}/zarr.json" for level in self.levels]
        if identity(self.path) != self._identity or not all((self.path / file).is_file() for file in files):
            remove_remains(self.path)
            raise GoneError(
                f"the predictions {self.path} were moved, deleted or replaced while they were written; "
                "start again, into a folder that stays"
            )

    def check_whole(self, tiles: Iterable[Tile]) -> None:
        """Read back from the disk what is said to be done: the metadata, the done maps, and a chunk of each level.

        Of the tiles of the run that are done, every chunk has to be there.

        Raises
        ------
        StoreError
            Where something is missing or damaged; GoneError where all of it is gone.
        """
        self.check()
        stored = open_store(self.path)
        if stored.grid != self.grid or any((stored.done(d) != self.done(d)).any() for d in self.levels):
            raise damaged(self.path, "its done maps are not those of the run that wrote it")
        for tile in tiles:
            if self.is_done(tile) and (lacking := self._lacking(tile)):
                raise damaged(self.path, f"{lacking.relative_to(self.path)} is missing")
        for level in self.levels:
            array = stored.probability(level)
            corner = [max(0, n - 1) for n in array.shape]  # the last chunk
            corner.pop(self._class_axis)
            stored.read(level, Box(tuple(corner), tuple(n + 1 for n in corner)))
        self.check()

    def is_whole(self, tile: Tile) -> bool:
        """Whether every chunk of a tile is on the disk and passes its checksum."""
        try:
            for level in self.levels:
                self.read(level, tile.inner)
        except GoneError:
            raise
        except StoreError:
            return False
        return self._lacking(tile) is None

    def _lacking(self, tile: Tile) -> Path | None:
        """The first file of a tile's chunks that is missing; zarr would take it for zeros."""
        for level in self.levels:
            array = self.probability(level)
            spans = [range(a // n, -(-b // n)) for a, b, n in self._along_chunks(tile.inner, array.chunks)]
            for place in itertools.product(*spans):
                file = self.path / f"L{level}/0" / array.metadata.encode_chunk_key(place)
                if not file.is_file():
                    return file
        return None

    def _along_chunks(self, box: Box, chunks: Sequence[int]) -> Iterator[tuple[int, int, int]]:
        """First voxel, one past the last, and extent of a chunk along each axis of the stored arrays."""
        start, stop = list(box.start), list(box.stop)
        start.insert(self._class_axis, 0)
        stop.insert(self._class_axis, len(self.classes))
        return zip(start, stop, chunks, strict=True)

    def write(self, tile: Tile, probabilities: Mapping[int, NDArray[np.uint8]]) -> None:
        """Put {level: (class, *tile.inner.shape)} into the arrays; safe when this returns.

        Raises
        ------
        GoneError
            Where the folder is no longer the one that was opened.
        OSError
            Where the disk is full or gone.
        """
        selection = list(tile.inner.slices)
        selection.insert(self._class_axis, slice(None))
        self.check()
        with disk(self.path):
            for level, voxels in probabilities.items():
                self.probability(level)[tuple(selection)] = np.moveaxis(voxels, 0, self._class_axis)
        self.check()

    def set_grid(self, grid: Sequence[int]) -> None:
        """Make the done maps for a plan of that many tiles per axis, or check those that are there.

        Raises
        ------
        StoreError
            Where the store was filled along another plan.
        """
        grid = tuple(grid)
        if self.grid is None:
            self.check()
            with disk(self.path):
                create_done(self._group, self.levels, grid)
            self._load_done()
        elif self.grid != grid:
            raise StoreError(
                f"{self.path} was planned with {self.grid} tiles per axis, this run with {grid}; "
                "use the same tiling, overwrite it, or name another path"
            )

    @property
    def grid(self) -> tuple[int, ...] | None:
        """Number of tiles per axis; None before the first run."""
        return next(iter(self._done.values())).shape if self._done else None

    def done(self, level: int | None = None) -> NDArray[np.bool_]:
        """Which tiles are safe, at a level or (None) at all, as a boolean array of shape `grid`.

        Of size 0 before the first run.
        """
        if not self._done:
            return np.zeros((0,), bool)
        if level is not None:
            self.probability(level)  # refuses a level that is not there
            return self._done[level].astype(bool)
        return np.asarray(np.logical_and.reduce(list(self._done.values())), bool)

    def is_done(self, tile: Tile) -> bool:
        """Whether a tile is safe at all levels."""
        return bool(self._done) and all(bool(m[tile.index]) for m in self._done.values())

    def seen(self, tile: Tile) -> int:
        """Hash of the voxels that a tile was predicted from; 0 where none was kept."""
        return int(self._seen[tile.index]) if self._seen is not None else 0

    def mark_done(self, tile: Tile, seen: int = 0) -> None:
        """Record that the voxels of a tile are safe at all levels; call it after `write`.

        Parameters
        ----------
        seen
            Hash of the voxels that the tile was predicted from. Without it the tile can be shown, but no run
            goes on from it.
        """
        self.mark_seen([tile], seen)
        self._mark([tile], 1)

    def mark_seen(self, tiles: Sequence[Tile], seen: int) -> None:
        """Record the hash of the voxels from which tiles are predicted, before they are done."""
        if self._seen is not None and self._stored_seen is not None:
            with disk(self.path):
                _put(self._stored_seen, self._seen, tiles, seen)

    def forget(self, tile: Tile) -> None:
        """Record that a tile has to be predicted again."""
        self._mark([tile], 0)

    def _mark(self, tiles: Sequence[Tile], value: int) -> None:
        self.check()
        with disk(self.path):
            for level, done in self._done.items():
                _put(self._stored_done[level], done, tiles, value)
        self.check()

    @property
    def done_count(self) -> int:
        """Number of tiles that are safe at all levels."""
        return int(self.done().sum())

    @property
    def complete(self) -> bool:
        return self.grid is not None and self.done_count == math.prod(self.grid)

    def matches(self, record: Mapping[str, Any]) -> list[str]:
        """Deciding keys (`DECIDING`) in which the store's record differs from `record`."""
        mine, other = {**_BEFORE, **self.record}, {**_BEFORE, **record}
        return [key for key in DECIDING if mine.get(key) != other.get(key)]

    def update_record(self, values: Mapping[str, Any]) -> None:
        """Add JSON-able values to the record, on disk as well."""
        self.record = {**self.record, **values}
        about: dict[str, Any] = dict(self._group.attrs[KEY])  # type: ignore[arg-type]
        self.check()
        with disk(self.path):
            self._group.attrs[KEY] = {**about, "record": self.record}

    def _load_done(self) -> None:
        self._done: dict[int, NDArray[np.uint8]] = {}
        self._seen: NDArray[np.uint64] | None = None
        self._stored_seen: zarr.Array[Any] | None = None
        names = {level: f"done/L{level}" for level in self.levels}
        # A run that ended while it made them left some: then nothing was done yet.
        if all(name in self._group for name in names.values()):
            self._stored_done = {level: stored_array(self._group, name) for level, name in names.items()}
            self._done = {d: np.asarray(stored[:]) for d, stored in self._stored_done.items()}
            if len({done.shape for done in self._done.values()}) != 1:
                raise damaged(self.path, "the done maps of its levels differ in shape")
            if SEEN in self._group:  # stores of earlier versions have none
                self._stored_seen = stored_array(self._group, SEEN)
                self._seen = np.asarray(self._stored_seen[:], np.uint64)
                if self._seen.shape != self.grid:
                    raise damaged(self.path, "its hashes of the image differ in shape from its done maps")


def _put(stored: zarr.Array[Any], values: NDArray[Any], tiles: Sequence[Tile], value: int) -> None:
    """Set one value of tiles on the disk, and only then in memory: a write that fails marks nothing."""
    for tile in tiles:
        # A whole chunk is written at once, which zarr does without reading it first.
        chunk = tuple(slice(i // n * n, (i // n + 1) * n) for i, n in zip(tile.index, stored.chunks, strict=True))
        changed = values[chunk].copy()
        changed[tuple(i % n for i, n in zip(tile.index, stored.chunks, strict=True))] = value
        stored[chunk] = changed
        values[chunk] = changed


def create_store(
    path: str | Path,
    shape: Sequence[int],
    levels: Sequence[int],
    *,
    like: Stack | None = None,
    axes: str | None = None,
    classes: Sequence[str] = ("foreground",),
    chunks: Sequence[int] | None = None,
    grid: Sequence[int] | None = None,
    record: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> PredictionStore:
    """A new store, open for writing; it appears under its name only once it is whole.

    Parameters
    ----------
    shape, axes
        In prediction axes (t z y x). `axes` may be left out where `like` names them.
    like
        Stack whose axes, spacing and interval of time the store takes over.
    classes
        Names of the channels; with two and more the first is the background.
    chunks, grid
        Of the plan (`Tiles.chunks`, `Tiles.grid`). Without a grid the first run sets it.
    overwrite
        Replace an existing store. Any other folder is never removed.

    Raises
    ------
    FileExistsError
        Where something is at `path` already, and it is not a store to be overwritten.
    OSError
        Where the folder cannot be written or the disk is full; nothing is left behind.
    """
    path = Path(path)
    shape = tuple(shape)
    axes = axes if axes is not None else (like.axes_predicted if like is not None else None)
    if axes is None or len(axes) != len(shape):
        raise ValueError(f"axes {axes!r} do not name those of shape {shape}; pass axes='zyx' or so")
    spacing = dict(zip(like.axes, like.spacing_um, strict=True)) if like is not None else {}
    spacing_um = tuple(spacing.get(axis) for axis in axes)
    interval_s = like.interval_s if like is not None and "t" in axes else None
    if chunks is None:
        plane = len(shape) - 2
        chunks = tuple(1 if i < plane else min(n, _CHUNK) for i, n in enumerate(shape))
    refuse_occupied(path, overwrite=overwrite)
    if path.exists():
        hold_store(path).release()  # refuses where somebody writes to it
    about: dict[str, Any] = {
        "format": FORMAT,
        "axes": axes,
        "shape": shape,
        "levels": tuple(levels),
        "classes": tuple(classes),
        "spacing_um": spacing_um,
        "interval_s": interval_s,
        "record": dict(record or {}),
    }
    with whole_folder(path) as temporary, disk(path):
        group = zarr.open_group(temporary, mode="w-", zarr_format=3)
        for level in levels:
            create_level(group, level, axes, shape, spacing_um, chunks, classes, interval_s)
        if grid is not None:
            create_done(group, levels, grid)
        group.attrs.update({**root_attributes(levels, axes, spacing_um, interval_s), KEY: about})
        put_in_place(temporary, path, overwrite=overwrite)
    return open_store(path, "r+")


def hold_store(path: Path) -> Hold:
    """The right to write to the store at a path, or to replace it.

    Raises
    ------
    InUse
        Where another run has it.
    """
    return Hold(
        path / LOCK,
        f"{path} is being written by another run, in this program or in another; wait for it, or name another path",
    )


def open_store(path: str | Path, mode: Literal["r", "r+"] = "r") -> PredictionStore:
    """The store at a path, for reading or (``"r+"``) for going on with it.

    Raises
    ------
    FileNotFoundError
        Where there is nothing at `path`.
    StoreError
        Where it is not a prediction store, is damaged, or comes from a newer version.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no predictions at {path}; run segment first, or check the path")
    if not is_store(path):
        raise StoreError(f"{path} is not a prediction store of napari-unetpp (no {KEY} record); name another path")
    try:
        return PredictionStore(path, zarr.open_group(path, mode=mode))
    except StoreError:
        raise
    except (ValueError, FileNotFoundError) as error:  # what zarr says to missing or broken metadata
        raise damaged(path, str(error)) from None
