"""`segment --resample` and `--spacing`: the model sees another grid, the results are on that of the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile

from napari_unetpp.box import Box
from napari_unetpp.inference.predict import predict_array
from napari_unetpp.inference.store import open_store
from napari_unetpp.model.checkpoint import load_model, save_model
from napari_unetpp.stacks import open_stack

BASE = ("segment", "image.tif", "-o", "out.ome.zarr", "--model", "known.safetensors", "--tiling", "seamless")


@pytest.fixture
def image(here, rng):
    """An image at half the resolution that its model knows."""
    model = load_model(here / "tiny.safetensors", "cpu")
    known = replace(model, card=replace(model.card, name="known", spacing_um=(0.5, 0.5)))
    save_model(known, here / "known.safetensors")
    image = rng.integers(0, 255, (40, 56), np.uint8)
    tifffile.imwrite(here / "image.tif", image)
    return image


def test_a_constant_factor_is_that_of_doubling_by_hand(run, here, image):
    done = run(*BASE, "--resample", "2", "--labels", "found.tif", "--level", "2")
    assert done.code == 0, done.err
    store = open_store(here / "out.ome.zarr")
    assert store.shape == image.shape
    assert store.record["resample"] == [2.0, 2.0]
    assert tifffile.imread(here / "found.tif").shape == image.shape
    # Doubled by hand: bilinear with half-voxel centres, the border repeated.
    padded = np.pad(image.astype(np.float64), 1, "edge")
    for axis in (0, 1):
        a = np.moveaxis(padded, axis, 0)
        near, before, after = a[1:-1], a[:-2], a[2:]
        doubled = np.stack([0.75 * near + 0.25 * before, 0.75 * near + 0.25 * after], 1).reshape(-1, *a.shape[1:])
        padded = np.moveaxis(doubled, 0, axis)
    model = load_model(here / "known.safetensors", "cpu")
    from napari_unetpp.inference.tiling import Seamless

    large = predict_array(open_stack(padded.astype(np.float32)), model, tiling=Seamless())[2]
    weights = np.array([1, 3, 3, 1]) / 8  # a triangle of two voxels' half width
    rows = sum(
        w * np.pad(large, ((0, 0), (1, 1), (0, 0)), "edge")[:, k : k + 2 * 40 : 2] for k, w in enumerate(weights)
    )
    small = sum(
        w * np.pad(rows, ((0, 0), (0, 0), (1, 1)), "edge")[..., k : k + 2 * 56 : 2] for k, w in enumerate(weights)
    )
    got = store.read(2, Box.of(store.shape)).astype(float)
    inside = np.s_[:, 2:-2, 2:-2]  # at the border weights are shared among fewer voxels
    assert np.abs(got - 255 * small)[inside].max() <= 1.6


@pytest.mark.usefixtures("image")
def test_the_models_spacing_the_same_again_and_another(run, here):
    said = run(*BASE, "--spacing", "1,1um")
    assert said.code == 0
    assert "another resolution than known was trained at (y 1 um, the model 0.5 um" in said.err + said.out
    assert "--resample model" in said.err + said.out
    refused = run(*BASE, "--spacing", "1,1um", "--resample", "model")
    assert refused.code == 1
    assert "another resampling" in refused.err
    asked = (*BASE, "--spacing", "1000,1000nm", "--resample", "model")
    assert run(*asked, "--overwrite").code == 0
    store = open_store(here / "out.ome.zarr")
    assert store.record["resample"] == [2.0, 2.0]
    assert store.complete
    before = store.read(2, Box.of(store.shape))
    again = run(*asked)
    assert again.code == 0
    assert "of them before" in again.err + again.out
    np.testing.assert_array_equal(open_store(here / "out.ome.zarr").read(2, Box.of(store.shape)), before)
    assert not list(here.glob(".*resampled"))
    assert run(*BASE).code == 1  # not resampled is another run


@pytest.mark.usefixtures("image")
def test_what_is_not_known_is_asked_for(run):
    silent = run(*BASE, "--resample", "model")
    assert silent.code == 2
    assert "image 'image' does not say its spacing" in silent.err.replace("\n", " ")
    assert "--spacing" in silent.err
    assert run(*BASE).code == 0  # nothing known, nothing said
    for wrong in ("twice", "0", "100"):
        assert run(*BASE, "--resample", wrong).code == 2


def test_an_image_that_changed_is_refused_voxel_by_voxel(run, here):
    image = np.random.default_rng(0).integers(0, 200, (200, 210), np.uint8)
    tifffile.imwrite("image.tif", image, metadata={"axes": "YX"})
    assert run("segment", "image.tif", "-o", "out.ome.zarr", "--resample", 2).code == 0
    assert run("segment", "image.tif", "-o", "out.ome.zarr", "--resample", 2).code == 0
    image[0, 3] ^= 1
    tifffile.imwrite("image.tif", image, metadata={"axes": "YX"})
    done = run("segment", "image.tif", "-o", "out.ome.zarr", "--resample", 2)
    assert done.code == 1
    assert "is not, voxel by voxel, the image that out.ome.zarr was predicted from" in done.err
    assert run("segment", "image.tif", "-o", "out.ome.zarr", "--resample", 2, "--overwrite").code == 0
