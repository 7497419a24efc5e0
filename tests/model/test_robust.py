"""The range of a picture in what surrounds and spoils it, against the range of the picture alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from napari_unetpp.box import Box
from napari_unetpp.model.intensity import NEW, Intensity, Scaling
from napari_unetpp.model.sampling import as_seen, read_raw, scale_stack
from napari_unetpp.stacks import open_stack

PLAIN = replace(NEW, over="stack")


@pytest.fixture(scope="module")
def nuclei(repository):
    return tifffile.imread(repository / "sample_data/nuclei.tif")


@pytest.fixture(scope="module")
def membranes(repository):
    return tifffile.imread(repository / "sample_data/synthetic_em.tif")


def robust(image, axes=None, rule=NEW):
    return scale_stack(open_stack(image, axes=axes), rule, 1)


def plain(image, axes=None):
    return scale_stack(open_stack(image, axes=axes), PLAIN, 1)


def input_of(image, axes=None, rule=NEW):
    """Network input of a whole stack, without its channel."""
    stack = open_stack(image, axes=axes)
    seen, left = as_seen(stack, scale_stack(stack, rule, 1))
    return left.apply(read_raw(seen, Box.of(stack.shape_predicted)))[0]


def close(scaling, wanted, within=0.05):
    """Whether the ranges are as good as equal to a network."""
    (low, high), (least, most) = scaling.range, wanted.range
    return abs(low - least) < within * (most - least) and abs(high - most) < within * (most - least)


def test_ordinary_images_keep_their_numbers(nuclei, membranes):
    for image in (nuclei, nuclei[:200, :300], nuclei.astype(np.float32) / 255, membranes, membranes[0], nuclei[:5, :5]):
        assert robust(image) == plain(image)


def test_ordinary_images_of_others_keep_their_numbers(shared_data):
    """The most unusual images of each kind: nearly empty, saturated, black background, H&E with much glass, phase contrast."""
    files = {
        "fluo_256x256": (54, 126, 216),
        "fluo_256x320": (0,),
        "fluo_360x360": (0, 40),
        "fluo_520x696": (3, 20),
        "fluo_603x1272": (0, 1, 2),
        "he_rgb_256x320": (0, 22),
    }
    images = [
        (tifffile.imread(shared_data / f"nuclei_dsb2018/{name}_images.tif", key=k), "yxc" if "rgb" in name else "yx")
        for name, pages in files.items()
        for k in pages
    ]
    images += [(tifffile.imread(shared_data / f"phase_usiigaci/images/set{n:02}.tif"), "yx") for n in (1, 23)]
    images += [
        (tifffile.imread(shared_data / name, key=range(0, 12, 3)), "zyx")
        for name in ("fib25_medulla/images.tif", "em_isbi2012/train_images.tif", "vnc_gerhard2013/images.tif")
    ]
    images.append((tifffile.imread(shared_data / "stardist_samples/img3d.tif"), "zyx"))
    rule = replace(NEW, per_channel=False)
    for image, axes in images:
        stack = open_stack(image, axes=axes)
        assert scale_stack(stack, rule, 3) == scale_stack(stack, replace(rule, over="stack"), 3)


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("where", [np.s_[:, :6], np.s_[:, :90], np.s_[256:, 256:], np.s_[300:]])
def test_constant_borders_are_left_out(nuclei, where, value):
    image = nuclei // 2 + np.uint8(60)  # no picture is at 0 or 255
    padded = image.copy()
    padded[where] = value
    whole = np.ones(image.shape, bool)
    whole[where] = False
    found = robust(padded)
    assert close(found, plain(image[whole][None]))
    assert "padding" in found.note


def test_a_black_frame_and_a_rotation_are_left_out(membranes):
    framed = np.pad(membranes[0], 20)
    assert close(robust(framed), plain(membranes[0]))
    turned = ndimage.rotate(membranes[0], 10, order=1, mode="constant")
    assert close(robust(turned), plain(membranes[0]), 0.08)


@pytest.mark.parametrize("tiles", [1, 2, 3])
def test_a_mosaic_that_is_not_full_yet_has_the_range_of_its_tiles(nuclei, tiles):
    mosaic = np.zeros((1024, 1024), np.uint8)
    for k in range(tiles):
        row, column = divmod(k, 2)
        mosaic[512 * row : 512 * row + 512, 512 * column : 512 * column + 512] = nuclei
    assert close(robust(mosaic), plain(nuclei))


def test_an_empty_field_around_some_nuclei_does_not_count(nuclei):
    rng = np.random.default_rng(0)
    empty = np.clip(rng.normal(12, 1, (2048, 2048)), 0, 255).astype(np.uint8)
    empty[900:1156, 900:1156] = nuclei[:256, :256]
    assert close(robust(empty), plain(nuclei[:256, :256]), 0.1)
    assert not close(plain(empty), plain(nuclei[:256, :256]), 0.1)


@pytest.mark.parametrize("broken", [0, 65535])
def test_broken_pixels_become_their_neighbours_and_move_no_range(nuclei, broken):
    image = nuclei.astype(np.uint16) * 100 + 20000
    rng = np.random.default_rng(1)
    spoilt = image.copy()
    spoilt[rng.integers(0, 512, 1500), rng.integers(0, 512, 1500)] = broken
    found = robust(spoilt)
    assert close(found, plain(image))
    assert "broken" in found.note
    assert np.abs(input_of(spoilt) - input_of(image)).max() < 1
    whole = input_of(spoilt)  # however it is cut into boxes
    stack = open_stack(spoilt)
    seen, left = as_seen(stack, found)
    part = left.apply(read_raw(seen, Box((-5, 100), (37, 150))))[0]
    np.testing.assert_array_equal(part, np.pad(whole, ((5, 0), (0, 0)), "reflect")[:42, 100:150])


@pytest.mark.parametrize("axes", ["zyx", "tyx"])
def test_planes_of_different_brightness_look_alike(nuclei, axes):
    stack = np.stack([nuclei // 8, nuclei // 4, nuclei, nuclei[::-1]])
    found = input_of(stack, axes)
    for plane, whole in zip(found, (nuclei, nuclei, nuclei, nuclei[::-1]), strict=True):
        assert np.abs(plane - input_of(whole)).mean() < 0.03
    assert robust(stack, axes).counts == (4,)


def test_planes_without_a_picture_take_the_range_of_their_neighbour(nuclei):
    noise = np.random.default_rng(0).normal(10, 2, nuclei.shape).clip(0).astype(np.uint8)
    scaling = robust(np.stack([nuclei // 8, noise // 2, nuclei]), "zyx")
    assert scaling.gains[1] in (scaling.gains[0], scaling.gains[2])
    assert scaling.gains[0][0] > 6 * scaling.gains[2][0]


def test_each_plane_by_itself_where_that_is_asked_for(nuclei):
    rule = replace(NEW, over="plane")
    stack = np.stack([nuclei, nuclei // 2])
    for plane, image in zip(input_of(stack, "zyx", rule), stack, strict=True):
        np.testing.assert_array_equal(plane, plain(image).apply(image[None])[0])


@pytest.mark.parametrize("place", [np.s_[:, :60], np.s_[:40, 30:90], np.s_[64:96, 64:128]])
def test_nan_outside_the_picture_is_not_there(nuclei, place):
    image = nuclei[:256, :256].astype(np.float32)
    padded = image.copy()
    padded[place] = np.nan
    known = ~np.isnan(padded)
    found, wanted = robust(padded), plain(image[known][None])
    assert (found.offset, found.gain) == (wanted.offset, wanted.gain)
    entered = input_of(padded)
    assert np.isfinite(entered).all()
    np.testing.assert_array_equal(entered[known], wanted.apply(image[None])[0][known])


@pytest.mark.parametrize("outside", [0, np.nan])
def test_padding_shows_what_lies_beyond_the_border_of_an_image(nuclei, outside):
    """The mirror image, as numpy pads by it, up to 64 voxels away; the same however the stack is cut."""
    image = nuclei[:256, :256].astype(np.float32) + 40
    padded = np.pad(image, ((0, 0), (100, 0)), constant_values=outside)
    entered = input_of(padded)
    wanted = np.pad(entered[:, 100:], ((0, 0), (64, 0)), mode="reflect")
    np.testing.assert_array_equal(entered[:, 36:], wanted)
    assert len(np.unique(entered[:, :36])) == 1  # further away a quiet value of the picture
    stack = open_stack(padded)
    seen, _ = as_seen(stack, scale_stack(stack, NEW, 1))
    for box in (Box((0, 0), (50, 90)), Box((7, 31), (200, 99)), Box((100, 98), (256, 102)), Box((0, 36), (16, 52))):
        np.testing.assert_array_equal(read_raw(seen, box)[0], entered[box.slices])


def test_nan_inside_the_picture_is_refused_with_its_place(nuclei):
    image = nuclei.astype(np.float32)
    image[100:103, 200] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity near y 100, x 200"):
        robust(image)


@pytest.mark.parametrize(
    ("dtype", "base"),
    [(np.uint32, 2**31 + 7), (np.uint64, 2**63 + 5), (np.int64, -(2**62) - 1), (np.uint64, 2**63 - 100)],
)
@pytest.mark.parametrize("rule", [NEW, PLAIN], ids=["robust", "stack"])
def test_large_integers_keep_their_contrast(nuclei, dtype, base, rule):
    moved = np.array([int(v) + base for v in range(256)], dtype)[nuclei]
    np.testing.assert_allclose(input_of(moved, rule=rule), input_of(nuclei, rule=rule), atol=1e-6)


def test_numbers_come_back_from_json_as_they_were(nuclei):
    planes = robust(np.stack([nuclei // 8, nuclei]), "zyx")
    spoilt = nuclei.copy()
    spoilt[5::16, 3::13] = 255
    for scaling in (planes, robust(spoilt), Scaling((2**63 + 1,), (0.5,))):
        assert Scaling.from_json(scaling.to_json()) == scaling


def test_rules_of_earlier_versions_are_read_and_written_as_they_were():
    before = {"kind": "percentile", "low": 1.0, "high": 99.8, "per_channel": True, "replicate_gray": False}
    before |= {"fixed_offset": [0.0], "fixed_gain": [1.0]}
    rule = Intensity.from_json(before)
    assert rule.over == "stack"
    assert "over" not in rule.to_json()
    assert Intensity.from_json(NEW.to_json()) == NEW
    with pytest.raises(ValueError, match="unknown"):
        Intensity(over="nothing")
