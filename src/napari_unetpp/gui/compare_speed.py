"""How fast each level of a model is on this machine: measured when somebody asks, and remembered until the program ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_unetpp.gui.compare_work import Measured, measure
from napari_unetpp.gui.jobs import Job, start_job

if TYPE_CHECKING:
    from pathlib import Path

_measured: dict[str, Measured] = {}  # by the hash of the model


class Speed(QObject):
    """Measures one model at a time.

    Attributes
    ----------
    progress : Measured or None
        How far it is, while it measures.
    """

    changed = Signal()
    failed = Signal(object)  # JobError

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.progress: Measured | None = None
        self._sha256 = ""
        self._job: Job | None = None

    @property
    def measuring(self) -> bool:
        return self._job is not None

    def of(self, sha256: str) -> Measured | None:
        """What is known of a model; None if it was never measured."""
        return _measured.get(sha256)

    def start(self, model: Path, sha256: str, levels: Sequence[int]) -> None:
        """Measure a model; nothing happens while another is being measured."""
        if self._job is not None:
            return
        self._sha256 = sha256
        self._job = start_job(
            measure(model, tuple(levels)),
            self,
            yielded=self._on_measured,
            failed=self.failed,
            finished=self._on_finished,
        )
        self.changed.emit()

    def stop(self) -> None:
        """Stop after the pass under way; what was measured stays."""
        if self._job is not None:
            self._job.cancel()

    def _on_measured(self, event: Measured) -> None:
        self.progress = event
        if event.seconds:
            _measured[self._sha256] = event
        self.changed.emit()

    def _on_finished(self) -> None:
        self._job = self.progress = None
        self.changed.emit()
