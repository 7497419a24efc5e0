"""What is on the screen, predicted while one looks: the job behind the live slider, without Qt or napari.

Decides, in this order: what somebody looks at (`View`) and what comes back (`Looked`), what is kept
between views (`LiveSession`), and how a view is served (`look`). The blocks that it is cut into are in `live_blocks.py`.

A view is computed level by level, the first head of every block before the second of any::

    L1 of all blocks, the middle of the view first   ->  L2 of all  ->  ...  ->  the slider's level

Every level goes on from the nodes of the one before it. The view may change at any time: the session
holds the newest one, which is looked at after every node, so that nothing stale is finished. What
a run has stored already is left out, and so is what was answered before.

Blocks of a view that is larger than one are read with the fast halo, so that their labels may
differ a little along their borders from those of a run; an image of one block has no such border.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.box import Box
from napari_unetpp.gui.comparison import ENSEMBLE, Level
from napari_unetpp.gui.live_blocks import blocks_of, covered, outer_of, region_of
from napari_unetpp.gui.loaded import load_ready
from napari_unetpp.inference.events import Waiting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_unetpp.inference.backends import Backend
    from napari_unetpp.inference.region import RegionCache
    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.inference.tiles import Tiles
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.intensity import Over, Scaling
    from napari_unetpp.stacks import Stack

ENSEMBLE_LABEL = 255  # of one class; a level's labels are its number, so that each has its colour
NODE_BYTES = 2**30  # of the blocks whose nodes are kept for deeper levels
ANSWER_BYTES = 2**28  # of answers that are kept, for going back


@dataclass(frozen=True, slots=True)
class View:
    """What somebody looks at: a box in prediction axes, and up to which level.

    Attributes
    ----------
    heads : tuple of int
        Levels that there are to choose from, which make the ensemble.
    """

    box: Box
    level: Level
    heads: tuple[int, ...]
    threshold: float = 0.5

    @property
    def stages(self) -> tuple[int, ...]:
        """Heads to compute, in order."""
        return self.heads if self.level == ENSEMBLE else tuple(d for d in self.heads if d <= int(self.level))


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """Labels of a view, as far as it was reached.

    Attributes
    ----------
    box : Box
        Where the labels are: the view, rounded to the grid of the network.
    labels : uint8 array of box.shape
        0 is background and whatever a run has stored. With one class the others are the level that
        said so (`ENSEMBLE_LABEL` for the ensemble), else the class.
    reached : int or "ensemble" or None
        What all of the view shows by now; None while blocks without an answer are left.
    empty : bool
        Whether there is no label, as where all is stored.
    """

    view: View
    box: Box
    labels: NDArray[np.uint8]
    reached: Level | None
    empty: bool


@dataclass(eq=False, slots=True)
class LiveSession:
    """One image under one model, and what was answered of it.

    The window assigns `wanted`; the worker reads it after every step.

    Attributes
    ----------
    store : PredictionStore or None
        What a run has predicted of the same image with the same model.
    served : View or None
        The last one that was begun.
    intensity, words
        Of what the range of intensities is measured (None: as the model says), and the range in words once it is known.
    seen, scaling
        The stack as its scaling shows it, and what of that is left to apply.
    """

    stack: Stack
    model: Path
    device: str = "auto"
    store: PredictionStore | None = None
    wanted: View | None = None
    served: View | None = None
    scaling: Scaling | None = None
    intensity: Over | None = None
    seen: Stack | None = None
    words: str = ""
    answers: OrderedDict[tuple[Box, int], NDArray[np.uint8]] = field(default_factory=OrderedDict)
    blocks: tuple[Box, ...] = ()
    caches: dict[Box, RegionCache] = field(default_factory=dict)
    plan: tuple[PredictionStore, Tiles | None] | None = None
    voxels: dict[Box, bytes] = field(default_factory=dict)  # hash of what was read for a block

    def keep(self, block: Box, level: int, answer: NDArray[np.uint8]) -> None:
        """Remember an answer, and forget the oldest of other views."""
        self.answers[block, level] = answer
        excess = sum(kept.nbytes for kept in self.answers.values()) - ANSWER_BYTES
        for old in [key for key in self.answers if key[0] not in self.blocks]:
            if excess <= 0:
                break
            excess -= self.answers.pop(old).nbytes


def look(session: LiveSession) -> Generator[Looked | Waiting]:
    """`Looked` as often as there is something new to see, until the wanted view is served.

    Raises
    ------
    ValueError, OSError
        As `load_model`, and where the model cannot take the image; one line for the user.
    """
    from napari_unetpp.inference.inputs import check_input, with_intensity

    model, backend = load_ready(session.model, session.device)
    model = with_intensity(model, session.intensity)
    check_input(session.stack, model)
    if session.scaling is None:
        yield Waiting()
        _measure(session, model)
    while (view := session.wanted) is not None and view is not session.served:
        session.served = view
        yield from _serve(session, view, model, backend)


def _measure(session: LiveSession, model: Model) -> None:
    """Take the range of intensities from the image as it is now."""
    from napari_unetpp.inference.inputs import in_words, measure_stack
    from napari_unetpp.model.sampling import as_seen

    scaling = measure_stack(session.stack, model)
    session.words = in_words(scaling)
    session.seen, session.scaling = as_seen(session.stack, scaling)


def _serve(session: LiveSession, view: View, model: Model, backend: Backend) -> Generator[Looked | Waiting]:
    """The view, level by level, until it is done or another is wanted."""
    region = region_of(view.box, session.stack.shape_predicted, model.spec.ndim, model.spec.grid)
    blocks = blocks_of(region, model.spec.ndim, model.spec.grid)
    session.blocks = tuple(blocks)
    session.caches = {block: cache for block, cache in session.caches.items() if block in blocks}
    labels = np.zeros(region.shape, np.uint8)
    stored = _stored(session, model, region)
    wanted = [block for block in blocks if not covered(block.intersect(view.box), stored)]
    shown: dict[Box, Level] = {}

    def paint(block: Box, level: Level) -> Looked:
        shown[block] = level
        part = labels[block.shift([-a for a in region.start]).slices]
        part[...] = _labels(session, view, block, level)
        for box in _stored(session, model, block):
            part[box.shift([-a for a in block.start]).slices] = 0
        alike = set(shown.values())
        reached = alike.pop() if len(shown) == len(wanted) and len(alike) == 1 else None
        return Looked(view, region, labels, reached, empty=not labels.any())

    if not wanted:
        yield Looked(view, region, labels, view.level, empty=True)
        return
    if any(_changed(session, block, model) for block in wanted):
        yield Waiting()
        session.answers.clear()
        session.caches.clear()
        session.voxels.clear()
        _measure(session, model)
    for block in wanted:  # what was answered before is there at once
        if known := [d for d in view.stages if (block, d) in session.answers]:
            yield paint(block, view.level if len(known) == len(view.stages) else known[-1])
    for stage in view.stages:
        last = stage == view.stages[-1]
        for block in wanted:
            if (block, stage) not in session.answers:
                if stage != view.stages[0] and not last and block not in session.caches:
                    continue  # its nodes were too many to keep: it goes on to the last level at once
                for _ in _answer(session, block, stage, model, backend):
                    yield Waiting()
                    if session.wanted is not view:
                        return
            level = view.level if last else stage
            if shown.get(block) != level and not (block in shown and _above(shown[block], stage)):
                yield paint(block, level)
                if session.wanted is not view:
                    return
    if view.stages[-1] == view.heads[-1]:
        session.caches.clear()  # nothing deeper can go on from them


def _changed(session: LiveSession, block: Box, model: Model) -> bool:
    """Whether the image holds other voxels than those that the kept answers of a block were computed from."""
    if (known := session.voxels.get(block)) is None:
        return False
    outer = outer_of(block, session.stack.shape_predicted, model.spec.ndim, model.spec.grid)
    return _hash(session.stack.read(outer)) != known


def _hash(raw: NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(raw).data, digest_size=16).digest()


def _above(shown: Level, stage: int) -> bool:
    return shown == ENSEMBLE or int(shown) > stage


def _answer(session: LiveSession, block: Box, level: int, model: Model, backend: Backend) -> Generator[None]:
    """Compute a block up to a level, stopping after every node."""
    from napari_unetpp.inference.outputs import to_uint8
    from napari_unetpp.inference.region import RegionCache, deepen
    from napari_unetpp.model.sampling import read_raw

    outer = outer_of(block, session.stack.shape_predicted, model.spec.ndim, model.spec.grid)
    cache = session.caches.get(block)
    if cache is None:
        raw = read_raw(session.seen or session.stack, outer)
        plain = session.seen is None or session.seen is session.stack
        session.voxels[block] = _hash(raw if plain else session.stack.read(outer))
        cache = RegionCache()
        cache.begin(
            raw.reshape(raw.shape[0], *outer.shape[outer.ndim - model.spec.ndim :]), model, backend, session.scaling
        )
        session.caches[block] = cache
        yield
    inside = block.shift([-a for a in outer.start]).slices[outer.ndim - model.spec.ndim :]
    for d in deepen(cache, backend, level):
        if d is not None:
            session.keep(block, d, to_uint8(np.ascontiguousarray(cache.heads[d][(slice(None), *inside)])))
        yield
    if len(session.caches) > 1 and sum(c.nbytes for c in session.caches.values()) > NODE_BYTES:
        del session.caches[block]


def _labels(session: LiveSession, view: View, block: Box, level: Level) -> NDArray[np.uint8]:
    """Labels (block.shape) out of the answers, by the rule of stored predictions."""
    from napari_unetpp.inference.labels import choose_labels

    levels = view.heads if level == ENSEMBLE else (int(level),)
    total = np.zeros(session.answers[block, levels[0]].shape, np.uint16)
    for d in levels:
        session.answers.move_to_end((block, d))
        total += session.answers[block, d]
    chosen = choose_labels(total, len(levels), view.threshold)
    if len(total) == 1:
        chosen = chosen * np.uint8(ENSEMBLE_LABEL if level == ENSEMBLE else int(level))
    return chosen.reshape(block.shape)


def _stored(session: LiveSession, model: Model, region: Box) -> list[Box]:
    """What of the region a run has stored."""
    store = session.store
    if store is None:
        return []
    if session.plan is None or session.plan[0] is not store:
        session.plan = store, _plan(store, model)
    tiles = session.plan[1]
    if tiles is None:
        return []
    near = np.argwhere(store.done() & tiles.touching(region))
    return [tiles.tile(tuple(map(int, place))).inner.intersect(region) for place in near]


def _plan(store: PredictionStore, model: Model) -> Tiles | None:
    """The plan that a store is filled along; None where it is of another model, or does not say."""
    from napari_unetpp.evaluation.agreement import planned_tiles
    from napari_unetpp.inference.folders import StoreError

    mine = (model.sha256, model.intensity.over)
    if (store.record.get("model_sha256"), store.record.get("intensity", "stack")) != mine:
        return None
    try:
        return planned_tiles(store)
    except StoreError:
        return None
