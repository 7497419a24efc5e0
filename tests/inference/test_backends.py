"""Precisions, how much is held at a time, and regions level by level."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_unetpp.inference import backends, precision
from napari_unetpp.inference.backends import MEMORY, Backend, choose_precision, prepare
from napari_unetpp.inference.predict import RegionCache, predict_array, predict_region
from napari_unetpp.inference.tiles import Overlap, Seamless
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.stacks import open_stack


@pytest.fixture
def _unset(monkeypatch):
    monkeypatch.delenv("NAPARI_UNETPP_PRECISION")


@pytest.mark.usefixtures("_unset")
@pytest.mark.parametrize(
    ("instructions", "gain", "expected"), [(False, 9.0, "fp32"), (True, 1.9, "bf16"), (True, 0.5, "fp32")]
)
def test_bf16_is_chosen_where_it_is_measured_to_be_faster(monkeypatch, instructions, gain, expected):
    monkeypatch.setattr(precision, "_has_bf16_instructions", lambda: instructions)
    monkeypatch.setattr(precision, "_bf16_gain", lambda: gain)
    assert choose_precision("cpu") == expected


def test_what_auto_means_can_be_set_for_all_runs(monkeypatch):
    monkeypatch.setenv("NAPARI_UNETPP_PRECISION", "bf16")
    assert choose_precision("cpu") == "bf16"
    assert choose_precision("cpu", "fp32") == "fp32"


def test_unknown_precisions_are_refused():
    with pytest.raises(ValueError, match="precision 'fp8' is unknown; use auto, fp32"):
        choose_precision("cpu", "fp8")


def test_the_probe_gives_a_ratio():
    assert 0.01 < precision._bf16_gain() < 100


@pytest.mark.parametrize("tiling", [Overlap(32, 16), Seamless(inner=32), Seamless(32, "fast")], ids=str)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_labels_of_half_precisions(make_model, texture, tiling, precision):
    model = make_model(widths=(8, 16, 32))
    stack = open_stack(texture(64, 80), axes="yx")
    exact, half = (predict_array(stack, model, tiling=tiling, precision=p) for p in ("fp32", precision))
    for level in (1, 2):
        sure = np.abs(exact[level] - 0.5) > 0.05
        assert ((exact[level] >= 0.5) == (half[level] >= 0.5))[sure].all()
        assert 0 < np.abs(exact[level] - half[level]).max() < 0.05


@pytest.mark.parametrize("memory", [MEMORY, 140_000, 70_000])
@pytest.mark.parametrize("threads", [1, 3])
def test_neither_memory_nor_threads_change_the_result(make_model, texture, memory, threads):
    model = make_model()
    stack = open_stack(texture(3, 120, 40), axes="zyx")
    for tiling in (Seamless(), Overlap(16, 8, "gaussian")):
        whole = predict_array(stack, model, tiling=tiling, memory=2**40, threads=1)
        got = predict_array(stack, model, tiling=tiling, memory=memory, threads=threads)
        for level in (1, 2):
            np.testing.assert_allclose(got[level], whole[level], atol=1e-6)


def test_too_little_memory_is_refused_with_numbers(make_model, texture):
    with pytest.raises(MemoryError, match=r"one input of 64 x 64 voxels takes .* MiB where .* MiB are allowed"):
        predict_array(open_stack(texture(64, 64), axes="yx"), make_model(), tiling=Seamless(), memory=1000)


def plan(extent, *, inputs=100, memory=MEMORY, threads=4, batch=1, item=4, spec=None):
    class Layers:
        pass

    layers = Layers()
    layers.spec, layers.item = spec or NetworkSpec(), item
    return Backend(layers, torch.device("cpu"), "fp32").plan(4, extent, batch, inputs, memory, threads)


def test_work_is_planned_within_memory():
    assert plan((96, 96), batch=4).band is None
    assert plan((96, 96), batch=4, memory=2**40).workers == 4
    assert plan((96, 96), inputs=1).workers == 1
    assert plan((512, 512), memory=2**40) == backends.Work(4, 64)
    assert plan((1024, 1024), memory=2**40) == backends.Work(2, 32, hands=2)
    assert plan((1024, 1024), inputs=1, memory=2**40) == backends.Work(1, 32, hands=4)
    assert plan((1024, 1024), inputs=2, memory=2**40) == backends.Work(2, 32, hands=2)
    # With less memory first less of each image is held, and then fewer threads work.
    plans = [plan((1024, 1024), memory=mib * 2**20) for mib in range(600, 85, -20)]
    busy = [work.workers * work.hands for work in plans]
    assert busy == sorted(busy, reverse=True)
    assert busy[0] == 4
    assert busy[-1] == 1
    assert any(work.band < 32 and work.workers * work.hands == 4 for work in plans)
    with pytest.raises(MemoryError):
        plan((1024, 1024), memory=50 * 2**20)
    # A network that looks at the whole image cannot go band by band.
    aligned = NetworkSpec(upsampling="bilinear-aligned")
    assert plan((512, 512), spec=aligned, memory=2**40).band is None


def test_a_region_level_by_level_computes_each_node_once(make_model, texture, monkeypatch):
    model = make_model(widths=(4, 8, 16, 32), heads=(1, 2, 3))
    backend = prepare(model)
    raw = texture(1, 37, 50)
    expected = predict_region(raw, model)
    seen = []
    node = type(backend.layers).node
    monkeypatch.setattr(type(backend.layers), "node", lambda self, i, j: seen.append((i, j)) or node(self, i, j))
    cache = RegionCache()
    for level in (1, 2, 3, 3):
        heads = predict_region(raw, model, level, backend=backend, cache=cache)
        assert len(heads) == level
        for head, truth in zip(heads, expected, strict=False):
            np.testing.assert_allclose(head, truth, atol=1e-6)
    assert sorted(seen) == sorted(model.spec.nodes)
    with pytest.raises(ValueError, match=r"a cache of a region of shape \(37, 50\) for one of \(37, 51\)"):
        predict_region(texture(1, 37, 51), model, cache=cache)


def test_training_may_go_on_while_a_backend_runs(make_model, texture):
    model = make_model()
    backend = prepare(model)
    raw = texture(1, 24, 24)
    before = predict_region(raw, model, backend=backend)[1]
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(predict_region(raw, model, backend=backend)[1], before)
    assert np.ptp(predict_region(raw, model)[1]) < 1e-6
