"""What napari's writer hook leaves on disk, given a layer's data and state as napari hands them over."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tifffile

from napari_unetpp._image_axes import in_image_axes
from napari_unetpp._writer import write_labels
from napari_unetpp.stacks import open_stack


def labels(rng, *shape, dtype="u1", high=100):
    return rng.integers(0, high, shape).astype(dtype)


def state(axes="", scale=None, units=None):
    """As `Layer.as_layer_data_tuple` gives it; unnamed axes are napari's own names."""
    n = len(axes) if axes else len(scale)
    names = tuple(axes) if axes else tuple(str(k - n) for k in range(n))
    return {
        "axis_labels": names,
        "scale": list(scale or [1.0] * n),
        "units": units or ("pixel",) * n,
        "name": "labels",
        "metadata": {},
    }


def test_axes_and_spacing_come_back(tmp_path, rng):
    data = labels(rng, 3, 20, 30)
    path = str(tmp_path / "a.tif")
    assert write_labels(path, data, state("zyx", (500, 100, 100), ("nm", "nm", "nm"))) == [path]
    with open_stack(path) as stack:
        assert stack.axes == "zyx"
        assert stack.spacing_um == pytest.approx((0.5, 0.1, 0.1))
        np.testing.assert_array_equal(stack.data[:], data)


def test_units_of_a_real_layer_are_understood(tmp_path, rng):
    layers = pytest.importorskip("napari.layers")
    layer = layers.Labels(labels(rng, 3, 20, 30), scale=(2, 0.5, 0.5), units=("um",) * 3, axis_labels=("t", "y", "x"))
    data, about, _ = layer.as_layer_data_tuple()
    with open_stack(write_labels(str(tmp_path / "a.tif"), data, about)[0]) as stack:
        assert (stack.axes, stack.spacing_um) == ("tyx", (None, 0.5, 0.5))


def test_pixels_are_no_spacing(tmp_path, rng):
    (path,) = write_labels(str(tmp_path / "a.tif"), labels(rng, 20, 30), state("yx", (4, 4)))
    with open_stack(path) as stack:
        assert stack.spacing_um == (None, None)


@pytest.mark.parametrize(
    ("shape", "axes"), [((20, 30), "yx"), ((3, 20, 30), "zyx"), ((2, 3, 20, 30), "tzyx"), ((2, 3, 4, 20, 30), "tzcyx")]
)
def test_unnamed_axes_are_the_usual_ones(tmp_path, rng, shape, axes):
    data = labels(rng, *shape)
    (path,) = write_labels(str(tmp_path / "a.tif"), data, state(scale=(1,) * len(shape)))
    with open_stack(path) as stack:
        assert stack.axes == axes
        np.testing.assert_array_equal(stack.data[:], data)


def test_names_that_a_tiff_does_not_know_are_replaced_as_a_whole(tmp_path, rng):
    about = {**state("zyx"), "axis_labels": ("depth", "y", "x")}
    with open_stack(write_labels(str(tmp_path / "a.tif"), labels(rng, 3, 20, 30), about)[0]) as stack:
        assert stack.axes == "zyx"


def test_axes_in_another_order_are_put_right(tmp_path, rng):
    data = labels(rng, 30, 2, 20, 3)  # x c y z
    scale, units = (0.1, 1, 0.2, 0.5), ("um", "pixel", "um", "um")
    with open_stack(write_labels(str(tmp_path / "a.tif"), data, state("xcyz", scale, units))[0]) as stack:
        assert stack.axes == "zcyx"
        assert stack.spacing_um == pytest.approx((0.5, None, 0.2, 0.1))
        np.testing.assert_array_equal(stack.data[:], data.transpose(3, 1, 2, 0))


def test_a_prediction_that_repeats_along_channels(tmp_path, rng):
    data = labels(rng, 3, 20, 30)
    shown = in_image_axes(data, "zyx", "zcyx", (3, 2, 20, 30))
    with open_stack(write_labels(str(tmp_path / "a.tif"), shown, state("zcyx"))[0]) as stack:
        assert stack.axes == "zcyx"
        np.testing.assert_array_equal(stack.data[:], np.stack([data, data], axis=1))


def test_of_a_multiscale_layer_the_full_resolution_is_written(tmp_path, rng):
    data = labels(rng, 20, 30)
    (path,) = write_labels(str(tmp_path / "a.tif"), [data, data[::2, ::2]], {**state("yx"), "multiscale": True})
    np.testing.assert_array_equal(tifffile.imread(path), data)


@pytest.mark.parametrize(("wide", "stored"), [("i8", "i4"), ("u8", "u4")])
def test_wide_labels_are_narrowed(tmp_path, rng, wide, stored):
    data = labels(rng, 3, 20, 30, dtype=wide, high=2**31 - 1)
    (path,) = write_labels(str(tmp_path / "a.tif"), data, state("zyx"))
    found = tifffile.imread(path)
    assert found.dtype == stored
    np.testing.assert_array_equal(found, data)


class Planes:
    """Lazy labels that remember how much was asked for at once."""

    def __init__(self, data):
        self.data, self.shape, self.ndim, self.dtype, self.largest = data, data.shape, data.ndim, data.dtype, 0

    def __getitem__(self, key):
        found = self.data[key]
        self.largest = max(self.largest, found.size)
        return found

    def __array__(self, *_, **__):
        raise AssertionError("read as a whole")


@pytest.mark.parametrize("axes", ["zyx", "yzx"])
def test_lazy_labels_are_read_plane_by_plane(tmp_path, rng, axes):
    data = labels(rng, 20, 20, 30, dtype="i8")
    lazy = Planes(data)
    write_labels(str(tmp_path / "a.tif"), lazy, state(axes))
    assert lazy.largest == 20 * 30


@pytest.mark.parametrize(
    ("data", "about", "says"),
    [
        (np.full((3, 20, 30), 2**40), state("zyx"), r"label 1099511627776 does not fit into 32 bits.*relabel first$"),
        (np.zeros((3, 20, 30)), state("zyx"), r"labels are of type float64"),
        (np.zeros((1,) * 6, "u1"), state(scale=(1,) * 6), r"labels with 6 axes do not fit into a TIFF"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path, data, about, says):
    with pytest.raises(ValueError, match=says):
        write_labels(str(tmp_path / "a.tif"), data, about)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("plane", [0, 2, 3])  # before the first plane, in the middle, before the last
def test_a_folder_that_goes_meanwhile_is_told(tmp_path, rng, plane):
    folder = tmp_path / "out"
    folder.mkdir()
    labels = rng.integers(0, 9, (4, 16, 16)).astype(np.uint16)

    class Vanishing:
        shape, ndim, dtype = labels.shape, 3, labels.dtype

        def __getitem__(self, key):
            if key[0] == slice(plane, plane + 1):
                shutil.rmtree(folder)
            return labels[key]

    with pytest.raises(FileNotFoundError, match="the folder was moved or deleted while this was written"):
        write_labels(str(folder / "a.tif"), Vanishing(), {})
    assert not folder.exists()
