"""The dock, where the folder of a run goes while it is written, or the image changes between two runs."""

import shutil

import numpy as np
import pytest

from napari_unetpp.inference.store import PredictionStore

SHAPE = (3, 16, 64)


@pytest.fixture
def image(viewer, rng):
    return viewer.add_image(rng.integers(0, 200, SHAPE, np.uint8), name="cells", axis_labels=("z", "y", "x"))


@pytest.mark.parametrize(("method", "call"), [("write", 1), ("write", 4), ("mark_done", 9), ("check_whole", 1)])
def test_a_folder_that_went_is_told_and_another_offered(
    viewer, image, open_dock, model, predictions, tmp_path, qtbot, monkeypatch, method, call
):
    original, count = getattr(PredictionStore, method), 0

    def going(store, *arguments):
        nonlocal count
        count += 1
        if count == call:
            shutil.rmtree(store.path)
        return original(store, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionStore, method, going)
        dock = open_dock()
        dock.run()
        qtbot.waitUntil(lambda: dock.job is None, timeout=30_000)
    assert dock.state == "failed"
    assert "were moved, deleted or replaced while they were written" in dock.status.text().replace("\u200b", "")
    assert not list(predictions.iterdir())
    assert not [layer for layer in viewer.layers if layer.name.startswith("cells L")]
    assert dock.run_button.isEnabled()
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.setattr("napari_unetpp.gui.segment_form.QFileDialog.getExistingDirectory", lambda *_, **__: str(other))
    assert dock.elsewhere_button.isVisible()
    dock.elsewhere_button.click()
    qtbot.waitUntil(lambda: dock.state == "done", timeout=30_000)
    assert not dock.elsewhere_button.isVisible()
    assert [path.name for path in other.iterdir()] == ["cells-tiny.ome.zarr"]
    assert "cells L2" in viewer.layers


def test_a_folder_that_goes_after_the_run_is_told_once(
    viewer, image, open_dock, model, predictions, qtbot, monkeypatch
):
    told = []
    monkeypatch.setattr("napari_unetpp.gui.layers.show_error", told.append)
    dock = open_dock()
    dock.run()
    qtbot.waitUntil(lambda: dock.state == "done", timeout=30_000)
    shutil.rmtree(dock.levels.store.path)
    for z in (1, 2, 0):
        viewer.dims.set_point(0, z)
    assert len(told) == 1
    assert "were moved, deleted or replaced" in told[0]
    assert "layers of cells are empty" in told[0]


@pytest.mark.parametrize("how", ["other data", "one voxel painted"])
def test_run_on_changed_data_is_another_run(viewer, image, open_dock, model, predictions, qtbot, rng, how):
    dock = open_dock()
    dock.run()
    qtbot.waitUntil(lambda: dock.state == "done", timeout=30_000)
    first = dock.levels.store
    if how == "other data":
        image.data = rng.integers(0, 200, SHAPE, np.uint8)
    else:
        image.data[2, 15, 63] ^= 1
        image.refresh()
    dock.run()
    qtbot.waitUntil(lambda: dock.state == "done", timeout=30_000)
    assert dock.levels.store.path != first.path
    assert dock.levels.store.complete
    assert "of this one before it changed" in dock.status.text().replace("\u200b", "")
    dock.run()
    qtbot.waitUntil(lambda: dock.state == "done", timeout=30_000)
    assert "Nothing left to do" in dock.status.text().replace("\u200b", "")
