"""Crops agree with scipy's resampling of the whole stack and with a slice of it, and are written whole or not at all."""

from __future__ import annotations

import json
from contextlib import closing

import numpy as np
import pytest
from scipy import ndimage

from napari_unetpp.box import Box
from napari_unetpp.stacks import open_stack
from napari_unetpp.training.crops import (
    IMAGE_ORDER,
    LABEL_ORDER,
    CropRule,
    crop_start,
    cut,
    objects_in,
    write_crops,
)
from napari_unetpp.training.pairs import Pair


def scan(shape=(10, 24, 30), spacing=(3.0, 0.5, 0.5), dtype=np.float32, seed=0):
    """Noise, and labels of three objects: 4 twice, far apart, and 9 in a corner of the stack."""
    rng = np.random.default_rng(seed)
    image = (rng.random(shape) * 200).astype(dtype)
    labels = np.zeros(shape, np.uint16)
    labels[2:5, 4:9, 3:8] = 4
    labels[6:8, 15:20, 20:24] = 4
    labels[-2:, :3, -4:] = 9
    return Pair(open_stack(image, axes="zyx", spacing_um=spacing), open_stack(labels, axes="zyx", spacing_um=spacing))


@pytest.mark.parametrize("order", [IMAGE_ORDER, LABEL_ORDER])
def test_a_crop_is_a_part_of_what_scipy_makes_of_the_whole_stack(order):
    """Spacing 3, 0.5, 0.5 to 1, 0.8, 1.25 leaves whole numbers of voxels, so that scipy's zoom has the same grid."""
    pair = scan((10, 24, 30))
    whole = np.asarray(pair.image.data)
    rule = CropRule((1.0, 0.8, 1.25), (30, 15, 12))
    zoomed = ndimage.zoom(whole, (3, 0.5 / 0.8, 0.5 / 1.25), order=order, grid_mode=True, mode="nearest")
    assert zoomed.shape == rule.extent
    ours = cut(pair.image, (3.0, 0.5, 0.5), (0, 0, 0), rule, order)[0]
    inside = (slice(2, -2), slice(1, -1), slice(1, -1))  # past the middle of the last voxel zoom repeats it, we mirror
    np.testing.assert_allclose(ours[inside], zoomed[inside], rtol=1e-4)
    part = CropRule(rule.spacing_um, (8, 5, 4))
    np.testing.assert_allclose(
        cut(pair.image, (3.0, 0.5, 0.5), (7, 4, 3), part, order)[0], ours[7:15, 4:9, 3:7], rtol=1e-4
    )


def test_without_resampling_a_crop_is_a_slice_mirrored_past_the_border():
    pair = scan(spacing=(1.0, 1.0, 1.0))
    rule = CropRule((1.0, 1.0, 1.0), (9, 8, 12))
    padded = np.pad(np.asarray(pair.image.data), 9, mode="reflect")
    for start in ((0, 3, 4), (-5, -4, 21), (6, 20, -8)):
        place = tuple(slice(9 + a, 9 + a + n) for a, n in zip(start, rule.extent, strict=True))
        np.testing.assert_array_equal(cut(pair.image, (1.0,) * 3, start, rule, IMAGE_ORDER)[0], padded[place])


def test_linear_resampling_of_a_ramp_gives_its_physical_position():
    """Brute force: the intensity is the position in micrometres, and each voxel of a crop must say where it lies."""
    spacing = (2.0, 0.7)
    z = (np.arange(20) + 0.5)[:, None] * spacing[0] + np.zeros((20, 50))
    rule = CropRule((0.9, 1.1), (12, 9))
    found = cut(open_stack(z.astype(np.float32), axes="yx"), spacing, (7, 5), rule, IMAGE_ORDER)[0]
    expected = (np.arange(7, 19) + 0.5) * 0.9
    np.testing.assert_allclose(found, expected[:, None] + np.zeros((12, 9)), rtol=1e-5)


def test_the_object_is_in_the_middle():
    pair = scan()
    rule = CropRule((1.0, 0.5, 0.5), (11, 9, 9))  # nothing past the border, where objects would come twice
    for label, box in objects_in(np.asarray(pair.label.data), separate=True)[:2]:
        labels = cut(pair.label, (3.0, 0.5, 0.5), crop_start(box, (3.0, 0.5, 0.5), rule), rule, LABEL_ORDER)[0]
        middle = ndimage.center_of_mass(labels == label)
        assert np.abs(np.subtract(middle, (5, 4, 4))).max() <= 0.5  # half a voxel: where the crop can start
        assert np.isin(labels, (0, 4, 9)).all()


def test_objects_are_labels_or_their_pieces():
    labels = np.asarray(scan().label.data)
    assert objects_in(labels) == [(4, Box((2, 4, 3), (8, 20, 24))), (9, Box((8, 0, 26), (10, 3, 30)))]
    assert [label for label, _ in objects_in(labels, separate=True)] == [4, 4, 9]
    assert objects_in(labels, separate=True)[1][1] == Box((6, 15, 20), (8, 20, 24))
    touching = np.array([[1, 0], [0, 1]])
    assert len(objects_in(touching, separate=True)) == 1
    assert objects_in(np.zeros((3, 3), int)) == []


def test_crops_are_pairs_of_files_that_open_with_their_spacing(tmp_path):
    rule = CropRule((1.0, 0.5, 0.5), (6, 16, 16), separate=True)
    one, other = scan(dtype=np.uint8), scan(dtype=np.float32, seed=1)
    events = list(write_crops([one, other], rule, tmp_path / "crops"))
    assert [event.pair for event in events] == [0, 0, 0, 1, 1, 1]
    files = {p.name for p in (tmp_path / "crops/images").iterdir()}
    assert files == {p.name for p in (tmp_path / "crops/labels").iterdir()} == {event.file for event in events}
    assert len(files) == 6  # though both arrays have the same name
    for event, dtype in ((events[0], np.uint8), (events[5], np.float32)):
        with (
            open_stack(tmp_path / "crops/images" / event.file) as image,
            open_stack(tmp_path / "crops/labels" / event.file) as label,
        ):
            assert image.axes == label.axes == "zyx"
            assert image.spacing_um == pytest.approx((1.0, 0.5, 0.5))
            assert image.shape == label.shape == (6, 16, 16)
            assert image.dtype == dtype
            assert (label.read(Box.of(label.shape)) == event.label).any()
    record = json.loads((tmp_path / "crops/crops.json").read_text())
    assert [crop["label"] for crop in record["crops"]] == [4, 4, 9, 4, 4, 9]


def test_channels_stay_together(tmp_path):
    image = np.random.default_rng(0).random((2, 5, 8, 8)).astype(np.float32)
    label = np.zeros((5, 8, 8), np.uint8)
    label[2, 4, 4] = 1
    pair = Pair(open_stack(image, axes="czyx", spacing_um=(None, 1, 1, 1)), open_stack(label, axes="zyx"))
    list(write_crops([pair], CropRule((1.0,) * 3, (3, 4, 4)), tmp_path / "crops"))
    (path,) = (tmp_path / "crops/images").iterdir()
    with open_stack(path) as crop:
        assert crop.channels == 2
        np.testing.assert_array_equal(crop.read(Box.of((3, 4, 4))), image[:, 1:4, 3:7, 3:7])


def test_whole_or_not_at_all(tmp_path):
    rule = CropRule((1.0, 1.0, 1.0), (4, 4, 4))
    with closing(write_crops([scan()], rule, tmp_path / "crops")) as events:
        next(events)
    assert not list(tmp_path.iterdir())
    list(write_crops([scan()], rule, tmp_path / "crops"))
    (tmp_path / "link").symlink_to("nowhere")
    for taken in ("crops", "link"):
        with pytest.raises(FileExistsError, match="choose another folder"):
            write_crops([scan()], rule, tmp_path / taken)


def test_what_cannot_be_cut_is_told_before_any_work(tmp_path):
    rule = CropRule((1.0, 1.0, 1.0), (4, 4, 4))
    with pytest.raises(ValueError, match="does not say its spacing along z, y, x"):
        write_crops([scan(spacing=None)], rule, tmp_path / "a")
    with pytest.raises(ValueError, match="has the axes zyx where crops of 2 axes need yx"):
        write_crops([scan()], CropRule((1.0, 1.0), (4, 4)), tmp_path / "a")
    with pytest.raises(ValueError, match=r"4000 um long along z where image .*check both spacings and their units"):
        write_crops([scan()], CropRule((1000.0, 1.0, 1.0), (4, 4, 4)), tmp_path / "a")
    with pytest.raises(ValueError, match="must name the same axes"):
        CropRule((1.0, 1.0), (4, 4, 4))
    with pytest.raises(ValueError, match="must be positive"):
        CropRule((1.0, -1.0), (4, 4))
    empty = Pair(scan().image, open_stack(np.zeros((10, 24, 30), np.uint8), axes="zyx"))
    with pytest.raises(ValueError, match="no object"):
        list(write_crops([empty], rule, tmp_path / "a"))
    assert not list(tmp_path.iterdir())
