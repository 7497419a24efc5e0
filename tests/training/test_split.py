"""Splits hold out something of what is annotated, leak nothing and are never empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_unetpp.box import Box
from napari_unetpp.training.blocks import blocks_in, scan
from napari_unetpp.training.pairs import Rule
from napari_unetpp.training.split import SLICE_GAP, STRIP_GAP, split_pairs
from tests.training.conftest import noise


def split(pairs, ndim=2, fraction=0.15, seed=0, rule=None):
    rule = rule or Rule()
    return split_pairs(pairs, [scan(pair, ndim, rule) for pair in pairs], ndim, fraction, seed)


shapes = st.one_of(
    st.tuples(st.integers(50, 90), st.integers(50, 90)),
    st.tuples(st.integers(1, 12), st.integers(50, 60), st.integers(50, 60)),
)


@given(st.lists(st.tuples(shapes, st.sampled_from([None, "a", "b", "c"])), min_size=1, max_size=5), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_a_split_is_never_empty_and_never_leaks(stacks, seed):
    pairs = [noise(shape, group) for shape, group in stacks]
    found = split(pairs, seed=seed)
    assert found.training
    assert found.validation
    groups_of = [{pairs[r.pair].group or r.pair for r in side} for side in (found.training, found.validation)]
    by_group = not groups_of[0] & groups_of[1]
    for one in found.training:
        assert one.box.size > 0
        for other in found.validation:
            assert other.box.size > 0
            if one.pair != other.pair:
                continue
            assert not by_group
            assert apart(one.box, other.box)
    if not by_group:  # then nobody stated groups that could have been kept apart
        assert len({p.group for p in pairs if p.group is not None}) <= 1


def apart(one, other):
    """Whether two boxes differ along one axis alone, by exactly its gap."""
    gaps = [max(b - a, d - c) for a, b, c, d in zip(one.stop, other.start, other.stop, one.start, strict=True)]
    cut = [axis for axis, gap in enumerate(gaps) if gap >= 0]
    return len(cut) == 1 and gaps[cut[0]] == (STRIP_GAP if cut[0] >= one.ndim - 2 else SLICE_GAP)


def test_whole_groups_are_held_out():
    pairs = [noise((50, 50), f"g{k // 3}", seed=k) for k in range(30)]
    found = split(pairs, fraction=0.2)
    held = {pairs[r.pair].group for r in found.validation}
    assert len(held) == 2
    assert not held & {pairs[r.pair].group for r in found.training}
    assert found == split(pairs, fraction=0.2)
    assert any(split(pairs, fraction=0.2, seed=seed) != found for seed in (1, 2, 3))


def test_one_stack_gives_its_last_slices_with_a_gap():
    found = split([noise((20, 32, 32))])
    assert found.training[0].box == Box((0, 0, 0), (15, 32, 32))
    assert found.validation[0].box == Box((17, 0, 0), (20, 32, 32))


def test_one_slice_gives_a_strip():
    found = split([noise((1, 64, 200))])
    assert found.training[0].box == Box((0, 0, 0), (1, 64, 154))
    assert found.validation[0].box == Box((0, 0, 170), (1, 64, 200))


@given(
    st.lists(st.integers(0, 11), min_size=1, max_size=6, unique=True),
    st.sampled_from([0.02, 0.3, 1.0]),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_both_sides_hold_some_of_what_was_painted(slices, share, seed):
    """Painted in a few slices of a stack, anywhere: both sides have annotations, and none of them is in both."""
    rng = np.random.default_rng(seed)
    painted = np.zeros((12, 70, 90), np.uint8)
    for z in slices:
        where = rng.random((70, 90)) < share
        painted[z][where] = rng.integers(1, 3, np.count_nonzero(where))
    rule = Rule(unpainted="ignore")
    found = split([noise(painted.shape, labels=painted)], rule=rule)
    annotated = scan(noise(painted.shape, labels=painted), 2, rule)
    sides = [
        [b for r in side for b in blocks_in(annotated, r.pair, r.box)] for side in (found.training, found.validation)
    ]
    assert all(sum(b.annotated for b in side) > 0 for side in sides)
    assert apart(found.training[0].box, found.validation[0].box)


def test_a_lonely_annotated_slice_is_cut_through_the_plane():
    painted = np.zeros((30, 64, 200), np.uint8)
    painted[7, :, 40:] = 1
    painted[7, :32, 40:] = 2
    found = split([noise(painted.shape, labels=painted)], rule=Rule(unpainted="ignore"))
    assert found.training[0].box == Box((0, 0, 0), (30, 64, 160))
    assert found.validation[0].box == Box((0, 0, 176), (30, 64, 200))  # 24 of 160 painted columns are 15 %


def test_a_class_of_one_slice_stays_on_both_sides_where_a_strip_can_do_that():
    labels = np.zeros((12, 64, 64), np.uint8)
    labels[:, :8] = 1
    labels[0, 40:, 30:] = 2  # the last slices, the usual choice, have none of it
    found = split([noise(labels.shape, labels=labels)], rule=Rule(3))
    annotated = scan(noise(labels.shape, labels=labels), 2, Rule(3))
    for side in (found.training, found.validation):
        counts = sum(b.counts for r in side for b in blocks_in(annotated, r.pair, r.box))
        assert (counts > 0).all()


def test_pairs_without_annotations_are_left_out():
    empty = noise((60, 60), labels=np.zeros((60, 60), np.uint8), unpainted="ignore")
    found = split([empty, noise((60, 60), seed=1), noise((60, 60), seed=2), noise((60, 60), seed=3)], fraction=0.3)
    assert {r.pair for r in found.training} | {r.pair for r in found.validation} == {1, 2, 3}


def test_an_image_too_small_to_cut_trains_beside_one_that_is_not():
    found = split([noise((30, 30), "a"), noise((90, 90), "a")])
    assert {r.pair for r in found.validation} == {1}
    assert {r.pair for r in found.training} == {0, 1}


def test_too_small_and_nothing_are_refused():
    with pytest.raises(ValueError, match="too small"):
        split([noise((30, 30))])
    with pytest.raises(ValueError, match="no image"):
        split([])
    with pytest.raises(ValueError, match="fraction"):
        split([noise((90, 90))], fraction=1.0)


@given(st.integers(4, 40), st.floats(0.05, 0.45))
@settings(max_examples=40, deadline=None)
def test_a_dense_stack_holds_out_the_share_that_was_asked(depth, fraction):
    found = split([noise((depth, 20, 20))], fraction=fraction)
    held = found.validation[0].box.shape[0]
    # one slice at least on either side of the gap, and of those numbers the nearest
    nearest = min(abs(k / depth - fraction) for k in range(1, depth - SLICE_GAP))
    assert abs(held / depth - fraction) == pytest.approx(nearest)
