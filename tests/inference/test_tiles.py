"""Inner boxes hold each voxel once; outer boxes are what both tilings promise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_unetpp.box import Box
from napari_unetpp.inference.tiles import Overlap, Seamless, plan_tiles, tiling_from_card
from napari_unetpp.model.spec import NetworkSpec

FLAT = NetworkSpec(widths=(4, 8, 16), heads=(1, 2))
SOLID = NetworkSpec(ndim=3, widths=(4, 8, 16), heads=(1, 2))

tilings = st.one_of(
    st.builds(
        lambda inner, halo: Seamless(4 * inner, 4 * halo if isinstance(halo, int) else halo),
        st.integers(1, 10),
        st.one_of(st.integers(0, 8), st.sampled_from(["exact", "fast"])),
    ),
    st.integers(1, 10).flatmap(lambda n: st.builds(Overlap, st.just(4 * n), st.integers(1, 4 * n), st.just("mean"))),
)


@st.composite
def plans(draw):
    spec = draw(st.sampled_from([FLAT, SOLID]))
    extents = st.integers(2, 140 if spec.ndim == 2 else 50)
    spatial = draw(st.tuples(*[extents] * spec.ndim))
    leading = draw(st.lists(st.integers(1, 3), max_size=2))
    tiling = draw(tilings)
    return plan_tiles((*leading, *spatial), spec, tiling), spec


@settings(deadline=None, max_examples=40)
@given(plans())
def test_inner_boxes_hold_each_voxel_once(plan):
    tiles, _ = plan
    seen = np.zeros(tiles.shape, np.uint8)
    for number, tile in enumerate(tiles):
        seen[tile.inner.slices] += 1
        assert tiles.number(tile.index) == number
        assert tiles.tile(tiles.index(number)) == tile
        assert tile.inner.inside(tile.outer)
        assert tile.outer.shape[: tiles.leading] == (1,) * tiles.leading
    assert (seen == 1).all()
    assert number + 1 == len(tiles) == np.prod(tiles.grid)


@settings(deadline=None, max_examples=40)
@given(plans())
def test_no_chunk_belongs_to_two_tiles(plan):
    tiles, _ = plan
    for tile in tiles:
        for a, b, chunk, extent in zip(tile.inner.start, tile.inner.stop, tiles.chunks, tiles.shape, strict=True):
            assert a % chunk == 0
            assert b % chunk == 0 or b == extent


@settings(deadline=None, max_examples=40)
@given(plans())
def test_seamless_outer_boxes_lie_on_the_grid_of_a_whole_image_pass(plan):
    tiles, _ = plan
    if not isinstance(tiles.tiling, Seamless):
        return
    spatial = slice(tiles.leading, None)
    padded = [-(-n // 4) * 4 for n in tiles.shape[spatial]]
    for tile in tiles:
        for a, b, inner_a, inner_b, end in zip(
            tile.outer.start[spatial],
            tile.outer.stop[spatial],
            tile.inner.start[spatial],
            tile.inner.stop[spatial],
            padded,
            strict=True,
        ):
            assert a % 4 == b % 4 == 0
            assert 0 <= a < b <= end
            # The halo is whole and no longer, or the image ends before it does.
            assert a == max(inner_a - tiles.tiling.halo, 0)
            assert b == min(-(-inner_b // 4) * 4 + tiles.tiling.halo, end)


@settings(deadline=None, max_examples=40)
@given(plans())
def test_patches_lie_inside_and_bands_read_those_that_touch_them(plan):
    tiles, _ = plan
    if not isinstance(tiles.tiling, Overlap):
        return
    patch, stride = tiles.tiling.patch, tiles.tiling.stride
    spatial = tiles.shape[tiles.leading :]
    for extent, starts in zip(spatial, tiles.patch_starts, strict=True):
        assert starts[0] == 0
        assert starts[-1] + patch == max(extent, patch)
        steps = np.diff(starts)
        assert ((steps > 0) & (steps <= stride)).all()
        assert (steps[:-1] == stride).all()
    axis = tiles.leading
    for tile in tiles:
        first, stop = tile.inner.start[axis], tile.inner.stop[axis]
        assert first % stride == 0
        voxels = {
            voxel
            for s in tiles.patch_starts[0]
            if set(range(s, s + patch)) & set(range(first, stop))
            for voxel in range(s, s + patch)
        }
        assert (tile.outer.start[axis], tile.outer.stop[axis]) == (min(voxels), max(voxels) + 1)
        assert tile.inner.shape[axis + 1 :] == spatial[1:]


@pytest.mark.parametrize(
    ("upsampling", "level", "halo"),
    # Receptive radii of PERFORMANCE.md (9, 23, 51, 107 and 10, 26, 58, 122), on the grid of 16.
    [("nearest", d, h) for d, h in zip((1, 2, 3, 4), (16, 32, 64, 112), strict=True)]
    + [("bilinear", d, h) for d, h in zip((1, 2, 3, 4), (16, 32, 64, 128), strict=True)],
)
def test_exact_halo_is_the_receptive_radius_on_the_grid(upsampling, level, halo):
    spec = NetworkSpec(upsampling=upsampling)
    tiles = plan_tiles((2048, 2048), spec, Seamless(), level=level)
    assert tiles.describe()["halo"] == halo


@pytest.mark.parametrize(
    ("extent", "inner"),
    [(512, 512), (600, 1024), (1024, 1024), (2048, 1024), (4096, 2048), (30_000, 2048)],
)
def test_tiles_are_as_small_as_their_halo_is_cheap(extent, inner):
    """A plane that fits a tile has no halo; otherwise the tiles read at most a quarter more, or are the largest."""
    tiles = plan_tiles((extent, extent), NetworkSpec(), Seamless())
    assert tiles.tiling.inner == inner
    read = sum(b - a for a, b in tiles.outer_spans[0]) ** 2
    assert read <= 1.25 * extent**2
    assert max(tiles.chunks) <= 1024


@given(st.data())
@settings(deadline=None)
def test_tiles_that_touch_a_box_are_those_that_share_a_voxel_with_it(data):
    tiles = plan_tiles((4, 37, 53), NetworkSpec(widths=(4, 8, 16), heads=(1, 2)), Seamless(inner=16, halo=8))
    start = [data.draw(st.integers(0, n - 1)) for n in tiles.shape]
    box = Box(tuple(start), tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, tiles.shape, strict=True)))
    touched = tiles.touching(box)
    for tile in tiles:
        assert touched[tile.index] == (tile.inner.intersect(box).size > 0)


def test_windows_of_the_paper():
    """512^2 has 10 x 10 patches of 96 at stride 48, 1024^2 has 21 x 21 (PERFORMANCE.md)."""
    for extent, count in ((512, 10), (1024, 21)):
        tiles = plan_tiles((extent, extent), NetworkSpec(), Overlap())
        assert [len(starts) for starts in tiles.patch_starts] == [count, count]
        assert tiles.chunks[0] == 96


@settings(deadline=None, max_examples=15)
@given(
    st.tuples(*[st.integers(0, 3)] * 2, *[st.integers(-4, 44)] * 2),
    st.tuples(*[st.integers(1, 2)] * 2, *[st.integers(1, 20)] * 2),
)
def test_visible_tiles_come_first_then_near_slices(start, extent):
    visible = Box(start, tuple(a + n for a, n in zip(start, extent, strict=True)))
    tiles = plan_tiles((3, 4, 37, 45), FLAT, Seamless(8, 4), visible=visible)
    order = list(tiles)
    assert order == list(tiles)  # it can be iterated again

    def distance(tile, axes):
        # Steps from the nearest voxel of one to the nearest of the other, counted the slow way.
        return sum(
            min(
                abs(v - w)
                for v in range(tile.inner.start[a], tile.inner.stop[a])
                for w in range(visible.start[a], visible.stop[a])
            )
            for a in axes
        )

    keys = [(distance(t, (0, 1)), distance(t, (2, 3)), tiles.number(t.index)) for t in order]
    assert keys == sorted(keys)
    assert sorted(number for *_, number in keys) == list(range(len(tiles)))
    touching = [t.inner.intersect(visible).size > 0 for t in order]
    assert touching == sorted(touching, reverse=True)


@pytest.mark.parametrize(
    ("shape", "tiling", "message"),
    [
        ((64, 64), Seamless(inner=100), "inner 100 is not a multiple of 16.*use 96 or 112"),
        ((64, 64), Seamless(inner=8), "inner 8 is not a multiple of 16.*use 16"),
        ((64, 64), Seamless(inner=0), "inner 0 .*use 16"),
        ((64, 64), Seamless(32, halo=20), "halo 20 is not a multiple of 16.*use 16 or 32"),
        ((64, 64), Seamless(32, halo=-16), "halo -16 .*use 0"),
        ((64, 64), Seamless(32, halo="tiny"), "halo 'tiny' is unknown.*exact.*fast"),
        ((64, 64), Overlap(patch=100), "patch 100 is not a multiple of 16.*use 96 or 112"),
        ((64, 64), Overlap(96, 97), "stride 97 leaves gaps.*96.*use 1 to 96"),
        ((64, 64), Overlap(96, 0), "stride 0 .*use 1 to 96"),
        ((64, 64), Overlap(96, 48, "median"), "'median' is unknown; use mean, vote, gaussian"),
        ((64, 1), Overlap(), r"axis 1 .*\(64, 1\) is 1 voxel thin, so there is nothing to segment"),
        ((1, 1), Seamless(), "nothing to segment"),
        ((0, 64, 64), Seamless(), r"\(0, 64, 64\) is empty; there is nothing to segment"),
        ((64,), Seamless(), "fewer than the 2 axes"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_the_number_and_the_fix(shape, tiling, message):
    with pytest.raises(ValueError, match=message):
        plan_tiles(shape, NetworkSpec(), tiling)


def test_exact_tiles_of_a_size_dependent_network_are_refused():
    spec = NetworkSpec(upsampling="bilinear-aligned")
    with pytest.raises(ValueError, match="use overlap tiling"):
        plan_tiles((64, 64), spec, Seamless())
    assert plan_tiles((64, 64), spec, Seamless(halo="fast")).describe()["halo"] == 16
    assert len(plan_tiles((64, 64), spec, Overlap())) == 1


def test_a_level_without_head_and_a_flat_visible_box_are_refused():
    with pytest.raises(ValueError, match="level 3 has no head"):
        plan_tiles((64, 64), FLAT, Seamless(), level=3)
    with pytest.raises(ValueError, match="visible box of 2 axes where the stack has 3"):
        plan_tiles((4, 64, 64), FLAT, Seamless(), visible=Box((0, 0), (4, 4)))


@pytest.mark.parametrize(
    "tiling",
    [
        Overlap(32, 8, "vote"),
        *(Seamless(i, h) for i, h in itertools.product([None, 32], ["fast", 16])),
    ],
)
def test_a_tiling_survives_its_description(tiling):
    assert tiling_from_card(tiling.describe()) == tiling


def test_unknown_descriptions_are_refused():
    with pytest.raises(ValueError, match="'spiral' is unknown; use overlap or seamless"):
        tiling_from_card({"kind": "spiral"})
    with pytest.raises(ValueError, match="overlap tiling has no halo"):
        tiling_from_card({"kind": "overlap", "halo": 3})


def test_a_thin_3d_axis_is_refused_but_one_slice_suits_a_2d_model():
    with pytest.raises(ValueError, match=r"axis 0 .* 1 voxel thin"):
        plan_tiles((1, 64, 64), SOLID, Seamless(32))
    assert plan_tiles((1, 64, 64), FLAT, Seamless(32)).grid == (1, 2, 2)


def test_a_bounded_halo_is_as_long_as_a_few_readings_allow():
    spec = NetworkSpec.preset("vnet++").with_width(4)
    for shape, level in (((512, 512, 512), 4), ((512, 512, 512), 1), ((40, 300, 300), 3)):
        bounded, exact = (plan_tiles(shape, spec, Seamless(halo=halo), level=level) for halo in ("bounded", "exact"))
        mirrored = np.prod([-(-n // 16) * 16 / n for n in shape])  # which is read, and not in the bound
        assert bounded.read_factor <= 4 * mirrored
        if bounded.tiling.halo == exact.tiling.halo:
            continue
        longer = plan_tiles(shape, spec, Seamless(bounded.tiling.inner, bounded.tiling.halo + spec.grid), level=level)
        assert longer.read_factor > 4
    plane = NetworkSpec.preset("default")  # in 2D the exact one is near enough
    assert (
        plan_tiles((4096, 4096), plane, Seamless(halo="bounded")).tiling
        == plan_tiles((4096, 4096), plane, Seamless()).tiling
    )


def test_the_read_factor_counts_what_is_read():
    spec = NetworkSpec(widths=(4, 8, 16), heads=(1, 2))
    for tiling in (Overlap(16, 8), Overlap(16, 12), Seamless(16, 8), Seamless(8, 0)):
        tiles = plan_tiles((3, 40, 64), spec, tiling)
        if isinstance(tiling, Overlap):
            read = 3 * len(tiles.patch_starts[0]) * len(tiles.patch_starts[1]) * 16**2
        else:
            read = sum(tile.outer.size for tile in tiles)
        assert tiles.read_factor == pytest.approx(read / (3 * 40 * 64))
