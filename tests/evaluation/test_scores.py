"""Scores against counts made by hand and by voxel-by-voxel loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from skimage import metrics

from napari_unetpp.evaluation.boundaries import (
    Match,
    boundary_f1,
    boundary_match,
    match_within,
    outline,
)
from napari_unetpp.evaluation.scores import (
    Confusion,
    confusion,
    paper_confusions,
    paper_mean_iou,
    partition_scores,
)

#  truth   prediction      tp 3 (a), fn 1 (b), fp 2 (c), tn 6
TRUTH = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
PRED = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]])


def test_counts_and_scores_by_hand():
    c = confusion(PRED, TRUTH)
    assert c == Confusion(tp=3, fp=2, fn=1, tn=6)
    assert c.total == 12
    assert c.iou == 3 / 6
    assert c.background_iou == 6 / 9
    assert c.dice == c.f1 == 6 / 9
    # F2 = 5 P S / (4 P + S) with precision 3/5 and sensitivity 3/4
    assert c.f2 == pytest.approx(5 * 0.6 * 0.75 / (4 * 0.6 + 0.75))
    assert (c.precision, c.sensitivity, c.specificity) == (3 / 5, 3 / 4, 6 / 8)


@pytest.mark.parametrize("name", ["iou", "dice", "f1", "f2", "sensitivity", "precision"])
def test_nothing_to_find_and_nothing_found_is_one(name):
    assert getattr(Confusion(tn=9), name) == 1
    assert Confusion(tp=9).specificity == 1
    assert Confusion(fp=1, tn=8).iou == 0


def test_counts_of_parts_add_up_to_the_whole():
    rng = np.random.default_rng(0)
    pred, truth = rng.integers(0, 3, (2, 5, 6, 7))
    parts = [confusion(p, t, 2) for p, t in zip(pred, truth, strict=True)]
    assert sum(parts, Confusion()) == confusion(pred, truth, 2)


def test_foreground_selects_one_label_and_none_means_any():
    pred, truth = np.array([0, 1, 2, 2, 3]), np.array([0, 2, 2, 1, 0])
    assert confusion(pred, truth, 2) == Confusion(tp=1, fp=1, fn=1, tn=2)
    assert confusion(pred, truth) == Confusion(tp=3, fp=1, fn=0, tn=1)


def test_ignored_voxels_do_not_count():
    ignore = np.zeros(TRUTH.shape, bool)
    ignore[:, 2:] = True  # both false positives and four of the true negatives
    assert confusion(PRED, TRUTH, ignore=ignore) == Confusion(tp=3, fp=0, fn=1, tn=2)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_paper_mean_iou_equals_its_definition(dtype):
    rng = np.random.default_rng(1)
    truth = rng.random((9, 11)) > 0.6
    prob = rng.integers(0, 256, (9, 11)) if dtype == np.uint8 else rng.random((9, 11))
    prob = prob.astype(dtype)
    p = prob / 255 if dtype == np.uint8 else prob
    expected = []
    for t in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95):
        tp = fp = fn = tn = 0
        for y, x in np.ndindex(truth.shape):
            positive = p[y, x] > t
            tp += positive and truth[y, x]
            fp += positive and not truth[y, x]
            fn += not positive and truth[y, x]
            tn += not positive and not truth[y, x]
        expected.append((tp / (tp + fp + fn) + tn / (tn + fp + fn)) / 2)
    assert paper_mean_iou(prob, truth) == pytest.approx(np.mean(expected), abs=1e-12)


def test_paper_threshold_is_exclusive_and_ignores_masked_voxels():
    prob = np.array([128, 153, 154, 255], np.uint8)  # 153 / 255 is exactly 0.6
    truth = np.array([1, 1, 1, 1])
    found = [c.tp for c in paper_confusions(prob, truth)]
    assert found == [4, 3, 2, 1, 1, 1, 1, 1, 1, 1]
    kept = paper_confusions(prob, truth, np.array([True, False, False, False]))
    assert [c.tp for c in kept] == [3, 3, 2, 1, 1, 1, 1, 1, 1, 1]


def brute_near(mask, other, tolerance):
    """The number of voxels of mask with a voxel of other within tolerance."""
    a, b = np.argwhere(mask), np.argwhere(other)
    return sum(any(math.dist(i, j) <= tolerance for j in b) for i in a)


def brute_outline(mask):
    edge = np.zeros(mask.shape, bool)
    for i in np.argwhere(mask):
        for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
            j = i.copy()
            j[axis] += step
            if 0 <= j[axis] < mask.shape[axis] and not mask[tuple(j)]:
                edge[tuple(i)] = True
    return edge


@pytest.mark.parametrize("shape", [(12, 13), (6, 7, 8)])
@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 2])
def test_boundaries_equal_brute_force(shape, tolerance):
    rng = np.random.default_rng(2)
    pred, truth = rng.random((2, *shape)) > 0.8
    assert match_within(pred, truth, tolerance) == Match(
        brute_near(pred, truth, tolerance),
        pred.sum(),
        brute_near(truth, pred, tolerance),
        truth.sum(),
    )
    p, t = brute_outline(pred), brute_outline(truth)
    np.testing.assert_array_equal(outline(pred), p)
    precision = brute_near(p, t, tolerance) / p.sum()
    recall = brute_near(t, p, tolerance) / t.sum()
    expected = 2 * precision * recall / (precision + recall)
    assert boundary_f1(pred, truth, tolerance) == pytest.approx(expected)


def test_shifted_square_is_right_only_within_the_shift():
    truth = np.zeros((20, 20), int)
    truth[5:12, 5:12] = 1
    pred = np.roll(truth, 2, axis=1)
    assert boundary_f1(pred, truth, 2) == 1
    assert boundary_f1(pred, truth, 1) < 1
    assert boundary_f1(truth, truth, 0) == 1


def test_slicewise_boundaries_do_not_see_the_neighbouring_plane():
    truth, pred = np.zeros((2, 3, 9, 9), int)
    truth[0, 2:7, 2:7] = 1
    pred[1, 2:7, 2:7] = 1
    assert boundary_f1(pred, truth, 1) == 1
    assert boundary_f1(pred, truth, 1, slicewise=True) == 0


def test_empty_boundaries():
    nothing, square = np.zeros((2, 6, 6), int)
    square[2:4, 2:4] = 1
    assert boundary_f1(nothing, nothing) == 1
    assert boundary_f1(square, nothing) == 0
    assert boundary_f1(nothing, square) == 0


def test_the_edge_of_the_annotated_part_is_no_outline():
    truth = np.zeros((8, 8), int)
    truth[:, :6] = 1
    ignore = np.zeros((8, 8), bool)
    ignore[4:] = True
    truth[ignore] = 0  # what is not annotated usually reads 0
    edge = outline(truth, ignore)
    assert np.argwhere(edge).tolist() == [[y, 5] for y in range(4)]
    pred = np.ones((8, 8), int)
    assert boundary_match(pred, truth, 2, ignore) == Match(0, 0, 0, 4)


def brute_pairs(pred, truth):
    """Precision and recall of the pairs of voxels kept together, self-pairs included."""
    both = of_pred = of_truth = 0
    for i, j in itertools.product(range(pred.size), repeat=2):
        of_pred += pred[i] == pred[j]
        of_truth += truth[i] == truth[j]
        both += pred[i] == pred[j] and truth[i] == truth[j]
    return both / of_pred, both / of_truth


def brute_entropy(a, given):
    """H(a | given) in bits."""
    return -sum(
        np.mean((a == u) & (given == v)) * math.log2(np.mean(a[given == v] == u))
        for u in set(a.tolist())
        for v in set(given.tolist())
        if np.any((a == u) & (given == v))
    )


def test_partition_scores_equal_brute_force():
    rng = np.random.default_rng(3)
    truth = np.repeat(rng.integers(1, 5, 10), 4)
    pred = np.where(rng.random(40) < 0.2, rng.integers(0, 5, 40), truth + 7)
    scores = partition_scores(pred, truth)
    precision, recall = brute_pairs(pred, truth)
    # The score leaves the pairs of a voxel with itself out.
    n = pred.size
    of_pred = sum(int((pred == v).sum()) ** 2 for v in set(pred.tolist()))
    of_truth = sum(int((truth == v).sum()) ** 2 for v in set(truth.tolist()))
    together = precision * of_pred
    precision = (together - n) / (of_pred - n)
    recall = (together - n) / (of_truth - n)
    assert scores.rand_precision == pytest.approx(precision)
    assert scores.rand_recall == pytest.approx(recall)
    assert scores.rand_error == pytest.approx(1 - 2 * precision * recall / (precision + recall))
    # Splitting: what the prediction still says when the truth is known.
    assert scores.vi_split == pytest.approx(brute_entropy(pred, truth))
    assert scores.vi_merge == pytest.approx(brute_entropy(truth, pred))
    # Another implementation, which gives precision and recall under each other's name.
    error, swapped_recall, swapped_precision = metrics.adapted_rand_error(truth, pred)
    split, merge = metrics.variation_of_information(truth, pred)
    assert (scores.rand_error, scores.rand_recall, scores.rand_precision) == pytest.approx(
        (error, swapped_recall, swapped_precision)
    )
    assert (scores.vi_split, scores.vi_merge) == pytest.approx((split, merge))


def test_partition_scores_ignore_background_of_the_truth_only():
    truth = np.array([0, 0, 1, 1, 2, 2])
    assert partition_scores(np.array([9, 8, 5, 5, 4, 4]), truth).rand_error == 0
    assert partition_scores(np.array([9, 8, 5, 5, 4, 4]), truth, ignore=None).rand_error > 0
    with pytest.raises(ValueError, match="nothing but the ignored label 0"):
        partition_scores(truth, np.zeros(6, int))


def test_shapes_that_differ_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(4, 3\)"):
        confusion(PRED, TRUTH.T)
    with pytest.raises(ValueError, match="ignore mask"):
        confusion(PRED, TRUTH, ignore=np.zeros((1, 1), bool))
    with pytest.raises(ValueError, match="tolerance"):
        match_within(PRED, TRUTH, -1)
