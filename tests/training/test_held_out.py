"""What cannot be scored is not scored, and the user is told before the start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch

from napari_unetpp.model.checkpoint import load_model
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus
from napari_unetpp.stacks import open_stack
from napari_unetpp.training.blocks import thinned
from napari_unetpp.training.compare import before_after
from napari_unetpp.training.held_out import same_images
from napari_unetpp.training.options import EpochDone, Started, TrainOptions
from napari_unetpp.training.pairs import Pair, Rule
from napari_unetpp.training.plan import make_plan
from napari_unetpp.training.train import train, train_plan
from napari_unetpp.training.validate import validate
from tests.training.conftest import blobs, blocks_of, noise

SPEC = NetworkSpec(widths=(4, 8, 8), heads=(1, 2))
FAST = TrainOptions(epochs=5, steps=4, batch=2, patch=16, learning_rate=1e-2, augmentation="none", device="cpu")


def one_object(shape=(40, 50)):
    labels = np.zeros(shape, np.uint8)
    labels[12:18, 12:18] = 1
    return noise(shape, labels=labels)


def empty(shape=(64, 64)):
    return noise(shape, labels=np.zeros(shape, np.uint8))


def test_a_small_image_is_trained_on_as_a_whole_and_the_lowest_loss_is_kept(tmp_path):
    out = tmp_path / "a.safetensors"
    plan = make_plan(SPEC, [one_object()], FAST)
    assert plan.chosen_by == "training loss"
    assert plan.places == {"training": ("array[0:40,0:50]",), "validation": ()}
    assert plan.annotated["training"] == {"background": 40 * 50 - 36, "foreground": 36}
    (line,) = plan.warnings
    assert "nothing is held out" in line
    assert "lowest training loss" in line
    started, *events = train_plan(plan, out)
    assert isinstance(started, Started)
    assert started.chosen_by == "training loss"
    epochs = [e for e in events if isinstance(e, EpochDone)]
    losses = [e.loss for e in epochs]
    assert [e.kept for e in epochs] == [losses[k] < min(losses[:k], default=np.inf) for k in range(len(losses))]
    assert not any(e.best for e in epochs)
    assert all(e.scores == {} for e in epochs)
    card = load_model(out, "cpu").card
    assert card.training["chosen_by"] == "training loss"
    assert card.training["epoch"] == 1 + losses.index(min(losses))
    assert "validation" not in card.scores
    *_, table = before_after(plan, out)
    assert {row.part for row in table.rows} == {"corrected"}
    assert table.better is None


def test_a_run_that_is_scored_says_so_too(tmp_path):
    out = tmp_path / "a.safetensors"
    events = list(train(SPEC, [blobs()], FAST, out))
    assert events[0].chosen_by == "validation"
    assert load_model(out, "cpu").card.training["chosen_by"] == "validation"
    assert any(e.best for e in events if isinstance(e, EpochDone))


def test_validation_images_without_foreground_score_nothing(tmp_path):
    plan = make_plan(SPEC, [blobs()], FAST, validation=[empty()])
    assert plan.chosen_by == "training loss"
    assert any("validation images hold no foreground" in line for line in plan.warnings)
    events = list(train_plan(plan, tmp_path / "a.safetensors"))
    assert not any(e.scores for e in events if isinstance(e, EpochDone))


def test_a_validation_image_that_is_trained_on_is_told(tmp_path):
    pair, other = blobs(), blobs(seed=4)
    copy = Pair(open_stack(np.array(pair.image.data), axes="zyx"), pair.label)
    (line,) = make_plan(SPEC, [other, pair], FAST, validation=[copy]).warnings
    assert "same voxels as the training image" in line
    changed = np.array(pair.image.data)
    changed[0, 0, 0] ^= 1
    assert not make_plan(SPEC, [pair], FAST, validation=[Pair(open_stack(changed, axes="zyx"), pair.label)]).warnings
    tifffile.imwrite(tmp_path / "a.tif", np.array(pair.image.data))
    with open_stack(tmp_path / "a.tif") as one, open_stack(tmp_path / "a.tif") as again:
        part = Pair(
            replace(again, data=np.array(again.data)[:3]), open_stack(np.array(pair.label.data)[:3], axes="zyx")
        )
        (line,) = make_plan(SPEC, [Pair(one, pair.label)], FAST, validation=[part]).warnings
    assert "same file" in line


def test_images_are_the_same_where_all_voxels_are():
    """Equal where a sample looks: three squares of 256 voxels in the middle of the first, the middle and the last plane."""
    image = np.zeros((3, 300, 300), np.uint8)
    other = image.copy()
    other[1, 2, 3] = 1
    labels = open_stack(np.zeros(image.shape, np.uint8), axes="zyx")
    pairs = [Pair(open_stack(data, axes="zyx"), labels) for data in (image, other, image.copy(), other.copy())]
    assert same_images(pairs) == (0, 1, 0, 1)


def test_without_annotated_foreground_there_are_no_scores():
    network = UNetPlusPlus(SPEC)
    assert validate(network, blocks_of(empty()), torch.device("cpu")) == {}


def test_a_class_that_is_not_annotated_is_not_scored():
    """However many voxels the network gives it."""
    torch.manual_seed(0)
    spec = replace(SPEC, classes=3)
    network = UNetPlusPlus(spec).eval()
    labels = np.zeros((32, 32), np.uint8)
    labels[:16] = 1
    pair = noise(labels.shape, labels=labels)
    data = blocks_of(pair, rule=Rule(3))
    with torch.no_grad():
        for head in network.heads.values():
            head.bias[:] = torch.tensor([0.0, 3.0, 3.0])
    heads = network(torch.from_numpy(np.array(pair.image.data, np.float32))[None, None])
    predicted = heads[0].argmax(1)[0].numpy()
    assert (predicted == 2).any()
    iou = ((predicted == 1) & (labels == 1)).sum() / ((predicted == 1) | (labels == 1)).sum()
    assert validate(network, data, torch.device("cpu"))["L1"]["iou"] == pytest.approx(iou)


def test_thinning_keeps_a_block_of_every_class():
    labels = np.zeros((20, 16, 16), np.uint8)
    labels[13, :4] = 1
    data = blocks_of(noise(labels.shape, labels=labels))
    few = thinned(data, 16 * 16 * 4)
    assert len(few.blocks) < 8
    assert (few.counts > 0).all()
