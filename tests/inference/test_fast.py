"""The fast mode: tested before it is believed, told in numbers, continued with the same numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from napari_unetpp.inference import fast
from napari_unetpp.inference.backends import prepare
from napari_unetpp.inference.fast import prepare_int8
from napari_unetpp.inference.int8 import weight_limit
from napari_unetpp.inference.joining import Buffer, side_by_side
from napari_unetpp.inference.kernels import LAST
from napari_unetpp.inference.predict import predict_array, predict_stack
from napari_unetpp.inference.quantise import Calibration
from napari_unetpp.inference.runs import open_run, recorded_calibration
from napari_unetpp.inference.store import StoreError, open_store
from napari_unetpp.inference.tiles import Overlap, plan_tiles
from napari_unetpp.stacks import open_stack

needs_int8 = pytest.mark.skipif(not weight_limit(), reason="no exact int8 convolution on this processor")


def shares(note):
    return {int(d): float(share) for d, share in re.findall(r"L(\d) ([\d.]+) %", note)}


@needs_int8
def test_what_is_told_is_what_the_labels_of_both_have_in_common(make_model, texture):
    model, stack = make_model(), open_stack(texture(128, 128), axes="yx")
    backend = prepare_int8(model, stack, least=0)
    assert backend.precision == "int8"
    # One patch covers the stack, so the test is a run over all of it.
    exact = predict_array(stack, model, precision="fp32")
    got = predict_array(stack, model, backend=backend)
    told = shares(backend.note)
    assert set(told) == {1, 2}
    for level, share in told.items():
        equal = 100 * np.mean((exact[level] >= 0.5) == (got[level] >= 0.5))
        assert equal == pytest.approx(share, abs=0.011)
        assert 90 < share < 100


@needs_int8
def test_too_few_equal_labels_are_not_believed(make_model, texture):
    model, stack = make_model(), open_stack(texture(64, 64), axes="yx")
    backend = prepare_int8(model, stack, least=1.0)
    assert backend.precision == "fp32"
    assert backend.calibration is None
    assert re.match(
        r"only int8 gives the labels of fp32 at L1 .* where 100 % are asked for; running in fp32$", backend.note
    )
    truth = predict_array(stack, model, precision="fp32")
    np.testing.assert_array_equal(predict_array(stack, model, backend=backend)[2], truth[2])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"upsampling": "transposed2"}, "transposed2 is learned"),
        ({"ndim": 3}, "2D networks only"),
        ({"block": "bn-relu-conv"}, "a ReLU behind every convolution"),
    ],
)
def test_a_network_that_cannot_runs_in_floating_point_and_says_why(make_model, texture, options, reason):
    model = make_model(**options)
    shape = (32,) * model.spec.ndim
    backend = prepare(model, "int8", stack=open_stack(texture(*shape), axes="zyx"[-len(shape) :]))
    assert backend.precision == "fp32"
    assert reason in backend.note
    assert backend.note.endswith("running in fp32")


def test_no_stack_no_int8(make_model, monkeypatch):
    monkeypatch.setattr(fast, "why_not_int8", lambda spec: None)
    with pytest.raises(ValueError, match="calibrated on the stack that it will run on; give one"):
        prepare(make_model(), "int8")


@needs_int8
def test_a_run_goes_on_with_the_numbers_that_it_began_with(make_model, texture, tmp_path):
    model = make_model()
    stack = open_stack(texture(4, 48, 48), axes="zyx")
    tiles = plan_tiles(stack.shape_predicted, model.spec, Overlap(16, 8))
    whole, parted = tmp_path / "whole.ome.zarr", tmp_path / "parted.ome.zarr"
    first = prepare_int8(model, stack, least=0)
    store = open_run(whole, stack, model, tiles, precision="int8")
    for _ in predict_stack(stack, model, tiles, store, backend=first):
        pass
    store = open_run(parted, stack, model, tiles, precision="int8")
    events = predict_stack(stack, model, tiles, store, backend=first)
    next(events)
    events.close()
    assert 0 < store.done_count < len(tiles)

    begun = open_store(parted)
    again = prepare(model, "int8", calibration=recorded_calibration(begun))
    assert again.calibration == first.calibration
    store = open_run(parted, stack, model, tiles, precision="int8")
    for _ in predict_stack(stack, model, tiles, store, backend=again):
        pass
    for level in (1, 2):
        np.testing.assert_array_equal(open_store(parted).probability(level)[:], open_store(whole).probability(level)[:])

    # Other numbers would give a stack of two kinds of labels.
    other = prepare_int8(model, open_stack(texture(4, 48, 48)[::-1] // 2, axes="zyx"), least=0)
    with pytest.raises(StoreError, match="begun with another int8 calibration"):
        predict_stack(stack, model, tiles, open_store(parted, "r+"), backend=other)


@needs_int8
def test_numbers_of_a_processor_with_larger_integers_are_refused_in_words(make_model):
    backend = prepare(make_model(), "int8", calibration=Calibration(1000, {}, {}, {}))
    assert backend.precision == "fp32"
    assert "larger integers" in backend.note


def test_a_damaged_record_is_told(make_model, texture, tmp_path):
    model, stack = make_model(), open_stack(texture(16, 16), axes="yx")
    tiles = plan_tiles(stack.shape_predicted, model.spec, Overlap(16, 8))
    store = open_run(tmp_path / "a", stack, model, tiles, precision="int8")
    assert recorded_calibration(store) is None
    store.update_record({"calibration": {"limit": 127}})
    with pytest.raises(ValueError, match="calibration is damaged"):
        recorded_calibration(store)


@needs_int8
def test_a_calibration_can_be_cancelled(make_model, texture):
    class Enough(Exception):
        pass

    def stop():
        raise Enough

    with pytest.raises(Enough):
        prepare_int8(make_model(), open_stack(texture(64, 64), axes="yx"), checkpoint=stop)


def test_counts_are_joined_byte_by_byte():
    generator = torch.Generator().manual_seed(0)
    for channels in ((4, 8, 12), (3, 8), (4,), (1, 1)):
        maps = [
            torch.randint(0, 256, (2, c, 5, 7), generator=generator, dtype=torch.uint8).contiguous(
                memory_format=LAST[2]
            )
            for c in channels
        ]
        assert torch.equal(side_by_side(maps, Buffer()), torch.cat(maps, dim=1))
    # Four counts that are a NaN as a float32 are still four counts.
    nan = torch.full((1, 4, 2, 2), 255, dtype=torch.uint8)
    assert torch.equal(side_by_side([nan, nan], Buffer()), torch.full((1, 8, 2, 2), 255, dtype=torch.uint8))
