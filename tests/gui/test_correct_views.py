"""Marks mean what is on the screen, whatever the view: turned axes, time, 3D, an askew image, a slider beside it."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from napari_unetpp.box import Box
from napari_unetpp.training.corrections import open_corrections
from tests.gui.mouse import canvas_of, drag
from tests.gui.test_correct_widget import key, open_correct, predict, press, stored  # noqa: F401 (fixtures)

pytestmark = pytest.mark.gui

EXTENTS = {"t": 2, "c": 2, "z": 5, "y": 30, "x": 40}
AT = {"t": 1, "c": 1, "z": 3, "y": 12, "x": 25}


def reviewed_mask(corrections):
    found = np.zeros(corrections.shape, bool)
    for box in corrections.reviewed:
        found[box.slices] = True
    return found


def plane(axes, shown):
    """The box of a plane, from the letters alone."""
    spans = [(0, EXTENTS[a]) if a in shown else (AT[a], AT[a] + 1) for a in "tzyx" if a in axes]
    return Box(*zip(*spans, strict=True))


VIEWS = [
    (axes, shown)
    for axes in ("zyx", "xyz", "tzyx", "zcyx", "czyx")
    for shown in itertools.permutations(axes, 2)
    if "c" not in shown and (len(axes) == 3 or shown in {tuple("yx"), tuple("zx"), tuple("yz"), tuple("tx")})
]


@pytest.mark.parametrize(("axes", "shown"), VIEWS, ids=lambda v: "".join(v))
def test_a_mark_is_the_plane_on_the_screen(viewer, open_correct, axes, shown, qtbot, rng):  # noqa: F811
    shape = [EXTENTS[a] for a in axes]
    viewer.add_image(
        rng.integers(0, 99, shape, np.uint8), name="cells", axis_labels=tuple(axes), scale=(2,) * len(axes)
    )
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    viewer.dims.order = tuple(axes.index(a) for a in (*(a for a in axes if a not in shown), *shown))
    viewer.dims.current_step = tuple(AT[a] for a in axes)
    key(viewer, "R")
    corrections, outlines = dock.opened.corrections, dock.review.outlines
    expected = plane(axes, shown)
    assert corrections.reviewed == (expected,)
    (outline,) = outlines.layer.data
    for axis, letter in enumerate(axes):  # around the whole plane, and on it
        low, high = (-0.5, EXTENTS[letter] - 0.5) if letter in shown else (AT[letter],) * 2
        assert (outline[:, axis].min(), outline[:, axis].max()) == (low, high)
    slider = axes.index(next(a for a in axes if a not in shown and a != "c"))
    viewer.dims.set_current_step(slider, 0)
    assert len(outlines.layer.data) == 0
    viewer.dims.current_step = tuple(AT[a] for a in axes)
    key(viewer, "Shift+R")
    assert corrections.reviewed == ()


@pytest.mark.parametrize("rule", [0, 1])
def test_a_mark_in_xz_fills_that_plane_alone(viewer, open_correct, predict, rule, qtbot, rng):  # noqa: F811
    image = viewer.add_image(rng.integers(0, 99, (5, 30, 40), np.uint8), name="cells", axis_labels=tuple("zyx"))
    labels = rng.integers(0, 2, (5, 30, 40))
    predict(image, labels=labels)
    dock = open_correct()
    dock.form.unpainted.setCurrentIndex(rule)
    press(dock.make_button, dock, qtbot)
    viewer.dims.order = (1, 0, 2)
    viewer.dims.set_current_step(1, 12)
    key(viewer, "R")
    corrections = dock.opened.corrections
    qtbot.waitUntil(lambda: bool(corrections.reviewed), timeout=10_000)
    seen = np.zeros((5, 30, 40), bool)
    seen[:, 12] = True
    np.testing.assert_array_equal(reviewed_mask(corrections), seen)
    np.testing.assert_array_equal(stored(dock), np.where(seen, labels + 1, 0) if rule else labels)


@pytest.mark.parametrize("axes", ["zyx", "tzyx"])
def test_in_3d_marks_and_rectangles_are_refused(viewer, open_correct, axes, qtbot, rng):  # noqa: F811
    shape = [EXTENTS[a] for a in axes]
    viewer.add_image(rng.integers(0, 99, shape, np.uint8), name="cells", axis_labels=tuple(axes))
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    corrections, review = dock.opened.corrections, dock.review
    key(viewer, "R")
    marked = corrections.reviewed
    assert len(marked) == 1
    viewer.dims.ndisplay = 3
    for button in ("R", "Shift+R", "D"):
        dock.tell("")
        key(viewer, button)
        assert "The 3D view shows all slices at once" in dock.status.text()
    assert corrections.reviewed == marked
    assert review.outlines.drawing is None
    assert not review.draw_button.isChecked()
    assert len(review.outlines.layer.data) == 0
    viewer.dims.ndisplay = 2
    assert len(review.outlines.layer.data) == 1
    key(viewer, "D")
    assert review.outlines.drawing is not None
    viewer.dims.ndisplay = 3  # while it is drawn
    assert review.outlines.drawing is None


@pytest.mark.parametrize(("axes", "shown"), [("zyx", "zx"), ("zyx", "yz"), ("tzyx", "zy"), ("tzyx", "yx")])
def test_a_rectangle_is_what_was_drawn_in_the_view(viewer, open_correct, axes, shown, qtbot, rng):  # noqa: F811
    extents = {**EXTENTS, "z": 20}
    shape = [extents[a] for a in axes]
    viewer.add_image(rng.integers(0, 99, shape, np.uint8), name="cells", axis_labels=tuple(axes))
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    viewer.dims.order = tuple(axes.index(a) for a in (*(a for a in axes if a not in shown), *shown))
    viewer.dims.current_step = tuple(AT[a] for a in axes)
    viewer.reset_view()
    key(viewer, "D")
    drawing = dock.review.outlines.drawing
    corner, far = ({**AT, shown[0]: a, shown[1]: b} for a, b in ((4, 6), (13, 15)))
    canvas_of(viewer)
    drag(viewer, qtbot, *(_on_canvas(viewer, drawing, [where[a] for a in axes]) for where in (corner, far)))
    qtbot.waitUntil(lambda: dock.review.outlines.drawing is None, timeout=5000)
    (drawn,) = dock.opened.corrections.reviewed
    for axis, start, stop in zip(dock.opened.corrections.axes, drawn.start, drawn.stop, strict=True):
        if axis in shown:
            assert abs(start - corner[axis]) <= 1
            assert abs(stop - far[axis] - 1) <= 1
        else:
            assert (start, stop) == (AT[axis], AT[axis] + 1)


def _on_canvas(viewer, layer, at):
    from qtpy.QtCore import QPoint

    canvas, camera = canvas_of(viewer), viewer.scene.camera
    world = np.asarray(layer.data_to_world(at), float)[list(viewer.dims.displayed)]
    offset = (world - np.asarray(camera.center[-2:])) * camera.zoom
    return QPoint(round(canvas.width() / 2 + offset[1]), round(canvas.height() / 2 + offset[0]))


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_what_is_not_on_the_screen_is_not_marked(viewer, open_correct, qtbot, rng):  # noqa: F811
    image = viewer.add_image(rng.integers(0, 99, (5, 30, 40), np.uint8), name="cells", axis_labels=tuple("zyx"))
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    viewer.add_labels(np.zeros((9, 30, 40), np.uint8))
    viewer.dims.set_current_step(0, 7)
    key(viewer, "R")
    assert dock.opened.corrections.reviewed == ()
    assert "cells ends before this place along z" in dock.status.text()
    viewer.dims.set_current_step(0, 4)
    key(viewer, "R")
    assert dock.opened.corrections.reviewed == (Box((4, 0, 0), (5, 30, 40)),)
    key(viewer, "Shift+R")
    image.rotate = [[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]]
    key(viewer, "R")
    assert dock.opened.corrections.reviewed == ()
    assert "out of the plane of the view" in dock.status.text()
    image.rotate = [[1, 0, 0], [0, 0.8, 0.6], [0, -0.6, 0.8]]  # within the plane
    viewer.dims.set_current_step(0, 2)
    key(viewer, "R")
    assert dock.opened.corrections.reviewed == (Box((2, 0, 0), (3, 30, 40)),)
    key(viewer, "Shift+R")
    viewer.dims.thickness = (3, 0, 0)
    image.projection_mode = "max"
    key(viewer, "R")
    assert "shows several slices as one" in dock.status.text()
    assert dock.opened.corrections.reviewed == ()
    image.projection_mode = "none"
    key(viewer, "R")
    assert dock.opened.corrections.reviewed == (Box((2, 0, 0), (3, 30, 40)),)


HOLD = """
import sys
from napari_unetpp.training.corrections import open_corrections
held = open_corrections(sys.argv[1], "r+")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_that_another_program_paints_on_is_told_in_one_line(viewer, open_correct, qtbot, rng):  # noqa: F811
    viewer.add_image(rng.integers(0, 99, (30, 40), np.uint8), name="cells")
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    path = dock.opened.corrections.path
    viewer.layers.remove(dock.opened.layer)
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        press(dock.open_button, dock, qtbot)
        assert dock.opened is None
        text = dock.status.text().replace("\u200b", "")
        assert f"{path} is being painted on in another window or program; close it there first" in text
        assert open_corrections(path).labels.shape == (30, 40)  # reading is free
        other.stdin.close()
        other.wait(30)
    press(dock.open_button, dock, qtbot)
    assert dock.opened is not None
    again = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "is being painted on in another window or program" in again.stderr.splitlines()[-1]


@pytest.mark.parametrize("what", ["scale", "translate", "affine", "rotate", "shear", "axis_labels", "units"])
def test_layers_follow_their_image(viewer, open_correct, predict, what, qtbot, rng):  # noqa: F811
    image = viewer.add_image(rng.integers(0, 99, (5, 30, 40), np.uint8), name="cells", axis_labels=tuple("zyx"))
    levels = predict(image)
    dock = open_correct()
    press(dock.make_button, dock, qtbot)
    levels.comparison.disagreement = levels.comparison.probability = True
    key(viewer, "R")
    turned = np.array([[1, 0, 0], [0, 0.8, 0.6], [0, -0.6, 0.8]])
    values = {
        "scale": (4, 0.5, 0.5),
        "translate": (10, 20, 30),
        "affine": np.block([[turned, np.full((3, 1), 7)], [0, 0, 0, 1]]),
        "rotate": turned,
        "shear": (0, 0, 0.5),
        "axis_labels": ("depth", "row", "column"),
        "units": ("um", "um", "um"),
    }
    setattr(image, what, values[what])
    layers = [*levels.layers.values(), *levels.maps.layers(), dock.opened.layer, dock.review.outlines.layer]
    assert len(layers) == 7
    for layer in layers:
        assert layer.axis_labels == image.axis_labels
        assert layer.units == image.units
        for corner in ((0, 0, 0), (4, 29, 39)):
            np.testing.assert_allclose(layer.data_to_world(corner), image.data_to_world(corner))
    assert len({layer.unique_id for layer in viewer.layers} & {layer.unique_id for layer in layers}) == len(layers)
    # and a stroke lands on the voxel below the brush
    brush = dock.opened.layer
    brush.brush_size = 1
    brush.paint(tuple(round(v) for v in brush.world_to_data(image.data_to_world((2, 7, 9)))), 1)
    assert stored(dock)[2, 7, 9] == 1
