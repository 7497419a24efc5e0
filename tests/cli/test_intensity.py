"""`segment --intensity`: what is said, what is recorded, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from napari_unetpp.inference.store import open_store

BASE = ("segment", "unequal.tif", "-o", "out.ome.zarr", "--model", "tiny.safetensors")


@pytest.fixture
def unequal(here, rng):
    smooth = ndimage.gaussian_filter(rng.normal(size=(3, 80, 80)), (0, 2, 2))
    stack = np.interp(smooth, (smooth.min(), smooth.max()), (30, 240))
    factors = np.array([0.125, 0.25, 1])[:, None, None]
    tifffile.imwrite(here / "unequal.tif", (stack * factors).astype(np.uint8), metadata={"axes": "ZYX"})


@pytest.mark.usefixtures("unequal")
def test_what_differs_from_the_plain_rule_is_said_and_recorded(run, here):
    done = run(*BASE, "--intensity", "robust", "--json")
    assert done.code == 0
    note = done.events[0]["intensity"]["note"]
    assert note.startswith("planes differ in brightness (x 0.1")
    record = open_store(here / "out.ome.zarr").record
    assert record["intensity"] == "robust"
    assert len(record["scaling"]["gains"]) == 3
    again = run(*BASE, "--intensity", "robust")
    assert "intensities: planes differ in brightness (x 0.1" in again.err + again.out
    other = run(*BASE)
    assert other.code == 1
    assert "written with another range of intensities (was robust, now stack)" in other.err


@pytest.mark.usefixtures("unequal")
def test_the_plain_rule_says_nothing(run):
    done = run(*BASE, "--intensity", "stack")
    assert done.code == 0
    assert "intensities" not in done.err + done.out


def test_an_unknown_rule_is_bad_usage(run):
    assert run(*BASE, "--intensity", "magic").code == 2
