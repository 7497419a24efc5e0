"""Labels in any lossless form are the same labels; what would lose something is refused where it is."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_unetpp.box import Box
from napari_unetpp.label_sides import check_sides
from napari_unetpp.label_stacks import as_labels, open_labels, shape_hint
from napari_unetpp.label_values import MOST_VALUES, LabelMap, find_values, parse_values, unknown_value
from napari_unetpp.stacks import open_stack


@pytest.fixture
def ids(rng):
    return np.repeat(np.repeat(rng.integers(0, 200, (3, 5, 6)), 4, axis=1), 4, axis=2).astype(np.uint8)


def whole(stack):
    return stack.read(Box.of(stack.shape_predicted))[0]


@pytest.mark.parametrize(
    "dress", ["rgb", "rgba", "float32", "float64", "float16", "int64", "uint64", "bool", "npy", "zarr", "png"]
)
def test_lossless_labels_are_accepted_as_they_are(tmp_path, ids, dress):
    path, expected = tmp_path / "labels.tif", ids
    if dress in ("rgb", "rgba"):
        samples = np.stack([ids] * 3 + [np.full_like(ids, 255)] * (dress == "rgba"), -1)
        extra = {"extrasamples": ["unassalpha"]} if dress == "rgba" else {}
        tifffile.imwrite(path, samples, photometric="rgb", **extra)
    elif dress == "npy":
        path = path.with_suffix(".npy")
        np.save(path, ids.astype(float))
    elif dress == "png":  # a plane each
        path = tmp_path / "planes"
        path.mkdir()
        for k, plane in enumerate(ids):
            Image.fromarray(plane).save(path / f"z{k}.png")
    elif dress == "zarr":
        path = path.with_suffix(".zarr")
        zarr.create_array(path, data=ids.astype("f4"), chunks=(1, 8, 8))
    else:
        expected = ids > 0 if dress == "bool" else ids
        path = path.with_suffix(".npy")
        np.save(path, expected.astype(dress))
    with open_labels(path, axes="zyx" if dress == "zarr" else None) as stack:
        assert stack.axes == "zyx"
        assert stack.dtype.kind in "iu"
        assert np.array_equal(whole(stack), expected)
        part = Box((1, 3, 5), (3, 9, 11))
        assert np.array_equal(stack.read(part)[0], expected[part.slices])
        told = " ".join(stack.notes)
        assert ("read as one" in told) == dress.startswith("rgb")
        assert ("must be whole" in told) == (dress in ("float32", "float64", "float16", "npy", "zarr"))


def test_numbers_beyond_float_and_below_zero_are_kept(tmp_path):
    large = np.array([[2**63 - 1, 2**63 - 2], [2**53 + 1, -1]], np.int64)
    np.save(tmp_path / "ids.npy", large)
    with open_labels(tmp_path / "ids.npy") as stack:
        assert np.array_equal(whole(stack), large)


@pytest.mark.parametrize(
    ("array", "place", "words"),
    [
        (np.float32(1.5), (3, 0, 2), r"hold 1.5 at z 3, y 0, x 2; labels are whole numbers"),
        (np.float64("nan"), (0, 1, 0), r"hold nan at z 0, y 1, x 0"),
        (np.float32(2**24 + 2), (1, 1, 1), r"float32 is exact up to 16777216"),
        (np.uint64(2**63), (2, 0, 0), r"hold 9223372036854775808 at z 2"),
    ],
)
def test_what_is_no_label_is_named_with_its_place(array, place, words):
    data = np.zeros((4, 3, 3), array.dtype)
    data[place] = array
    with pytest.raises(ValueError, match=words):
        whole(as_labels(open_stack(data)))
    if place[0]:
        first = as_labels(open_stack(data)).read(Box((0, 0, 0), (place[0], 3, 3)))  # lazily: the rest can be read
        assert not first.any()


def test_colours_are_listed_and_can_be_mapped():
    data = np.zeros((4, 5, 3), np.uint8)
    data[1, 2], data[3, 4] = (255, 0, 0), (0, 0, 255)
    stack = open_stack(data, axes="yxc")
    with pytest.raises(
        ValueError, match=r"255, 0, 0 at y 1, x 2. Found: #000000,#0000ff,#ff0000. .*--label-values"
    ) as refused:
        whole(as_labels(stack))
    assert "#000000,#0000ff,#ff0000" in str(refused.value)
    expected = np.zeros((4, 5), int)
    expected[1, 2], expected[3, 4] = 1, 2
    assert np.array_equal(whole(as_labels(stack, parse_values("#000000,#FF0000,#0000ff"))), expected)


def test_a_picture_is_not_taken_for_colours(rng):
    with pytest.raises(ValueError, match=f"over {MOST_VALUES} colours"):
        whole(as_labels(open_stack(rng.integers(0, 255, (16, 16, 3), np.uint8), axes="yxc")))


def test_values_become_labels_and_others_are_refused():
    stack = open_stack(np.array([[0, 127, 255], [-1, 255, 0]], np.int16))
    assert whole(as_labels(stack, LabelMap((0, 127, 255)))).tolist() == [[0, 1, 2], [-1, 2, 0]]
    with pytest.raises(ValueError, match="hold 127 at y 0, x 1, which is none of the given values 0,255"):
        whole(as_labels(stack, LabelMap((0, 255))))


@pytest.mark.parametrize("text", ["0", "0,0", "0,x", "#000000,12", "#00,#11"])
def test_values_that_mean_nothing_are_refused(text):
    with pytest.raises(ValueError, match=r"0,127,255|twice"):
        parse_values(text)


def test_a_jpeg_is_refused_as_labels(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "labels.jpg")
    for path in (tmp_path / "labels.jpg", tmp_path, tmp_path / "*.jpg"):
        with pytest.raises(ValueError, match=r"JPEG.*PNG or TIFF"):
            open_labels(path)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "I;16"])
def test_a_png_without_colour_is_labels(tmp_path, ids, mode):
    plane = ids[0] % 2 * 255 if mode == "1" else ids[0]
    image = Image.fromarray(plane.astype(np.uint16) if mode == "I;16" else plane)
    if mode == "P":  # the numbers count, and not the colours of the palette
        image.putpalette([(7 * k + c) % 256 for k in range(256) for c in (0, 90, 180)])
    elif mode != "I;16":
        image = image.convert(mode)
    image.save(tmp_path / "labels.png")
    with open_labels(tmp_path / "labels.png") as stack:
        found = whole(stack)
        assert np.array_equal(found > 0, plane > 0)
        assert mode == "1" or np.array_equal(found, plane)


def test_values_are_found_in_parts_as_at_once(monkeypatch, rng):
    from napari_unetpp import label_values

    monkeypatch.setattr(label_values, "_AT_ONCE", 50)
    for dtype in (np.uint8, np.int64):
        data = rng.integers(0, 60, (5, 7, 11)).astype(dtype)
        assert find_values(data).values == tuple(np.unique(data).tolist())
    assert find_values(np.arange(1000)).many


@pytest.mark.parametrize(
    ("values", "classes", "words"),
    [
        ((0, 127, 255), 3, "--label-values 0,127,255"),
        ((0, 255), 3, "give the values of labels 0 to 2 in this order with --label-values"),
        ((0, 1, 2, 3), 3, "as many classes, or one class for all"),
        (range(200), 3, "over 64 different values, so these are numbers of objects"),
    ],
)
def test_a_value_that_is_no_class_comes_with_what_was_found(values, classes, words):
    line = unknown_value("masks.tif", max(values), np.array(list(values)), classes, ignore_zero=False)
    assert line.startswith(f"labels masks.tif hold {max(values)}, but the model has only the classes 0 to 2")
    assert words in line
    assert len(line) < 400  # a line of the command ends there


def test_image_and_labels_that_were_exchanged_are_noticed(rng, ids):
    image = open_stack((ids * 0.5 + rng.normal(60, 9, ids.shape)).clip(0, 255).astype(np.uint8))
    labels = open_stack(ids)
    check_sides(image, labels)
    with pytest.raises(ValueError, match="look exchanged"):
        check_sides(labels, image)
    with pytest.raises(ValueError, match="look exchanged"):  # a mask, and floats
        check_sides(open_stack((ids > 100).astype(np.float32)), open_stack(rng.normal(0, 1, ids.shape)))


@pytest.mark.parametrize("kind", ["noise", "blank", "scribbles", "boundaries"])
def test_unusual_images_and_labels_are_not_taken_for_exchanged(rng, ids, kind):
    image, labels = rng.integers(0, 255, ids.shape, np.uint8), ids
    if kind == "blank":
        image[:] = 7
    if kind == "scribbles":
        labels = np.where(rng.random(ids.shape) < 0.02, rng.integers(1, 5, ids.shape), 0)
    if kind == "boundaries":
        labels = (np.diff(ids.astype(int), axis=2, prepend=0) != 0).astype(np.uint8)
    check_sides(open_stack(image), open_stack(labels))


def test_a_hint_where_axes_were_exchanged():
    assert "--label-axes xy " in shape_hint((64, 32), (32, 64), "yx")
    assert shape_hint((8, 8), (9, 8), "yx") == ""


def test_no_pair_of_the_public_data_is_taken_for_exchanged_and_every_exchange_is_noticed(shared_data):
    files = {path.relative_to(shared_data).as_posix(): path for path in shared_data.rglob("*.tif")}
    others = {"images": ("labels", "neuron_ids", "derived_boundary"), "img": ("mask",)}
    pairs = [
        (path, files[twin])
        for name, path in files.items()
        for word, twins in others.items()
        for twin in (name.replace(word, other) for other in twins)
        if twin in files and word in name
    ]
    assert len(pairs) > 80
    for image, label in pairs:
        with open_stack(image) as one, open_stack(label) as two:
            check_sides(one, two)
            with pytest.raises(ValueError, match="look exchanged"):
                check_sides(two, one)
