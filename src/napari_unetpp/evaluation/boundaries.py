"""Scores that forgive a distance of a few voxels: how near two masks, or their outlines, are.

    truth   . . # # # .        prediction   . # # # # #       outline   . . # # # .
            . . # # # .                     . . # # # .        of the   . . # . # .
            . . # # # .                     . . # # # .         truth   . . # # # .

1. `Match`: counts of voxels that have a partner within the tolerance; they can be added.
2. `match_within`: of two masks. `boundary_match`, `boundary_f1`: of their outlines.
3. `outline`: which voxels those are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from napari_unetpp.evaluation.scores import ratio, same_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Match:
    """Voxels of two sets that lie within a tolerance of the other set; two can be added."""

    pred_near: int = 0
    pred_total: int = 0
    truth_near: int = 0
    truth_total: int = 0

    def __add__(self, other: Match) -> Match:
        return Match(
            self.pred_near + other.pred_near,
            self.pred_total + other.pred_total,
            self.truth_near + other.truth_near,
            self.truth_total + other.truth_total,
        )

    @property
    def f1(self) -> float:
        precision = ratio(self.pred_near, self.pred_total)
        recall = ratio(self.truth_near, self.truth_total)
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def match_within(
    pred: NDArray[Any],
    truth: NDArray[Any],
    tolerance: float = 2.0,
    ignore: NDArray[np.bool_] | None = None,
) -> Match:
    """Counts of the voxels of each mask (above 0) within `tolerance` voxels of the other mask.

    Distances are Euclidean, in voxels, in as many dimensions as the arrays have. Meant for
    classes that are themselves lines or sheets, such as membranes.
    """
    same_shape(pred, truth, ignore)
    if tolerance < 0:
        raise ValueError(f"a tolerance of {tolerance} voxels: it must be 0 or more")
    p, t = pred > 0, truth > 0
    if ignore is not None:
        p, t = p & ~ignore, t & ~ignore
    return Match(
        int(np.count_nonzero(p & _near(t, tolerance))),
        int(np.count_nonzero(p)),
        int(np.count_nonzero(t & _near(p, tolerance))),
        int(np.count_nonzero(t)),
    )


def boundary_match(
    pred: NDArray[Any],
    truth: NDArray[Any],
    tolerance: float = 2.0,
    ignore: NDArray[np.bool_] | None = None,
) -> Match:
    """As `match_within`, of the outlines of the two masks."""
    same_shape(pred, truth, ignore)
    return match_within(outline(pred, ignore), outline(truth, ignore), tolerance, ignore)


def boundary_f1(
    pred: NDArray[Any],
    truth: NDArray[Any],
    tolerance: float = 2.0,
    ignore: NDArray[np.bool_] | None = None,
    *,
    slicewise: bool = False,
) -> float:
    """F1 of the outlines of two masks (above 0), found when within `tolerance` voxels (Euclidean).

    `slicewise` measures in each plane of the last two axes and pools the counts (for stacks with
    thick sections); otherwise outlines and distances are n-dimensional.
    """
    same_shape(pred, truth, ignore)
    if not slicewise:
        return boundary_match(pred, truth, tolerance, ignore).f1
    planes = (
        boundary_match(pred[i], truth[i], tolerance, None if ignore is None else ignore[i])
        for i in np.ndindex(pred.shape[:-2])
    )
    return sum(planes, Match()).f1


def outline(mask: NDArray[Any], ignore: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """The voxels of `mask` (above 0) that have a face neighbour outside it.

    The border of the array and of what is ignored is no outline: nobody knows what lies beyond.
    """
    inside: NDArray[np.bool_] = np.asarray(mask) > 0
    known = inside if ignore is None else inside | ignore
    edge = inside.copy()
    edge[ndimage.binary_erosion(known, border_value=1)] = False
    if ignore is not None:
        edge[ignore] = False
    return edge


def _near(mask: NDArray[np.bool_], tolerance: float) -> NDArray[np.bool_]:
    if not mask.any():  # the distance to nothing is undefined in scipy
        return np.zeros(mask.shape, dtype=bool)
    near = np.empty(mask.shape, dtype=np.bool_)
    np.less_equal(ndimage.distance_transform_edt(~mask), tolerance, out=near)
    return near
