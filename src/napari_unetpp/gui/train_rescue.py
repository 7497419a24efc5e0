"""The button that saves a model elsewhere whose own file or folder vanished during its training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QPushButton, QWidget

from napari_unetpp.gui.jobs import JobError, start_job
from napari_unetpp.gui.train_work import save_elsewhere
from napari_unetpp.model.zoo import SUFFIX

if TYPE_CHECKING:
    from napari_unetpp.training.saved import Saved


class RescueButton(QPushButton):
    """Visible as long as there is such a model.

    Attributes
    ----------
    lost : Saved or None
        The run whose model is in memory alone.
    """

    saved = Signal(str)  # where it is now
    failed = Signal(object)  # JobError; it is still offered

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Save the model elsewhere …", parent)
        self.setToolTip("Write the model, which is still in memory, to another folder.")
        self.lost: Saved | None = None
        self.clicked.connect(self.ask)
        self.setVisible(False)

    def offer(self, lost: Saved | None) -> None:
        """Offer the model of this run, or none."""
        self.lost = lost
        self.setVisible(lost is not None)

    def ask(self) -> None:
        """Ask for a file, and write the model there."""
        if self.lost is None:
            return
        proposed = str(Path.home() / self.lost.out.name)
        name, _kind = QFileDialog.getSaveFileName(self, "Save the model elsewhere", proposed, f"Models (*{SUFFIX})")
        if name:
            start_job(save_elsewhere(self.lost, Path(name)), self, yielded=self._on_saved, failed=self._on_failed)

    def _on_saved(self, path: Path) -> None:
        self.offer(None)
        self.saved.emit(str(path))

    def _on_failed(self, error: JobError) -> None:
        self.failed.emit(error)


def lost_model(error: JobError, saved: Saved | None) -> Saved | None:
    """The run whose model is not on the disk after an error, where there is a model to be saved."""
    # not before a worker has imported torch
    from napari_unetpp.training.saved import NotSavedError

    if saved is None or saved.model is None:
        return None
    return saved if isinstance(error.__cause__, NotSavedError) or saved.written != saved.epoch else None
