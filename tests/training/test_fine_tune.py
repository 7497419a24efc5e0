"""What fine-tuning adds: frozen parts, replay, balance, memory, and the table before and after."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_unetpp.model.card import Card
from napari_unetpp.model.checkpoint import load_model, read_header
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus
from napari_unetpp.stacks import open_stack
from napari_unetpp.training import at_hand, speed, step
from napari_unetpp.training.at_hand import Source, known_data, remember
from napari_unetpp.training.compare import before_after
from napari_unetpp.training.feed import batches
from napari_unetpp.training.losses import IGNORE, class_weights, hybrid_loss
from napari_unetpp.training.options import EpochDone, Started, TrainOptions
from napari_unetpp.training.pairs import Pair
from napari_unetpp.training.patches import preview_patches
from napari_unetpp.training.plan import TrainingError, make_plan
from napari_unetpp.training.resume import discard, state_path
from napari_unetpp.training.train import train, train_plan
from napari_unetpp.training.validate import validate
from tests.training.conftest import blobs, noise

SPEC = NetworkSpec(widths=(4, 8, 8), heads=(1, 2))
FAST = TrainOptions(epochs=2, steps=4, batch=4, patch=16, learning_rate=1e-2, augmentation="none", device="cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    list(train(SPEC, [blobs()], replace(FAST, steps=10), path, card=Card("base")))
    return load_model(path, "cpu")


@pytest.mark.parametrize(
    ("trainable", "changing"),
    [("heads", {"heads"}), ("decoder", {"heads", "ups", "nodes.0_1", "nodes.0_2", "nodes.1_1"})],
)
def test_what_is_not_trained_stays_bit_for_bit(base, tmp_path, trainable, changing):
    out = tmp_path / "a.safetensors"
    list(train(base, [blobs(seed=3)], replace(FAST, trainable=trainable), out))
    before, after = base.network.state_dict(), load_model(out, "cpu").network.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all(any(key.startswith(part) for part in changing) for key in changed)
    assert {part for part in changing if any(k.startswith(part) for k in before)} == {
        part for part in changing if any(k.startswith(part) for k in changed)
    }


def test_a_part_of_noise_is_not_trained(tmp_path):
    with pytest.raises(ValueError, match="from scratch"):
        train(SPEC, [blobs()], replace(FAST, trainable="heads"), tmp_path / "a.safetensors")


@pytest.mark.parametrize(("share", "old"), [(0.25, 1), (0.5, 2), (0.9, 3), (0.0, 0)])
def test_part_of_each_batch_is_the_parents_own_data(base, share, old):
    dark, bright = noise((4, 48, 48)), noise((4, 48, 48), seed=1)
    bright = Pair(open_stack(np.asarray(bright.image.data) // 2 + 120, axes="zyx"), bright.label)
    fixed = replace(base, intensity=replace(base.intensity, kind="fixed"))
    dark = Pair(open_stack(np.asarray(dark.image.data) // 3, axes="zyx"), dark.label)
    plan = make_plan(fixed, [dark], replace(FAST, replay=share), replay=[bright])
    for image, _ in batches(plan, 4, 0):
        assert [bool(patch.max() > 100) for patch in image] == [False] * (4 - old) + [True] * old


def test_weights_go_against_the_frequency_and_leave_absent_classes_out():
    assert class_weights([90, 10, 0], balance=False).tolist() == [1, 1, 0]
    weights = class_weights([80, 20, 0], balance=True)
    assert weights[1] / weights[0] == pytest.approx(4)
    assert weights[2] == 0
    assert float(weights[0] * 80 + weights[1] * 20) == pytest.approx(100)
    rare = class_weights([10**6, 1], balance=True)
    assert rare[1] / rare[0] == pytest.approx(10)


@pytest.mark.parametrize("classes", [1, 3])
def test_a_weighted_loss_is_the_weighted_entropy_plus_dice(classes):
    """By hand, voxel by voxel, in numpy."""
    rng = np.random.default_rng(classes)
    logits = rng.normal(size=(2, classes, 5, 5))
    target = rng.integers(0, 2, (2, 5, 5)).astype(np.uint8)  # class 2 of 3 is never annotated
    target[0, 0] = IGNORE
    weights = class_weights([30, 10] if classes == 1 else [30, 10, 0], balance=True)
    known = target != IGNORE
    if classes == 1:
        foreground = 1 / (1 + np.exp(-logits[:, 0]))
        p = np.stack([1 - foreground, foreground], axis=1)
    else:
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    entropy, dices = 0.0, []
    for k in (0, 1):
        entropy -= float(weights[k]) * np.log(p[:, k][known & (target == k)]).sum() / known.sum()
        truth = target[known] == k
        mine = p[:, k][known]
        dices.append((2 * (mine * truth).sum() + 1) / (mine.sum() + truth.sum() + 1))
    dice = dices[1] if classes == 1 else np.mean(dices)
    found = hybrid_loss(torch.from_numpy(logits), torch.from_numpy(target), weights)
    assert float(found) == pytest.approx(entropy + 1 - dice)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),  # its only name before torch 2.5
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.90 GB)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_until_it_does(base, tmp_path, monkeypatch, error):
    sizes, real = [], UNetPlusPlus.forward

    def forward(self, image, level=None):
        if self.training:
            sizes.append(len(image))
            if len(image) > 2:
                raise error
        return real(self, image, level)

    monkeypatch.setattr(UNetPlusPlus, "forward", forward)
    options = replace(FAST, batch=8, epochs=1, steps=2)
    events = list(train(base, [blobs()], options, tmp_path / "a.safetensors"))
    assert isinstance(events[-1], EpochDone)
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    monkeypatch.setattr(UNetPlusPlus, "forward", lambda *_: (_ for _ in ()).throw(error))
    monkeypatch.setattr("napari_unetpp.training.train.validate", lambda *_: None)
    with pytest.raises(TrainingError, match="smaller patch"):
        list(train(base, [blobs()], options, tmp_path / "b.safetensors"))


def test_an_error_that_is_not_of_memory_is_not_tried_again(base, tmp_path, monkeypatch):
    monkeypatch.setattr(UNetPlusPlus, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("bad shape")))
    monkeypatch.setattr("napari_unetpp.training.train.validate", lambda *_: None)
    with pytest.raises(RuntimeError, match="bad shape"):
        list(train(base, [blobs()], FAST, tmp_path / "a.safetensors"))


def test_parts_of_a_batch_add_up_to_its_step():
    """With nothing that depends on the batch as a whole (no BatchNorm, one patch repeated) the gradients are equal."""
    spec = replace(SPEC, block="conv-relu")
    torch.manual_seed(0)
    network = UNetPlusPlus(spec).double()
    image = torch.randn(1, 1, 16, 16).double().repeat(4, 1, 1, 1)
    target = (torch.rand(1, 16, 16) > 0.5).byte().repeat(4, 1, 1)
    gradients = []
    for parts in (1, 2, 4):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
        step.take_step(network, optimizer, image, target, torch.ones(2), replace(FAST, precision="fp32"), parts)
        gradients.append([p.grad.clone() for p in network.parameters()])
    whole = torch.cat([g.flatten() for g in gradients[0]])
    for other in gradients[1:]:
        # nearly: the smoothing of Dice is one voxel, of a part as of the whole
        apart = torch.cat([g.flatten() for g in other]) - whole
        assert float(apart.norm() / whole.norm()) < 0.01


def test_a_run_within_little_memory_learns_as_well(tmp_path):
    options = replace(FAST, epochs=6, steps=12, memory=2 * 2 * 48 * 48 + 1)
    events = list(train(SPEC, [blobs((12, 48, 48))], options, tmp_path / "a.safetensors"))
    assert max(e.scores["L2"]["iou"] for e in events if isinstance(e, EpochDone)) > 0.6


def test_what_no_memory_is_there_for_is_told_before_anything_is_read(monkeypatch):
    pairs = [blobs()]
    monkeypatch.setattr(speed, "free_memory", lambda _device: 2**30)
    with pytest.raises(
        ValueError, match=r"a batch of 99999999 patches takes more than [\d,.]+ GiB, and 1.0 GiB are free"
    ):
        make_plan(SPEC, pairs, replace(FAST, batch=99_999_999))
    with pytest.raises(ValueError, match=r"parameters takes [\d,.]+ GiB, and 1.0 GiB are free; use a smaller width"):
        make_plan(SPEC.with_width(100_000), pairs, FAST)


def test_the_batch_is_found_within_free_memory(monkeypatch):
    options = replace(FAST, batch=0, patch=32)
    each = speed.step_memory(UNetPlusPlus(SPEC), (32, 32))
    state = 16 * sum(p.numel() for p in UNetPlusPlus(SPEC).parameters())
    # at least every output of a convolution is kept, in float32: two a node, of the resolution of its row
    nodes = sum(2 * SPEC.node_width(i, j) * (32 >> i) ** 2 * 4 for i, j in SPEC.nodes)
    assert nodes <= each <= 6 * nodes
    for room, batch in ((8.5, 8), (7.5, 4), (2.0, 2), (0.1, 1)):
        monkeypatch.setattr(speed, "free_memory", lambda _device, room=room: int(2 * (state + room * each)) + 2)
        assert speed.choose_batch(SPEC, options) == batch
    monkeypatch.undo()
    assert speed.free_memory(torch.device("cpu")) > 2**20
    assert make_plan(SPEC, [blobs()], options).batch in (1, 2, 4, 8)


def test_a_step_is_measured_without_touching_the_model(base):
    before = {k: v.clone() for k, v in base.network.state_dict().items()}
    assert 0 < speed.seconds_per_step(make_plan(base, [blobs()], FAST)) < 60
    assert all(torch.equal(v, before[k]) for k, v in base.network.state_dict().items())
    assert not base.network.training


def test_the_plan_tells_what_it_will_do():
    labels = np.zeros((20, 64, 64), np.uint8)
    labels[:, 10:20] = 1
    spec = replace(SPEC, classes=3)
    plan = make_plan(spec, [noise(labels.shape, labels=labels)], FAST)
    assert plan.annotated["training"] == {
        "background": 15 * 54 * 64,
        "class 1": 15 * 10 * 64,
        "class 2": 0,
    }
    assert plan.places == {"training": ("array[0:15,0:64,0:64]",), "validation": ("array[17:20,0:64,0:64]",)}
    assert len(plan.warnings) == 1
    assert "class 2" in plan.warnings[0]
    images, targets = preview_patches(plan, 5, 1)
    assert images.shape == (5, 1, 16, 16)
    assert set(np.unique(targets)) <= {0, 1}
    assert not np.array_equal(images, preview_patches(plan, 5, 2)[0])


def test_before_and_after_stand_on_the_card(base, tmp_path):
    out = tmp_path / "a.safetensors"
    inverted = blobs(seed=5)
    inverted = Pair(open_stack(255 - inverted.image.data, axes="zyx"), inverted.label)
    plan = make_plan(base, [inverted], replace(FAST, epochs=3, steps=15))
    events = list(train_plan(plan, out))
    assert isinstance(events[0], Started)
    *_, table = before_after(plan, out)
    assert {(row.level, row.part) for row in table.rows} == {
        (level, part) for level in ("L1", "L2", "ensemble") for part in ("held-out", "corrected")
    }
    tuned = load_model(out, "cpu")
    for row in table.rows:
        data = plan.validation if row.part == "held-out" else plan.training
        assert row.before == validate(base.network, data, torch.device("cpu"))[row.level]
        assert row.after == validate(tuned.network, data, torch.device("cpu"))[row.level]
    assert table.better
    scores = read_header(out).card.scores
    assert scores["validation"]["L2"] == next(r.after for r in table.rows if (r.level, r.part) == ("L2", "held-out"))
    assert set(scores) == {"validation", "validation, parent", "corrected part", "corrected part, parent"}
    record = tuned.card.training
    assert record["parent"] == base.sha256
    assert record["data"][0]["labels_sha256"]


def test_corrections_that_changed_make_another_run(base, tmp_path):
    pair = blobs()
    run = train(base, [pair], FAST, tmp_path / "a.safetensors")
    next(e for e in run if isinstance(e, EpochDone))
    run.close()
    np.asarray(pair.label.data)[0, :4] = 1
    with pytest.raises(ValueError, match="other data"):
        train(base, [pair], FAST, tmp_path / "a.safetensors", resume=True)


def test_a_resumed_run_tells_its_history(base, tmp_path):
    out = tmp_path / "a.safetensors"
    run = train(base, [blobs()], replace(FAST, epochs=3), out)
    first = next(run)
    done = next(e for e in run if isinstance(e, EpochDone))
    run.close()
    again = next(train(base, [blobs()], replace(FAST, epochs=3), out, resume=True))
    assert again.history == (done,)
    assert again.before == first.before
    assert again.epoch == 1


def test_discarding_leaves_nothing(base, tmp_path):
    out = tmp_path / "a.safetensors"
    run = train(base, [blobs()], FAST, out)
    next(e for e in run if isinstance(e, EpochDone))
    run.close()
    assert out.exists()
    assert state_path(out).exists()
    discard(out)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_before_the_first_step(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(OSError, match="MiB free"):
        train(SPEC, [blobs()], FAST, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("labels", "more", "says"),
    [
        (0, {}, "no foreground"),
        (1, {}, "the same class"),
        (1, {"unpainted": "ignore"}, "only background"),
        (2, {"unpainted": "ignore"}, "no background"),
        (0, {"unpainted": "ignore"}, "no voxel is annotated"),
        (1, {"reviewed": ()}, "no slice is marked as reviewed"),
    ],
)
def test_labels_that_teach_nothing_are_refused(tmp_path, labels, more, says):
    pair = noise((6, 48, 48), labels=np.full((6, 48, 48), labels, np.uint8), **more)
    with pytest.raises(TrainingError, match=says):
        train(SPEC, [pair], FAST, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_images_that_cannot_be_learnt_from_are_refused(tmp_path):
    broken = np.zeros((6, 48, 48), np.float32)
    broken[:, 3, 3] = np.nan
    pair = Pair(open_stack(broken, axes="zyx"), blobs().label)
    with pytest.raises(ValueError, match="NaN"):
        train(SPEC, [pair], FAST, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_data_at_hand_are_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(at_hand, "user_folder", lambda: tmp_path / "models")
    image, label, gone = tmp_path / "i.tif", tmp_path / "l.tif", tmp_path / "gone.tif"
    image.touch()
    label.touch()
    assert known_data("abc") == ()
    remember("abc", [Source(image, label), Source(gone, label)])
    remember("def", [])
    assert known_data("abc") == (Source(image, label),)
    (tmp_path / "models" / "training-data.json").write_text("[1, 2")
    assert known_data("abc") == ()
