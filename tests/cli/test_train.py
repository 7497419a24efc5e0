"""`train`: a model file, going on after Ctrl-C, and what is refused before any work."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import tifffile
from safetensors.numpy import load_file

from napari_unetpp.model.card import ClassInfo
from napari_unetpp.model.checkpoint import load_model, read_header
from napari_unetpp.stacks import open_stack
from napari_unetpp.training.corrections import create_corrections

NEW = ("--width", "4", "--depth", "2")
QUICK = ("--patch", "16", "--batch", "2", "--steps", "2", "--seed", "3")
PAIR = ("--image", "stack.tif", "--label", "labels.tif")


def test_a_new_model(run, here):
    done = run("train", *PAIR, "-o", "new.safetensors", *NEW, *QUICK, "--epochs", "2", "--json")
    assert done.code == 0
    kinds = [event["event"] for event in done.events]
    assert kinds[0] == "start"
    assert kinds[-1] == "result"
    assert kinds.count("epoch") == 2
    model = load_model(here / "new.safetensors", "cpu")
    assert model.spec.widths == (4, 8, 16)
    assert model.spec.skips == "dense"
    assert model.card.name == "new"
    assert done.events[-1]["scores"] == model.card.scores["validation"]
    assert not (here / "new.safetensors.training").exists()
    assert run("segment", "stack.tif", "-o", "o.zarr", "--model", "new.safetensors").code == 0


def test_options_reach_the_training_room(run, here):
    done = run(
        "train",
        *PAIR,
        *PAIR,
        "-o",
        "new.safetensors",
        *NEW,
        *QUICK,
        "--epochs",
        "1",
        "--patience",
        "5",
        "--lr",
        "0.01",
        "--schedule",
        "cosine",
        "--unpainted",
        "ignore",
        "--augmentation",
        "none",
        "--validation-fraction",
        "0.3",
        "--class",
        "membrane",
        "--skips",
        "short",
        "--json",
    )
    assert done.code == 0
    options = done.events[0]["options"]
    assert done.events[0]["images"] == 2
    for name, value in {
        "epochs": 1,
        "steps": 2,
        "batch": 2,
        "patch": 16,
        "patience": 5,
        "seed": 3,
        "learning_rate": 0.01,
        "schedule": "cosine",
        "unpainted": "ignore",
        "augmentation": "none",
        "validation_fraction": 0.3,
    }.items():
        assert options[name] == value
    header = read_header(here / "new.safetensors")
    assert header.spec.skips == "short"
    assert [c.name for c in header.card.classes] == ["membrane"]


def test_named_classes_are_several_heads(run, here):
    done = run(
        "train",
        *PAIR,
        "-o",
        "new.safetensors",
        *NEW,
        *QUICK,
        "--epochs",
        "1",
        "--class",
        "a",
        "--class",
        "b",
        "--class",
        "c",
    )
    assert done.code == 0
    header = read_header(here / "new.safetensors")
    assert header.spec.classes == 4
    assert [c.name for c in header.card.classes] == ["background", "a", "b", "c"]


def test_presets_and_fine_tuning(run, here):
    done = run("train", *PAIR, "-o", "u.safetensors", "--preset", "unet", *NEW, *QUICK, "--epochs", "1")
    assert done.code == 0
    assert read_header(here / "u.safetensors").spec.heads == (2,)
    done = run(
        "train",
        *PAIR,
        "-o",
        "tuned.safetensors",
        "--base",
        "tiny.safetensors",
        *QUICK,
        "--epochs",
        "1",
    )
    assert done.code == 0
    tuned = read_header(here / "tuned.safetensors")
    assert tuned.spec == read_header(here / "tiny.safetensors").spec
    assert tuned.card.training["parent"] == load_model(here / "tiny.safetensors", "cpu").sha256


def test_ctrl_c_and_resume_end_in_the_same_weights(run, run_alone, here):
    arguments = ("train", *PAIR, *NEW, *QUICK, "--epochs", "12", "--patience", "12", "--json")
    # start, started, and two batches and an epoch line per epoch
    stopped = run_alone(*arguments, "-o", "new.safetensors", interrupt_after=7)
    assert stopped.code == 130, stopped.err
    assert "--resume" in stopped.err
    assert len(stopped.error_lines) == 1
    again = run(*arguments, "-o", "new.safetensors")
    assert again.code == 1
    assert "resume" in again.err
    resumed = run(*arguments, "-o", "new.safetensors", "--resume")
    assert resumed.code == 0, resumed.err
    epochs = [e["epoch"] for e in resumed.events if e["event"] == "epoch"]
    assert epochs[0] > 0
    assert epochs[-1] == 11
    assert run(*arguments, "-o", "whole.safetensors").code == 0
    one, other = (load_file(here / f"{name}.safetensors") for name in ("new", "whole"))
    assert one.keys() == other.keys()
    assert all((one[key] == other[key]).all() for key in one)


def test_a_finished_model_is_never_overwritten(run, here):
    arguments = ("train", *PAIR, "-o", "tiny.safetensors", *NEW, *QUICK, "--epochs", "1")
    before = (here / "tiny.safetensors").read_bytes()
    for words in ((), ("--resume",)):
        done = run(*arguments, *words)
        assert done.code == 1
        assert len(done.error_lines) == 1
        assert (here / "tiny.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--label", "labels.tif"), "1 --image but 2 --label"),
        (("--validation-image", "stack.tif"), "--validation-label"),
        (("--base", "tiny.safetensors", "--skips", "dense"), "--base"),
        (("--preset", "unet", "--skips", "dense"), "--preset"),
        (("--preset", "resnet"), "resnet"),
        (("--depth", "2", "--dimensions", "2", "--lr", "0"), "learning rate"),
        (("--augmentation", "xray"), "augmentation"),
        (("--device", "abacus"), "--device"),
        (("--class", "wall", "--class", "wall"), "a name of its own"),
        (("--class", " "), "a name of its own"),
    ],
)
def test_bad_usage_is_one_line(run, here, words, says):
    done = run("train", *PAIR, "-o", "new.safetensors", *words)
    assert done.code == 2
    assert len(done.error_lines) == 1
    assert says in done.err
    assert not (here / "new.safetensors").exists()


def test_the_model_must_be_called_a_model(run):
    assert run("train", *PAIR, "-o", "new.pth").code == 2
    assert run("train", "--image", "stack.tif", "-o", "new.safetensors").code == 2


def test_bad_pairs_are_one_line(run, here):
    (here / "text.tif").write_text("no image")
    for image, label in (("text.tif", "labels.tif"), ("missing.tif", "labels.tif")):
        done = run("train", "--image", image, "--label", label, "-o", "new.safetensors")
        assert done.code == 1
        assert len(done.error_lines) == 1
    done = run("train", *PAIR, "-o", "nowhere/new.safetensors", *NEW, *QUICK, "--epochs", "1")
    assert done.code == 1
    assert "nowhere" in done.err


def test_killed_and_resumed_ends_in_the_same_weights(run, run_alone, here):
    """kill -9 costs at most the epoch that was under way."""
    arguments = ("train", *PAIR, *NEW, *QUICK, "--steps", "4", "--epochs", "8", "--patience", "8", "--json")
    assert run(*arguments, "-o", "whole.safetensors").code == 0
    # start, started, 4 batches, epoch: killed in the second epoch, or later if the kill comes late
    killed = run_alone(*arguments, "-o", "cut.safetensors", interrupt_after=9, send=signal.SIGKILL)
    assert killed.code == -signal.SIGKILL
    assert (here / "cut.safetensors.training").exists()
    load_model(here / "cut.safetensors", "cpu")
    again = run(*arguments, "-o", "cut.safetensors", "--resume")
    assert again.code == 0
    assert next(e for e in again.events if e["event"] == "started")["epoch"] >= 1
    one, other = (load_file(here / f"{name}.safetensors") for name in ("whole", "cut"))
    assert all(np.array_equal(one[key], other[key]) for key in one)


def test_fine_tuning_tells_before_and_after(run, here):
    arguments = ("train", *PAIR, "-o", "new.safetensors", "--base", "tiny.safetensors", *QUICK, "--epochs", "1")
    done = run(*arguments, "--foreground", "2", "--trainable", "decoder", "--balance", "--batch", "0", "--json")
    assert done.code == 0
    kinds = [event["event"] for event in done.events]
    assert kinds == ["start", "started", "batch", "batch", "epoch", "compared", "result"]
    start, started, _, _, epoch, compared, result = done.events
    assert start["annotated"]["training"].keys() == {"background", "cell"}
    assert started["before"].keys() == {"L1", "L2", "ensemble"}
    rows = {(row["part"], row["level"]): row for row in compared["rows"]}
    assert len(rows) == 6
    assert rows["held-out", "L2"]["before"] == started["before"]["L2"]
    assert rows["held-out", "L2"]["after"] == epoch["scores"]["L2"]
    assert result["better"] == compared["better"]
    labels = tifffile.imread(here / "labels.tif")
    held = labels[int(start["places"]["validation"][0].split("[")[1].split(":")[0]) :]
    assert start["annotated"]["validation"]["cell"] == (held == 2).sum()
    plain = run(*(word.replace("new", "plain") for word in arguments))
    assert "before and after" in plain.out


def test_folders_of_corrections_train_and_name_their_classes(run, here):
    image = open_stack(here / "stack.tif")
    classes = (ClassInfo("wall"), ClassInfo("vesicle"))
    corrections = create_corrections(here / "c.corrections.zarr", image, classes=classes, unpainted="ignore")
    painted = np.zeros(image.shape, np.uint8)
    painted[1::3, :, ::3], painted[1::3, :, 1::3], painted[1::3, ::2, 2::6] = 1, 2, 3  # slices 1 and 4
    corrections.labels[:] = painted
    corrections.close()
    pair = ("--image", "stack.tif", "--label", "c.corrections.zarr")
    done = run("train", *pair, "-o", "new.safetensors", *NEW, *QUICK, "--patch", "8", "--epochs", "1", "--json")
    assert done.code == 0
    model = load_model(here / "new.safetensors", "cpu")
    assert [c.name for c in model.classes] == ["background", "wall", "vesicle"]
    counts = [sum(part[name] for part in done.events[0]["annotated"].values()) for name in ("wall", "vesicle")]
    assert 0 < counts[0] <= (painted == 2).sum()
    assert 0 < counts[1] <= (painted == 3).sum()


def test_replay_finds_what_the_base_was_trained_on(run, here):
    assert run("train", *PAIR, "-o", "base.safetensors", *NEW, *QUICK, "--epochs", "1").code == 0
    tune = ("train", *PAIR, "--base", "base.safetensors", *QUICK, "--epochs", "1", "--json")
    done = run(*tune, "-o", "known.safetensors", "--replay-known", "--replay", "0.5")
    assert done.code == 0
    replayed = load_model(here / "known.safetensors", "cpu").card.training["replay"]
    assert [entry["image"] for entry in replayed] == ["stack"]
    lost = run("train", *PAIR, "--base", "tiny.safetensors", *QUICK, "-o", "b.safetensors", "--replay-known")
    assert lost.code == 1
    assert "--replay-image" in lost.error_lines[-1]
    assert run("train", *PAIR, "-o", "c.safetensors", "--replay-known").code == 2
