"""What a run has brought: scores of the parent and of the new model, level by level, and the way back.

Decides what the table shows (`ResultBox.show_rows`), and what is said of it (`verdict`), plainly where the parent is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QGroupBox,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
)

from napari_unetpp.gui.comparison import level_name
from napari_unetpp.gui.fields import swatch, wrapping_label
from napari_unetpp.gui.level_colors import LEVEL_COLORS
from napari_unetpp.gui.train_progress import MEASURES, level_of

if TYPE_CHECKING:
    from napari_unetpp.training.compare import Row

PARTS = {"held-out": "Held out", "corrected": "Corrected"}
TELLING = 0.005  # of a score; less than that is chance


class ResultTable(QTableWidget):
    """A row per level; before and after on each part, the better in bold."""

    def __init__(self) -> None:
        super().__init__(0, 5)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        header.setStyleSheet("QHeaderView::section { padding: 1px; }")
        header.setMinimumSectionSize(16)
        header.setSectionsClickable(False)
        header.setHighlightSections(False)
        small = self.font()
        small.setPointSizeF(small.pointSizeF() * 0.9)
        for view in (self, header):
            view.setFont(small)

    def show_rows(self, rows: Sequence[Row], measure: str) -> None:
        """Fill it; what is not known yet is a dash."""
        levels = list(dict.fromkeys(row.level for row in rows))
        table: dict[tuple[str, str], Row] = {(row.level, row.part): row for row in rows}
        titles = ["Level"] + [f"{part}\n{when}" for part in PARTS.values() for when in ("before", "after")]
        self.setHorizontalHeaderLabels(titles)
        self.setRowCount(len(levels))
        known = {row.part for row in rows}
        has_parent = any(row.before for row in rows)
        for column, part in enumerate(PARTS):
            self.setColumnHidden(1 + 2 * column, part not in known or not has_parent)
            self.setColumnHidden(2 + 2 * column, part not in known)
        for place, name in enumerate(levels):
            level = level_of(name)
            item = QTableWidgetItem(level_name(level))
            item.setIcon(swatch(LEVEL_COLORS.get(level, "#888888")))
            self.setItem(place, 0, item)
            for column, part in enumerate(PARTS):
                row = table.get((name, part))
                values = [_score(row.before, measure), _score(row.after, measure)] if row else [None, None]
                best = max((value for value in values if value is not None), default=None)
                for k, value in enumerate(values):
                    cell = QTableWidgetItem("-" if value is None else f"{value:.3f}")
                    cell.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                    font = self.font()
                    font.setBold(value is not None and value == best and None not in values)
                    cell.setFont(font)
                    self.setItem(place, 1 + 2 * column + k, cell)
        self.updateGeometry()

    def sizeHint(self) -> QSize:
        return self.minimumSizeHint()

    def minimumSizeHint(self) -> QSize:
        frame = 2 * self.frameWidth() + 2
        heights = sum(self.rowHeight(row) for row in range(self.rowCount()))
        return QSize(0, self.horizontalHeader().sizeHint().height() + heights + frame)


class ResultBox(QGroupBox):
    """Table, verdict, and the buttons that change which model the slider shows."""

    def __init__(self) -> None:
        super().__init__("Before and after")
        self.table = ResultTable()
        self.verdict = wrapping_label()
        self.use_button = QPushButton("Show new model")
        self.back_button = QPushButton("Back to parent")
        self.rows: tuple[Any, ...] = ()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 6, 8)
        layout.setSpacing(6)
        buttons = QHBoxLayout()
        buttons.setSpacing(6)
        buttons.addWidget(self.use_button, 1)
        buttons.addWidget(self.back_button, 1)
        layout.addWidget(self.table)
        layout.addWidget(self.verdict)
        layout.addLayout(buttons)

    def name_models(self, new: str, parent: str) -> None:
        """Which models are compared; `parent` is empty from scratch."""
        self.use_button.setText("Show the new model")
        self.use_button.setToolTip(f"Let the Segment dock, its slider and its live preview use {new}.")
        self.back_button.setText("Back to the parent")
        self.back_button.setToolTip(f"Let them use {parent} again. {new} stays among your models.")
        self.back_button.setVisible(bool(parent))

    def show_rows(self, rows: Sequence[Row], measure: str) -> None:
        """The table, and what it comes to."""
        self.rows = tuple(rows)
        self.table.setVisible(bool(rows))
        self.table.show_rows(self.rows, measure)
        self.verdict.setText(verdict(self.rows, measure))


def verdict(rows: Sequence[Row], measure: str) -> str:
    """What happened to the best level of each part, in a sentence each; empty without a parent."""
    sentences = []
    for part, words in (("held-out", "held-out"), ("corrected", "corrected")):
        scored = [row for row in rows if row.part == part and row.before]
        if not scored:
            continue
        before, after = (
            max(_score(getattr(row, when), measure) or 0.0 for row in scored) for when in ("before", "after")
        )
        change, name = f"({MEASURES[measure]} {before:.3f} before, {after:.3f} after)", f"the {words} part"
        if after > before + TELLING:
            sentences.append(f"The new model is better on {name} {change}.")
        elif after < before - TELLING:
            sentences.append(f"The parent is better on {name} {change}.")
        else:
            sentences.append(f"On {name} both are equally good {change}.")
    return " ".join(sentences)


def _score(scores: Mapping[str, float] | None, measure: str) -> float | None:
    return None if scores is None else scores.get(measure)
