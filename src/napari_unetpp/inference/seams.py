"""What a halo shorter than the exact one costs and does, measured on the stack that it is for.

The exact halo of a volume is out of reach: at L4 it is 112 voxels, and tiles of 64 with it read a large volume 91 times. A shorter
one leaves an error at the seams. `seam_errors` predicts a few tiles with each halo in question and with the longest, and compares
the voxels of the inner boxes::

    +--------------- longest halo: what is right ---------------+
    |        +---------- halo in question ----------+           |
    |        |          +---inner---+               |           |
    |        |          | compared  |               |           |

"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_unetpp.box import Box
from napari_unetpp.inference.backends import Backend, prepare
from napari_unetpp.inference.inputs import measure_stack
from napari_unetpp.inference.region import predict_region
from napari_unetpp.inference.tiles import plan_tiles
from napari_unetpp.inference.tiling import Seamless, per_axis
from napari_unetpp.model.sampling import as_seen, read_raw

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_unetpp.inference.tiles import Tiles
    from napari_unetpp.inference.tiling import Voxels
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.stacks import Stack

PLACES = 4  # tiles that are compared


@dataclass(frozen=True, slots=True)
class SeamError:
    """What one halo does to one level.

    Attributes
    ----------
    halo, reference
        Voxels, one number or one per axis; `reference` is the halo that counts as right.
    read_factor
        Times that the tiles of the whole stack read a voxel.
    labels
        Share of the compared voxels whose label is another one.
    mean, largest
        Of the absolute differences of probabilities.
    """

    level: int
    halo: Voxels
    reference: Voxels
    read_factor: float
    voxels: int
    labels: float
    mean: float
    largest: float


def seam_errors(
    stack: Stack,
    model: Model,
    halos: Sequence[int],
    *,
    inner: Voxels | None = None,
    level: int | None = None,
    longest: int | None = None,
    backend: Backend | None = None,
) -> Iterator[SeamError]:
    """An error for each halo and level, the shortest halo first.

    Parameters
    ----------
    halos
        In voxels, multiples of the network's grid.
    inner
        Edge of the tiles; None is what `plan_tiles` chooses.
    longest
        The halo that counts as right; None is the exact one, where the network has one.

    Raises
    ------
    ValueError
        As `plan_tiles`; or where the network has no exact halo and `longest` is not given, or a halo is longer than it.
    """
    backend = backend or prepare(model)
    stack, scaling = as_seen(stack, measure_stack(stack, model))
    right = plan_tiles(stack.shape_predicted, model.spec, Seamless(inner, longest or "exact"), level=level)
    assert isinstance(right.tiling, Seamless)
    assert right.tiling.inner is not None
    plans = [
        plan_tiles(stack.shape_predicted, model.spec, Seamless(right.tiling.inner, halo), level=level)
        for halo in sorted({*halos})
    ]
    ndim = model.spec.ndim
    for plan in plans:
        if any(h > m for h, m in zip(per_axis(_halo(plan), ndim), per_axis(_halo(right), ndim), strict=True)):
            raise ValueError(f"halo {_halo(plan)} is longer than {_halo(right)}, which counts as right; leave it out")
    places = _places(right)
    heads = model.spec.heads_up_to(level)

    def inner_of(plan: Tiles, number: int) -> list[NDArray[np.float32]]:
        """Probabilities (class, *inner) of each level."""
        tile = plan.tile(plan.index(number))
        raw = read_raw(stack, tile.outer)
        raw = raw.reshape(raw.shape[0], *tile.outer.shape[plan.leading :])
        inside = tile.inner.shift([-a for a in tile.outer.start]).slices[plan.leading :]
        found = predict_region(raw, model, level, scaling=scaling, backend=backend)
        return [head[(slice(None), *inside)] for head in found]

    sums = {(plan, d): _Sums() for plan in range(len(plans)) for d in heads}
    for number in places:
        wanted = inner_of(right, number)
        for place, plan in enumerate(plans):
            for d, got, truth in zip(heads, inner_of(plan, number), wanted, strict=True):
                sums[place, d].add(got, truth)
    for place, plan in enumerate(plans):
        for d in heads:
            of = sums[place, d]
            yield SeamError(
                d,
                _halo(plan),
                _halo(right),
                plan.read_factor,
                of.voxels,
                of.labels / of.voxels,
                of.total / of.values,
                of.largest,
            )


@dataclass(slots=True)
class _Sums:
    voxels: int = 0
    values: int = 0
    labels: int = 0
    total: float = 0.0
    largest: float = 0.0

    def add(self, got: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
        """Count an inner box (class, [z,] y, x)."""
        off = np.abs(got - wanted)
        self.voxels += off[0].size
        self.values += off.size
        self.total += float(off.sum(dtype=np.float64))
        self.largest = max(self.largest, float(off.max()))
        if len(got) == 1:
            self.labels += int(((got >= 0.5) != (wanted >= 0.5)).sum())
        else:
            self.labels += int((got.argmax(axis=0) != wanted.argmax(axis=0)).sum())


def _halo(tiles: Tiles) -> Voxels:
    assert isinstance(tiles.tiling, Seamless)
    assert not isinstance(tiles.tiling.halo, str)
    return tiles.tiling.halo


def _places(tiles: Tiles) -> list[int]:
    """Numbers of tiles spread evenly over the stack; one in the middle of it is among them, which has seams on all sides."""
    middle = tiles.number([n // 2 for n in tiles.grid])
    spread = np.linspace(0, len(tiles) - 1, PLACES + 1).round().astype(int)[1:-1].tolist()
    whole = Box.of(tiles.shape)
    return [n for n in dict.fromkeys([middle, *spread]) if tiles.tile(tiles.index(n)).inner.intersect(whole).size][
        :PLACES
    ]
