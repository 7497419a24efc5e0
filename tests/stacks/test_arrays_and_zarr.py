"""OME-Zarr written by hand from the specification, plain zarr, .npy and arrays in memory."""

from __future__ import annotations

import json
from pathlib import Path

import dask.array
import numpy as np
import pytest
import zarr

from napari_unetpp.box import Box
from napari_unetpp.stacks import Stack, check_finite, open_stack

UM = "micrometer"


def noise(shape: tuple[int, ...], dtype: str = "u1") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def whole(stack: Stack) -> np.ndarray:
    return stack.read(Box.of(stack.shape_predicted))


def axis(name: str, unit: str | None = None) -> dict:
    kinds = {"t": "time", "c": "channel"}
    return {"name": name, "type": kinds.get(name, "space")} | ({"unit": unit} if unit else {})


def write_ngff(
    path: Path, data: np.ndarray, axes: list[dict], scale: list[float], version: str, **more: object
) -> None:
    """An OME-Zarr of two resolutions, byte for byte as NGFF 0.4 or 0.5 describe it."""
    multiscale = {
        "axes": axes,
        "datasets": [
            {"path": p, "coordinateTransformations": [{"type": "scale", "scale": s}]}
            for p, s in (("full", scale), ("half", [2 * x for x in scale]))
        ],
    } | more
    old = version == "0.4"
    for name, array in (("full", data), ("half", data[..., ::2, ::2])):
        zarr.create_array(path / name, data=array, chunks=(4,) * array.ndim, zarr_format=2 if old else 3)
    if old:
        path.joinpath(".zgroup").write_text('{"zarr_format": 2}')
        attributes = {"multiscales": [multiscale | {"version": "0.4"}]}
        path.joinpath(".zattrs").write_text(json.dumps(attributes))
    else:
        attributes = {"ome": {"version": "0.5", "multiscales": [multiscale]}}
        node = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        path.joinpath("zarr.json").write_text(json.dumps(node))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ngff_axes_spacing_and_full_resolution(tmp_path: Path, version: str) -> None:
    path = tmp_path / "cells.ome.zarr"
    data = noise((2, 3, 4, 10, 12), "u2")
    axes = [axis("t", "second"), axis("c"), *(axis(a, UM) for a in "zyx")]
    write_ngff(path, data, axes, [1, 1, 0.5, 0.2, 0.1], version)
    with open_stack(path) as stack:
        assert (stack.axes, stack.name, stack.dtype) == ("tczyx", "cells", np.uint16)
        assert stack.spacing_um == (None, None, 0.5, 0.2, 0.1)
        np.testing.assert_array_equal(whole(stack), data.transpose(1, 0, 2, 3, 4))
        part = stack.read(Box((1, 1, 2, -1), (2, 3, 5, 4)))
    np.testing.assert_array_equal(part[..., 1:], data.transpose(1, 0, 2, 3, 4)[:, 1:, 1:3, 2:5, :4])


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("nanometer", 0.04), ("angstrom", 0.004), ("millimeter", 40_000.0), (None, None),
     ("parsec", None)],
)  # fmt: skip
def test_ngff_units(tmp_path: Path, unit: str | None, expected: float | None) -> None:
    path = tmp_path / "units.zarr"
    write_ngff(path, noise((4, 6)), [axis("y", unit), axis("x", unit)], [40, 40], "0.5")
    with open_stack(path) as stack:
        assert stack.spacing_um == (expected, expected)


def test_ngff_transformations_of_the_whole_multiply(tmp_path: Path) -> None:
    path = tmp_path / "both.zarr"
    common = [
        {"type": "scale", "scale": [0.5, 0.25]},
        {"type": "translation", "translation": [3, 3]},
    ]
    write_ngff(path, noise((4, 6)), [axis("y", UM), axis("x", UM)], [2, 3], "0.5",
               coordinateTransformations=common)  # fmt: skip
    with open_stack(path) as stack:
        assert stack.spacing_um == (1.0, 0.75)


def test_ngff_axes_are_known_by_type_too(tmp_path: Path) -> None:
    path = tmp_path / "types.zarr"
    names = [{"name": "wavelength", "type": "channel"}, axis("Y"), axis("X")]
    write_ngff(path, noise((3, 4, 6)), names, [1, 1, 1], "0.4")
    assert open_stack(path).axes == "cyx"


def test_ngff_axes_of_other_names_must_be_named(tmp_path: Path) -> None:
    path = tmp_path / "odd.zarr"
    names = [{"name": "depth", "type": "space"}, axis("y"), axis("x")]
    write_ngff(path, noise((3, 4, 6)), names, [1, 1, 1], "0.4")
    with pytest.raises(ValueError, match=r"depth, y, x.*pass axes.*zyx"):
        open_stack(path)
    assert open_stack(path, axes="zyx").shape == (3, 4, 6)


def test_a_collection_of_images_has_series(tmp_path: Path) -> None:
    path = tmp_path / "collection.zarr"
    zarr.create_group(path, attributes={"ome": {"version": "0.5", "bioformats2raw.layout": 3}})
    for i in range(2):
        write_ngff(path / str(i), noise((4 + i, 6)), [axis("y"), axis("x")], [1, 1], "0.5")
    assert open_stack(path).shape == (4, 6)
    assert open_stack(path, series=1).shape == (5, 6)
    with pytest.raises(ValueError, match="without zarr metadata"):
        open_stack(path, series=2)


def test_an_image_written_by_the_ome_zarr_library_opens(tmp_path: Path) -> None:
    from ome_zarr.writer import write_image

    path = tmp_path / "library.zarr"
    data = noise((2, 4, 32, 32))
    spacing, units = {"c": 1, "z": 0.5, "y": 0.1, "x": 0.1}, dict.fromkeys("zyx", UM)
    write_image(data, str(path), axes="czyx", scale_factors=[2], scale=spacing, axes_units=units)
    with open_stack(path) as stack:
        assert (stack.axes, stack.spacing_um) == ("czyx", (None, 0.5, 0.1, 0.1))
        np.testing.assert_array_equal(whole(stack), data)


def test_a_group_without_an_image_names_its_members(tmp_path: Path) -> None:
    path = tmp_path / "group.zarr"
    group = zarr.create_group(path)
    group.create_array("L1", data=noise((4, 6)))
    group.create_group("other")
    with pytest.raises(ValueError, match=r"open one of: L1, other"):
        open_stack(path)
    assert open_stack(path / "L1").shape == (4, 6)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plain_zarr_arrays(tmp_path: Path, zarr_format: int) -> None:
    data = noise((5, 8, 9), ">u2")
    zarr.create_array(tmp_path / "plain.zarr", data=data, zarr_format=zarr_format)
    with open_stack(tmp_path / "plain.zarr") as stack:
        assert stack.axes == "zyx"
        assert whole(stack).dtype.isnative
        np.testing.assert_array_equal(whole(stack)[0], data)
    zarr.create_array(tmp_path / "four.zarr", data=np.stack([data] * 2), zarr_format=zarr_format)
    with pytest.raises(ValueError, match=r'pass axes.*axes="zcyx"'):
        open_stack(tmp_path / "four.zarr")


def test_zarr_dimension_names_are_axes(tmp_path: Path) -> None:
    names = ("y", "x", "c")
    array = zarr.create_array(tmp_path / "v3.zarr", data=noise((8, 9, 3)), dimension_names=names)
    assert open_stack(tmp_path / "v3.zarr").axes == "yxc"
    assert open_stack(array).axes == "yxc"
    old = zarr.create_array(tmp_path / "v2.zarr", data=noise((8, 9, 3)), zarr_format=2)
    old.attrs["_ARRAY_DIMENSIONS"] = list(names)
    assert open_stack(tmp_path / "v2.zarr").axes == "yxc"


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_is_mapped(tmp_path: Path, order: str) -> None:
    path = tmp_path / "cells.npy"
    data = np.asarray(noise((3, 8, 9), ">i4"), order=order)
    np.save(path, data)
    with open_stack(path) as stack:
        assert isinstance(stack.data, np.memmap)
        assert (stack.axes, stack.name) == ("zyx", "cells")
        np.testing.assert_array_equal(whole(stack)[0], data)
        assert whole(stack).dtype == np.dtype("i4")


@pytest.mark.parametrize("wrap", [np.asarray, dask.array.from_array], ids=["numpy", "dask"])
def test_arrays_in_any_storage_order(wrap) -> None:
    data = noise((6, 7, 3, 5))
    stack = open_stack(wrap(data), axes="yxcz", spacing_um=(0.2, 0.1, None, 0.5))
    assert (stack.axes_predicted, stack.shape_predicted) == ("zyx", (5, 6, 7))
    assert stack.spacing_predicted_um == (0.5, 0.2, 0.1)
    assert stack.channel_axis == 2
    np.testing.assert_array_equal(whole(stack), data.transpose(2, 3, 0, 1))
    got = stack.read(Box((-1, 2, 3), (2, 5, 9)))
    padded = np.pad(data.transpose(2, 3, 0, 1), [(0, 0), (1, 0), (0, 0), (0, 2)], mode="reflect")
    np.testing.assert_array_equal(got, padded[:, :3, 2:5, 3:9])


def test_arrays_without_names() -> None:
    assert open_stack(noise((4, 5))).axes == "yx"
    assert open_stack(noise((3, 4, 5))).axes == "zyx"
    assert open_stack(noise((4, 5, 3))).axes == "zyx"  # never channels by length
    with pytest.raises(ValueError, match=r'pass axes.*axes="zcyx"'):
        open_stack(noise((2, 3, 4, 5)))


def test_a_list_of_resolutions_is_read_at_the_first() -> None:
    from napari.layers import Image

    levels = [noise((8, 8)), noise((4, 4))]
    for source in (levels, Image(levels, multiscale=True).data):
        np.testing.assert_array_equal(whole(open_stack(source))[0], levels[0])


def test_bool_arrays_are_read_as_uint8() -> None:
    mask = noise((4, 5)) > 100
    stack = open_stack(mask)
    assert whole(stack).dtype == stack.dtype == np.uint8
    np.testing.assert_array_equal(whole(stack)[0], mask)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_plane_that_is_not_finite_is_named(bad: float) -> None:
    data = noise((2, 6, 4, 5), "f4")
    check_finite(open_stack(data, axes="tzyx"))
    data[1, 2, 3, 4] = data[1, 5, 0, 0] = bad
    with pytest.raises(ValueError, match=r"NaN or infinity, first in plane t = 1 of 2, z = 2 of 6;"):
        check_finite(open_stack(data, axes="tzyx"))
    with pytest.raises(ValueError, match=r"NaN or infinity; replace"):
        check_finite(open_stack(data[1, 2]))
    lazy = dask.array.from_array(data.transpose(2, 3, 0, 1), chunks=(4, 5, 1, 4))
    with pytest.raises(ValueError, match=r"z = 2 of 6"):
        check_finite(open_stack(lazy, axes="yxtz"))


def test_integers_are_finite_without_a_look() -> None:
    class Unreadable:
        shape, ndim, dtype = (3, 4, 5), 3, np.dtype("u2")

        def __getitem__(self, key: object) -> np.ndarray:
            raise AssertionError

    check_finite(open_stack(Unreadable()))


def test_one_of_several_images_of_a_zarr_and_its_interval_are_told(tmp_path: Path) -> None:
    data = noise((3, 10, 12))
    axes = [axis("t", "millisecond"), axis("y", UM), axis("x", UM)]
    for name in "012":
        write_ngff(tmp_path / "wells.zarr" / name, data, axes, [500.0, 1, 1], "0.5")
    node = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"ome": {"version": "0.5", "bioformats2raw.layout": 3}},
    }
    (tmp_path / "wells.zarr" / "zarr.json").write_text(json.dumps(node))
    with open_stack(tmp_path / "wells.zarr") as stack:
        assert stack.notes == ("image 1 of 3: 0; choose another with --series 0..2",)
        assert (stack.axes, stack.interval_s) == ("tyx", 0.5)
    with open_stack(tmp_path / "wells.zarr", series=2) as stack:
        assert stack.notes == ()


def test_channels_of_an_ome_zarr_are_no_colours(tmp_path: Path) -> None:
    axes = [axis("c"), axis("y", UM), axis("x", UM)]
    write_ngff(tmp_path / "a.zarr", noise((3, 10, 12)), axes, [1.0, 1, 1], "0.5")
    with open_stack(tmp_path / "a.zarr") as stack:
        assert stack.colours is False
    with open_stack(np.zeros((3, 10, 12)), axes="cyx") as stack:
        assert stack.colours is None


def _h5py(array: np.ndarray, folder: Path) -> object:
    return pytest.importorskip("h5py").File(folder / "a.h5", "w").create_dataset("a", data=array, chunks=(1, 20, 25))


def _xarray(array: np.ndarray, folder: Path) -> object:
    return pytest.importorskip("xarray").DataArray(array, dims=("z", "y", "x"))


def _tensorstore(array: np.ndarray, folder: Path) -> object:
    return pytest.importorskip("tensorstore").array(array)


@pytest.mark.parametrize("make", [_h5py, _xarray, _tensorstore])
def test_arrays_of_other_libraries_are_read_box_by_box(make, tmp_path: Path, rng) -> None:
    array = rng.integers(0, 255, (4, 40, 50), np.uint16)
    stack = open_stack(make(array, tmp_path), axes="zyx")
    assert stack.dtype == np.uint16
    found = stack.read(Box((1, -5, 3), (3, 20, 60)))
    wanted = np.pad(array, ((0, 0), (5, 0), (0, 10)), mode="reflect")[1:3, :25, 3:60]
    np.testing.assert_array_equal(found[0], wanted)
    assert type(found) is np.ndarray


def test_a_box_of_a_dask_array_is_one_task_and_no_more_than_its_chunks(rng) -> None:
    array, read = rng.integers(0, 255, (8, 40, 50), np.uint8), []

    def load(block_info=None):
        (place,) = [info["array-location"] for info in block_info.values()]
        read.append(place[0])
        return array[tuple(slice(a, b) for a, b in place)]

    lazy = dask.array.map_blocks(load, dtype=np.uint8, chunks=((1,) * 8, (40,), (50,)))
    np.testing.assert_array_equal(open_stack(lazy, axes="zyx").read(Box((2, 0, 0), (4, 40, 50)))[0], array[2:4])
    assert sorted(read) == [(2, 3), (3, 4)]
