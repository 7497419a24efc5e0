"""A mouse over the canvas: where voxels are, and strokes with the left button."""

import numpy as np
from qtpy.QtCore import QPoint, Qt

LEFT = Qt.MouseButton.LeftButton


def canvas_of(viewer):
    return viewer.window._qt_viewer.canvas.native  # in tests only: the widget that gets the mouse


def place(viewer, layer, *data):
    """Where on the canvas a voxel of the slice is."""
    world = np.asarray(layer.data_to_world(data), float)[list(viewer.dims.displayed)]
    canvas, camera = canvas_of(viewer), viewer.scene.camera
    offset = (world - np.asarray(camera.center[-2:])) * camera.zoom
    return QPoint(round(canvas.width() / 2 + offset[1]), round(canvas.height() / 2 + offset[0]))


def stroke(viewer, qtbot, points):
    """Press at the first point, move over the others, let go at the last."""
    canvas = canvas_of(viewer)
    viewer.screenshot(flash=False)  # whatever has changed is drawn before the mouse meets it
    qtbot.mouseMove(canvas, points[0])
    qtbot.mousePress(canvas, LEFT, pos=points[0])
    for point in points[1:]:
        qtbot.mouseMove(canvas, point)
        qtbot.wait(10)
    qtbot.mouseRelease(canvas, LEFT, pos=points[-1])


def drag(viewer, qtbot, start, stop):
    """A straight stroke."""
    stroke(viewer, qtbot, [start, *(start + (stop - start) * step / 4 for step in range(1, 5))])
