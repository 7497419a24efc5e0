"""What is annotated of the pairs, found once, and brought into memory in blocks as far as memory allows.

In this order: one scan of all labels (`scan`), the blocks of one set (`Blocks`) and which of them an epoch sees (`load_blocks`).

A block is one slice for a 2D network and a cube for a 3D one, at most `EDGE` voxels wide::

    labels  +----+----+      scan: which blocks hold annotations, of which class, how many voxels along each axis
            |    | ## |      Blocks: those inside the training (or held-out) regions, targets packed in memory
            +----+----+      load_blocks: their images too; where these do not fit, another draw every epoch

Targets are kept as they were when the run was planned, so painting goes on while a network trains.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_unetpp.box import Box
from napari_unetpp.model.sampling import as_channels, read_raw
from napari_unetpp.training.losses import IGNORE
from napari_unetpp.training.pairs import Pair, Rule, read_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_unetpp.model.intensity import Scaling

EDGE = {2: 1024, 3: 192}  # voxels: a megabyte or some of labels at once, and many patches wide


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """An annotated box of one pair: voxels of each class in it, and its target, packed."""

    pair: int
    box: Box
    counts: NDArray[np.int64]
    packed: bytes

    @property
    def target(self) -> NDArray[np.uint8]:
        return np.frombuffer(bytearray(zlib.decompress(self.packed)), np.uint8).reshape(self.box.shape)

    @property
    def annotated(self) -> int:
        return int(self.counts.sum())


@dataclass(frozen=True, slots=True, eq=False)
class Annotated:
    """What one pair's labels hold: its blocks, voxels of each class along each axis, and a hash of all of it.

    `along` has one (extent, class) array per prediction axis.
    """

    blocks: tuple[Block, ...]
    along: tuple[NDArray[np.int64], ...]
    sha256: str

    @property
    def counts(self) -> NDArray[np.int64]:
        """Annotated voxels of each class."""
        return np.asarray(self.along[0].sum(axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A block in memory: image (channel, *box) raw, target (*box) uint8 class or IGNORE, scaling and spacing of its stack.

    `spacing_um` has one number per axis of the box, None where it is unknown.
    """

    image: NDArray[Any]
    target: NDArray[np.uint8]
    scaling: Scaling
    spacing_um: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """The blocks of one set, and where their images are.

    Parameters
    ----------
    memory
        Bytes that an epoch's images and targets may take together; one block at least is always there.
    """

    pairs: tuple[Pair, ...]
    scalings: tuple[Scaling, ...]
    channels: int
    blocks: tuple[Block, ...]
    memory: int
    _kept: list[Loaded] = field(default_factory=list)  # what load_blocks has read, where all of it fits

    @property
    def counts(self) -> NDArray[np.int64]:
        """Annotated voxels of each class; a single 0 without blocks."""
        return np.asarray(np.sum([block.counts for block in self.blocks], axis=0, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return sum(map(self.bytes_of, self.blocks))

    @property
    def fits(self) -> bool:
        return self.nbytes <= self.memory

    def bytes_of(self, block: Block) -> int:
        stack = self.pairs[block.pair].image
        return block.box.size * (1 + stack.channels * stack.dtype.itemsize)


def scan(pair: Pair, ndim: int, rule: Rule) -> Annotated:
    """What the labels of a pair hold, read once, block by block.

    Raises
    ------
    ValueError
        If a label is no class of the network.
    """
    classes = max(rule.classes, 2)
    along = tuple(np.zeros((n, classes), np.int64) for n in pair.whole.shape)
    digest = hashlib.sha256(repr((pair.whole.shape, classes)).encode())
    blocks = []
    for box in _grid(pair, ndim, rule):
        target = read_target(pair, box, rule)
        counts = np.bincount(target.reshape(-1), minlength=IGNORE + 1)[:classes]
        if not counts.any():
            continue
        for k in np.flatnonzero(counts):
            held = target == k
            for axis, total in enumerate(along):
                others = tuple(a for a in range(held.ndim) if a != axis)
                total[box.slices[axis], k] += np.count_nonzero(held, axis=others)
        packed = zlib.compress(target.tobytes(), level=1)
        digest.update(repr(box).encode() + target.tobytes())
        blocks.append(Block(-1, box, counts, packed))
    return Annotated(tuple(blocks), along, digest.hexdigest())


def blocks_in(annotated: Annotated, pair: int, region: Box) -> Iterator[Block]:
    """The annotated blocks of a pair as far as they lie in a region."""
    for block in annotated.blocks:
        part = block.box.intersect(region)
        if not part.size:
            continue
        if part == block.box:
            yield Block(pair, part, block.counts, block.packed)
            continue
        target = np.ascontiguousarray(block.target[part.shift([-n for n in block.box.start]).slices])
        counts = np.bincount(target.reshape(-1), minlength=IGNORE + 1)[: len(block.counts)]
        if counts.any():
            yield Block(pair, part, counts, zlib.compress(target.tobytes(), level=1))


def thinned(data: Blocks, voxels: int) -> Blocks:
    """Evenly spread blocks of together about `voxels` voxels, one at least, and one of each class; they stay in memory."""
    total = sum(block.box.size for block in data.blocks)
    every = max(1, -(-total // voxels))
    chosen = set(range(len(data.blocks))[every // 2 :: every] or range(len(data.blocks))[:1])
    for k in np.flatnonzero(data.counts) if data.blocks else ():
        if not any(data.blocks[index].counts[k] for index in chosen):
            chosen.add(max(range(len(data.blocks)), key=lambda index: int(data.blocks[index].counts[k])))
    return replace(data, blocks=tuple(data.blocks[index] for index in sorted(chosen)), memory=2**62, _kept=[])


def load_blocks(data: Blocks, seed: int) -> list[Loaded]:
    """The blocks that one epoch draws from: all of them where they fit, else as many as do, drawn anew for each seed.

    A block's chance is its number of annotated voxels.

    Raises
    ------
    ValueError
        If an image holds NaN or infinity.
    """
    if data.fits:
        if not data._kept:
            data._kept.extend(load_block(data, block) for block in data.blocks)
        return data._kept
    weights = torch.tensor([float(block.annotated) for block in data.blocks])
    order = torch.multinomial(weights, len(weights), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen: list[Block] = []
    left = data.memory
    for k in order:
        left -= data.bytes_of(data.blocks[k])
        if left < 0 and chosen:
            break
        chosen.append(data.blocks[k])
    # in the order on disk, which is the cheapest to read
    chosen.sort(key=lambda block: (block.pair, block.box.start))
    return [load_block(data, block) for block in chosen]


def load_block(data: Blocks, block: Block) -> Loaded:
    """One block with its image; where that is padded with NaN, nothing is annotated."""
    pair = data.pairs[block.pair]
    image = as_channels(read_raw(pair.image, block.box), data.channels)
    target = block.target
    if image.dtype.kind == "f" and (nothing := np.isnan(image).any(axis=0)).any():
        target = np.where(nothing, np.uint8(IGNORE), target)
    return Loaded(image, target, data.scalings[block.pair], pair.image.spacing_predicted_um)


def _grid(pair: Pair, ndim: int, rule: Rule) -> Iterator[Box]:
    """Boxes of at most one slice (2D) or a cube (3D) that partition the stack; those that nobody reviewed are left out."""
    whole = pair.whole
    reviewed = None if rule.ignores_zero(pair) else pair.reviewed
    steps = []
    for axis, extent in enumerate(whole.shape):
        parts = -(-extent // EDGE[ndim]) if axis >= whole.ndim - ndim else extent
        edges = [extent * k // parts for k in range(parts + 1)]
        steps.append(list(pairwise(edges)))
    for place in np.ndindex(*(len(s) for s in steps)):
        spans = [s[k] for s, k in zip(steps, place, strict=True)]
        box = Box(tuple(a for a, _ in spans), tuple(b for _, b in spans))
        if reviewed is None or any(box.intersect(r).size for r in reviewed):
            yield box
