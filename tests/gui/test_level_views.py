"""Maps, grid and their buttons in a real window: what is on the canvas, and that all is put back."""

import numpy as np
import pytest
from napari.layers import Image
from qtpy.QtCore import Qt

from napari_unetpp.gui.comparison import HeadComparison
from napari_unetpp.gui.layers import add_levels, predictions_in
from napari_unetpp.gui.level_views import LevelViews
from napari_unetpp.inference.labels import disagreement_view
from napari_unetpp.inference.store import create_store

pytestmark = pytest.mark.gui

LEFT = Qt.MouseButton.LeftButton
PLACES = {1: (0, 0), 2: (0, 1), 3: (1, 0), 4: (1, 1)}  # of the cells of four heads


@pytest.fixture
def make_levels(viewer, tmp_path, rng):
    """A gray image and a prediction in which head d says yes in quarter d of the plane only."""

    def made(classes=("cell",), heads=(1, 2, 3, 4), shape=(40, 40), image=None):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.ome.zarr"
        store = create_store(path, shape, heads, axes="zyx"[-len(shape) :], classes=classes)
        for head in heads:
            voxels = np.zeros((len(classes), *shape), np.uint8)
            row, column = PLACES[head]
            voxels[-1, ..., row * 20 : row * 20 + 20, column * 20 : column * 20 + 20] = 200
            if len(classes) > 1:
                voxels[0] = 255 - voxels[-1]
            store.probability(head)[...] = voxels
        if image is None:
            image = viewer.add_image(np.full(shape, 90, np.uint8), name="cells", contrast_limits=(0, 255))
        return add_levels(viewer, image, store.axes, store, HeadComparison.of_heads(heads))

    return made


@pytest.fixture
def views(qtbot):
    widget = LevelViews()
    qtbot.addWidget(widget)
    widget.show()
    return widget


def picture(viewer):
    return viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)


def colour(viewer):
    """How colourful each pixel of the canvas is; the image is gray."""
    return np.ptp(picture(viewer), axis=-1)


def state(viewer):
    """All that a user could notice of the viewer, apart from pixels."""
    grid = viewer.canvas.grid
    return {
        "layers": [(id(x), x.name, x.visible, x.opacity, x.name_overlay.visible) for x in viewer.layers],
        "selected": {id(x) for x in viewer.layers.selection},
        "grid": (grid.enabled, grid.stride, grid.shape, grid.spacing),
        "camera": (tuple(viewer.scene.camera.center), viewer.scene.camera.zoom),
    }


def cells_of_grid(viewer):
    """Names of what is visible in each cell, row by row."""
    boxes = viewer.canvas.grid.iter_viewboxes(viewer.layers)
    return [[viewer.layers[i].name for i in indices if viewer.layers[i].visible] for _, indices in boxes]


def test_each_cell_shows_its_head_on_the_image(viewer, make_levels, qtbot):
    levels = make_levels()
    viewer.reset_view()
    levels.comparison.grid = True
    qtbot.wait(100)
    names = cells_of_grid(viewer)
    assert [cell[1] for cell in names] == ["cells L1", "cells L2", "cells L3", "cells L4"]
    colourful, shown = colour(viewer) > 40, picture(viewer)
    height, width = (extent // 2 for extent in colourful.shape)
    for row, column in PLACES.values():
        cell = np.s_[row * height : (row + 1) * height, column * width : (column + 1) * width]
        inside = np.argwhere(colourful[cell])
        centre = inside.mean(axis=0) / (height, width)
        # the quarter that the head of this cell is sure of, and no other
        assert (centre[0] > 0.5, centre[1] > 0.5) == (bool(row), bool(column))
        gray = (abs(shown[cell] - 90) < 6).all(axis=-1)
        assert gray.mean() > 0.2  # the rest of the image is there as well


def test_leaving_the_grid_puts_all_back(viewer, make_levels, rng):
    lowest = viewer.add_image(rng.random((40, 40)), name="other")
    levels = make_levels()
    viewer.add_points([[1, 1]], name="marks")
    viewer.layers.move(viewer.layers.index(levels.layers[3]), 0)
    viewer.layers["marks"].visible = False
    viewer.layers.selection.clear()
    viewer.layers.selection.update({lowest, levels.layers[2]})
    levels.layers[2].name_overlay.visible = True
    viewer.canvas.grid.stride = 3
    viewer.scene.camera.zoom = 7.3
    before = state(viewer)
    levels.comparison.grid = True
    assert sorted(cell[1] for cell in cells_of_grid(viewer)) == [f"cells L{d}" for d in range(1, 5)]
    assert all(viewer.layers[cell[0]].data is viewer.layers["cells"].data for cell in cells_of_grid(viewer))
    assert viewer.layers.selection == {lowest, levels.layers[2]}
    levels.comparison.grid = False
    assert state(viewer) == before
    assert not levels.comparison.grid


def test_a_grid_closed_by_the_button_of_napari_is_closed(viewer, make_levels):
    levels = make_levels()
    before = state(viewer)
    levels.comparison.grid = True
    viewer.canvas.grid.enabled = False
    assert not levels.comparison.grid
    assert state(viewer) == before
    # and the user's own grid is the user's
    viewer.canvas.grid.enabled = True
    assert not levels.comparison.grid


@pytest.mark.parametrize("leave", ["grid", "button"])
def test_layers_removed_from_the_grid(viewer, make_levels, qtbot, leave):
    levels = make_levels()
    before = [layer.name for layer in viewer.layers]
    levels.comparison.grid = True
    viewer.layers.remove(levels.layers[2])
    qtbot.waitUntil(lambda: len(cells_of_grid(viewer)) == 4 and cells_of_grid(viewer)[3] == [], timeout=5000)
    assert [cell[1] for cell in cells_of_grid(viewer)[:3]] == ["cells L1", "cells L3", "cells L4"]
    assert all(len(cell) == 2 for cell in cells_of_grid(viewer)[:3])
    # a copy of the image goes as well: it is put in again, as the cell would be empty without
    viewer.layers.remove(cells_of_grid(viewer)[2][0])
    qtbot.waitUntil(lambda: all(len(cell) == 2 for cell in cells_of_grid(viewer)[:3]), timeout=5000)
    if leave == "grid":
        levels.comparison.grid = False
    else:
        viewer.canvas.grid.enabled = False
    before.remove("cells L2")
    assert [layer.name for layer in viewer.layers] == before
    assert [layer.name for layer in viewer.layers if layer.visible] == ["cells", "cells L4"]


def test_all_levels_removed_from_the_grid(viewer, make_levels, qtbot):
    levels = make_levels()
    levels.comparison.grid = True
    viewer.layers.selection.clear()
    viewer.layers.selection.update(levels.layers.values())
    del levels
    viewer.layers.remove_selected()
    qtbot.waitUntil(lambda: [layer.name for layer in viewer.layers] == ["cells"], timeout=5000)
    assert viewer.layers["cells"].visible
    assert not viewer.canvas.grid.enabled


def test_the_image_removed_from_the_grid(viewer, make_levels, qtbot):
    levels = make_levels()
    levels.comparison.grid = True
    viewer.layers.remove("cells")
    qtbot.waitUntil(lambda: not levels.comparison.grid, timeout=5000)
    assert [layer.name for layer in viewer.layers] == [f"cells L{d}" for d in range(1, 5)] + ["cells Ensemble"]
    levels.comparison.grid = True  # there is nothing to show the heads on
    assert not levels.comparison.grid
    assert not viewer.canvas.grid.enabled


def test_a_layer_that_is_added_ends_the_grid(viewer, make_levels, qtbot):
    levels = make_levels()
    levels.comparison.grid = True
    added = viewer.add_points([[1, 1]], name="marks")
    qtbot.waitUntil(lambda: not levels.comparison.grid, timeout=5000)
    assert [x.name for x in viewer.layers if x.visible] == ["cells", "cells L4", "marks"]
    assert added in viewer.layers.selection or viewer.layers.selection.active is not None


def test_a_moved_level_takes_its_cell_along(viewer, make_levels, qtbot):
    levels = make_levels()
    levels.comparison.grid = True
    viewer.layers.move(viewer.layers.index(levels.layers[4]), 0)
    expected = ["cells L4", "cells L1", "cells L2", "cells L3"]
    qtbot.waitUntil(lambda: [cell[-1] for cell in cells_of_grid(viewer) if cell] == expected, timeout=5000)
    assert all(len(cell) == 2 for cell in cells_of_grid(viewer))


def test_the_slider_moved_in_the_grid_shows_afterwards(viewer, make_levels):
    levels = make_levels()
    levels.comparison.grid = True
    levels.comparison.level = 1
    assert len(cells_of_grid(viewer)) == 4
    levels.comparison.grid = False
    assert [x.name for x in viewer.layers if x.visible] == ["cells", "cells L1"]


def test_contrast_is_that_of_all_cells(viewer, make_levels):
    levels = make_levels()
    levels.comparison.grid = True
    copies = [x for x in viewer.layers if isinstance(x, Image)]
    copies[-1].contrast_limits = (10, 60)
    copies[-1].colormap = "red"
    assert {tuple(x.contrast_limits) for x in copies} == {(10, 60)}
    levels.comparison.grid = False
    assert tuple(viewer.layers["cells"].contrast_limits) == (10, 60)
    assert viewer.layers["cells"].colormap.name == "red"


def test_a_run_that_fills_the_store_fills_the_grid(viewer, make_levels, qtbot):
    levels = make_levels()
    viewer.reset_view()
    levels.comparison.grid = True
    levels.store.probability(1)[...] = 255
    levels.refresh()
    qtbot.wait(50)
    colourful = colour(viewer) > 40
    height, width = (extent // 2 for extent in colourful.shape)
    assert colourful[:height, :width].mean() > 2 * colourful[:height, width:].mean()


def test_probability_is_that_of_the_level_on_the_screen(viewer, make_levels):
    levels = make_levels(shape=(3, 40, 40))
    levels.comparison.probability = True
    layer = viewer.layers["cells probability"]
    assert viewer.layers.index(layer) < viewer.layers.index("cells L1")  # labels are seen on it
    for level in (1, 3, "ensemble"):
        levels.comparison.level = level
        heads = [level] if level != "ensemble" else [1, 2, 3, 4]
        stored = [np.asarray(levels.store.probability(head))[0] for head in heads]
        expected = np.mean(stored, axis=0, dtype=np.float64) / 255
        np.testing.assert_allclose(np.asarray(layer.data), expected, atol=1e-6)
        at = [layer.get_value((viewer.dims.point[0], y, x)) for y, x in ((5, 5), (5, 35), (35, 5))]
        np.testing.assert_allclose(at, [expected[0, y, x] for y, x in ((5, 5), (5, 35), (35, 5))], atol=1e-6)
    levels.comparison.probability = False
    assert "cells probability" not in viewer.layers


def test_the_map_is_on_the_canvas(viewer, make_levels, qtbot):
    levels = make_levels()
    levels.comparison.visible = False
    viewer.reset_view()
    assert (colour(viewer) > 60).mean() < 0.01
    levels.comparison.probability = True
    qtbot.wait(50)
    for level, (row, column) in PLACES.items():
        levels.comparison.level = level
        qtbot.wait(50)
        middle = np.argwhere(colour(viewer) > 60).mean(axis=0) / colour(viewer).shape
        assert (middle[0] > 0.5, middle[1] > 0.5) == (bool(row), bool(column))


def test_disagreement_is_the_spread_of_the_heads(viewer, make_levels, rng):
    levels = make_levels()
    for head in levels.store.levels:
        levels.store.probability(head)[...] = rng.integers(0, 256, (1, 40, 40), np.uint8)
    levels.comparison.disagreement = True
    layer = viewer.layers["cells disagreement"]
    heads = np.stack([np.asarray(levels.store.probability(head))[0] / 255 for head in levels.store.levels])
    np.testing.assert_allclose(np.asarray(layer.data), heads.max(axis=0) - heads.min(axis=0), atol=1e-6)
    np.testing.assert_array_equal(np.asarray(layer.data), np.asarray(disagreement_view(levels.store)))
    assert tuple(layer.contrast_limits) == (0, 1)


def test_each_foreground_class_has_a_map_of_its_own(viewer, make_levels):
    levels = make_levels(classes=("background", "wall", "core"))
    levels.comparison.probability = True
    names = [layer.name for layer in viewer.layers if isinstance(layer, Image)]
    assert names == ["cells", "cells probability wall", "cells probability core"]
    stored = np.asarray(levels.store.probability(4))
    for channel, name in ((1, names[1]), (2, names[2])):
        np.testing.assert_allclose(np.asarray(viewer.layers[name].data), stored[channel] / 255, atol=1e-6)
    viewer.layers.remove(names[1])
    assert levels.comparison.probability
    viewer.layers.remove(names[2])
    assert not levels.comparison.probability


def test_the_buttons_press_and_tell(viewer, make_levels, views, qtbot):
    levels = make_levels()
    views.bind(levels)
    assert views.isEnabled()
    qtbot.mouseClick(views.buttons["probability"], LEFT)
    qtbot.mouseClick(views.buttons["disagreement"], LEFT)
    assert {"cells probability", "cells disagreement"} <= {layer.name for layer in viewer.layers}
    for width in (0, 2):  # outlined already, for the maps
        qtbot.mouseClick(views.buttons["contour"], LEFT)
        assert {layer.contour for layer in levels.layers.values()} == {width}
    viewer.layers.remove("cells probability")
    assert not views.buttons["probability"].isChecked()
    assert views.buttons["disagreement"].isChecked()
    levels.layers[1].contour = 0  # in napari's own controls
    assert not views.buttons["contour"].isChecked()
    qtbot.mouseClick(views.buttons["grid"], LEFT)
    assert viewer.canvas.grid.enabled
    viewer.canvas.grid.enabled = False
    assert not views.buttons["grid"].isChecked()
    qtbot.mouseClick(views.buttons["disagreement"], LEFT)
    assert "cells disagreement" not in viewer.layers
    views.threshold.setValue(0.9)  # above 200 / 255
    assert levels.comparison.threshold == 0.9
    assert not np.asarray(levels.layers[4].data).any()
    levels.comparison.threshold = 0.25
    assert views.threshold.value() == pytest.approx(0.25)


@pytest.mark.parametrize("contour", [0, 1])
def test_labels_are_outlined_as_long_as_there_is_a_map(make_levels, views, qtbot, contour):
    levels = make_levels()
    comparison = levels.comparison
    comparison.contour = contour
    views.bind(levels)
    for field, mapped in (
        ("probability", True),
        ("disagreement", True),
        ("probability", True),
        ("disagreement", False),
    ):
        qtbot.mouseClick(views.buttons[field], LEFT)
        assert comparison.contour == (contour or (2 if mapped else 0))


def test_the_contour_is_on_the_canvas(viewer, make_levels, qtbot):
    levels = make_levels()
    viewer.reset_view()
    filled = (colour(viewer) > 40).mean()
    levels.comparison.contour = 1
    qtbot.wait(50)
    assert 0 < (colour(viewer) > 40).mean() < filled / 2


def test_several_classes_have_no_threshold_and_one_head_no_grid(viewer, make_levels, views):
    views.bind(make_levels(classes=("background", "wall")))
    assert not views.threshold.isVisible()
    views.bind(make_levels(heads=(2,), image=viewer.layers["cells"]))
    assert views.threshold.isVisible()
    assert not views.buttons["grid"].isEnabled()
    assert not views.buttons["disagreement"].isEnabled()
    assert views.buttons["probability"].isEnabled()


def test_what_is_bound_no_more_is_not_moved(viewer, make_levels, views, qtbot):
    first = make_levels()
    views.bind(first)
    second = make_levels(image=viewer.layers["cells"])
    views.bind(second)
    qtbot.mouseClick(views.buttons["contour"], LEFT)
    assert (first.comparison.contour, second.comparison.contour) == (0, 2)
    first.comparison.contour = 0
    assert views.buttons["contour"].isChecked()


def test_without_a_prediction_nothing_can_be_pressed(viewer, make_levels, views):
    assert not views.isEnabled()
    levels = make_levels()
    views.bind(levels)
    for layer in levels.layers.values():
        viewer.layers.remove(layer)
    assert views.levels is None
    assert not views.isEnabled()


def test_a_new_prediction_of_the_image_takes_the_screen(viewer, make_levels):
    first = make_levels()
    first.comparison.probability = True
    first.comparison.grid = True
    second = make_levels(image=viewer.layers["cells"])
    assert predictions_in(viewer) == [first, second]
    assert [x for x in viewer.layers if x.visible] == [viewer.layers["cells"], second.layers[4]]
    assert not viewer.canvas.grid.enabled


def test_nothing_is_cut_in_a_dock_of_300_pixels(viewer, make_levels, views, qtbot):
    views.bind(make_levels())
    viewer.window.add_dock_widget(views, name="views")
    assert views.minimumSizeHint().width() <= 300
    views.resize(300, views.height())
    qtbot.wait(50)
    for button in views.buttons.values():
        text = button.fontMetrics().horizontalAdvance(button.text())
        assert button.width() >= text + 8, button.text()


def test_the_window_closes_with_grid_and_maps_on(make_napari_viewer, tmp_path, qtbot):
    viewer = make_napari_viewer(show=True)
    store = create_store(tmp_path / "a.ome.zarr", (40, 40), (1, 2), axes="yx")
    image = viewer.add_image(np.zeros((40, 40)))
    levels = add_levels(viewer, image, "yx", store, HeadComparison.of_heads((1, 2)))
    levels.comparison.disagreement = True
    levels.comparison.grid = True
    viewer.close()
    qtbot.wait(50)
    assert not levels.comparison.grid
