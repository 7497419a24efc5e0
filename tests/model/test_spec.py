"""Counts, receptive radii and FLOPs of the family against the numbers of the papers and of public implementations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from napari_unetpp.model.presets import PRESET_NAMES
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus, prune

preset = NetworkSpec.preset
PAPER = preset("unet++")
NESTED = preset("pytorch-nested-unet", 2, 3)
MILESIAL = preset("milesial-unet", 2, 3)


def parameters(spec: NetworkSpec) -> int:
    with torch.device("meta"):  # shapes alone; the largest would take seconds to draw
        return sum(p.numel() for p in UNetPlusPlus(spec).parameters())


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        # DLMIA 2018 and TMI 2019 tables, to the last digit of the same layout built in Keras
        (preset("unet"), 7_759_521),
        (preset("unet", 2, 3), 7_759_521 + 576),
        (preset("wide-unet"), 9_282_246),
        (preset("wide-unet", 2, 3), 9_282_246 + 630),
        (preset("unet-e"), 8_728_356),
        (preset("unet+"), 8_728_356),
        (replace(preset("unet+"), heads=(4,)), 8_728_257),
        (PAPER, 9_041_700),
        (replace(PAPER, heads=(4,)), 9_041_601),
        *((preset("unet").with_depth(d), n) for d, n in ((1, 100_961), (2, 465_953), (3, 1_925_025))),
        *((replace(PAPER.pruned(d), heads=(d,)), n) for d, n in ((1, 100_961), (2, 511_105), (3, 2_204_961))),
        (preset("v-net"), 22_575_329),
        (preset("wide-v-net"), 27_006_176),
        (replace(preset("vnet+"), heads=(4,)), 25_258_241),
        (replace(preset("vnet++"), heads=(4,)), 26_198_273),
        # public implementations
        (NESTED, 9_163_428),
        (replace(NESTED, heads=(4,)), 9_163_329),
        (preset("pytorch-nested-unet"), 9_162_852),
        (replace(preset("pytorch-nested-unet"), heads=(4,)), 9_162_753),
        (replace(NESTED, skips="plain", heads=(4,)), 7_852_545),
        *((NESTED.pruned(d), n) for d, n in ((1, 103_041), (2, 519_138), (3, 2_236_227))),
        *((replace(NESTED.pruned(d), heads=(d,)), n) for d, n in ((2, 519_105), (3, 2_236_161))),
        (preset("unetplusplus-64", 2, 3), 47_190_724),
        (preset("unetplusplus-64", 2, 3, 3), 47_195_340),
        (MILESIAL, 31_043_521),
        (replace(MILESIAL, conv_bias=False), 31_037_633),
        (replace(MILESIAL, conv_bias=False, classes=2), 31_037_698),
        (replace(preset("milesial-unet-bilinear", 2, 3), conv_bias=False), 17_262_977),
        (replace(preset("milesial-unet-bilinear", 2, 3, 2), conv_bias=False), 17_263_042),
    ],
)
def test_parameter_counts_equal_the_published_ones(spec, count):
    assert parameters(spec) == count


def test_batchnorm_buffers_of_the_nested_unet():
    with torch.device("meta"):
        assert sum(b.numel() for b in UNetPlusPlus(NESTED).buffers()) == 7_326


@pytest.mark.parametrize(
    ("level", "flops"), [(4, 9_699_065_856), (3, 5_707_137_024), (2, 2_904_293_376), (1, 1_120_665_600)]
)
def test_flops_of_a_pruned_head_equal_the_counted_ones(level, flops):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        UNetPlusPlus(replace(NESTED.pruned(level), heads=(level,)))(torch.empty(1, 3, 96, 96))
    assert counter.get_total_flops() == flops


UPSAMPLINGS = ("nearest", "bilinear", "transposed2", "transposed4")


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("skips", ["dense", "short", "ensemble"])
def test_measured_receptive_radius_equals_the_stated_one(upsampling, skips):
    """A NaN reaches exactly the outputs that depend on its voxel, so two sweeps of it measure the radius."""
    spec = NetworkSpec(widths=(2, 2, 2, 2), heads=(1, 2, 3), skips=skips, upsampling=upsampling, block="conv-bn-relu")
    network = UNetPlusPlus(spec).double().eval()
    for level in spec.heads:
        radius = spec.receptive_radius(level)
        extent = 2 * (radius + spec.grid) // spec.grid * spec.grid + 2 * spec.grid
        middle = extent // 2 // spec.grid * spec.grid
        measured = 0
        for phase in range(2**level):
            image = torch.rand(1, 1, 8, extent, dtype=torch.float64)
            image[..., middle + phase] = torch.nan
            with torch.inference_mode():
                hit = network(image, level)[-1].isnan().any(dim=2).flatten().nonzero().flatten()
            measured = max(measured, middle + phase - int(hit.min()), int(hit.max()) - middle - phase)
        assert measured == radius


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_receptive_radius_of_four_levels(level):
    assert preset("default").receptive_radius(level) == 7 * 2**level - 5
    assert replace(preset("default"), upsampling="bilinear").receptive_radius(level) == 8 * 2**level - 6


def test_align_corners_has_no_receptive_radius():
    with pytest.raises(ValueError, match="overlap tiling"):
        NESTED.receptive_radius(1)
    assert not NESTED.size_independent
    assert preset("default").size_independent


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_every_preset_survives_json_and_runs(name):
    spec = preset(name, in_channels=2, classes=3)
    assert NetworkSpec.from_json(spec.to_json()) == spec
    small = replace(spec, widths=(2, 4, 4, 4, 8), decoder_widths=spec.decoder_widths and (2, 2, 4, 4))
    extent = (17, 35, 20)[-spec.ndim :]  # no multiple of 16 anywhere
    logits = UNetPlusPlus(small)(torch.rand(2, 2, *extent))
    assert len(logits) == len(spec.heads)
    assert all(head.shape == (2, 3, *extent) for head in logits)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"skips": "long"}, "skips 'long'"),
        ({"upsampling": "cubic"}, "upsampling 'cubic'"),
        ({"ndim": 4}, "ndim 4"),
        ({"classes": 0}, "classes 0"),
        ({"widths": (8,)}, "at least two widths"),
        ({"heads": (1, 2, 3)}, "prune the widths"),
        ({"heads": (4, 1)}, "ascending"),
        ({"skips": "plain"}, "one head"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"multiple": 8}, "multiple 8"),
        ({"decoder_widths": (2, 2)}, "4 rows"),
    ],
)
def test_contradictions_are_refused_by_name(changes, says):
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        replace(NetworkSpec(), **changes)


def test_unknown_names_and_fields_are_refused():
    with pytest.raises(ValueError, match="unet-xl"):
        preset("unet-xl")
    with pytest.raises(ValueError, match="attention"):
        NetworkSpec.from_json(NetworkSpec().to_json() | {"attention": True})
    with pytest.raises(ValueError, match="L1, L2, L3, L4"):
        NetworkSpec().heads_up_to(5)


def test_pruned_network_is_the_sub_network():
    spec = NetworkSpec(widths=(4, 4, 4, 4), heads=(1, 2, 3))
    network = UNetPlusPlus(spec).eval()
    image = torch.rand(1, 1, 21, 43)
    for level in spec.heads:
        pruned = prune(network, level)
        assert pruned.spec.nodes == tuple((i, j) for i, j in spec.nodes if i + j <= level)
        for ours, full in zip(pruned(image), network(image)[:level], strict=True):
            assert torch.equal(ours, full)
