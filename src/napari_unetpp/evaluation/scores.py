"""How well a prediction agrees with a reference.

Everything is a count that can be added (slice by slice, image by image) before it becomes a
score, so that a stack is scored in the memory of one slice:

1. `Confusion`: true/false positives/negatives, and IoU, Dice, F2, sensitivity, specificity.
2. `paper_confusions`: the same at ten thresholds, for the mean IoU that the papers print.
3. `partition_scores`: Rand and variation of information of two instance segmentations.

`boundaries.py` holds the scores that forgive a distance; `levels.py` applies them all to L1..L4
and their ensemble.

A score with nothing to find and nothing found (0 / 0) is 1, as in the papers' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

# 0.5, 0.55 .. 0.95, each the double nearest to its decimal fraction, so that a uint8
# probability such as 153 (0.6) ties with its threshold exactly.
PAPER_THRESHOLDS = np.arange(50, 100, 5) / 100


@dataclass(frozen=True, slots=True)
class Confusion:
    """Voxel counts of one class against the rest; two of them can be added.

    >>> Confusion(2, 1, 1, 6) + Confusion(1, 0, 0, 9)
    Confusion(tp=3, fp=1, fn=1, tn=15)
    >>> Confusion(2, 1, 1, 6).iou
    0.5
    >>> Confusion(0, 0, 0, 9).dice
    1.0
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def total(self) -> int:
        return self.tp + self.fp + self.fn + self.tn

    @property
    def iou(self) -> float:
        return ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def background_iou(self) -> float:
        return ratio(self.tn, self.tn + self.fp + self.fn)

    @property
    def dice(self) -> float:
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and sensitivity; the same number as Dice."""
        return self.dice

    @property
    def f2(self) -> float:
        """F-beta with beta = 2: a missed voxel weighs four times a superfluous one."""
        return ratio(5 * self.tp, 5 * self.tp + 4 * self.fn + self.fp)

    @property
    def precision(self) -> float:
        return ratio(self.tp, self.tp + self.fp)

    @property
    def sensitivity(self) -> float:
        return ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        return ratio(self.tn, self.tn + self.fp)


def confusion(
    pred: NDArray[Any],
    truth: NDArray[Any],
    foreground: int | None = None,
    ignore: NDArray[np.bool_] | None = None,
) -> Confusion:
    """Counts of one class over two label arrays of the same shape.

    Parameters
    ----------
    pred, truth
        Integer labels or booleans.
    foreground
        The label that counts as positive in both; None: every label above 0.
    ignore
        True where a voxel is left out of the counts.
    """
    same_shape(pred, truth, ignore)
    p = pred > 0 if foreground is None else pred == foreground
    t = truth > 0 if foreground is None else truth == foreground
    if ignore is not None:
        p, t = p[~ignore], t[~ignore]
    tp = int(np.count_nonzero(p & t))
    fp = int(np.count_nonzero(p)) - tp
    fn = int(np.count_nonzero(t)) - tp
    return Confusion(tp, fp, fn, p.size - tp - fp - fn)


def paper_confusions(
    probability: NDArray[Any], truth: NDArray[Any], ignore: NDArray[np.bool_] | None = None
) -> tuple[Confusion, ...]:
    """Counts at the ten thresholds 0.5, 0.55 .. 0.95; positive is `probability > threshold`.

    Parameters
    ----------
    probability
        Of the class: floating point 0..1, or uint8 with 255 = 1.0.
    truth
        Positive where above 0.
    """
    same_shape(probability, truth, ignore)
    p = probability if ignore is None else probability[~ignore]
    t = (truth if ignore is None else truth[~ignore]) > 0
    # passed[v] = number of thresholds that the value exceeds; uint8 goes through a table.
    if p.dtype == np.uint8:
        passed = np.searchsorted(PAPER_THRESHOLDS, np.arange(256) / 255)[p]
    else:
        passed = np.searchsorted(PAPER_THRESHOLDS, p.astype(np.float64))
    n = len(PAPER_THRESHOLDS)
    positive = np.bincount(passed[t], minlength=n + 1)
    negative = np.bincount(passed[~t], minlength=n + 1)
    return tuple(
        Confusion(
            int(positive[k + 1 :].sum()),
            int(negative[k + 1 :].sum()),
            int(positive[: k + 1].sum()),
            int(negative[: k + 1].sum()),
        )
        for k in range(n)
    )


def paper_mean_iou(probability: NDArray[Any], truth: NDArray[Any], ignore: NDArray[np.bool_] | None = None) -> float:
    """The mean IoU of the UNet++ papers: over background and foreground, and over ten thresholds.

    It is what their released code computes (`mean_iou`), and higher than the foreground IoU
    wherever background is plentiful: use it only to compare with the papers' tables.
    """
    return mean_two_class_iou(paper_confusions(probability, truth, ignore))


def mean_two_class_iou(counts: Iterable[Confusion]) -> float:
    """The mean over `counts` of the mean of foreground and background IoU."""
    return float(np.mean([(c.iou + c.background_iou) / 2 for c in counts]))


@dataclass(frozen=True, slots=True)
class PartitionScores:
    """Agreement of two instance segmentations, independent of how instances are numbered.

    rand_error: 1 - F1 of pairs of voxels kept together (adapted Rand error, 0 is perfect);
    rand_precision, rand_recall: of those pairs; vi_split, vi_merge: the two parts of the variation
    of information, in bits (0 is perfect): how far truth is split by, or merged in, the prediction.
    """

    rand_error: float
    rand_precision: float
    rand_recall: float
    vi_split: float
    vi_merge: float


def partition_scores(pred: NDArray[Any], truth: NDArray[Any], ignore: int | None = 0) -> PartitionScores:
    """Rand and variation of information of two instance label arrays.

    Counted here and not by scikit-image, whose `adapted_rand_error` returns precision and recall
    under each other's name (0.26).

    `ignore`: label of the truth whose voxels are left out (0: background), or None.
    """
    same_shape(pred, truth, None)
    kept = np.ones(truth.shape, dtype=bool) if ignore is None else truth != ignore
    if not kept.any():
        raise ValueError(f"the reference holds nothing but the ignored label {ignore}")
    _, p = np.unique(pred[kept], return_inverse=True)
    _, t = np.unique(truth[kept], return_inverse=True)
    of_pred, of_truth = np.bincount(p.ravel()), np.bincount(t.ravel())
    joint, n = np.unique(t.ravel() * len(of_pred) + p.ravel(), return_counts=True)
    of_pair_pred, of_pair_truth = of_pred[joint % len(of_pred)], of_truth[joint // len(of_pred)]
    together, in_pred, in_truth = (int((c * (c - 1)).sum()) for c in (n, of_pred, of_truth))
    return PartitionScores(
        1 - ratio(2 * together, in_pred + in_truth),
        ratio(together, in_pred),
        ratio(together, in_truth),
        # H(prediction | truth) and H(truth | prediction); + 0.0 turns -0.0 into 0.0.
        float(-(n * np.log2(n / of_pair_truth)).sum() / len(p)) + 0.0,
        float(-(n * np.log2(n / of_pair_pred)).sum() / len(p)) + 0.0,
    )


def ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def same_shape(pred: NDArray[Any], truth: NDArray[Any], ignore: NDArray[Any] | None) -> None:
    if pred.shape != truth.shape:
        raise ValueError(
            f"the prediction has shape {pred.shape} and the reference {truth.shape}; "
            "crop or transpose one of them to the other"
        )
    if ignore is not None and ignore.shape != truth.shape:
        raise ValueError(f"the ignore mask has shape {ignore.shape}, the reference {truth.shape}")
