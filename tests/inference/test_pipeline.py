"""Three stages beside each other: in order, within bounds, and all ended when the caller is."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from napari_unetpp.inference.pace import Pace, Stopped
from napari_unetpp.inference.pipeline import run_pipeline


def same(x):
    return x


def pairs(_job, x):
    return x


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_jobs(workers):
    def slow_first(n):
        time.sleep(0.02 if n % 3 == 0 else 0)
        return n * n

    results = run_pipeline(range(20), same, slow_first, lambda job, x: (job, x), workers=workers)
    assert list(results) == [(n, n * n) for n in range(20)]


def test_stages_run_beside_each_other():
    """A job is read, another computed and a third written at one time, or this never ends."""
    together = threading.Barrier(3, timeout=20)

    def meet(x, *_):
        if x in (0, 1, 2):
            together.wait()
        return x

    # Job 2 is read while job 1 is computed while job 0 is written.
    steps = run_pipeline(
        range(5),
        lambda n: meet(n) if n == 2 else n,
        lambda n: meet(n) if n == 1 else n,
        lambda job, n: meet(n) if n == 0 else n,
        ahead=3,
    )
    assert list(steps) == list(range(5))


def test_no_more_is_read_than_may_wait():
    read, written, most = [], [], 0

    def count(job, x):
        nonlocal most
        most = max(most, len(read) - len(written))
        written.append(job)
        return x

    list(run_pipeline(range(30), lambda n: read.append(n) or n, same, count, workers=2, ahead=3))
    assert len(written) == 30
    assert most <= 3


@pytest.mark.parametrize("stage", ["read", "compute", "collect"])
@pytest.mark.parametrize("kind", [RuntimeError, TimeoutError, KeyboardInterrupt])
def test_what_a_stage_raises_reaches_the_caller(stage, kind):
    def fail(*args):
        if args[0] == 3:
            raise kind("here")
        return args[-1]

    stages = {"read": same, "compute": same, "collect": pairs, stage: fail}
    seen = []
    with pytest.raises(kind, match="here"):
        seen.extend(run_pipeline(range(9), **stages, heartbeat=10))
    assert seen == [0, 1, 2] or not seen
    assert not [t for t in threading.enumerate() if t.name.startswith(("read_", "compute_", "write_"))]


def test_closing_stops_the_workers_at_their_next_checkpoint():
    pace, begun = Pace(), threading.Event()

    def forever(_):
        begun.set()
        while True:
            pace.checkpoint()
            time.sleep(0.001)

    run = run_pipeline(range(5), same, forever, pairs, pace=pace, heartbeat=0.01)
    assert next(run) is None  # nothing was finished for a heartbeat
    assert begun.wait(10)
    run.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("compute_")]


def test_workers_share_the_threads_and_leave_those_of_others_alone():
    before = torch.get_num_threads()
    seen = list(run_pipeline(range(4), same, lambda _: torch.get_num_threads(), pairs, workers=2, threads=3))
    assert seen == [3] * 4
    assert torch.get_num_threads() == before
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [before]


def test_held_workers_leave_the_work_to_the_first():
    pace = Pace()
    pace.hold(60)
    passed = []

    def worker(number):
        pace.enter(number)
        try:
            pace.checkpoint()
            passed.append(number)
        except Stopped:
            passed.append(-number)

    threads = [threading.Thread(target=worker, args=(n,)) for n in (0, 1)]
    for thread in threads:
        thread.start()
    threads[0].join(10)
    assert passed == [0]
    pace.stop()  # also ends the one that waits
    threads[1].join(10)
    assert passed == [0, -1]


def test_a_hold_ends_by_itself():
    pace = Pace()
    pace.enter(1)
    pace.hold(0.05)
    assert pace.held
    pace.checkpoint()
    assert not pace.held


def test_what_is_above_stops_and_holds_and_is_left_alone():
    above = Pace()
    first, second = Pace(above), Pace(above)
    first.stop()
    assert not above.stopped
    assert not second.stopped
    above.hold(60)
    assert second.held
    above.stop()
    with pytest.raises(Stopped):
        second.checkpoint()
