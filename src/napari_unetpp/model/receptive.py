"""How far a network sees, found by following intervals of voxels from a head back to the image, axis by axis."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_unetpp.model.spec import NetworkSpec

CONVOLUTIONS_PER_NODE = 2  # H of equation 1 in both papers: two 3x3 convolutions

Interval = tuple[int, int]  # closed


@cache
def receptive_radii(spec: NetworkSpec, level: int) -> tuple[int, ...]:
    """Farthest input voxel, per spatial axis, that a logit of `level` depends on, in the worst phase on the pooling grid."""
    return tuple(_radius(spec, level, axis) for axis in range(spec.ndim))


def _radius(spec: NetworkSpec, level: int, axis: int) -> int:
    head_radius = 0 if spec.head == "conv1" else 1
    radius = 0
    for voxel in range(spec.reduction(level)[axis]):
        low, high = _seen(spec, axis, 0, level, (voxel - head_radius, voxel + head_radius))
        radius = max(radius, voxel - low, high - voxel)
    return radius


def _seen(spec: NetworkSpec, axis: int, i: int, j: int, of: Interval) -> Interval:
    """Interval of image voxels that an interval of voxels of X^{i,j} depends on."""
    reach = spec.kernel(i)[axis] // 2
    # Without padding the pooling windows of the rows are shifted against each other, each by less than a window.
    shift = 1 if spec.padding == "valid" else 0
    low, high = of
    if j == 0:  # x^{i,0} = H(D(x^{i-1,0}))
        if i == 0:
            return low - CONVOLUTIONS_PER_NODE * reach, high + CONVOLUTIONS_PER_NODE * reach
        step = spec.step(i - 1)[axis]
        shift *= step - 1
        if spec.pooling == "stride":  # the first convolution looks at its neighbours before the step
            below = step * (low - reach) - reach, step * (high + reach) + reach
        else:
            low, high = low - CONVOLUTIONS_PER_NODE * reach, high + CONVOLUTIONS_PER_NODE * reach
            below = step * low, step * high + step - 1
        return _seen(spec, axis, i - 1, 0, (below[0] - shift, below[1] + shift))
    low, high = low - CONVOLUTIONS_PER_NODE * reach, high + CONVOLUTIONS_PER_NODE * reach
    intervals = [_seen(spec, axis, *node, (low, high)) for node in spec.same_row(i, j)]
    step = spec.step(i)[axis]
    # Bilinear and a 4-wide transposed kernel read the two nearest voxels below, the others the one.
    two = 0 if step == 1 else (spec.upsampling not in ("nearest", "transposed2")) + shift
    intervals.append(_seen(spec, axis, i + 1, j - 1, ((low - two) // step, (high + two) // step)))
    return min(a for a, _ in intervals), max(b for _, b in intervals)
