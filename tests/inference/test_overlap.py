"""Overlap tiling equals loops over patches that keep the whole image in memory."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
import torch

from napari_unetpp.inference.inputs import measure_stack
from napari_unetpp.inference.overlap import BandSums, PatchReader, patch_groups
from napari_unetpp.inference.predict import predict_tiles
from napari_unetpp.inference.tiles import Overlap, plan_tiles
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.stacks import open_stack


def brute_force(image, model, scaling, patch, stride, aggregate):
    """Probabilities (level, class, *spatial) by the definition, one patch after the other."""
    extent = image.shape
    patch, stride = ((v,) * image.ndim if isinstance(v, int) else v for v in (patch, stride))
    edge = [max(n, p) for n, p in zip(extent, patch, strict=True)]
    far = [(0, e - n) for n, e in zip(extent, edge, strict=True)]
    padded = scaling.apply(np.pad(image, far, mode="reflect")[None])[0]
    starts = []
    for e, p, s in zip(edge, patch, stride, strict=True):
        line = list(range(0, e - p + 1, s))
        if line[-1] + p < e:
            line.append(e - p)
        starts.append(line)
    size = np.reshape(patch, (-1, *(1,) * image.ndim))
    offsets = np.indices(patch) - (size - 1) / 2
    window = np.exp(-((offsets / (size / 8)) ** 2).sum(0) / 2)
    if aggregate != "gaussian":
        window[:] = 1
    levels, classes = len(model.spec.heads), model.spec.classes
    total = np.zeros((levels, classes, *edge))
    weight = np.zeros(edge)
    for corner in itertools.product(*starts):
        place = tuple(slice(a, a + p) for a, p in zip(corner, patch, strict=True))
        with torch.no_grad():
            heads = model.network(torch.from_numpy(padded[place].copy())[None, None])
        for d, logits in enumerate(heads):
            logit = logits[0].double().numpy()
            if classes == 1:
                p = 1 / (1 + np.exp(-logit))
                vote = p >= 0.5
            else:
                p = np.exp(logit) / np.exp(logit).sum(0)
                vote = p == p.max(0)
            total[(d, slice(None), *place)] += window * (vote if aggregate == "vote" else p)
        weight[place] += window
    inside = tuple(slice(n) for n in extent)
    return (total / weight)[(slice(None), slice(None), *inside)]


def combined(tiles, bands, read, run, batch=4):
    """Bands with their probabilities, one step after the other in one thread."""
    reader, sums = PatchReader(tiles, read), BandSums(tiles)
    for group in patch_groups(tiles, bands, batch):
        patches = reader.patches(group)
        complete = sums.add(group, run(patches) if patches else [])
        if complete is not None:
            yield group.band, complete


def banded(stack, model, tiling, **options):
    tiles = plan_tiles(stack.shape_predicted, model.spec, tiling)
    result = np.full((len(model.spec.heads), model.spec.classes, *tiles.shape), np.nan)
    scaling = measure_stack(stack, model)
    for tile, heads in predict_tiles(stack, model, tiles, scaling, **options):
        for d, head in enumerate(heads.values()):
            result[(d, slice(None), *tile.inner.slices)] = head
    return result


@pytest.mark.parametrize("aggregate", ["mean", "vote", "gaussian"])
@pytest.mark.parametrize(
    ("shape", "patch", "stride"),
    [
        ((37, 53), 16, 8),  # the last patches lie flush
        ((48, 32), 16, 8),  # they fit
        ((31, 45), 16, 16),  # no overlap but at the border
        ((120, 30), 16, 12),  # two bands, a stride that does not divide the patch
        ((10, 53), 16, 8),  # smaller than the patch along one axis
        ((7, 5), 16, 8),  # mirrored more than once
        ((200, 40), 128, 64),  # the last band needs no patch of its own
    ],
)
def test_bands_equal_brute_force(make_model, texture, shape, patch, stride, aggregate):
    model = make_model()
    image = texture(*shape)
    stack = open_stack(image, axes="yx")
    expected = brute_force(image, model, measure_stack(stack, model), patch, stride, aggregate)
    got = banded(stack, model, Overlap(patch, stride, aggregate))
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("aggregate", ["mean", "vote", "gaussian"])
def test_several_classes(make_model, texture, aggregate):
    model = make_model(classes=3)
    image = texture(30, 41)
    stack = open_stack(image, axes="yx")
    expected = brute_force(image, model, measure_stack(stack, model), 16, 8, aggregate)
    got = banded(stack, model, Overlap(16, 8, aggregate))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("aggregate", ["mean", "gaussian"])
def test_volumes(make_model, texture, aggregate):
    model = make_model(ndim=3, widths=(2, 4, 8))
    image = texture(38, 11, 6)  # two bands, flush patches, an axis shorter than the patch
    stack = open_stack(image, axes="zyx")
    expected = brute_force(image, model, measure_stack(stack, model), 8, 4, aggregate)
    got = banded(stack, model, Overlap(8, 4, aggregate))
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("aggregate", ["mean", "vote", "gaussian"])
def test_patches_with_an_edge_of_their_own_for_each_axis(make_model, texture, aggregate):
    model = make_model(
        ndim=3, widths=(2, 4, 8), steps=((1, 2, 2), (2, 2, 2)), kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3))
    )
    image = texture(11, 22, 9)
    stack = open_stack(image, axes="zyx")
    expected = brute_force(image, model, measure_stack(stack, model), (4, 12, 8), (2, 6, 8), aggregate)
    got = banded(stack, model, Overlap((4, 12, 8), (2, 6, 8), aggregate))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_bands_in_any_order_have_the_same_bits(make_model, texture):
    model = make_model()
    stack = open_stack(texture(2, 300, 40), axes="zyx")
    tiling = Overlap(16, 8)
    straight = banded(stack, model, tiling)
    tiles = plan_tiles(stack.shape_predicted, model.spec, tiling)
    assert tiles.grid == (2, 4, 1)
    for keep in ([7, 5, 1], [0, 2, 3, 6]):
        wanted = np.isin(np.arange(8), keep)
        parts = predict_tiles(stack, model, tiles, measure_stack(stack, model), wanted=wanted)
        numbers = []
        for tile, heads in parts:
            numbers.append(tiles.number(tile.index))
            for d, head in enumerate(heads.values()):
                assert (head == straight[(d, slice(None), *tile.inner.slices)]).all()
        assert numbers == sorted(keep)


def test_each_patch_is_predicted_once_in_a_straight_run():
    spec = NetworkSpec(widths=(4, 8, 16), heads=(1, 2))
    tiles = plan_tiles((500, 100), spec, Overlap(16, 8))
    seen = []

    def run(patches):
        seen.extend(patches)
        return [np.full((len(patches), 1, 16, 16), 0.5, np.float32)]

    list(combined(tiles, tiles, lambda box: np.zeros((1, *box.shape)), run))
    assert len(seen) == len(tiles.patch_starts[0]) * len(tiles.patch_starts[1])


def test_memory_does_not_grow_with_the_length_of_the_stack():
    spec = NetworkSpec(widths=(4, 8, 16), heads=(1, 2))

    def peak(rows):
        tiles = plan_tiles((rows, 128), spec, Overlap(32, 16))
        tracemalloc.start()
        for _ in combined(
            tiles,
            tiles,
            lambda box: np.zeros((1, *box.shape), np.uint8),
            lambda patches: [np.full((len(patches), 1, 32, 32), 0.5, np.float32)] * 2,
        ):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(200)  # once for what is imported and cached
    band = 2 * (96 + 32) * 128 * 4  # two levels, a band and a patch beyond it, float32
    assert peak(4000) < 1.1 * peak(400) + 50_000
    assert peak(4000) < 4 * band + 200_000
