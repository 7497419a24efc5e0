"""Whether an image and its labels were named in exchange.

In labels neighbours are mostly equal, because objects are wider than a voxel. In a picture they differ, because of noise and
gradients. The two were exchanged where the "labels" are rough and hold many values, while the "image" is flat and whole. The most
common value is left out on both sides: black background is flat in a picture, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.box import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_unetpp.stacks import Stack

# Over 91 public pairs (EM, nuclei, phase contrast, MR): images are flat to 0.41 at most, labels to 0.54 at least, and to 0.82 at
# least where they are not thin boundaries of two values.
_ROUGH, _FLAT, _THIN = 0.5, 0.7, 0.5
_FEW = 16  # different values of labels that may be thin lines or scribbles
_EDGE, _PLANES = 512, 5  # voxels of a plane's middle, and planes, that are looked at


@dataclass(frozen=True, slots=True)
class Looks:
    """How some planes of an image look.

    `flat` is the share of equal neighbours along x, among those that are not both the most common value; 1 where there are none.
    """

    whole: bool
    values: int
    flat: float


def check_sides(image: Stack, label: Stack) -> None:
    """Refuse an image and labels that look exchanged; only some planes are read.

    Raises
    ------
    ValueError
        Naming both.
    """
    labels = looks(label)
    if labels.flat >= _ROUGH or labels.values <= _FEW:
        return
    picture = looks(image)
    least = _THIN if picture.values <= _FEW else _FLAT
    if picture.whole and picture.values > 1 and picture.flat >= least:
        raise ValueError(
            f"image {image.name} and labels {label.name} look exchanged: the image holds {picture.values} different whole numbers "
            f"in flat areas, and the labels hold {labels.values} values that change from voxel to voxel; exchange the two"
        )


def looks(stack: Stack) -> Looks:
    """How the middle of evenly spread planes looks, in the first channel."""
    shape = stack.shape_predicted
    places = np.unique(np.linspace(0, int(np.prod(shape[:-2])) - 1, _PLANES).astype(int))
    inside = [(max(0, n // 2 - _EDGE // 2), min(n, n // 2 + _EDGE // 2)) for n in shape[-2:]]
    planes = []
    for place in places:
        index = np.unravel_index(place, shape[:-2]) if shape[:-2] else ()
        spans = [*((int(k), int(k) + 1) for k in index), *inside]
        voxels = stack.read(Box(tuple(a for a, _ in spans), tuple(b for _, b in spans)))[0]
        planes.append(voxels.reshape(voxels.shape[-2:]))
    return _looks(np.stack(planes))


def _looks(planes: NDArray[Any]) -> Looks:
    values, counts = np.unique(planes, return_counts=True)
    common = values[np.argmax(counts)]
    left, right = planes[..., :-1], planes[..., 1:]
    counted = (left != common) | (right != common)
    equal = (left == right) & counted
    total = int(counted.sum())
    whole = planes.dtype.kind in "bui" or bool((np.isfinite(values) & (values == np.floor(values))).all())
    return Looks(whole, len(values), float(equal.sum() / total) if total else 1.0)
