"""Segment and compare as a user does, from the menus to the pixels, with the models that ship and real images."""

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_unetpp.gui.comparison import ENSEMBLE
from napari_unetpp.gui.level_colors import LEVEL_COLORS

pytestmark = [pytest.mark.gui, pytest.mark.slow]

LEFT = Qt.MouseButton.LeftButton


def choose(menu, *path):
    """Trigger the entry of a menu, and of its submenus, whose texts begin like `path`."""
    menu.aboutToShow.emit()
    action = next(a for a in menu.actions() if a.text().replace("&", "").startswith(path[0]))
    if path[1:]:
        choose(action.menu(), *path[1:])
    else:
        action.trigger()


@pytest.fixture
def open_segment(viewer, qtbot):
    """The dock out of the Plugins menu, ready to run a model that ships."""

    def opened(model):
        choose(viewer.window.plugins_menu, "napari-unetpp", "Segment")
        (dock,) = [w for name, w in viewer.window.dock_widgets.items() if "Segment" in name]
        qtbot.waitUntil(lambda: dock.form.chosen_model() is not None, timeout=60_000)
        dock.form.model.setCurrentText(model)
        qtbot.waitUntil(dock.run_button.isEnabled, timeout=10_000)
        viewer.reset_view()
        return dock

    return opened


def run(dock, qtbot, seconds=120):
    qtbot.mouseClick(dock.run_button, LEFT)
    qtbot.waitUntil(lambda: dock.state == "done" and dock.job is None, timeout=seconds * 1000)


def iou(found, truth):
    return (found & truth).sum() / (found | truth).sum()


def tinted(viewer, level):
    """Share of the canvas that has the hue of a level's colour, and of no other level's."""
    picture = viewer.screenshot(flash=False)[..., :3].astype(float)
    pixels = picture[np.ptp(picture, axis=-1) > 25]
    pixels -= pixels.mean(axis=-1, keepdims=True)  # the gray of the image taken away
    levels = list(LEVEL_COLORS)
    colours = np.array([[int(LEVEL_COLORS[d][i : i + 2], 16) for i in (1, 3, 5)] for d in levels], float)
    colours -= colours.mean(axis=-1, keepdims=True)
    likeness = pixels @ (colours / np.linalg.norm(colours, axis=-1, keepdims=True)).T
    return (likeness.argmax(axis=1) == levels.index(level)).sum() / picture[..., 0].size


def test_nuclei_from_the_sample_to_the_level_that_is_enough(viewer, open_segment, qtbot):
    choose(viewer.window.file_menu, "Open Sample", "napari-unetpp", "Nuclei")
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=20_000)
    image, truth = viewer.layers["nuclei"], np.asarray(viewer.layers["nuclei truth"].data) > 0
    viewer.layers.selection.active = image
    dock = open_segment("nuclei")
    live = dock.level_box.live_view
    qtbot.waitUntil(lambda: live.reached == 3, timeout=60_000)  # live, at the level that the card recommends
    assert tinted(viewer, 3) > 0.05
    before = np.asarray(viewer.layers["nuclei live"].data) > 0
    assert iou(before, truth) > 0.8
    run(dock, qtbot)
    assert np.mean((np.asarray(viewer.layers["nuclei L3"].data) > 0) == before) > 0.999
    for place, level in enumerate((1, 2, 3, 4, ENSEMBLE)):
        dock.slider.slider.setValue(place)
        assert tinted(viewer, level) > 0.05
        assert all(tinted(viewer, other) < 0.01 for other in {1, 2, 3, 4, ENSEMBLE} - {level})
    values = {level: iou(np.asarray(viewer.layers[f"nuclei L{level}"].data) > 0, truth) for level in (1, 2, 3, 4)}
    assert values[1] < values[2] < values[4] + 0.02
    assert values[4] > 0.8


def test_membranes_of_a_real_stack_slice_by_slice(viewer, open_segment, shared_data, qtbot):
    viewer.open(shared_data / "fib25_medulla" / "images.tif", plugin="napari-unetpp")
    (image,) = viewer.layers
    dock = open_segment("em-boundaries")
    z = image.data.shape[0] // 2
    viewer.dims.set_current_step(0, z)
    live = dock.level_box.live_view
    recommended = dock.form.chosen_model().header.card.recommended_level
    qtbot.waitUntil(lambda: live.reached == recommended and not live.computing, timeout=120_000)
    dock.form.region.setCurrentIndex(1)
    assert dock.form.region.currentText() == "Current slice"
    run(dock, qtbot, 300)
    (layer,) = [layer for layer in viewer.layers if layer.visible and layer is not image]
    assert layer.name.endswith(f"L{recommended}")
    import tifffile

    truth = tifffile.imread(shared_data / "fib25_medulla" / "derived_boundary.tif")[z] > 0
    assert iou(np.asarray(layer.data[z]) > 0, truth) > 0.5
    assert not np.asarray(layer.data[z + 2]).any()
    viewer.dims.set_current_step(0, z + 2)  # and there it goes on live
    qtbot.waitUntil(lambda: live.reached == recommended and not live.computing, timeout=120_000)
    assert tinted(viewer, recommended) > 0.02
