"""`train` with labels as people have them: in other forms, as gray values, in folders, exchanged with the image."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

SMALL = (
    "--preset",
    "unet++",
    "--depth",
    "2",
    "--width",
    "4",
    "--patch",
    "16",
    "--epochs",
    "1",
    "--steps",
    "1",
    "--batch",
    "1",
)
NUCLEI = ("--image", "nuclei.tif", "--label")


@pytest.fixture
def nuclei(here):
    """Round "nuclei" with instance numbers, and a noisy picture of them."""
    y, x = np.mgrid[:64, :96]
    labels = np.zeros(y.shape, np.uint16)
    for k in range(12):
        labels[(y - 8 - 16 * (k // 4)) ** 2 + (x - 10 - 24 * (k % 4)) ** 2 < 30] = k + 1
    image = (np.where(labels > 0, 120, 40) + np.random.default_rng(0).normal(0, 9, labels.shape)).astype(np.uint8)
    tifffile.imwrite(here / "nuclei.tif", image)
    tifffile.imwrite(here / "nuclei_labels.tif", labels)
    return labels


def train(run, label, *options, name="new"):
    return run("train", *NUCLEI, label, "-o", f"{name}.safetensors", *SMALL, *options, "--json")


def counts(done):
    (start,) = (e for e in done.events if e["event"] == "start")
    return {part: start["annotated"][part] for part in ("training", "validation")}


@pytest.mark.parametrize("case", ["labels_rgb.tif", "labels_float.tif", "labels.png", "mask.tif", "large.npy"])
def test_labels_in_another_form_are_the_same_labels(run, here, nuclei, case):
    mask = np.where(nuclei > 0, 255, 0).astype(np.uint8)
    if case == "labels_rgb.tif":
        tifffile.imwrite(here / case, np.stack([mask] * 3, -1), photometric="rgb")
    elif case == "labels.png":
        Image.fromarray(mask).save(here / case)
    elif case == "large.npy":
        np.save(here / case, nuclei.astype(np.int64) * 2**55)
    else:
        tifffile.imwrite(here / case, nuclei.astype(np.float32) if "float" in case else mask)
    plain, other = train(run, "nuclei_labels.tif", name="plain"), train(run, case)
    assert other.code == 0, other.err
    assert counts(other) == counts(plain)
    notes = [e["note"] for e in other.events if e["event"] == "note"]
    assert len(notes) == (case in ("labels_rgb.tif", "labels_float.tif"))


def test_gray_values_for_classes_are_asked_for(run, here, nuclei):
    """labels_0_127_255.tif of the cases: never guessed, and the message holds the option that is right."""
    classes = np.where(nuclei == 0, 0, 1 + nuclei % 2)
    tifffile.imwrite(here / "gray.tif", np.array([0, 127, 255], np.uint8)[classes])
    tifffile.imwrite(here / "classes.tif", classes.astype(np.uint8))
    two = ("--class", "even", "--class", "odd")
    refused = train(run, "gray.tif", *two)
    assert refused.code == 1
    assert "labels gray hold 255, but the model has only the classes 0 to 2. Values found: 0, 127, 255." in refused.err
    assert "--label-values 0,127,255" in refused.err
    done = train(run, "gray.tif", *two, "--label-values", "0,127,255")
    assert done.code == 0, done.err
    assert counts(done) == counts(train(run, "classes.tif", *two, name="plain"))
    wrong = train(run, "gray.tif", *two, "--label-values", "0,255", name="wrong")
    assert "hold 127 at y 3, x 32, which is none of the given values 0,255" in wrong.err


def test_voxels_below_zero_are_left_out_and_told(run, here, nuclei):
    labels = nuclei.astype(np.int16)
    labels[:, 48:52] = -1
    tifffile.imwrite(here / "some.tif", labels)
    done = train(run, "some.tif", "--validation-image", "nuclei.tif", "--validation-label", "some.tif")
    assert done.code == 0, done.err
    (start,) = (e for e in done.events if e["event"] == "start")
    assert f"labels some: {64 * 4} voxels (4.2 %) are below 0, which means not annotated" in " ".join(start["warnings"])
    assert [sum(part.values()) for part in counts(done).values()] == [labels.size - 64 * 4] * 2


@pytest.mark.parametrize(("value", "says"), [(1.5, "hold 1.5 at y 3, x 4"), (np.nan, "hold nan at y 3, x 4")])
def test_what_is_no_label_is_told_with_its_place(run, here, nuclei, value, says):
    labels = nuclei.astype(np.float32)
    labels[3, 4] = value
    tifffile.imwrite(here / "bad.tif", labels)
    done = train(run, "bad.tif")
    assert done.code == 1
    assert says in done.error_lines[-1]


def test_an_image_and_labels_that_were_exchanged_are_refused(run, nuclei):
    done = run("train", "--image", "nuclei_labels.tif", "--label", "nuclei.tif", "-o", "new.safetensors", *SMALL)
    assert done.code == 1
    assert "image nuclei_labels and labels nuclei look exchanged" in done.error_lines[0]


def test_folders_are_matched_by_name_and_shown(run, here, nuclei):
    image = tifffile.imread(here / "nuclei.tif")
    for folder in ("image", "mask"):
        (here / folder).mkdir()
    for k in (2, 10, 3):
        tifffile.imwrite(here / f"image/c{k}.TIF", image)
        if k != 3:
            tifffile.imwrite(here / f"mask/c{k}_masks.tif", nuclei)
    words = ("train", "--image", "image", "--label", "mask", "-o", "new.safetensors", *SMALL)
    done = run(*words)
    assert done.code == 0, done.err
    assert done.out.splitlines()[:4] == [
        "image with labels of mask: 2 pairs",
        "  c2.TIF + c2_masks.tif",
        "  c10.TIF + c10_masks.tif",
        "note: left out, without labels: 1 image (c3.TIF)",
    ]
    done = run(*words[:6], "b.safetensors", *SMALL, "--json")
    assert done.events[0]["event"] == "pairs"
    assert done.events[0]["images_left"] == ["image/c3.TIF"]
    tifffile.imwrite(here / "mask/c2_label.tif", nuclei)
    refused = run(*words)
    assert refused.code == 2
    assert "open which belong together: image/c2.TIF and mask/c2_label.tif, mask/c2_masks.tif" in refused.err
