"""Seamless tiles equal one pass over the whole image.

Networks run in float64 here: in float32 a convolution rounds differently for other extents, by
some 1e-6 of a probability, which would hide a small mistake.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from napari_unetpp.inference.inputs import measure_stack
from napari_unetpp.inference.predict import predict_region, predict_tiles
from napari_unetpp.inference.tiles import Overlap, Seamless, plan_tiles, tiling_from_card
from napari_unetpp.stacks import open_stack


@pytest.fixture
def make_model(make_model):
    def make(**options):
        model = make_model(**options)
        model.network.double()
        return model

    return make


def tiled(stack, model, tiling, level=None, **options):
    tiles = plan_tiles(stack.shape_predicted, model.spec, tiling, level=level)
    heads = {}
    scaling = measure_stack(stack, model)
    for tile, parts in predict_tiles(stack, model, tiles, scaling, **options):
        for d, part in parts.items():
            whole = heads.setdefault(d, np.full((model.spec.classes, *tiles.shape), np.nan, np.float32))
            whole[(slice(None), *tile.inner.slices)] = part
    return heads


def whole(stack, model, level=None):
    """Straight through torch, without any code of this room."""
    from napari_unetpp.model.unetpp import probabilities

    raw = np.asarray(stack.data)[None]
    image = torch.from_numpy(measure_stack(stack, model).apply(raw))[None].double()
    with torch.no_grad():
        return [probabilities(logits)[0].numpy() for logits in model.network(image, level)]


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "transposed2", "transposed4"])
@pytest.mark.parametrize("shape", [(37, 53), (64, 48), (7, 90)])
def test_tiles_equal_the_whole_image(make_model, texture, upsampling, shape):
    model = make_model(upsampling=upsampling)
    stack = open_stack(texture(*shape), axes="yx")
    for level in (1, 2):
        expected = whole(stack, model, level)
        # Inner boxes so small that no tile sees the image in one piece.
        heads = tiled(stack, model, Seamless(inner=8), level)
        assert sorted(heads) == list(range(1, level + 1))
        for head, truth in zip(heads.values(), expected, strict=True):
            np.testing.assert_allclose(head, truth, atol=1e-6)
            assert truth.std() > 0.01  # a constant would prove nothing


@pytest.mark.parametrize(
    ("fields", "shape", "inner"),
    [
        (
            {"ndim": 3, "steps": ((1, 2, 2), (2, 2, 2)), "kernels": ((1, 3, 3), (3, 3, 3), (3, 3, 3))},
            (9, 37, 42),
            (2, 8, 8),
        ),
        ({"ndim": 3, "steps": ((1, 2, 2), (2, 2, 2)), "upsampling": "bilinear"}, (12, 37, 21), (4, 8, 8)),
        ({"ndim": 3}, (26, 12, 30), 8),
        ({"padding": "valid"}, (45, 66), 8),
        ({"pooling": "stride", "negative_slope": 0.01}, (45, 66), 8),
    ],
    ids=["thick slices", "bilinear", "cubes", "valid", "strided"],
)
def test_tiles_of_other_grids_equal_the_whole_image(make_model, texture, fields, shape, inner):
    model = make_model(**fields)
    stack = open_stack(texture(*shape), axes="zyx"[-len(shape) :])
    for level in (1, 2):
        expected = whole(stack, model, level)
        for head, truth in zip(tiled(stack, model, Seamless(inner=inner), level).values(), expected, strict=True):
            np.testing.assert_allclose(head, truth, atol=1e-6)
            assert truth.std() > 0.01


def test_numbers_per_axis_are_kept_and_refused(make_model):
    spec = make_model(ndim=3, steps=((1, 2, 2), (2, 2, 2))).spec
    tiling = plan_tiles((20, 64, 64), spec, Seamless(halo="exact")).tiling
    assert tiling.halo == tuple(-(-r // g) * g for r, g in zip(spec.receptive_radii(), (2, 4, 4), strict=True))
    assert tiling_from_card(tiling.describe()) == tiling
    assert tiling_from_card(json.loads(json.dumps(Overlap((8, 16, 16), (4, 8, 8)).describe()))) == Overlap(
        (8, 16, 16), (4, 8, 8)
    )
    with pytest.raises(ValueError, match=r"patch 9 is not a multiple of 2 .* use 8 or 10"):
        plan_tiles((20, 64, 64), spec, Overlap((9, 16, 16), 4))
    with pytest.raises(ValueError, match="patch 8, 16 has 2 numbers where the model has 3 axes"):
        plan_tiles((20, 64, 64), spec, Overlap((8, 16), 4))


@pytest.mark.parametrize("shape", [(5, 6), (2, 2), (2, 31), (15, 16)])
def test_an_image_smaller_than_a_tile(make_model, texture, shape):
    model = make_model()
    stack = open_stack(texture(*shape), axes="yx")
    for head, truth in zip(tiled(stack, model, Seamless()).values(), whole(stack, model), strict=True):
        np.testing.assert_allclose(head, truth, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"block": "bn-relu-conv", "head": "bn-relu-conv3", "concatenation": "up-first"},
        {"skips": "plain", "heads": (2,)},
        {"skips": "short", "block": "conv-relu"},
        {"classes": 3},
    ],
)
def test_every_member_of_the_family(make_model, texture, options):
    model = make_model(**options)
    stack = open_stack(texture(41, 70), axes="yx")
    heads = tiled(stack, model, Seamless(inner=12))
    assert tuple(heads) == model.spec.heads
    for head, truth in zip(heads.values(), whole(stack, model), strict=True):
        np.testing.assert_allclose(head, truth, atol=1e-6)


def test_tiles_equal_the_whole_volume(make_model, texture):
    model = make_model(ndim=3, widths=(2, 4, 8), upsampling="bilinear")
    stack = open_stack(texture(10, 30, 37), axes="zyx")
    heads = tiled(stack, model, Seamless(inner=12), level=1)
    np.testing.assert_allclose(heads[1], whole(stack, model, 1)[0], atol=1e-6)
    stack = open_stack(texture(6, 7, 90), axes="zyx")  # long enough for the halo of L2
    heads = tiled(stack, model, Seamless(inner=12))
    np.testing.assert_allclose(heads[2], whole(stack, model)[1], atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_the_batch_does_not_matter(make_model, texture, batch):
    model = make_model()
    stack = open_stack(texture(3, 37, 53), axes="zyx")
    heads = tiled(stack, model, Seamless(inner=16), batch=batch)
    for z in range(3):
        plane = open_stack(np.asarray(stack.data)[z], axes="yx")
        raw = plane.data[None]
        expected = predict_region(raw, model, scaling=measure_stack(stack, model))
        np.testing.assert_allclose(heads[2][:, z], expected[1], atol=1e-6)


def test_a_short_halo_deviates_only_near_seams(make_model, texture):
    model = make_model(upsampling="bilinear", widths=(4, 8, 16, 32), heads=(1, 2, 3))
    stack = open_stack(texture(160, 176), axes="yx")
    truth = whole(stack, model)[-1]
    tiling = Seamless(inner=64, halo="fast")
    deviation = np.abs(tiled(stack, model, tiling)[3] - truth)[0]
    radius, halo = model.spec.receptive_radius(3), 16
    assert radius > halo
    # A voxel is sure where a seam and the halo behind it lie farther away than the network sees.
    away = np.ones(deviation.shape, bool)
    for axis, seams in ((0, (64, 128)), (1, (64, 128))):
        places = np.arange(deviation.shape[axis])
        distance = np.min([np.abs(places - s + 0.5) for s in seams], axis=0) + 0.5
        sure = distance + halo > radius
        away &= sure[:, None] if axis == 0 else sure[None]
    assert 0.01 < away.mean() < 0.5
    assert deviation[away].max() < 1e-6
    assert deviation.max() > 1e-3
