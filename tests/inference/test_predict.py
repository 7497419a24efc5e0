"""Which stacks a model takes, along which axes it goes, and with which intensities."""

from __future__ import annotations

import numpy as np
import pytest

from napari_unetpp.box import Box
from napari_unetpp.inference.backends import prepare
from napari_unetpp.inference.kernels import TorchLayers
from napari_unetpp.inference.predict import (
    check_input,
    measure_stack,
    open_run,
    predict_region,
    predict_stack,
    to_uint8,
)
from napari_unetpp.inference.store import StoreError, create_store
from napari_unetpp.inference.tiles import Overlap, Seamless, plan_tiles
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.stacks import open_stack

FIXED = Intensity("fixed", fixed_offset=(100.0,), fixed_gain=(0.01,))


def run(path, stack, model, tiling=Seamless(inner=16), level=None, **options):  # noqa: B008
    tiles = plan_tiles(stack.shape_predicted, model.spec, tiling, level=level)
    store = open_run(path, stack, model, tiles)
    return store, list(predict_stack(stack, model, tiles, store, **options))


def stored(store, level):
    return store.read(level, Box.of(store.shape))


def assert_rounded(got, probability):
    """`got` is round(255 p) of a probability that is known to 1e-5."""
    assert np.abs(got / 255 - probability).max() <= 0.5 / 255 + 1e-5


@pytest.mark.parametrize("tiling", [Seamless(inner=16), Overlap(64, 32)], ids=str)
def test_a_2d_model_goes_slice_by_slice(make_model, texture, tmp_path, tiling):
    model = make_model()
    image = texture(2, 3, 37, 53)
    stack = open_stack(image, axes="tzyx", spacing_um=(None, 2.0, 0.5, 0.5))
    store, events = run(tmp_path / "store", stack, model, tiling)
    assert (store.axes, store.shape) == ("tzyx", (2, 3, 37, 53))
    assert store.spacing_um == (None, 2.0, 0.5, 0.5)
    assert events[-1].done == len(events)
    scaling = measure_stack(stack, model)
    for t in range(2):
        for z in range(3):
            plane = image[t, z][None]
            if isinstance(tiling, Overlap):  # one patch holds the plane and its mirrored rest
                plane = np.pad(plane, ((0, 0), (0, 27), (0, 11)), "reflect")
            for level, head in enumerate(predict_region(plane, model, scaling=scaling), start=1):
                assert_rounded(stored(store, level)[:, t, z], head[:, :37, :53])


@pytest.mark.parametrize("axes", ["zcyx", "yxcz", "cyzx"])
def test_channels_are_found_by_name_wherever_they_are_stored(make_model, texture, tmp_path, axes):
    model = make_model(in_channels=2)
    image = texture(2, 3, 20, 24)  # c z y x
    stack = open_stack(image.transpose(["czyx".index(a) for a in axes]), axes=axes)
    store, _ = run(tmp_path / "store", stack, model)
    assert (store.axes, store.shape) == ("zyx", (3, 20, 24))
    scaling = measure_stack(stack, model)
    assert len(scaling.gain) == 2
    for z in range(3):
        heads = predict_region(image[:, z], model, scaling=scaling)
        assert_rounded(stored(store, 2)[:, z], heads[1])


def test_a_3d_model_goes_volume_by_volume(make_model, texture, tmp_path):
    model = make_model(ndim=3, widths=(2, 4, 8), classes=2)
    image = texture(2, 6, 11, 13)
    store, _ = run(tmp_path / "store", open_stack(image, axes="tzyx"), model, Seamless())
    assert store.probability(1).shape == (2, 2, 6, 11, 13)
    assert store.classes == ("background", "class 1")
    scaling = measure_stack(open_stack(image, axes="tzyx"), model)
    for t in range(2):
        for level, head in enumerate(predict_region(image[t][None], model, scaling=scaling), 1):
            assert_rounded(stored(store, level)[:, t], head)


def test_all_levels_come_from_one_pass(make_model, texture, tmp_path, passes):
    _, events = run(tmp_path / "a", open_stack(texture(16, 16, 16), axes="zyx"), make_model(), batch=3)
    assert len(events) == 16
    assert sorted(map(len, passes)) == [1, 3, 3, 3, 3, 3]


def test_tiles_of_one_pass_lie_alike_in_what_they_read(make_model, texture, tmp_path, passes):
    stack = open_stack(texture(64, 64), axes="yx")
    _, events = run(tmp_path / "a", stack, make_model(), Seamless(16, 8), batch=3)
    assert len(events) == sum(map(len, passes)) == 16
    assert max(map(len, passes)) == 2  # of each row of four, the two that touch no border


def test_a_level_stops_the_network_early(make_model, texture, tmp_path, monkeypatch):
    model = make_model()
    node = TorchLayers.node

    def watched(layers, i, j):
        assert i + j < 2, "L2 was computed"
        return node(layers, i, j)

    monkeypatch.setattr(TorchLayers, "node", watched)
    store, _ = run(tmp_path / "a", open_stack(texture(20, 20), axes="yx"), model, level=1)
    assert store.levels == (1,)


def test_a_single_head_is_its_own_level(make_model, texture, tmp_path):
    model = make_model(skips="plain", heads=(2,))
    image = texture(20, 20)
    store, _ = run(tmp_path / "a", open_stack(image, axes="yx"), model)
    assert store.levels == (2,)
    assert_rounded(stored(store, 2), predict_region(image[None], model)[0])


def test_the_main_chain_with_a_store_that_knows_no_plan(make_model, texture, tmp_path):
    """`create_store(path, shape, levels, like=stack)` as the package's docstring shows it."""
    model = make_model()
    stack = open_stack(texture(30, 600), axes="yx", spacing_um=(0.25, 0.25))
    tiles = plan_tiles(stack.shape_predicted, model.spec, Seamless(inner=400, halo=8))
    store = create_store(tmp_path / "store", stack.shape_predicted, (1, 2), like=stack)
    assert store.grid is None
    assert not store.complete
    assert len(list(predict_stack(stack, model, tiles, store))) == 2
    assert store.complete
    assert store.record["model_sha256"] == "sha-0"
    known, _ = run(tmp_path / "planned", stack, model, Seamless(inner=400, halo=8))
    assert (stored(known, 2) == stored(store, 2)).all()


def test_a_store_that_does_not_fit_is_refused(make_model, texture, tmp_path):
    model = make_model()
    stack = open_stack(texture(30, 30), axes="yx")
    tiles = plan_tiles((30, 30), model.spec, Seamless())
    store = create_store(tmp_path / "a", (30, 30), (1,), axes="yx")
    with pytest.raises(StoreError, match="create another store"):
        predict_stack(stack, model, tiles, store)
    with pytest.raises(ValueError, match=r"planned for shape \(30, 30\).*has \(30, 20\)"):
        predict_stack(open_stack(texture(30, 20), axes="yx"), model, tiles, store)


@pytest.mark.parametrize(
    ("shape", "axes", "options", "message"),
    [
        ((20, 20, 3), "yxc", {}, r"has 3 channels \(axis c\) where model 'tiny' takes 1; choose"),
        ((2, 20, 20), "cyx", {"in_channels": 3}, "has 2 channels .* takes 3; use a stack of 3"),
        ((20, 20), "yx", {"in_channels": 3}, "has no channel axis where .* takes 3"),
        ((20, 20), "yx", {"ndim": 3}, "has axes yx and no z, .* use a 2D model"),
    ],
)
def test_stacks_that_the_model_cannot_take(make_model, texture, tmp_path, shape, axes, options, message):
    model = make_model(**options)
    stack = open_stack(texture(*shape), axes=axes)
    with pytest.raises(ValueError, match=message):
        check_input(stack, model)
    if "z" in axes or model.spec.ndim == 2:
        tiles = plan_tiles(stack.shape_predicted, model.spec, Seamless())
        with pytest.raises(ValueError, match=message):
            open_run(tmp_path / "store", stack, model, tiles)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("shape", "axes"), [((20, 20), "yx"), ((1, 20, 20), "cyx")])
def test_gray_is_repeated_where_the_model_says_so(make_model, texture, tmp_path, shape, axes):
    model = make_model(in_channels=3, intensity=Intensity(replicate_gray=True))
    image = texture(*shape)
    store, _ = run(tmp_path / "store", open_stack(image, axes=axes), model)
    three = np.repeat(image.reshape(1, 20, 20), 3, axis=0)
    assert_rounded(stored(store, 2), predict_region(three, model)[1])
    assert_rounded(stored(store, 2), predict_region(three[:1], model)[1])


def test_a_small_stack_is_measured_whole(make_model, texture):
    image = texture(5, 40, 50)
    scaling = measure_stack(open_stack(image, axes="zyx"), make_model())
    low, high = np.percentile(image, [1, 99.8])
    assert scaling.offset == pytest.approx((low,))
    assert scaling.gain == pytest.approx((1 / (high - low),))


def test_a_large_stack_is_sampled_evenly(make_model, rng):
    """100 planes of 600^2: 16 of them, every 3rd voxel along both axes; read in bounded bands."""

    class Planes:
        shape, ndim, dtype = (100, 600, 600), 3, np.dtype(np.uint16)

        def __init__(self):
            self.read = []

        def __getitem__(self, key):
            z, y, x = (range(n)[k] for k, n in zip(key, self.shape, strict=True))
            self.read.append((z[0], len(z) * len(y) * len(x)))
            return (np.array(z)[:, None, None] * 100 + np.array(y)[:, None] % 7 + np.zeros(len(x), np.uint16)).astype(
                np.uint16
            )

    planes = Planes()
    stack = open_stack(planes, axes="zyx")
    scaling = measure_stack(stack, make_model(intensity=Intensity(low=0, high=100)))
    assert scaling.offset == (0,)
    assert scaling.gain == pytest.approx((1 / (99 * 100 + 6),))  # the first and the last plane
    assert len({z for z, _ in planes.read}) == 16
    assert max(n for _, n in planes.read) <= 2**22
    assert measure_stack(stack, make_model(intensity=Intensity(low=0, high=100))) == scaling


def test_nothing_is_read_for_fixed_intensities(make_model):
    class Untouchable:
        shape, ndim, dtype = (4, 30, 30), 3, np.dtype(np.uint8)

        def __getitem__(self, key):
            pytest.fail("the stack was read")

    stack = open_stack(Untouchable(), axes="zyx")
    scaling = measure_stack(stack, make_model(intensity=FIXED))
    assert (scaling.offset, scaling.gain) == ((100.0,), (0.01,))


def test_tiles_share_the_scaling_of_the_stack(make_model, tmp_path, passes):
    """A dark tile must not be stretched to the range of a bright one."""
    image = np.zeros((64, 64), np.float32)
    image[:32] = np.linspace(0, 1000, 64)
    run(tmp_path / "a", open_stack(image, axes="yx"), make_model(), Seamless(16, 0), batch=1)
    assert max(float(i.max()) for i in passes) == pytest.approx(1, abs=0.01)
    assert sum(float(i.max()) == 0 for i in passes) == 8  # the lower half


@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN or infinity"), (1e39, "numbers beyond float32")])
def test_nan_is_refused_before_anything_is_written(make_model, texture, tmp_path, value, what):
    image = texture(30, 30).astype(np.float64)
    image[3, 4] = value
    with pytest.raises(ValueError, match=rf"holds {what} near y 3, x 4;.*nan_to_num"):
        run(tmp_path / "a", open_stack(image, axes="yx"), make_model())
    assert not list(tmp_path.iterdir())


def test_infinity_that_the_sample_missed_stops_the_run_at_its_tile(make_model, texture, tmp_path):
    image = texture(40, 32, 32).astype(np.float32)
    image[1, 20, 20] = np.inf  # of 40 planes, 16 are sampled: 0, 3, 5, ...
    with pytest.raises(ValueError, match="near z 1, y 20, x 20"):
        run(tmp_path / "a", open_stack(image, axes="zyx"), make_model(), Seamless(16, 0), batch=1)


@pytest.mark.parametrize(
    ("shape", "level", "message"),
    [
        ((20, 20), None, r"shape \(20, 20\) where model 'tiny' takes 1 channels first"),
        ((3, 20, 20), None, "takes 1 channels"),
        ((1, 0, 20), None, "is empty"),
        ((1, 20, 20), 3, "level 3 has no head"),
    ],
)
def test_regions_that_the_model_cannot_take(make_model, shape, level, message):
    with pytest.raises(ValueError, match=message):
        predict_region(np.ones(shape), make_model(), level)


def test_a_region_gives_every_head_up_to_its_level(make_model, texture):
    model = make_model(classes=3)
    raw = texture(1, 21, 30)
    heads = predict_region(raw, model, 1)
    assert [h.shape for h in heads] == [(3, 21, 30)]
    assert heads[0].dtype == np.float32
    np.testing.assert_allclose(heads[0].sum(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(heads[0], predict_region(raw, model)[0], atol=1e-6)


def test_stored_values_are_rounded_probabilities():
    p = np.linspace(0, 1, 100_001, dtype=np.float32)
    q = to_uint8(p)
    assert np.abs(q / 255.0 - p).max() <= 0.5 / 255 + 1e-7
    assert ((q >= 128) == (p >= 0.5)).all()  # so a threshold of 0.5 loses nothing
    assert to_uint8(np.float32([1 + 1e-6])) == 255


def test_a_batch_is_limited_by_its_voxels(make_model, texture, tmp_path):
    backend = prepare(make_model())
    assert backend.best_batch(2, (96, 96)) > 1
    assert backend.best_batch(2, (2048, 2048)) == 1
    with pytest.raises(ValueError, match="batch 0 "):
        run(tmp_path / "a", open_stack(texture(16, 16), axes="yx"), make_model(), batch=0)
