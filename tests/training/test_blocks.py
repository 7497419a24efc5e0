"""One scan finds all that is annotated; memory bounds what is loaded; what was planned stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_unetpp.box import Box
from napari_unetpp.stacks import open_stack
from napari_unetpp.training import blocks as module
from napari_unetpp.training.blocks import blocks_in, load_blocks, scan, thinned
from napari_unetpp.training.losses import IGNORE
from napari_unetpp.training.pairs import Pair, Rule
from tests.training.conftest import blocks_of, noise


def sparse(shape, seed, share=0.05):
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(shape) < share, rng.integers(1, 4, shape), 0).astype(np.uint8)
    labels[:, :, : shape[2] // 2] = 0  # whole blocks of nothing
    return labels


@given(st.integers(0, 99), st.sampled_from([2, 3]), st.integers(5, 40))
@settings(max_examples=30, deadline=None)
def test_the_blocks_hold_every_annotated_voxel_once(seed, ndim, edge):
    labels = sparse((3, 37, 50), seed)
    pair = noise(labels.shape, labels=labels, unpainted="ignore")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EDGE", {2: edge, 3: edge})
        found = scan(pair, ndim, Rule(3))
        region = Box((0, 3, 1), (3, 30, 45))
        for blocks, box in ((found.blocks, pair.whole), (list(blocks_in(found, 0, region)), region)):
            again = np.full(labels.shape, IGNORE, np.uint8)
            for block in blocks:
                assert block.box.inside(box)
                assert (again[block.box.slices] == IGNORE).all()
                again[block.box.slices] = block.target
                assert [(block.target == k).sum() for k in range(3)] == block.counts.tolist()
            inside = np.zeros(labels.shape, bool)
            inside[box.slices] = True
            assert np.array_equal(again, np.where((labels > 0) & inside, labels - 1, IGNORE).astype(np.uint8))
    assert found.counts.tolist() == [(labels == k + 1).sum() for k in range(3)]
    for axis, along in enumerate(found.along):
        others = tuple(a for a in range(3) if a != axis)
        assert np.array_equal(along[:, 1], (labels == 2).sum(axis=others))


def test_the_hash_tells_labels_apart():
    labels = sparse((3, 20, 30), 1)
    other = labels.copy()
    other[0, 0, -1] = 3 - other[0, 0, -1] % 2
    hashes = [scan(noise(a.shape, labels=a, unpainted="ignore"), 2, Rule(3)).sha256 for a in (labels, other, labels)]
    assert hashes[0] == hashes[2] != hashes[1]


def test_of_too_much_every_epoch_sees_another_part_within_memory():
    pair = noise((12, 32, 32))
    data = blocks_of(pair, memory=3 * 2 * 32 * 32 + 10)
    assert not data.fits
    seen = set()
    for epoch in range(20):
        loaded = load_blocks(data, epoch)
        assert len(loaded) == 3
        assert sum(one.image.nbytes + one.target.nbytes for one in loaded) <= data.memory
        for one in loaded:
            plane = [z for z in range(12) if np.array_equal(one.image[0, 0], pair.image.data[z])]
            assert np.array_equal(one.target[0], pair.label.data[plane[0]])
            seen.update(plane)
    assert seen == set(range(12))
    again, before = load_blocks(data, 7), load_blocks(data, 7)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(again, before, strict=True))


def test_one_block_is_there_even_where_memory_is_too_small():
    assert len(load_blocks(blocks_of(noise((4, 32, 32)), memory=1), 0)) == 1


def test_painting_goes_on_without_changing_what_was_planned():
    labels = sparse((2, 30, 40), 3)
    pair = noise(labels.shape, labels=labels, unpainted="ignore")
    data = blocks_of(pair, rule=Rule(3), memory=1)
    before = [block.target for block in data.blocks]
    labels[:] = 1
    assert all(np.array_equal(a.target, b) for a, b in zip(data.blocks, before, strict=True))


def test_only_blocks_that_somebody_reviewed_are_read():
    read = []

    class Spied:
        shape, dtype, ndim = (40, 16, 16), np.dtype(np.uint8), 3

        def __getitem__(self, key):
            read.append(key[0])
            return np.ones((40, 16, 16), np.uint8)[key]

    image = open_stack(np.zeros((40, 16, 16), np.uint8), axes="zyx")
    pair = Pair(image, open_stack(Spied(), axes="zyx"), reviewed=(Box((5, 0, 0), (7, 16, 16)),))
    found = scan(pair, 2, Rule())
    assert [block.box.start[0] for block in found.blocks] == [5, 6]
    assert len(read) == 2


def test_thinned_blocks_are_spread_and_at_least_one():
    data = blocks_of(noise((20, 16, 16)))
    some = thinned(data, 4 * 256)
    assert [b.box.start[0] for b in some.blocks] == [2, 7, 12, 17]
    assert len(thinned(data, 1).blocks) == 1


def test_an_image_with_nan_is_refused():
    image = np.zeros((8, 8), np.float32)
    image[3, 3] = np.nan
    pair = Pair(open_stack(image), open_stack(np.ones((8, 8), np.uint8)))
    with pytest.raises(ValueError, match=r"NaN.*y 3, x 3"):
        load_blocks(blocks_of(pair), 0)
