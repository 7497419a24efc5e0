"""How a model leaves the Models dock: in which format, with which levels, where to, and what was found right about the file.

Decides, in this order: what can be chosen, where the file goes, how its writing is told and stopped. The writing is a job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_unetpp.gui.fields import combo_box
from napari_unetpp.gui.jobs import Job, JobError, start_job
from napari_unetpp.gui.models_work import Changed, ModelFile, export_to
from napari_unetpp.model.zoo import user_folder

if TYPE_CHECKING:
    from napari_unetpp.model.exchange import Format, FormatName


class ExportBox(QWidget):
    """The choices and the button, which stops it while it is at work.

    `bar` and the end of the row `buttons` are the dock's to place.

    Attributes
    ----------
    job : Job or None
        The one that writes, while there is one.
    """

    exported = Signal(object)  # Changed
    said = Signal(str)
    failed = Signal(object)  # JobError

    def __init__(self) -> None:
        super().__init__()
        self.job: Job | None = None
        self._model: ModelFile | None = None
        self._folder: Path | None = None  # of the last export
        self._done = False
        self.format = combo_box("What the model is exported as.")
        self.level = combo_box("The levels that the exported model keeps; they answer as they do here.")
        self.export_button = QPushButton("Export …")
        self.export_button.setToolTip("Write the model as a file of its own, and check that it answers the same.")
        self.stop_button = QPushButton("Cancel")
        self.stop_button.setToolTip("Stop after the step under way; nothing is written then.")
        self.bar = QProgressBar()
        self.bar.setRange(0, 0)  # it only moves: nobody knows how long a step takes
        self.bar.setTextVisible(False)
        self.buttons = QHBoxLayout()
        self._lay_out()
        self.export_button.clicked.connect(self.export)
        self.stop_button.clicked.connect(self.stop_export)
        self._allow()

    def _lay_out(self) -> None:
        choices = QHBoxLayout()
        choices.setSpacing(6)
        choices.addWidget(self.format, 3)
        choices.addWidget(self.level, 2)
        self.buttons.setSpacing(6)
        self.buttons.addWidget(self.export_button, 1)
        self.buttons.addWidget(self.stop_button, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addLayout(choices)
        layout.addLayout(self.buttons)

    # What can be chosen

    def show_formats(self, formats: Mapping[FormatName, Format]) -> None:
        """Offer what a model can be exported to; what was chosen stays."""
        if self.format.count() == 0:
            for kind, about in formats.items():
                self.format.addItem(about.title, (kind, about))
                self.format.setItemData(self.format.count() - 1, about.about, Qt.ItemDataRole.ToolTipRole)

    def show_model(self, model: ModelFile | None) -> None:
        """Offer the levels of this model, the recommended chosen; the whole of it has 0."""
        before, self._model = self._model, model
        if before and model and (before.entry, before.header) == (model.entry, model.header):
            return  # read anew: what was chosen stays
        self.level.clear()
        if model is not None and model.header is not None:
            heads = model.header.spec.heads
            self.level.addItem("all levels" if heads[1:] else _levels(heads), 0)
            for place, d in enumerate(heads[:-1], 1):
                self.level.addItem(_levels(heads[:place]), d)
            self.level.setCurrentIndex(max(0, self.level.findData(model.header.card.recommended_level)))
        self._allow()

    def _allow(self) -> None:
        idle = self.job is None
        usable = self._model is not None and self._model.header is not None
        for widget in (self.export_button, self.format, self.level):
            widget.setEnabled(idle and usable)
        self.export_button.setVisible(idle)
        self.stop_button.setVisible(not idle)
        self.bar.setVisible(not idle)

    # Where it goes

    def export(self) -> None:
        """Ask where to write the model, and write it as chosen."""
        model, level, chosen = self._model, self.level.currentData(), self.format.currentData()
        if model is None or level is None or chosen is None or self.job is not None:
            return
        kind, about = chosen
        name = f"{model.entry.name}-L{level}" if level else model.entry.name
        # A pruned model is listed if it lies among the others; anything else belongs where one takes it from.
        own = user_folder()
        folder = self._folder or (own if kind == "safetensors" and level and own.is_dir() else Path.home())
        files = f"{about.title} (*{about.suffix})"
        path, _ = QFileDialog.getSaveFileName(
            self, f"Export {name}, {about.title}", str(folder / f"{name}{about.suffix}"), files
        )
        if not path:
            return
        target = Path(path)
        if target.suffix != about.suffix:
            target = target.with_name(target.name + about.suffix)
            if target.exists():  # the dialog has asked about a file of another name
                self.failed.emit(JobError(FileExistsError(f"{target} exists; choose that file, or another name")))
                return
        self._folder = target.parent
        self.said.emit(f"Exporting {name}, {about.title} …")
        self._done = False
        self.job = start_job(
            export_to(model.entry, kind, level or None, target, overwrite=target.exists()),
            self,
            yielded=self._on_event,
            failed=self.failed,
            cancelled=self._on_cancelled,
            finished=self._on_finished,
        )
        self.stop_button.setEnabled(True)
        self._allow()

    # While it is written

    def stop_export(self) -> None:
        """Stop after the step under way."""
        if self.job is not None:
            self.said.emit("Stopping after the step under way …")
            self.stop_button.setEnabled(False)
            self.job.cancel()

    def stop(self) -> None:
        """Stop without a word; what is being written becomes whole, or nothing."""
        if self.job is not None:
            self.job.cancel()

    def _on_event(self, event: Changed | str) -> None:
        if isinstance(event, Changed):
            self._done = True
            self.exported.emit(event)
        else:
            self.said.emit(f"{event} …")

    def _on_cancelled(self) -> None:
        if not self._done:  # else it was whole before it was stopped
            self.said.emit("The export was stopped; nothing was written.")

    def _on_finished(self) -> None:
        self.job = None
        self._allow()


def _levels(heads: Sequence[int]) -> str:
    return f"L{heads[0]}" if len(heads) == 1 else f"L{heads[0]} to L{heads[-1]}"
