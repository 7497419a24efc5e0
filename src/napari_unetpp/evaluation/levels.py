"""What each level of a prediction is worth, and which level is enough.

1. `score_levels` reads L1..Ld and a reference plane by plane, and scores every level and the
   ensemble (the mean of the heads' probabilities) with `scores.py`; `score_planes` is the same as a
   generator. `sources.py` opens stores and label stacks for both.
2. `level_enough` picks the smallest level within a stated tolerance of the best.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_unetpp.evaluation.boundaries import Match, boundary_match, match_within
from napari_unetpp.evaluation.scores import (
    PAPER_THRESHOLDS,
    Confusion,
    confusion,
    mean_two_class_iou,
    paper_confusions,
)
from napari_unetpp.model.card import LEVEL_TOLERANCE, advised_level

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_unetpp.box import ArrayLike

ENSEMBLE = "ensemble"
Unpainted = Literal["background", "ignore"]


@dataclass(frozen=True, slots=True)
class LevelScore:
    """The counts of one level ("L1".. or "ensemble") over all annotated voxels of a reference."""

    level: str
    confusion: Confusion = field(default_factory=Confusion)
    paper: tuple[Confusion, ...] = ()
    boundary: Match = field(default_factory=Match)
    near: Match = field(default_factory=Match)

    @property
    def paper_mean_iou(self) -> float:
        return mean_two_class_iou(self.paper)

    def as_dict(self) -> dict[str, Any]:
        """Every score by its name, JSON-able."""
        c = self.confusion
        return {
            "level": self.level,
            "iou": c.iou,
            "background_iou": c.background_iou,
            "dice": c.dice,
            "f1": c.f1,
            "f2": c.f2,
            "sensitivity": c.sensitivity,
            "specificity": c.specificity,
            "paper_mean_iou": self.paper_mean_iou,
            "boundary_f1": self.boundary.f1,
            "tolerant_f1": self.near.f1,
            "tp": c.tp,
            "fp": c.fp,
            "fn": c.fn,
            "tn": c.tn,
        }


def score_levels(
    levels: Mapping[str, ArrayLike],
    reference: ArrayLike,
    *,
    foreground: int | None = None,
    unpainted: Unpainted = "background",
    threshold: float = 0.5,
    tolerance: float = 2.0,
    ensemble: bool = True,
) -> list[LevelScore]:
    """The scores of every level, and of their ensemble last, against one reference.

    Parameters
    ----------
    levels
        Name to probabilities `(class, *reference.shape)`, uint8 (255 = 1.0) or floating point;
        read lazily, a plane of the last two axes at a time. One class channel is the foreground;
        of two or more, channel 0 is the background. For a store: `sources.stored_levels`.
    reference
        Integer labels, read by plane too. Instance ids will do where `foreground` is None. For a
        stack: `sources.label_planes`.
    foreground
        The label, and with several class channels also the channel, that is scored. None: every
        label above 0 against the background. 0: the background itself.
    unpainted
        "ignore": 0 in the reference is "not annotated" and left out, 1 is background and 2, 3..
        are labels 1, 2... "background": 0 is background. Numbers below 0 are left out in either case.
    threshold
        Of a single class channel: positive is `probability >= threshold`. With several channels
        the largest wins.
    tolerance
        Voxels (Euclidean, within the plane) for the boundary scores.
    ensemble
        Whether to add the ensemble where there is more than one level.

    Raises
    ------
    ValueError
        For shapes that differ, a class that is not there, or a reference without annotation.
    """
    scores: list[LevelScore] = []
    for scores in score_planes(  # noqa: B007 - only the last one is wanted
        levels,
        reference,
        foreground=foreground,
        unpainted=unpainted,
        threshold=threshold,
        tolerance=tolerance,
        ensemble=ensemble,
    ):
        pass
    return scores


def score_planes(
    levels: Mapping[str, ArrayLike],
    reference: ArrayLike,
    *,
    foreground: int | None = None,
    unpainted: Unpainted = "background",
    threshold: float = 0.5,
    tolerance: float = 2.0,
    ensemble: bool = True,
) -> Iterator[list[LevelScore]]:
    """The scores so far, after each plane; as `score_levels`, which gives the last of them."""
    _check(levels, reference, foreground)
    names = [*levels, *([ENSEMBLE] if ensemble and len(levels) > 1 else [])]
    scores = {name: LevelScore(name, paper=(Confusion(),) * len(PAPER_THRESHOLDS)) for name in names}
    annotated = 0
    for index in np.ndindex(tuple(reference.shape[:-2])):
        labels = np.asarray(reference[index] if index else reference[...])
        ignore = left_out(labels, unpainted)
        if unpainted == "ignore":
            labels = np.where(labels == 0, 0, labels.astype(np.int64) - 1)
        if ignore is None or not ignore.all():
            annotated += labels.size
            truth = labels > 0 if foreground is None else labels == foreground
            planes = {n: np.asarray(a[(slice(None), *index)]) for n, a in levels.items()}
            if ENSEMBLE in scores:
                planes[ENSEMBLE] = _mean(list(planes.values()))
            for name, plane in planes.items():
                probability, positive = _class(plane, foreground, threshold)
                scores[name] = _add(scores[name], probability, positive, truth, ignore, tolerance)
        yield list(scores.values())
    if not annotated:
        raise ValueError("the reference holds no annotated voxel (0 and below mean not annotated, 1 background)")


def level_enough(scores: Mapping[int, float], tolerance: float = LEVEL_TOLERANCE) -> int:
    """The smallest level whose score is at most `tolerance` below the best one.

    `scores`: level (1..d) to a score where more is better, such as IoU. The rule is the one that
    the cards of models are written by; here the scores are checked first.

    >>> level_enough({1: 0.80, 2: 0.896, 3: 0.899, 4: 0.90})
    2
    >>> level_enough({1: 0.80, 2: 0.896, 3: 0.899, 4: 0.90}, tolerance=0)
    4
    """
    if not all(np.isfinite(s) for s in scores.values()):
        raise ValueError(f"scores must be finite numbers, not {dict(scores)}")
    if not tolerance >= 0:
        raise ValueError(f"a tolerance of {tolerance}: it must be 0 or more")
    return advised_level(scores, tolerance)


def _check(levels: Mapping[str, ArrayLike], reference: ArrayLike, foreground: int | None) -> None:
    if not levels:
        raise ValueError("no level to score")
    for name, array in levels.items():
        if tuple(array.shape[1:]) != tuple(reference.shape):
            raise ValueError(
                f"{name} has shape {tuple(array.shape[1:])} and the reference "
                f"{tuple(reference.shape)}; they must be the same"
            )
        if foreground is not None and array.shape[0] > 1 and not 0 <= foreground < array.shape[0]:
            raise ValueError(f"there is no class {foreground}; {name} has 0..{array.shape[0] - 1}")


def left_out(labels: NDArray[Any], unpainted: Unpainted) -> NDArray[np.bool_] | None:
    """Which voxels of a reference are not annotated; None where all are."""
    if unpainted == "ignore":
        return labels <= 0
    return labels < 0 if labels.dtype.kind == "i" and (labels < 0).any() else None


def _add(
    score: LevelScore,
    probability: NDArray[Any],
    positive: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    ignore: NDArray[np.bool_] | None,
    tolerance: float,
) -> LevelScore:
    paper = paper_confusions(probability, truth, ignore)
    return LevelScore(
        score.level,
        score.confusion + confusion(positive, truth, ignore=ignore),
        tuple(a + b for a, b in zip(score.paper, paper, strict=True)),
        score.boundary + boundary_match(positive, truth, tolerance, ignore),
        score.near + match_within(positive, truth, tolerance, ignore),
    )


def _class(plane: NDArray[Any], foreground: int | None, threshold: float) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Probability and predicted mask of the scored class, from `(class, y, x)`."""
    one = 255 if plane.dtype == np.uint8 else 1
    if plane.shape[0] == 1:
        positive = plane[0] >= threshold * one
        return (one - plane[0], ~positive) if foreground == 0 else (plane[0], positive)
    winner = plane.argmax(0)
    if foreground is None:
        return one - plane[0], winner > 0
    return plane[foreground], winner == foreground


def _mean(planes: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Mean probability 0..1 of the heads; doubles, so that a tie with a threshold stays a tie."""
    one = 255 if planes[0].dtype == np.uint8 else 1
    total = np.zeros(planes[0].shape, dtype=np.float64)
    for plane in planes:
        total += plane
    return total / (one * len(planes))
