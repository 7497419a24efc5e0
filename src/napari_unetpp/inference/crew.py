"""Several threads at one pass, and which step each of them does next.

Decides, in this order: which steps may run beside each other (`Turns`), who runs them (`Crew`), and
how threads come to have their share of torch's (`thread_pool`).

The steps of a schedule wait for a few others only: the next band of X00 for nothing but the image,
while X04 still has its last band to do. So every thread takes the first step whose rows are there and
does it alone, with one thread of torch. That beats one layer shared by all threads: no layer is too
small for them, and nobody waits for the slowest part of each. The numbers are the same, whoever does what.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from napari_unetpp.inference.pace import Pace, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from napari_unetpp.inference.schedule import Step

_AHEAD = 8  # steps a hand between the first that is not done and the last that is begun; see docs/performance.md


def steps_ahead(hands: int) -> int:
    """Steps that may be under way or done beyond the first that is not; memory is planned with it."""
    return 1 if hands == 1 else _AHEAD * hands


class Turns:
    """The steps of one pass, handed out to whoever has nothing to do.

    Parameters
    ----------
    passed
        Called for every step, in their order, when it and all before it are done; one call at a time.
    """

    def __init__(self, steps: Sequence[Step], hands: int, passed: Callable[[Step], None]) -> None:
        self._steps, self._ahead, self._passed = steps, steps_ahead(hands), passed
        self._begun, self._done = [False] * len(steps), [False] * len(steps)
        self._first = 0  # that is not done
        self._over = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def take(self) -> int | None:
        """Number of a step to do now, waiting for one; None where there will be none.

        Raises
        ------
        BaseException
            What another hand failed with.
        """
        with self._changed:
            while True:
                if self._error is not None:
                    raise self._error
                if self._over or self._first == len(self._steps):
                    return None
                for number in range(self._first, min(self._first + self._ahead, len(self._steps))):
                    if not self._begun[number] and all(self._done[n] for n in self._steps[number].needs):
                        self._begun[number] = True
                        return number
                self._changed.wait()

    def finish(self, number: int, keep: Callable[[], None]) -> None:
        """A step is done: `keep` puts its rows where others find them; one call at a time."""
        with self._changed:
            keep()
            self._done[number] = True
            while self._first < len(self._steps) and self._done[self._first]:
                self._passed(self._steps[self._first])
                self._first += 1
            self._changed.notify_all()

    @property
    def over(self) -> bool:
        """Whether nobody will be given another step; looked at without waiting for anybody."""
        return self._over or self._first == len(self._steps)

    def end(self, error: BaseException | None = None) -> None:
        """Nobody begins another step."""
        with self._changed:
            self._over, self._error = True, self._error or error
            self._changed.notify_all()


class Crew:
    """Threads that help others with their passes, each with one thread of torch.

    Parameters
    ----------
    helpers
        How many there are.
    at_once
        How many passes they are shared by.
    pace
        Makes them step back while the user needs a core; they are never the first worker.
    """

    def __init__(self, helpers: int, at_once: int = 1, pace: Pace | None = None) -> None:
        self.hands = 1 + helpers // at_once
        self._pace = pace or Pace()
        self._pool = thread_pool("help", helpers, 1, lambda _: self._pace.enter(1)) if helpers else None

    def checkpoint(self) -> None:
        """What `Pace.checkpoint` does; whoever leads a pass calls it every now and then."""
        self._pace.checkpoint()

    def help(self, work: Callable[[], bool], over: Callable[[], bool]) -> list[Future[None]]:
        """Have `work` called by all hands but the caller's own until it says False.

        Parameters
        ----------
        over
            Whether nothing is left, for hands that have stepped back: else the pass would wait for them.
        """
        if self._pool is None:
            return []
        inference = torch.is_inference_mode_enabled()
        return [self._pool.submit(self._repeat, work, over, inference) for _ in range(self.hands - 1)]

    def close(self) -> None:
        """Wait for what is running."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _repeat(self, work: Callable[[], bool], over: Callable[[], bool], inference: bool) -> None:
        with torch.inference_mode(inference):
            try:
                self._pace.checkpoint(over)
                while work():
                    self._pace.checkpoint(over)
            except Stopped:
                return


ALONE = Crew(0)


def thread_pool(name: str, count: int, each: int, enter: Callable[[int], None]) -> ThreadPoolExecutor:
    """Threads that are there already, each with that many threads of torch, after `enter` with its number."""
    before = torch.get_num_threads()
    everybody = threading.Barrier(count + 1)
    numbers = iter(range(count))

    def begin() -> None:
        enter(next(numbers))
        torch.get_num_threads()  # or torch would set the number anew at the first parallel loop
        torch.set_num_threads(each)  # of the calling thread, and of those that come later
        everybody.wait()

    pool = ThreadPoolExecutor(count, name, initializer=begin)
    for _ in range(count):
        pool.submit(int)
    everybody.wait()
    torch.set_num_threads(before)  # later threads of this process shall not be poor
    return pool
