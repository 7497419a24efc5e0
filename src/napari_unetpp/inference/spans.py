"""How an axis of a stack is cut into the spans of tiles.

In this order: spans that are written (`cut`), read with a halo (`with_halo`), patches (`patch_starts`), and the bands of rows that
become safe while patches overlap (`band_spans`).
"""

from __future__ import annotations

from napari_unetpp.inference.tiling import round_up

Spans = tuple[tuple[int, int], ...]  # half-open (start, stop) along one axis, ascending

BAND_ROWS = {2: 96, 3: 32}  # about so many rows a done unit; accumulators hold this plus one patch


def cut(extent: int, step: int) -> Spans:
    """Inner spans of that length; the last ends with the axis.

    >>> cut(37, 16)
    ((0, 16), (16, 32), (32, 37))
    """
    return tuple((a, min(a + step, extent)) for a in range(0, extent, step))


def with_halo(extent: int, inner: int, halo: int, grid: int, end: int) -> Spans:
    """Outer spans that never reach past what a whole-image pass would see.

    That ends at `end`: the extent is mirrored up to a multiple of `grid` and lies in zero padding. An outer box
    that ended elsewhere would put a border of zeros where the whole image has none, or the reverse.
    """
    return tuple((max(a - halo, 0), min(round_up(b, grid) + halo, end)) for a, b in cut(extent, inner))


def patch_starts(extent: int, patch: int, stride: int) -> tuple[int, ...]:
    """Where patches start; the last lies flush inside.

    >>> patch_starts(200, 96, 48)
    (0, 48, 96, 104)
    """
    if extent <= patch:
        return (0,)
    return (*range(0, extent - patch, stride), extent - patch)


def band_spans(
    spatial: tuple[int, ...], starts: tuple[tuple[int, ...], ...], patch: tuple[int, ...], stride: int
) -> tuple[tuple[Spans, ...], tuple[Spans, ...]]:
    """Inner and outer spans: bands along the first spatial axis, one span along the others."""
    strides = max(1, round(BAND_ROWS[len(spatial)] / stride))
    bands = cut(spatial[0], strides * stride)
    reads = []
    for a, b in bands:
        touching = [s for s in starts[0] if s < b and s + patch[0] > a]
        reads.append((touching[0], touching[-1] + patch[0]))
    across = tuple(((0, n),) for n in spatial[1:])
    across_reads = tuple(((0, max(n, edge)),) for n, edge in zip(spatial[1:], patch[1:], strict=True))
    return (bands, *across), (tuple(reads), *across_reads)


def divisor(number: int, at_most: int) -> int:
    """Largest divisor of a number that is not above a bound.

    >>> divisor(48, 32)
    24
    """
    return max(d for d in range(1, min(number, at_most) + 1) if number % d == 0)
