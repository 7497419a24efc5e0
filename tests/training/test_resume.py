"""A run goes on with the same data and in the same order, or not at all; how long it goes on may change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_unetpp.model.card import ClassInfo
from napari_unetpp.model.checkpoint import load_model
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.stacks import open_stack
from napari_unetpp.training.corrections import create_corrections
from napari_unetpp.training.options import EpochDone, TrainOptions
from napari_unetpp.training.pairs import Pair, corrections_pair
from napari_unetpp.training.resume import state_path
from napari_unetpp.training.train import train
from tests.training.conftest import blobs

SPEC = NetworkSpec(widths=(4, 8), heads=(1,))
FAST = TrainOptions(epochs=3, steps=2, batch=2, patch=16, learning_rate=1e-2, augmentation="none", device="cpu")


def stopped(out, pairs, options=FAST, model=SPEC, **more):
    """A run that was stopped after its first epoch."""
    run = train(model, pairs, options, out, **more)
    next(e for e in run if isinstance(e, EpochDone))
    run.close()
    return out


@pytest.mark.parametrize(
    "changes", [{"patience": 7}, {"epochs": 5}, {"memory": 2**29}, {"precision": "fp32"}, {"device": "auto"}]
)
def test_what_changes_neither_data_nor_their_order_may_change(tmp_path, changes):
    out = stopped(tmp_path / "a.safetensors", [blobs()])
    options = replace(FAST, **changes)
    epochs = [e for e in train(SPEC, [blobs()], options, out, resume=True) if isinstance(e, EpochDone)]
    assert [e.epoch for e in epochs] == [*range(1, options.epochs)]


def test_more_epochs_than_before_end_in_the_weights_of_a_longer_run(tmp_path):
    longer = replace(FAST, epochs=5, patience=5)
    list(train(SPEC, [blobs()], longer, tmp_path / "whole.safetensors"))
    out = stopped(tmp_path / "cut.safetensors", [blobs()])
    list(train(SPEC, [blobs()], longer, out, resume=True))
    one, other = (load_model(tmp_path / f"{name}.safetensors", "cpu").network.state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learning_rate": 1e-3}, r"options\.learning_rate \(0\.01, now 0\.001\)"),
        ({"seed": 4}, r"options\.seed \(0, now 4\)"),
        ({"batch": 3}, r"options\.batch \(2, now 3\)"),
        ({"steps": 3}, r"options\.steps"),
        ({"patch": 8}, r"options\.patch \(16, now 8\)"),
        ({"augmentation": "em"}, r"options\.augmentation \(none, now em\)"),
        ({"balance": True}, r"options\.balance"),
        ({"validation_voxels": 1000}, r"options\.validation_voxels"),
        ({"schedule": "cosine"}, r"options\.schedule"),
        ({"memory": 5000}, r"options\.memory"),  # not all images fit into it any more
        ({"epochs": 1}, "1 epochs behind it"),
    ],
)
def test_what_changes_them_is_refused_with_both_values(tmp_path, changes, says):
    out = stopped(tmp_path / "a.safetensors", [blobs()])
    before = out.read_bytes(), state_path(out).read_bytes()
    with pytest.raises(ValueError, match=says):
        train(SPEC, [blobs()], replace(FAST, **changes), out, resume=True)
    assert before == (out.read_bytes(), state_path(out).read_bytes())


def test_intensities_are_read_as_before(tmp_path):
    out = stopped(tmp_path / "a.safetensors", [blobs()], intensity=Intensity("zscore"))
    with pytest.raises(ValueError, match=r"another intensity\.kind \(zscore, now "):
        train(SPEC, [blobs()], FAST, out, resume=True)


def test_the_number_of_epochs_decides_the_rates_of_a_cosine(tmp_path):
    options = replace(FAST, schedule="cosine")
    out = stopped(tmp_path / "a.safetensors", [blobs()], options)
    with pytest.raises(ValueError, match=r"options\.epochs \(3, now 4\)"):
        train(SPEC, [blobs()], replace(options, epochs=4), out, resume=True)


@pytest.mark.parametrize("place", [(0, 0, 0), (5, 299, 299), (3, 2, 150)])
def test_one_voxel_of_an_image_anywhere_is_noticed(tmp_path, place):
    """Also far from the middle of the first, the middle and the last plane, where a sample would look."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (6, 300, 300)).astype(np.uint8)
    labels = open_stack((image > 128).astype(np.uint8), axes="zyx")
    other = image.copy()
    other[place] ^= 1
    out = stopped(tmp_path / "a.safetensors", [blobs(), Pair(open_stack(image, axes="zyx"), labels)])
    with pytest.raises(ValueError, match="the image array is not the same, voxel by voxel"):
        train(SPEC, [blobs(), Pair(open_stack(other, axes="zyx"), labels)], FAST, out, resume=True)


def test_one_voxel_of_labels_is_noticed(tmp_path):
    pair = blobs()
    out = stopped(tmp_path / "a.safetensors", [pair])
    np.asarray(pair.label.data)[5, 47, 47] ^= 1
    with pytest.raises(ValueError, match="other data: the labels array were changed or painted on"):
        train(SPEC, [pair], FAST, out, resume=True)


@pytest.mark.parametrize("side", ["image", "label"])
def test_what_is_replayed_is_looked_at_too(tmp_path, side):
    list(train(SPEC, [blobs()], FAST, tmp_path / "base.safetensors"))
    base, old = load_model(tmp_path / "base.safetensors", "cpu"), blobs(seed=2)
    out = stopped(tmp_path / "a.safetensors", [blobs()], model=base, replay=[old])
    np.asarray(getattr(old, side).data)[0, 0, 0] ^= 1
    with pytest.raises(ValueError, match=f"the replayed {side}"):
        train(base, [blobs()], FAST, out, replay=[old], resume=True)


def test_corrections_that_were_painted_on_are_refused_by_name(tmp_path):
    """A run learns from what was painted when it was planned; other labels are another run."""
    pair = blobs()
    folder = create_corrections(
        tmp_path / "c.corrections.zarr", pair.image, classes=[ClassInfo("a")], unpainted="ignore"
    )
    folder.labels[:] = np.asarray(pair.label.data) + 1
    out = stopped(tmp_path / "a.safetensors", [corrections_pair(pair.image, folder)])
    list_of_epochs = train(SPEC, [corrections_pair(pair.image, folder)], FAST, out, resume=True)
    next(list_of_epochs)
    list_of_epochs.close()
    folder.labels[2, 3, 4] = 0
    with pytest.raises(ValueError, match="the labels c were changed or painted on"):
        train(SPEC, [corrections_pair(pair.image, folder)], FAST, out, resume=True)
    folder.close()


def test_a_run_of_an_earlier_version_is_refused_with_the_reason(tmp_path):
    out = stopped(tmp_path / "a.safetensors", [blobs()])
    values = torch.load(state_path(out), weights_only=True)
    torch.save({**values, "version": 2}, state_path(out))
    with pytest.raises(ValueError, match=r"earlier version, which noted a sample of each image alone.*remove it"):
        train(SPEC, [blobs()], FAST, out, resume=True)


def test_a_run_whose_model_is_gone_does_not_go_on(tmp_path):
    out = stopped(tmp_path / "a.safetensors", [blobs()])
    out.unlink()
    with pytest.raises(FileNotFoundError, match="model of the stopped run, is gone"):
        train(SPEC, [blobs()], FAST, out, resume=True)
