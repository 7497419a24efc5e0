"""How good a prediction is, and which level is good enough."""

from napari_unetpp.evaluation.boundaries import Match, boundary_f1
from napari_unetpp.evaluation.levels import (
    LevelScore,
    level_enough,
    score_levels,
    score_planes,
)
from napari_unetpp.evaluation.scores import (
    Confusion,
    PartitionScores,
    confusion,
    paper_mean_iou,
    partition_scores,
)
from napari_unetpp.evaluation.sources import label_planes, stored_levels

__all__ = [
    "Confusion",
    "LevelScore",
    "Match",
    "PartitionScores",
    "boundary_f1",
    "confusion",
    "label_planes",
    "level_enough",
    "paper_mean_iou",
    "partition_scores",
    "score_levels",
    "score_planes",
    "stored_levels",
]
