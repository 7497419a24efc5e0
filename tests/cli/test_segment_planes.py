"""`segment --planes 3`: told, recorded, stopped and continued, refused where it makes no sense."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from napari_unetpp.inference.store import PredictionStore, open_store

from .conftest import write_model

BASE = ("segment", "cube.tif", "-o", "out.ome.zarr", "--model", "tiny.safetensors", "--planes", "3")


@pytest.fixture
def cube(here):
    """A stack of 12 slices; the file says how long a voxel is."""

    def write(z_um=0.01):
        volume = np.random.default_rng(2).integers(0, 255, (12, 20, 24)).astype(np.uint8)
        spacing = {"PhysicalSizeZ": z_um, "PhysicalSizeY": 0.01, "PhysicalSizeX": 0.01}
        units = {f"{key}Unit": "um" for key in spacing}
        tifffile.imwrite(here / "cube.tif", volume, ome=True, metadata={"axes": "ZYX", **spacing, **units})
        return volume

    write()
    return write


def voxels(path):
    return {f.relative_to(path): f.read_bytes() for f in path.rglob("*") if f.is_file() and f.name != "zarr.json"}


def test_it_is_told_and_recorded(run, here, cube):
    done = run(*BASE)
    assert done.code == 0, done.err
    assert "the mean of planes along z, y and x" in done.out
    store = open_store(here / "out.ome.zarr")
    assert store.complete
    assert store.record["planes"]["axes"] == "zyx"
    one = (*BASE[:-2], "--json")
    again = run(*one)
    assert again.code == 1
    assert "another choice of planes (was z, y and x" in again.err
    assert run(*one, "--overwrite").code == 0
    assert "planes" not in open_store(here / "out.ome.zarr").record
    assert run("score", "out.ome.zarr", "cube.tif").code == 0


def test_events_count_the_tiles_of_all_three(run, here, cube):
    events = run(*BASE, "--json").events
    start, result = (next(e for e in events if e["event"] == kind) for kind in ("start", "result"))
    parts = [e for e in events if e["event"] in ("plane", "tile")]
    assert start["planes"] == 3
    assert [e["done"] for e in parts] == list(range(1, start["tiles"] + 1))
    assert {e["axis"] for e in parts if e["event"] == "plane"} == {"y", "x"}
    assert sum(e["event"] == "tile" for e in parts) == open_store(here / "out.ome.zarr").done_count
    assert result["voxels"] == 3 * 12 * 20 * 24
    again = run(*BASE, "--json").events[-1]
    assert again["resumed"] == again["tiles"] == start["tiles"]


def test_a_region_is_segmented_as_if_it_were_the_stack(run, here, cube):
    assert run(*BASE, "--region", "2:10,4:20,:18").code == 0
    tifffile.imwrite(here / "crop.tif", cube()[2:10, 4:20, :18], ome=True, metadata={"axes": "ZYX"})
    run("segment", "crop.tif", "-o", "crop.zarr", *BASE[4:])
    assert voxels(here / "out.ome.zarr") == voxels(here / "crop.zarr")


def test_a_full_disk_keeps_what_is_safe(run, here, cube, monkeypatch):
    run("segment", "cube.tif", "-o", "whole.zarr", *BASE[4:])
    with monkeypatch.context() as patch:
        patch.setattr(PredictionStore, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        full = run(*BASE)
    assert full.code == 1
    assert "No space left" in full.err
    assert "the same command goes on" in full.err
    events = run(*BASE, "--json").events
    assert {e["event"] for e in events} >= {"tile", "result"}
    assert not [e for e in events if e["event"] == "plane"]  # those were safe
    assert voxels(here / "out.ome.zarr") == voxels(here / "whole.zarr")


def test_unequal_voxels_are_refused_unless_one_insists(run, here, cube):
    cube(z_um=0.05)
    done = run(*BASE)
    assert done.code == 1
    (line,) = done.error_lines
    assert "z 0.05, y 0.01, x 0.01 um" in line
    assert "--anisotropic" in line
    assert not (here / "out.ome.zarr").exists()
    assert run(*BASE, "--anisotropic").code == 0
    assert run(*BASE[:-2], "--anisotropic").code == 2


@pytest.mark.parametrize(("shape", "axes", "says"), [((20, 24), "YX", "no z"), ((2, 20, 24), "ZYX", "2 slices")])
def test_a_stack_without_enough_of_z_is_refused(run, here, shape, axes, says):
    tifffile.imwrite(here / "cube.tif", np.zeros(shape, np.uint8), ome=True, metadata={"axes": axes})
    done = run(*BASE)
    assert done.code == 1
    (line,) = done.error_lines
    assert says in line
    assert not (here / "out.ome.zarr").exists()


def test_ctrl_c_leaves_a_store_that_goes_on_byte_for_byte(run, run_alone, here):
    write_model(here / "tiny.safetensors", tiling={"kind": "seamless", "halo": "fast"})
    rng = np.random.default_rng(1)
    tifffile.imwrite(here / "cube.tif", rng.integers(0, 255, (70, 16, 24)).astype(np.uint8), metadata={"axes": "ZYX"})
    stopped = run_alone(*BASE, "--json", interrupt_after=4)
    assert stopped.code == 130, stopped.err
    assert "goes on from there" in stopped.err
    last = [json.loads(line) for line in stopped.out.splitlines()][-1]
    assert last["done"] < last["total"]
    assert run(*BASE).code == 0
    assert run("segment", "cube.tif", "-o", "whole.zarr", *BASE[4:]).code == 0
    assert voxels(here / "out.ome.zarr") == voxels(here / "whole.zarr")
