"""Reading, computing and writing at the same time, in order and within bounds.

Decides how a list of jobs runs through three stages (`run_pipeline`)::

    jobs ──> read ──────> compute ────────────> collect ──> results, in the order of the jobs
             one thread   `workers` threads,    one thread
                          each with its share
                          of torch's threads

At most `ahead` jobs are between the first and the last stage, so memory is bounded however long the
list is and however slow the disk.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

from napari_unetpp.inference.crew import thread_pool
from napari_unetpp.inference.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Job = TypeVar("Job")
Raw = TypeVar("Raw")
Computed = TypeVar("Computed")
Result = TypeVar("Result")


def run_pipeline(
    jobs: Iterable[Job],
    read: Callable[[Job], Raw],
    compute: Callable[[Raw], Computed],
    collect: Callable[[Job, Computed], Result],
    *,
    workers: int = 1,
    threads: int | None = None,
    ahead: int | None = None,
    pace: Pace | None = None,
    heartbeat: float | None = None,
) -> Iterator[Result | None]:
    """What `collect` gave for each job, in order. Closing this waits for what is running, and stops it.

    Parameters
    ----------
    read, collect
        Each is called by one thread of its own, in the order of the jobs.
    compute
        Called by `workers` threads.
    threads
        Of torch, for each worker; None is a fair share of `torch.get_num_threads()`.
    ahead
        Most jobs that are read and not collected yet; None is one more than there are workers.
    heartbeat
        Give None whenever no job was finished for so many seconds, so that the caller may stop.
    """
    pace = pace or Pace()
    ahead = ahead or workers + 1
    reader, writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")
    pool = thread_pool("compute", workers, threads or max(1, torch.get_num_threads() // workers), pace.enter)
    waiting: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            while len(waiting) >= ahead:
                yield from _next(waiting, heartbeat)
            raw = reader.submit(read, job)
            computed = pool.submit(_after, raw, compute)
            waiting.append(writer.submit(_after, computed, partial(collect, job)))
            del raw, computed  # they hold the big arrays of their stage
        while waiting:
            yield from _next(waiting, heartbeat)
    finally:
        pace.stop()
        for executor in (reader, pool, writer):
            executor.shutdown(wait=True, cancel_futures=True)


def _after(earlier: Future[Raw], work: Callable[[Raw], Computed]) -> Computed:
    return work(earlier.result())


def _next(waiting: deque[Future[Result]], heartbeat: float | None) -> Iterator[Result | None]:
    while True:
        try:
            result = waiting[0].result(heartbeat)
        except NotYet:
            if waiting[0].done():  # a TimeoutError of the work itself
                raise
            yield None
            continue
        waiting.popleft()
        yield result
        return
