"""Views equal numpy on the whole arrays, for every index, in every thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_unetpp.box import Box
from napari_unetpp.inference.labels import disagreement_view, label_view, probability_view
from napari_unetpp.inference.store import create_store
from napari_unetpp.inference.tiles import Tile

SHAPE = (3, 10, 12)
LEVELS = (1, 2, 3)


@pytest.fixture(scope="module", params=[1, 3], ids=["1 class", "3 classes"])
def filled(request, tmp_path_factory):
    """A store and what it holds: {level: uint8 (class, z, y, x)}."""
    classes = ["cell"] if request.param == 1 else ["background", "cell", "wall"]
    store = create_store(
        tmp_path_factory.mktemp("labels") / "a",
        SHAPE,
        LEVELS,
        axes="zyx",
        classes=classes,
        chunks=(2, 6, 12),
    )
    rng = np.random.default_rng(3)
    # Few values, so that ties and values right at a threshold happen.
    held = {d: rng.choice(np.uint8([0, 51, 102, 127, 128, 204, 255]), (len(classes), *SHAPE)) for d in LEVELS}
    store.write(Tile((0,), Box.of(SHAPE), Box.of(SHAPE)), held)
    return store, held


@pytest.mark.parametrize("threshold", [0, 0.2, 0.4, 0.5, 0.8, 1])
@pytest.mark.parametrize("level", [1, 3, "ensemble"])
def test_labels_follow_their_definition_exactly(filled, level, threshold):
    store, held = filled
    view = label_view(store, level, threshold)
    levels = LEVELS if level == "ensemble" else (level,)
    total = sum(held[d].astype(int) for d in levels)
    if len(store.classes) == 1:
        # In fractions: mean of q / 255 >= threshold, with 0.2 = 51/255 meant as it is written.
        limit = Fraction(str(threshold)) * 255 * len(levels)
        expected = (total[0] >= limit).astype(np.uint8)
    else:
        expected = total.argmax(axis=0)
    got = np.asarray(view)
    assert got.dtype == np.uint8
    assert (got == expected).all()


@pytest.mark.parametrize("level", [2, "ensemble"])
def test_probabilities_and_disagreement(filled, level):
    store, held = filled
    levels = LEVELS if level == "ensemble" else (level,)
    for channel in range(len(store.classes)):
        expected = np.mean([held[d][channel] / 255 for d in levels], axis=0)
        got = np.asarray(probability_view(store, level, channel))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=1e-6)
    assert (np.asarray(probability_view(store, level)) == got).all()  # the last by default
    foreground = [held[d][0] / 255 if len(store.classes) == 1 else 1 - held[d][0] / 255 for d in LEVELS]
    expected = np.max(foreground, axis=0) - np.min(foreground, axis=0)
    np.testing.assert_allclose(np.asarray(disagreement_view(store)), expected, atol=1e-6)


bounds = st.one_of(st.none(), st.integers(-15, 15))
steps = st.one_of(st.none(), st.sampled_from([-3, -2, -1, 1, 2, 5]))
axis_keys = st.builds(slice, bounds, bounds, steps)


@st.composite
def keys(draw):
    key = [draw(st.one_of(axis_keys, st.integers(-n, n - 1))) for n in SHAPE]
    key = key[: draw(st.integers(0, len(SHAPE)))]
    if draw(st.booleans()):
        key.insert(draw(st.integers(0, len(key))), ...)
    return key[0] if len(key) == 1 and draw(st.booleans()) else tuple(key)


def test_every_index_means_what_it_means_to_numpy(filled):
    store, _ = filled
    views = [(view, np.asarray(view)) for view in (label_view(store, 1), disagreement_view(store))]

    @settings(deadline=None, max_examples=40)
    @given(key=keys())
    def law(key):
        for view, whole in views:
            got = view[key]
            assert np.shape(got) == whole[key].shape
            assert np.asarray(got).dtype == whole.dtype
            assert (got == whole[key]).all()

    law()


def test_indices_that_are_no_place(filled):
    view = label_view(filled[0], 1)
    assert view[np.int64(1), :, np.uint8(2)].shape == (10,)
    for key in (None, [0, 1], (0, 0, 0, 0), 3, (..., ...), 1.5, np.zeros(3, bool)):
        with pytest.raises(IndexError):
            view[key]
    with pytest.raises(ValueError, match="cannot be had without a copy"):
        np.asarray(view, copy=False)


def test_it_looks_like_an_array(filled):
    view = label_view(filled[0], 1)
    assert (view.shape, view.ndim, view.size, view.nbytes) == (SHAPE, 3, 360, 360)
    assert (view.dtype, view.axes, len(view)) == (np.uint8, "zyx", 3)
    assert disagreement_view(filled[0]).nbytes == 4 * 360
    assert np.asarray(view, np.int32).dtype == np.int32


def test_wrong_choices_are_refused(filled):
    store, _ = filled
    with pytest.raises(ValueError, match="level 4 is not in"):
        label_view(store, 4)
    with pytest.raises(ValueError, match=r"threshold 1.5 is not a probability; use 0 to 1"):
        label_view(store, 1, 1.5)
    with pytest.raises(ValueError, match="channel 3 is not among"):
        probability_view(store, 1, 3)


def test_only_what_is_asked_for_is_read(filled, monkeypatch):
    store, _ = filled
    read, boxes = type(store).read, []
    monkeypatch.setattr(type(store), "read", lambda self, d, box: boxes.append((d, box)) or read(self, d, box))
    label_view(store, 2)[1, 2:4, ::-3]
    assert boxes == [(2, Box((1, 2, 2), (2, 4, 12)))]


def test_a_view_shows_what_is_on_disk_by_now(tmp_path):
    store = create_store(tmp_path / "a", (8, 8), (1,), axes="yx", chunks=(4, 8))
    view = label_view(store, 1)
    assert not np.asarray(view).any()  # nothing was predicted yet
    tile = Tile((0, 0), Box((0, 0), (4, 8)), Box((0, 0), (4, 8)))
    store.write(tile, {1: np.full((1, 4, 8), 200, np.uint8)})
    assert np.asarray(view).sum() == 32


def test_many_threads_read_while_one_writes(tmp_path):
    store = create_store(tmp_path / "a", (64, 32), (1, 2), axes="yx", chunks=(4, 32))
    tiles = [Tile((i, 0), Box((4 * i, 0), (4 * i + 4, 32)), Box.of((4, 4))) for i in range(16)]
    full = np.full((1, 4, 32), 255, np.uint8)
    views = [label_view(store, d) for d in (1, 2, "ensemble")]

    def look(n):
        rows = np.asarray(views[n % 3])[:, 0].reshape(16, 4)
        assert (rows == rows[:, :1]).all()  # never half a chunk
        return rows.sum()

    with ThreadPoolExecutor(6) as pool:
        looks = [pool.submit(look, n) for n in range(24)]
        for tile in tiles:
            store.write(tile, {1: full, 2: full})
        assert all(future.result() <= 64 for future in looks)
    assert [np.asarray(view).sum() for view in views] == [64 * 32] * 3


def test_napari_takes_a_view_as_a_labels_layer(filled):
    layers = pytest.importorskip("napari.layers")
    components = pytest.importorskip("napari.components")
    store, _ = filled
    view = label_view(store, "ensemble")
    viewer = components.ViewerModel()
    layer = viewer.add_layer(layers.Labels(view, name="L", scale=(5, 1, 1)))
    assert layer.data is view  # not computed and copied
    whole = np.asarray(view)
    for z in range(3):
        viewer.dims.set_current_step(0, z)
        assert (np.asarray(layer._slice.image.raw) == whole[z]).all()
        assert layer.get_value((z * 5, 4, 6), world=True) == whole[z, 4, 6]
    viewer.dims.ndisplay = 3
    assert (np.asarray(layer._slice.image.raw) == whole).all()
    image = viewer.add_layer(layers.Image(disagreement_view(store), contrast_limits=(0, 1)))
    assert image.data.shape == SHAPE
