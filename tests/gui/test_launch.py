"""The window that `napari-unetpp demo` opens."""

import numpy as np
import pytest

from napari_unetpp.gui.launch import open_prediction
from napari_unetpp.inference.store import create_store
from napari_unetpp.stacks import open_stack

pytestmark = pytest.mark.gui


@pytest.fixture
def own_viewer(monkeypatch, viewer):
    """`napari.Viewer` gives the viewer of the fixture, so that it is closed like any other."""
    import napari

    monkeypatch.setattr(napari, "Viewer", lambda **_: viewer)
    return viewer


def test_image_levels_reference_and_dock(own_viewer, home, model, tmp_path, rng, qtbot):
    (home / "models" / "another.safetensors").write_bytes((home / "models" / "tiny.safetensors").read_bytes())
    data = rng.integers(0, 200, (3, 24, 32), np.uint8)
    with open_stack(data, axes="zyx", spacing_um=(0.5, 0.1, 0.1)) as stack:
        store = create_store(tmp_path / "a.ome.zarr", (3, 24, 32), (1, 2), like=stack, record={"model": "tiny"})
        store.probability(2)[...] = 255
        with open_stack((data > 99).astype(np.uint8), axes="zyx") as reference:
            viewer = open_prediction(stack, store, reference, block=False)
    names = [layer.name for layer in viewer.layers]
    assert names == ["array", "array reference", "array L1", "array L2", "array Ensemble"]
    assert [x.name for x in viewer.layers if x.visible] == ["array", "array L2"]
    for layer in viewer.layers:
        assert tuple(layer.scale) == (0.5, 0.1, 0.1)
        assert layer.axis_labels == ("z", "y", "x")
        assert {str(unit) for unit in layer.units} == {"micrometer"}
    assert np.asarray(viewer.layers["array L2"].data).all()
    (dock,) = viewer.window.dock_widgets.values()
    assert dock.form.axes.text() == "zyx"
    dock.slider.slider.setValue(0)
    assert [x.name for x in viewer.layers if x.visible] == ["array", "array L1"]
    assert viewer.layers.selection.active is viewer.layers["array"]
    qtbot.waitUntil(lambda: "Looking" not in dock.status.text(), timeout=60_000)
    assert dock.form.model.currentText() == "tiny"  # the model of what is shown, not the first by name


def test_colour_images_are_shown_in_colour(own_viewer, home, tmp_path, rng, qtbot):
    data = rng.integers(0, 200, (24, 32, 3), np.uint8)
    with open_stack(data, axes="yxc") as stack:
        store = create_store(tmp_path / "a.ome.zarr", (24, 32), (1, 2), like=stack)
        viewer = open_prediction(stack, store, block=False)
    assert viewer.layers["array"].rgb
    assert viewer.layers["array L1"].data.shape == (24, 32)
    (dock,) = viewer.window.dock_widgets.values()
    qtbot.waitUntil(lambda: "Looking" not in dock.status.text(), timeout=60_000)
