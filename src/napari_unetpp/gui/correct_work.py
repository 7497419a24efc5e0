"""The work behind the Correct dock, as generators that know neither Qt nor napari.

Decides, in this order: where corrections of an image are kept (`kept_in`), how they are made and opened, how labels of a
level arrive (`take_over`), what marking fills in (`fill`), how the painted voxels are counted (`count`), and which regions are
the most doubtful (`rank`).
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.box import Box
from napari_unetpp.model.zoo import user_folder
from napari_unetpp.training.corrections import SUFFIX, Corrections, create_corrections, open_corrections, propose

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_unetpp.box import ArrayLike
    from napari_unetpp.evaluation.doubt import Doubt
    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.model.card import ClassInfo
    from napari_unetpp.stacks import Stack
    from napari_unetpp.training.corrections import Unpainted


@dataclass(frozen=True, slots=True)
class Proposed:
    """Labels of a level, in prediction axes, and what is remembered of where they come from."""

    view: ArrayLike
    store: PredictionStore
    source: Mapping[str, Any]
    first: Box | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """All that decides new corrections; without `proposed` they are made empty."""

    path: Path
    stack: Stack
    classes: tuple[ClassInfo, ...]
    unpainted: Unpainted
    proposed: Proposed | None


@dataclass(frozen=True, slots=True)
class Arrived:
    """So many blocks of the labels of a level are on the disk, of how many."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Filled:
    """Places of unpainted voxels, one array per prediction axis, and the labels that they are given."""

    of: Corrections
    box: Box
    places: tuple[NDArray[np.intp], ...]
    values: NDArray[np.uint8]


def user_corrections() -> Path:
    """Where corrections are kept of images that lie nowhere, or where nobody may write; it need not exist yet."""
    return user_folder().parent / "corrections"


def default_folder(source: str | Path | None) -> Path:
    """Beside the file of the image where that is a place to write, else `user_corrections`."""
    if source:
        folder = Path(source).expanduser().absolute().parent
        inside_store = any(part.endswith(".zarr") for part in folder.parts)  # of which we add to none
        if folder.is_dir() and os.access(folder, os.W_OK) and not inside_store:
            return folder
    return user_corrections()


def kept_in(folder: Path, image: str) -> Path:
    """Where corrections of an image of that name are kept.

    >>> kept_in(Path("data"), "cells (left)").as_posix()
    'data/cells-left.corrections.zarr'
    """
    stem = re.sub(r"[^\w.]+", "-", image).strip("-.") or "image"
    return folder / f"{stem}{SUFFIX}"


def free_folder(folder: Path, image: str) -> Path:
    """Where corrections of that image can be made anew: in `folder`, or in a folder in it where it has some already."""
    path, number = kept_in(folder, image), 0
    while os.path.lexists(path):
        number += 1
        path = kept_in(folder / f"saved-{number}", image)
    return path


def make(request: Request) -> Generator[Corrections | Arrived]:
    """The new corrections, then what of the level has arrived in them.

    Raises
    ------
    ValueError, OSError
        As `create_corrections` and `propose`.
    """
    if request.path.parent == user_corrections():
        request.path.parent.mkdir(parents=True, exist_ok=True)
    corrections = create_corrections(request.path, request.stack, classes=request.classes, unpainted=request.unpainted)
    yield corrections
    if request.proposed is not None:
        yield from take_over(corrections, request.proposed)


def open_at(path: Path) -> Generator[Corrections]:
    """The corrections in a folder, to paint on them; raises as `open_corrections`."""
    yield open_corrections(path, "r+")


def take_over(corrections: Corrections, proposed: Proposed) -> Generator[Arrived]:
    """What has arrived; nothing that was accepted changes, and nothing where the store holds no prediction yet."""
    view = _Predicted(corrections, proposed)
    for done, total in propose(corrections, view, first=proposed.first, source=proposed.source):
        yield Arrived(done, total)


class _Predicted:
    """The labels of a level where its tiles are done; elsewhere what the corrections follow by now."""

    def __init__(self, corrections: Corrections, proposed: Proposed) -> None:
        from napari_unetpp.evaluation.agreement import planned_tiles

        self._corrections, self._view = corrections, proposed.view
        self.shape, self.dtype, self.ndim = corrections.shape, np.dtype(np.uint8), len(corrections.shape)
        tiles = planned_tiles(proposed.store)
        self._done = proposed.store.done() if tiles is not None else np.zeros((1,) * self.ndim, bool)
        spans = tiles.inner_spans if tiles is not None else [((0, extent),) for extent in self.shape]
        # Which tile each place along an axis is in.
        self._tile = [np.repeat(np.arange(len(along)), [b - a for a, b in along]) for along in spans]

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[np.uint8]:
        done = self._done[np.ix_(*(tile[part] for tile, part in zip(self._tile, key, strict=True)))]
        said = np.asarray(self._view[key]) if done.any() else np.zeros(done.shape, np.uint8)
        if done.all():
            return said
        before = np.asarray(self._corrections.proposal[key])
        if self._corrections.unpainted == "ignore":
            before = before - 1  # which comes back to 0 where there was no proposal
        return np.where(done, said, before)


def fill(corrections: Corrections, box: Box) -> Generator[Filled]:
    """What marking a box paints where 0 is "not annotated": the proposal, or background where there is none."""
    free = np.asarray(corrections.labels[box.slices]) == 0
    said = np.maximum(np.asarray(corrections.proposal[box.slices]), 1)
    places = np.nonzero(free)
    yield Filled(corrections, box, tuple(p + a for p, a in zip(places, box.start, strict=True)), said[places])


def count(corrections: Corrections, boxes: Sequence[Box] | None) -> Generator[dict[tuple[int, ...], int]]:
    """Painted voxels by chunk, some chunks at a time.

    Parameters
    ----------
    boxes
        Where something was painted; None is everywhere.
    """
    shape, chunks = corrections.shape, corrections.labels.chunks
    whole = Box.of(shape)
    seen: set[tuple[int, ...]] = set()
    for box in boxes if boxes is not None else [whole]:
        spans = [range(a // n, -(-b // n)) for a, b, n in zip(box.start, box.stop, chunks, strict=True)]
        for leading in itertools.product(*spans[:-1]):
            found = {}
            for place in itertools.product(*([i] for i in leading), spans[-1]):
                if place not in seen:
                    seen.add(place)
                    start = tuple(i * n for i, n in zip(place, chunks, strict=True))
                    chunk = Box(start, tuple(a + n for a, n in zip(start, chunks, strict=True))).intersect(whole)
                    found[place] = int(np.count_nonzero(corrections.painted(chunk)))
            yield found


def rank(store: PredictionStore, method: str, skip: Sequence[Box]) -> Generator[int, None, tuple[Doubt, ...]]:
    """Percent done, in the end the most doubtful regions; raises as `rank_doubt`."""
    from napari_unetpp.evaluation.doubt import rank_doubt

    return (yield from rank_doubt(store, method=method, skip=skip))


def methods() -> tuple[tuple[str, ...], str]:
    """The ways to rank doubtful regions, and the one that was found best."""
    from napari_unetpp.evaluation.doubt import DEFAULT_METHOD, METHODS

    return METHODS, DEFAULT_METHOD
