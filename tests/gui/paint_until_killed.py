"""A window in which somebody paints until the process is killed; a line for every stroke that is finished.

Run by test_correct_killed.py: python paint_until_killed.py FOLDER
"""

import itertools
import sys

import napari
import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication


def main(folder):
    viewer = napari.Viewer(show=True)
    viewer.add_image(np.random.default_rng(0).integers(0, 99, (3, 300, 300), np.uint8), name="cells")
    _, dock = viewer.window.add_plugin_dock_widget("napari-unetpp", "Correct")
    strokes = itertools.count()

    def until(condition):
        while not condition():
            QApplication.processEvents()

    def paint():
        y, x = divmod(next(strokes), 25)
        layer = dock.opened.layer
        layer.paint((1, 5 + 12 * y, 5 + 12 * x), 1)
        layer.paint((1, 6 + 12 * y, 6 + 12 * x), 1)
        print(f"{5 + 12 * y} {5 + 12 * x}", flush=True)

    dock.form.folder.setText(folder)
    until(dock.make_button.isEnabled)
    dock.make_button.click()
    until(lambda: dock.opened is not None and dock.job is None)
    dock.opened.layer.brush_size = 3
    timer = QTimer()
    timer.timeout.connect(paint)
    timer.start(1)
    napari.run()


if __name__ == "__main__":
    main(sys.argv[1])
