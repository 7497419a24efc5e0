"""Costs counted from a specification: those of the modules themselves, and of the printed tables."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from napari_unetpp.model.costs import flops_per_voxel, level_costs, parameters
from napari_unetpp.model.presets import PRESET_NAMES
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus

SPECS = {
    **{name: NetworkSpec.preset(name) for name in PRESET_NAMES},
    "channels and classes": NetworkSpec.preset("default", 2, 3, 4),
    "3D": NetworkSpec.preset("default", 3).with_width(8),
    "dropout": replace(NetworkSpec.preset("unet++"), block="conv-relu-dropout", dropout=0.5),
    "some heads": replace(NetworkSpec.preset("unet-e"), heads=(2, 4)),
}


@pytest.mark.parametrize("name", SPECS)
def test_what_is_counted_is_what_is_built(name):
    spec = SPECS[name]
    with torch.device("meta"):  # shapes alone
        network = UNetPlusPlus(spec).eval()
        extent = (spec.grid * 2,) * spec.ndim
        image = torch.empty((1, spec.in_channels, *extent))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(image)
    assert parameters(spec) == sum(p.numel() for p in network.parameters())
    if spec.padding == "same":
        assert flops_per_voxel(spec) * image[0, 0].numel() == counter.get_total_flops()


def test_the_published_numbers():
    # pytorch-nested-unet with three channels, pruned, heads L1..Ld; operations of a 512 x 512 image with the last head alone
    nested = NetworkSpec.preset("pytorch-nested-unet", 2, 3)
    costs = level_costs(nested)
    assert [c.parameters for c in costs] == [103_041, 519_138, 2_236_227, 9_163_428]
    alone = [replace(nested.pruned(d), heads=(d,)) for d in nested.heads]
    printed = [31_876_710_400, 82_611_011_584, 162_336_342_016, 275_884_539_904]
    assert [flops_per_voxel(spec) * 512**2 for spec in alone] == printed


def test_a_level_costs_what_the_pruned_network_costs():
    spec = replace(NetworkSpec.preset("unet++"), heads=(1, 3, 4))
    costs = level_costs(spec)
    assert [c.level for c in costs] == [1, 3, 4]
    assert [c.parameters for c in costs] == [parameters(spec.pruned(d)) for d in spec.heads]
    assert costs[-1].parameters == parameters(spec)
    assert sorted(c.flops_per_voxel for c in costs) == [c.flops_per_voxel for c in costs]
