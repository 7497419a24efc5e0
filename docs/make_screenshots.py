"""Take the pictures of docs/images by driving the real window.

    xvfb-run -a -s "-screen 0 1280x800x24" python docs/make_screenshots.py [NAME ...]

Opens napari, samples, files and docks from their menus, presses their buttons, and grabs the whole screen, at
1280x800. Names are those of `PICTURES`; without any, all are taken, each in a process of its own. The user's own
settings of napari are not touched.
"""

# ruff: noqa: T201, TID251

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGES = Path(__file__).parent / "images"
SIZE = (1280, 800)


def wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    """Let the window live until something is so."""
    from qtpy.QtTest import QTest

    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still not so after {seconds} s: {condition}")
        QTest.qWait(50)


def grab(name: str) -> None:
    """Save the whole screen, once it has been drawn."""
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    QTest.qWait(700)
    screen = QApplication.primaryScreen()
    path = IMAGES / f"{name}.png"
    if screen is None or not screen.grabWindow(0).save(str(path)):
        raise OSError(f"cannot grab the screen into {path}")
    print(path)


def choose(menu: Any, *path: str) -> None:
    """Trigger the entry of a menu, and of its submenus, whose texts begin like `path`."""
    menu.aboutToShow.emit()
    first, *rest = path
    action = next(a for a in menu.actions() if a.text().replace("&", "").startswith(first))
    if rest:
        choose(action.menu(), *rest)
    else:
        action.trigger()


def click(button: Any) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    QTest.mouseClick(button, Qt.MouseButton.LeftButton)


class Session:
    """The window with the Segment dock beside an image."""

    def __init__(self, theme: str = "dark") -> None:
        import napari

        self.viewer = napari.Viewer()
        self.viewer.theme = theme
        self.viewer.window.resize(*SIZE)

    def open_sample(self, text: str) -> Any:
        choose(self.viewer.window.file_menu, "Open Sample", "napari-unetpp", text)
        wait_until(lambda: len(self.viewer.layers) > 0)
        self.viewer.layers.selection.active = self.viewer.layers[0]
        return self.viewer.layers[0]

    def open_dock(self, name: str) -> Any:
        choose(self.viewer.window.plugins_menu, "napari-unetpp", name)
        wait_until(lambda: any(name in key for key in self.viewer.window.dock_widgets))
        return next(dock for key, dock in self.viewer.window.dock_widgets.items() if name in key)

    def segment(self, model: str = "nuclei") -> Any:
        """The Segment dock, ready to run."""
        dock = self.open_dock("Segment")
        wait_until(dock.run_button.isEnabled)
        dock.form.model.setCurrentText(model)
        self.viewer.reset_view()
        return dock

    def run(self, dock: Any) -> None:
        click(dock.run_button)
        wait_until(lambda: dock.state not in ("running", "paused") and dock.job is None)
        if dock.state != "done":
            raise RuntimeError(dock.status.text())


def live() -> None:
    """A view that no run has touched."""
    session = Session()
    session.open_sample("Nuclei")
    dock = session.segment()
    wait_until(lambda: dock.level_box.live_view.reached is not None and not dock.level_box.live_view.computing)
    grab("live")


def segment(theme: str = "dark", suffix: str = "") -> None:
    """After a run, at the recommended level and at L1 and L4."""
    session = Session(theme)
    session.open_sample("Nuclei")
    dock = session.segment()
    session.run(dock)
    grab(f"segment{suffix}")
    for level in (1, 4):
        dock.slider.slider.setValue(dock.levels.comparison.levels.index(level))
        grab(f"segment_l{level}{suffix}")


def light() -> None:
    """The same in napari's light theme."""
    segment("light", "_light")


def views() -> None:
    """All heads side by side, and where they disagree."""
    session = Session()
    session.open_sample("Nuclei")
    dock = session.segment()
    session.run(dock)
    buttons = dock.level_box.views.buttons
    click(buttons["grid"])
    grab("grid")
    click(buttons["grid"])
    click(buttons["disagreement"])
    grab("disagreement")


def compare() -> None:
    """The table of levels beside a reference."""
    session = Session()
    session.open_sample("Nuclei")
    dock = session.segment()
    session.run(dock)
    table = session.open_dock("Compare")
    wait_until(lambda: table.reference.count() > 1)
    table.reference.setCurrentText("nuclei truth")
    wait_until(table.measure_button.isEnabled)
    click(table.measure_button)
    wait_until(lambda: all("s" in table.table.item(row, 3).text() for row in range(5)))
    wait_until(lambda: table.measure_button.text() == "Measure speed")
    grab("compare")


def correct() -> None:
    """Corrections that began with a level, with a stroke, a reviewed slice and a doubtful region."""
    session = Session()
    session.open_sample("Synthetic EM")
    session.viewer.dims.set_current_step(0, 7)
    session.run(session.segment("em-boundaries"))
    dock = session.open_dock("Correct")
    dock.form.folder.setText(tempfile.mkdtemp())
    wait_until(dock.make_button.isEnabled)
    click(dock.make_button)
    wait_until(lambda: dock.opened is not None and dock.job is None)
    layer = dock.opened.layer
    layer.brush_size = 5
    for step in range(30):
        layer.paint((7, 60 + step, 40 + 2 * step), 1)
    click(dock.review.mark_button)
    session.viewer.dims.set_current_step(0, 8)
    wait_until(lambda: "slice" in dock.review.counted.text() and not dock.review.counting.busy)
    click(dock.tour.next_button)
    wait_until(lambda: " of " in dock.tour.text.text() and dock.job is None)
    grab("correct")


def train() -> None:
    """While a model learns that membranes can be bright."""
    import numpy as np

    session = Session()
    image = session.open_sample("Synthetic EM")
    labels = session.viewer.layers[1]
    bright = session.viewer.add_image(
        255 - np.asarray(image.data),
        name="bright membranes",
        scale=image.scale,
        units=image.units,
        axis_labels=image.axis_labels,
    )
    image.visible = labels.visible = False
    session.viewer.layers.selection.active = bright
    session.viewer.dims.set_current_step(0, 7)
    session.segment("em-boundaries")
    dock = session.open_dock("Train")
    wait_until(lambda: dock.form.start.count() > 0)
    box = dock.pair_box
    box.image.setCurrentText(bright.name)
    box.label.setCurrentText(labels.name)
    click(box.add_button)
    wait_until(lambda: len(box.facts) == 1)
    dock.form.start.setCurrentText("em-boundaries")
    dock.form.patch.setValue(64)
    dock.form.batch.setValue(4)
    click(dock.plan_button)
    wait_until(lambda: dock.state in ("planned", "failed") and dock.job is None)
    click(dock.start_button)
    live = dock.view.live
    wait_until(lambda: dock.run is not None and dock.run.training.epochs_done >= 5 and live.reached == 4)
    grab("train")


def models() -> None:
    """The Models dock with a card."""
    session = Session()
    session.open_sample("Nuclei")
    dock = session.open_dock("Models")
    wait_until(lambda: dock.list.topLevelItemCount() >= 2)
    grab("models")


def large() -> None:
    """A stack that is opened lazily, segmented where one looks."""
    import numpy as np
    import tifffile

    sample = tifffile.imread(Path(__file__).parent.parent / "sample_data" / "synthetic_em.tif")
    plane = np.tile(sample[0], (6, 6))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.tif"
        with tifffile.TiffWriter(path, bigtiff=True) as file:
            file.write(
                (np.roll(plane, 3 * z, axis=1) for z in range(600)), shape=(600, *plane.shape), dtype=plane.dtype
            )
        session = Session()
        session.viewer.open(path, plugin="napari-unetpp")
        dock = session.segment("em-boundaries")
        session.viewer.dims.set_current_step(0, 412)
        session.viewer.scene.camera.zoom *= 3
        wait_until(lambda: dock.level_box.live_view.reached is not None and not dock.level_box.live_view.computing)
        grab("large")


def error() -> None:
    """What a run that cannot work says."""
    import numpy as np

    session = Session()
    session.viewer.add_image(np.zeros((2, 256, 256), np.uint8), name="two channels", axis_labels=("c", "y", "x"))
    dock = session.segment()
    dock.level_box.live.setChecked(False)
    click(dock.run_button)
    wait_until(lambda: dock.state == "failed")
    grab("error")


PICTURES = {f.__name__: f for f in (live, segment, light, views, compare, correct, train, models, large, error)}


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    if len(sys.argv) != 2:
        for name in sys.argv[1:] or PICTURES:
            subprocess.run([sys.executable, __file__, name], check=True)
    else:
        with tempfile.TemporaryDirectory() as settings:
            os.environ["NAPARI_UNETPP_HOME"] = settings  # what is trained here is nobody's model
            os.environ["NAPARI_CONFIG"] = str(Path(settings) / "settings.yaml")
            PICTURES[sys.argv[1]]()
        os._exit(0)  # without asking whether to save anything
