"""How far the levels of a prediction agree, with the deepest and with a reference, while it is being made.

1. `planned_tiles`: which box each tile of a store fills, known from its record alone.
2. `count_tile`: the labels of all levels in one tile against something else, as counts.
3. `Tally`: such counts of many tiles, each of which counts once, and the scores of their sum.

Labels are those of `labels.label_view`. A tile is counted alone and in pieces, so memory does not grow with the stack; a tile
that was counted need not be read again, because what is done stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.box import Box
from napari_unetpp.evaluation.levels import ENSEMBLE, Unpainted, left_out
from napari_unetpp.evaluation.scores import Confusion, confusion
from napari_unetpp.inference.folders import damaged
from napari_unetpp.inference.labels import choose_labels
from napari_unetpp.inference.layout import array_axes
from napari_unetpp.inference.tiles import Tiles, plan_tiles, tiling_from_card
from napari_unetpp.model.spec import NetworkSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_unetpp.inference.store import PredictionStore

COUNTS = 4  # true and false positives, false and true negatives, as in `Confusion`
PIECE = 2**22  # voxels that are read at once: some 20 MiB with four levels
# Of Dice with the deepest level. On the nuclei sample levels that differ by 0.017 have IoUs that differ by 0.002; those that
# differ by more may be better or worse, which only a reference tells.
AGREEMENT_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Reference:
    """Labels to be scored against.

    Parameters
    ----------
    read
        Integer labels of a box in prediction axes. With one class every label above 0 is foreground, so instances will do.
    unpainted
        What 0 means; with "ignore" it is not annotated and left out, 1 is background and 2, 3.. are classes 1, 2...
    """

    read: Callable[[Box], NDArray[Any]]
    unpainted: Unpainted = "background"


def compared(store: PredictionStore) -> tuple[str, ...]:
    """What is compared, in the order of all counts: "L1".., and last "ensemble" where there are several levels."""
    return (*(f"L{level}" for level in store.levels), *((ENSEMBLE,) if len(store.levels) > 1 else ()))


def planned_tiles(store: PredictionStore) -> Tiles | None:
    """The plan by which a store is filled; None while no run has begun.

    Only the inner boxes are meant: halos and order depend on the network as well.

    Raises
    ------
    StoreError
        Where the record of the store does not say how it was cut.
    """
    if store.grid is None:
        return None
    # Along an axis that the network convolves a tile has several voxels, elsewhere exactly one.
    ndim = sum(tiles < extent for tiles, extent in zip(store.grid, store.shape, strict=True))
    try:
        # What is recorded are numbers, so any network of that many axes is cut in the same way.
        tiling = tiling_from_card(store.record["tiling"])
        tiles = plan_tiles(store.shape, NetworkSpec(ndim=ndim, widths=(1, 1), heads=(1,)), tiling)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(store.path, f"no plan of tiles in its record: {error}") from None
    if tiles.grid != store.grid:
        raise damaged(store.path, f"{store.grid} tiles per axis where its record gives {tiles.grid}")
    return tiles


def count_tile(
    store: PredictionStore, box: Box, others: Sequence[Reference | None], threshold: float = 0.5
) -> list[NDArray[np.int64]]:
    """Counts (compared, class, `COUNTS`) of a tile's inner box, against each of `others`; None is the deepest level.

    With one class channel that class is counted, where its probability is at least `threshold`; with several all but
    channel 0, the background.

    Raises
    ------
    ValueError
        Where the store is damaged, or a reference gives another shape than it was asked for.
    """
    channels = len(store.classes)
    # The label to be counted; None is any above 0.
    classes: list[int | None] = [None] if channels == 1 else [*range(1, channels)]
    found = [np.zeros((len(compared(store)), len(classes), COUNTS), np.int64) for _ in others]
    for piece in pieces(box, store):
        labels = _labels(store, piece, threshold)
        for counts, other in zip(found, others, strict=True):
            truth, ignore = (labels[len(store.levels) - 1], None) if other is None else _truth(other, piece)
            for row, label in enumerate(labels):
                for column, foreground in enumerate(classes):
                    c = confusion(label, truth, foreground, ignore)
                    counts[row, column] += (c.tp, c.fp, c.fn, c.tn)
    return found


class Tally:
    """Counts of the tiles of a plan, of each the latest, and their sum.

    Attributes
    ----------
    total : array
        (compared, class, `COUNTS`), over all tiles that were put in.
    counted : array of bool
        By `Tiles.number`, whether the tile is in it and still as it was.
    """

    def __init__(self, tiles: int, compared: int, classes: int) -> None:
        self._tiles = np.zeros((tiles, compared, classes, COUNTS), np.uint32)
        self._within = np.zeros(tiles, bool)
        self.total = np.zeros((compared, classes, COUNTS), np.int64)
        self.counted = np.zeros(tiles, bool)

    @classmethod
    def of(cls, store: PredictionStore, tiles: Tiles) -> Tally:
        """An empty one for a store that is filled by that plan."""
        return cls(len(tiles), len(compared(store)), max(1, len(store.classes) - 1))

    @property
    def tiles(self) -> int:
        """How many tiles are in it."""
        return int(self._within.sum())

    def put(self, number: int, counts: NDArray[np.int64]) -> None:
        """Take in the counts of a tile, in place of those it may have had."""
        self.total += counts - self._tiles[number].astype(np.int64)
        self._tiles[number] = counts
        self._within[number] = self.counted[number] = True

    def outdate(self, numbers: Any = slice(None)) -> None:
        """Say that tiles have changed; they stay in the sum until they are counted again."""
        self.counted[numbers] = False

    def scores(self, name: str) -> list[float | None]:
        """A score ("iou", "dice", "f2" ..) of each that is compared; None where no voxel counts.

        With several classes it is the mean over those that are found anywhere, in what is compared or in what it is
        compared with; a class that nobody has would only bring the levels nearer to each other.
        """
        if not self.total.any():
            return [None] * len(self.total)
        present = self.total[..., :3].any(axis=(0, 2))
        used = np.flatnonzero(present) if present.any() else [0]
        of_classes = [[getattr(Confusion(*map(int, row[k])), name) for k in used] for row in self.total]
        return [float(np.mean(values)) for values in of_classes]


def _labels(store: PredictionStore, box: Box, threshold: float) -> list[NDArray[np.uint8]]:
    """Labels of each that is compared."""
    labels = []
    total: NDArray[np.uint16] | None = None
    for level in store.levels:
        stored = store.read(level, box).astype(np.uint16)
        labels.append(choose_labels(stored, 1, threshold))
        total = stored if total is None else np.add(total, stored, out=total)
    if total is not None and len(store.levels) > 1:
        labels.append(choose_labels(total, len(store.levels), threshold))
    return labels


def _truth(reference: Reference, box: Box) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Labels of the reference, and which voxels are left out."""
    labels = np.asarray(reference.read(box))
    ignore = left_out(labels, reference.unpainted)
    return (labels if reference.unpainted == "background" else labels.astype(np.int64) - 1), ignore


def pieces(box: Box, store: PredictionStore) -> Iterator[Box]:
    """The box in parts of about `PIECE` voxels, cut where chunks end so that none is read twice."""
    if box.size <= PIECE:
        yield box
        return
    stored = zip(array_axes(store.axes), store.probability(store.levels[0]).chunks, strict=True)
    chunks = [n for axis, n in stored if axis != "c"]
    in_chunks = [-(-extent // n) for extent, n in zip(box.shape, chunks, strict=True)]
    axis = int(np.argmax(in_chunks))
    if in_chunks[axis] == 1:
        yield box
        return
    stop, start = list(box.stop), list(box.start)
    stop[axis] = start[axis] = box.start[axis] + in_chunks[axis] // 2 * chunks[axis]
    yield from pieces(Box(box.start, tuple(stop)), store)
    yield from pieces(Box(tuple(start), box.stop), store)
