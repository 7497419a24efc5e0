"""`seams`: the table by which a halo is chosen, and `--halo`."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch

from napari_unetpp.inference.store import open_store
from napari_unetpp.model.card import Card, ClassInfo
from napari_unetpp.model.checkpoint import Model, save_model
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus


@pytest.fixture
def volume(here):
    torch.manual_seed(7)
    spec = NetworkSpec(ndim=3, widths=(2, 3, 4), heads=(1, 2))
    card = Card("solid", classes=(ClassInfo("cell"),))
    model = Model(spec, UNetPlusPlus(spec).eval(), Intensity(), card, torch.device("cpu"))
    save_model(model, here / "solid.safetensors")
    rng = np.random.default_rng(0)
    tifffile.imwrite(here / "volume.tif", rng.integers(0, 255, (20, 24, 24), np.uint8), metadata={"axes": "ZYX"})
    return "solid.safetensors"


def test_longer_halos_are_read_more_often_and_err_less(run, volume):
    done = run("seams", "volume.tif", "--model", volume, "--inner", "8", "--halo", "0", "--halo", "8", "--json")
    assert done.code == 0, done.err
    errors = [event for event in done.events if event["event"] == "seams"]
    assert [(e["level"], e["halo"]) for e in errors] == [(1, 0), (2, 0), (1, 8), (2, 8)]
    assert errors[1]["mean"] > errors[3]["mean"]
    assert errors[1]["read_factor"] == pytest.approx(1)
    assert errors[3]["read_factor"] > 1
    table = run("seams", "volume.tif", "--model", volume, "--inner", "8")
    assert "other labels" in table.out


def test_a_halo_is_recorded_and_resolved(run, volume, here):
    for given, halo in (("8", 8), ("bounded", 8), ("4,8,8", [4, 8, 8])):
        done = run(
            *("segment", "volume.tif", "-o", f"{given}.ome.zarr", "--model", volume),
            *("--tiling", "seamless", "--halo", given, "--json"),
        )
        assert done.code == 0, done.err
        told = done.events[0]["tiling"]["halo"]
        assert open_store(here / f"{given}.ome.zarr").record["tiling"]["halo"] == told
        if given != "bounded":
            assert told == halo


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tiling", "overlap", "--halo", "8"), "--halo belongs to seamless tiling"),
        (("--tiling", "seamless", "--halo", "far"), "no number of voxels"),
        (("--tiling", "overlap", "--patch", "8,8"), "patch 8, 8 has 2 numbers where the model has 3 axes"),
    ],
)
def test_what_does_not_fit_is_refused(run, volume, options, message):
    done = run("segment", "volume.tif", "-o", "out.ome.zarr", "--model", volume, *options)
    assert done.code in (1, 2)
    assert message in done.err
