"""Labels that a person corrects, in a folder on disk, saved as they are painted.

Decides, in this order: what an open folder offers (`Corrections`), how one is made (`create_corrections`) and opened
(`open_corrections`), and what training is given (`stack_of`). How another prediction arrives without touching what was
accepted is `proposals`, which boxes count as looked at is `reviewed`. Layout (zarr v3)::

    cells.corrections.zarr/    attributes: format, unpainted, classes, axes, spacing_um, image, source, reviewed
      labels       uint8 (t, z, y, x; those that the image has), what is painted on
      proposal     uint8, what the model said of each voxel when it last followed the model
      pending      uint8, empty but while a proposal arrives: 1 + the label that a voxel is about to get
      .lock        held by the one who paints

What the numbers mean, and which voxels a person has painted::

    unpainted "background"   0 background, 1.. the classes                    painted: labels != proposal
    unpainted "ignore"       0 not annotated, 1 background, 2.. the classes   painted: labels != 0

A voxel that was painted, or reviewed, is accepted: no proposal changes it any more, also not one that agrees with it and is
followed by another that does not. Voxels that cannot be written stay in memory (`corrections_kept`); `save_elsewhere` writes them
with all others into another folder. zarr replaces chunks and attributes as whole files, so a process that is killed loses no more
than the stroke that it was writing; nothing is forced through the caches of the system, as it would have to be against a power
failure.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import zarr

from napari_unetpp._codecs import CODECS
from napari_unetpp._whole import whole_folder
from napari_unetpp.box import Box
from napari_unetpp.model.card import ClassInfo
from napari_unetpp.stacks import Stack
from napari_unetpp.training.corrections_folder import (
    KEY,
    SUFFIX,
    CorrectionsError,
    check_new,
    damaged,
    disk,
    hold_folder,
    is_corrections,
    plain,
    told,
)
from napari_unetpp.training.corrections_kept import KeptStore, again
from napari_unetpp.training.proposals import propose, settle
from napari_unetpp.training.reviewed import box_of, with_box, without_box

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_unetpp._locks import Hold

__all__ = [
    "SUFFIX",
    "Corrections",
    "CorrectionsError",
    "Unpainted",
    "create_corrections",
    "is_corrections",
    "open_corrections",
    "propose",
    "stack_of",
]

Unpainted = Literal["background", "ignore"]

FORMAT = 1
MOST_CLASSES = 250  # of the 256 that a uint8 tells apart, and one is background
_CHUNK = 256  # edge of the plane: a brush touches few of them, and each is a small file
_ARRAYS = ("labels", "proposal", "pending")


class Corrections:
    """An open folder. All boxes are in prediction axes (t z y x without channels).

    Reading is thread-safe. Whoever writes into `labels` holds `writing` meanwhile, because a proposal that arrives in
    another thread reads, changes and writes whole chunks.

    Attributes
    ----------
    labels, proposal, pending : zarr.Array
        uint8, of the same shape and chunks.
    writing : threading.RLock
    """

    def __init__(self, path: Path, group: zarr.Group, hold: Hold | None = None, store: KeptStore | None = None) -> None:
        self.path = path
        self._group, self._hold, self._store = group, hold, store
        self.writing = threading.RLock()
        try:
            about: dict[str, Any] = dict(group.attrs[KEY])  # type: ignore[arg-type]
            if about["format"] != FORMAT:
                raise CorrectionsError(
                    f"{path} has format {about['format']} where this version reads {FORMAT}; update napari-unetpp"
                )
            arrays = [group[name] for name in _ARRAYS]
            self._about = about
            self.unpainted: Unpainted = about["unpainted"]
            self.classes: tuple[ClassInfo, ...] = tuple(ClassInfo(**c) for c in about["classes"])
            self.axes: str = about["axes"]
            self.spacing_um: tuple[float | None, ...] = tuple(about["spacing_um"])
            self.image: dict[str, Any] = dict(about["image"])
            self.source: dict[str, Any] = dict(about["source"])
            self.reviewed: tuple[Box, ...] = tuple(box_of(corners) for corners in about["reviewed"])
        except (KeyError, TypeError) as error:
            raise damaged(path, f"{error} is missing or of a wrong kind") from None
        labels, proposal, pending = arrays
        if not (
            isinstance(labels, zarr.Array) and isinstance(proposal, zarr.Array) and isinstance(pending, zarr.Array)
        ):
            raise damaged(path, "one of its arrays is a group")
        self.labels, self.proposal, self.pending = labels, proposal, pending
        if any(a.dtype != np.uint8 or a.shape != labels.shape for a in (labels, proposal, pending)):
            raise damaged(path, f"its arrays are not all uint8 of shape {labels.shape}")
        fitting = len(self.axes) == len(self.spacing_um) == labels.ndim
        if not fitting or any(box.ndim != labels.ndim for box in self.reviewed):
            raise damaged(path, f"axes {self.axes!r}, spacing or reviewed boxes do not fit shape {labels.shape}")
        if self.unpainted not in ("background", "ignore"):
            raise damaged(path, f"unpainted voxels mean {self.unpainted!r}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents in prediction axes."""
        return tuple(map(int, self.labels.shape))

    @property
    def writable(self) -> bool:
        """Whether it was opened to paint on it, and not closed since."""
        return self._hold is not None and self._hold.held

    def close(self) -> None:
        """Let others paint; what was painted is on the disk already."""
        if self._hold is not None:
            self._hold.release()

    @property
    def fault(self) -> OSError | None:
        """Why the disk lacks strokes that memory has; None where everything is saved."""
        fault = self._store.fault if self._store is not None else None
        return None if fault is None else told(self.path, fault)

    def check(self) -> OSError | None:
        """The `fault`, after a look whether the folder still is what was opened."""
        if self._store is not None and self.writable:
            self._store.look()
        return self.fault

    def retry(self) -> OSError | None:
        """The `fault` that is left after an attempt to write what waits in memory."""
        with self.writing:
            if self._store is not None and self._store.fault is not None:
                with suppress(OSError):
                    self._store.flush()
        return self.fault

    @contextmanager
    def saving(self) -> Iterator[None]:
        """What is written in the block is on the disk after it.

        Raises
        ------
        OSError
            In one line, where the folder is gone or the disk is full; also for voxels, which then wait in memory.
        """
        with self.writing, disk(self.path, there=self._store is None):
            if (store := self._store) is None:
                yield
                return
            store.flush()
            store.check()
            bulk, store.bulk = store.bulk, True
            try:
                yield
            finally:
                store.bulk = bulk
            if store.fault is not None:
                raise again(store.fault)

    def save_elsewhere(self, path: str | Path) -> bool:
        """Write everything, painted and reviewed, into a new folder and go on there; whether nothing is missing.

        Something can be missing only where the folder was larger than memory holds (`MOST_BYTES`) and is gone.

        Raises
        ------
        FileExistsError
            Where something is at `path` already.
        OSError
            Where that folder cannot be written either; nothing has changed then.
        """
        path = Path(path)
        store, hold = self._store, self._hold
        if store is None or hold is None:
            raise CorrectionsError(
                f"{self.path} was opened to read only; open it in the Correct dock to save it elsewhere"
            )
        check_new(path)
        with self.writing, whole_folder(path) as temporary, disk(path, there=False):
            whole = store.copy_to(temporary)
            temporary.rename(path)
            self._hold = hold_folder(path)
            store.move_to(path)
            self.path = path
            hold.release()
        return whole

    def painted(self, box: Box) -> NDArray[np.bool_]:
        """Which voxels of a box a person has painted."""
        labels = np.asarray(self.labels[box.slices])
        if self.unpainted == "ignore":
            return np.asarray(labels != 0, bool)
        return np.asarray(labels != np.asarray(self.proposal[box.slices]), bool)

    def in_review(self, box: Box) -> NDArray[np.bool_]:
        """Which voxels of a box were reviewed."""
        found = np.zeros(box.shape, bool)
        for reviewed in self.reviewed:
            part = reviewed.intersect(box)
            if part.size:
                found[part.shift([-a for a in box.start]).slices] = True
        return found

    def mark(self, box: Box) -> None:
        """Remember that the labels of a box were looked at; boxes that it covers become part of it."""
        inside = self._inside(box)
        self._update(reviewed=with_box(self.reviewed, inside))

    def unmark(self, box: Box) -> None:
        """Forget it for the voxels of a box; what is left of larger boxes stays reviewed."""
        self._update(reviewed=without_box(self.reviewed, self._inside(box)))

    def set_classes(self, classes: Sequence[ClassInfo]) -> None:
        """Other names and colours, or more classes; the numbers that are painted stay as they are."""
        self._update(classes=tuple(_checked_classes(classes)))

    def set_source(self, source: Mapping[str, Any]) -> None:
        """Remember where the proposal comes from: model name, sha256, level and so on."""
        self._update(source=dict(source))

    @property
    def legend(self) -> dict[int, ClassInfo | None]:
        """What each label means, in order; None is "not annotated". The background has no colour."""
        background = ClassInfo("background", "")
        first: list[ClassInfo | None] = [None, background] if self.unpainted == "ignore" else [background]
        return dict(enumerate([*first, *self.classes]))

    def _inside(self, box: Box) -> Box:
        if box.ndim != len(self.shape):
            raise ValueError(
                f"a box of {box.ndim} axes cannot be marked where the labels have {self.axes}; give one span an axis"
            )
        inside = box.intersect(Box.of(self.shape))
        if inside.size == 0:
            raise ValueError(f"box {box.start} to {box.stop} lies beside the image of shape {self.shape}")
        return inside

    def _update(self, **values: Any) -> None:
        """Replace some of what the folder says of itself, as one file."""
        stored = {name: plain(value) for name, value in values.items()}
        with self.saving():
            about = {**self._about, **stored}
            self._group.attrs[KEY] = about
            self._about = about
            for name, value in values.items():
                setattr(self, name, value)


def create_corrections(
    path: str | Path,
    image: Stack,
    *,
    classes: Sequence[ClassInfo],
    unpainted: Unpainted,
    source: Mapping[str, Any] | None = None,
) -> Corrections:
    """New corrections of an image, empty and open to paint on; they appear under their name only once they are whole.

    Parameters
    ----------
    classes
        Without the background, which has no entry: what label 1 is called, and so on (with "ignore" label 2).
    unpainted
        What an unpainted voxel means to training: background, or that nobody annotated it.
    source
        Where `propose` will take labels from, for the record.

    Raises
    ------
    FileExistsError
        Where something is at `path` already; nothing is ever overwritten.
    OSError
        Where the folder cannot be written or the disk is full; nothing is left behind.
    """
    path = Path(path)
    if unpainted not in ("background", "ignore"):
        raise ValueError(f"unpainted voxels cannot mean {unpainted!r}; use 'background' or 'ignore'")
    check_new(path)
    shape, axes = image.shape_predicted, image.axes_predicted
    about = {
        "format": FORMAT,
        "unpainted": unpainted,
        "classes": plain(_checked_classes(classes)),
        "axes": axes,
        "spacing_um": list(image.spacing_predicted_um),
        "image": {"name": image.name, "path": str(image.path) if image.path else None},
        "source": dict(source or {}),
        "reviewed": [],
    }
    chunks = tuple(1 if i < len(shape) - 2 else min(n, _CHUNK) for i, n in enumerate(shape))
    with whole_folder(path) as temporary, disk(path, there=False):
        group = zarr.open_group(temporary, mode="w-", zarr_format=3, attributes={KEY: about})
        for name in _ARRAYS:
            group.create_array(
                name, shape=shape, chunks=chunks, dtype="uint8", compressors=CODECS, dimension_names=tuple(axes)
            )
        temporary.rename(path)
    return open_corrections(path, "r+")


def open_corrections(path: str | Path, mode: Literal["r", "r+"] = "r") -> Corrections:
    """The corrections at a path, to read them, also while somebody paints, or (``"r+"``) to paint on them.

    Raises
    ------
    FileNotFoundError
        Where there is nothing at `path`.
    CorrectionsError
        Where it is something else, is damaged, comes from a newer version, or is being painted on elsewhere.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no corrections at {path}; make them first, or check the path")
    if not is_corrections(path):
        raise CorrectionsError(f"{path} is no folder of corrections of napari-unetpp, or it is damaged")
    hold = hold_folder(path) if mode == "r+" else None
    try:
        store = KeptStore(path, _ARRAYS) if hold is not None else None
        corrections = Corrections(path, zarr.open_group(store or path, mode=mode), hold, store)
        if hold is not None:
            settle(corrections)
    except BaseException as error:
        if hold is not None:
            hold.release()
        # What zarr says to missing or broken metadata.
        if isinstance(error, ValueError | FileNotFoundError) and not isinstance(error, CorrectionsError):
            raise damaged(path, str(error)) from None
        raise
    return corrections


def stack_of(corrections: Corrections) -> Stack:
    """The labels as a stack, read from the disk where they are asked for."""
    name = corrections.path.name.removesuffix(SUFFIX)
    return Stack(corrections.labels, corrections.axes, corrections.spacing_um, name, corrections.path)


def _checked_classes(classes: Sequence[ClassInfo]) -> Sequence[ClassInfo]:
    if not 1 <= len(classes) <= MOST_CLASSES:
        raise ValueError(
            f"{len(classes)} classes cannot be corrected; name 1 to {MOST_CLASSES}, without the background"
        )
    return classes
