"""Networks whose maps are not those of the plain grid: convolutions without padding, steps and kernels per axis, strides."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from napari_unetpp.inference.kernels import TorchLayers, whole_pass
from napari_unetpp.model.costs import flops_per_voxel, parameters
from napari_unetpp.model.extents import margins
from napari_unetpp.model.presets import for_spacing, preset
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus

SMALL = {"widths": (3, 4, 5, 6, 7), "heads": (4,)}
CPU = torch.device("cpu")


def made(spec):
    torch.manual_seed(1)
    return UNetPlusPlus(spec).double().eval()


def plain_unet(network, x, *, late=False):
    """The U-Net of 2015 written out: valid convolutions, 2 x 2 pooling, crop (or pad what came from below), concatenate."""
    state = network.state_dict()

    def block(key, x):
        numbers = sorted(
            {int(k.split(".")[2]) for k in state if k.startswith(f"nodes.{key}.") and k.endswith("weight")}
        )
        for n in numbers:
            weight, bias = state[f"nodes.{key}.{n}.weight"], state[f"nodes.{key}.{n}.bias"]
            if weight.ndim == 1:  # BatchNorm in evaluation
                x = F.batch_norm(
                    x, state[f"nodes.{key}.{n}.running_mean"], state[f"nodes.{key}.{n}.running_var"], weight, bias
                ).relu()
            else:
                x = F.conv2d(x, weight, bias)
                x = x if late else x.relu()
        return x

    encoder = [block("0_0", x)]
    for i in range(1, 5):
        encoder.append(block(f"{i}_0", F.max_pool2d(encoder[-1], 2)))
    below = encoder[4]
    for i in (3, 2, 1, 0):
        key = f"{i}_{4 - i}"
        up = F.conv_transpose2d(below, state[f"ups.{key}.weight"], state[f"ups.{key}.bias"], stride=2)
        skip = encoder[i]
        dy, dx = skip.shape[2] - up.shape[2], skip.shape[3] - up.shape[3]
        if late:
            up = F.pad(up, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        else:
            skip = skip[:, :, dy // 2 : dy // 2 + up.shape[2], dx // 2 : dx // 2 + up.shape[3]]
        below = block(key, torch.cat([skip, up], dim=1))
    return F.conv2d(below, state["heads.4.weight"], state["heads.4.bias"])


@pytest.mark.parametrize(("name", "given", "around"), [("unet-2015", 388, 92), ("unet-late-padding", 564, 4)])
def test_572_voxels_in_and_as_many_out_as_published(name, given, around):
    network = made(replace(preset(name), **SMALL))
    image = torch.rand(1, 1, 572, 572, dtype=torch.float64)
    with torch.inference_mode():
        wanted = plain_unet(network, image, late="late" in name)
        assert tuple(wanted.shape[2:]) == (given, given)
        # the network mirrors its image, so it is given the middle; away from the mirrored part it must be the same
        (logits,) = network(F.pad(image, (-around,) * 4))
    assert logits.shape == wanted.shape
    assert margins(network.spec, 0, given) == (around, around)
    if name == "unet-2015":
        seen = slice(112, -112)  # beyond the radius nothing of the mirrored part is seen
        torch.testing.assert_close(logits[..., seen, seen], wanted[..., seen, seen], atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["unet-2015", "unet-late-padding"])
@pytest.mark.parametrize("extent", [(388, 388), (61, 100), (5, 33)])
def test_no_border_is_lost_as_the_image_is_mirrored(name, extent):
    network = made(replace(preset(name), **SMALL))
    image = torch.rand(1, 1, *extent, dtype=torch.float64)
    pads = [m for axis in (1, 0) for m in margins(network.spec, axis, extent[axis])]
    mirrored = image
    if max(pads) < min(extent):
        mirrored = F.pad(image, pads, mode="reflect")
    else:  # numpy mirrors as often as it takes
        around = [(0, 0), (0, 0), (pads[2], pads[3]), (pads[0], pads[1])]
        mirrored = torch.from_numpy(__import__("numpy").pad(image.numpy(), around, mode="reflect"))
    with torch.inference_mode():
        wanted = plain_unet(network, mirrored, late="late" in name)
        (logits,) = network(image)
        (prepared,) = whole_pass(TorchLayers(network, CPU, torch.float64), image)
    assert tuple(logits.shape[2:]) == extent
    torch.testing.assert_close(logits, wanted[..., : extent[0], : extent[1]], atol=1e-12, rtol=0)
    torch.testing.assert_close(prepared, logits, atol=1e-10, rtol=0)


def test_unpadded_nested_levels_are_pruned_to_the_bit():
    network = made(NetworkSpec(widths=(3, 4, 5), heads=(1, 2), padding="valid"))
    image = torch.rand(1, 1, 21, 30, dtype=torch.float64)
    with torch.inference_mode():
        first, second = network(image)
        assert first.shape == second.shape == image.shape
        assert torch.equal(network(image, 1)[0], first)


def test_thick_slices_are_not_pooled_along_z_before_they_are_cubes():
    spec = for_spacing(preset("vnet++"), (40.0, 4.0, 4.0))
    assert spec.steps == ((1, 2, 2), (1, 2, 2), (1, 2, 2), (2, 2, 2))  # 4, 8, 16, 32 beside 40: alike within sqrt(2)
    assert spec.kernels == ((1, 3, 3), (1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3))
    assert spec.grids == (2, 16, 16)
    assert NetworkSpec.from_json(spec.to_json()) == spec
    assert spec.pruned(2).grids == (2, 16, 16)
    assert spec.pruned(2).steps == spec.steps[:2]
    assert for_spacing(spec, (1, 1, 1)) == preset("vnet++")


ANISOTROPIC = NetworkSpec(
    ndim=3,
    widths=(2, 3, 4, 4),
    heads=(1, 2, 3),
    steps=((1, 2, 2), (1, 2, 2), (2, 2, 2)),
    kernels=((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)),
)


@pytest.mark.parametrize(
    "spec",
    [
        ANISOTROPIC,
        replace(ANISOTROPIC, upsampling="transposed2"),
        replace(ANISOTROPIC, upsampling="bilinear"),
        replace(ANISOTROPIC, pooling="stride"),
        NetworkSpec(widths=(2, 2, 2), heads=(1, 2), padding="valid"),
        NetworkSpec(widths=(2, 2, 2), heads=(1, 2), pooling="stride"),
    ],
    ids=["nearest", "transposed", "bilinear", "strided", "valid", "2D strided"],
)
def test_a_voxel_reaches_as_far_as_stated_along_each_axis(spec):
    network = made(spec)
    for level in spec.heads:
        for axis, radius in enumerate(spec.receptive_radii(level)):
            grid = spec.grids[axis]
            extent = [8] * spec.ndim
            extent[axis] = 2 * (radius // grid + 2) * grid + 4 * grid
            middle, measured = extent[axis] // 2 // grid * grid, 0
            for phase in range(grid):
                image = torch.rand(1, 1, *extent, dtype=torch.float64)
                image.select(2 + axis, middle + phase)[:] = torch.nan
                with torch.inference_mode():
                    hit = network(image, level)[-1].isnan()[0, 0]
                along = hit.movedim(axis, 0).flatten(1).any(dim=1).nonzero().flatten()
                measured = max(measured, middle + phase - int(along.min()), int(along.max()) - middle - phase)
            if spec.padding == "valid":  # whose radius is a bound for all ways in which windows lie
                assert radius / 2 < measured <= radius
            else:
                assert measured == radius


def test_prepared_layers_compute_what_the_network_does():
    for spec in (ANISOTROPIC, replace(ANISOTROPIC, pooling="stride", block="conv-in-relu", negative_slope=0.01)):
        network = made(spec)
        image = torch.rand(2, 1, 5, 21, 16, dtype=torch.float64)
        with torch.inference_mode():
            for got, wanted in zip(
                whole_pass(TorchLayers(network, CPU, torch.float64), image), network(image), strict=True
            ):
                assert got.shape[2:] == image.shape[2:]
                torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0)


def test_what_is_counted_of_an_anisotropic_network():
    from torch.utils.flop_counter import FlopCounterMode

    for spec in (ANISOTROPIC, replace(ANISOTROPIC, upsampling="transposed2", pooling="stride")):
        with torch.device("meta"):
            network = UNetPlusPlus(spec).eval()
            with FlopCounterMode(display=False) as counter:
                network(torch.empty(1, 1, 4, 16, 16))
        assert parameters(spec) == sum(p.numel() for p in network.parameters())
        if spec.pooling == "max":
            assert flops_per_voxel(spec) * 4 * 16 * 16 == pytest.approx(counter.get_total_flops(), rel=1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": ((2, 2),)}, "must name 2 rows of 2 axes"),
        ({"steps": ((1, 1), (2, 2))}, "samples nothing down"),
        ({"kernels": ((3, 3), (3, 3), (2, 3))}, "an odd number"),
        ({"padding": "valid", "upsampling": "bilinear"}, "nearest or transposed2"),
        ({"padding": "late"}, "one skip a node"),
        ({"padding": "valid", "pooling": "stride"}, "max pooling"),
        ({"encoder": "resnet34", "encoder_row": 5}, "one of the rows"),
        ({"multiple": (4, 6)}, "multiple of 4"),
    ],
)
def test_contradictions_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        NetworkSpec(**{"widths": (2, 2, 2), "heads": (1, 2), **fields})
