"""Splits that leak nothing, targets that mean what was painted, patches where people painted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_unetpp.box import Box
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.stacks import open_stack
from napari_unetpp.training.augment import AUGMENTATIONS
from napari_unetpp.training.losses import IGNORE
from napari_unetpp.training.patches import (
    SLICE_GAP,
    STRIP_GAP,
    Loaded,
    Pair,
    annotated_weights,
    draw_batch,
    load_region,
    split_pairs,
    to_target,
)


def pair(shape, group=None, seed=0, axes=None):
    rng = np.random.default_rng(seed)
    axes = axes or "tzyx"[-len(shape) :]
    image = rng.integers(0, 255, shape).astype(np.uint8)
    return Pair(open_stack(image, axes=axes), open_stack((image > 128).astype(np.uint8), axes=axes), group)


shapes = st.one_of(
    st.tuples(st.integers(50, 90), st.integers(50, 90)),
    st.tuples(st.integers(1, 12), st.integers(50, 60), st.integers(50, 60)),
)


@given(st.lists(st.tuples(shapes, st.sampled_from([None, "a", "b", "c"])), min_size=1, max_size=5), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_a_split_is_never_empty_and_never_leaks(stacks, seed):
    pairs = [pair(shape, group) for shape, group in stacks]
    split = split_pairs(pairs, 2, 0.15, seed)
    assert split.training
    assert split.validation
    groups_of = [{pairs[r.pair].group or r.pair for r in side} for side in (split.training, split.validation)]
    by_group = not groups_of[0] & groups_of[1]
    for one in split.training:
        assert one.box.size > 0
        for other in split.validation:
            assert other.box.size > 0
            if one.pair != other.pair:
                continue
            assert not by_group
            # apart by the gap along the one axis that was cut
            apart = [b - a for a, b in zip(one.box.stop, other.box.start, strict=True)]
            cut = [k for k, gap in enumerate(apart) if gap >= 0]
            assert len(cut) == 1
            assert apart[cut[0]] == (STRIP_GAP if cut[0] >= one.box.ndim - 2 else SLICE_GAP)
    if not by_group:  # then nobody stated groups that could have been kept apart
        assert len({p.group for p in pairs if p.group is not None}) <= 1


def test_whole_groups_are_held_out():
    pairs = [pair((50, 50), f"g{k // 3}", seed=k) for k in range(30)]
    split = split_pairs(pairs, 2, 0.2, 0)
    held = {pairs[r.pair].group for r in split.validation}
    assert len(held) == 2
    assert not held & {pairs[r.pair].group for r in split.training}
    assert split == split_pairs(pairs, 2, 0.2, 0)
    assert any(split_pairs(pairs, 2, 0.2, seed) != split for seed in (1, 2, 3))


def test_one_stack_gives_its_last_slices_with_a_gap():
    split = split_pairs([pair((20, 32, 32))], 2, 0.15, 0)
    assert split.training[0].box == Box((0, 0, 0), (15, 32, 32))
    assert split.validation[0].box == Box((17, 0, 0), (20, 32, 32))


def test_one_slice_gives_a_strip():
    split = split_pairs([pair((1, 64, 200))], 2, 0.15, 0)
    assert split.training[0].box == Box((0, 0, 0), (1, 64, 154))
    assert split.validation[0].box == Box((0, 0, 170), (1, 64, 200))


def test_too_small_and_nothing_are_refused():
    with pytest.raises(ValueError, match="too small"):
        split_pairs([pair((30, 30))], 2, 0.15, 0)
    with pytest.raises(ValueError, match="no image"):
        split_pairs([], 2, 0.15, 0)
    with pytest.raises(ValueError, match="fraction"):
        split_pairs([pair((90, 90))], 2, 1.0, 0)


def test_pairs_that_do_not_fit_are_refused():
    image = open_stack(np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"\(8, 8\).*\(8, 9\)"):
        Pair(image, open_stack(np.zeros((8, 9), np.uint8)))
    with pytest.raises(ValueError, match="integers"):
        Pair(image, open_stack(np.zeros((8, 8), np.float32)))


@pytest.mark.parametrize(
    ("classes", "ignore", "painted", "means"),
    [
        (1, False, [0, 1, 7, 300], [0, 1, 1, 1]),  # instances become binary
        (1, True, [0, 1, 2, 9], [IGNORE, 0, 1, 1]),
        (3, False, [0, 1, 2], [0, 1, 2]),
        (3, True, [0, 1, 2, 3], [IGNORE, 0, 1, 2]),
    ],
)
def test_what_painted_numbers_mean(classes, ignore, painted, means):
    assert to_target(np.array(painted, np.uint16), classes, ignore).tolist() == means


def test_a_class_too_many_is_refused():
    with pytest.raises(ValueError, match=r"class 3.*0\.\.2"):
        to_target(np.array([3]), 3, False)


def test_regions_check_channels_and_finiteness():
    rgb = Pair(open_stack(np.zeros((8, 8, 3), np.uint8), axes="yxc"), open_stack(np.zeros((8, 8), np.uint8)))
    region = split_pairs([pair((90, 90))], 2, 0.5, 0).training[0]
    whole = type(region)(0, Box((0, 0), (8, 8)))
    with pytest.raises(ValueError, match="3 channels where the network takes 1"):
        load_region(rgb, whole, Intensity(), 1, 1, False)
    assert load_region(rgb, whole, Intensity(), 3, 1, False).image.shape == (3, 8, 8)
    gray = pair((8, 8))
    with pytest.raises(ValueError, match="1 channels where the network takes 3"):
        load_region(gray, whole, Intensity(), 3, 1, False)
    assert load_region(gray, whole, Intensity(replicate_gray=True), 3, 1, False).image.shape == (3, 8, 8)
    broken = np.zeros((8, 8), np.float32)
    broken[3, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        load_region(Pair(open_stack(broken), gray.label), whole, Intensity(), 1, 1, False)


def loaded(shape, seed=0):
    source = pair(shape, seed=seed)
    whole = split_pairs([pair((90, 90))], 2, 0.5, 0).training[0]
    return load_region(source, type(whole)(0, Box.of(shape)), Intensity("fixed"), 1, 1, False)


def test_patches_are_pieces_of_the_region():
    """Without augmentation every patch occurs in the image up to a symmetry of the plane, with its own labels."""
    region = loaded((3, 24, 30))
    image, target = draw_batch(
        [region], annotated_weights([region]), 2, 8, 20, AUGMENTATIONS["none"], torch.Generator().manual_seed(0)
    )
    windows = np.lib.stride_tricks.sliding_window_view(region.image[0], (1, 8, 8)).reshape(-1, 64)
    known = {w.tobytes() for w in windows.astype(np.float32)}
    for patch, labels in zip(image.numpy(), target.numpy(), strict=True):
        turned = [np.rot90(m, k).ravel() for m in (patch[0], patch[0].T) for k in range(4)]
        assert any(t.astype(np.float32).tobytes() in known for t in turned)
        assert np.array_equal(labels, patch[0] > 128)


def test_small_regions_are_mirrored_up_to_a_patch():
    region = loaded((5, 6))
    image, _ = draw_batch([region], torch.ones(1), 2, 16, 2, AUGMENTATIONS["em"], torch.Generator().manual_seed(0))
    assert image.shape == (2, 1, 16, 16)


def test_patches_are_drawn_where_people_painted():
    target = np.full((1, 200, 200), IGNORE, np.uint8)
    target[0, 150:153, 20:23] = 1
    region = Loaded(np.zeros((1, 1, 200, 200), np.uint8), target, loaded((8, 8)).scaling)
    empty = Loaded(region.image, np.full_like(target, IGNORE), region.scaling)
    regions = [empty, region]
    _, drawn = draw_batch(
        regions, annotated_weights(regions), 2, 16, 12, AUGMENTATIONS["none"], torch.Generator().manual_seed(0)
    )
    assert bool((drawn == 1).flatten(1).any(1).all())
    with pytest.raises(ValueError, match="no voxel is annotated"):
        annotated_weights([empty])
