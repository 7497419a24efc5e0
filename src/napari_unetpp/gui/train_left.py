"""The row that offers a run which was left unfinished: go on with it, or remove it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_unetpp.gui.fields import wrapping_label
from napari_unetpp.gui.jobs import JobError, start_job
from napari_unetpp.gui.train_pairs import PairRequest
from napari_unetpp.gui.train_reopen import open_again
from napari_unetpp.gui.train_unfinished import Unfinished, discard_run, rebuild, unfinished

if TYPE_CHECKING:
    from napari import Viewer


class LeftRuns(QWidget):
    """The first of the runs that nobody is at; hidden where there is none.

    Attributes
    ----------
    runs : tuple of Unfinished
    """

    resumed = Signal(object)  # the request of the run to go on with
    discarded = Signal(str)  # the name of what is gone
    failed = Signal(object)  # JobError

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.runs: tuple[Unfinished, ...] = ()
        self.text = wrapping_label()
        self.resume_button = QPushButton("Resume")
        self.resume_button.setToolTip("Go on with the run where it was left.")
        self.discard_button = QPushButton("Discard")
        self.discard_button.setToolTip("Remove the run, and the model that it has made so far.")
        self.resume_button.clicked.connect(self.resume)
        self.discard_button.clicked.connect(self.discard)
        layout, buttons = QVBoxLayout(self), QHBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        buttons.setSpacing(6)
        buttons.addWidget(self.resume_button, 1)
        buttons.addWidget(self.discard_button, 1)
        layout.addWidget(self.text)
        layout.addLayout(buttons)
        self.setVisible(False)

    def look(self) -> None:
        """Find them, at first and whenever the models have changed."""
        if isalive(self):
            self._do(unfinished(), self._on_found)

    def _on_found(self, found: tuple[Unfinished, ...]) -> None:
        self.runs = found
        if found:
            more = f" ({len(found) - 1} more after it)" if len(found) > 1 else ""
            self.text.setText(f"The training of {found[0].name} was not finished{more}.")
        self.setVisible(bool(found))

    def resume(self) -> None:
        """Find what the first of them was trained on, and ask for it."""
        if not self.runs:
            return
        try:
            request = rebuild(self.runs[0], self._open_again)
        except (ValueError, OSError) as error:
            self.failed.emit(JobError(error))
            return
        self.resumed.emit(request)

    def _open_again(self, memo: Mapping[str, Any]) -> PairRequest:
        return open_again(self.viewer, memo)

    def discard(self) -> None:
        """Remove the first of them."""
        if self.runs:
            self._do(discard_run(self.runs[0].out), self._on_discarded)

    def _on_discarded(self, name: str) -> None:
        self.discarded.emit(name)

    def _do(self, steps: Any, slot: Any) -> None:
        start_job(steps, self, yielded=slot, failed=self._on_failed)

    def _on_failed(self, error: JobError) -> None:
        self.failed.emit(error)
