"""Boxes against sets of points, mirrored reading against numpy's own padding."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_unetpp.box import Box, chunk_extent, fold_indices, read_box


def points(box: Box) -> set[tuple[int, ...]]:
    return set(itertools.product(*map(range, box.start, box.stop)))


@st.composite
def boxes(draw: st.DrawFn, ndim: int, lowest: int = -5, longest: int = 5) -> Box:
    start = draw(st.tuples(*[st.integers(lowest, 5)] * ndim))
    shape = draw(st.tuples(*[st.integers(0, longest)] * ndim))
    return Box(start, tuple(a + n for a, n in zip(start, shape, strict=True)))


pairs = st.integers(1, 3).flatmap(lambda ndim: st.tuples(boxes(ndim), boxes(ndim)))


@given(pairs)
def test_boxes_combine_like_sets_of_points(pair: tuple[Box, Box]) -> None:
    a, b = pair
    assert a.size == len(points(a))
    assert points(a.intersect(b)) == points(a) & points(b)
    assert points(b.intersect(a)) == points(a.intersect(b))
    assert a.inside(b) == (points(a) <= points(b))
    assert a.intersect(b).inside(a)


@given(st.integers(1, 3).flatmap(boxes), st.integers(0, 3), st.integers(-7, 7))
def test_grow_and_shift_move_points(box: Box, halo: int, offset: int) -> None:
    by = range(-halo, halo + 1)
    near = {tuple(np.add(p, d)) for p in points(box) for d in itertools.product(by, repeat=box.ndim)}
    grown = box.grow((halo,) * box.ndim)
    assert box.inside(grown)
    assert grown.grow((-halo,) * box.ndim) == box
    if box.size:
        assert points(grown) == near
    moved = box.shift((offset,) * box.ndim)
    assert points(moved) == {tuple(np.add(p, offset)) for p in points(box)}


def test_a_box_is_made_of_plain_integers() -> None:
    box = Box(tuple(np.array([1, 2])), tuple(np.array([3, 4])))
    assert json.dumps([box.start, box.stop]) == "[[1, 2], [3, 4]]"
    assert box == Box((1, 2), (3, 4))
    assert hash(box) == hash(Box((1, 2), (3, 4)))
    assert Box.of(np.zeros((3, 4)).shape).slices == (slice(0, 3), slice(0, 4))


def test_boxes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        Box((0,), (1, 2))
    with pytest.raises(ValueError, match="before its start"):
        Box((3,), (1,))
    with pytest.raises(ValueError, match="before the array"):
        _ = Box((-1,), (1,)).slices
    with pytest.raises(TypeError):
        Box((0.5,), (1,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"argument 2 is longer"):
        Box((0,), (1,)).intersect(Box((0, 0), (1, 1)))


@given(st.integers(1, 9), st.integers(-40, 40), st.integers(0, 60))
def test_folding_is_numpys_reflect_at_any_distance(extent: int, start: int, length: int) -> None:
    before, after = max(0, -start), max(0, start + length - extent)
    padded = np.pad(np.arange(extent), (before, after), mode="reflect")
    expected = padded[start + before : start + before + length]
    np.testing.assert_array_equal(fold_indices(start, start + length, extent), expected)


def test_nothing_can_be_mirrored_from_an_empty_axis() -> None:
    with pytest.raises(ValueError, match="extent 0"):
        fold_indices(0, 3, 0)


@st.composite
def arrays_and_boxes(draw: st.DrawFn) -> tuple[np.ndarray, Box]:
    ndim = draw(st.integers(1, 3))
    shape = draw(st.tuples(*[st.integers(1, 6)] * ndim))
    return np.arange(np.prod(shape)).reshape(shape), draw(boxes(ndim, -13, 20))


class Watched:
    """An array that remembers how many voxels were asked of it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.touched = np.zeros(array.shape, bool)

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        self.touched[key] = True
        return self.array[key]


@settings(max_examples=300)
@given(arrays_and_boxes())
def test_reading_equals_padding_and_touches_only_what_is_shown(
    case: tuple[np.ndarray, Box],
) -> None:
    array, box = case
    watched = Watched(array)
    got = read_box(watched, box)

    before = [max(0, -a) for a in box.start]
    after = [max(0, b - n) for b, n in zip(box.stop, array.shape, strict=True)]
    padded = np.pad(array, list(zip(before, after, strict=True)), mode="reflect")
    expected = padded[box.shift(before).slices]
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == array.dtype
    # Every voxel has its own number here, so what was needed can be told from the result.
    np.testing.assert_array_equal(watched.touched, np.isin(array, expected))


def test_a_box_inside_is_a_view() -> None:
    array = np.zeros((4, 4))
    assert np.shares_memory(read_box(array, Box((1, 1), (3, 3))), array)


def test_a_box_of_other_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="2 axes"):
        read_box(np.zeros(3), Box((0, 0), (1, 1)))


def test_chunks_of_zarr_and_dask_are_understood() -> None:
    import dask.array
    import zarr

    stored = zarr.create_array({}, shape=(9, 8), chunks=(4, 8), dtype="u1")
    assert chunk_extent(stored, 0) == 4
    assert chunk_extent(dask.array.zeros((9, 8), chunks=(5, 8)), 0) == 5
    assert chunk_extent(np.zeros((9, 8)), 0) == 1
