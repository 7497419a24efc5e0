"""Counts of tiles: those of whole arrays once all are there, each voxel once, in the memory of a tile."""

from __future__ import annotations

import numpy as np
import pytest

from napari_unetpp.evaluation import agreement
from napari_unetpp.evaluation.agreement import Reference, Tally, compared, count_tile, planned_tiles
from napari_unetpp.inference.folders import StoreError
from napari_unetpp.inference.labels import label_view
from napari_unetpp.inference.store import create_store
from napari_unetpp.inference.tiles import Overlap, Seamless, plan_tiles
from napari_unetpp.model.spec import NetworkSpec

SPEC = NetworkSpec(widths=(4, 8, 16), heads=(1, 2))


@pytest.fixture
def make_store(tmp_path, rng):
    """A store full of random probabilities and the plan it was made by."""

    def made(shape=(2, 37, 53), tiling=None, spec=SPEC, levels=(1, 2, 3), classes=("cell",), chunks=None):
        tiles = plan_tiles(shape, spec, tiling or Seamless(inner=16, halo=8))
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
        return store, tiles

    return made


def labels_of(store):
    """All labels that are compared, as whole arrays, through the views that the layers show."""
    return [np.asarray(label_view(store, level)) for level in (*store.levels, "ensemble")]


def brute_force(labels, truth, value=None, mask=None):
    """[tp, fp, fn, tn], a voxel at a time."""
    found = [0, 0, 0, 0]
    mask = np.ones(truth.shape, bool) if mask is None else mask
    for a, b, m in zip(labels.flat, truth.flat, mask.flat, strict=True):
        positive, true = (a > 0, b > 0) if value is None else (a == value, b == value)
        if m:
            found[
                {(True, True): 0, (True, False): 1, (False, True): 2, (False, False): 3}[bool(positive), bool(true)]
            ] += 1
    return found


def tally(store, tiles, *others, numbers=None):
    totals = [Tally.of(store, tiles) for _ in others]
    for number in range(len(tiles)) if numbers is None else numbers:
        counts = count_tile(store, tiles.tile(tiles.index(number)).inner, others)
        for total, count in zip(totals, counts, strict=True):
            total.put(number, count)
    return totals


@pytest.mark.parametrize(
    ("shape", "ndim", "tiling"),
    [
        ((37, 53), 2, Seamless(inner=16, halo=8)),
        ((1, 1, 37, 53), 2, Seamless(inner=16, halo=8)),
        ((3, 5, 9, 8), 3, Seamless(inner=4, halo=4)),
        ((9, 30, 31), 3, Seamless(inner=None, halo="fast")),
        ((2, 2), 2, Seamless(inner=16, halo=8)),
        ((2, 200, 53), 2, Overlap(16, 8)),
        ((2, 200, 53), 2, Overlap(32, 7)),
        ((300, 40), 2, Overlap(128, 128)),
        ((70, 20, 21), 3, Overlap(16, 8)),
        ((1, 70, 20, 21), 3, Overlap(16, 1)),
    ],
)
def test_the_record_alone_gives_the_plan_back(make_store, shape, ndim, tiling):
    store, tiles = make_store(shape, tiling, NetworkSpec(ndim=ndim, widths=(4, 8, 16), heads=(1, 2)))
    found = planned_tiles(store)
    assert found.inner_spans == tiles.inner_spans
    assert [found.tile(i).inner for i in np.ndindex(found.grid)] == [t.inner for t in tiles]


def test_no_plan_no_tiles(tmp_path):
    empty = create_store(tmp_path / "a.ome.zarr", (32, 32), (1, 2), axes="yx")
    assert planned_tiles(empty) is None
    unknown = create_store(tmp_path / "b.ome.zarr", (32, 32), (1, 2), axes="yx", grid=(2, 2))
    with pytest.raises(StoreError, match="no plan of tiles in its record"):
        planned_tiles(unknown)
    tiling = {"kind": "seamless", "inner": 16, "halo": 8}
    other = create_store(tmp_path / "c.ome.zarr", (32, 32), (1,), axes="yx", grid=(1, 2), record={"tiling": tiling})
    with pytest.raises(StoreError, match=r"\(1, 2\) tiles per axis where its record gives \(2, 2\)"):
        planned_tiles(other)


def test_one_class_against_the_deepest_level_and_against_instances(make_store, rng):
    store, tiles = make_store()
    assert compared(store) == ("L1", "L2", "L3", "ensemble")
    instances = rng.integers(0, 3, store.shape) * rng.integers(1, 900, store.shape)
    deepest, against = tally(store, tiles, None, Reference(lambda box: instances[box.slices]))
    labels = labels_of(store)
    assert deepest.total[:, 0].tolist() == [brute_force(label, labels[2]) for label in labels]
    assert against.total[:, 0].tolist() == [brute_force(label, instances) for label in labels]
    tp, fp, fn, _ = brute_force(labels[0], instances)
    assert against.scores("iou")[0] == tp / (tp + fp + fn)
    assert against.scores("dice")[0] == 2 * tp / (2 * tp + fp + fn)
    assert against.scores("f2")[0] == 5 * tp / (5 * tp + 4 * fn + fp)
    assert deepest.scores("dice")[2] == 1


def test_several_classes_are_scored_one_by_one(make_store, rng):
    store, tiles = make_store(classes=("background", "a", "b", "c"))
    truth = rng.integers(0, 6, store.shape)  # 4 and 5 are no class: neither right nor wrong for any
    deepest, against = tally(store, tiles, None, Reference(lambda box: truth[box.slices]))
    labels = labels_of(store)
    for row, label in enumerate(labels):
        for k in (1, 2, 3):
            assert deepest.total[row, k - 1].tolist() == brute_force(label, labels[2], k)
            assert against.total[row, k - 1].tolist() == brute_force(label, truth, k)
    counts = [brute_force(labels[0], truth, k) for k in (1, 2, 3)]
    assert against.scores("iou")[0] == pytest.approx(np.mean([tp / (tp + fp + fn) for tp, fp, fn, _ in counts]))


def test_a_class_that_nobody_has_does_not_count(make_store):
    store, tiles = make_store(classes=("background", "a", "b"))
    for level in store.levels:
        store.probability(level)[2] = 0
    (deepest,) = tally(store, tiles, None)
    labels = labels_of(store)
    tp, fp, fn, _ = brute_force(labels[0], labels[2], 1)
    assert deepest.scores("dice")[0] == 2 * tp / (2 * tp + fp + fn) < 1


def test_what_is_not_annotated_is_left_out(make_store, rng):
    store, tiles = make_store()
    painted = rng.integers(0, 4, store.shape).astype(np.uint16)
    (against,) = tally(store, tiles, Reference(lambda box: painted[box.slices], "ignore"))
    expected = [brute_force(label, painted >= 2, mask=painted > 0) for label in labels_of(store)]
    assert against.total[:, 0].tolist() == expected
    nothing = np.zeros(store.shape, np.uint8)
    (against,) = tally(store, tiles, Reference(lambda box: nothing[box.slices], "ignore"))
    assert against.scores("iou") == [None] * 4


def test_only_what_was_put_in_counts_and_each_tile_once(make_store):
    store, tiles = make_store()
    numbers = [1, 5, 4, 5, 1]
    (deepest,) = tally(store, tiles, None, numbers=numbers)
    mask = np.zeros(store.shape, bool)
    for number in numbers:
        mask[tiles.tile(tiles.index(number)).inner.slices] = True
    labels = labels_of(store)
    assert deepest.total[:, 0].tolist() == [brute_force(label, labels[2], mask=mask) for label in labels]
    assert deepest.tiles == 3
    assert np.flatnonzero(deepest.counted).tolist() == [1, 4, 5]
    assert Tally.of(store, tiles).scores("dice") == [None] * 4


def test_a_changed_tile_is_counted_anew_in_place_of_the_old(make_store, rng):
    store, tiles = make_store()
    truth = rng.integers(0, 2, store.shape)
    reference = Reference(lambda box: truth[box.slices])
    (against,) = tally(store, tiles, reference)
    before = against.total.copy()
    tile = tiles.tile(tiles.index(5)).inner
    truth[tile.slices] = 1
    against.outdate([5])
    assert not against.counted[5]
    np.testing.assert_array_equal(against.total, before)  # until it is counted again
    against.put(5, count_tile(store, tile, [reference])[0])
    assert against.total[:, 0].tolist() == [brute_force(label, truth) for label in labels_of(store)]
    assert against.counted.all()


def test_large_tiles_are_read_in_pieces(make_store, monkeypatch, rng):
    store, tiles = make_store((2, 37, 53), Seamless(inner=32, halo=8), chunks=(1, 8, 8))
    truth = rng.integers(0, 2, store.shape)
    asked = []

    def read(box):
        asked.append(box)
        return truth[box.slices]

    monkeypatch.setattr(agreement, "PIECE", 100)
    (against,) = tally(store, tiles, Reference(read))
    assert against.total[:, 0].tolist() == [brute_force(label, truth) for label in labels_of(store)]
    assert max(box.size for box in asked) <= 100
    assert all(start % 8 == 0 for box in asked for start in box.start[1:]), "no chunk is read twice"


def test_one_level_has_no_ensemble(make_store):
    store, tiles = make_store(levels=(2,))
    assert compared(store) == ("L2",)
    (deepest,) = tally(store, tiles, None)
    assert deepest.scores("dice") == [1.0]
