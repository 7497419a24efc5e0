"""Scores per level equal those of whole arrays, and are read plane by plane."""

from __future__ import annotations

import numpy as np
import pytest

from napari_unetpp.evaluation import level_enough, score_levels
from napari_unetpp.evaluation.boundaries import boundary_f1
from napari_unetpp.evaluation.scores import confusion, paper_mean_iou


class Lazy:
    """An array that knows what is read from it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.largest = 0

    def __getitem__(self, key):
        part = self.array[key]
        self.largest = max(self.largest, part.size)
        return part


@pytest.fixture
def stack():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (2, 3, 16, 17)).astype(np.uint16)
    levels = {f"L{d}": rng.integers(0, 256, (1, 2, 3, 16, 17)).astype(np.uint8) for d in (1, 2, 3)}
    return levels, labels


def test_each_level_is_scored_as_if_whole_and_read_by_plane(stack):
    levels, labels = stack
    lazy = {name: Lazy(a) for name, a in levels.items()}
    reference = Lazy(labels)
    rows = score_levels(lazy, reference, tolerance=1)
    assert [r.level for r in rows] == ["L1", "L2", "L3", "ensemble"]
    assert reference.largest == 16 * 17
    assert {a.largest for a in lazy.values()} == {16 * 17}
    truth = labels > 0
    mean = sum(a[0].astype(int) for a in levels.values()) / (3 * 255)
    probs = {**{n: a[0] / 255 for n, a in levels.items()}, "ensemble": mean}
    for row in rows:
        p = probs[row.level]
        assert row.confusion == confusion(p >= 0.5, truth)
        assert row.paper_mean_iou == pytest.approx(paper_mean_iou(p, truth))
        assert row.boundary.f1 == boundary_f1(p >= 0.5, truth, 1, slicewise=True)
        assert row.as_dict()["iou"] == row.confusion.iou


def test_one_class_model_against_one_label_of_the_reference(stack):
    levels, labels = stack
    p = levels["L1"][0]
    (row,) = score_levels({"L1": levels["L1"]}, labels, foreground=2)
    assert row.confusion == confusion(p >= 128, labels == 2)
    (background,) = score_levels({"L1": levels["L1"]}, labels, foreground=0)
    assert background.confusion == confusion(p < 128, labels == 0)
    assert background.paper_mean_iou == pytest.approx(paper_mean_iou((255 - p).astype(np.uint8), labels == 0))


def test_several_classes_take_the_largest_probability():
    rng = np.random.default_rng(4)
    probs = rng.dirichlet(np.ones(3), (5, 8, 9)).astype(np.float32)
    probs = np.moveaxis(probs, -1, 0)
    labels = rng.integers(0, 3, (5, 8, 9))
    winner = probs.argmax(0)
    for k in range(3):
        (row,) = score_levels({"L2": probs}, labels, foreground=k)
        assert row.confusion == confusion(winner, labels, k)
        assert row.paper_mean_iou == pytest.approx(paper_mean_iou(probs[k], labels == k))
    (row,) = score_levels({"L2": probs}, labels)
    assert row.confusion == confusion(winner, labels)
    assert row.paper_mean_iou == pytest.approx(paper_mean_iou(1 - probs[0], labels > 0))
    with pytest.raises(ValueError, match=r"no class 3; L2 has 0\.\.2"):
        score_levels({"L2": probs}, labels, foreground=3)


def test_unpainted_voxels_are_left_out(stack):
    levels, labels = stack
    labels[0, 1] = 0  # a slice that nobody annotated
    (row,) = score_levels({"L1": levels["L1"]}, labels, unpainted="ignore")
    p, seen = levels["L1"][0] >= 128, labels > 0
    assert row.confusion == confusion(p[seen], labels[seen] > 1)
    with pytest.raises(ValueError, match="no annotated voxel"):
        score_levels({"L1": levels["L1"]}, np.zeros_like(labels), unpainted="ignore")


def test_a_plain_image_has_no_leading_axes():
    prob = np.array([[[0, 255], [255, 0]]], np.uint8)
    (row,) = score_levels({"L1": prob}, np.array([[0, 1], [1, 1]]))
    assert row.confusion.iou == 2 / 3


def test_shapes_and_emptiness_are_refused(stack):
    levels, labels = stack
    with pytest.raises(ValueError, match=r"L1 has shape .* reference"):
        score_levels(levels, labels[0])
    with pytest.raises(ValueError, match="no level"):
        score_levels({}, labels)


@pytest.mark.parametrize(
    ("scores", "tolerance", "expected"),
    [
        ({1: 0.80, 2: 0.8951, 3: 0.9, 4: 0.9}, 0.005, 2),
        ({1: 0.80, 2: 0.8949, 3: 0.9, 4: 0.9}, 0.005, 3),
        ({1: 0.95, 2: 0.9, 3: 0.9, 4: 0.9}, 0, 1),
        ({2: 0.1, 4: 0.9}, 1, 2),
        ({4: 0.0}, 0, 4),
    ],
)
def test_the_smallest_level_within_the_tolerance_is_enough(scores, tolerance, expected):
    assert level_enough(scores, tolerance) == expected


def test_level_enough_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match="no level"):
        level_enough({})
    with pytest.raises(ValueError, match="finite"):
        level_enough({1: float("nan")})
    with pytest.raises(ValueError, match="tolerance"):
        level_enough({1: 0.5}, -0.1)
