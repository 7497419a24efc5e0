"""Installs a wheel through napari's plugin manager and segments the nuclei sample, as a user would.

    python drive_plugin_manager.py WHEEL L1.npy

Run by test_plugin_manager.py in an environment that has napari and not this plugin. One window from
beginning to end: nothing is restarted. Saves the pixels of L1 and prints one JSON object about the rest.
"""

import importlib.util
import json
import os
import sys
import time

LEFT_SECONDS = 90.0  # that each step may take


def wait_until(condition, what):
    """Let the window live until something is so."""
    from qtpy.QtTest import QTest

    deadline = time.monotonic() + LEFT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still waiting after {LEFT_SECONDS:g} s: {what}")
        QTest.qWait(50)


def entry(menu, *path):
    """The entry of a menu that is reached by what these texts are the beginnings of; None if there is none."""
    menu.aboutToShow.emit()
    for action in menu.actions():
        text, below = action.text().replace("&", ""), action.menu()
        if text.startswith(path[0]) and (len(path) == 1) == (below is None):
            return action if below is None else entry(below, *path[1:])
        if below is not None and len(path) == 1 and (found := entry(below, *path)):
            return found  # napari makes a submenu of a plugin with several widgets
    return None


def visible_windows(kind):
    from qtpy.QtWidgets import QApplication

    return [w for w in QApplication.topLevelWidgets() if type(w).__name__ == kind and w.isVisible()]


def install(viewer, wheel):
    """Plugins > Install/Uninstall Plugins: drop the wheel, press Install, close."""
    from qtpy.QtCore import QMimeData, QPointF, Qt, QTimer, QUrl
    from qtpy.QtGui import QDropEvent
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QPushButton

    entry(viewer.window.plugins_menu, "Install/Uninstall").trigger()
    wait_until(lambda: bool(visible_windows("QtPluginDialog")), "the dialog of the plugin manager")
    (dialog,) = visible_windows("QtPluginDialog")
    exit_codes = []
    dialog.installer.allFinished.connect(exit_codes.extend)
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(wheel)])
    drop = QDropEvent(
        QPointF(10, 10),
        Qt.DropAction.CopyAction,
        data,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    dialog.dropEvent(drop)
    QTest.mouseClick(dialog.direct_entry_btn, Qt.MouseButton.LeftButton)
    wait_until(lambda: bool(exit_codes), "pip")
    if any(exit_codes):
        raise RuntimeError(f"pip ended with {exit_codes}:\n{dialog.stdout_text.toPlainText()}")

    def dismiss_restart_warning():  # it blocks `close`, so it is pressed from the event loop
        for warning in visible_windows("RestartWarningDialog"):
            QTest.mouseClick(warning.findChild(QPushButton), Qt.MouseButton.LeftButton)

    timer = QTimer()
    timer.timeout.connect(dismiss_restart_warning)
    timer.start(100)
    dialog.close()
    timer.stop()


def segment(viewer):
    """Plugins > Segment, File > Open Sample > Nuclei, Run; the dock when it is done."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    wait_until(lambda: entry(viewer.window.plugins_menu, "Segment") is not None, "Segment in the Plugins menu")
    entry(viewer.window.plugins_menu, "Segment").trigger()
    wait_until(lambda: any("Segment" in name for name in viewer.window.dock_widgets), "the Segment dock")
    (dock,) = [widget for name, widget in viewer.window.dock_widgets.items() if "Segment" in name]
    entry(viewer.window.file_menu, "Open Sample", "napari-unetpp", "Nuclei").trigger()
    wait_until(lambda: len(viewer.layers) == 2, "the two layers of the sample")
    wait_until(dock.run_button.isEnabled, f"Run, which says: {dock.run_button.toolTip()}")
    dock.form.model.setCurrentIndex(dock.form.model.findText("nuclei"))
    QTest.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    wait_until(lambda: dock.state not in ("idle", "running"), "the run")
    if dock.state != "done":
        raise RuntimeError(dock.status.text())
    return dock


def main(wheel, l1_file):
    hidden = importlib.util.find_spec("napari_unetpp") is None
    import napari
    import numpy as np

    viewer = napari.Viewer()
    wait_until(lambda: bool(visible_windows("_QtMainWindow")), "the window of napari")
    offered_before = entry(viewer.window.plugins_menu, "Segment") is not None
    install(viewer, wheel)
    dock = segment(viewer)
    import napari_unetpp

    layers = {layer.name: layer for layer in viewer.layers}
    np.save(l1_file, np.asarray(next(layer for name, layer in layers.items() if name.endswith(" L1")).data))
    told = {
        "hidden": hidden,
        "offered_before": offered_before,
        "package": napari_unetpp.__file__,
        "layers": list(layers),
        "status": dock.status.text(),
    }
    print(json.dumps(told), flush=True)
    viewer.close()
    os._exit(0)  # PyQt6 6.11 walks over all its objects at exit, and now and then over one that is gone


if __name__ == "__main__":
    main(*sys.argv[1:])
