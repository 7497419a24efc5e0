"""`score`: its numbers, counted again by hand from what is stored."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from napari_unetpp.inference.store import open_store

from .conftest import write_model, write_tiff

SEGMENT = ("segment", "stack.tif", "-o", "out.ome.zarr", "--model", "tiny.safetensors")


@pytest.fixture
def predicted(run, here):
    assert run(*SEGMENT).code == 0
    return open_store(here / "out.ome.zarr")


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def by_level(done, column="iou"):
    return {e["level"]: e[column] for e in done.events if e["event"] == "score"}


def test_every_level_and_the_ensemble(run, here, predicted):
    done = run("score", "out.ome.zarr", "labels.tif", "--json")
    assert done.code == 0
    truth = tifffile.imread(here / "labels.tif") > 0
    stored = {d: np.asarray(predicted.probability(d)[0]).astype(int) for d in (1, 2)}
    expected = {f"L{d}": iou(p >= 128, truth) for d, p in stored.items()}
    expected["ensemble"] = iou(stored[1] + stored[2] >= 255, truth)
    assert by_level(done) == pytest.approx(expected)
    result = done.events[-1]
    assert result["event"] == "result"
    assert [row["level"] for row in result["scores"]] == ["L1", "L2", "ensemble"]
    assert set(result["scores"][0]) >= {
        "iou",
        "background_iou",
        "dice",
        "f1",
        "f2",
        "sensitivity",
        "specificity",
        "paper_mean_iou",
        "boundary_f1",
    }


def test_the_table_is_for_people(run, predicted):
    done = run("score", "out.ome.zarr", "labels.tif")
    assert done.code == 0
    for word in ("level", "IoU", "Dice", "paper mIoU", "boundary F1", "L1", "ensemble", "enough"):
        assert word in done.out
    assert max(map(len, done.out.splitlines())) > 60


def test_chosen_levels_have_no_ensemble(run, predicted):
    assert list(by_level(run("score", "out.ome.zarr", "labels.tif", "--level", "2", "--json"))) == ["L2"]
    refused = run("score", "out.ome.zarr", "labels.tif", "--level", "3")
    assert refused.code == 2
    assert "1, 2" in refused.err


def test_foreground_selects_a_label(run, here, predicted):
    labels = tifffile.imread(here / "labels.tif")
    found = np.asarray(predicted.probability(1)[0]) >= 128
    arguments = ("score", "out.ome.zarr", "labels.tif", "--level", "1", "--json", "--foreground")
    assert by_level(run(*arguments, "2")) == pytest.approx({"L1": iou(found, labels == 2)})
    assert by_level(run(*arguments, "0")) == pytest.approx({"L1": iou(~found, labels == 0)})
    assert by_level(run(*arguments, "cell")) == pytest.approx({"L1": iou(found, labels > 0)})
    assert run(*arguments, "mitochondrion").code == 2


def test_unpainted_voxels_can_be_left_out(run, here, predicted):
    labels = tifffile.imread(here / "labels.tif")
    found = np.asarray(predicted.probability(2)[0]) >= 128
    done = run("score", "out.ome.zarr", "labels.tif", "--level", "2", "--unpainted", "ignore", "--json")
    seen = labels > 0
    assert by_level(done) == pytest.approx({"L2": iou(found[seen], labels[seen] > 1)})


def test_classes_are_scored_one_by_one(run, here):
    write_model(here / "tiny.safetensors", classes=3)
    assert run(*SEGMENT).code == 0
    labels = np.minimum(tifffile.imread(here / "labels.tif"), 2)
    write_tiff(here / "labels.tif", labels, "zyx")
    store = open_store(here / "out.ome.zarr")
    winner = np.asarray(store.probability(1)[...]).argmax(axis=0)
    done = run("score", "out.ome.zarr", "labels.tif", "--level", "1", "--json")
    rows = {e["class"]: e["iou"] for e in done.events if e["event"] == "score"}
    assert rows == pytest.approx({name: iou(winner == k, labels == k) for k, name in ((1, "wall"), (2, "nucleus"))})
    one = run("score", "out.ome.zarr", "labels.tif", "--level", "1", "--foreground", "nucleus", "--json")
    assert by_level(one) == pytest.approx({"L1": rows["nucleus"]})


def test_a_model_can_be_scored_at_once(run, here, predicted):
    two = run("score", "out.ome.zarr", "labels.tif", "--json")
    three = run("score", "tiny.safetensors", "stack.tif", "labels.tif", "--json")
    assert three.code == 0
    assert three.events[-1] == two.events[-1]
    assert [e["event"] for e in three.events].count("result") == 1
    assert not list(here.glob("*score*"))


def test_a_region_is_scored_against_the_labels_of_the_whole(run, here):
    run(*SEGMENT, "--region", "1:3,4:40,:30")
    labels = tifffile.imread(here / "labels.tif")
    write_tiff(here / "crop.tif", labels[1:3, 4:40, :30], "zyx")
    whole = run("score", "out.ome.zarr", "labels.tif", "--json")
    crop = run("score", "out.ome.zarr", "crop.tif", "--json")
    assert whole.code == crop.code == 0
    assert by_level(whole) == by_level(crop)


def test_labels_are_scored_against_labels(run, here):
    labels = tifffile.imread(here / "labels.tif")
    other = np.roll(labels, 1, axis=2)
    write_tiff(here / "other.tif", other, "zyx")
    done = run("score", "other.tif", "labels.tif", "--json")
    assert by_level(done) == pytest.approx({"labels": iou(other > 0, labels > 0)})
    for k in (0, 2):
        done = run("score", "other.tif", "labels.tif", "--json", "--foreground", k)
        assert by_level(done) == pytest.approx({"labels": iou(other == k, labels == k)})


def test_what_cannot_be_scored(run, here, predicted):
    write_tiff(here / "small.tif", np.zeros((3, 8, 9), np.uint8), "zyx")
    write_tiff(here / "float.tif", np.full((5, 40, 36), 0.5, np.float32), "zyx")
    for arguments, says in (
        (("out.ome.zarr", "small.tif"), "(3, 8, 9)"),
        (("tiny.safetensors", "stack.tif", "small.tif"), "(3, 8, 9)"),
        (("out.ome.zarr", "float.tif"), "float hold 0.5 at z 0, y 0, x 0; labels are whole numbers"),
        (("nothing.zarr", "labels.tif"), "does not exist"),
    ):
        done = run("score", *arguments)
        assert done.code == 1
        assert len(done.error_lines) == 1
        assert says in done.err
    assert run("score", "labels.tif").code == 2


def test_an_unfinished_prediction_is_not_scored(run, here, predicted):
    from napari_unetpp.inference.store import create_store

    create_store(here / "begun.zarr", (5, 40, 36), (1, 2), axes="zyx", grid=(3, 1, 1))
    done = run("score", "begun.zarr", "labels.tif")
    assert done.code == 1
    assert "0 of 3 tiles" in done.err


@pytest.mark.parametrize("files", [("p.zarr/L1", "labels.tif"), ("p.zarr", "p.zarr"), ("p.zarr", "p.zarr/L2")])
def test_probabilities_are_never_taken_for_labels(run, here, files):
    run("segment", "stack.tif", "-o", "p.zarr", "--model", "tiny.safetensors")
    done = run("score", *files)
    assert done.code == 2
    (line,) = done.error_lines
    assert "predictions" in line


@pytest.mark.parametrize("dress", ["rgb", "float", "negative", "int64"])
def test_labels_in_another_form_score_the_same(run, here, predicted, dress):
    labels = tifffile.imread(here / "labels.tif")
    plain = run("score", "out.ome.zarr", "labels.tif", "--json")
    seen = np.ones(labels.shape, bool)
    if dress == "rgb":
        tifffile.imwrite(here / "other.tif", np.stack([labels.astype(np.uint8)] * 3, -1), photometric="rgb")
    elif dress == "float":
        write_tiff(here / "other.tif", labels.astype(np.float32), "zyx")
    elif dress == "int64":
        np.save(here / "other.npy", labels.astype(np.int64) * 2**54)
    else:
        seen[:, :9] = False
        write_tiff(here / "other.tif", np.where(seen, labels.astype(np.int16), -1), "zyx")
    done = run("score", "out.ome.zarr", f"other.{'npy' if dress == 'int64' else 'tif'}", "--json")
    assert done.code == 0, done.err
    if dress == "negative":  # not annotated
        notes = [e["note"] for e in done.events if e["event"] == "note"]
        assert f"{(~seen).sum()} voxels are below 0, which means not annotated; they are left out" in notes[0]
        assert sum(done.events[-1]["scores"][0][k] for k in ("tp", "fp", "fn", "tn")) == seen.sum()
        found = np.asarray(predicted.probability(2)[0]) >= 128
        assert by_level(done)["L2"] == pytest.approx(iou(found[seen], labels[seen] > 0))
    else:
        assert by_level(done) == by_level(plain)


def test_gray_values_of_several_classes_are_asked_for_and_then_score_the_same(run, here):
    write_model(here / "tiny.safetensors", classes=3)
    labels = np.minimum(tifffile.imread(here / "labels.tif"), 2)
    write_tiff(here / "labels.tif", labels, "zyx")
    write_tiff(here / "gray.tif", np.array([0, 127, 255], np.uint8)[labels], "zyx")
    assert run(*SEGMENT).code == 0
    refused = run("score", "out.ome.zarr", "gray.tif")
    assert refused.code == 1
    assert refused.error_lines == [
        "error: labels gray hold 255, but the model has only the classes 0 to 2. Values found: 0, 127, 255. If these are "
        "labels 0 to 2 in this order, say so with --label-values 0,127,255"
    ]
    one, two = (
        run("score", "out.ome.zarr", *rest, "--json")
        for rest in (["labels.tif"], ["gray.tif", "--label-values", "0,127,255"])
    )
    assert by_level(two) == by_level(one)
    assert [e["note"] for e in two.events if e["event"] == "note"] == ["the values 0,127,255 are labels 0 to 2"]
    # one class that was asked for does not mind others
    assert run("score", "out.ome.zarr", "gray.tif", "--foreground", "wall").code == 0


def test_an_image_in_place_of_its_labels_is_noticed(run, here):
    """Squares, and the noisy picture of them."""
    labels = np.zeros((2, 40, 40), np.uint8)
    labels[:, 5:20, 5:20], labels[:, 25:35, 20:38] = 3, 7
    picture = (labels * 20 + np.random.default_rng(0).integers(0, 40, labels.shape)).astype(np.uint8)
    write_tiff(here / "a.tif", labels, "zyx")
    write_tiff(here / "b.tif", picture, "zyx")
    done = run("score", "tiny.safetensors", "a.tif", "b.tif")
    assert done.code == 1
    assert "image a and labels b look exchanged" in done.error_lines[0]
    assert run("score", "tiny.safetensors", "b.tif", "a.tif").code == 0
