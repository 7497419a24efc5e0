"""How the labels of a model arrive among labels that a person has corrected, and change none that was accepted.

Decides, in this order: in which blocks they arrive (`propose`), what becomes of a block, and how one is finished that was
interrupted (`settle`). With o the proposal so far and n the new one, for each voxel::

    reviewed, or label != o     accepted: label and proposal stay
    else, n != o                pending = n + 1;  label = n;  proposal = n;  pending = 0

Each of these four is written as whole chunks, in this order. After a kill between them the voxel would look painted
(label n, proposal o), did `pending` not tell.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.box import Box

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    import zarr
    from numpy.typing import NDArray

    from napari_unetpp.box import ArrayLike
    from napari_unetpp.training.corrections import Corrections

EDGE = 1024  # of what arrives at once, in the plane: some chunks, and no more than a moment's wait for a brush


def propose(
    corrections: Corrections, view: ArrayLike, *, first: Box | None = None, source: Mapping[str, Any] | None = None
) -> Generator[tuple[int, int]]:
    """Take over labels of a model, block by block: (blocks done, blocks in all) whenever one is safe.

    With the rule "background" a voxel that is neither reviewed nor painted becomes what the view says. With "ignore" nothing
    is painted by it; what the view says is kept in `Corrections.proposal`, shifted by one (1 is background).
    Stopped anywhere, it leaves every voxel as it was or as it will be, and can be begun again.

    Parameters
    ----------
    view
        Labels in prediction axes: 0 background, k class k.
    first
        Box whose blocks come first, such as what is on the screen.
    source
        What is remembered as the source once all of it has arrived.

    Raises
    ------
    ValueError
        If the view has another shape.
    OSError
        If the disk is full or the folder is gone.
    """
    if tuple(view.shape) != corrections.shape:
        raise ValueError(
            f"labels of shape {tuple(view.shape)} cannot be taken over where {corrections.shape} are corrected"
        )
    blocks = list(_blocks(corrections.shape))
    if first is not None:
        blocks.sort(key=lambda block: block.intersect(first).size == 0)
    for done, block in enumerate(blocks):
        said = np.asarray(view[block.slices]).astype(np.uint8)  # computed before anybody has to wait for it
        with corrections.saving():
            _take_over(corrections, block, said)
        yield done + 1, len(blocks)
    if source is not None:
        corrections.set_source(source)


def settle(corrections: Corrections, box: Box | None = None) -> None:
    """Finish what is pending in a box, or anywhere, since a proposal was interrupted."""
    with corrections.saving():
        for part in _stored(corrections) if box is None else [box]:
            pending = np.asarray(corrections.pending[part.slices]).astype(np.int16)
            if not pending.any():
                continue
            said = pending - 1
            labels, proposal = (np.array(a[part.slices]) for a in (corrections.labels, corrections.proposal))
            # Whatever was painted since is neither the old label nor the new one, and stays.
            moving = (pending > 0) & ((labels == proposal) | (labels == said))
            labels[moving] = proposal[moving] = said[moving]
            _write(corrections.labels, part, labels)
            _write(corrections.proposal, part, proposal)
            _write(corrections.pending, part, 0)


def _take_over(corrections: Corrections, block: Box, said: NDArray[np.uint8]) -> None:
    if corrections.unpainted == "ignore":
        _write(corrections.proposal, block, said + 1)
        return
    settle(corrections, block)  # what an earlier one left when the disk was full
    labels, proposal = (np.asarray(a[block.slices]) for a in (corrections.labels, corrections.proposal))
    moving = (labels == proposal) & (labels != said) & ~corrections.in_review(block)
    if moving.any():
        _write(corrections.pending, block, np.where(moving, said + 1, 0).astype(np.uint8))
        _write(corrections.labels, block, np.where(moving, said, labels))
        _write(corrections.proposal, block, np.where(moving, said, proposal))
        _write(corrections.pending, block, 0)


def _write(array: zarr.Array[Any], box: Box, values: Any) -> None:
    array[box.slices] = values


def _blocks(shape: tuple[int, ...]) -> Iterator[Box]:
    """Boxes that partition the stack, slice by slice, in the plane along chunks."""
    steps = (*(1 for _ in shape[:-2]), EDGE, EDGE)
    for start in itertools.product(*map(range, [0] * len(shape), shape, steps)):
        stop = (min(a + step, n) for a, step, n in zip(start, steps, shape, strict=True))
        yield Box(tuple(start), tuple(stop))


def _stored(corrections: Corrections) -> list[Box]:
    """The chunks in which something is pending: those that have a file."""
    pending, folder = corrections.pending, corrections.path / "pending" / "c"
    whole, boxes = Box.of(corrections.shape), []
    for file in folder.rglob("*"):
        place = file.relative_to(folder).parts
        if len(place) == whole.ndim and all(part.isdecimal() for part in place):
            start = [int(part) * n for part, n in zip(place, pending.chunks, strict=True)]
            stop = [a + n for a, n in zip(start, pending.chunks, strict=True)]
            boxes.append(Box(tuple(start), tuple(stop)).intersect(whole))
    return boxes
