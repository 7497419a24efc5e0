"""Another model for the Segment dock, its slider and its live preview, once that knows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.compat import isalive
from qtpy.QtCore import QObject

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

    from napari_unetpp.gui.segment_widget import SegmentWidget


def segment_docks(dock: QWidget) -> list[SegmentWidget]:
    """The Segment docks of the window that a dock is in."""
    from napari_unetpp.gui.segment_widget import SegmentWidget

    window: QObject = dock
    while window.parent() is not None:  # a floating dock is a window of its own
        window = window.parent()
    return list(window.findChildren(SegmentWidget))


class Swap(QObject):
    """Chooses a model in the Segment docks as soon as they offer it."""

    def __init__(self, dock: QWidget) -> None:
        super().__init__(dock)
        self._dock = dock
        self._wanted = ""
        self._waiting: list[SegmentWidget] = []

    def choose(self, name: str) -> str:
        """Why not, in a line, or nothing; the models may still be looked for."""
        docks = segment_docks(self._dock)
        if busy := [dock for dock in docks if dock.job is not None]:
            docks = [dock for dock in docks if dock not in busy]
            if not docks:
                return f"The Segment dock is at work; choose {name} there when it is done."
        for dock in self._waiting:
            if isalive(dock):
                dock.form.changed.disconnect(self._try)
        self._wanted, self._waiting = name, docks
        for dock in docks:
            dock.form.changed.connect(self._try)
        self._try()
        return ""

    def _try(self) -> None:
        for dock in [dock for dock in self._waiting if isalive(dock)]:
            models = dock.form.model
            if (place := models.findText(self._wanted)) < 0:
                continue
            self._waiting.remove(dock)
            dock.form.changed.disconnect(self._try)
            models.setCurrentIndex(place)
            box = dock.level_box
            model = dock.form.chosen_model()
            if box.levels is None or model is None or box.levels.store.record.get("model_sha256") != model.sha256:
                box.live.setChecked(True)  # else it would go on to show what the other model had stored
            if box.comparison is not None:
                box.comparison.visible = True
