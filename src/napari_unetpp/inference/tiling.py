"""The two ways to tile and their numbers.

Decides, in this order: what can be chosen (`Overlap`, `Seamless`), how a choice is read back from a
model's card or a store's record, and which numbers a network allows. `tiles.py` draws both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_unetpp.model.spec import NetworkSpec

Aggregate = Literal["mean", "vote", "gaussian"]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Square patches every `stride` voxels, whose probabilities are combined where they overlap.

    The last patch of an axis lies flush inside; an axis shorter than the patch is mirrored.

    Parameters
    ----------
    aggregate
        ``"mean"`` of the probabilities; ``"vote"``: share of patches that vote for the class;
        ``"gaussian"``: mean weighted by a Gaussian window around the patch centre.
    """

    patch: int = 96
    stride: int = 48
    aggregate: Aggregate = "mean"

    def describe(self) -> dict[str, Any]:
        """JSON-able numbers; `tiling_from_card` reads them back."""
        return {"kind": "overlap", **{f.name: getattr(self, f.name) for f in fields(self)}}


@dataclass(frozen=True, slots=True)
class Seamless:
    """Inner boxes that partition the stack, each predicted once with a halo around it.

    Parameters
    ----------
    inner
        Edge of the inner boxes, a multiple of 2**depth. None chooses by the stack's extent and the halo.
    halo
        ``"exact"``: the receptive radius, so that the result equals one pass over the whole image.
        ``"fast"``: 16 voxels. Or a number, a multiple of 2**depth.
    """

    inner: int | None = None
    halo: int | Literal["exact", "fast"] = "exact"

    def describe(self) -> dict[str, Any]:
        """JSON-able numbers; `tiling_from_card` reads them back."""
        return {"kind": "seamless", **{f.name: getattr(self, f.name) for f in fields(self)}}


Tiling = Overlap | Seamless


def tiling_from_card(card: Mapping[str, Any]) -> Tiling:
    """Tiling that a model's card recommends, or that a store's record describes.

    >>> tiling_from_card({"kind": "overlap", "patch": 64, "stride": 32})
    Overlap(patch=64, stride=32, aggregate='mean')
    >>> tiling_from_card(Seamless(halo=32).describe())
    Seamless(inner=None, halo=32)

    Raises
    ------
    ValueError
        Where the kind or a field is unknown.
    """
    kinds: dict[str, type[Overlap] | type[Seamless]] = {"overlap": Overlap, "seamless": Seamless}
    values = dict(card)
    kind = values.pop("kind", None)
    if kind not in kinds:
        raise ValueError(f"tiling kind {kind!r} is unknown; use overlap or seamless")
    known = [f.name for f in fields(kinds[kind])]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{kind} tiling has no {', '.join(unknown)}; it is described by {', '.join(known)}")
    return kinds[kind](**values)


# Edges of seamless tiles in 2D, the smallest first that reads at most this much more than it writes.
# A pass goes band by band, so a large tile costs no memory; but Cancel loses it, and nothing of it is
# seen before it is done.
INNER_2D = (512, 1024, 2048)
READ_AT_MOST = 1.25
INNER_3D = 64  # there the memory of 64 + 2 * halo is what binds
FAST_HALO = 16  # as good labels as any longer one (measured), though not equal to the whole image


def check_overlap(tiling: Overlap, grid: int) -> None:
    """Refuse numbers that do not fit a network of that grid, with a ValueError."""
    if tiling.aggregate not in get_args(Aggregate):
        raise ValueError(f"aggregate {tiling.aggregate!r} is unknown; use {', '.join(get_args(Aggregate))}")
    _check_multiple("patch", tiling.patch, grid, at_least=grid)
    if not 1 <= tiling.stride <= tiling.patch:
        raise ValueError(
            f"stride {tiling.stride} leaves gaps between patches of {tiling.patch} or none at all; "
            f"use 1 to {tiling.patch}, for example {tiling.patch // 2}"
        )


def resolve_seamless(tiling: Seamless, spec: NetworkSpec, level: int, spatial: Sequence[int]) -> Seamless:
    """The tiling with its words replaced by numbers of voxels, for a stack of that spatial extent.

    Raises
    ------
    ValueError
        Where a number is off the grid, or an exact halo does not exist for the network.
    """
    halo = tiling.halo
    if halo not in ("exact", "fast") and not isinstance(halo, int):
        raise ValueError(f"halo {halo!r} is unknown; use 'exact', 'fast' or a number of voxels")
    if halo == "exact":
        if not spec.size_independent:
            raise ValueError(f"{spec.size_dependence}, so no halo is exact; use overlap tiling, or a halo of 'fast'")
        halo = round_up(spec.receptive_radius(level), spec.grid)
    elif halo == "fast":
        halo = round_up(FAST_HALO, spec.grid)
    _check_multiple("halo", halo, spec.grid, at_least=0)
    inner = tiling.inner
    if inner is None:
        inner = _choose_inner(spec, int(halo), spatial)
    _check_multiple("inner", inner, spec.grid, at_least=spec.grid)
    return replace(tiling, inner=inner, halo=halo)


def _choose_inner(spec: NetworkSpec, halo: int, spatial: Sequence[int]) -> int:
    if spec.ndim == 3:
        return round_up(INNER_3D, spec.grid)
    for edge in (round_up(e, spec.grid) for e in INNER_2D):
        read = math.prod(_read_of_line(n, edge, halo) for n in spatial)
        if read <= READ_AT_MOST * math.prod(spatial):
            break
    return edge


def _read_of_line(extent: int, inner: int, halo: int) -> int:
    """Voxels that the tiles along one axis read, all together."""
    return sum(min(a + inner + halo, extent) - max(a - halo, 0) for a in range(0, extent, inner))


def _check_multiple(name: str, value: int, grid: int, *, at_least: int) -> None:
    if value >= at_least and value % grid == 0:
        return
    below, above = value // grid * grid, round_up(max(value, at_least), grid)
    fix = f"{below} or {above}" if at_least <= below < above else f"{above}"
    raise ValueError(f"{name} {value} is not a multiple of {grid} (2**depth); use {fix}")


def round_up(value: int, grid: int) -> int:
    """Next multiple of `grid` that is not below `value`."""
    return -(-value // grid) * grid
