"""A new network for stacks whose slices lie farther apart than their voxels: what spacing a run has, and what is said of it.

Which network that makes is decided by `model.presets.for_spacing`.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from napari_unetpp.model.presets import for_spacing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.training.pairs import Pair


def common_spacing(pairs: Sequence[Pair], ndim: int) -> tuple[float, ...] | None:
    """Micrometres per axis of a network, (z,) y, x: the median over the images that know it; None where none does."""
    found = [pair.image.spacing_predicted_um[-ndim:] for pair in pairs]
    known = [tuple(s for s in spacing if s is not None) for spacing in found]
    whole = [spacing for spacing in known if len(spacing) == ndim]
    return tuple(statistics.median(axis) for axis in zip(*whole, strict=True)) if whole else None


def fit_spacing(spec: NetworkSpec, pairs: Sequence[Pair]) -> NetworkSpec:
    """The specification of a new network as the spacing of its images asks for; a 2D one, or of unknown spacing, as it is."""
    spacing = common_spacing(pairs, spec.ndim) if spec.ndim == 3 else None
    return spec if spacing is None else for_spacing(spec, spacing)


def spacing_lines(spec: NetworkSpec, pairs: Sequence[Pair]) -> list[str]:
    """What to tell a user of a 3D network's axes: which it samples down less, or that its spacing is not known."""
    if spec.ndim != 3:
        return []
    spacing = common_spacing(pairs, 3)
    if spacing is None:
        return ["the images do not say their spacing; the network takes z as it takes y and x"]
    lines = []
    for axis, name in enumerate("zyx"):
        left = sum(spec.step(i)[axis] == 1 for i in range(spec.depth))
        if left:
            flat = sum(spec.kernel(i)[axis] == 1 for i in range(spec.depth + 1))
            ratio = spacing[axis] / min(spacing)
            lines.append(
                f"{name} is {ratio:.3g} times coarser: it is sampled down {spec.depth - left} of {spec.depth} times, and the first "
                f"{'row of the network does' if flat == 1 else f'{flat} rows of the network do'} not convolve across it"
            )
        elif spacing[axis] > min(spacing) * math.sqrt(2):
            lines.append(
                f"{name} is {spacing[axis] / min(spacing):.3g} times coarser, and the network takes it as if it were not"
            )
    return lines
