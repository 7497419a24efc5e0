"""File > IO Utilities > Open large TIFF: a dialog, and lazy layers of what was chosen.

It does what the reader does, for those who do not want to choose a reader for every TIFF. Files are
parsed by a worker, since one of many pages takes seconds.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari.viewer
from napari.layers import Layer
from napari.utils import progress
from napari.utils.history import get_open_history, update_open_history
from napari.utils.notifications import show_error
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QFileDialog

from napari_unetpp._reader import LayerData, read_tiff_layers
from napari_unetpp.gui.jobs import JobError, start_job
from napari_unetpp.gui.versions import unwrapped

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

FILTER = "TIFF (*.tif *.tiff *.btf *.tf2 *.tf8);;All files (*)"


def open_large_tiff(viewer: napari.viewer.Viewer) -> None:
    """Ask for files and add their images to the viewer; nothing is read but what is on the screen."""
    viewer = unwrapped(viewer)
    window = viewer.window.main_menu.window()
    folder = next(iter(get_open_history()), "")
    names, _ = QFileDialog.getOpenFileNames(window, "Open large TIFF", folder, FILTER)
    if names:
        update_open_history(names[0])
        Opening(viewer, [Path(name) for name in names], window)


class Opening(QObject):
    """Files on their way into a viewer; ends with the window at the latest."""

    def __init__(self, viewer: napari.viewer.Viewer, paths: Sequence[Path], window: QWidget) -> None:
        super().__init__(window)
        self._viewer = viewer
        self._bar = progress(total=0, desc=f"Opening {paths[0].name}" if len(paths) == 1 else "Opening files")
        self.job = start_job(
            _read(paths), self, yielded=self._on_read, failed=self._on_failed, finished=self._on_finished
        )

    def _on_read(self, found: list[LayerData] | str) -> None:
        if isinstance(found, str):
            show_error(found)
            return
        for data, about, kind in found:
            self._viewer.add_layer(Layer.create(data, about, kind))

    def _on_failed(self, error: JobError) -> None:
        show_error(str(error))

    def _on_finished(self) -> None:
        self._bar.close()
        self.deleteLater()


def _read(paths: Sequence[Path]) -> Generator[list[LayerData] | str, None, None]:
    """The layers of each file, or one line about what is wrong with it."""
    found: Any
    for path in paths:
        try:
            found = read_tiff_layers(path)
        except (ValueError, OSError) as error:
            found = str(error)
        yield found
