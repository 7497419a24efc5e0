"""Killed and resumed equals uninterrupted, byte for byte; another run is refused."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_unetpp.box import Box
from napari_unetpp.inference import runs
from napari_unetpp.inference.predict import make_record, measure_stack, open_run, predict_stack
from napari_unetpp.inference.seen import ChangedImageError
from napari_unetpp.inference.store import PredictionStore, StoreError, open_store
from napari_unetpp.inference.tiles import Overlap, Seamless, plan_tiles
from napari_unetpp.model.intensity import Scaling
from napari_unetpp.stacks import open_stack

TILINGS = [Seamless(inner=32, halo=8), Overlap(16, 8, "mean"), Overlap(16, 8, "gaussian")]


class PowerCutError(BaseException):
    """What no `except Exception` on the way may catch."""


@pytest.fixture
def stack(texture):
    return open_stack(texture(2, 200, 24), axes="zyx")


def plan(stack, model, tiling, **options):
    return plan_tiles(stack.shape_predicted, model.spec, tiling, **options)


def start(path, stack, model, tiling, *, visible=None, batch=3, **options):
    tiles = plan(stack, model, tiling, visible=visible)
    return predict_stack(stack, model, tiles, open_run(path, stack, model, tiles, **options), batch=batch)


def chunks(path: Path) -> dict[str, bytes]:
    """Every file of the arrays, by its name in the store."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for name in ("L1", "L2", "done")
        for file in sorted((path / name).rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_resumed_equals_uninterrupted_byte_for_byte(make_model, stack, tmp_path, tiling):
    model = make_model()
    events = list(start(tmp_path / "straight", stack, model, tiling))
    total = len(events)
    assert [e.done for e in events] == list(range(1, total + 1))
    assert {e.total for e in events} == {total}
    assert events[-1].voxels == np.prod(stack.shape)
    expected = chunks(tmp_path / "straight")
    assert len(expected) > 2 * total  # all levels, more than metadata
    for k in (0, 2, total - 1):
        path = tmp_path / f"killed after {k}"
        run = start(path, stack, model, tiling)
        for _ in range(k):
            next(run)
        run.close()
        # Writing goes on beside the network, so some more may be safe than were told.
        safe = open_store(path).done_count
        assert k <= safe
        assert safe == 0 or k > 0
        # The second run sees another part of the stack on the screen.
        rest = list(start(path, stack, model, tiling, visible=Box((1, 64, 0), (2, 96, 24))))
        assert [e.done for e in rest] == list(range(safe + 1, total + 1))
        assert sum(e.tile.inner.size for e in rest) == (rest[-1].voxels if rest else 0)
        assert open_store(path).complete
        assert chunks(path) == expected


@pytest.mark.parametrize("tiling", TILINGS[:2], ids=str)
@pytest.mark.parametrize("part", ["write", "mark_done"])
def test_a_crash_in_the_middle_of_a_tile(make_model, stack, tmp_path, monkeypatch, tiling, part):
    model = make_model()
    list(start(tmp_path / "straight", stack, model, tiling))
    whole_write, whole_mark = PredictionStore.write, PredictionStore.mark_done

    def broken_write(store, tile, probabilities):
        if store.done_count == 2:  # one level is written, then the power fails
            whole_write(store, tile, {1: probabilities[1]})
            raise PowerCutError
        whole_write(store, tile, probabilities)

    def broken_mark(store, tile, seen):
        if store.done_count == 2:  # all is written, nothing is marked
            raise PowerCutError
        whole_mark(store, tile, seen)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionStore, part, broken_write if part == "write" else broken_mark)
        with pytest.raises(PowerCutError):
            list(start(tmp_path / "killed", stack, model, tiling))
    assert open_store(tmp_path / "killed").done_count == 2
    list(start(tmp_path / "killed", stack, model, tiling))
    assert chunks(tmp_path / "killed") == chunks(tmp_path / "straight")


@pytest.mark.parametrize("tiling", TILINGS[:2], ids=str)
def test_an_event_means_safe_and_cancel_stops_at_once(make_model, stack, tmp_path, tiling, passes):
    model = make_model()
    run = start(tmp_path / "store", stack, model, tiling)
    assert not passes  # nothing runs before it is asked for
    for event in (next(run), next(run)):
        seen = open_store(tmp_path / "store")  # as another process would
        assert seen.is_done(event.tile)
        for level in (1, 2):
            assert seen.done(level)[event.tile.index]
            assert seen.read(level, event.tile.inner).any()
    run.close()
    before, safe = len(passes), open_store(tmp_path / "store").done_count
    assert safe >= 2
    time.sleep(0.1)  # nothing goes on behind the back of who closed it
    assert len(passes) == before
    assert open_store(tmp_path / "store").done_count == safe


def test_a_finished_run_has_nothing_to_do(make_model, stack, tmp_path, passes):
    model = make_model()
    list(start(tmp_path / "store", stack, model, TILINGS[0]))
    passes.clear()
    assert list(start(tmp_path / "store", stack, model, TILINGS[0])) == []
    assert not passes


def test_visible_tiles_are_predicted_first(make_model, stack, tmp_path):
    model = make_model()
    visible = Box((1, 100, 0), (2, 120, 24))
    run = start(tmp_path / "store", stack, model, TILINGS[0], visible=visible, batch=1)
    tiles = [event.tile for event in run]
    assert tiles == list(plan(stack, model, TILINGS[0], visible=visible))
    assert tiles[0].inner.intersect(visible).size > 0


def test_a_continued_run_keeps_the_scaling_of_its_beginning(make_model, stack, tmp_path, monkeypatch):
    """Another version of numpy may round differently, which must not be seen in the voxels."""
    model = make_model()
    next(start(tmp_path / "store", stack, model, TILINGS[0]))
    recorded = open_store(tmp_path / "store").record["scaling"]
    rounded = Scaling(tuple(n * (1 + 1e-13) for n in recorded["offset"]), tuple(recorded["gain"]))
    assert rounded.to_json() != recorded
    monkeypatch.setattr(runs, "measure_stack", lambda *_: rounded)
    list(start(tmp_path / "store", stack, model, TILINGS[0]))
    assert open_store(tmp_path / "store").record["scaling"] == recorded


def test_other_intensities_anywhere_are_another_image(make_model, stack, tmp_path, monkeypatch):
    """The part that is not predicted yet has no hash, but the scaling depends on it."""
    model = make_model()
    monkeypatch.setattr(runs, "stack_hash", lambda stack: "the same")
    next(start(tmp_path / "other", stack, model, TILINGS[0], batch=1))
    brighter = np.array(stack.data)
    brighter[-1] += 50
    with pytest.raises(ChangedImageError, match="its intensities are others; overwrite it"):
        start(tmp_path / "other", replace(stack, data=brighter), model, TILINGS[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"seed": 1}}, r"another model \(was tiny sha-0, now tiny sha-1\)"),
        ({"tiling": Seamless(inner=32, halo=12)}, r"another tiling \(was seamless 32 8, now seam"),
        ({"tiling": Overlap(16, 8)}, "another tiling"),
        ({"image": 1}, "another image"),
        ({"shape": (2, 180, 24)}, "another image shape"),
        ({"level": 1}, "another levels"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_run_is_refused_and_changes_nothing(make_model, texture, stack, tmp_path, change, message):
    path = tmp_path / "store"
    next(start(path, stack, make_model(), TILINGS[0]))
    before = chunks(path)
    model = make_model(**change.get("model", {}))
    tiling = change.get("tiling", TILINGS[0])
    if "image" in change or "shape" in change:
        stack = open_stack(texture(*change.get("shape", stack.shape)), axes="zyx")
    tiles = plan(stack, model, tiling, level=change.get("level"))
    with pytest.raises(StoreError, match=message + ".*--overwrite.*another path"):
        open_run(path, stack, model, tiles)
    with pytest.raises(StoreError, match=message):  # also where the store was opened by hand
        predict_stack(stack, model, tiles, open_store(path, "r+"))
    assert chunks(path) == before
    assert open_run(path, stack, model, tiles, overwrite=True).done_count == 0


def test_a_renamed_image_is_the_same_image(make_model, stack, tmp_path):
    model = make_model()
    np.save(tmp_path / "a.npy", stack.data)
    next(start(tmp_path / "store", stack, model, TILINGS[0]))
    moved = open_stack(tmp_path / "a.npy")
    assert moved.name != stack.name
    safe = open_store(tmp_path / "store").done_count
    assert next(start(tmp_path / "store", moved, model, TILINGS[0])).done == safe + 1


def test_the_record_says_what_was_run(make_model, stack, tmp_path):
    model = make_model()
    tiles = plan(stack, model, TILINGS[1])
    store = open_run(tmp_path / "store", stack, model, tiles, command="napari-unetpp segment a.tif")
    record = open_store(store.path).record
    assert record["model"] == "tiny"
    assert record["model_sha256"] == "sha-0"
    assert record["tiling"] == {
        "kind": "overlap",
        "patch": 16,
        "stride": 8,
        "aggregate": "mean",
    }
    assert record["levels"] == [1, 2]
    assert record["command"] == "napari-unetpp segment a.tif"
    assert record["stack"]["shape"] == list(stack.shape)
    assert record["stack"]["dtype"] == "uint8"
    assert record["classes"] == [{"name": "class 1", "color": "#e69f00"}]
    assert set(record["scaling"]) == {"offset", "gain"}


def test_an_unsaved_model_is_known_by_its_weights(make_model, stack):
    hashes = set()
    for seed in (0, 0, 1):
        model = replace(make_model(seed=seed), sha256="")
        tiles = plan(stack, model, TILINGS[0])
        hashes.add(make_record(stack, model, tiles, measure_stack(stack, model))["model_sha256"])
    assert len(hashes) == 2
