"""A job: events in the window's thread, errors not lost, cancel and pause between two yields."""

import threading
import time

import pytest
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QWidget
from superqt.utils._qthreading import WorkerBase

from napari_unetpp.gui.jobs import Job, JobError

pytestmark = pytest.mark.gui


class Listener(QWidget):
    """A widget that writes down what it hears and in which thread."""

    def __init__(self):
        super().__init__()
        self.heard = []
        self.threads = set()

    def note(self, name, value=None):
        self.heard.append((name, value))
        self.threads.add(threading.get_ident())

    def on_yielded(self, event):
        self.note("yielded", event)

    def on_returned(self, value):
        self.note("returned", value)

    def on_failed(self, error):
        self.note("failed", error)

    def on_cancelled(self):
        self.note("cancelled")

    def on_finished(self):
        self.note("finished")

    def listen(self, job):
        job.yielded.connect(self.on_yielded)
        job.returned.connect(self.on_returned)
        job.failed.connect(self.on_failed)
        job.cancelled.connect(self.on_cancelled)
        job.finished.connect(self.on_finished)
        return job


@pytest.fixture
def listener(qtbot):
    widget = Listener()
    qtbot.addWidget(widget)
    yield widget
    WorkerBase.await_workers(5000)


def run_to_the_end(qtbot, listener, steps):
    job = listener.listen(Job(steps, listener))
    with qtbot.waitSignal(job.finished, timeout=5000):
        job.start()
    return [name for name, _ in listener.heard]


def ticks(closed=None):
    try:
        for number in range(10_000):
            yield number
            time.sleep(0.005)
    finally:
        if closed is not None:
            closed.append(threading.get_ident())


def test_events_arrive_in_order_in_this_thread(qtbot, listener):
    worked_in = []

    def steps():
        worked_in.append(threading.get_ident())
        yield "a"
        yield "b"
        return "c"

    assert run_to_the_end(qtbot, listener, steps()) == [
        "yielded",
        "yielded",
        "returned",
        "finished",
    ]
    assert [value for _, value in listener.heard] == ["a", "b", "c", None]
    assert listener.threads == {threading.get_ident()}
    assert worked_in[0] != threading.get_ident()


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, MemoryError])
def test_every_exception_arrives(qtbot, listener, kind):
    def steps():
        yield 1
        raise kind("out of memory\nsecond line")

    assert run_to_the_end(qtbot, listener, steps()) == ["yielded", "failed", "finished"]
    error = listener.heard[1][1]
    assert isinstance(error, JobError)
    assert str(error) == "out of memory"
    assert "second line" in error.details
    assert "test_jobs.py" in error.details


def test_an_exception_without_text_is_named(qtbot, listener):
    def steps():
        yield from ()
        raise MemoryError

    run_to_the_end(qtbot, listener, steps())
    assert str(listener.heard[0][1]) == "MemoryError"


def test_cancel_stops_between_two_yields_and_closes_in_the_worker(qtbot, listener):
    closed = []
    job = listener.listen(Job(ticks(closed), listener))
    job.start()
    qtbot.waitUntil(lambda: len(listener.heard) > 2, timeout=5000)
    with qtbot.waitSignal(job.finished, timeout=1000):
        job.cancel()
    names = [name for name, _ in listener.heard]
    assert names[-2:] == ["cancelled", "finished"]
    assert "returned" not in names
    assert closed
    assert closed[0] != threading.get_ident()


def test_an_error_while_cleaning_up_is_told(qtbot, listener):
    def steps():
        try:
            yield from ticks()
        finally:
            raise RuntimeError("disk full")

    job = listener.listen(Job(steps(), listener))
    job.start()
    qtbot.waitUntil(lambda: bool(listener.heard), timeout=5000)
    with qtbot.waitSignal(job.finished, timeout=1000):
        job.cancel()
    assert [str(value) for name, value in listener.heard if name == "failed"] == ["disk full"]


def test_pause_holds_and_resume_goes_on(qtbot, listener):
    job = listener.listen(Job(ticks(), listener))
    job.start()
    qtbot.waitUntil(lambda: len(listener.heard) > 2, timeout=5000)
    job.pause()
    assert job.paused
    qtbot.wait(100)
    held = len(listener.heard)
    qtbot.wait(100)
    assert len(listener.heard) == held
    job.resume()
    assert not job.paused
    qtbot.waitUntil(lambda: len(listener.heard) > held, timeout=5000)
    job.pause()
    job.resume()  # at once, before the worker can have noticed
    held = len(listener.heard)
    qtbot.waitUntil(lambda: len(listener.heard) > held + 2, timeout=5000)
    job.cancel()


def test_a_paused_job_can_be_cancelled(qtbot, listener):
    job = listener.listen(Job(ticks(), listener))
    job.start()
    qtbot.waitUntil(lambda: bool(listener.heard), timeout=5000)
    job.pause()
    qtbot.wait(50)
    with qtbot.waitSignal(job.finished, timeout=1000):
        job.cancel()
    assert listener.heard[-2][0] == "cancelled"


def test_the_job_ends_with_its_widget(qtbot):
    class Owner(QObject):
        pass

    closed, owner = [], Owner()
    job = Job(ticks(closed), owner)
    job.start()
    qtbot.wait(50)
    owner.deleteLater()
    del owner, job
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=2000)
    assert closed


def test_a_warning_goes_to_the_log(qtbot, listener, caplog):
    import warnings

    def steps():
        yield 1
        warnings.warn("too hot", UserWarning, stacklevel=1)

    run_to_the_end(qtbot, listener, steps())
    assert "too hot" in caplog.text
