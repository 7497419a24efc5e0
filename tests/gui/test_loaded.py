"""Models stay in memory until their file changes; a second caller waits for the first."""

from __future__ import annotations

import os
import threading

import numpy as np

from napari_unetpp.gui import loaded
from napari_unetpp.gui.loaded import load_ready
from napari_unetpp.inference.predict import predict_region
from napari_unetpp.model import checkpoint
from napari_unetpp.model.checkpoint import load_model, save_model


def test_a_model_is_loaded_once_until_its_file_changes(model, tmp_path, rng):
    path = save_model(model, tmp_path / "mine.safetensors")
    first, backend = load_ready(path, "cpu")
    assert load_ready(path, "cpu")[0] is first
    image = rng.random((1, 32, 32))
    expected = predict_region(image, load_model(path, "cpu"))
    for got, truth in zip(predict_region(image, first, backend=backend), expected, strict=True):
        np.testing.assert_allclose(got, truth, atol=1e-6)
    os.utime(path, ns=(1, 1))
    assert load_ready(path, "cpu")[0] is not first


def test_two_callers_at_once_load_it_once(model, tmp_path, monkeypatch):
    path = save_model(model, tmp_path / "mine.safetensors")
    calls, load = [], checkpoint.load_model
    monkeypatch.setattr(checkpoint, "load_model", lambda *a: calls.append(a) or load(*a))
    threads = [threading.Thread(target=load_ready, args=(path, "cpu")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_few_are_kept(model, tmp_path):
    paths = [save_model(model, tmp_path / f"{n}.safetensors") for n in range(4)]
    for path in paths:
        load_ready(path, "cpu")
    assert len(loaded._loaded) == 2
    assert {key[0] for key in loaded._loaded} == {str(p) for p in paths[2:]}
