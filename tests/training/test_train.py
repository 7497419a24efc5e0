"""The loop: it learns, repeats itself, goes on after a kill, and refuses what cannot work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_unetpp.box import Box
from napari_unetpp.model.card import Card, ClassInfo
from napari_unetpp.model.checkpoint import load_model
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.sampling import scale_stack
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus
from napari_unetpp.stacks import open_stack
from napari_unetpp.training.feed import step_seed
from napari_unetpp.training.losses import IGNORE
from napari_unetpp.training.options import BatchDone, EpochDone, TrainOptions
from napari_unetpp.training.pairs import Pair, Rule
from napari_unetpp.training.plan import TrainingError
from napari_unetpp.training.resume import state_path
from napari_unetpp.training.step import rate
from napari_unetpp.training.train import train
from napari_unetpp.training.validate import validate
from tests.training.conftest import blobs, blocks_of

SPEC = NetworkSpec(widths=(4, 8, 8), heads=(1, 2))
FAST = TrainOptions(epochs=2, steps=4, batch=2, patch=16, learning_rate=1e-2, augmentation="em", device="cpu")


def weights(path):
    return load_model(path, "cpu").network.state_dict()


def same(one, other):
    return all(torch.equal(value, other[key]) for key, value in one.items())


def test_it_learns_and_says_so(tmp_path):
    options = replace(FAST, epochs=4, steps=15, batch=4)
    events = list(train(SPEC, [blobs()], options, tmp_path / "a.safetensors"))
    epochs = [e for e in events if isinstance(e, EpochDone)]
    assert [e.epoch for e in epochs] == [0, 1, 2, 3]
    assert [e.stop for e in epochs] == [False, False, False, True]
    assert epochs[-1].loss < epochs[0].loss
    assert max(e.scores["L2"]["iou"] for e in epochs) > 0.7
    assert {*epochs[0].scores} == {"L1", "L2", "ensemble"}
    steps = [e.step for e in events if isinstance(e, BatchDone) and e.epoch == 0]
    assert steps == [*range(1, 16)]  # on a CPU, where nothing has to wait for it
    model = load_model(tmp_path / "a.safetensors")
    best = max((e for e in epochs if e.best), key=lambda e: e.epoch)
    assert model.card.scores["validation"] == best.scores
    assert model.card.recommended_level in (1, 2)
    assert model.card.training["options"]["steps"] == 15
    assert model.card.training["validation"][0].endswith("[5:6,0:48,0:48]")
    assert not state_path(tmp_path / "a.safetensors").exists()


def test_same_seed_same_weights_other_seed_others(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.rand(seed)  # whatever the caller did with the global generator must not matter
        list(train(SPEC, [blobs()], replace(FAST, seed=seed), tmp_path / f"{name}.safetensors"))
    a, b, c = (weights(tmp_path / f"{name}.safetensors") for name in "abc")
    assert same(a, b)
    assert not same(a, c)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, schedule):
    options = replace(FAST, epochs=3, schedule=schedule, validation_fraction=0.3)
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    scores = [e.scores for e in train(SPEC, [blobs()], options, whole) if isinstance(e, EpochDone)]
    run = train(SPEC, [blobs()], options, cut)
    for event in run:  # killed in the middle of the second epoch
        if isinstance(event, BatchDone) and event.epoch == 1:
            break
    run.close()
    assert state_path(cut).exists()
    with pytest.raises(FileExistsError, match="unfinished run"):
        train(SPEC, [blobs()], options, cut)
    resumed = [e for e in train(SPEC, [blobs()], options, cut, resume=True) if isinstance(e, EpochDone)]
    assert [e.scores for e in resumed] == scores[1:]
    assert same(weights(cut), weights(whole))
    assert load_model(cut).card.scores == load_model(whole).card.scores
    assert not state_path(cut).exists()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_same_number_of_threads_gives_the_same_weights(tmp_path, number):
    options = replace(FAST, steps=1, patience=2)
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        list(train(SPEC, [blobs()], options, whole))
        run = train(SPEC, [blobs()], options, cut)
        next(e for e in run if isinstance(e, EpochDone))
        run.close()
        list(train(SPEC, [blobs()], options, cut, resume=True))
    finally:
        torch.set_num_threads(before)
    assert same(weights(cut), weights(whole))


def test_a_resumed_run_must_be_the_same_run(tmp_path):
    out = tmp_path / "a.safetensors"
    run = train(SPEC, [blobs()], FAST, out)
    next(e for e in run if isinstance(e, EpochDone))
    run.close()
    with pytest.raises(ValueError, match=r"options\.learning_rate"):
        train(SPEC, [blobs()], replace(FAST, learning_rate=1e-3), out, resume=True)
    state_path(out).write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="damaged"):
        train(SPEC, [blobs()], FAST, out, resume=True)


def test_fine_tuning_starts_from_the_model_and_helps(tmp_path):
    first = tmp_path / "first.safetensors"
    card = Card("discs", classes=(ClassInfo("disc", "#123456"),), licence="CC0-1.0")
    list(train(SPEC, [blobs()], replace(FAST, steps=20), first, intensity=Intensity("zscore"), card=card))
    base = load_model(first, "cpu")
    inverted = blobs(seed=5)
    inverted = Pair(open_stack(255 - inverted.image.data, axes="zyx"), inverted.label)
    second = tmp_path / "second.safetensors"
    options = replace(FAST, epochs=3, steps=20)
    started, *later = train(base, [inverted], options, second)
    events = [e for e in later if isinstance(e, EpochDone)]
    tuned = load_model(second, "cpu")
    assert tuned.intensity == base.intensity
    assert tuned.card.classes == base.card.classes
    assert tuned.card.training["parent"] == base.sha256
    held = blocks_of(inverted, region=Box((5, 0, 0), (6, 48, 48)))
    held = replace(held, scalings=(scale_stack(inverted.image, base.intensity, 1),))
    before = validate(base.network, held, torch.device("cpu"))
    assert started.before == before
    assert max(e.scores["L2"]["iou"] for e in events) > before["L2"]["iou"] + 0.2


def test_patience_ends_the_run(tmp_path):
    options = replace(FAST, epochs=50, steps=1, patience=2, learning_rate=1e-9)
    epochs = [e for e in train(SPEC, [blobs()], options, tmp_path / "a.safetensors") if isinstance(e, EpochDone)]
    assert len(epochs) < 10
    assert [e.best for e in epochs][-2:] == [False, False]
    assert epochs[-1].stop


def test_3d_and_several_classes_train(tmp_path):
    spec = NetworkSpec(ndim=3, classes=3, widths=(2, 4), heads=(1,))
    source = blobs((20, 24, 24))
    label = np.asarray(source.label.data) + (np.arange(20) > 9)[:, None, None] * np.asarray(source.label.data)
    pair = Pair(source.image, open_stack(label.astype(np.uint8), axes="zyx"))
    options = replace(FAST, epochs=1, patch=8, validation_fraction=0.4)
    list(train(spec, [pair], options, tmp_path / "a.safetensors"))
    model = load_model(tmp_path / "a.safetensors")
    assert [c.name for c in model.classes] == ["background", "class 1", "class 2"]


def test_named_validation_pairs_are_used(tmp_path):
    list(train(SPEC, [blobs()], FAST, tmp_path / "a.safetensors", validation=[blobs((2, 40, 40), seed=9)]))
    record = load_model(tmp_path / "a.safetensors").card.training
    assert "[0:6,0:48,0:48]" in record["training"][0]
    assert "[0:2,0:40,0:40]" in record["validation"][0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"patch": 18}, "multiple of 4"), ({"unpainted": "ignore"}, "annotated"), ({}, "no foreground")],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, changes, says):
    source = blobs()
    empty = Pair(source.image, open_stack(np.zeros((6, 48, 48), np.uint8), axes="zyx"))
    with pytest.raises(ValueError, match=says):
        train(SPEC, [empty], replace(FAST, **changes), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "a.safetensors").write_text("precious")
    with pytest.raises(FileExistsError, match="exists"):
        train(SPEC, [blobs()], FAST, tmp_path / "a.safetensors")
    with pytest.raises(FileNotFoundError, match="folder"):
        train(SPEC, [blobs()], FAST, tmp_path / "no" / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_text() == "precious"


def test_a_diverging_run_says_so(tmp_path):
    with pytest.raises(TrainingError, match="lower the learning rate"):
        list(train(SPEC, [blobs()], replace(FAST, learning_rate=1e30, steps=30), tmp_path / "a.safetensors"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"epochs": 0}, "epochs 0"), ({"learning_rate": 0.0}, "positive"), ({"schedule": "step"}, "step")],
)
def test_options_are_checked(changes, says):
    with pytest.raises(ValueError, match=says):
        replace(FAST, **changes)


def test_cosine_rises_then_falls_to_zero():
    options = replace(FAST, epochs=10, steps=10, schedule="cosine")
    rates = [rate(options, step) for step in range(100)]
    assert max(rates) == rates[5] == options.learning_rate
    assert rates[:6] == sorted(rates[:6])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.01 * options.learning_rate
    assert {rate(replace(options, schedule="constant"), k) for k in range(100)} == {options.learning_rate}


def test_every_step_has_a_seed_of_its_own():
    seeds = {step_seed(s, e, k) for s in range(4) for e in range(10) for k in range(50)}
    assert len(seeds) == 2000
    assert all(0 <= s < 2**63 for s in seeds)


@pytest.mark.parametrize("classes", [1, 3])
def test_validation_scores_equal_counting_by_hand(classes):
    torch.manual_seed(0)
    spec = NetworkSpec(classes=classes, widths=(3, 3, 3), heads=(1, 2))
    network = UNetPlusPlus(spec).eval()
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 2, 20, 24)).astype(np.float32)
    target = rng.integers(0, max(classes, 2), (2, 20, 24)).astype(np.uint8)
    target[rng.random(target.shape) < 0.2] = IGNORE
    painted = np.where(target == IGNORE, 0, target + 1)
    pair = Pair(open_stack(image[0], axes="zyx"), open_stack(painted, axes="zyx"), unpainted="ignore")
    scores = validate(network, blocks_of(pair, rule=Rule(classes)), torch.device("cpu"))
    with torch.inference_mode():
        heads = network(torch.from_numpy(image[0])[:, None])
    probability = [h.sigmoid() if classes == 1 else h.softmax(1) for h in heads]
    probability.append((probability[0] + probability[1]) / 2)
    for name, p in zip(("L1", "L2", "ensemble"), probability, strict=True):
        labels = (p[:, 0] >= 0.5).numpy().astype(int) if classes == 1 else p.argmax(1).numpy()
        ious = []
        for k in range(1, max(classes, 2)):
            a, b = (labels == k) & (target != IGNORE), target == k
            ious.append((a & b).sum() / (a | b).sum())
        assert scores[name]["iou"] == pytest.approx(np.mean(ious))
