"""Targets mean what was painted, and where."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_unetpp.box import Box
from napari_unetpp.stacks import open_stack
from napari_unetpp.training.losses import IGNORE
from napari_unetpp.training.pairs import Pair, Rule, UnknownLabel, negative_line, read_target, to_target
from tests.training.conftest import noise


def test_pairs_that_do_not_fit_are_refused():
    image = open_stack(np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"\(8, 8\).*\(8, 9\)"):
        Pair(image, open_stack(np.zeros((8, 9), np.uint8)))
    with pytest.raises(ValueError, match="--label-axes xy they fit"):
        Pair(open_stack(np.zeros((8, 9), np.uint8)), open_stack(np.zeros((9, 8), np.uint8)))
    with pytest.raises(ValueError, match="integers"):
        Pair(image, open_stack(np.zeros((8, 8), np.float32)))


@pytest.mark.parametrize(
    ("rule", "ignore", "painted", "means"),
    [
        (Rule(), False, [0, 1, 7, 300], [0, 1, 1, 1]),  # instances become binary
        (Rule(), True, [0, 1, 2, 9], [IGNORE, 0, 1, 1]),
        (Rule(3), False, [0, 1, 2], [0, 1, 2]),
        (Rule(3), True, [0, 1, 2, 3], [IGNORE, 0, 1, 2]),
        (Rule(foreground=4), False, [0, 1, 4, 300], [0, 0, 1, 0]),  # one class of many
        (Rule(foreground=2), True, [0, 1, 2, 3], [IGNORE, 0, 1, 0]),
        # below 0: not annotated
        (Rule(), False, [0, -1, 3, -2], [0, IGNORE, 1, IGNORE]),
        (Rule(3), False, [2, -1, 0], [2, IGNORE, 0]),
        (Rule(3), True, [0, -1, 1, 3], [IGNORE, IGNORE, 0, 2]),
        (Rule(), False, [2**63 - 1, 2**53 + 1, 0], [1, 1, 0]),
        (Rule(foreground=2**53 + 1), False, [2**53, 2**53 + 1, 0], [0, 1, 0]),
    ],
)
def test_what_painted_numbers_mean(rule, ignore, painted, means):
    assert to_target(np.array(painted, np.int64), rule, ignore).tolist() == means


def test_a_class_that_is_none_is_refused_with_what_the_labels_hold():
    painted = np.zeros((2, 8, 8), np.uint8)
    painted[0, 2:4], painted[1, 4:6] = 255, 127
    pair = noise(painted.shape, labels=painted)
    with pytest.raises(
        ValueError, match=r"hold 255, but .* classes 0 to 2.*found: 0, 127, 255.*--label-values 0,127,255"
    ):
        read_target(pair, Box((0, 0, 0), (1, 8, 8)), Rule(3))
    with pytest.raises(UnknownLabel, match="hold 3"):
        to_target(np.array([3]), Rule(3), False)


def test_voxels_below_zero_are_counted_and_told():
    painted = np.zeros((4, 5), np.int8)
    painted[1], painted[2] = -1, 1
    pair = noise(painted.shape, labels=painted)
    assert "5 voxels (25 %) are below 0, which means not annotated" in negative_line(pair, 15, Rule())
    assert negative_line(noise((4, 5)), 20, Rule()) == ""


boxes = st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 9), st.integers(1, 4), st.integers(1, 6))


@given(st.lists(boxes, max_size=4), boxes)
@settings(max_examples=60, deadline=None)
def test_only_what_was_reviewed_is_annotated(reviewed, asked):
    def box(z, y, x, depth, width):
        return Box((z, y, x), (min(z + depth, 5), y + width, x + width))

    shape = (5, 16, 16)
    pair = noise(shape, reviewed=tuple(box(*r) for r in reviewed))
    expected = np.full(shape, IGNORE, np.uint8)
    for one in pair.reviewed:
        expected[one.slices] = pair.label.data[one.slices]
    assert np.array_equal(read_target(pair, box(*asked), Rule()), expected[box(*asked).slices])


def test_where_zero_is_not_annotated_painting_counts_anywhere():
    painted = np.zeros((3, 8, 8), np.uint8)
    painted[1, 2:4] = 2
    pair = noise(painted.shape, labels=painted, reviewed=(), unpainted="ignore")
    target = read_target(pair, pair.whole, Rule())  # the pair's own word counts, not the run's
    assert np.array_equal(target, np.where(painted == 2, 1, IGNORE))
