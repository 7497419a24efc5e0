"""The slider that switches the level: a place per level, L1 at the left, the ensemble at the right.

It shows and changes a `HeadComparison` and keeps no state of its own. The names below it can be
clicked as well; the same is on keys of the viewer (`bind_level_keys`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import ref

from qtpy.QtCore import QSignalBlocker, QSize, Qt
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import QButtonGroup, QSlider, QStyle, QToolButton, QVBoxLayout, QWidget

from napari_unetpp.gui.comparison import ENSEMBLE, HeadComparison, Level, level_name
from napari_unetpp.gui.layers import predictions_in
from napari_unetpp.gui.level_colors import LEVEL_COLORS

if TYPE_CHECKING:
    from napari import Viewer
    from qtpy.QtGui import QResizeEvent, QShowEvent

KEYS: dict[Level, str] = {**{level: f"Alt-{level}" for level in range(1, 10)}, ENSEMBLE: "Alt-0"}
# Room at the ends for half of the first and of the last name, which are centred below their places.
MARGINS = (8, 0, 24, 0)


class LevelSlider(QWidget):
    """A slider bound to a `HeadComparison` both ways; disabled while there is none."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.comparison: HeadComparison | None = None
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setPageStep(1)
        self.slider.valueChanged.connect(self._on_slider)
        self._names = QWidget()
        self._buttons: list[QToolButton] = []
        self._group = QButtonGroup(self)  # exclusive: the chosen name cannot be unchecked
        self._group.idClicked.connect(self.slider.setValue)
        bar = QVBoxLayout()
        bar.setContentsMargins(*MARGINS)
        bar.addWidget(self.slider)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(bar)
        layout.addWidget(self._names)
        self.bind(None)

    def bind(self, comparison: HeadComparison | None) -> None:
        """Show this comparison from now on, and no other."""
        if self.comparison is not None:
            self.comparison.events.level.disconnect(self._on_level, missing_ok=True)
        self.comparison = comparison
        levels: tuple[Level, ...] = comparison.levels if comparison else (1, 2, 3, 4, ENSEMBLE)
        with QSignalBlocker(self.slider):
            self.slider.setRange(0, len(levels) - 1)
        self._make_names(levels)
        self.setEnabled(comparison is not None)
        if comparison is not None:
            comparison.events.level.connect(self._on_level)
            self._on_level(comparison.level)

    def _on_slider(self, place: int) -> None:
        if self.comparison is not None:
            self.comparison.level = self.comparison.levels[place]

    def _on_level(self, level: Level) -> None:
        if self.comparison is None:
            return
        place = self.comparison.levels.index(level)
        # What is set here is what was just told: without the blocker it would be told once more.
        with QSignalBlocker(self.slider):
            self.slider.setValue(place)
        for button, offered in zip(self._buttons, self.comparison.levels, strict=True):
            button.setChecked(offered == level)
            font = button.font()
            font.setBold(offered == level)
            button.setFont(font)
        self._place_names()

    def _make_names(self, levels: tuple[Level, ...]) -> None:
        for button in self._buttons:
            self._group.removeButton(button)
            button.setParent(None)  # gone at once, not when the event loop comes to it
            button.deleteLater()
        self._buttons = []
        for place, level in enumerate(levels):
            button = QToolButton(self._names)
            button.setText(level_name(level))
            button.setIcon(_swatch(LEVEL_COLORS.get(level, "#ffffff")))
            button.setIconSize(QSize(8, 8))
            button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextUnderIcon)
            button.setCheckable(True)
            button.setAutoRaise(True)
            button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            button.setToolTip(f"{_meaning(level)}\nKey: {KEYS[level]}")
            self._group.addButton(button, place)
            self._buttons.append(button)
        self.slider.setToolTip(
            "Level on the screen: " + ", ".join(f"{level_name(level)} {KEYS[level]}" for level in levels)
        )
        self._place_names()

    def _place_names(self) -> None:
        left, _, right, _ = MARGINS
        length = self.style().pixelMetric(QStyle.PixelMetric.PM_SliderLength, None, self.slider)
        room = self.width() - left - right - length
        last, height = len(self._buttons) - 1, 0
        for place, button in enumerate(self._buttons):
            size = button.sizeHint()
            centre = left + length // 2 + QStyle.sliderPositionFromValue(0, max(last, 1), place, room)
            x = max(0, min(centre - size.width() // 2, self.width() - size.width()))
            button.setGeometry(x, 0, size.width(), size.height())
            button.show()
            height = max(height, size.height())
        self._names.setFixedHeight(height)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._place_names()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._place_names()  # only now is the style sheet of the window applied


def bind_level_keys(viewer: Viewer, slider: LevelSlider | None = None) -> None:
    """Keys of the viewer that switch the level of every prediction in it that has that level, and of a slider.

    The viewer does not keep the slider alive; the last one bound is the one that the keys move.
    """
    moved = (lambda: None) if slider is None else ref(slider)
    for level, key in KEYS.items():
        viewer.bind_key(key, _chooser(level, moved), overwrite=True)


def _chooser(level: Level, slider: Callable[[], LevelSlider | None]) -> Callable[[Viewer], None]:
    def choose_level(viewer: Viewer) -> None:  # napari asks a key's action for its __name__
        shown = slider()
        comparisons = [levels.comparison for levels in predictions_in(viewer)]
        if shown is not None and shown.comparison is not None:
            comparisons.append(shown.comparison)
        for comparison in comparisons:
            if level in comparison.levels:
                comparison.level = level

    return choose_level


def _meaning(level: Level) -> str:
    if level == ENSEMBLE:
        return "Mean of the probabilities of all heads"
    return f"Head of level {level}: the network pruned to depth {level}"


def _swatch(color: str) -> QIcon:
    pixmap = QPixmap(8, 8)
    pixmap.fill(QColor(color))
    return QIcon(pixmap)
