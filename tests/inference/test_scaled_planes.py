"""Planes of different brightness, broken pixels and padding: however a stack is cut, a network sees it scaled by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from napari_unetpp.box import Box
from napari_unetpp.inference.backends import prepare
from napari_unetpp.inference.calibrate import calibration_patches
from napari_unetpp.inference.inputs import measure_stack, with_intensity
from napari_unetpp.inference.planes import plan_planes
from napari_unetpp.inference.planes_run import predict_planes
from napari_unetpp.inference.predict import open_run, predict_array, predict_stack
from napari_unetpp.inference.seams import seam_errors
from napari_unetpp.inference.store import StoreError
from napari_unetpp.inference.tiles import plan_tiles
from napari_unetpp.inference.tiling import Overlap, Seamless
from napari_unetpp.model.intensity import NEW, Intensity
from napari_unetpp.model.sampling import scale_stack
from napari_unetpp.stacks import open_stack

BY_HAND = Intensity("fixed")  # offset 0, gain 1
TILINGS = [Seamless(16), Overlap(16, 8)]


@pytest.fixture(scope="module")
def picture():
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(8, 72, 80)), (0, 2, 2))
    return np.interp(noise, (noise.min(), noise.max()), (30, 240)).astype(np.uint8)


@pytest.fixture(scope="module")
def spoilt(picture):
    """Planes that are darker than others, and pixels that are too bright."""
    stack = (picture * np.array([1, 0.2, 1, 0.5, 0.25, 1, 1, 0.1])[:, None, None]).astype(np.uint16) * 50
    stack[np.random.default_rng(4).random(stack.shape) < 0.005] = 65535
    return stack


def by_hand(image):
    """Each plane between its own percentiles, after a median where a pixel is far from its neighbours."""
    scaling = scale_stack(open_stack(image, axes="zyx"), NEW, 1)
    median = ndimage.median_filter(image, (1, 3, 3), mode="reflect")
    far = np.abs(image.astype(float) - median) > scaling.speck[0]
    clean = np.where(far, median, image).astype(float)
    offset, gain = (np.array(table)[:, :1, None] for table in (scaling.offsets, scaling.gains))
    return ((clean - offset) * gain).astype(np.float32)


@pytest.mark.parametrize("tiling", TILINGS, ids=["seamless", "overlap"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_stack_is_predicted_as_if_it_had_been_scaled_by_hand(make_model, spoilt, tmp_path, tiling, ndim):
    model = make_model(ndim=ndim, intensity=NEW)
    fixed = replace(model, intensity=BY_HAND)
    tiling = Seamless(8) if ndim == 3 and isinstance(tiling, Seamless) else tiling
    tiling = Overlap(8, 4) if ndim == 3 and isinstance(tiling, Overlap) else tiling
    stack = open_stack(spoilt, axes="zyx")
    wanted = predict_array(open_stack(by_hand(spoilt), axes="zyx"), fixed, tiling=tiling)
    got = predict_array(stack, model, tiling=tiling)
    for d in wanted:
        np.testing.assert_allclose(got[d], wanted[d], atol=1e-5)
    tiles = plan_tiles(stack.shape_predicted, model.spec, tiling)
    store = open_run(tmp_path / "run", stack, model, tiles)
    list(predict_stack(stack, model, tiles, store))
    last = store.levels[-1]
    assert np.abs(store.read(last, Box.of(store.shape)) - 255 * wanted[last]).max() <= 1
    assert store.record["intensity"] == "robust"
    with pytest.raises(StoreError, match="another range of intensities"):
        open_run(tmp_path / "run", stack, with_intensity(model, "stack"), tiles)


def test_along_three_planes_too(make_model, spoilt, tmp_path):
    model = make_model(intensity=NEW)
    found = []
    for name, image, one in (
        ("robust", spoilt, model),
        ("hand", by_hand(spoilt), replace(model, intensity=BY_HAND)),
    ):
        stack, backend = open_stack(image, axes="zyx"), prepare(one)
        planes = plan_planes(stack, backend, Seamless(16))
        store = open_run(tmp_path / name, stack, one, planes.tiles, planes=planes.describe())
        list(predict_planes(stack, one, planes, store, backend=backend))
        found.append(store.read(store.levels[-1], Box.of(store.shape)).astype(int))
    assert np.abs(found[0] - found[1]).max() <= 1


def test_calibration_and_seams_see_the_same(make_model, spoilt):
    model = make_model(intensity=NEW)
    fixed = replace(model, intensity=BY_HAND)
    stack, hand = open_stack(spoilt, axes="zyx"), open_stack(by_hand(spoilt), axes="zyx")
    patches = (calibration_patches(s, m, measure_stack(s, m)) for s, m in ((stack, model), (hand, fixed)))
    np.testing.assert_allclose(*(p.numpy() for p in patches), atol=1e-6)
    errors = ([e.mean for e in seam_errors(s, m, [4], inner=16)] for s, m in ((stack, model), (hand, fixed)))
    np.testing.assert_allclose(*errors, rtol=1e-3)


def test_training_sees_what_inference_sees(make_model, spoilt):
    from napari_unetpp.training.blocks import load_blocks
    from napari_unetpp.training.options import TrainOptions
    from napari_unetpp.training.pairs import Pair
    from napari_unetpp.training.plan import make_plan

    labels = (np.indices(spoilt.shape).sum(0) // 4 % 2).astype(np.uint8)
    pair = Pair(open_stack(spoilt, axes="zyx"), open_stack(labels, axes="zyx"))
    plan = make_plan(make_model(ndim=2).spec, [pair], TrainOptions(patch=16, epochs=1, steps=1))
    assert plan.intensity == NEW
    wanted = by_hand(spoilt)
    for block, loaded in zip(plan.training.blocks, load_blocks(plan.training, 0), strict=True):
        np.testing.assert_allclose(loaded.scaling.apply(loaded.image)[0], wanted[block.box.slices], atol=1e-6)


def test_fixed_numbers_leave_no_choice(make_model):
    with pytest.raises(ValueError, match="fixed numbers and measures no range; leave out the choice 'robust'"):
        with_intensity(make_model(intensity=BY_HAND), "robust")
