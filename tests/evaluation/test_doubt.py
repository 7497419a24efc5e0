"""Doubtful regions: the ranking that whole arrays give, of what is predicted and not yet reviewed, a piece at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.special

from napari_unetpp.box import Box
from napari_unetpp.evaluation import agreement
from napari_unetpp.evaluation.doubt import DEFAULT_METHOD, METHODS, Doubt, doubt_view, rank_doubt
from napari_unetpp.inference.store import PredictionStore, create_store
from napari_unetpp.inference.tiles import Overlap, Seamless, plan_tiles
from napari_unetpp.model.spec import NetworkSpec


@pytest.fixture
def make_store(tmp_path, rng):
    """A store full of random probabilities, all of it done unless told otherwise, and the plan it was made by."""

    def made(shape=(3, 40, 56), tiling=None, ndim=2, levels=(1, 2, 3), classes=("cell",), chunks=None, done=None):
        tiles = plan_tiles(shape, NetworkSpec(ndim=ndim, widths=(4, 8, 16), heads=(1, 2)), tiling or Seamless(16, 8))
        store = create_store(
            tmp_path / f"{len(list(tmp_path.iterdir()))}.ome.zarr",
            shape,
            levels,
            axes="tzyx"[-len(shape) :],
            classes=classes,
            chunks=chunks or tiles.chunks,
            grid=tiles.grid,
            record={"tiling": tiles.describe()},
        )
        for level in levels:
            array = store.probability(level)
            array[...] = rng.integers(0, 256, array.shape, np.uint8)
        for tile in tiles:
            if done is None or done(tile):
                store.mark_done(tile)
        return store, tiles

    return made


def ranked(store, **options):
    """What the generator returns, whatever it says on the way."""
    found = rank_doubt(store, **options)
    told = []
    while True:
        try:
            told.append(next(found))
        except StopIteration as end:
            assert told == sorted(told)
            assert all(0 <= percent <= 100 for percent in told)
            return end.value


def stored(store):
    """Probabilities (level, class, *shape) of everything, as floats."""
    return np.stack([store.read(d, Box.of(store.shape)) for d in store.levels]) / 255


def voxel_doubt(store, method):
    """Doubt of every voxel, straight from the definitions."""
    p = stored(store)
    if p.shape[1] == 1:
        p = np.concatenate([1 - p, p], axis=1)
    if method == "disagreement":
        return (1 - p[:, 0]).max(axis=0) - (1 - p[:, 0]).min(axis=0)
    if method == "uncertainty":
        return 1 - p[-1].max(axis=0)
    p = p if method == "entropy" else p.mean(axis=0, keepdims=True)
    return scipy.special.entr(p).sum(axis=1).mean(axis=0) / np.log(p.shape[1])


def brute_force(store, method, rows, columns, skip=(), usable=lambda box: True):
    """Every region, the most doubtful first; `rows` and `columns` are its spans."""
    doubt = voxel_doubt(store, method)
    left = np.ones(store.shape, bool)
    for box in skip:
        left[box.slices] = False
    found = []
    for index in np.ndindex(store.shape[:-2]):
        for (a, b), (c, d) in itertools.product(rows, columns):
            box = Box((*index, a, c), (*(i + 1 for i in index), b, d))
            if left[box.slices].any() and usable(box):
                found.append(Doubt(box, (doubt * left)[box.slices].mean()))
    return sorted(found, key=lambda d: -round(d.score, 9))  # of equals the first, though floats sum them to unequals


def assert_same(found, expected):
    assert [d.box for d in found] == [d.box for d in expected]
    np.testing.assert_allclose([d.score for d in found], [d.score for d in expected], atol=1e-5)


ROWS, COLUMNS = [(0, 13), (13, 26), (26, 40)], [(0, 14), (14, 28), (28, 42), (42, 56)]  # 40 and 56 cut for 13


@pytest.mark.parametrize("classes", [("cell",), ("background", "a", "b")])
@pytest.mark.parametrize("method", [m for m in METHODS if m != "random"])
def test_the_ranking_of_whole_arrays(make_store, method, classes):
    store, _ = make_store(classes=classes)
    assert_same(ranked(store, method=method, size=13), brute_force(store, method, ROWS, COLUMNS))


@pytest.mark.parametrize("classes", [("cell",), ("background", "a", "b")])
@pytest.mark.parametrize("method", [m for m in METHODS if m != "random"])
def test_the_doubt_of_every_voxel(make_store, method, classes):
    store, _ = make_store((2, 20, 24), classes=classes)
    np.testing.assert_allclose(np.asarray(doubt_view(store, method)), voxel_doubt(store, method), atol=1e-6)
    for level in store.levels:
        store.probability(level)[...] = 0
        store.probability(level)[-1] = 255
    assert not np.asarray(doubt_view(store, method)).any(), "no doubt where all are sure"


@pytest.mark.parametrize(
    ("shape", "ndim", "tiling", "chunks"),
    [
        ((40, 56), 2, None, None),
        ((2, 3, 40, 56), 2, None, None),
        ((9, 40, 56), 3, Seamless(8, 4), (4, 8, 8)),  # slices of a volume, of which several are stored together
        ((3, 40, 56), 2, Overlap(16, 8), None),
    ],
)
def test_any_axes_tiling_and_chunks(make_store, shape, ndim, tiling, chunks):
    store, _ = make_store(shape, tiling, ndim, chunks=chunks)
    assert_same(ranked(store, method="uncertainty", size=13), brute_force(store, "uncertainty", ROWS, COLUMNS))


def test_the_ranking_does_not_depend_on_how_it_is_read(make_store, monkeypatch):
    store, _ = make_store(chunks=(1, 8, 8))
    whole = {method: ranked(store, method=method, size=13) for method in METHODS}
    monkeypatch.setattr(agreement, "PIECE", 100)
    read, largest = PredictionStore.read, []

    def watched(self, level, box):
        largest.append(box.size)
        return read(self, level, box)

    monkeypatch.setattr(PredictionStore, "read", watched)
    assert {method: ranked(store, method=method, size=13) for method in METHODS} == whole
    assert max(largest) <= 100


def test_random_reads_nothing_and_is_the_same_again(make_store, monkeypatch):
    store, _ = make_store()
    monkeypatch.setattr(PredictionStore, "read", None)
    first = ranked(store, method="random", size=13)
    assert first == ranked(store, method="random", size=13)
    other = ranked(store, method="random", size=13, seed=1)
    assert [d.box for d in other] != [d.box for d in first]
    assert {d.box for d in other} == {d.box for d in first}
    assert len(first) == 3 * 3 * 4


def test_a_region_counts_once_all_its_tiles_are_done(make_store):
    missing = {(0, 1, 2), (2, 0, 0), (2, 2, 3)}
    store, tiles = make_store(done=lambda tile: tile.index not in missing)

    def usable(box):
        return not any(tiles.tile(index).inner.intersect(box).size for index in missing)

    for method in ("disagreement", "uncertainty"):
        found = ranked(store, method=method, size=13)
        assert_same(found, brute_force(store, method, ROWS, COLUMNS, usable=usable))
        assert 0 < len(found) < 3 * 3 * 4
    everywhere = {d.box: d.score for d in ranked(make_store()[0], method="random", size=13)}
    assert all(everywhere[d.box] == d.score for d in ranked(store, method="random", size=13))


def test_nothing_done_nothing_to_look_at(make_store, tmp_path):
    store, _ = make_store(done=lambda tile: False)
    assert ranked(store) == ()
    assert ranked(create_store(tmp_path / "new.ome.zarr", (32, 32), (1, 2), axes="yx")) == ()


def test_what_was_reviewed_is_free_of_doubt(make_store):
    store, _ = make_store()
    skip = [
        Box((1, 0, 0), (2, 40, 56)),  # a whole slice
        Box((0, 10, 20), (1, 30, 50)),  # a rectangle across regions, and one that overlaps it and leaves the stack
        Box((0, 25, -3), (2, 99, 33)),
        Box((2, 5, 5), (2, 5, 5)),  # empty
    ]
    inside = [box.intersect(Box.of(store.shape)) for box in skip]
    for method in ("disagreement", "uncertainty"):
        found = ranked(store, method=method, size=13, skip=skip)
        assert_same(found, brute_force(store, method, ROWS, COLUMNS, inside))
    assert not any(d.box.start[0] == 1 for d in ranked(store, method="random", size=13, skip=skip))
    assert ranked(store, skip=[Box.of(store.shape)]) == ()


def test_a_part_is_cut_by_itself(make_store):
    store, _ = make_store()
    part = Box((1, 5, 7), (9, 30, 33))
    expected = brute_force(store, "uncertainty", [(5, 17), (17, 30)], [(7, 20), (20, 33)])
    found = ranked(store, method="uncertainty", size=13, within=part)
    assert_same(found, [d for d in expected if d.box.start[0] >= 1])
    assert ranked(store, within=Box((5, 0, 0), (6, 40, 56))) == ()


def test_equal_doubt_comes_in_the_order_of_the_axes(make_store, monkeypatch):
    store, _ = make_store(chunks=(1, 8, 8))
    for level in store.levels:
        store.probability(level)[...] = 80 * level
    store.probability(3)[0, 2, :13, 14:28] = 128
    monkeypatch.setattr(agreement, "PIECE", 100)
    boxes = [Box((z, a, c), (z + 1, b, d)) for z in range(3) for (a, b), (c, d) in itertools.product(ROWS, COLUMNS)]
    doubtful = boxes.pop(2 * 12 + 1)
    for limit in (1, 7, 1000):
        found = ranked(store, method="uncertainty", size=13, limit=limit)
        assert [d.box for d in found] == [doubtful, *boxes][:limit]
    assert [d.score for d in found[:2]] == pytest.approx([127 / 255, 15 / 255])


def test_only_the_best_are_kept(make_store):
    store, _ = make_store()
    every = ranked(store, size=2)
    assert len(every) == 1000 < 3 * 20 * 28
    assert ranked(store, size=2, limit=5) == every[:5]
    assert {d.box.shape for d in every} == {(1, 2, 2)}


def test_what_cannot_be_ranked_is_said_at_once(make_store):
    store, _ = make_store(levels=(2,))
    with pytest.raises(ValueError, match=r"no method 'votes'.*uncertainty, entropy, .*, random"):
        rank_doubt(store, method="votes")
    with pytest.raises(ValueError, match="holds L2 alone, which disagrees with nobody; use 'uncertainty'"):
        rank_doubt(store, method="disagreement")
    with pytest.raises(ValueError, match="disagrees with nobody"):
        doubt_view(store, "disagreement")
    with pytest.raises(ValueError, match="a voxel has no random doubt"):
        doubt_view(store, "random")
    with pytest.raises(ValueError, match="2 axes where the predictions have zyx"):
        rank_doubt(store, skip=[Box((0, 0), (4, 4))])
    with pytest.raises(ValueError, match="regions of 0 voxels"):
        rank_doubt(store, size=0)
    assert DEFAULT_METHOD in METHODS
    assert ranked(store)
