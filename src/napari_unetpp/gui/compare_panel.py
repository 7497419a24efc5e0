"""How the Compare dock looks: what is compared with what, the table, the advice, and what can be done with it.

Builds and shows; `compare_widget` binds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import QSignalBlocker, QSize, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QGridLayout,
    QGroupBox,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_unetpp.gui.compare_rows import LevelRow, cell
from napari_unetpp.gui.comparison import ENSEMBLE, Level, level_name
from napari_unetpp.gui.dock import Dock
from napari_unetpp.gui.fields import combo_box, swatch, wrapping_label
from napari_unetpp.gui.level_colors import LEVEL_COLORS
from napari_unetpp.gui.segment_panel import WIDTH
from napari_unetpp.gui.status import StatusLabel

COSTS = "Counted for the network pruned to the level;\nthe ensemble needs all heads, and so the whole network."
OF_CLASSES = "With several classes: the mean over those that are found anywhere,\nwithout the background."
# field of the row, title, tooltip; the last three only where there is a reference
COLUMNS = (
    ("level", "Level", "The levels that are stored, and the mean of their probabilities.\n✓ marks the advised one."),
    ("parameters", "Weights", f"Parameters: weights and biases.\n{COSTS}"),
    (
        "gflops",
        "GFLOP\n/Mvoxel",
        "Operations (10⁹) for a million voxels, two for a multiply-add,\n"
        f"without the halos or overlaps of a tiling.\n{COSTS}",
    ),
    (
        "seconds",
        "Time\n/Mvoxel",
        "Measured on this machine, for a million voxels: the median of three runs\n"
        "over 512 x 512 voxels of noise (3D: 64 x 64 x 64), without the halos or\n"
        "overlaps of a tiling. Press Measure speed while nothing else is running.",
    ),
    ("agreement", "Dice\nwith {}", f"How far the labels agree with those of {{}}, where tiles are done.\n{OF_CLASSES}"),
    ("iou", "IoU", f"Against the reference, where tiles are done.\n{OF_CLASSES}"),
    ("dice", "Dice", f"Against the reference, where tiles are done.\n{OF_CLASSES}"),
    ("f2", "F2", f"As Dice, but a missed voxel weighs four times a superfluous one.\n{OF_CLASSES}"),
)
SCORES = ("iou", "dice", "f2")


class LevelTable(QTableWidget):
    """A row per level, as high as its rows and at least as wide as its texts."""

    def __init__(self) -> None:
        super().__init__(0, len(COLUMNS))
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideNone)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)  # names take what the numbers leave
        header.setMinimumSectionSize(16)
        header.setSectionsClickable(False)
        header.setHighlightSections(False)
        small = self.font()
        small.setPointSizeF(small.pointSizeF() * 0.9)  # eight columns beside an image
        for view in (self, header):
            view.setFont(small)
        self._levels: tuple[Level, ...] = ()

    def show_rows(self, rows: Sequence[LevelRow], advised: Level | None, deepest: str, *, scores: bool) -> None:
        """Fill it; what was selected stays so, and nothing is told of it."""
        chosen = self.chosen()
        with QSignalBlocker(self):
            for column, (_, title, tooltip) in enumerate(COLUMNS):
                item = QTableWidgetItem(title.format(deepest))
                item.setToolTip(tooltip.format(deepest))
                self.setHorizontalHeaderItem(column, item)
                self.setColumnHidden(column, COLUMNS[column][0] in SCORES and not scores)
            self.setRowCount(len(rows))
            for place, row in enumerate(rows):
                self._fill(place, row, is_advised=row.level == advised)
            self._levels = tuple(row.level for row in rows)
            if chosen in self._levels:
                self.selectRow(self._levels.index(chosen))
        self.updateGeometry()

    def chosen(self) -> Level | None:
        """The level of the selected row."""
        place = self.currentRow()
        return self._levels[place] if 0 <= place < len(self._levels) else None

    def choose(self, level: Level) -> None:
        """Select the row of a level."""
        if level in self._levels:
            self.selectRow(self._levels.index(level))

    def _fill(self, place: int, row: LevelRow, *, is_advised: bool) -> None:
        for column, (name, *_) in enumerate(COLUMNS):
            text = level_name(row.level) + (" ✓" if is_advised else "") if name == "level" else cell(row, name)
            item = QTableWidgetItem(text)
            if name == "level":
                item.setIcon(swatch(LEVEL_COLORS.get(row.level, "#ffffff")))
            else:
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            font = self.font()
            font.setBold(is_advised)
            item.setFont(font)
            self.setItem(place, column, item)

    def sizeHint(self) -> QSize:
        return self.minimumSizeHint()

    def minimumSizeHint(self) -> QSize:
        # and the pixel at each end of the header that a stretched section does not get
        header, frame = self.horizontalHeader(), 2 * self.frameWidth() + 2
        widths = (
            max(self.sizeHintForColumn(column), header.sectionSizeHint(column))
            for column in range(self.columnCount())
            if not self.isColumnHidden(column)
        )
        heights = (self.rowHeight(row) for row in range(self.rowCount()))
        return QSize(sum(widths) + frame, header.sizeHint().height() + sum(heights) + frame)


class ComparePanel(Dock):
    """The widgets of the dock, laid out."""

    def __init__(self) -> None:
        super().__init__()
        self.prediction = combo_box("The prediction whose levels are compared.")
        self.reference = combo_box(
            "Labels that are known to be right, such as what you painted.\nInstances will do for a model of one class."
        )
        self.unpainted = combo_box(
            "What 0 means in the reference. Not annotated: it does not count,\n"
            "1 is background and 2, 3 .. are the classes 1, 2 .."
        )
        self.unpainted.addItem("is background", "background")
        self.unpainted.addItem("is not annotated", "ignore")
        self.table = LevelTable()
        self.counted = wrapping_label()
        self.advice = wrapping_label()
        self.use_button = QPushButton("Use this level")
        self.save_button = QPushButton("Save pruned model …")
        self.measure_button = QPushButton("Measure speed")
        self.export_button = QPushButton("Export CSV …")
        self.export_button.setToolTip("Save the table, with all digits.")
        self.status = StatusLabel()
        self._lay_out()
        self.show_width()

    def _lay_out(self) -> None:
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(6, 8, 6, 6)
        layout.setSpacing(8)
        box = QGroupBox("Compare")
        form = QFormLayout(box)
        form.setContentsMargins(8, 6, 8, 8)
        form.setHorizontalSpacing(8)
        form.setVerticalSpacing(5)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for text, field in (
            ("Prediction", self.prediction),
            ("Reference", self.reference),
            ("Label 0", self.unpainted),
        ):
            form.addRow(QLabel(text), field)
        buttons = QGridLayout()
        buttons.setSpacing(6)
        places = (self.use_button, self.save_button, self.measure_button, self.export_button)
        for place, button in enumerate(places):
            buttons.addWidget(button, place // 2, place % 2)
        layout.addWidget(box)
        layout.addWidget(self.table)
        layout.addWidget(self.counted)
        layout.addWidget(self.advice)
        layout.addLayout(buttons)
        layout.addWidget(self.status)
        layout.addStretch(1)
        self.fill(content)

    def show_width(self) -> None:
        """Be as wide as the table needs, which scrolls in no direction."""
        margins = self.table.parentWidget().layout().contentsMargins()
        needed = self.table.minimumSizeHint().width() + margins.left() + margins.right()
        self.setMinimumWidth(max(WIDTH, needed))

    def say(self, text: str, *, error: bool = False) -> None:
        """Put one line (which may wrap) into the status."""
        self.status.say(text, error=error)

    def ask(self, title: str, proposed: Path, kind: str) -> Path | None:
        """The file that the user names, with the suffix of the proposed one; None is none."""
        path, _ = QFileDialog.getSaveFileName(self, title, str(proposed), kind)
        target = Path(path)
        if path and target.suffix != proposed.suffix:
            target = target.with_name(target.name + proposed.suffix)
            if target.exists():  # the dialog has asked about a file of another name
                self.say(f"{target} exists; choose that file, or another name", error=True)
                return None
        return target if path else None

    def offer(self, combo: QComboBox, names: Sequence[str], place: int) -> None:
        """Offer other names, of which the one at `place` is chosen, without telling anybody."""
        with QSignalBlocker(combo):
            combo.clear()
            combo.addItems(names)
            combo.setCurrentIndex(place)

    def allow(self, shown: Level | None, deepest: int | None, problem: str, *, busy: bool) -> None:
        """Enable what can be done with the selected row, and say why not.

        Parameters
        ----------
        shown, deepest
            The level on the screen, and the last that is stored; None where there is no prediction.
        problem
            Why there is no model file.
        busy
            Whether a file is being written.
        """
        level = self.table.chosen()
        name = level_name(level) if level is not None else ""
        use = "Choose a level first." if not name else f"{name} is on the screen." if level == shown else ""
        self.use_button.setEnabled(not use)
        self.use_button.setToolTip(use or f"Show {name} in the viewer.")
        save = problem or ("" if name else use)
        if not save and level in (deepest, ENSEMBLE):
            save = f"{name} needs the whole network, there is nothing to prune."
        self.save_button.setEnabled(not save and not busy)
        self.save_button.setToolTip(save or f"Save a model of L1 to {name}: fewer weights, less work, the same output.")
        self.export_button.setEnabled(bool(self.table.rowCount()) and not busy)

    def allow_measuring(self, problem: str, how: str, measuring: bool) -> None:
        """Let the button start or stop; `how` tells on what it was measured before."""
        self.measure_button.setEnabled(not problem)
        self.measure_button.setText("Stop measuring" if measuring else "Measure speed")
        before = f"\nMeasured on {how}." if how else ""
        text = f"Run each level a few times on noise;\nbest while nothing else runs.{before}"
        self.measure_button.setToolTip(problem or text)
