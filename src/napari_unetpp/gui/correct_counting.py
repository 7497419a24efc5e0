"""How many voxels of the corrections on the screen were painted: counted beside the window, and again where somebody paints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer, Signal

from napari_unetpp.gui.correct_work import count
from napari_unetpp.gui.jobs import Job, start_job

if TYPE_CHECKING:
    from napari_unetpp.box import Box
    from napari_unetpp.gui.correct_layer import OpenCorrections

WAIT_MS = 300  # after a stroke, of which several may follow


class Counting(QObject):
    """Counts of the painted voxels, by chunk.

    Attributes
    ----------
    complete : bool
        Whether everything was counted once.
    """

    changed = Signal()
    failed = Signal(object)  # JobError

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.complete = False
        self._opened: OpenCorrections | None = None
        self._counts: dict[tuple[int, ...], int] = {}
        self._fresh: list[Box] = []
        self._job: Job | None = None
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(WAIT_MS)
        self._soon.timeout.connect(self._count_fresh)

    @property
    def painted(self) -> int:
        """Voxels, as far as they are counted."""
        return sum(self._counts.values())

    @property
    def busy(self) -> bool:
        """Whether something is still to be counted."""
        return self._job is not None or bool(self._fresh)

    def follow(self, opened: OpenCorrections | None) -> None:
        """Count these from now on."""
        if opened is self._opened:
            return
        if self._opened is not None:
            self._opened.painted.written.disconnect(self._on_written, missing_ok=True)
        self._drop_job()
        self._opened, self._counts, self._fresh, self.complete = opened, {}, [], False
        if opened is not None:
            opened.painted.written.connect(self._on_written)
            self._start(None)
        self.changed.emit()

    def _on_written(self, box: Box) -> None:
        if isalive(self):
            self._fresh.append(box)
            self._soon.start()

    def _count_fresh(self) -> None:
        if self._job is None and self._fresh and self._opened is not None:
            boxes, self._fresh = self._fresh, []
            self._start(boxes)

    def _start(self, boxes: list[Box] | None) -> None:
        assert self._opened is not None
        self._job = start_job(
            count(self._opened.corrections, boxes),
            self,
            yielded=self._on_counted,
            returned=self._on_all,
            failed=self.failed,
            finished=self._on_finished,
        )

    def _drop_job(self) -> None:
        if self._job is not None:
            job, self._job = self._job, None
            job.yielded.disconnect(self._on_counted)
            job.returned.disconnect(self._on_all)
            job.failed.disconnect(self.failed)
            job.finished.disconnect(self._on_finished)
            job.cancel()

    def _on_counted(self, found: dict[tuple[int, ...], int]) -> None:
        self._counts.update(found)

    def _on_all(self, _value: object) -> None:
        self.complete = True

    def _on_finished(self) -> None:
        self._job = None
        self._count_fresh()
        self.changed.emit()
