"""What the Correct dock offers where strokes are in memory alone: another folder, or the same once more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.compat import isalive
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QGroupBox, QHBoxLayout, QPushButton, QVBoxLayout

from napari_unetpp.gui.correct_work import default_folder, free_folder
from napari_unetpp.gui.jobs import JobError
from napari_unetpp.gui.status import StatusLabel

if TYPE_CHECKING:
    from napari_unetpp.gui.correct_layer import OpenCorrections


class RescueBox(QGroupBox):
    """Hidden while everything is saved; emits `told` with a line, `moved` with the new folder of the corrections."""

    told = Signal(str)
    failed = Signal(object)  # JobError
    moved = Signal(object)  # Path

    def __init__(self) -> None:
        super().__init__("Not saved")
        self._opened: OpenCorrections | None = None
        self.why = StatusLabel()
        self.elsewhere_button = QPushButton("Save elsewhere …")
        self.elsewhere_button.setToolTip(
            "Write all that was painted and reviewed into a new folder, and go on there.\nUndo still works."
        )
        self.again_button = QPushButton("Try again")
        self.again_button.setToolTip("Write to the same folder again, once the disk has room or is back.")
        buttons = QHBoxLayout()
        buttons.addWidget(self.elsewhere_button, 1)
        buttons.addWidget(self.again_button, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 6, 8)
        layout.setSpacing(6)
        layout.addWidget(self.why)
        layout.addLayout(buttons)
        self.elsewhere_button.clicked.connect(self.save_elsewhere)
        self.again_button.clicked.connect(self.try_again)
        self.setVisible(False)

    def follow(self, opened: OpenCorrections | None) -> None:
        """Be about these."""
        if opened is not self._opened:
            if self._opened is not None:
                self._opened.failed.disconnect(self._show, missing_ok=True)
                self._opened.saved.disconnect(self._show, missing_ok=True)
            self._opened = opened
            if opened is not None:
                opened.failed.connect(self._show)
                opened.saved.connect(self._show)
        self._show()

    def save_elsewhere(self) -> None:
        """Ask for a folder, and save everything there."""
        opened = self._opened
        if opened is None or not (chosen := self.ask_folder()):
            return
        path = free_folder(Path(chosen), opened.image)
        try:
            path.parent.mkdir(exist_ok=True)
            whole = opened.save_elsewhere(path)
        except (OSError, ValueError) as error:
            self.failed.emit(JobError(error))
            return
        self.moved.emit(path)
        if whole:
            self.told.emit(f"Everything is saved in {path}; painting goes on there.")
        else:
            why = f"Saved in {path} without a part of what was there before: that was in the lost folder alone"
            self.failed.emit(JobError(OSError(why)))

    def try_again(self) -> None:
        """Write to the same folder again."""
        if self._opened is not None:
            self._opened.retry()
            if self._opened.corrections.fault is None:
                self.told.emit("Everything is saved again.")

    def ask_folder(self) -> str:
        """The folder that the user chooses; empty if none."""
        return QFileDialog.getExistingDirectory(self, "Save the corrections in", str(default_folder(None).parent))

    def _show(self, _error: object = None) -> None:
        if not isalive(self):
            return
        fault = self._opened.corrections.fault if self._opened is not None else None
        self.setVisible(fault is not None)
        if fault is not None:
            self.why.say(
                f"{fault.strerror}. What you painted is in memory alone: save it in another folder now.", error=True
            )
