"""The line in a dock that tells how things stand, the red of what went wrong, and where else that is told.

Decides who hears of an error (`report`), and which red is legible (`error_color`): napari's themes have
a dark or a light background, and no one red has a contrast of 4.5 on both. The theme is seen in the
colour of the text, so that themes of others work as well and no widget needs to know the viewer.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QPalette
from qtpy.QtWidgets import QLabel, QWidget

from napari_unetpp.gui.fields import breakable, wrap

if TYPE_CHECKING:
    from napari_unetpp.gui.jobs import JobError

log = logging.getLogger(__name__)

ON_DARK, ON_LIGHT = "#ff8080", "#b91c1c"  # contrasts of 6.4 and 5.3 on the backgrounds of napari's own themes
_RESTYLED = (QEvent.Type.StyleChange, QEvent.Type.PaletteChange)


def report(error: JobError) -> None:
    """Tell of a job that failed: one line in napari's corner, the whole story for the console."""
    show_error(str(error))
    log.error("%s\n%s", error, error.details)


def error_color(widget: QWidget) -> str:
    """The red that is legible where `widget` is; it must have no colour of its own."""
    text = widget.palette().color(QPalette.ColorRole.WindowText)
    return ON_DARK if text.lightness() > 127 else ON_LIGHT


class StatusLabel(QLabel):
    """A text of as many lines as it needs, red if it tells an error, also after a change of theme."""

    def __init__(self) -> None:
        super().__init__()
        self._error = False
        wrap(self)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

    def say(self, text: str, *, error: bool = False) -> None:
        """Show this from now on."""
        self.setText(breakable(text))
        self.setToolTip(text)
        self._error = error
        self._color()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() in _RESTYLED:
            self._color()

    def _color(self) -> None:
        around = self.parentWidget()  # whose text has the colour of the theme, whatever ours has
        error = getattr(self, "_error", False)  # Qt restyles a label that is still being made
        style = f"color: {error_color(around)};" if error and around is not None else ""
        if style != self.styleSheet():  # setting it is a change of style
            self.setStyleSheet(style)
