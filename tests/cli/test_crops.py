"""`crops`: a folder of pairs to train on, and what is refused; `train` on folders, with a patch per axis."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from napari_unetpp.model.checkpoint import load_model
from napari_unetpp.stacks import open_stack

CUT = ("--image", "scan.tif", "--label", "nodules.tif", "-o", "crops")
MILLIMETRES = ("--spacing", "1,1,1mm", "--extent", "8,16,16")


@pytest.fixture
def scans(here):
    """A scan of 2-0.5-0.5 mm with two nodules of the same label, spacing in its metadata."""
    rng = np.random.default_rng(0)
    labels = np.zeros((12, 40, 40), np.uint8)
    labels[3:6, 8:14, 8:14] = labels[7:9, 26:32, 24:32] = 1
    image = (labels * 90 + rng.normal(60, 10, labels.shape)).clip(0, 255).astype(np.uint8)
    metadata = {"axes": "ZYX"} | {
        f"PhysicalSize{axis}": size for axis, size in zip("ZYX", (2000, 500, 500), strict=True)
    }
    tifffile.imwrite(here / "scan.tif", image, ome=True, metadata=metadata)
    tifffile.imwrite(here / "nodules.tif", labels, ome=True, metadata={"axes": "ZYX"})
    return here


def test_crops_and_a_training_on_them(run, scans):
    done = run("crops", *CUT, *MILLIMETRES, "--separate", "--json")
    assert done.code == 0, done.err
    assert [event["event"] for event in done.events] == ["crop", "crop", "result"]
    assert done.events[-1]["crops"] == 2
    names = [event["file"] for event in done.events[:2]]
    for name in names:
        with open_stack(scans / "crops/images" / name) as crop:
            assert crop.shape == (8, 16, 16)
            assert crop.spacing_um == pytest.approx((1000, 1000, 1000))
    trained = run(
        *("train", "--image", "crops/images", "--label", "crops/labels", "-o", "new.safetensors"),
        *("--preset", "vnet++", "--depth", "2", "--width", "2", "--patch", "4,8,8", "--augmentation", "anatomy"),
        *("--epochs", "1", "--steps", "1", "--batch", "1", "--json"),
    )
    assert trained.code == 0, trained.err
    paired, start = trained.events[:2]
    assert paired["pairs"] == [[f"crops/images/{name}", f"crops/labels/{name}"] for name in sorted(names)]
    assert start["images"] == 2
    assert start["options"]["patch"] == [4, 8, 8]
    card = load_model(scans / "new.safetensors", "cpu").card
    assert card.spacing_um == (1000, 1000, 1000)
    assert card.tiling["patch"] == [4, 8, 8]


def test_without_separate_a_label_is_one_object(run, scans):
    assert run("crops", *CUT, *MILLIMETRES, "--json").events[-1]["crops"] == 1


def test_a_spacing_given_by_hand_is_in_place_of_the_files(run, scans):
    """Twice the spacing that the file says: the nodule is twice as large in voxels."""
    size = {}
    for name, given in (("a", ()), ("b", ("--image-spacing", "4,1,1mm"))):
        done = run("crops", *CUT[:-1], name, "--spacing", "1000,1000,1000", "--extent", "6,8,8", *given, "--separate")
        assert done.code == 0, done.err
        (first, _) = sorted((scans / name / "labels").iterdir())
        size[name] = int((tifffile.imread(first) > 0).sum())
    assert size["a"] == 6 * 3 * 3
    assert size["b"] > 3 * size["a"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--spacing", "1,1,x", "--extent", "8,8,8"), "--spacing 1,1,x: give one positive number per axis"),
        (("--spacing", "1,1,1", "--extent", "8,8.5,8"), "--extent 8,8.5,8: give whole numbers"),
        (("--spacing", "1,1,1", "--extent", "8,8"), "must name the same axes"),
        ((*MILLIMETRES, "--image-spacing", "1,1"), "2 numbers of spacing but scan"),
        ((*MILLIMETRES, "--image", "other.tif"), "2 --image but 1 --label"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(run, scans, options, words):
    done = run("crops", *CUT, *options)
    assert done.code in (1, 2)
    assert words in done.error_lines[0]
    assert len(done.error_lines) == 1
    assert not (scans / "crops").exists()


def test_a_folder_without_its_labels_is_refused(run, scans):
    (scans / "a").mkdir()
    (scans / "b").mkdir()
    (scans / "a/one.tif").write_bytes((scans / "scan.tif").read_bytes())
    folders = ("--image", "a", "--label", "b", "-o", "new.safetensors")
    done = run("train", *folders)
    assert done.code == 2
    assert "--label b: b: the folder holds no label file" in done.error_lines[0]
    (scans / "b/two.tif").write_bytes((scans / "nodules.tif").read_bytes())
    assert (
        "no name in b fits one in a: there are 1 image (one.tif), and 1 label" in run("train", *folders).error_lines[0]
    )
    (scans / "a/one.tif").unlink()
    assert "the folder holds no image file" in run("train", *folders).error_lines[0]


def test_a_patch_that_is_no_number_is_bad_usage(run, scans):
    done = run("train", *CUT[:4], "-o", "new.safetensors", "--patch", "16,x")
    assert done.code == 2
    assert "--patch 16,x: give one number, as 96, or one per axis z, y, x" in done.error_lines[0]


def test_a_new_volume_network_fits_the_spacing_unless_told_not_to(run, scans):
    """2-0.5-0.5 mm: z is four times coarser, so of two samplings none goes along it."""
    words = (
        "train",
        "--image",
        "scan.tif",
        "--label",
        "nodules.tif",
        "--preset",
        "vnet++",
        "--depth",
        "2",
        "--width",
        "2",
    )
    steps = ("--epochs", "1", "--steps", "1", "--batch", "1", "--patch", "4,16,16")
    done = run(*words, *steps, "-o", "a.safetensors")
    assert done.code == 0, done.err
    assert "note: z is 4 times coarser: it is sampled down 0 of 2 times" in done.out
    assert load_model(scans / "a.safetensors", "cpu").spec.steps == ((1, 2, 2), (1, 2, 2))
    done = run(*words, *steps, "-o", "b.safetensors", "--isotropic")
    assert "takes it as if it were not" in done.out
    assert load_model(scans / "b.safetensors", "cpu").spec.steps is None
    done = run(*words, *steps, "-o", "c.safetensors", "--spacing", "0.5,0.5,0.5mm")
    assert load_model(scans / "c.safetensors", "cpu").spec.steps is None
    assert run("train", *words[1:5], "--base", "a.safetensors", "--isotropic", "-o", "d.safetensors").code == 2


def test_object_numbers_beyond_a_double_stay_exact(run, scans):
    labels = tifffile.imread(scans / "nodules.tif").astype(np.int64)
    labels[7:9] *= 2**53 + 1
    labels[:2, :2, :2] = -1  # not annotated, so no object
    np.save(scans / "ids.npy", labels)
    done = run("crops", "--image", "scan.tif", "--label", "ids.npy", "-o", "crops", *MILLIMETRES, "--json")
    assert done.code == 0, done.err
    made = [event for event in done.events if event["event"] == "crop"]
    assert [event["label"] for event in made] == [1, 2**53 + 1]
    for event in made:
        cut = tifffile.imread(scans / "crops/labels" / event["file"])
        assert event["label"] in cut
        assert set(np.unique(cut)) <= {-1, 0, 1, 2**53 + 1}
