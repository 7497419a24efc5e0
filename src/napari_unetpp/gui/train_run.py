"""One training run in the window: its job, what it has told, and how it ends."""

from __future__ import annotations

from typing import Any, Literal

from qtpy.QtCore import QObject, Signal

from napari_unetpp.gui.jobs import Job, JobError
from napari_unetpp.gui.train_progress import Training
from napari_unetpp.gui.train_work import Ending, Planned, run_training


class TrainRun(QObject):
    """A plan that is being carried out.

    Attributes
    ----------
    training : Training
        What it has told.
    outcome : str
        "done" by itself, "kept", "discarded", "left" or "failed"; empty while it goes on.
    """

    changed = Signal()  # more is known
    better = Signal()  # the best weights so far are on disk
    ended = Signal()
    failed = Signal(object)  # JobError

    def __init__(self, planned: Planned, parent: QObject) -> None:
        super().__init__(parent)
        self.planned = planned
        self.training = Training(epochs=planned.plan.options.epochs)
        self.outcome = ""
        self.device = ""
        self._ending = Ending()
        self._job = Job(run_training(planned, self._ending), self)
        self._job.yielded.connect(self._on_event)
        self._job.returned.connect(self._on_returned)
        self._job.cancelled.connect(self._on_cancelled)
        self._job.failed.connect(self._on_failed)
        self._job.finished.connect(self._on_finished)

    def start(self) -> None:
        self._job.start()

    @property
    def paused(self) -> bool:
        return self._job.paused

    @property
    def stopping(self) -> bool:
        """Whether it was asked to end."""
        return self._asked

    _asked = False

    def hold(self) -> None:
        """Stop after the next event, or go on."""
        if self._job.paused:
            self.training.resume()
            self._job.resume()
        else:
            self.training.pause()
            self._job.pause()

    def end(self, how: Literal["leave", "keep", "discard"]) -> None:
        """Stop after the next event; what becomes of its files is what `Ending` says."""
        self._asked = True
        self._ending.how = how
        self._job.cancel()

    def _on_event(self, event: Any) -> None:
        # not before a worker has imported torch
        from napari_unetpp.training.options import BatchDone, Started

        if isinstance(event, Started):
            self.device = event.device
            self.training.scored = event.chosen_by == "validation"
            self.training.begin(self.planned.plan.options.epochs, event.epoch, event.before)
            for epoch in event.history:
                self.training.take_epoch(epoch)
        elif isinstance(event, BatchDone):
            self.training.take_batch(event)
        else:
            self.training.take_epoch(event)
            if event.kept:
                self.better.emit()
        self.changed.emit()

    def _on_returned(self, _value: object) -> None:
        self.outcome = "done"

    def _on_cancelled(self) -> None:
        self.outcome = {"leave": "left", "keep": "kept", "discard": "discarded"}[self._ending.how]

    def _on_failed(self, error: JobError) -> None:
        self.outcome = "failed"
        self.failed.emit(error)

    def _on_finished(self) -> None:
        self.ended.emit()
