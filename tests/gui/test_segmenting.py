"""The job behind the dock, without a window: what it offers, where it writes, what comes first."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from napari_unetpp.box import Box
from napari_unetpp.gui import segmenting
from napari_unetpp.gui.catalogue import look_around
from napari_unetpp.gui.segmenting import Prepared, Request, segment
from napari_unetpp.inference.events import Checking, Waiting
from napari_unetpp.inference.store import open_store
from napari_unetpp.model.checkpoint import Model, save_model
from napari_unetpp.model.zoo import user_folder
from napari_unetpp.stacks import open_stack


@pytest.fixture
def request_for(model, predictions, rng):
    """A request to segment noise of that shape with the tiny model."""

    def made(shape, axes="zyx", **changes):
        stack = open_stack(rng.integers(0, 200, shape, np.uint8), axes=axes)
        values = {
            "stack": stack,
            "model": user_folder() / "tiny.safetensors",
            "level": 2,
            "tiling": "seamless",
            "device": "cpu",
            "visible": Box.of(stack.shape_predicted),
            "region": None,
            "folder": None,
        }
        return Request(**{**values, **changes})

    return made


def test_models_and_devices(model):
    (catalogue,) = look_around()
    (choice,) = catalogue.models
    assert choice.levels == ((1, "L1 (recommended)"), (2, "L1 to L2"))
    assert choice.tilings == (
        ("seamless", "Seamless (recommended)"),
        ("overlap", "Overlap 96/48, mean"),
    )
    assert [key for key, _ in catalogue.devices.offered][:2] == ["auto", "cpu"]


def test_without_models_there_is_still_a_device(home):
    (catalogue,) = look_around()
    assert catalogue.models == ()
    assert catalogue.devices.offered


def test_seamless_is_not_offered_where_it_cannot_be_exact(home, tiny_model):
    from napari_unetpp.model.unetpp import UNetPlusPlus

    tiny = tiny_model()
    spec = replace(tiny.spec, upsampling="bilinear-aligned")
    card = replace(tiny.card, tiling={"kind": "overlap", "patch": 32, "stride": 16})
    aligned = Model(spec, UNetPlusPlus(spec), tiny.intensity, card, tiny.device)
    save_model(aligned, user_folder() / "aligned.safetensors")
    (catalogue,) = look_around()
    assert catalogue.models[0].tilings == (("overlap", "Overlap 32/16, mean (recommended)"),)


def test_first_the_store_then_tiles_with_what_is_visible_first(request_for):
    request = request_for((4, 16, 32), visible=Box((2, 0, 16), (3, 16, 32)))
    prepared, *tiles = segment(request)
    assert isinstance(prepared, Prepared)
    assert (prepared.done, prepared.total) == (0, 8)
    assert [event.done for event in tiles] == list(range(1, 9))
    # Tiles that lie alike in two slices go through the network together.
    assert tiles[0].tile.inner.start == (2, 0, 16)
    assert sum(event.tile.inner.start[0] == 2 for event in tiles[:4]) == 2


def test_a_region_is_counted_by_itself_and_the_rest_comes_later(request_for):
    region = Box((3, 0, 0), (4, 16, 32))
    request = request_for((9, 16, 32), region=region, visible=region)
    events = list(segment(request))
    assert [(e.done, e.total) for e in (events[0], events[-1])] == [(0, 2), (2, 2)]
    store = events[0].store
    assert not store.complete
    rest = [e for e in segment(request_for((9, 16, 32), stack=request.stack)) if not isinstance(e, Waiting)]
    assert rest[0].store.path == store.path
    assert rest[0].done >= 2
    assert open_store(store.path).complete


def test_a_slice_of_a_3d_network_is_its_tiles_through_that_slice(request_for, tiny_model):
    save_model(tiny_model(ndim=3), user_folder() / "tiny3.safetensors")
    region = Box((20, 0, 0), (21, 16, 32))
    path = user_folder() / "tiny3.safetensors"
    events = list(segment(request_for((48, 16, 32), model=path, region=region)))
    assert events[-1].done == events[-1].total == 2  # of 3 layers of 2 tiles
    assert events[0].store.read(2, region).any()


def test_several_classes(request_for, tiny_model):
    save_model(tiny_model(classes=3), user_folder() / "tiny-3-classes.safetensors")
    path = user_folder() / "tiny-3-classes.safetensors"
    prepared, *_ = segment(request_for((2, 16, 32), model=path))
    assert prepared.store.classes == ("background", "1", "2")


def test_a_fast_run_can_be_left_while_it_measures_and_goes_on_as_it_began(request_for, monkeypatch):
    from napari_unetpp.inference import fast
    from napari_unetpp.inference.events import TileDone, Waiting
    from napari_unetpp.inference.int8 import weight_limit

    if not weight_limit():
        pytest.skip("no exact int8 convolution on this processor")
    monkeypatch.setattr(fast, "LEAST_AGREEMENT", 0.0)
    begun, ended, calibrate = threading.Event(), threading.Event(), fast.calibrate

    def slow(*arguments, checkpoint, **options):
        begun.set()
        try:
            while True:
                checkpoint()
                time.sleep(0.01)
        finally:
            ended.set()

    monkeypatch.setattr(fast, "calibrate", slow)
    request = request_for((2, 16, 32), fast=True)
    job = segment(request)
    assert isinstance(next(job), Waiting)
    assert begun.wait(10)
    job.close()
    assert ended.is_set()

    monkeypatch.setattr(fast, "calibrate", calibrate)
    job = segment(request)
    prepared = next(event for event in job if isinstance(event, Prepared))
    assert prepared.note().startswith("int8 gives the labels of fp32 at L1 ")
    next(event for event in job if isinstance(event, TileDone))
    job.close()
    numbers = prepared.store.record["calibration"]
    # Measured anew, the numbers may be others (another machine); a run that is there keeps its own.
    monkeypatch.setattr(fast, "calibrate", lambda *a, **k: replace(calibrate(*a, **k), nudges={}))
    again, *rest = [event for event in segment(request) if not isinstance(event, Waiting)]
    assert again.store.path == prepared.store.path
    assert again.store.record["calibration"] == numbers
    assert again.done + len(rest) == again.total == again.store.done_count


def test_nothing_is_overwritten(request_for, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "array-tiny.ome.zarr").write_text("somebody else's")
    first, *_ = segment(request_for((16, 32), "yx", folder=folder))
    assert first.store.path.name == "array-tiny-2.ome.zarr"
    other_pixels, *_ = segment(request_for((16, 32), "yx", folder=folder))
    assert other_pixels.store.path.name == "array-tiny-3.ome.zarr"
    assert (folder / "array-tiny.ome.zarr").read_text() == "somebody else's"


def test_a_running_job_keeps_its_store_to_itself(request_for):
    request = request_for((2, 16, 32))
    running = segment(request)
    first = next(running).store.path
    second, *_ = segment(request)
    assert second.store.path != first
    running.close()
    third, *_ = segment(request)
    assert third.store.path == first


def test_a_folder_that_cannot_be_written(request_for, tmp_path):
    with pytest.raises(OSError, match="does not exist"):
        list(segment(request_for((16, 32), "yx", folder=tmp_path / "missing")))


def test_the_temporary_folder_is_made_once(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    segmenting.temporary_folder.cache_clear()
    try:
        folder = segmenting.temporary_folder()
        assert folder.parent == tmp_path
        assert segmenting.temporary_folder() == folder
    finally:
        segmenting.temporary_folder.cache_clear()


def test_an_image_that_changed_gets_a_store_of_its_own(request_for, predictions):
    """One voxel is another, which no sample of the image sees."""
    request = request_for((4, 16, 32), folder=predictions)
    list(segment(request))
    request.stack.data[3, 15, 31] ^= 1
    prepared, *tiles = (event for event in segment(request) if not isinstance(event, Waiting))
    assert prepared.store.path.name.endswith("-2.ome.zarr")
    assert "or of this one before it changed" in prepared.note()
    assert (prepared.done, len(tiles)) == (0, 8)
    prepared, *tiles = (event for event in segment(request) if not isinstance(event, Waiting))
    assert prepared.store.path.name.endswith("-2.ome.zarr")
    assert (prepared.done, tiles) == (8, [])


def test_what_is_compared_is_told(request_for, predictions):
    request = request_for((4, 16, 32), folder=predictions)
    list(segment(request))
    told = [event for event in segment(request) if isinstance(event, Checking)]
    assert [(event.done, event.total) for event in told] == [(k, 8) for k in range(1, 9)]
