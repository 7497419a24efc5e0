"""Tiles that fit into a memory: smaller where they must be, refused only where somebody named the memory."""

import pytest
import torch

from napari_unetpp.inference.backends import Backend
from napari_unetpp.inference.fitting import fitting_tiles
from napari_unetpp.inference.kernels import TorchLayers
from napari_unetpp.inference.tiles import Overlap, Seamless, plan_tiles
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus


@pytest.fixture
def backend():
    """Of a network that is small, with a memory to match."""

    def made(ndim=2, memory=2**20):
        spec = NetworkSpec(ndim=ndim, widths=(4, 8, 16), heads=(1, 2))
        made = Backend(
            TorchLayers(UNetPlusPlus(spec).eval(), torch.device("cpu"), torch.float32), torch.device("cpu"), "fp32"
        )
        made.memory = memory
        return made

    return made


def need(backend, tiles):
    extent, least = tiles.input_extent, 2**tiles.level
    bands = [None, *(b for b in (128, 64, 32, 16, 8, 4) if b >= least)]
    return min(backend.bytes_held(tiles.level, extent, 1, band) for band in bands)


def test_tiles_become_as_small_as_the_memory_asks_for(backend):
    plain = plan_tiles((4096, 4096), backend().spec, Seamless())
    small = fitting_tiles((4096, 4096), backend(), Seamless(), memory=600_000)
    assert need(backend(), plain) > 600_000 >= need(backend(), small)
    assert small.tiling.inner < plain.tiling.inner
    assert small.tiling.halo == plain.tiling.halo  # the same labels


def test_without_a_memory_nothing_is_refused(backend):
    for tiling in (Seamless(), Overlap(64, 32)):
        tight = backend(ndim=3, memory=1)
        tiles = fitting_tiles((64, 96, 96), tight, tiling)
        tight.plan(tiles.level, tiles.input_extent, 1, 4, None, 2)
        with pytest.raises(MemoryError, match="where 0 MiB are allowed"):
            tight.plan(tiles.level, tiles.input_extent, 1, 4, 1, 2)


def test_a_memory_that_is_named_is_kept(backend):
    with pytest.raises(MemoryError, match="MiB are allowed"):
        fitting_tiles((64, 96, 96), backend(ndim=3), Overlap(64, 32), memory=1000)
    with pytest.raises(MemoryError, match="MiB are allowed"):
        fitting_tiles((512, 512), backend(), Seamless(inner=256), memory=1000)


def test_with_room_they_are_those_of_the_plan(backend):
    assert fitting_tiles((300, 300), backend(memory=2**40), Seamless()) == plan_tiles(
        (300, 300), backend().spec, Seamless()
    )
