"""The work behind the Compare dock, as generators that know neither Qt nor napari.

Decides, in this order: which model file a prediction was made with, and what its levels cost (`describe`); how the tiles that are
done are counted, a little at a time (`count`); and how fast the model is here (`measure`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetpp._opened import one_line
from napari_unetpp.gui.catalogue import known_sha256
from napari_unetpp.gui.loaded import load_ready
from napari_unetpp.model.zoo import ModelEntry, model_entries

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_unetpp.box import Box
    from napari_unetpp.evaluation.agreement import Reference
    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.inference.tiles import Tiles
    from napari_unetpp.model.costs import LevelCost

# Everything that imports torch or reads a disk at length is imported and done inside the generators: they run in the worker.

TURN_SECONDS = 1.0  # for which counting holds a thread, of which there are few; then a run or a preview may have it
ROUNDS = 3  # of which the median is told; one more, the first, only warms up
NOISE = {2: (512, 512), 3: (64, 64, 64)}  # 2**18 voxels: large enough to be one of a run's tiles, and soon done


@dataclass(frozen=True, slots=True)
class Described:
    """The model of a prediction, of that hash; where its file is gone, `problem` says so in one line."""

    sha256: str = ""
    entry: ModelEntry | None = None
    costs: tuple[LevelCost, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """A store as it is on the disk by now, and by which plan it is filled."""

    store: PredictionStore
    tiles: Tiles


@dataclass(frozen=True, slots=True)
class Counted:
    """Counts of one tile: against the deepest level, and against the reference; None is what was not asked for.

    `highest` is the highest label of the reference in it.
    """

    number: int
    agreement: NDArray[np.int64] | None
    score: NDArray[np.int64] | None
    highest: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """How a turn of counting ended: `done` tiles of `total` are on the disk, `left` of them are still to be counted."""

    done: int
    total: int
    left: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be counted: the tiles that are not `agreed`, and where there is a reference those that are not `scored`.

    Both hold one element a tile; None is no tile yet.
    """

    path: Path
    threshold: float
    reference: Reference | None = None
    agreed: NDArray[np.bool_] | None = None
    scored: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds a megavoxel of each level, the median so far; empty while the model warms up."""

    seconds: Mapping[int, float]
    done: int
    total: int
    how: str


def describe(record: Mapping[str, Any]) -> Generator[Described]:
    """The model file of a prediction's record, and the costs of its levels, as one event."""
    from napari_unetpp.model.checkpoint import read_header
    from napari_unetpp.model.costs import level_costs

    sha256 = record.get("model_sha256", "")
    try:
        entry = find_model(record)
        yield Described(sha256, entry, level_costs(read_header(entry.path).spec))
    except (OSError, ValueError) as error:
        yield Described(sha256, problem=one_line(error))


def find_model(record: Mapping[str, Any]) -> ModelEntry:
    """The model that a prediction was made with: it has the hash that the record names.

    Raises
    ------
    FileNotFoundError
        Where no model of the zoo is that one; the message says what to do.
    """
    name, wanted = record.get("model", "unknown"), record.get("model_sha256", "")
    entries = sorted(model_entries(), key=lambda entry: entry.name != name)
    for entry in entries:
        if known_sha256(entry.path) == wanted:
            return entry
    changed = any(entry.name == name for entry in entries)
    gone = "is another file by now" if changed else "is no longer among the models"
    raise FileNotFoundError(
        f"The model {name} of this prediction {gone} (wanted is sha256 {wanted[:12] or 'unknown'}); "
        "import that file in the Models dock, or segment again."
    )


def count(asked: Asked) -> Generator[Opened | Counted, None, Turn]:
    """`Opened`, then what was asked for of tile after tile; returns after `TURN_SECONDS`, if not sooner.

    The store is opened anew each time: another run may go on in it.

    Raises
    ------
    StoreError, OSError
        Where the store is damaged or gone.
    ValueError
        Where the reference is not what it was when it was chosen.
    """
    import numpy as np

    from napari_unetpp.evaluation.agreement import count_tile, planned_tiles
    from napari_unetpp.inference.store import open_store

    store = open_store(asked.path)
    tiles = planned_tiles(store)
    if tiles is None:
        return Turn(0, 0, 0)
    yield Opened(store, tiles)
    nothing = np.zeros(len(tiles), bool)
    agreed = nothing if asked.agreed is None else asked.agreed
    scored = (nothing if asked.scored is None else asked.scored) | (asked.reference is None)
    done = store.done().ravel()
    missing = np.flatnonzero(done & ~(agreed & scored))
    ends = time.monotonic() + TURN_SECONDS
    for place, number in enumerate(map(int, missing)):
        if place and time.monotonic() > ends:  # a tile at least, however long it takes
            return Turn(int(done.sum()), len(tiles), len(missing) - place)
        others: list[Reference | None] = [] if agreed[number] else [None]
        highest: list[int] = [0]
        if not scored[number] and asked.reference is not None:
            others.append(replace(asked.reference, read=partial(_noting, asked.reference.read, highest)))
        counts = count_tile(store, tiles.tile(tiles.index(number)).inner, others, asked.threshold)
        yield Counted(
            number,
            agreement=None if agreed[number] else counts[0],
            score=None if scored[number] else counts[-1],
            highest=max(highest),
        )
    return Turn(int(done.sum()), len(tiles), 0)


def _noting(read: Callable[[Box], NDArray[Any]], highest: list[int], box: Box) -> NDArray[Any]:
    """The labels of a box; their highest is noted."""
    labels = read(box)
    highest.append(int(labels.max(initial=0)))
    return labels


def measure(path: Path, levels: tuple[int, ...]) -> Generator[Measured]:
    """How long each level takes on noise, told after each pass.

    It is one tile of a run, in the device and precision that a run would choose, without halo or overlap.

    Raises
    ------
    OSError, ValueError
        As `load_model`.
    """
    import numpy as np

    from napari_unetpp.inference.predict import predict_array
    from napari_unetpp.inference.tiling import Seamless
    from napari_unetpp.stacks import open_stack

    model, backend = load_ready(path)
    spec = model.spec
    extent = NOISE[spec.ndim]
    edge = -(-extent[0] // spec.grid) * spec.grid
    noise = np.random.default_rng(0).integers(0, 256, (spec.in_channels, *extent), np.uint8)
    image = open_stack(noise, axes="czyx" if spec.ndim == 3 else "cyx")
    how = f"{backend.device.type.upper()}, {backend.precision}"
    taken: dict[int, list[float]] = {level: [] for level in levels}
    total = (ROUNDS + 1) * len(levels)
    for number in range(total):
        level = levels[number % len(levels)]
        began = time.perf_counter()
        predict_array(image, model, tiling=Seamless(inner=edge, halo=0), level=level, backend=backend)
        seconds = time.perf_counter() - began
        if number >= len(levels):
            taken[level].append(seconds / noise[0].size * 1e6)
        medians = {level: statistics.median(times) for level, times in taken.items() if times}
        yield Measured(medians, number + 1, total, how)
