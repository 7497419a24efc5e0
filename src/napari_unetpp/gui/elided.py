"""Fields whose text may be longer than they are: an ellipsis in the middle, and the whole text as tooltip."""

from __future__ import annotations

from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QHelpEvent, QPainter, QPaintEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QLineEdit,
    QStyle,
    QStyleOptionComboBox,
    QStyleOptionFrame,
    QStylePainter,
    QToolTip,
    QWidget,
)

MARGIN = 4  # pixels that styles leave beside a text
WIDEST = 900  # pixels of a list that drops down


def elided(widget: QWidget, text: str, room: int) -> str:
    """The text as it fits into so many pixels: names differ at their ends more often than in their middle."""
    return widget.fontMetrics().elidedText(text, Qt.TextElideMode.ElideMiddle, max(room, 0))


def elide_rows(view: QAbstractItemView) -> None:
    """Have a list or table shorten its texts in the middle; the tooltips of its items are whoever fills it to set."""
    view.setTextElideMode(Qt.TextElideMode.ElideMiddle)


class ElidedCombo(QComboBox):
    """A combo box that may be narrower than what is chosen in it; its list drops down as wide as its names."""

    def shown_text(self) -> str:
        """What is read in the field: the current text, shortened where it is too long."""
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        field = QStyle.SubControl.SC_ComboBoxEditField
        room = self.style().subControlRect(QStyle.ComplexControl.CC_ComboBox, option, field, self).width()
        if not option.currentIcon.isNull():
            room -= option.iconSize.width() + MARGIN
        return elided(self, self.currentText(), room - MARGIN)

    def paintEvent(self, event: QPaintEvent) -> None:
        if self.isEditable():
            super().paintEvent(event)
            return
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        option.currentText = self.shown_text()
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
        painter.end()

    def showPopup(self) -> None:
        view = self.view()
        view.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        view.setMinimumWidth(min(view.sizeHintForColumn(0) + 2 * view.frameWidth() + 24, WIDEST))
        super().showPopup()

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            return _tell(self, event, self.currentText(), self.shown_text())
        return super().event(event)


class ElidedLineEdit(QLineEdit):
    """A line edit that shows both ends of a long text while nobody types in it."""

    def shown_text(self) -> str:
        """What is read in the field: all of it, or shortened where it is too long."""
        option = QStyleOptionFrame()
        self.initStyleOption(option)
        room = self.style().subElementRect(QStyle.SubElement.SE_LineEditContents, option, self).width()
        margins = self.textMargins()
        room -= margins.left() + margins.right() + (24 if self.isClearButtonEnabled() else 0)
        return elided(self, self.text(), room - 2 * MARGIN)

    def paintEvent(self, event: QPaintEvent) -> None:
        shown = self.shown_text()
        if self.hasFocus() or shown == self.text():
            super().paintEvent(event)
            return
        painter, option = QPainter(self), QStyleOptionFrame()
        self.initStyleOption(option)
        self.style().drawPrimitive(QStyle.PrimitiveElement.PE_PanelLineEdit, option, painter, self)
        inside = self.style().subElementRect(QStyle.SubElement.SE_LineEditContents, option, self)
        painter.setPen(self.palette().color(self.foregroundRole()))
        left = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        painter.drawText(inside.adjusted(MARGIN, 0, -MARGIN, 0), left, shown)
        painter.end()

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            return _tell(self, event, self.text(), self.shown_text())
        return super().event(event)


def _tell(widget: QWidget, event: QHelpEvent, whole: str, shown: str) -> bool:
    """Show the tooltip, the whole text above it where the field has not the room."""
    texts = [whole] if shown != whole else []
    if widget.toolTip():
        texts.append(widget.toolTip())
    QToolTip.showText(event.globalPos(), "\n\n".join(texts), widget)
    return True
