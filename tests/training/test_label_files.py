"""Files find their labels by name; what is open is never decided by position."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_unetpp.training.label_files import match, match_folders


def made(root, names):
    for name in names.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(matched, root):
    return " ".join(f"{a.relative_to(root)}+{b.relative_to(root)}" for a, b in matched.pairs)


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        ("a.tif b.tif", "a.tif b.tif", "a.tif+a.tif b.tif+b.tif"),
        ("a.tif b.tif", "a_masks.tif b_masks.tif", "a.tif+a_masks.tif b.tif+b_masks.tif"),
        ("a.tif b.tif", "a_label.tif b_labels.tif", "a.tif+a_label.tif b.tif+b_labels.tif"),
        ("a.TIF b.Tiff", "a_mask.png B-mask.PNG", "a.TIF+a_mask.png b.Tiff+B-mask.PNG"),
        ("img2.tif img10.tif", "mask10.tif mask2.tif", "img2.tif+mask2.tif img10.tif+mask10.tif"),
        ("t001.tif t002.tif", "man_seg001.tif man_seg002.tif", "t001.tif+man_seg001.tif t002.tif+man_seg002.tif"),
        (
            "c1.ome.tif c11.ome.tif",
            "c1_by_ann.npy c11_by_ann.npy",
            "c1.ome.tif+c1_by_ann.npy c11.ome.tif+c11_by_ann.npy",
        ),
        (
            "cell.tif cell_1.tif",
            "cell_labels.tif cell_1_labels.tif",
            "cell.tif+cell_labels.tif cell_1.tif+cell_1_labels.tif",
        ),
        (
            "s_t1.tif s_t2.tif",
            "s_t1_cp_masks.png s_t2_cp_masks.png",
            "s_t1.tif+s_t1_cp_masks.png s_t2.tif+s_t2_cp_masks.png",
        ),
        ("a.tif", "a.corrections.zarr", "a.tif+a.corrections.zarr"),
    ],
)
def test_names_that_people_use(images, labels, expected):
    root = Path()
    matched = match(list(map(Path, images.split())), list(map(Path, labels.split())))
    assert found(matched, root) == expected
    assert not matched.left_lines()


@pytest.mark.parametrize(
    ("files", "image", "label", "expected"),
    [
        ("image/x.tif mask/x.png", "image", "mask", "image/x.tif+mask/x.png"),
        (
            "d/a_img.tif d/a_masks.tif d/b_img.tif d/b_masks.tif",
            "d",
            "d",
            "d/a_img.tif+d/a_masks.tif d/b_img.tif+d/b_masks.tif",
        ),
        ("d/a.tif d/a_masks.tif d/a_seg.npy d/a_flows.tif", "d", "d", "d/a.tif+d/a_masks.tif"),
        ("d/a.tif d/masks/a.tif", "d", "d/masks", "d/a.tif+d/masks/a.tif"),
        ("d/images/x.png d/masks/x.png", "d", "d", "d/images/x.png+d/masks/x.png"),
        (
            "d/p/images/x.png d/p/masks/x.png d/q/images/x.png d/q/masks/x.png",
            "d",
            "d",
            "d/p/images/x.png+d/p/masks/x.png d/q/images/x.png+d/q/masks/x.png",
        ),
        ("i/p/x.tif i/q/x.tif m/p/x.tif m/q/x.tif", "i", "m", "i/p/x.tif+m/p/x.tif i/q/x.tif+m/q/x.tif"),
    ],
)
def test_folders_that_people_have(tmp_path, files, image, label, expected):
    made(tmp_path, files)
    matched = match_folders(tmp_path / image, tmp_path / label)
    assert found(matched, tmp_path) == expected
    assert not matched.left_lines()


def test_what_is_left_over_is_named(tmp_path):
    made(tmp_path, "i/a.tif i/b.tif i/c.tif m/a_mask.tif m/z_mask.tif")
    matched = match_folders(tmp_path / "i", tmp_path / "m")
    assert found(matched, tmp_path) == "i/a.tif+m/a_mask.tif"
    assert matched.left_lines() == [
        "left out, without labels: 2 images (b.tif, c.tif)",
        "left out, without image: 1 label file (z_mask.tif)",
    ]


@pytest.mark.parametrize(
    ("images", "labels", "named"),
    [
        ("a.tif", "a_mask.tif a_labels.tif", "a_mask.tif, a_labels.tif"),
        ("a.tif a.png", "a_mask.tif", "a.tif, a.png"),
        ("a.tif", "a_by_ann.tif a_by_bob.tif", "a_by_ann.tif, a_by_bob.tif"),
    ],
)
def test_candidates_are_shown_where_several_fit(images, labels, named):
    with pytest.raises(ValueError, match=f"open which belong together: .*{named}"):
        match(list(map(Path, images.split())), list(map(Path, labels.split())))


def test_position_decides_nothing(tmp_path):
    made(tmp_path, "i/x.tif i/y.tif m/1.tif m/2.tif")
    with pytest.raises(ValueError, match=r"no name in .* fits one .* 2 images \(x.tif, y.tif\)"):
        match_folders(tmp_path / "i", tmp_path / "m")
