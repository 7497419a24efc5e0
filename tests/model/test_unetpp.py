"""The grid against equation 1, unrolled by hand here with plain functions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus, pad_to_grid, probabilities

TINY = NetworkSpec(in_channels=2, classes=2, widths=(4, 6, 8, 10), heads=(1, 2, 3))


def random_network(spec: NetworkSpec, seed: int = 0) -> UNetPlusPlus:
    """Network whose BatchNorm has statistics of its own, so that a forgotten one shows."""
    torch.manual_seed(seed)
    network = UNetPlusPlus(spec)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    return network.double().eval()


def unrolled(network: UNetPlusPlus, x: torch.Tensor) -> list[torch.Tensor]:
    """UNet++ of depth 3 as the equation says it, node by node, out of the weights alone."""
    weights, spec = network.state_dict(), network.spec
    conv = F.conv2d if spec.ndim == 2 else F.conv3d
    pool = F.max_pool2d if spec.ndim == 2 else F.max_pool3d

    def norm(x, key):
        return F.batch_norm(
            x, *(weights[f"{key}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")), training=False
        )

    def block(x, key, kind):
        if kind == "conv-relu":
            for k in (0, 2):
                x = F.relu(conv(x, weights[f"{key}.{k}.weight"], weights[f"{key}.{k}.bias"], padding=1))
        elif kind == "conv-bn-relu":
            for k in (0, 3):
                x = conv(x, weights[f"{key}.{k}.weight"], weights.get(f"{key}.{k}.bias"), padding=1)
                x = F.relu(norm(x, f"{key}.{k + 1}"))
        elif kind == "bn-relu-conv":
            for k in (0, 3):
                x = conv(
                    F.relu(norm(x, f"{key}.{k}")),
                    weights[f"{key}.{k + 2}.weight"],
                    weights[f"{key}.{k + 2}.bias"],
                    padding=1,
                )
        else:  # dropout does nothing in evaluation
            for k in (0, 3):
                x = F.relu(conv(x, weights[f"{key}.{k}.weight"], weights[f"{key}.{k}.bias"], padding=1))
        return x

    def h(x, i, j):
        kind = spec.decoder_block if j > 0 and spec.decoder_block else spec.block
        return block(x, f"nodes.{i}_{j}", kind)

    def up(x, i, j):
        key = f"ups.{i}_{j}"
        if spec.upsampling == "nearest":
            for axis in range(2, x.ndim):
                x = x.repeat_interleave(2, axis)
            return x
        if spec.upsampling.startswith("bilinear"):
            mode = "bilinear" if spec.ndim == 2 else "trilinear"
            return F.interpolate(x, scale_factor=2, mode=mode, align_corners=spec.upsampling.endswith("aligned"))
        transposed = F.conv_transpose2d if spec.ndim == 2 else F.conv_transpose3d
        padding = 1 if spec.upsampling == "transposed4" else 0
        return transposed(x, weights[f"{key}.weight"], weights[f"{key}.bias"], stride=2, padding=padding)

    def cat(skips, up):
        return torch.cat([up, *skips] if spec.concatenation == "up-first" else [*skips, up], dim=1)

    def skips(*row):
        return {"dense": row, "short": row[-1:], "ensemble": row[:1]}[spec.skips]

    x00 = h(x, 0, 0)
    x10 = h(pool(x00, 2), 1, 0)
    x20 = h(pool(x10, 2), 2, 0)
    x30 = h(pool(x20, 2), 3, 0)
    x01 = h(cat(skips(x00), up(x10, 0, 1)), 0, 1)
    x11 = h(cat(skips(x10), up(x20, 1, 1)), 1, 1)
    x21 = h(cat(skips(x20), up(x30, 2, 1)), 2, 1)
    x02 = h(cat(skips(x00, x01), up(x11, 0, 2)), 0, 2)
    x12 = h(cat(skips(x10, x11), up(x21, 1, 2)), 1, 2)
    x03 = h(cat(skips(x00, x01, x02), up(x12, 0, 3)), 0, 3)

    def head(x, d):
        if spec.head == "conv1":
            return conv(x, weights[f"heads.{d}.weight"], weights[f"heads.{d}.bias"])
        return conv(
            F.relu(norm(x, f"heads.{d}.0")), weights[f"heads.{d}.2.weight"], weights[f"heads.{d}.2.bias"], padding=1
        )

    return [head(x01, 1), head(x02, 2), head(x03, 3)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"skips": "short"},
        {"skips": "ensemble"},
        {"block": "conv-relu", "upsampling": "transposed2"},
        {"block": "conv-relu-dropout", "dropout": 0.5, "concatenation": "up-first"},
        {"block": "bn-relu-conv", "upsampling": "transposed4", "head": "bn-relu-conv3", "concatenation": "up-first"},
        {"decoder_block": "bn-relu-conv", "upsampling": "bilinear"},
        {"upsampling": "bilinear-aligned", "conv_bias": False},
        {"ndim": 3, "upsampling": "transposed2"},
        {"ndim": 3, "upsampling": "bilinear"},
    ],
)
def test_logits_equal_equation_1_unrolled(changes):
    network = random_network(replace(TINY, **changes))
    image = torch.rand(2, 2, *(16, 24, 32)[-network.spec.ndim :], dtype=torch.float64)
    with torch.inference_mode():
        for ours, reference in zip(network(image), unrolled(network, image), strict=True):
            torch.testing.assert_close(ours, reference, rtol=0, atol=1e-10)


def test_plain_unet_is_the_textbook_unet():
    network = random_network(replace(TINY, skips="plain", heads=(3,)))
    image = torch.rand(1, 2, 16, 24, dtype=torch.float64)
    nodes = network.nodes
    down = [nodes["0_0"](image)]
    for i in (1, 2, 3):
        down.append(nodes[f"{i}_0"](F.max_pool2d(down[-1], 2)))
    x = down[3]
    for i, j in ((2, 1), (1, 2), (0, 3)):
        x = nodes[f"{i}_{j}"](torch.cat([down[i], F.interpolate(x, scale_factor=2, mode="nearest")], 1))
    torch.testing.assert_close(network(image)[0], network.heads["3"](x), rtol=0, atol=0)
    assert set(nodes) == {"0_0", "1_0", "2_0", "3_0", "2_1", "1_2", "0_3"}


@pytest.mark.parametrize("name", ["default", "unet++", "unet+", "unet-e", "pytorch-nested-unet"])
@pytest.mark.parametrize("extent", [(32, 48), (33, 47)])
def test_pruned_output_is_bit_equal_to_the_full_network(name, extent):
    spec = replace(NetworkSpec.preset(name), widths=(4, 4, 4, 4, 4))
    network = random_network(spec).float()
    image = torch.rand(1, 1, *extent)
    with torch.inference_mode():
        full = network(image)
        for level in spec.heads:
            for ours, theirs in zip(network(image, level), full, strict=False):
                assert torch.equal(ours, theirs)
            assert len(network(image, level)) == level


@pytest.mark.parametrize("extent", [(1, 1), (1, 9), (2, 3), (15, 17), (16, 16)])
def test_any_extent_works_and_is_padded_by_mirroring(extent):
    network = random_network(TINY)
    image = torch.rand(1, 2, *extent, dtype=torch.float64)
    padded = [(-n) % 8 for n in extent]
    # numpy's reflect refuses nothing that we accept, except axes of one voxel, which can only be repeated
    modes = ["edge" if n == 1 else "reflect" for n in extent]
    reference = image.numpy()
    for axis, (pad, mode) in enumerate(zip(padded, modes, strict=True)):
        widths = [(0, 0)] * 4
        widths[axis + 2] = (0, pad)
        reference = np.pad(reference, widths, mode=mode)
    assert np.array_equal(pad_to_grid(image, 8).numpy(), reference)
    for ours, whole in zip(network(image), network(torch.from_numpy(reference)), strict=True):
        assert torch.equal(ours, whole[:, :, : extent[0], : extent[1]])


def test_a_deeper_level_continues_from_the_nodes_that_are_there():
    network = random_network(TINY)
    image = torch.rand(1, 2, 16, 16, dtype=torch.float64)
    nodes: dict[tuple[int, int], torch.Tensor] = {}
    for d in range(4):
        before = set(nodes)
        network.add_diagonal(nodes, image, d)
        assert {sum(node) for node in set(nodes) - before} == {d}
        if d > 0:
            assert torch.equal(network.head_logits(nodes, d, (16, 16)), network(image, d)[-1])


def test_probabilities_sum_to_one_over_exclusive_classes():
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(probabilities(logits).sum(1), torch.ones(2, 4, 5, dtype=torch.float64))
    torch.testing.assert_close(probabilities(logits[:, :1]), 1 / (1 + torch.exp(-logits[:, :1])))


def test_the_wrong_image_is_refused_in_words():
    network = random_network(TINY)
    with pytest.raises(ValueError, match=r"\(1, 3, 8, 8\).*2 channel"):
        network(torch.rand(1, 3, 8, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match="2 spatial axes"):
        network(torch.rand(1, 2, 8, 8, 8, dtype=torch.float64))
