"""Splits hold out something of what is annotated, leak nothing and are never empty."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_unetpp.box import Box
from napari_unetpp.training.blocks import blocks_in, scan
from napari_unetpp.training.pairs import Rule
from napari_unetpp.training.split import SLICE_GAP, STRIP_GAP, split_pairs
from tests.training.conftest import noise


def split(pairs, ndim=2, fraction=0.15, seed=0, rule=None, same=None):
    rule = rule or Rule()
    return split_pairs(pairs, [scan(pair, ndim, rule) for pair in pairs], ndim, fraction, seed, same)


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


def test_nothing_is_refused():
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


def sides(found, pairs, classes=2):
    """Annotated voxels of each class in the two parts, counted in the labels themselves."""
    parts = [[pairs[r.pair].label.read(r.box).ravel() for r in side] for side in (found.training, found.validation)]
    return [np.bincount(np.concatenate(part), minlength=classes) for part in parts]


def image(cells=(), shape=(64, 64), classes=(1,)):
    """An image without anything but squares of 8 voxels at these corners, of class 1 unless said otherwise."""
    labels = np.zeros(shape, np.uint8)
    for k, (y, x) in enumerate(cells):
        labels[y : y + 8, x : x + 8] = classes[k % len(classes)]
    return noise(shape, labels=labels)


@pytest.mark.parametrize("seed", range(12))
def test_where_two_of_ten_images_hold_cells_one_of_them_is_held_out(seed):
    for places in itertools.combinations(range(10), 2):
        pairs = [image([(20, 20), (30, 50)] if k in places else []) for k in range(10)]
        found = split(pairs, seed=seed)
        trained, held = sides(found, pairs)
        assert trained[1] == held[1] == 128, places
        assert 0.05 <= held.sum() / (trained + held).sum() <= 0.25
        assert found == split(pairs, seed=seed)


def test_which_image_is_held_out_depends_on_the_seed():
    pairs = [image([(20, 20)]) for _ in range(10)]
    assert len({split(pairs, seed=seed).validation for seed in range(12)}) > 3


def test_one_image_of_ten_with_cells_is_cut_between_them():
    pairs = [image([(4, 20), (50, 20)] if k == 3 else []) for k in range(10)]
    trained, held = sides(split(pairs), pairs)
    assert trained[1] == held[1] == 64


@given(st.lists(st.sets(st.integers(1, 4), max_size=3), min_size=2, max_size=7), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_no_split_of_whole_images_has_more_classes_in_both_parts(held_classes, seed):
    """Against all subsets of the images, tried one by one; each class fills its image's own quarter, and cannot be cut."""
    rule = Rule(5)
    pairs = []
    for classes in held_classes:
        labels = np.zeros((20, 20), np.uint8)
        for k in classes:
            labels[k, 3:9] = k
        pairs.append(noise(labels.shape, labels=labels))
    counts = np.array([scan(pair, 2, rule).counts for pair in pairs])
    total = counts.sum(axis=0)

    def lacks(out):
        held = counts[list(out)].sum(axis=0)
        untaught, unscored = [((side == 0) & (total > 0)) for side in (total - held, held)]
        return untaught.sum(), unscored[1:].sum(), unscored[0]

    some = [out for n in range(1, len(pairs)) for out in itertools.combinations(range(len(pairs)), n)]
    best = min(map(lacks, some))
    found = split(pairs, seed=seed, rule=rule)
    if best[0] or best[1] == (total[1:] > 0).sum():  # no foreground to hold out that training can do without
        assert not found.validation
        assert len(found.training) == len(pairs)
    else:
        assert lacks([r.pair for r in found.validation]) == best


def test_many_images_are_as_good_as_few():
    """Fourteen of them, too many to try all choices: each of 3 classes in two images, and one class in one image alone."""
    for seed in range(20):
        where = np.random.default_rng(seed).permutation(14)[:6].reshape(3, 2)
        pairs = []
        for k in range(14):
            labels = np.zeros((20, 20), np.uint8)
            for c in range(3):
                labels[c, 3:9] = (c + 1) * (k in where[c])
            labels[5, 5:9] = 4 * (k == where[0, 0])
            pairs.append(noise(labels.shape, labels=labels))
        trained, held = sides(split(pairs, seed=seed, rule=Rule(5)), pairs, 5)
        assert (trained > 0).all()
        assert (held[:4] > 0).all()


def test_two_objects_of_a_volume_are_on_both_sides_wherever_they_are():
    for places in [
        ((2, 4, 4), (9, 50, 50)),
        ((5, 4, 4), (5, 50, 50)),
        ((5, 4, 50), (6, 50, 50)),
        ((1, 30, 30), (10, 30, 30)),
    ]:
        labels = np.zeros((12, 64, 64), np.uint8)
        for z, y, x in places:
            labels[z, y : y + 8, x : x + 8] = 1
        pairs = [noise(labels.shape, labels=labels)]
        trained, held = sides(split(pairs), pairs)
        assert trained[1] == held[1] == 64, places


def test_a_part_between_two_others_is_held_out_where_no_end_holds_every_class():
    """Class 1 at both ends and in the middle, class 2 in the middle and at the far end: an end holds one of them alone."""
    labels = np.zeros((13, 40, 40), np.uint8)
    labels[0, :8], labels[6, :8], labels[6, 30:], labels[12, 30:] = 1, 1, 2, 2
    pairs = [noise(labels.shape, labels=labels)]
    found = split(pairs, rule=Rule(3))
    trained, held = sides(found, pairs, 3)
    assert (trained > 0).all()
    assert (held > 0).all()
    assert len(found.training) == 2
    (out,) = found.validation
    assert all(apart(side.box, out.box) for side in found.training)


@pytest.mark.parametrize("shape", [(30, 30), (40, 50), (200, 200), (9, 64, 64)])
def test_one_object_in_one_image_is_trained_on_whole_and_nothing_is_held_out(shape):
    labels = np.zeros(shape, np.uint8)
    labels[..., 12:15, 12:15] = 1 if len(shape) == 2 else 0
    if len(shape) == 3:
        labels[4, 12:15, 12:15] = 1
    pairs = [noise(shape, labels=labels)]
    found = split(pairs)
    assert [r.box for r in found.training] == [pairs[0].whole]
    assert found.validation == ()


def test_the_same_image_is_never_in_both_parts():
    pairs = [image([(20, 20), (30, 50)]) for _ in range(6)]
    for seed in range(12):
        found = split(pairs, seed=seed, same=(0, 1, 2, 0, 4, 0))
        parts = [{0 if r.pair in (3, 5) else r.pair for r in side} for side in (found.training, found.validation)]
        assert not parts[0] & parts[1]
        assert all(parts)
