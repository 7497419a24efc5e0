"""Int8: what runs is integer arithmetic, the same in one piece or in bands, and close to float32."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_unetpp.inference.calibrate import calibrate, calibration_patches
from napari_unetpp.inference.inputs import measure_stack
from napari_unetpp.inference.int8 import Int8Layers, agreement, weight_limit, why_not_int8
from napari_unetpp.inference.kernels import TorchLayers, whole_pass
from napari_unetpp.inference.quantise import Calibration, quantise_network
from napari_unetpp.inference.rounding import nudged, nudges, round_measured, round_smooth
from napari_unetpp.inference.streaming import stream
from napari_unetpp.model.checkpoint import load_model
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.stacks import Stack, open_stack

needs_int8 = pytest.mark.skipif(not weight_limit(), reason="no int8 convolution in this torch or processor")


@pytest.fixture
def patches(texture):
    return torch.from_numpy(np.stack([texture(32, 48) for _ in range(6)]) / 255).float()[:, None]


def run(layers, image, level=None):
    with torch.inference_mode():
        return whole_pass(layers, image, level)


def float32(network):
    return TorchLayers(network, torch.device("cpu"), torch.float32)


@needs_int8
def test_a_convolution_is_that_of_integers(make_model, patches):
    network = make_model().network
    calibration = calibrate(network, patches, limit=weight_limit())
    layers, integers = Int8Layers(network, calibration), quantise_network(network, calibration)
    generator = torch.Generator().manual_seed(1)
    for i, j, part in ((0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 2, 1)):
        unit, bare = layers.node(i, j)[part], integers[f"{i}_{j}.{part}"]
        x = torch.randint(0, 256, (2, bare.weight.shape[1], 10, 14), generator=generator, dtype=torch.uint8)
        got = unit(x.contiguous(memory_format=torch.channels_last)).double()
        sums = F.conv2d(x.long(), bare.weight.long(), padding=1).double()
        wanted = sums * bare.unit.double().view(-1, 1, 1) + bare.bias.double().view(-1, 1, 1)
        assert (got - wanted.clamp(0, 255)).abs().max() < 0.501
        assert got.unique().numel() > 50


@needs_int8
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"in_channels": 3, "classes": 3, "block": "conv-relu", "concatenation": "up-first"},
        {"upsampling": "bilinear", "skips": "short", "decoder_widths": (6, 8)},
        {"skips": "plain", "heads": (2,), "block": "conv-relu-dropout", "dropout": 0.2, "middle": "half-in"},
    ],
)
def test_band_by_band_is_the_whole(make_model, patches, changes):
    network = make_model(**changes).network
    images = patches.expand(-1, network.spec.in_channels, -1, -1)
    layers = Int8Layers(network, calibrate(network, images, limit=weight_limit()))
    image = images[:1].repeat(1, 1, 3, 2)
    with torch.inference_mode():
        whole = dict(zip(network.spec.heads, whole_pass(layers, image), strict=True))
        for level, first, logits in stream(layers, image, 2, 16):
            assert torch.equal(logits, whole[level][:, :, first : first + logits.shape[2]])


@needs_int8
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "bilinear-aligned"])
def test_logits_are_near_those_of_float32(make_model, patches, upsampling):
    network = make_model(upsampling=upsampling).network
    layers = Int8Layers(network, calibrate(network, patches, limit=weight_limit()))
    for ours, exact in zip(run(layers, patches), run(float32(network), patches), strict=True):
        assert (ours - exact).std() < 0.05 * exact.std()


@needs_int8
def test_every_channel_has_a_scale_of_its_own(make_model, patches):
    """A channel a thousand times as large, taken back by whoever reads it, changes nothing."""
    network = make_model(block="conv-relu").network
    before = run(Int8Layers(network, calibrate(network, patches, limit=weight_limit())), patches)
    with torch.no_grad():
        first, second = (layer for layer in network.nodes["1_0"] if isinstance(layer, torch.nn.Conv2d))
        first.weight[2] *= 1000
        first.bias[2] *= 1000
        second.weight[:, 2] /= 1000
    after = run(Int8Layers(network, calibrate(network, patches, limit=weight_limit())), patches)
    for a, b in zip(before, after, strict=True):
        assert ((a >= 0) == (b >= 0)).float().mean() > 0.999
        assert (a - b).abs().max() < 0.1 * a.std()


@needs_int8
def test_a_calibration_survives_json(make_model, patches):
    network = make_model().network
    calibration = calibrate(network, patches, limit=weight_limit())
    assert calibration.nudges
    again = Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
    assert again == calibration == calibrate(network, patches, limit=weight_limit())
    for a, b in zip(*(run(Int8Layers(network, c), patches) for c in (calibration, again)), strict=True):
        assert torch.equal(a, b)


@needs_int8
def test_a_damaged_calibration_is_refused(make_model, patches):
    network = make_model().network
    values = calibrate(network, patches, limit=weight_limit()).to_json()
    with pytest.raises(ValueError, match="calibrate again"):
        Calibration.from_json({k: v for k, v in values.items() if k != "ranges"})
    values["nudges"] = dict.fromkeys(values["nudges"], "nonsense")
    with pytest.raises(ValueError, match="calibrate again"):
        Int8Layers(network, Calibration.from_json(values))


@needs_int8
def test_a_calibration_may_end_at_a_level(make_model, patches):
    network = make_model().network
    full, shallow = (
        Int8Layers(network, calibrate(network, patches, level, limit=weight_limit())) for level in (None, 1)
    )
    assert torch.equal(run(full, patches, 1)[0], run(shallow, patches, 1)[0])


@needs_int8
def test_a_silent_channel_does_no_harm(make_model, patches):
    network = make_model(block="conv-relu").network
    with torch.no_grad():
        network.nodes["0_0"][0].bias[1] = -1e4
    layers = Int8Layers(network, calibrate(network, patches, limit=weight_limit()))
    for ours, exact in zip(run(layers, patches), run(float32(network), patches), strict=True):
        assert (ours - exact).std() < 0.05 * exact.std()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ndim": 3}, "2D"),
        ({"block": "bn-relu-conv"}, "ReLU"),
        ({"decoder_block": "bn-relu-conv"}, "ReLU"),
        ({"upsampling": "transposed2"}, "transposed2"),
        ({"head": "bn-relu-conv3"}, "bn-relu-conv3"),
    ],
)
def test_networks_that_cannot_say_why(changes, reason):
    assert reason in why_not_int8(NetworkSpec(**changes))


@needs_int8
def test_networks_that_can_say_nothing(make_model, patches):
    assert why_not_int8(NetworkSpec()) is None
    model = make_model(upsampling="transposed2")
    with pytest.raises(ValueError, match="transposed2"):
        Int8Layers(model.network, calibrate(make_model().network, patches))


@needs_int8
@pytest.mark.parametrize(("name", "sample"), [("nuclei", "nuclei"), ("em-boundaries", "synthetic_em")])
def test_bundled_models_give_the_same_labels(repository, name, sample):
    model = load_model(name, "cpu")
    with open_stack(repository / f"sample_data/{sample}.tif") as stack:
        scaling = measure_stack(stack, model)
        calibration = calibrate(
            model.network, calibration_patches(stack, model, scaling, count=16), limit=weight_limit()
        )
        other = calibration_patches(stack, model, scaling, count=3, edge=160)
    equal = agreement(Int8Layers(model.network, calibration), float32(model.network), other)
    assert {*equal} == {1, 2, 3, 4}
    assert min(equal.values()) >= 0.999


def test_agreement_counts_equal_labels(make_model, patches):
    one, other = (float32(make_model(seed=seed, classes=3).network) for seed in (0, 1))
    assert agreement(one, one, patches) == {1: 1.0, 2: 1.0}
    wanted = [
        (a.argmax(1) == b.argmax(1)).float().mean().item()
        for a, b in zip(run(one, patches), run(other, patches), strict=True)
    ]
    assert [*agreement(one, other, patches).values()] == pytest.approx(wanted)
    assert [*agreement(one, other, patches, 1)] == [1]


def brute_force(exact, covariance):
    """Least error of integers within two steps of two weights."""
    steps = torch.cartesian_prod(*(torch.arange(-2.0, 3.0, dtype=torch.float64),) * 2)
    errors = exact - (exact.round() + steps)
    return torch.einsum("ni,ij,nj->n", errors, covariance, errors).min()


def test_measured_rounding_leaves_less_error_than_the_nearest(rng):
    mixing = rng.normal(size=(12, 12)) + 2 * rng.normal(size=(12, 1))
    covariance = torch.from_numpy(mixing @ mixing.T)
    exact = torch.from_numpy(rng.uniform(-100, 100, (40, 12)))

    def error(rounded):
        left = exact - rounded
        return torch.einsum("oi,ij,oj->", left, covariance, left)

    rounded = round_measured(exact, covariance, 127)
    assert torch.equal(rounded, rounded.round())
    assert rounded.abs().max() <= 127
    assert error(rounded) < 0.6 * error(exact.round())
    assert round_measured(exact, covariance, 63).abs().max() == 63


def test_two_weights_are_rounded_as_well_as_can_be():
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    exact = torch.tensor([[0.4, 0.45], [3.5, -1.4], [2.2, 2.1]], dtype=torch.float64)
    for row, rounded in zip(exact, round_measured(exact, covariance, 127), strict=True):
        left = row - rounded
        assert left @ covariance @ left == pytest.approx(brute_force(row, covariance).item(), abs=0.05)


def test_smooth_rounding_keeps_the_sum_of_a_kernel(rng):
    exact = torch.from_numpy(rng.uniform(-120, 120, (8, 5, 9)))
    rounded = round_smooth(exact, 127)
    assert torch.equal(rounded, rounded.round())
    assert (rounded - exact).abs().max() < 2.5
    ours, nearest = ((each - exact).sum(2).square().mean() for each in (rounded, exact.round()))
    assert ours < 0.3 * nearest
    assert torch.equal(round_smooth(exact[..., :1], 127), exact[..., :1].round())


def test_nudges_are_read_back(rng):
    exact = torch.from_numpy(rng.uniform(-130, 130, (6, 18)))
    rounded = round_measured(exact, torch.eye(18, dtype=torch.float64) + 1, 127)
    assert torch.equal(nudged(exact, nudges(exact, rounded, 127), 127), rounded)
    with pytest.raises(ValueError, match="calibrate again"):
        nudged(exact[:5], nudges(exact, rounded, 127), 127)


class Watched:
    """An array that knows what was read of it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.read = np.zeros(array.shape, bool)

    def __getitem__(self, key):
        self.read[key] = True
        return self.array[key]


@pytest.mark.parametrize("shape", [(5, 7), (3, 40, 24), (2, 9, 64, 64), (40, 100, 260)])
def test_patches_are_input_from_all_over_the_stack(make_model, texture, shape):
    model, axes = make_model(), "tzyx"[-len(shape) :]
    array = Watched(texture(*shape))
    stack = Stack(array, axes, (None,) * len(shape), "watched")
    scaling = measure_stack(stack, model)
    array.read[:] = False
    patches = calibration_patches(stack, model, scaling, count=20, edge=30)
    assert patches.dtype == torch.float32
    assert patches.shape[1:] == (1, 32, 32)
    assert torch.equal(patches, calibration_patches(stack, model, scaling, count=20, edge=30))
    covered = -(-np.array(shape[-2:]) // 32)
    all_of_it = int(np.prod(shape[:-2])) * int(covered.prod())
    assert len(patches) == min(20, all_of_it)
    if all_of_it <= 20:
        assert array.read.all()
    else:
        # Each half of every axis has its part, and no more was read than the patches hold.
        for axis, extent in enumerate(shape):
            low, high = np.split(np.moveaxis(array.read, axis, 0), [extent // 2])
            assert low.sum() > 0.2 * high.sum()
            assert high.sum() > 0.2 * low.sum()
        assert array.read.sum() <= patches.numel()


def test_a_patch_is_what_the_network_would_see(make_model, texture):
    model, image = make_model(), texture(32, 32)
    stack = Stack(image, "yx", (None, None), "one patch")
    scaling = measure_stack(stack, model)
    (patch,) = calibration_patches(stack, model, scaling, edge=32)
    assert np.array_equal(patch.numpy(), scaling.apply(image[None]))


def test_a_calibration_can_be_stopped(make_model, patches):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(make_model().network, patches, checkpoint=stop)
