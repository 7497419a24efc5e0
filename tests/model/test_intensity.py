"""Intensity rules against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from napari_unetpp.model.intensity import Intensity, Scaling, measure

RAW = (
    np.random.default_rng(0).integers(0, 4096, (3, 20, 30)).astype(np.uint16)
    * np.array([1, 2, 3], np.uint16)[:, None, None]
)


def test_percentiles_per_channel_become_zero_and_one():
    scaled = measure(Intensity(low=2, high=98), RAW).apply(RAW)
    assert scaled.dtype == np.float32
    for channel in scaled:
        np.testing.assert_allclose(np.percentile(channel, [2, 98]), [0, 1], atol=1e-4)


def test_a_shared_range_keeps_colours():
    scaling = measure(Intensity(per_channel=False), RAW)
    assert len(set(scaling.gain)) == len(set(scaling.offset)) == 1
    assert len(scaling.gain) == 3


def test_zscore():
    scaled = measure(Intensity("zscore"), RAW).apply(RAW)
    np.testing.assert_allclose(scaled.mean((1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std((1, 2)), 1, atol=1e-4)


def test_fixed_reads_nothing():
    scaling = measure(Intensity("fixed", fixed_offset=(10.0,), fixed_gain=(0.5,)), np.empty((2, 0)))
    assert scaling == Scaling((10.0, 10.0), (0.5, 0.5))
    np.testing.assert_array_equal(scaling.apply(np.full((2, 1), 12, np.uint8)), 1.0)
    with pytest.raises(ValueError, match=r"3 channels.*2"):
        measure(Intensity("fixed", fixed_offset=(1.0, 2.0), fixed_gain=(1.0, 1.0)), RAW)


def test_a_constant_image_becomes_zeros():
    flat = np.full((1, 4, 4), 7, np.uint8)
    assert not measure(Intensity(), flat).apply(flat).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_intensities_are_refused(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        measure(Intensity(), np.array([[1.0, bad]]))


def test_empty_and_wrong_are_refused():
    with pytest.raises(ValueError, match="empty"):
        measure(Intensity(), np.empty((1, 0)))
    with pytest.raises(ValueError, match="low < high"):
        Intensity(low=90, high=10)
    with pytest.raises(ValueError, match="2 channels"):
        Scaling((0.0,), (1.0,)).apply(np.zeros((2, 3)))


def test_json():
    rule = Intensity("fixed", fixed_offset=(1.0, 2.0), fixed_gain=(1.0, 3.0))
    assert Intensity.from_json(rule.to_json()) == rule
    scaling = Scaling((1.0,), (2.0,))
    assert Scaling.from_json(scaling.to_json()) == scaling
