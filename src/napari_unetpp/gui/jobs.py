"""Long work beside the window: a generator is run in another thread, its events arrive in this one.

The only place with threads. A job is any generator of events (`predict_stack`, `train`, or one that
loads a model first); a `Job` iterates it in a superqt worker and hands on, in the window's thread:

    yielded(event)      as often as the generator yields
    returned(value)     it came to its end
    failed(JobError)    it raised; RuntimeError too, which superqt's own worker would swallow
    cancelled()         it was stopped between two yields
    finished()          after any of these three, always

The generator is closed in the thread that ran it, so that its ``finally`` blocks run there and
before `finished`.
"""

from __future__ import annotations

import logging
import threading
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal
from superqt.utils import GeneratorWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

log = logging.getLogger(__name__)

_CANCELLED = object()  # what a stopped job returns, unlike anything that a generator can return


class JobError(Exception):
    """What stopped a job: its text is one line for the panel, `details` the whole traceback.

    It is no RuntimeError, because superqt's worker swallows those.
    """

    def __init__(self, cause: BaseException) -> None:
        lines = str(cause).strip().splitlines()
        super().__init__(lines[0] if lines else type(cause).__name__)
        self.details = "".join(traceback.format_exception(cause))


class Job(QObject):
    """A generator running in another thread, stopped with the widget it belongs to.

    Connect its signals to bound methods of widgets: Qt disconnects them when a widget is deleted.

    Parameters
    ----------
    steps : generator
        Not started yet; nothing of its body runs in the thread of the window.
    parent : QObject
        The job is cancelled when this is destroyed.
    """

    yielded = Signal(object)
    returned = Signal(object)
    failed = Signal(object)
    cancelled = Signal()
    finished = Signal()

    def __init__(self, steps: Generator[Any, None, Any], parent: QObject) -> None:
        super().__init__(parent)
        self._worker = _Worker(steps)
        self._worker.yielded.connect(self._on_yielded)
        self._worker.returned.connect(self._on_returned)
        self._worker.errored.connect(self._on_errored)
        self._worker.finished.connect(self._on_finished)
        self._worker.warned.connect(self._on_warned)
        # a partial and not a method of this object, which is half gone when it is called
        self.destroyed.connect(partial(_stop, self._worker))

    def start(self) -> None:
        """Start it; events arrive once the event loop runs."""
        self._worker.start()

    def cancel(self) -> None:
        """Ask it to stop at the next yield, also while it is paused."""
        self._worker.quit()

    def pause(self) -> None:
        """Hold it at the next yield."""
        self._worker.going.clear()

    def resume(self) -> None:
        """Let a paused job go on."""
        self._worker.going.set()

    @property
    def paused(self) -> bool:
        """Whether it was asked to hold; it may still be on its way to the next yield."""
        return not self._worker.going.is_set()

    def _on_yielded(self, event: object) -> None:
        self.yielded.emit(event)

    def _on_returned(self, value: object) -> None:
        if value is _CANCELLED:
            self.cancelled.emit()
        else:
            self.returned.emit(value)

    def _on_errored(self, error: Exception) -> None:
        self.failed.emit(error if isinstance(error, JobError) else JobError(error))

    def _on_finished(self) -> None:
        self.finished.emit()

    def _on_warned(self, warning: tuple[Any, ...]) -> None:
        message, category = warning[:2]
        log.warning("%s: %s", category.__name__, message)


def start_job(steps: Generator[Any, None, Any], parent: QObject, **slots: Callable[..., object]) -> Job:
    """A job under way, which goes when it is finished.

    Parameters
    ----------
    slots
        What its signals call, by their names.
    """
    job = Job(steps, parent)
    for name, slot in slots.items():
        getattr(job, name).connect(slot)
    job.finished.connect(job.deleteLater)
    job.start()
    return job


class _Worker(GeneratorWorker):
    """superqt's worker with its own stop and pause.

    superqt abandons an aborted generator without closing it, and forgets a `resume` that comes
    before the `pause` was noticed. napari calls `quit` on every worker when the application ends.
    """

    def __init__(self, steps: Generator[Any, None, Any]) -> None:
        going, stopping = threading.Event(), threading.Event()
        going.set()
        super().__init__(_guarded, steps, going, stopping)
        self.going, self.stopping = going, stopping

    def quit(self) -> None:
        self.stopping.set()
        self.going.set()


def _stop(worker: _Worker, *_: object) -> None:
    worker.quit()


def _guarded(
    steps: Generator[Any, None, Any], going: threading.Event, stopping: threading.Event
) -> Generator[Any, None, Any]:
    """What `steps` yields, held and stopped between two yields; raises nothing but JobError."""
    try:
        while not stopping.is_set():
            try:
                event = next(steps)
            except StopIteration as end:
                return end.value
            yield event
            going.wait()
        steps.close()
    except Exception as error:
        raise JobError(error) from error
    return _CANCELLED
