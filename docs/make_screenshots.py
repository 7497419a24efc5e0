"""Take the pictures of docs/images by driving the real window.

    xvfb-run -a -s "-screen 0 1280x800x24" python docs/make_screenshots.py [MODEL]

Opens napari, the nuclei sample and the Segment dock from their menus, presses Run, moves the slider
and grabs the whole screen: `segment.png` (the level that the card recommends), `segment_l1.png` and
`segment_l4.png`. The user's own settings of napari are not touched.
"""

# ruff: noqa: T201, TID251

from __future__ import annotations

import os
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


def main(model: str = "nuclei") -> None:
    """Drive the window and grab it."""
    import napari
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    IMAGES.mkdir(exist_ok=True)
    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    choose(viewer.window.file_menu, "Open Sample", "napari-unetpp", "Nuclei")
    wait_until(lambda: len(viewer.layers) > 0)
    viewer.layers.selection.active = viewer.layers[0]
    choose(viewer.window.plugins_menu, "Segment")
    wait_until(lambda: len(viewer.window.dock_widgets) > 0)
    (dock,) = viewer.window.dock_widgets.values()
    wait_until(dock.run_button.isEnabled)
    dock.form.model.setCurrentText(model)
    viewer.reset_view()
    QTest.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    wait_until(lambda: dock.state != "running")
    if dock.state != "done":
        raise RuntimeError(dock.status.text())
    grab("segment")
    places = dock.levels.comparison.levels
    for level in (1, 4):
        dock.slider.slider.setValue(places.index(level))
        grab(f"segment_l{level}")
    viewer.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as settings:
        os.environ["NAPARI_CONFIG"] = str(Path(settings) / "settings.yaml")
        main(*sys.argv[1:])
