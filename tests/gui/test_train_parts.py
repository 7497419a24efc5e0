"""What the Train dock is built from, without a window: pairs, labels, words, files of unfinished runs."""

from pathlib import Path

import numpy as np
import pytest

from napari_unetpp.gui.train_command import command_line
from napari_unetpp.gui.train_fields import PatchField
from napari_unetpp.gui.train_labels import EACH, EVERY, PairFacts, look_at_pair, targets_of
from napari_unetpp.gui.train_pairs import PairRequest, match_files
from napari_unetpp.gui.train_pictures import tiled
from napari_unetpp.gui.train_progress import Training
from napari_unetpp.gui.train_result import verdict
from napari_unetpp.gui.train_unfinished import hold_request, rebuild, unfinished
from napari_unetpp.gui.train_work import Scratch, TrainRequest
from napari_unetpp.stacks import open_stack
from napari_unetpp.training.compare import Row
from napari_unetpp.training.options import BatchDone, EpochDone, TrainOptions


def names(pairs):
    return [(pair.image.name, pair.label.name) for pair in pairs]


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        ("a.tif b.tif", "b_seg.tif a_seg.tif", "a.tif a_seg.tif b.tif b_seg.tif"),
        ("a.tif b.tif", "a.npy b.npy", "a.tif a.npy b.tif b.npy"),
        ("c1.tif c10.tif", "c1_l.tif c10_l.tif", "c1.tif c1_l.tif c10.tif c10_l.tif"),
        ("c10.tif c2.tif", "l10.tif l2.tif", "c2.tif l2.tif c10.tif l10.tif"),  # as one counts
        ("x.tif", "1.tif", "x.tif 1.tif"),  # the only ones
        ("a.ome.tif", "a.corrections.zarr", "a.ome.tif a.corrections.zarr"),
    ],
)
def test_files_find_each_other(images, labels, expected):
    found = match_files([Path(x) for x in images.split()], [Path(x) for x in labels.split()])
    assert [name for pair in names(found) for name in pair] == expected.split()


def test_counts_that_differ_are_refused():
    with pytest.raises(ValueError, match="2 images but 1 label file"):
        match_files([Path("a.tif"), Path("b.tif")], [Path("a_l.tif")])


def test_files_are_never_matched_by_their_order():
    with pytest.raises(ValueError, match=r"Names do not fit: .*x.tif, y.tif.*1.tif, 2.tif"):
        match_files([Path("x.tif"), Path("y.tif")], [Path("1.tif"), Path("2.tif")])


def test_labels_are_counted_in_blocks_as_at_once(monkeypatch, rng):
    from napari_unetpp.gui import train_labels

    labels = rng.integers(0, 4, (5, 33, 21), np.uint8)
    request = PairRequest(open_stack(rng.integers(0, 9, labels.shape, np.uint8)), open_stack(labels))
    monkeypatch.setattr(train_labels, "BLOCK", 100)
    *_, facts = look_at_pair(request)
    assert dict(facts.counts) == {k: int((labels == k).sum()) for k in range(4)}


def facts(*labels):
    return PairFacts((4, 4), "yx", 1, {0: 4, **dict.fromkeys(labels, 4)})


def test_what_labels_can_teach():
    values = lambda *arguments: [value for _, value in targets_of(*arguments)]  # noqa: E731
    assert values([facts(1, 2)], "background", None) == [EACH, EVERY, 1, 2]
    assert values([facts(1, 2)], "background", 1) == [EVERY, 1, 2]
    assert values([facts(1, 2)], "background", 3) == [EACH]
    assert values([facts(1, 2)], "ignore", None) == [EVERY]  # 1 is background there
    assert values([facts(*range(1, 200))], "background", None) == [EVERY]  # numbers of objects


def test_the_verdict_tells_who_is_better():
    worse = [Row("L1", "held-out", {"iou": 0.8}, {"iou": 0.6}), Row("L2", "held-out", {"iou": 0.7}, {"iou": 0.75})]
    assert verdict(worse, "iou") == "The parent is better on the held-out part (IoU 0.800 before, 0.750 after)."
    better = [Row("L1", "corrected", {"iou": 0.5}, {"iou": 0.6})]
    assert verdict(better, "iou").startswith("The new model is better on the corrected part")
    assert verdict([Row("L1", "held-out", None, {"iou": 0.6})], "iou") == ""


def test_patches_are_tinted_by_class_and_dark_where_nobody_annotated():
    images = np.tile(np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8), (5, 1, 1, 1))
    targets = np.zeros((5, 8, 8), np.uint8)
    targets[0, :4] = 1
    targets[1] = 255
    picture = tiled(images, targets, [(255, 0, 0)]).astype(int)
    zoom = (picture.shape[1] + 4) // 4 - 4  # four beside each other, with gaps of four
    first, second, third = (picture[:zoom, k * (zoom + 4) : k * (zoom + 4) + zoom] for k in range(3))
    assert (first[: zoom // 2, :, 0] > first[: zoom // 2, :, 1]).all()
    assert (np.ptp(third, axis=-1) == 0).all()
    assert second.mean() < 0.5 * third.mean()
    assert picture.shape[0] == 2 * zoom + 4  # five patches need a second row


def test_the_time_left_leaves_out_pauses(monkeypatch):
    from napari_unetpp.gui import train_progress

    now = [0.0]
    monkeypatch.setattr(train_progress.time, "monotonic", lambda: now[0])
    training = Training()
    training.begin(4, 0, None)
    now[0] = 10.0
    training.take_batch(BatchDone(0, 10, 10, 1.0))
    assert training.seconds_left == pytest.approx(30.0)  # three more epochs of ten seconds
    training.pause()
    now[0] = 1000.0
    assert training.seconds_left == pytest.approx(30.0)
    training.resume()
    assert training.seconds == pytest.approx(10.0)
    training.take_epoch(EpochDone(0, 4, 1.0, {"L1": {"iou": 0.5, "dice": 0.6}}, kept=True, stop=False, seconds=10.0))
    assert "epoch 1" in training.best_line("iou")


def request(start, **options):
    memo = {"image": {"path": "a.tif"}, "label": {"path": "b.tif"}}
    pair = PairRequest(Path("a.tif"), Path("b.tif"), memo)
    return TrainRequest((pair,), start, {"epochs": 3, **options}, "mine", ("left", "right"), "tiny")


def test_the_command_is_understood_by_the_command_line(home, tmp_path, monkeypatch):
    """Every word is one that `napari-unetpp train` knows: it stops at the files, not at the words."""
    import shlex

    from typer.testing import CliRunner

    from napari_unetpp.cli import app

    new = Scratch("unet++", width=2, depth=2, ndim=2)
    for asked in (
        request(new, foreground=0, balance=True, patch=(16, 32)),
        request(Path("tiny"), trainable="heads", foreground=2, patch=64),
    ):
        words = shlex.split(command_line(asked, [(Path("a.tif"), Path("b.tif"))], {"--axes": "yx"}))
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 1, result.output
        assert "a.tif" in result.output


def test_a_patch_is_one_number_or_one_for_each_axis(qtbot):
    """What the field says is what a run of the command line takes; see `TrainOptions.extents`."""
    field = PatchField("")
    qtbot.addWidget(field)
    written = {
        "96": 96,
        " 16x96x96": (16, 96, 96),
        "16 \u00d7 96 \u00d7 96": (16, 96, 96),
        "8,64, 64": (8, 64, 64),
        "8 64": (8, 64),
    }
    for text, value in written.items():
        field.setText(text)
        assert field.value() == value
        field.setValue(value)
        assert field.value() == value
        for ndim in (2, 3):
            try:
                TrainOptions(patch=value).extents(ndim)
                assert field.problem(ndim) == ""
            except ValueError:
                assert f"the network is {ndim}D" in field.problem(ndim)
    for text in ("", "x", "96 x", "0", "1 x 16", "16.5", "-16", "99999", "large"):
        field.setText(text)
        assert field.value() is None
        assert "16 x 96 x 96" in field.problem(2)


def test_a_run_is_written_down_and_found_again(home):
    asked = request(Scratch("unet++", width=2))
    out = asked.out
    with hold_request(asked, resume=False):
        out.with_name(out.name + ".training").touch()
        (found,) = unfinished()
        assert found == ()  # somebody is at it
        with pytest.raises(ValueError, match="being trained"), hold_request(asked, resume=False):
            pass
    ((left,),) = unfinished()
    again = rebuild(left, lambda memo: PairRequest(Path(memo["image"]["path"]), Path(memo["label"]["path"]), memo))
    assert (again.start, again.options, again.classes, again.name) == (
        asked.start,
        asked.options,
        asked.classes,
        asked.name,
    )
    assert again.pairs == asked.pairs


def test_a_run_that_never_came_to_an_epoch_leaves_nothing(home):
    asked = request(Scratch("unet++"))
    with hold_request(asked, resume=False):
        assert {path.suffix for path in asked.out.parent.iterdir()} == {".json", ".lock"}
    assert not list(asked.out.parent.iterdir())


def test_a_parent_that_is_another_by_now_is_told(home, model):
    from napari_unetpp.model.zoo import user_folder

    parent = user_folder() / "tiny.safetensors"
    asked = request(parent)
    with hold_request(asked, resume=False):
        asked.out.with_name(asked.out.name + ".training").touch()
    parent.write_bytes(parent.read_bytes() + b" ")
    ((left,),) = unfinished()
    with pytest.raises(ValueError, match="has changed since"):
        rebuild(left, lambda memo: PairRequest(Path(), Path(), memo))
