"""What napari's reader hook makes of a prediction store: its labels, lazy, and where its image lies.

How such layers follow a slider is tested in `gui/test_reopened.py`.
"""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr

from napari_unetpp._reader import get_store_reader, read_store_layers, read_tiff_layers
from napari_unetpp.inference.store import StoreError, create_store
from napari_unetpp.stacks import open_stack


@pytest.fixture
def make_store(tmp_path, rng):
    """A store with random probabilities, and a record like that of a run."""

    def made(shape, axes, stack=None, names=("cell",), **record):
        if stack is not None:
            record["stack"] = stack
        store = create_store(tmp_path / "run.ome.zarr", shape, (1, 2, 4), axes=axes, classes=names, record=record)
        for level in store.levels:
            array = store.probability(level)
            array[...] = rng.integers(0, 256, array.shape, np.uint8)
        return store

    return made


def test_a_store_opens_as_the_labels_of_its_levels(make_store):
    store = make_store((3, 24, 32), "zyx", {"name": "cells", "axes": "zyx", "shape": [3, 24, 32], "dtype": "uint16"})
    layers = get_store_reader(str(store.path))(str(store.path))
    assert [about["name"] for _, about, _ in layers] == ["cells L1", "cells L2", "cells L4", "cells Ensemble"]
    assert {kind for *_, kind in layers} == {"labels"}
    stored = np.stack([store.probability(level)[0] for level in store.levels]).astype(int)
    expected = [*(stored >= 127.5), stored.mean(axis=0) >= 127.5]
    for (lazy, _, _), labels in zip(layers, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(lazy), labels)
    assert [about["visible"] for _, about, _ in layers] == [False, False, True, False]
    assert len({about["colormap"][1] for _, about, _ in layers}) == 4
    assert all(about["axis_labels"] == ("z", "y", "x") for _, about, _ in layers)
    with pytest.raises(TypeError):  # nothing that is painted can reach the store
        layers[0][0][0, 0, 0] = 1


def test_a_store_lies_where_its_image_does(tmp_path, rng):
    path = tmp_path / "cells.tif"
    lengths = {f"PhysicalSize{axis}": 0.25 * (k + 1) for k, axis in enumerate("ZYX")}
    tifffile.imwrite(path, rng.integers(0, 99, (3, 24, 32), np.uint8), ome=True, metadata={"axes": "ZYX", **lengths})
    with open_stack(path) as stack:
        store = create_store(tmp_path / "run.ome.zarr", (3, 24, 32), (1, 2), like=stack)
    ((_, image, _),) = read_tiff_layers(path)
    for _, about, _ in read_store_layers(store.path):
        for key in ("scale", "units", "axis_labels"):
            assert about[key] == image[key]


def test_labels_have_the_axes_of_a_channel_image(make_store):
    store = make_store((3, 24, 32), "zyx", {"name": "a", "axes": "zcyx", "shape": [3, 2, 24, 32], "dtype": "uint8"})
    lazy, about, _ = read_store_layers(store.path)[0]
    labels = store.probability(1)[0] >= 128
    np.testing.assert_array_equal(np.asarray(lazy), np.repeat(labels[:, None], 2, axis=1))
    assert about["axis_labels"] == ("z", "c", "y", "x")


@pytest.mark.parametrize(("dtype", "axes"), [("uint8", ("y", "x")), ("uint16", ("y", "x", "c"))])
def test_samples_of_a_colour_image_are_no_axis(make_store, dtype, axes):
    store = make_store((24, 32), "yx", {"name": "a", "axes": "yxc", "shape": [24, 32, 3], "dtype": dtype})
    lazy, about, _ = read_store_layers(store.path)[0]
    assert (len(lazy.shape), about["axis_labels"]) == (len(axes), axes)


@pytest.mark.parametrize("stack", [None, {}, {"name": "a", "axes": "zyx", "shape": [9, 24, 32]}, {"axes": "yx"}])
def test_a_record_that_does_not_fit_leaves_the_axes_of_the_store(make_store, stack):
    store = make_store((3, 24, 32), "zyx", stack)
    lazy, about, _ = read_store_layers(store.path)[0]
    assert (tuple(lazy.shape), about["axis_labels"]) == ((3, 24, 32), ("z", "y", "x"))


def test_the_recommended_level_is_the_visible_one(make_store):
    store = make_store((24, 32), "yx", recommended_level=2)
    assert [about["name"] for _, about, _ in read_store_layers(store.path) if about["visible"]] == ["run L2"]


def test_classes_have_the_colours_of_the_record(make_store):
    classes = [{"name": "background"}, {"name": "a", "color": "#123456"}, {"name": "b", "color": "#654321"}]
    store = make_store((24, 32), "yx", names=("background", "a", "b"), classes=classes)
    for _, about, _ in read_store_layers(store.path):
        assert about["colormap"] == {None: "transparent", 0: "transparent", 1: "#123456", 2: "#654321"}


def test_folders_that_are_no_store_are_left_to_others(tmp_path, make_store):
    zarr.create_array(tmp_path / "other.zarr", shape=(4, 4), dtype="u1")
    store = make_store((24, 32), "yx")
    for path in (tmp_path / "other.zarr", tmp_path, tmp_path / "absent.zarr", store.path / "L1"):
        assert get_store_reader(str(path)) is None
    assert get_store_reader([str(store.path)]) is None


def test_a_damaged_store_says_so_in_one_line(make_store):
    store = make_store((24, 32), "yx")
    (store.path / "L2" / "0" / "zarr.json").unlink()
    with pytest.raises(StoreError, match=r"run\.ome\.zarr are damaged \(.*\); overwrite them$"):
        read_store_layers(store.path)
