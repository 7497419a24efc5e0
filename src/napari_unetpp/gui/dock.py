"""What all docks of ours share: they scroll, become tabs of each other, and stop their work when they go.

napari takes a dock's widget out of the dock when that is closed, and deletes it never; the window
may close with the dock in it. In every case nobody is there to see results any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import QDockWidget, QFrame, QMainWindow, QScrollArea, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from qtpy.QtGui import QCloseEvent, QShowEvent


class Dock(QWidget):
    """A widget whose `stop` is called when its dock or its window goes."""

    def __init__(self) -> None:
        super().__init__()
        self._window: QObject | None = None

    def stop(self) -> None:
        """Cancel without a word: nobody is there to read it, and no layer may be added any more."""

    def fill(self, content: QWidget) -> None:
        """Put this into the dock, which scrolls on a small screen instead of squeezing its rows."""
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(content)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addWidget(scroll)

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.stop()
        return super().event(event)

    def closeEvent(self, event: QCloseEvent) -> None:
        self.stop()
        super().closeEvent(event)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        window: QObject = self
        while window.parent() is not None:  # a floating dock is a window of its own
            window = window.parent()
        if window is not self and window is not self._window:
            self._window = window
            window.installEventFilter(self)
            QTimer.singleShot(0, self._join_others)  # when napari has put the dock into its place

    def _join_others(self) -> None:
        """Be a tab beside the first of our docks: one below the other, none has the height that it needs."""
        window, mine = self._window, _dock_of(self)
        if mine is None or not isinstance(window, QMainWindow) or mine.isFloating():
            return
        for other in window.findChildren(Dock):
            dock = _dock_of(other)
            if dock is None or dock is mine or not dock.isVisible() or dock.isFloating():
                continue
            if window.dockWidgetArea(dock) == window.dockWidgetArea(mine):
                window.tabifyDockWidget(dock, mine)
                mine.show()
                mine.raise_()
                return

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        hidden = event.type() == QEvent.Type.Hide and not event.spontaneous()
        # PySide6 still asks a dock of which Python has begun to take the attributes away
        if watched is getattr(self, "_window", None) and hidden:  # closed; minimised would be spontaneous
            self.stop()
        return super().eventFilter(watched, event)


def _dock_of(widget: QWidget) -> QDockWidget | None:
    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parentWidget()
    return parent
