"""The sample files: what they hold, and that the committed scripts make them."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import tifffile

from napari_unetpp import _samples


def test_nuclei_have_labels_of_the_same_shape():
    (image, _, image_type), (labels, _, labels_type) = _samples.nuclei()
    assert (image_type, labels_type) == ("image", "labels")
    assert image.shape == labels.shape == (512, 512)
    assert len(np.unique(labels)) == 1 + 125  # StarDist's own count, and the background


def test_nuclei_are_those_of_stardist(shared_data):
    for ours, theirs in (("nuclei", "img2d"), ("nuclei_labels", "mask2d")):
        original = tifffile.imread(shared_data / "stardist_samples" / f"{theirs}.tif")
        np.testing.assert_array_equal(tifffile.imread(_samples.sample_path(ours)), original)


def test_files_name_their_axes_and_spacing():
    with tifffile.TiffFile(_samples.sample_path("nuclei")) as file:
        assert file.series[0].axes == "YX"
    for name in ("synthetic_em", "synthetic_em_membrane"):
        with tifffile.TiffFile(_samples.sample_path(name)) as file:
            assert file.series[0].axes == "ZYX"
            assert file.imagej_metadata["spacing"] == 0.03
            assert file.imagej_metadata["unit"] == "um"
            per_unit, unit = file.pages[0].tags["XResolution"].value
            assert per_unit / unit == pytest.approx(100)


def test_synthetic_layers_carry_the_spacing_of_the_file():
    for data, attributes, _ in _samples.synthetic_em():
        assert data.shape == (16, 256, 256)
        assert attributes["scale"] == (0.03, 0.01, 0.01)


@pytest.mark.slow
def test_the_script_makes_the_synthetic_stack(repository):
    spec = importlib.util.spec_from_file_location(
        "make_synthetic_em", repository / "sample_data" / "make_synthetic_em.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    image, membrane = script.make_stack()

    kept = tifffile.imread(_samples.sample_path("synthetic_em")).astype(int)
    kept_membrane = tifffile.imread(_samples.sample_path("synthetic_em_membrane"))
    # The same bytes on one machine; another's exp() may differ in the last bit and so tip a
    # rounding or a comparison here and there.
    assert np.abs(kept - image).max() <= 1
    assert (kept != image).mean() < 1e-3
    assert (kept_membrane != membrane).mean() < 1e-3


def test_an_unknown_sample_is_refused_with_the_names_of_the_known():
    with pytest.raises(FileNotFoundError, match="nuclei, nuclei_labels, synthetic_em"):
        _samples.sample_path("cells")
