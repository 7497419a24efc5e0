"""One at a time trains a model, and a run whose files are gone says so, with its model still in memory."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from napari_unetpp._locks import InUse
from napari_unetpp.model.checkpoint import load_model, save_model
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.training.options import BatchDone, EpochDone, Started, TrainOptions
from napari_unetpp.training.plan import make_plan
from napari_unetpp.training.resume import discard, state_path
from napari_unetpp.training.run_files import hold_run, is_training, let_go
from napari_unetpp.training.saved import NotSavedError, Saved
from napari_unetpp.training.train import train, train_plan
from tests.training.conftest import blobs

SPEC = NetworkSpec(widths=(4, 8), heads=(1,))
FAST = TrainOptions(
    epochs=3, steps=2, batch=2, patch=16, learning_rate=1e-2, augmentation="none", device="cpu", patience=9
)


def test_a_second_run_of_a_model_is_refused_while_the_first_goes_on(tmp_path):
    out = tmp_path / "a.safetensors"
    first = train(SPEC, [blobs()], FAST, out)
    next(first)  # before there is anything to resume
    for resume in (False, True):
        with pytest.raises(InUse, match="being trained in another window or program"):
            train(SPEC, [blobs()], FAST, out, resume=resume)
    next(e for e in first if isinstance(e, EpochDone))
    assert is_training(out)
    with pytest.raises(InUse):
        train(SPEC, [blobs()], FAST, out, resume=True)
    with pytest.raises(InUse):
        discard(out)
    assert out.exists()
    assert state_path(out).exists()
    first.close()
    assert not is_training(out)
    assert len(list(train(SPEC, [blobs()], FAST, out, resume=True))) > 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_who_has_the_right_already_keeps_it(tmp_path):
    out = tmp_path / "a.safetensors"
    hold = hold_run(out)
    run = train_plan(make_plan(SPEC, [blobs()], FAST), out, hold=hold)
    next(run)
    run.close()
    assert is_training(out)
    discard(out, hold)
    let_go(out, hold)
    assert not list(tmp_path.iterdir())


def moments():
    """Before the first epoch, between two, and before the last one ends."""
    return {
        "first": lambda e: isinstance(e, Started),
        "between": lambda e: isinstance(e, EpochDone),
        "last": lambda e: isinstance(e, BatchDone) and e.epoch == 2,
    }


@pytest.mark.parametrize("moment", ["first", "between", "last"])
@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_vanishes_or_is_replaced_is_told_and_never_made_again(tmp_path, moment, again):
    folder = tmp_path / "models"
    folder.mkdir()
    out = folder / "a.safetensors"
    saved = Saved(out)
    run = train_plan(make_plan(SPEC, [blobs()], FAST), out, saved=saved)
    next(e for e in run if moments()[moment](e))
    folder.rename(tmp_path / "moved")
    if again:
        folder.mkdir()
    told = []
    with pytest.raises(NotSavedError, match="models was moved, deleted or replaced during the training"):
        told.extend(e for e in run if isinstance(e, EpochDone))
    assert folder.exists() is again
    assert not again or not list(folder.iterdir())
    assert saved.model is not None
    assert saved.epoch >= 1
    save_model(saved.model, tmp_path / "b.safetensors")
    kept = load_model(tmp_path / "b.safetensors", "cpu")
    if moment == "first":
        assert not list((tmp_path / "moved").glob("*.safetensors"))
    else:  # what was told before is as it was
        before = load_model(tmp_path / "moved" / "a.safetensors", "cpu")
        if before.card.training["epoch"] == kept.card.training["epoch"]:
            assert all(torch.equal(v, kept.network.state_dict()[k]) for k, v in before.network.state_dict().items())


def test_a_model_file_that_is_deleted_or_replaced_is_told(tmp_path):
    list(train(SPEC, [blobs(seed=1)], replace(FAST, seed=5), tmp_path / "other.safetensors"))
    for spoil, says in (
        (lambda out: out.unlink(), "was moved or deleted during"),
        (lambda out: shutil.copy(tmp_path / "other.safetensors", out), "was replaced by another model"),
        (lambda out: out.write_bytes(out.read_bytes()[:100]), "cannot be read back"),
    ):
        out = tmp_path / "a.safetensors"
        saved = Saved(out)
        run = train_plan(make_plan(SPEC, [blobs()], replace(FAST, learning_rate=1e-9)), out, saved=saved)
        next(e for e in run if isinstance(e, EpochDone))
        spoil(out)
        with pytest.raises(NotSavedError, match=says):
            saved.check()
        run.close()
        discard(out)


def test_a_model_is_read_back_whole_before_it_is_done(tmp_path, monkeypatch):
    """A bit that flips on the disk, where the header is as it was."""
    out = tmp_path / "a.safetensors"
    run = train(SPEC, [blobs()], replace(FAST, epochs=1), out)

    def spoilt(model, path):
        save_model(model, path)
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr("napari_unetpp.training.saved.save_model", spoilt)
    with pytest.raises(NotSavedError, match="cannot be read back"):
        list(run)
