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
Voxels = int | tuple[int, ...]  # for all spatial axes, or one number for each of (z,) y, x


@dataclass(frozen=True, slots=True)
class Overlap:
    """Patches every `stride` voxels, whose probabilities are combined where they overlap.

    The last patch of an axis lies flush inside; an axis shorter than the patch is mirrored.

    Parameters
    ----------
    aggregate
        ``"mean"`` of the probabilities; ``"vote"``: share of patches that vote for the class;
        ``"gaussian"``: mean weighted by a Gaussian window around the patch centre.
    """

    patch: Voxels = 96
    stride: Voxels = 48
    aggregate: Aggregate = "mean"

    def describe(self) -> dict[str, Any]:
        """JSON-able numbers; `tiling_from_card` reads them back."""
        return {"kind": "overlap", **{f.name: _plain(getattr(self, f.name)) for f in fields(self)}}


@dataclass(frozen=True, slots=True)
class Seamless:
    """Inner boxes that partition the stack, each predicted once with a halo around it.

    Parameters
    ----------
    inner
        Edge of the inner boxes, a multiple of 2**depth. None chooses by the stack's extent and the halo.
    halo
        ``"exact"``: the receptive radius, so that the result equals one pass over the whole image.
        ``"fast"``: 16 voxels. ``"bounded"``: as much of the radius as lets the tiles read `BOUND` times what they write; the
        exact halo of L4 is 112 voxels, for which a volume would be read 91 times in tiles of 64. Or a number, a multiple of
        2**depth.

    Networks that sample down less along z (`NetworkSpec.steps`) have numbers of their own for each axis.
    """

    inner: Voxels | None = None
    halo: Voxels | Literal["exact", "fast", "bounded"] = "exact"

    def describe(self) -> dict[str, Any]:
        """JSON-able numbers; `tiling_from_card` reads them back."""
        return {"kind": "seamless", **{f.name: _plain(getattr(self, f.name)) for f in fields(self)}}


Tiling = Overlap | Seamless


def tiling_from_card(card: Mapping[str, Any], ndim: int = 2) -> Tiling:
    """Tiling that a model's card recommends, or that a store's record describes; of what it leaves open, the usual for `ndim`.

    >>> tiling_from_card({"kind": "overlap", "patch": 64, "stride": 32})
    Overlap(patch=64, stride=32, aggregate='mean')
    >>> tiling_from_card(Seamless(halo=32).describe())
    Seamless(inner=None, halo=32)
    >>> tiling_from_card({"kind": "seamless"}, 3)  # where an exact halo costs too much
    Seamless(inner=None, halo='bounded')

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
    if ndim == 3:
        values = {**_VOLUMES[kind], **values}
    numbers: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return kinds[kind](**numbers)


_VOLUMES: dict[str, dict[str, Any]] = {"overlap": {"patch": 64, "stride": 32}, "seamless": {"halo": "bounded"}}


def per_axis(value: Voxels, ndim: int, name: str = "extent") -> tuple[int, ...]:
    """One number for each of `ndim` axes.

    Raises
    ------
    ValueError
        Where there are more or fewer numbers than axes.
    """
    values = (value,) * ndim if isinstance(value, int) else tuple(value)
    if len(values) != ndim:
        raise ValueError(f"{name} {_words(values)} has {len(values)} numbers where the model has {ndim} axes")
    return values


def one_number(values: Sequence[int]) -> Voxels:
    """The number that all axes share, else one for each."""
    return values[0] if len({*values}) == 1 else tuple(values)


def in_words(voxels: Voxels) -> str:
    """A number of voxels, or one for each axis, to be read.

    >>> in_words(96), in_words((16, 96, 96))
    ('96', '16 x 96 x 96')
    """
    return str(voxels) if isinstance(voxels, int) else " x ".join(map(str, voxels))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# Edges of seamless tiles in 2D, the smallest first that reads at most this much more than it writes.
# A pass goes band by band, so a large tile costs no memory; but Cancel loses it, and nothing of it is
# seen before it is done.
INNER_2D = (512, 1024, 2048)
READ_AT_MOST = 1.25
INNER_3D = 64  # there the memory of 64 + 2 * halo is what binds
BOUND = 4.0  # times that a volume is read by tiles with a bounded halo
FAST_HALO = 16  # as good labels as any longer one (measured), though not equal to the whole image


def check_overlap(tiling: Overlap, grids: Sequence[int]) -> None:
    """Refuse numbers that do not fit a network of those grids, one per axis, with a ValueError."""
    if tiling.aggregate not in get_args(Aggregate):
        raise ValueError(f"aggregate {tiling.aggregate!r} is unknown; use {', '.join(get_args(Aggregate))}")
    patch = per_axis(tiling.patch, len(grids), "patch")
    _check_multiples("patch", patch, grids, at_least=grids)
    for edge, stride in zip(patch, per_axis(tiling.stride, len(grids), "stride"), strict=True):
        if not 1 <= stride <= edge:
            raise ValueError(
                f"stride {stride} leaves gaps between patches of {edge} or none at all; use 1 to {edge}, "
                f"for example {edge // 2}"
            )


def resolve_seamless(tiling: Seamless, spec: NetworkSpec, level: int, spatial: Sequence[int]) -> Seamless:
    """The tiling with its words replaced by numbers of voxels, for a stack of that spatial extent.

    Raises
    ------
    ValueError
        Where a number is off the grid, or an exact halo does not exist for the network.
    """
    asked, grids = tiling.halo, spec.grids
    if isinstance(asked, str) and asked not in ("exact", "fast", "bounded"):
        raise ValueError(f"halo {asked!r} is unknown; use 'exact', 'fast', 'bounded' or a number of voxels")
    if asked == "bounded":
        halo = _bounded(tiling, spec, level, spatial)
    elif asked == "exact":
        if not spec.size_independent:
            raise ValueError(f"{spec.size_dependence}, so no halo is exact; use overlap tiling, or a halo of 'fast'")
        halo = _rounded(spec.receptive_radii(level), grids)
    elif asked == "fast":
        reach = [FAST_HALO * grid // spec.grid for grid in grids]  # the same number of voxels of the deepest map
        halo = _rounded(reach, grids)
    else:
        halo = per_axis(asked, spec.ndim, "halo")
    _check_multiples("halo", halo, grids, at_least=(0,) * spec.ndim)
    inner = _choose_inner(spec, halo, spatial) if tiling.inner is None else per_axis(tiling.inner, spec.ndim, "inner")
    _check_multiples("inner", inner, grids, at_least=grids)
    return replace(tiling, inner=one_number(inner), halo=one_number(halo))


def _bounded(tiling: Seamless, spec: NetworkSpec, level: int, spatial: Sequence[int]) -> tuple[int, ...]:
    """The longest halo on the grid, up to the exact one, with which a volume is read no more than `BOUND` times."""
    longest = _rounded(spec.receptive_radii(level) if spec.size_independent else (FAST_HALO,) * spec.ndim, spec.grids)
    shares = range(max(h // g for h, g in zip(longest, spec.grids, strict=True)), 0, -1)
    for share in shares:
        halo = tuple(min(h, share * g) for h, g in zip(longest, spec.grids, strict=True))
        inner = (
            _choose_inner(spec, halo, spatial) if tiling.inner is None else per_axis(tiling.inner, spec.ndim, "inner")
        )
        read = math.prod(_read_of_line(n, e, h) for n, e, h in zip(spatial, inner, halo, strict=True))
        if read <= BOUND * math.prod(spatial):
            return halo
    return spec.grids


def _choose_inner(spec: NetworkSpec, halo: Sequence[int], spatial: Sequence[int]) -> tuple[int, ...]:
    if spec.ndim == 3:
        return _rounded((INNER_3D,) * 3, spec.grids)
    for edge in INNER_2D:
        inner = _rounded((edge,) * spec.ndim, spec.grids)
        read = math.prod(_read_of_line(n, e, h) for n, e, h in zip(spatial, inner, halo, strict=True))
        if read <= READ_AT_MOST * math.prod(spatial):
            break
    return inner


def _read_of_line(extent: int, inner: int, halo: int) -> int:
    """Voxels that the tiles along one axis read, all together."""
    return sum(min(a + inner + halo, extent) - max(a - halo, 0) for a in range(0, extent, inner))


def _check_multiples(name: str, values: Sequence[int], grids: Sequence[int], *, at_least: Sequence[int]) -> None:
    for value, grid, least in zip(values, grids, at_least, strict=True):
        if value >= least and value % grid == 0:
            continue
        below, above = value // grid * grid, round_up(max(value, least), grid)
        fix = f"{below} or {above}" if least <= below < above else f"{above}"
        where = "2**depth" if len({*grids}) == 1 else "what the network samples down along that axis"
        raise ValueError(f"{name} {value} is not a multiple of {grid} ({where}); use {fix}")


def _words(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _rounded(values: Sequence[int], grids: Sequence[int]) -> tuple[int, ...]:
    return tuple(round_up(value, grid) for value, grid in zip(values, grids, strict=True))


def round_up(value: int, grid: int) -> int:
    """Next multiple of `grid` that is not below `value`."""
    return -(-value // grid) * grid
