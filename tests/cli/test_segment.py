"""`segment`: what it writes, how it goes on, what it refuses."""

from __future__ import annotations

import errno
import sys

import numpy as np
import pytest
import tifffile

from napari_unetpp.inference.int8 import weight_limit
from napari_unetpp.inference.labels import label_view
from napari_unetpp.inference.predict import predict_region
from napari_unetpp.inference.store import PredictionStore, open_store
from napari_unetpp.model.checkpoint import load_model

from .conftest import contents, write_model, write_tiff

BASE = ("segment", "stack.tif", "-o", "out.ome.zarr", "--model", "tiny.safetensors")


def test_writes_all_levels_and_labels_and_says_so(run, here):
    done = run(*BASE, "--labels", "out.tif")
    assert done.code == 0
    assert "z 5, y 40, x 36" in done.out
    store = open_store(here / "out.ome.zarr")
    assert store.complete
    assert store.levels == (1, 2)
    assert store.record["tiling"]["kind"] == "overlap"  # as the card recommends
    # Without --level the labels are of the level that the card recommends.
    labels = tifffile.imread(here / "out.tif")
    np.testing.assert_array_equal(labels, label_view(store, 1)[...])
    with tifffile.TiffFile(here / "out.tif") as file:
        assert file.series[0].axes == "ZYX"


def test_level_and_threshold_decide_labels(run, here):
    assert run(*BASE, "--level", "2", "--threshold", "0.6", "--labels", "out.tif").code == 0
    store = open_store(here / "out.ome.zarr")
    expected = np.asarray(store.probability(2)[0]) >= 0.6 * 255
    np.testing.assert_array_equal(tifffile.imread(here / "out.tif"), expected)
    assert run("segment", "stack.tif", "-o", "one.zarr", "--model", "tiny.safetensors", "--level", "1").code == 0
    assert open_store(here / "one.zarr").levels == (1,)


def test_seamless_equals_one_pass_over_the_image(run, here):
    assert run(*BASE, "--tiling", "seamless").code == 0
    store = open_store(here / "out.ome.zarr")
    model = load_model(here / "tiny.safetensors", "cpu")
    raw = tifffile.imread(here / "stack.tif")
    from napari_unetpp.inference.inputs import measure_stack
    from napari_unetpp.stacks import open_stack

    scaling = measure_stack(open_stack(raw), model)
    for z in range(5):
        for level, head in zip((1, 2), predict_region(raw[z][None], model, scaling=scaling), strict=True):
            stored = np.asarray(store.probability(level)[0, z])
            assert np.abs(stored - head[0] * 255.0).max() <= 0.51


def test_json_is_one_object_a_line_and_ends_with_the_result(run):
    done = run(*BASE, "--json", "--labels", "out.tif")
    assert done.err == ""
    kinds = [event["event"] for event in done.events]
    tiles = kinds.count("tile")
    assert kinds == ["start", *["tile"] * tiles, "labels", "result"]
    assert [e["done"] for e in done.events if e["event"] == "tile"] == list(range(1, tiles + 1))
    start, result = done.events[0], done.events[-1]
    assert start["axes"] == "zyx"
    assert start["tiles"] == result["tiles"] == tiles
    assert result["levels"] == ["L1", "L2"]
    assert result["voxels"] == 5 * 40 * 36


def test_the_same_command_again_has_nothing_to_do(run, here):
    arguments = (*BASE, "--labels", "out.tif", "--json")
    run(*arguments)
    before = contents(here / "out.ome.zarr")
    again = run(*arguments)
    assert again.code == 0
    assert "tile" not in [event["event"] for event in again.events]
    assert again.events[-1]["resumed"] == again.events[-1]["tiles"]
    assert contents(here / "out.ome.zarr") == before


@pytest.mark.parametrize(
    "change",
    [
        ("--tiling", "seamless"),
        ("--stride", "16"),
        ("--aggregate", "vote"),
        ("--level", "1"),
        ("--model", "other.safetensors"),
        ("--region", "0:2,:,:"),
    ],
)
def test_another_run_into_the_same_store_is_refused_unless_overwritten(run, here, change):
    write_model(here / "other.safetensors", tiling={"kind": "overlap", "patch": 24, "stride": 12})
    run(*BASE)
    before = contents(here / "out.ome.zarr")
    refused = run(*BASE, *change)
    assert refused.code == 1
    assert len(refused.error_lines) == 1
    assert "--overwrite" in refused.err
    assert contents(here / "out.ome.zarr") == before
    assert run(*BASE, *change, "--overwrite").code == 0
    assert open_store(here / "out.ome.zarr").complete


def test_overwrite_never_removes_what_is_not_a_store(run, here):
    (here / "out.ome.zarr").mkdir()
    (here / "out.ome.zarr" / "thesis.txt").write_text("precious")
    done = run(*BASE, "--overwrite")
    assert done.code == 1
    assert (here / "out.ome.zarr" / "thesis.txt").read_text() == "precious"


def test_a_region_is_segmented_as_if_it_were_the_stack(run, here):
    assert run(*BASE, "--region", "1:3,4:40,:30").code == 0
    stack = tifffile.imread(here / "stack.tif")
    write_tiff(here / "crop.tif", stack[1:3, 4:40, :30], "zyx")
    run("segment", "crop.tif", "-o", "crop.zarr", "--model", "tiny.safetensors")
    assert contents(here / "out.ome.zarr") == contents(here / "crop.zarr")
    assert open_store(here / "out.ome.zarr").record["region"] == [[1, 4, 0], [3, 40, 30]]


def test_a_channel_is_segmented_as_if_it_were_alone(run, here):
    gray = tifffile.imread(here / "stack.tif")
    write_tiff(here / "two.tif", np.stack([255 - gray, gray], axis=1), "zcyx")
    run(*BASE)
    arguments = ("segment", "two.tif", "-o", "two.zarr", "--model", "tiny.safetensors")
    done = run(*arguments)
    assert done.code == 1
    assert "--channel 0..1" in done.err
    assert not (here / "two.zarr").exists()
    assert run(*arguments, "--channel", "1").code == 0
    assert contents(here / "two.zarr") == contents(here / "out.ome.zarr")


def test_axes_can_be_named(run, here):
    np.save(here / "movie.npy", np.stack([tifffile.imread(here / "stack.tif")] * 2, axis=1))
    arguments = ("segment", "movie.npy", "-o", "movie.zarr", "--model", "tiny.safetensors")
    assert "axes" in run(*arguments).err
    assert run(*arguments, "--axes", "tzyx").code == 0
    assert open_store(here / "movie.zarr").axes == "tzyx"


def test_less_memory_gives_smaller_tiles_and_the_same_result(run, here):
    wide = np.random.default_rng(0).integers(0, 255, (1, 60, 900)).astype(np.uint8)
    write_tiff(here / "stack.tif", wide, "zyx")
    run(*BASE, "--tiling", "seamless", "--json")
    small = ("segment", "stack.tif", "-o", "small.zarr", "--model", "tiny.safetensors")
    done = run(*small, "--tiling", "seamless", "--memory", "700kB", "--json")
    assert done.code == 0
    one, other = open_store(here / "out.ome.zarr"), open_store(here / "small.zarr")
    assert one.record["tiling"]["inner"] > other.record["tiling"]["inner"]
    for level in (1, 2):
        a, b = (np.asarray(s.probability(level)[...]).astype(int) for s in (one, other))
        assert np.abs(a - b).max() <= 1  # rounding of float32 sums
    refused = run(*small, "--memory", "10kB", "--overwrite")
    assert refused.code == 2
    assert "--memory" in refused.err


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--cluster", "tcp://node:8786"), "--cluster is not available yet"),
        (("--memory", "much"), "no size"),
        (("--device", "quantum"), "--device 'quantum' is unknown"),
        (("--level", "5"), "L1, L2"),
        (("--region", "0:2"), "names 1 ranges; the stack needs 3, for z,y,x"),
        (("--region", "0:9,:,:"), "leaves the stack"),
        (("--region", "a:b,:,:"), "no range"),
        (("--tiling", "seamless", "--patch", "32"), "--tiling overlap"),
        (("--channel", "0"), "no channels"),
        (("--labels", "out.png"), "end in .tif"),
        (("--labels", "stack.tif"), "the stack itself"),
    ],
)
def test_what_cannot_be_obeyed_is_said_in_one_line(run, here, option, says):
    done = run(*BASE, *option)
    assert done.code == 2
    assert len(done.error_lines) == 1
    assert says in done.err
    assert not (here / "out.ome.zarr").exists()


def test_words_that_work_already(run):
    assert run(*BASE, "--precision", "fp32", "--device", "cpu").code == 0


def test_the_fast_mode_says_how_fast_labels_differ_and_goes_on_as_it_began(run, here, monkeypatch):
    if not weight_limit():
        pytest.skip("no exact int8 convolution on this processor")
    monkeypatch.setattr("napari_unetpp.inference.fast.LEAST_AGREEMENT", 0.0)  # the network learned nothing
    done = run(*BASE, "--precision", "int8", "--json")
    assert done.code == 0
    (told,) = (event for event in done.events if event["event"] == "backend")
    assert told["precision"] == "int8"
    assert "L1 " in told["note"]
    store = open_store(here / "out.ome.zarr")
    assert store.record["precision"] == "int8"
    numbers = store.record["calibration"]
    # Left open, precision and numbers are those that the run began with; nothing is measured again.
    monkeypatch.setattr("napari_unetpp.inference.fast.calibrate", None)
    assert run(*BASE).code == 0
    assert open_store(here / "out.ome.zarr").record["calibration"] == numbers
    assert run(*BASE, "--precision", "fp32").code == 1


def test_an_engine_that_is_not_installed_is_named_with_its_command(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    done = run(*BASE, "--engine", "openvino")
    assert done.code == 1
    assert "pip install 'napari-unetpp[openvino]'" in done.err


def test_labels_of_somebody_else_are_not_replaced(run, here):
    before = (here / "labels.tif").read_bytes()
    done = run(*BASE, "--labels", "labels.tif")
    assert done.code == 1
    assert "exists" in done.err
    assert (here / "labels.tif").read_bytes() == before
    assert not (here / "out.ome.zarr").exists()
    assert run(*BASE, "--labels", "labels.tif", "--overwrite").code == 0


def fail_after(monkeypatch, tiles, error):
    """Writing fails once so many tiles are written."""
    write, count = PredictionStore.write, 0

    def failing(self, *arguments):
        nonlocal count
        count += 1
        if count > tiles:
            raise error
        write(self, *arguments)

    monkeypatch.setattr(PredictionStore, "write", failing)


def test_a_full_disk_keeps_what_is_safe(run, here, monkeypatch):
    run("segment", "stack.tif", "-o", "whole.zarr", "--model", "tiny.safetensors")
    with monkeypatch.context() as patch:
        fail_after(patch, 2, OSError(errno.ENOSPC, "No space left on device", "out.ome.zarr"))
        full = run(*BASE)
    assert full.code == 1
    assert len(full.error_lines) == 1
    assert "No space left on device" in full.err
    assert "keeps 2 of" in full.err
    assert "free some space" in full.err
    assert run(*BASE).code == 0
    assert contents(here / "out.ome.zarr") == contents(here / "whole.zarr")


def test_a_disk_that_was_full_before_leaves_nothing(run, here, monkeypatch):
    fail_after(monkeypatch, 0, OSError(errno.ENOSPC, "No space left on device", "out.ome.zarr"))
    before = sorted(here.iterdir())
    assert run(*BASE).code == 1
    assert sorted(here.iterdir()) == before


def test_ctrl_c_leaves_a_store_that_goes_on_byte_for_byte(run, run_alone, here):
    write_model(here / "tiny.safetensors", tiling={"kind": "seamless", "halo": "fast"})
    rng = np.random.default_rng(1)
    write_tiff(here / "stack.tif", rng.integers(0, 255, (150, 16, 16)).astype(np.uint8), "zyx")
    stopped = run_alone(*BASE, "--json", interrupt_after=4)
    assert stopped.code == 130, stopped.err
    assert "goes on from there" in stopped.err
    assert len(stopped.error_lines) == 1
    store = open_store(here / "out.ome.zarr")
    told = [e["done"] for e in stopped.events if e["event"] == "tile"][-1]
    assert told <= store.done_count < np.prod(store.grid)
    assert run(*BASE).code == 0
    whole = ("segment", "stack.tif", "-o", "whole.zarr", "--model", "tiny.safetensors")
    assert run(*whole).code == 0
    assert contents(here / "out.ome.zarr") == contents(here / "whole.zarr")
