"""OpenVINO: the numbers of torch from another engine."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
import torch

from napari_unetpp.inference import openvino as engine
from napari_unetpp.inference.backends import prepare
from napari_unetpp.inference.predict import RegionCache, predict_array, predict_region
from napari_unetpp.inference.tiles import Overlap, Seamless
from napari_unetpp.stacks import open_stack


@pytest.fixture
def core():
    return pytest.importorskip("openvino").Core()


def test_without_the_package_the_error_says_how_to_get_it(make_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"not installed; get it with: pip install 'napari-unetpp\[openvino\]'"):
        prepare(make_model(), "fp32", engine="openvino")


@pytest.mark.usefixtures("core")
def test_what_the_engine_cannot_do_is_refused(make_model):
    model = make_model()
    with pytest.raises(ValueError, match="has no int8 here; use fp32, bf16, fp16, or engine torch"):
        prepare(model, "int8", engine="openvino")
    with pytest.raises(ValueError, match="runs on the CPU, not on meta; use device cpu or engine torch"):
        engine.prepare_openvino(_on_meta(model), "fp32")
    model.network.double()
    with pytest.raises(ValueError, match="has no fp64 here"):
        prepare(model, "fp32", engine="openvino")


def _on_meta(model):
    from dataclasses import replace

    return replace(model, device=torch.device("meta"))


@pytest.mark.usefixtures("core")
def test_a_precision_that_the_cpu_lacks_is_refused(make_model):
    class Core:
        def get_property(self, device, name):
            return ["FP32", "INT8"]

    import openvino

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino, "Core", Core)
        with pytest.raises(ValueError, match="no bf16 on this CPU; use fp32"):
            prepare(make_model(), "bf16", engine="openvino")


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "bilinear-aligned", "transposed2", "transposed4"])
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(
    "layers",
    [
        {},
        {"block": "bn-relu-conv", "head": "bn-relu-conv3", "concatenation": "up-first"},
        {"block": "conv-relu", "skips": "short", "middle": "half-in", "in_channels": 3},
    ],
    ids=["default", "preactivated", "short"],
)
def test_probabilities_are_those_of_torch(make_model, rng, upsampling, ndim, layers):
    model = make_model(ndim=ndim, upsampling=upsampling, classes=2, **layers)
    other, torchs = prepare(model, "fp32", engine="openvino"), prepare(model, "fp32")
    for extent in ((37, 50), (1, 4), (16, 16)) if ndim == 2 else ((9, 13, 6), (1, 5, 4)):
        batch = rng.random((2, model.spec.in_channels, *extent)).astype(np.float32)
        for level in (1, 2):
            got, expected = other.run(batch, level), torchs.run(batch, level)
            assert len(got) == level
            for head, truth in zip(got, expected, strict=True):
                np.testing.assert_allclose(head, truth, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_labels_of_half_precisions(make_model, rng, core, precision):
    if precision.upper() not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip(f"no {precision} on this CPU")
    model = make_model(widths=(8, 16, 32))
    batch = rng.random((2, 1, 64, 80)).astype(np.float32)
    half = prepare(model, precision, engine="openvino").run(batch)
    for head, exact in zip(half, prepare(model, "fp32").run(batch), strict=True):
        sure = np.abs(exact - 0.5) > 0.05
        assert ((head >= 0.5) == (exact >= 0.5))[sure].all()
        assert 0 < np.abs(head - exact).max() < 0.05


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize("tiling", [Overlap(32, 16), Seamless(inner=32)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_stack(make_model, texture, tiling, threads):
    model = make_model()
    stack = open_stack(texture(2, 70, 90), axes="zyx")
    truth = predict_array(stack, model, tiling=tiling, precision="fp32")
    backend = prepare(model, "fp32", engine="openvino")
    got = predict_array(stack, model, tiling=tiling, backend=backend, threads=threads)
    for level in (1, 2):
        np.testing.assert_allclose(got[level], truth[level], atol=1e-5)


@pytest.mark.usefixtures("core")
def test_what_is_too_large_goes_band_by_band(make_model, texture):
    model = make_model()
    backend = prepare(model, "fp32", engine="openvino")
    whole = backend.bytes_held(2, (256, 64), 1, None)
    assert backend.plan(2, (256, 64), 1, 4, whole, 1).band is None
    assert backend.plan(2, (256, 64), 1, 4, whole - 1, 1).band == 128
    raw = texture(1, 250, 64)
    backend.memory = whole - 1
    for head, truth in zip(predict_region(raw, model, backend=backend), predict_region(raw, model), strict=True):
        np.testing.assert_allclose(head, truth, atol=1e-5)


@pytest.mark.usefixtures("core")
def test_regions_level_by_level(make_model, texture):
    model = make_model()
    backend, cache = prepare(model, "fp32", engine="openvino"), RegionCache()
    raw = texture(1, 37, 50)
    for level in (1, 2):
        predict_region(raw, model, level, backend=backend, cache=cache)
    for level, truth in enumerate(predict_region(raw, model), 1):
        np.testing.assert_allclose(cache.heads[level], truth, atol=1e-5)


@pytest.mark.usefixtures("core")
def test_each_shape_is_compiled_once(make_model, monkeypatch):
    compiled = []
    graph = engine._graph
    monkeypatch.setattr(engine, "_graph", lambda *args: compiled.append(args[3:]) or graph(*args))
    backend = prepare(make_model(), "fp32", engine="openvino")

    def run(extent, level=None):
        backend.run(np.zeros((1, 1, *extent), np.float32), level)

    threads = [threading.Thread(target=run, args=((16, 16),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # New threads have torch's number of threads each, as has this one.
    run((16, 16))
    run((15, 13))  # on the same grid
    run((16, 16), 1)
    assert compiled == [((1, 1, 16, 16), 2), ((1, 1, 16, 16), 1)]
    for n in range(20):
        run((16, 4 + 4 * n))
    assert len(backend._engine._compiled) == 8


@pytest.mark.usefixtures("core")
def test_training_may_go_on_while_it_runs(make_model):
    model = make_model(upsampling="transposed2")
    backend = prepare(model, "fp32", engine="openvino")
    image = np.ones((1, 1, 16, 16), np.float32)
    before = prepare(model, "fp32").run(image)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.zero_()
    for head, expected in zip(backend.run(image), before, strict=True):
        np.testing.assert_allclose(head, expected, atol=1e-5)
