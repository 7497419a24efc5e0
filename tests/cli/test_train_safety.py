"""`train` on what cannot be scored, on images that changed, on a folder that vanishes, and beside another run."""

from __future__ import annotations

import errno
import shutil

import numpy as np
import pytest
import tifffile

from napari_unetpp.cli import _training
from napari_unetpp.model.checkpoint import load_model
from napari_unetpp.training import saved as saving
from napari_unetpp.training import train as training
from napari_unetpp.training.run_files import hold_run, let_go

NEW = ("--width", "4", "--depth", "2")
QUICK = ("--patch", "16", "--batch", "2", "--steps", "2", "--seed", "3", "--patience", "9")
PAIR = ("--image", "stack.tif", "--label", "labels.tif")
OUT = "models/new.safetensors"


@pytest.fixture
def models(here):
    (here / "models").mkdir()
    return here / "models"


def test_two_of_ten_images_hold_cells(run, here):
    rng = np.random.default_rng(0)
    (here / "images").mkdir()
    (here / "masks").mkdir()
    for k in range(10):
        labels = np.zeros((48, 48), np.uint8)
        labels[10:20, 10:30] = k in (2, 7)
        tifffile.imwrite(here / "images" / f"{k}.tif", (rng.normal(60, 9, labels.shape) + 90 * labels).astype(np.uint8))
        tifffile.imwrite(here / "masks" / f"{k}.tif", labels)
    for seed in range(4):
        pair = ("--image", "images", "--label", "masks", "-o", f"{seed}.safetensors", *NEW, *QUICK)
        done = run("train", *pair, "--seed", seed, "--epochs", "1", "--json")
        assert done.code == 0, done.err
        (start,) = [event for event in done.events if event["event"] == "start"]
        assert [part["foreground"] for part in start["annotated"].values()] == [200, 200]
        assert start["chosen_by"] == "validation"


def test_one_small_image_is_trained_on_whole_and_no_epoch_is_called_the_best(run, here):
    labels = np.zeros((40, 50), np.uint8)
    labels[12:18, 12:18] = 1
    tifffile.imwrite(here / "one.tif", np.arange(2000).reshape(40, 50).astype(np.uint8))
    tifffile.imwrite(here / "one_labels.tif", labels)
    pair = ("--image", "one.tif", "--label", "one_labels.tif", *NEW, *QUICK, "--epochs", "2")
    done = run("train", *pair, "-o", "a.safetensors")
    assert done.code == 0, done.err
    assert "training on one[0:40,0:50]: background 1964, foreground 36 voxels" in done.out
    assert "held out: nothing" in done.out
    assert "note: nothing is held out" in done.out
    assert "lowest training loss; no epoch was scored" in done.out
    assert "best" not in done.out
    told = run("train", *pair, "-o", "b.safetensors", "--json").events
    assert {event["event"]: event.get("chosen_by") for event in told}["result"] == "training loss"
    epochs = [event for event in told if event["event"] == "epoch"]
    assert all(event["scores"] == {} and not event["best"] for event in epochs)
    assert any(event["kept"] for event in epochs)
    assert told[-1]["scores"] == {}


def stop_after(count, monkeypatch, run, *arguments):
    """The command, interrupted after so many epochs."""
    told = []

    def line(event):
        told.append(event)
        if len(told) == count:
            raise KeyboardInterrupt
        return "an epoch"

    with monkeypatch.context() as patched:
        patched.setattr(_training, "_epoch_line", line)
        return run(*arguments)


def test_resume_takes_another_patience_and_refuses_another_image(run, here, monkeypatch):
    arguments = ("train", *PAIR, "-o", "new.safetensors", *NEW, *QUICK, "--epochs", "3")
    assert stop_after(1, monkeypatch, run, *arguments).code == 130
    stack = tifffile.imread(here / "stack.tif")
    other = stack.copy()
    other[-1, -1, -1] ^= 1
    tifffile.imwrite(here / "stack.tif", other, ome=True, metadata={"axes": "ZYX"})
    refused = run(*arguments, "--resume")
    assert refused.code == 1
    assert len(refused.error_lines) == 1
    assert "the image stack is not the same, voxel by voxel" in refused.err
    tifffile.imwrite(here / "stack.tif", stack, ome=True, metadata={"axes": "ZYX"})
    refused = run(*arguments, "--resume", "--lr", "0.5")
    assert "options.learning_rate (0.0003, now 0.5)" in refused.err
    done = run(*arguments, "--resume", "--patience", "2", "--device", "cpu")
    assert done.code == 0, done.err
    again = run(*arguments, "--resume")
    assert again.code == 1
    assert "finished model" in again.err


def test_resume_without_a_run_says_that_a_new_one_begins(run, here):
    done = run("train", *PAIR, "-o", "new.safetensors", *NEW, *QUICK, "--epochs", "1", "--resume")
    assert done.code == 0
    assert "there is no stopped run of new.safetensors; a new one begins" in done.out


def test_a_run_of_somebody_else_is_left_alone(run, here):
    hold = hold_run(here / "new.safetensors")
    for words in ((), ("--resume",)):
        done = run("train", *PAIR, "-o", "new.safetensors", *NEW, *QUICK, "--epochs", "1", *words)
        assert done.code == 1
        assert len(done.error_lines) == 1
        assert "new.safetensors is being trained in another window or program" in done.err
    let_go(here / "new.safetensors", hold)
    assert not (here / "new.safetensors").exists()
    assert run("train", *PAIR, "-o", "new.safetensors", *NEW, *QUICK, "--epochs", "1").code == 0
    assert not [path.name for path in here.iterdir() if path.name.endswith((".lock", ".training"))]


@pytest.mark.parametrize("epoch", [0, 1, 2])
@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_vanishes_is_one_line_and_the_model_is_saved_elsewhere(
    run, here, models, monkeypatch, epoch, again
):
    """While the first epoch is scored, the second, and the last one."""
    real, calls = training.validate, []

    def validate(*arguments):
        calls.append(1)
        if len(calls) == epoch + 1:
            shutil.rmtree(models)
            if again:
                models.mkdir()
        return real(*arguments)

    monkeypatch.setattr(training, "validate", validate)
    done = run("train", *PAIR, "-o", OUT, *NEW, *QUICK, "--epochs", "3")
    assert done.code == 1
    assert len(done.error_lines) == 1, done.err
    assert "was moved, deleted or replaced" in done.err
    assert "the best of" not in done.out
    assert models.exists() is again
    assert not again or not list(models.iterdir())
    rescued = here / "new rescued.safetensors"
    assert str(rescued) in done.err
    model = load_model(rescued, "cpu")
    assert f"its epoch {model.card.training['epoch']} is saved as" in done.err


def test_a_model_that_vanishes_while_it_is_compared(run, here, models, monkeypatch):
    real = _training._compared

    def compared(*arguments):
        shutil.rmtree(models)
        return real(*arguments)

    monkeypatch.setattr(_training, "_compared", compared)
    done = run("train", *PAIR, "-o", OUT, *NEW, *QUICK, "--epochs", "1")
    assert done.code == 1
    assert len(done.error_lines) == 1, done.err
    assert "the best of" not in done.out
    load_model(here / "new rescued.safetensors", "cpu")


def test_ctrl_c_tells_what_is_there_and_not_what_was(run, here, models, monkeypatch):
    arguments = ("train", *PAIR, "-o", OUT, *NEW, *QUICK, "--epochs", "3")
    done = stop_after(1, monkeypatch, run, *arguments)
    assert done.code == 130
    assert "holds the best epoch so far; the same command with --resume goes on" in done.err
    shutil.rmtree(models)
    models.mkdir()

    def line(event):
        shutil.rmtree(models)
        raise KeyboardInterrupt

    monkeypatch.setattr(_training, "_epoch_line", line)
    done = run(*arguments)
    assert done.code == 130
    assert "was moved, deleted or replaced" in done.err
    assert not models.exists()
    load_model(here / "new rescued.safetensors", "cpu")


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_full_disk_loses_no_epoch(run, here, models, monkeypatch, epoch):
    """The first model is saved elsewhere; a later one is trained again by --resume, as what is on the disk is whole."""
    real, calls = saving.save_model, []

    def full(model, path):
        if path.absolute().parent == models:
            calls.append(1)
            if len(calls) == epoch:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(model, path)

    monkeypatch.setattr(saving, "save_model", full)
    monkeypatch.setattr(
        training, "validate", lambda *_: {f"L{d}": {"iou": len(calls) / 10, "dice": 0.5} for d in (1, 2)}
    )
    arguments = ("train", *PAIR, "-o", OUT, *NEW, *QUICK, "--epochs", "3")
    done = run(*arguments)
    assert done.code == 1
    assert len(done.error_lines) == 1
    assert "No space left on device; free some space" in done.err
    rescued = here / "new rescued.safetensors"
    if epoch == 1:
        assert "new.safetensors could not be written; its epoch 1 is saved as" in done.err
        load_model(rescued, "cpu")
    else:
        assert "the same command with --resume goes on" in done.err
        assert not rescued.exists()
        assert load_model(here / OUT, "cpu").card.training["epoch"] == 1
        assert run(*arguments, "--resume").code == 0


def test_a_rate_that_diverges_is_one_line(run, here):
    done = run("train", *PAIR, "-o", "new.safetensors", *NEW, *QUICK, "--epochs", "3", "--lr", "1000")
    assert done.code == 1
    assert len(done.error_lines) == 1
    assert "the training diverged in epoch 1" in done.err
    assert "lower the learning rate 1000" in done.err
    assert not (here / "new.safetensors").exists()
    assert not (here / "new.safetensors.training").exists()
