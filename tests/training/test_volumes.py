"""Training in 3D: patches of any shape, and geometry that keeps to axes of equal spacing."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_unetpp.inference.predict import predict_array
from napari_unetpp.model.checkpoint import load_model
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.stacks import open_stack
from napari_unetpp.training.augment import AUGMENTATIONS, alike_axes, augment, context_extents, exchangeable
from napari_unetpp.training.blocks import Loaded
from napari_unetpp.training.options import EpochDone, TrainOptions
from napari_unetpp.training.pairs import Pair
from napari_unetpp.training.patches import draw_batch, preview_patches
from napari_unetpp.training.plan import make_plan
from napari_unetpp.training.spacing import common_spacing, fit_spacing
from napari_unetpp.training.train import train
from tests.training.conftest import UNIT

NONE = AUGMENTATIONS["none"]
SPEC = NetworkSpec(ndim=3, widths=(4, 8, 8), heads=(1, 2))
FAST = TrainOptions(epochs=2, steps=3, batch=2, patch=(4, 16, 12), learning_rate=1e-2, device="cpu")
ISOTROPIC, COARSE = (2, 2, 2), (0, 2, 2)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def balls(shape=(14, 32, 28), spacing=None, seed=0):
    """Bright balls on dark noise, with their labels."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.mgrid[tuple(slice(n) for n in shape)], -1)
    label = np.zeros(shape, np.uint8)
    for _ in range(6):
        label[np.linalg.norm(places - rng.uniform(0, shape), axis=-1) < 5] = 1
    image = (90 * label + rng.normal(60, 10, shape)).clip(0, 255).astype(np.uint8)
    return Pair(open_stack(image, axes="zyx", spacing_um=spacing), open_stack(label, axes="zyx"))


def test_a_patch_per_axis_is_what_the_network_sees_and_what_the_card_says(tmp_path):
    pairs = [balls(seed=k) for k in range(3)]
    plan = make_plan(SPEC, pairs, FAST)
    image, target = preview_patches(plan, 3, 0)
    assert image.shape == (3, 1, 4, 16, 12)
    assert target.shape == (3, 4, 16, 12)
    events = [e for e in train(SPEC, pairs, FAST, tmp_path / "a.safetensors") if isinstance(e, EpochDone)]
    card = load_model(tmp_path / "a.safetensors", "cpu").card
    assert events[-1].epoch == 1
    assert card.tiling == {"kind": "overlap", "patch": [4, 16, 12], "stride": [2, 8, 6]}
    assert TrainOptions(**card.training["options"]) == FAST


def test_one_number_is_a_cube_and_leaves_the_tiling_alone():
    plan = make_plan(SPEC, [balls(), balls(seed=1)], replace(FAST, patch=8))
    assert preview_patches(plan, 1, 0)[0].shape == (1, 1, 8, 8, 8)
    assert plan.card.tiling == {"kind": "seamless"}


@pytest.mark.parametrize(
    ("patch", "words"),
    [((4, 16), "names 2 axes where the network has 3"), ((4, 16, 18), "patch 18 is not a multiple of 4")],
)
def test_a_patch_that_does_not_fit_is_refused(patch, words):
    with pytest.raises(ValueError, match=words):
        make_plan(SPEC, [balls(), balls(seed=1)], replace(FAST, patch=patch))
    with pytest.raises(ValueError, match="at least 1"):
        TrainOptions(patch=(4, 0, 4))


def test_a_volume_smaller_than_the_patch_is_mirrored():
    """One voxel deep in z and 3 in y: each patch is the volume folded at its borders, at some offset."""
    rng = np.random.default_rng(0)
    image = rng.random((1, 2, 3, 9)).astype(np.float32)
    region = Loaded(image, np.ones((2, 3, 9), np.uint8), UNIT, (None,) * 3)
    drawn, _ = draw_batch([region], torch.ones(1), (4, 8, 8), 6, replace(NONE, symmetries=False), generator(0))
    padded = np.pad(image[0], ((8, 8), (16, 16), (16, 16)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 8, 8)).reshape(-1, 256)
    for patch in drawn[:, 0].reshape(6, -1).numpy():
        assert (windows == patch).all(1).any()


def test_axes_are_alike_where_the_spacing_is():
    assert alike_axes((1.0, 1.001, 0.999)) == ISOTROPIC
    assert alike_axes((3.0, 1.0, 1.0)) == alike_axes((None, 1.0, 1.0)) == alike_axes((None, None, None)) == COARSE
    z, y, x = alike_axes((1.0, 1.0, 2.0))
    assert z == y != x
    assert len({*alike_axes((3.0, 2.0, 1.0))}) == 3
    assert alike_axes((None, None)) == alike_axes((0.2, 0.2)) == (1, 1)
    assert len({*alike_axes((0.2, 0.3))}) == 2


def symmetries(axes):
    """Brute force: an array under every exchange of `axes` and every flip of all three."""
    for order in itertools.permutations(axes):
        full = list(range(3))
        for axis, source in zip(axes, order, strict=True):
            full[axis] = source
        for flips in itertools.product((1, -1), repeat=3):
            yield lambda a, full=full, flips=flips: a.transpose(full)[tuple(slice(None, None, s) for s in flips)]


@pytest.mark.parametrize(
    ("alike", "axes", "count"),
    [(ISOTROPIC, (0, 1, 2), 48), (COARSE, (1, 2), 16), ((1, 1, 2), (0, 1), 16), ((0, 1, 2), (), 8)],
)
def test_only_axes_of_equal_spacing_are_exchanged_and_all_of_their_symmetries_occur(alike, axes, count):
    image = torch.arange(64.0).reshape(1, 4, 4, 4)
    target = image[0].to(torch.uint8)
    expected = {tuple(change(target.numpy()).ravel()) for change in symmetries(axes)}
    assert len(expected) == count
    seen = set()
    for seed in range(12 * count):
        changed, labels = augment(image, target, (4, 4, 4), NONE, alike, generator(seed))
        assert torch.equal(changed[0], labels.float())
        seen.add(tuple(labels.numpy().ravel()))
    assert seen == expected


def test_axes_of_unequal_extent_are_never_exchanged():
    assert exchangeable((16, 96, 96), ISOTROPIC) == (1, 2)
    assert exchangeable((16, 32, 96), ISOTROPIC) == ()
    image = torch.rand(1, *context_extents((4, 8, 12), AUGMENTATIONS["light"], ISOTROPIC))
    for seed in range(8):
        changed, _ = augment(
            image, torch.zeros(image.shape[1:]), (4, 8, 12), AUGMENTATIONS["light"], ISOTROPIC, generator(seed)
        )
        assert changed.shape == (1, 4, 8, 12)


def test_anatomy_is_never_mirrored_or_turned():
    """A ramp along each axis keeps rising through warps of up to 10 degrees."""
    rule = replace(AUGMENTATIONS["anatomy"], warp=1.0, noise=0.0, blur=0.0)
    for alike in (ISOTROPIC, COARSE):
        extents = context_extents((12, 12, 12), rule, alike)
        for axis, seed in itertools.product(range(3), range(4)):
            ramp = torch.arange(float(extents[axis])) / extents[axis] + 0.5
            image = ramp.reshape([-1 if k == axis else 1 for k in range(3)]).expand(1, *extents)
            changed, _ = augment(
                image, torch.zeros(extents, dtype=torch.uint8), (12, 12, 12), rule, alike, generator(seed)
            )
            ends = changed[0].movedim(axis, 0)
            assert float(ends[-1].mean()) > float(ends[0].mean())


@pytest.mark.parametrize(("alike", "patch"), [(ISOTROPIC, (24, 24, 24)), (COARSE, (6, 32, 32))])
def test_warped_labels_stay_on_what_they_label(alike, patch):
    """A ball whose image is its own label: after the warp both must still be the same body, of another size."""
    rule = replace(NONE, warp=1.0, scale=1.3, elastic=1.0)
    extents = context_extents(patch, rule, alike)
    places = np.stack(np.mgrid[tuple(slice(n) for n in extents)], -1) - np.divide(extents, 2)
    ball = torch.from_numpy((np.linalg.norm(places * (1, 1, 1), axis=-1) < 8).astype(np.float32))
    sizes = []
    for seed in range(8):
        image, target = augment(ball[None], ball.to(torch.uint8), patch, rule, alike, generator(seed))
        assert image.shape[1:] == target.shape == patch
        assert float(((image[0] > 0.5) != (target > 0)).float().mean()) < 0.02
        sizes.append(int(target.sum()))
    assert max(sizes) > 1.3 * min(sizes)


def test_where_z_is_coarse_a_warp_never_mixes_slices():
    """Each slice has an intensity of its own, which no warp within the planes can change."""
    rule = replace(NONE, warp=1.0, elastic=3.0, symmetries=False)
    extents = context_extents((6, 16, 16), rule, COARSE)
    assert extents == (6, 24, 24)
    image = torch.arange(6.0).reshape(1, 6, 1, 1).expand(1, *extents)
    changed, labels = augment(image, image[0].to(torch.uint8), (6, 16, 16), rule, COARSE, generator(1))
    assert torch.allclose(changed[0], torch.arange(6.0).reshape(6, 1, 1).expand(6, 16, 16), atol=1e-4)
    assert torch.equal(labels.float(), torch.arange(6.0).reshape(6, 1, 1).expand(6, 16, 16))


def test_a_warp_without_scale_turn_and_bend_changes_nothing():
    """Positions of a warp are those of the patch: the middle of the context, to a fraction of a voxel."""
    rule = replace(NONE, warp=1.0, scale=1.0, elastic=0.0, turn=0.0, symmetries=False)
    for alike, patch in ((ISOTROPIC, (8, 8, 8)), (COARSE, (4, 8, 8))):
        extents = context_extents(patch, rule, alike)
        image = torch.rand(1, *extents)
        changed, _ = augment(image, torch.zeros(extents, dtype=torch.uint8), patch, rule, alike, generator(0))
        middle = tuple(slice((n - p) // 2, (n + p) // 2) for n, p in zip(extents, patch, strict=True))
        assert torch.allclose(changed[0], image[(0, *middle)], atol=1e-4)


def test_a_volume_network_learns(tmp_path):
    options = replace(FAST, epochs=3, steps=15, patch=(8, 16, 16), batch=3)
    pairs = [balls(spacing=(1.0, 1.0, 1.0), seed=k) for k in range(3)]
    epochs = [e for e in train(SPEC, pairs, options, tmp_path / "a.safetensors") if isinstance(e, EpochDone)]
    assert max(e.scores["L2"]["iou"] for e in epochs) > 0.6


def test_where_slices_lie_farther_apart_z_is_sampled_down_later():
    """Slices 4 times as far apart as voxels: two steps of the plane make cubes of them."""
    pairs = [balls(spacing=(4.0, 1.0, 1.0), seed=k) for k in range(2)]
    spec = fit_spacing(NetworkSpec(ndim=3, widths=(2, 2, 2, 2), heads=(1, 2, 3)), pairs)
    assert spec.grids == (2, 8, 8)
    plan = make_plan(spec, pairs, replace(FAST, patch=(2, 16, 8)))
    (line,) = [text for text in plan.warnings if "coarser" in text]
    assert line.startswith(
        "z is 4 times coarser: it is sampled down 1 of 3 times, and the first 2 rows of the network do not"
    )
    with pytest.raises(ValueError, match="patch 3 along z is not a multiple of 2"):
        make_plan(spec, pairs, replace(FAST, patch=(3, 16, 8)))


def test_a_network_that_ignores_the_spacing_is_told_of():
    pairs = [balls(spacing=(4.0, 1.0, 1.0), seed=k) for k in range(2)]
    assert any("takes it as if it were not" in text for text in make_plan(SPEC, pairs, FAST).warnings)
    unknown = [balls(seed=k) for k in range(2)]
    assert any("do not say their spacing" in text for text in make_plan(SPEC, unknown, FAST).warnings)
    cubes = [balls(spacing=(1.0, 1.0, 1.0), seed=k) for k in range(2)]
    assert not make_plan(SPEC, cubes, FAST).warnings


def test_the_spacing_of_a_run_is_that_of_most_of_its_images():
    pairs = [balls(spacing=s) for s in ((4.0, 1.0, 1.0), None, (4.1, 1.0, 1.0), (1.0, 1.0, 1.0))]
    assert common_spacing(pairs, 3) == (4.0, 1.0, 1.0)
    assert common_spacing(pairs[1:2], 3) is None
    assert fit_spacing(SPEC, pairs[1:2]) == fit_spacing(SPEC, pairs[3:]) == SPEC
    flat = NetworkSpec()
    assert fit_spacing(flat, pairs) == flat


def test_a_network_for_coarse_z_learns_and_is_loaded_again(tmp_path):
    pairs = [balls((12, 32, 32), spacing=(3.0, 1.0, 1.0), seed=k) for k in range(3)]
    spec = fit_spacing(SPEC, pairs)
    options = replace(FAST, epochs=2, steps=12, patch=(6, 16, 16), batch=3)
    epochs = [e for e in train(spec, pairs, options, tmp_path / "a.safetensors") if isinstance(e, EpochDone)]
    assert epochs[1].loss < epochs[0].loss
    model = load_model(tmp_path / "a.safetensors", "cpu")
    assert model.spec == spec
    assert model.card.spacing_um == (3.0, 1.0, 1.0)
    heads = predict_array(pairs[0].image, model)  # with the tiling of its card
    assert heads[2].shape == (1, 12, 32, 32)
