"""What is kept of a slab while not all three planes of it are there.

Decides, in this order: how a probability is kept and three become one (`to_counts16`, `mean_of_three`), the files of
one side of a slab (`KeptSide`), and when they are removed (`remove_slab`, `remove_all`). Layout, below the store::

    OUT.ome.zarr/.planes/0-448/      one slab: its first and one past its last slice, behind t where there is t
      y.L1 .. y.L4                   uint16, 65535 = 1.0 (class, plane, z of the slab, x), as numpy writes it
      y.done                         a byte a tile: 1 once its voxels are safe
      y.sums                         uint32 a tile: crc32 of its voxels, as they are read again
      x.L1 ..                        the same (class, plane, z of the slab, y)

Files are raw because they are written in planes and read across them: a row is found without decoding what lies
around it. They are as safe as the store: what was handed to the operating system survives the end of the process.
"""

from __future__ import annotations

import math
import shutil
import zlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.inference.folders import disk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from napari_unetpp.box import Box
    from napari_unetpp.inference.planes import Axis

FOLDER = ".planes"
_ONE = 65535


def to_counts16(probability: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Kept form of a probability: round(65535 p)."""
    return np.asarray(np.rint(probability * np.float32(_ONE)).clip(0, _ONE), np.uint16)


def mean_of_three(a: NDArray[np.uint16], b: NDArray[np.uint16], c: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Stored form (255 = 1.0) of the mean of three kept probabilities, rounded once.

    In integers, since 255 / (3 * 65535) is 1 / 771; as 771 is odd, nothing lies half way. What is rounded is within
    1/131070 of the mean of the three probabilities.

    >>> half = to_counts16(np.float32([0.0, 0.5, 1.0]))
    >>> mean_of_three(half, half, half).tolist()
    [0, 128, 255]
    """
    total = a.astype(np.uint32) + b + c
    return np.asarray((total + 385) // 771, np.uint8)


class KeptSide:
    """Files of one side of a slab, open for writing; made if they are not there or of other sizes.

    Parameters
    ----------
    shape
        (class, plane, z of the slab, across).
    tiles
        How many tiles the side of the slab has.
    """

    def __init__(self, folder: Path, axis: Axis, levels: Sequence[int], shape: Sequence[int], tiles: int) -> None:
        self._folder, self._shape = folder, tuple(shape)
        self._sizes = {folder / f"{axis}.L{d}": 2 * math.prod(shape) for d in levels}
        self._files = dict(zip(levels, self._sizes, strict=True))
        self._marks, self._sums = folder / f"{axis}.done", folder / f"{axis}.sums"
        self._sum = 0  # of what was written last
        self._opened = ExitStack()
        with disk(folder):
            self._make(tiles)
            self._handles = {d: self._opened.enter_context(path.open("r+b")) for d, path in self._files.items()}
            self._done = self._opened.enter_context(self._marks.open("r+b"))
            self._summed = self._opened.enter_context(self._sums.open("r+b"))

    def _make(self, tiles: int) -> None:
        wanted = {**self._sizes, self._sums: 4 * tiles, self._marks: tiles}
        if all(path.is_file() and path.stat().st_size == size for path, size in wanted.items()):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._marks.unlink(missing_ok=True)  # first, and made last: what it says is true at any moment
        for path, size in wanted.items():
            with path.open("wb") as file:
                file.truncate(size)

    @property
    def done(self) -> NDArray[np.bool_]:
        """Which tiles of the side are safe, in the order of the plan."""
        return np.fromfile(self._marks, np.uint8).astype(bool)

    def write(self, box: Box, heads: Mapping[int, NDArray[np.float32]]) -> None:
        """Put {level: (class, *box.shape)} of a box (plane, z of the slab, across) into the files."""
        across = self._shape[-1]
        self._sum = 0
        with disk(self._folder):
            for level, head in sorted(heads.items()):
                handle, counts = self._handles[level], to_counts16(head)
                self._sum = zlib.crc32(counts.tobytes(), self._sum)
                for place in np.ndindex(counts.shape[:2]):  # class, plane
                    rows = counts[place]
                    first = np.ravel_multi_index((place[0], box.start[0] + place[1], *box.start[1:]), self._shape)
                    pieces = [rows] if rows.shape[1] == across else rows
                    for k, piece in enumerate(pieces):
                        handle.seek(2 * (int(first) + k * across))
                        handle.write(piece.tobytes())
                handle.flush()

    def mark_done(self, place: int) -> None:
        """Record that the voxels of a tile are safe at all levels; call it after its `write`."""
        with disk(self._folder):
            self._summed.seek(4 * place)
            self._summed.write(np.uint32(self._sum).tobytes())
            self._summed.flush()
            self._mark(place, b"\1")

    def forget_damaged(self, boxes: Sequence[Box]) -> None:
        """Record that tiles whose voxels are not those that were written have to be predicted again.

        Parameters
        ----------
        boxes
            (plane, z of the slab, across) of every tile, in the order of the plan.
        """
        sums, done = np.fromfile(self._sums, np.uint32), self.done
        with disk(self._folder):
            for place in map(int, np.flatnonzero(done)):
                found = 0
                for _, path in sorted(self._files.items()):
                    kept = np.memmap(path, np.uint16, "r", shape=self._shape)[(slice(None), *boxes[place].slices)]
                    found = zlib.crc32(kept.tobytes(), found)
                if found != sums[place]:
                    self._mark(place, b"\0")

    def _mark(self, place: int, value: bytes) -> None:
        self._done.seek(place)
        self._done.write(value)
        self._done.flush()

    def read(self, level: int, planes: slice, z: int, across: slice) -> NDArray[np.uint16]:
        """(class, plane, across) at one z of the slab."""
        # Mapped for this moment: pages that stay mapped would count as memory of the process.
        return np.array(np.memmap(self._files[level], np.uint16, "r", shape=self._shape)[:, planes, z, across])

    def __enter__(self) -> KeptSide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()


def slab_folder(store: Path, slab: Box) -> Path:
    """Where the files of a slab are, while there are any."""
    lead = "".join(f"{t}-" for t in slab.start[:-3])
    return store / FOLDER / f"{lead}{slab.start[-3]}-{slab.stop[-3]}"


def kept_marks(store: Path, slab: Box, axis: Axis, tiles: int) -> NDArray[Any]:
    """Which of so many tiles of a side are safe; none where nothing is kept."""
    try:
        marks = np.fromfile(slab_folder(store, slab) / f"{axis}.done", np.uint8)
    except FileNotFoundError:
        marks = np.zeros(0, np.uint8)
    return marks.astype(bool) if marks.size == tiles else np.zeros(tiles, bool)


def remove_slab(store: Path, slab: Box) -> None:
    """Remove the files of a slab."""
    shutil.rmtree(slab_folder(store, slab), ignore_errors=True)


def remove_all(store: Path) -> None:
    """Remove whatever is kept of any slab."""
    shutil.rmtree(store / FOLDER, ignore_errors=True)
