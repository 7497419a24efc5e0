"""The job of the live preview, without a window: what it answers, in which order, and what it leaves out."""

import numpy as np
import pytest

from napari_unetpp.box import Box
from napari_unetpp.gui import live, live_blocks
from napari_unetpp.gui.comparison import ENSEMBLE
from napari_unetpp.gui.live import ENSEMBLE_LABEL, LiveSession, Looked, View, look
from napari_unetpp.gui.live_blocks import blocks_of, region_of
from napari_unetpp.inference import region as engine
from napari_unetpp.inference.predict import measure_stack, open_run, predict_region, predict_stack
from napari_unetpp.inference.tiles import Seamless, plan_tiles
from napari_unetpp.model.checkpoint import load_model, save_model
from napari_unetpp.model.zoo import user_folder
from napari_unetpp.stacks import open_stack

HEADS = (1, 2)


@pytest.fixture
def stack(rng):
    return open_stack(rng.integers(0, 200, (5, 48, 64), np.uint8), axes="zyx")


@pytest.fixture
def session(stack, model):
    return LiveSession(stack, user_folder() / "tiny.safetensors", "cpu")


def plane(z, level=2, **kwargs):
    return View(Box((z, 0, 0), (z + 1, 48, 64)), level, HEADS, **kwargs)


def answers(session, view):
    """Everything that is told, each with a copy of its labels."""
    session.wanted = view
    return [(event, event.labels.copy()) for event in look(session) if isinstance(event, Looked)]


def expected(stack, model, z, level, threshold=0.5):
    """By one pass over the plane, in the stored form."""
    heads = predict_region(stack.data[z][None], model, scaling=measure_stack(stack, model))
    stored = [np.round(head[0] * 255) for head in heads]
    chosen = np.mean(stored, axis=0) if level == ENSEMBLE else stored[level - 1]
    number = ENSEMBLE_LABEL if level == ENSEMBLE else level
    return np.where(chosen >= 255 * threshold, number, 0)[None]


@pytest.mark.parametrize("level", [1, 2, ENSEMBLE])
def test_a_view_goes_up_the_levels_and_ends_like_a_run(session, stack, model, level):
    told = answers(session, plane(3, level))
    assert [event.reached for event, _ in told] == {1: [1], 2: [1, 2], ENSEMBLE: [1, ENSEMBLE]}[level]
    np.testing.assert_array_equal(told[0][1], expected(stack, model, 3, 1))
    np.testing.assert_array_equal(told[-1][1], expected(stack, model, 3, level))
    assert 0.1 < (told[-1][1] > 0).mean() < 0.9


def test_the_threshold_is_that_of_stored_labels(session, stack, model):
    few, many = (answers(session, plane(0, threshold=t))[-1][1] for t in (0.6, 0.4))
    np.testing.assert_array_equal(few, expected(stack, model, 0, 2, 0.6))
    assert (many > 0).sum() > (few > 0).sum()


def test_a_deeper_level_goes_on_from_the_nodes_that_are_there(session, monkeypatch):
    computed = []
    monkeypatch.setattr(engine, "add_node", lambda *a, do=engine.add_node: (computed.append(a[3:5]), do(*a)))
    answers(session, plane(1, 1))
    assert sorted(computed) == [(0, 0), (0, 1), (1, 0)]
    answers(session, plane(1, 2))
    assert len(computed) == len(set(computed)) == 6
    for level in (1, ENSEMBLE, 2):  # all of it is known by now
        answers(session, plane(1, level))
    assert len(computed) == 6


def test_what_was_looked_at_before_is_there_at_once(session, monkeypatch):
    first = answers(session, plane(1))
    answers(session, plane(2))
    monkeypatch.setattr(live, "_answer", lambda *_: pytest.fail("computed again"))
    again = answers(session, plane(1))
    assert [event.reached for event, _ in again] == [2]
    np.testing.assert_array_equal(again[0][1], first[-1][1])


def test_nothing_stale_is_finished(session, monkeypatch):
    computed = []
    monkeypatch.setattr(engine, "add_node", lambda *a, do=engine.add_node: (computed.append(a[3:5]), do(*a)))
    session.wanted = plane(1)
    steps = look(session)
    while not computed:
        next(steps)
    session.wanted = plane(4)
    told = [event for event in steps if isinstance(event, Looked)]
    assert {event.view.box.start[0] for event in told} == {4}
    assert len(computed) == 1 + 6  # the step in work, and then the other view


@pytest.fixture
def half_done(tmp_path, stack, model):
    """A store whose first tile of slice 2 is done, and that tile."""
    tiles = plan_tiles(stack.shape_predicted, model.spec, Seamless(inner=16), visible=Box((2, 0, 0), (3, 16, 16)))
    store = open_run(tmp_path / "half.ome.zarr", stack, model, tiles)
    run = predict_stack(stack, model, tiles, store, threads=1, batch=1)
    first = next(event for event in run if hasattr(event, "tile"))
    run.close()
    return store, first.tile


def test_what_a_run_has_stored_is_left_to_it(session, stack, model, half_done):
    store, tile = half_done
    session.store = store
    z = tile.inner.start[0]
    labels = answers(session, plane(z))[-1][1]
    whole = expected(stack, model, z, 2)
    done = np.zeros(whole.shape, bool)
    for number in np.argwhere(store.done()):
        inner = plan_tiles(stack.shape_predicted, model.spec, Seamless(inner=16)).tile(number).inner
        if inner.start[0] == z:
            done[(0, *inner.slices[1:])] = True
    assert whole[done].any()
    assert done.any()
    assert not done.all()
    np.testing.assert_array_equal(labels, np.where(done, 0, whole))


def test_a_view_that_is_stored_as_a_whole_is_not_computed(session, half_done, monkeypatch):
    store, tile = half_done
    session.store = store
    monkeypatch.setattr(live, "_answer", lambda *_: pytest.fail("computed"))
    ((event, labels),) = answers(session, View(tile.inner, 2, HEADS))
    assert event.reached == 2
    assert not labels.any()


def test_a_store_of_another_model_counts_for_nothing(session, tmp_path, stack, tiny_model, half_done):
    save_model(tiny_model(seed=5), user_folder() / "other.safetensors")
    store, tile = half_done
    other = LiveSession(stack, user_folder() / "other.safetensors", "cpu", store)
    labels = answers(other, plane(tile.inner.start[0]))[-1][1]
    np.testing.assert_array_equal(labels, expected(stack, load_model("other", "cpu"), tile.inner.start[0], 2))


@pytest.mark.parametrize("nodes", [0, 2**30])
def test_many_blocks_agree_with_one_pass_but_for_their_borders(session, stack, model, monkeypatch, nodes):
    monkeypatch.setitem(live_blocks.BLOCK, 2, 32)
    monkeypatch.setattr(live, "NODE_BYTES", nodes)  # with 0 the nodes of one block are kept, and no more
    told = answers(session, plane(0))
    assert told[0][0].reached is None  # one block of four
    assert told[-1][0].reached == 2
    assert np.mean(told[-1][1] == expected(stack, model, 0, 2)) > 0.99  # the fast halo is 16 voxels
    answers(session, plane(0, 1))
    assert answers(session, plane(0, ENSEMBLE))[-1][0].reached == ENSEMBLE


def test_classes_are_labels_as_they_are_stored(rng, home, tiny_model):
    save_model(tiny_model(classes=3), user_folder() / "three.safetensors")
    model = load_model("three", "cpu")
    stack = open_stack(rng.integers(0, 200, (48, 64), np.uint8), axes="yx")
    session = LiveSession(stack, user_folder() / "three.safetensors", "cpu")
    labels = answers(session, View(Box.of((48, 64)), 2, HEADS))[-1][1]
    head = predict_region(stack.data[None], model, scaling=measure_stack(stack, model))[1]
    np.testing.assert_array_equal(labels, np.round(head * 255).argmax(axis=0))


def test_a_slab_of_a_3d_network(rng, home, tiny_model):
    save_model(tiny_model(ndim=3), user_folder() / "solid.safetensors")
    model = load_model("solid", "cpu")
    stack = open_stack(rng.integers(0, 200, (12, 32, 32), np.uint8), axes="zyx")
    session = LiveSession(stack, user_folder() / "solid.safetensors", "cpu")
    told = answers(session, View(Box((5, 0, 0), (6, 32, 32)), 2, HEADS))[-1]
    assert told[0].box == Box((4, 0, 0), (8, 32, 32))  # on the grid of 4
    whole = predict_region(stack.data[None], model, scaling=measure_stack(stack, model))[1][0]
    np.testing.assert_array_equal(told[1] > 0, np.round(whole * 255)[4:8] >= 127.5)  # 12 slices are all read


def test_an_image_that_the_model_cannot_take_is_refused(model, rng):
    stack = open_stack(rng.integers(0, 200, (2, 32, 32), np.uint8), axes="cyx")
    session = LiveSession(stack, user_folder() / "tiny.safetensors", "cpu", wanted=plane(0))
    with pytest.raises(ValueError, match="2 channels"):
        list(look(session))


@pytest.mark.parametrize(("extent", "begin"), [(5000, 100), (300, 7), (577, 0), (1200, 33)])
def test_blocks_hold_every_voxel_of_the_region_once(extent, begin):
    region = region_of(Box((2, begin, 0), (3, begin + extent, 640)), (9, 6000, 640), 2, 16)
    seen = np.zeros(region.shape, int)
    for block in blocks_of(region, 2, 16):
        assert all(edge <= 576 + 16 for edge in block.shape)
        assert all(start % 16 == 0 for start in block.start[1:])
        seen[block.shift([-a for a in region.start]).slices] += 1
    assert (seen == 1).all()


def test_the_middle_comes_first_and_of_a_huge_view_only_the_middle():
    region = region_of(Box((0, 0), (20000, 20000)), (20000, 20000), 2, 16)
    assert abs(region.start[0] + region.stop[0] - 20000) <= 32
    first = blocks_of(region, 2, 16)[0]
    assert all(a <= 10000 < b + 600 for a, b in zip(first.start, first.stop, strict=True))
