"""Corrections on disk: what was accepted stays, whatever is proposed, stopped, killed or full."""

import errno
import json
import signal
import subprocess
import sys
from itertools import count

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import LocalStore

from napari_unetpp.box import Box
from napari_unetpp.model.card import ClassInfo
from napari_unetpp.stacks import Stack
from napari_unetpp.training import corrections_kept
from napari_unetpp.training.corrections import (
    CorrectionsError,
    create_corrections,
    is_corrections,
    open_corrections,
    propose,
    stack_of,
)
from napari_unetpp.training.reviewed import with_box, without_box

SHAPE = (2, 6, 7)
CELL = (ClassInfo("cell", "#112233"),)


def image(shape=SHAPE, name="cells"):
    axes = "tzyx"[-len(shape) :]
    return Stack(np.zeros(shape, np.uint8), axes, (None,) * (len(shape) - 2) + (0.5, 0.5), name)


@pytest.fixture
def make(tmp_path):
    """Makes corrections in a folder of their own: `make("background")`."""
    numbers = count()

    def made(unpainted="background", shape=SHAPE, classes=CELL):
        path = tmp_path / f"{next(numbers)}.corrections.zarr"
        return create_corrections(path, image(shape), classes=classes, unpainted=unpainted)

    return made


def run(steps):
    for _ in steps:
        pass


def mask(boxes, shape=SHAPE):
    found = np.zeros(shape, bool)
    for box in boxes:
        found[box.slices] = True
    return found


@st.composite
def boxes(draw, shape=SHAPE):
    spans = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
    return Box(
        tuple(a for a, _ in spans), tuple(max(b, a + 1) if b < n else b for (a, b), n in zip(spans, shape, strict=True))
    )


labels = st.integers(0, 2**16).map(lambda seed: np.random.default_rng(seed).integers(0, 4, SHAPE).astype(np.uint8))
steps = st.one_of(
    st.tuples(st.just("propose"), labels),
    st.tuples(st.just("paint"), st.tuples(boxes(), st.integers(0, 3))),
    st.tuples(st.sampled_from(["mark", "unmark"]), boxes()),
)


@given(st.lists(steps, max_size=8))
def test_a_proposal_changes_all_that_was_not_accepted_and_nothing_else(tmp_path_factory, history):
    path = tmp_path_factory.mktemp("laws") / "cells.corrections.zarr"
    corrections = create_corrections(path, image(), classes=CELL * 3, unpainted="background")
    expected, painted, reviewed = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    before = np.zeros(SHAPE, np.uint8)  # what each voxel was before somebody painted it
    for kind, what in history:
        if kind == "propose":
            run(propose(corrections, what))
            free = ~painted & ~reviewed
            expected[free] = before[free] = what[free]
        elif kind == "paint":
            box, label = what
            corrections.labels[box.slices] = expected[box.slices] = label
            painted = expected != before  # painting the old label again is taking it back
        elif what[0].size if isinstance(what, tuple) else what.size:
            getattr(corrections, kind)(what)
            reviewed[what.slices] = kind == "mark"
        np.testing.assert_array_equal(corrections.labels[:], expected)
        np.testing.assert_array_equal(corrections.painted(Box.of(SHAPE)), painted)
        np.testing.assert_array_equal(mask(corrections.reviewed), reviewed)
    corrections.close()
    again = open_corrections(path)
    np.testing.assert_array_equal(again.labels[:], expected)
    np.testing.assert_array_equal(again.painted(Box.of(SHAPE)), painted)
    assert again.reviewed == corrections.reviewed


@given(st.lists(st.tuples(st.booleans(), boxes().filter(lambda box: box.size > 0)), max_size=6))
def test_reviewed_boxes_hold_the_voxels_that_were_marked_and_none_inside_another(history):
    found, expected = (), np.zeros(SHAPE, bool)
    for marked, box in history:
        found = (with_box if marked else without_box)(found, box)
        expected[box.slices] = marked
    np.testing.assert_array_equal(mask(found), expected)
    assert not any(a.inside(b) for i, a in enumerate(found) for j, b in enumerate(found) if i != j)


def test_not_annotated_stays_so_whatever_is_proposed(make, rng):
    corrections = make("ignore")
    corrections.labels[0, 1:3] = 2
    said = rng.integers(0, 2, SHAPE).astype(np.uint8)
    run(propose(corrections, said))
    expected = np.zeros(SHAPE, np.uint8)
    expected[0, 1:3] = 2
    np.testing.assert_array_equal(corrections.labels[:], expected)
    np.testing.assert_array_equal(corrections.proposal[:], said + 1)
    np.testing.assert_array_equal(corrections.painted(Box.of(SHAPE)), expected > 0)


def test_reopened_it_is_as_it_was(make, rng):
    corrections = make("ignore", classes=(ClassInfo("cell", "#010203"), ClassInfo("wall", "#040506")))
    corrections.labels[...] = voxels = rng.integers(0, 4, SHAPE).astype(np.uint8)
    corrections.mark(Box((1, 0, 0), (2, 6, 7)))
    corrections.set_source({"model": "em", "level": 3})
    corrections.close()
    again = open_corrections(corrections.path, "r+")
    for name in ("unpainted", "classes", "axes", "spacing_um", "reviewed", "source", "image", "legend"):
        assert getattr(again, name) == getattr(corrections, name), name
    assert [info and info.name for info in again.legend.values()] == [None, "background", "cell", "wall"]
    stack = stack_of(again)
    np.testing.assert_array_equal(stack.read(Box.of(SHAPE))[0], voxels)
    assert (stack.axes, stack.spacing_um) == ("zyx", (None, 0.5, 0.5))


def test_one_paints_while_others_read(make):
    corrections = make()
    corrections.labels[0] = 1
    with pytest.raises(CorrectionsError, match="painted on in another window or program; close it there"):
        open_corrections(corrections.path, "r+")
    reader = open_corrections(corrections.path)
    assert reader.labels[0].all()
    assert not reader.writable
    with pytest.raises(ValueError, match="read"):
        reader.labels[0] = 2
    corrections.close()
    assert not corrections.writable
    assert open_corrections(corrections.path, "r+").writable


class Full(Exception):
    """Somebody pulled the plug."""


@pytest.mark.parametrize("reviewed", [False, True])
def test_a_proposal_that_was_cut_off_anywhere_can_be_repeated(make, monkeypatch, rng, reviewed):
    first, second, third = (rng.integers(0, 3, SHAPE).astype(np.uint8) for _ in range(3))
    ends = []
    for last in count():  # cut off before the first write, before the second, ...
        corrections = make(classes=CELL * 3)
        run(propose(corrections, first))
        corrections.labels[0, 2] = 3
        if reviewed:
            corrections.mark(Box((0, 4, 0), (1, 6, 7)))
        written = count()

        async def cut_off(store, key, value, *_, put=LocalStore.set, last=last, written=written, **__):
            if next(written) >= last:
                raise Full
            await put(store, key, value)

        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, "set", cut_off)
            finished = False
            try:
                run(propose(corrections, second))
                finished = True
            except Full:
                pass
        corrections.close()
        again = open_corrections(corrections.path, "r+")
        accepted = np.zeros(SHAPE, bool)
        accepted[0, 2] = True
        np.testing.assert_array_equal(again.painted(Box.of(SHAPE)), accepted)
        if reviewed:
            accepted[0, 4:6] = True
        run(propose(again, third))
        kept = np.where(np.indices(SHAPE)[1] == 2, 3, first)
        np.testing.assert_array_equal(again.labels[:], np.where(accepted, kept, third))
        again.close()
        ends.append(finished)
        if finished:
            break
    assert len(ends) > 6  # it did cut off, and at length it did not


def test_painting_goes_on_after_a_proposal_that_the_full_disk_stopped(make, monkeypatch):
    corrections = make()
    written = count()

    async def full(store, key, value, *_, put=LocalStore.set, **__):
        if next(written) == 2:  # after what is pending and the labels
            raise OSError(errno.ENOSPC, "No space left on device")
        await put(store, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "set", full)
        with pytest.raises(OSError, match="cannot save corrections: No space left on device") as caught:
            run(propose(corrections, np.ones(SHAPE, np.uint8)))
    assert str(corrections.path) in str(caught.value)
    corrections.labels[0, 0] = 3
    run(propose(corrections, np.full(SHAPE, 2, np.uint8)))
    expected = np.full(SHAPE, 2)
    expected[0, 0] = 3
    np.testing.assert_array_equal(corrections.labels[:], expected)


PAINT = """
import sys
import numpy as np
from napari_unetpp.training.corrections import open_corrections
corrections = open_corrections(sys.argv[1], "r+")
for stroke in range(1, 10**6):
    with corrections.writing:
        corrections.labels[stroke % 2, :, stroke // 2 % 600 : stroke // 2 % 600 + 9] = stroke % 250 + 1
    print(stroke, flush=True)
"""


def test_killed_in_mid_stroke_it_has_all_strokes_before(make):
    shape = (2, 300, 610)  # six chunks a slice
    for strokes in (7, 30):
        corrections = make(shape=shape)
        corrections.close()
        command = [sys.executable, "-c", PAINT, str(corrections.path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as painter:
            for line in painter.stdout:
                if int(line) == strokes:
                    painter.send_signal(signal.SIGKILL)
                    break
            rest = painter.stdout.read().split()  # told before the signal arrived
        last = int(rest[-1]) if rest else strokes
        expected = np.zeros(shape, np.uint8)

        def paint(stroke, expected=expected):
            expected[stroke % 2, :, stroke // 2 % 600 : stroke // 2 % 600 + 9] = stroke % 250 + 1

        for stroke in range(1, last + 1):
            paint(stroke)
        again = open_corrections(corrections.path, "r+")  # the lock died with the process
        found = np.asarray(again.labels[:])
        unlike = found != expected
        paint(last + 1)
        assert (found == np.where(unlike, expected, found)).all()  # at most the stroke in work, in part or whole
        again.labels[...] = 0
        again.close()


def test_what_is_wrong_is_told_in_one_line(make, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no corrections at .*; make them first"):
        open_corrections(tmp_path / "nothing")
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(CorrectionsError, match="is no folder of corrections"):
        open_corrections(tmp_path / "other.zarr")
    corrections = make()
    with pytest.raises(FileExistsError, match="exists already; open it, or name another"):
        create_corrections(corrections.path, image(), classes=CELL, unpainted="ignore")
    with pytest.raises(FileNotFoundError, match="does not exist; make it"):
        create_corrections(tmp_path / "a" / "b", image(), classes=CELL, unpainted="ignore")
    with pytest.raises(ValueError, match="cannot be taken over"):
        run(propose(corrections, np.zeros((2, 6, 8), np.uint8)))
    with pytest.raises(ValueError, match="one span an axis"):
        corrections.mark(Box((0, 0), (1, 1)))
    with pytest.raises(ValueError, match="lies beside the image"):
        corrections.mark(Box((5, 0, 0), (6, 1, 1)))
    with pytest.raises(ValueError, match="without the background"):
        create_corrections(tmp_path / "x", image(), classes=(), unpainted="ignore")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "has format 9 where this version reads 1; update"),
        ({"axes": "yx"}, "damaged .*do not fit shape"),
        ({"reviewed": [[[0, 0, 0]]]}, "damaged"),
        ({"reviewed": [[[0, 0], [1, 1]]]}, "damaged"),
        ({"classes": [{"colour": "red"}]}, "damaged"),
        ({"unpainted": "who knows"}, "damaged .*who knows"),
        ({"image": None}, "damaged"),
    ],
)
def test_damage_is_told_in_one_line(make, change, message):
    corrections = make()
    corrections.close()
    file = corrections.path / "zarr.json"
    root = json.loads(file.read_text())
    root["attributes"]["napari-unetpp-corrections"].update(change)
    file.write_text(json.dumps(root))
    assert is_corrections(corrections.path)
    with pytest.raises(CorrectionsError, match=message) as caught:
        open_corrections(corrections.path, "r+")
    assert "\n" not in str(caught.value)
    with pytest.raises(CorrectionsError):  # and not "painted on elsewhere"
        open_corrections(corrections.path, "r+")


def test_a_missing_array_is_damage(make):
    import shutil

    corrections = make()
    corrections.close()
    shutil.rmtree(corrections.path / "proposal")
    with pytest.raises(CorrectionsError, match=r"damaged .*proposal"):
        open_corrections(corrections.path)


def test_a_deleted_folder_is_told_and_not_made_anew(make):
    import shutil

    corrections = make()
    shutil.rmtree(corrections.path)
    for change in (
        lambda: corrections.mark(Box.of(SHAPE)),
        lambda: run(propose(corrections, np.ones(SHAPE, np.uint8))),
    ):
        with pytest.raises(OSError, match="the folder was moved or deleted"):
            change()
    assert corrections.reviewed == ()
    assert not corrections.path.exists()


def test_memory_keeps_every_stroke_and_of_a_models_labels_what_it_has_room_for(make, monkeypatch, rng, tmp_path):
    import shutil

    monkeypatch.setattr(corrections_kept, "MOST_BYTES", 100_000)
    shape = (6, 256, 256)
    corrections = make(shape=shape, classes=CELL * 3)
    run(propose(corrections, rng.integers(0, 3, shape).astype(np.uint8)))
    kept = sum(map(len, corrections._store._files.values()))
    assert 50_000 < kept < 110_000  # of about 200 kB
    with corrections.writing:
        corrections.labels[2, 10:20] = 3
        corrections.labels[5, 30:40] = 2
    expected = np.asarray(corrections.labels[:])
    assert corrections.save_elsewhere(tmp_path / "whole.corrections.zarr")  # the rest comes from the disk
    np.testing.assert_array_equal(open_corrections(tmp_path / "whole.corrections.zarr").labels[:], expected)
    shutil.rmtree(corrections.path)
    assert corrections.check() is not None
    assert not corrections.save_elsewhere(tmp_path / "part.corrections.zarr")
    found = open_corrections(tmp_path / "part.corrections.zarr").labels
    for z in (2, 5):
        np.testing.assert_array_equal(found[z], expected[z])


@given(st.lists(st.tuples(boxes(), st.integers(0, 3), st.booleans()), max_size=8))
def test_strokes_on_a_disk_that_comes_and_goes_are_all_there_in_the_end(tmp_path_factory, strokes):
    path = tmp_path_factory.mktemp("laws") / "cells.corrections.zarr"
    corrections = create_corrections(path, image(), classes=CELL * 3, unpainted="background")
    expected = np.zeros(SHAPE, np.uint8)
    for box, label, away in strokes:
        if away and path.exists():
            path.rename(path.with_name("away"))
        elif not away and not path.exists():
            path.with_name("away").rename(path)
        with corrections.writing:
            corrections.retry()
            corrections.labels[box.slices] = expected[box.slices] = label
            assert (corrections.check() is None) == path.exists()
        np.testing.assert_array_equal(corrections.labels[:], expected)
    if path.exists():
        np.testing.assert_array_equal(open_corrections(path).labels[:], expected)
    corrections.save_elsewhere(path.with_name("other.corrections.zarr"))
    np.testing.assert_array_equal(open_corrections(path.with_name("other.corrections.zarr")).labels[:], expected)
