"""When the workers of a run stop, and when they leave a core to someone who interacts."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BREATH = 0.005  # seconds between two looks of a worker that has stepped back


class Stopped(Exception):
    """The run was told to stop."""


class Pace:
    """How the workers of one run are stopped, and made to leave a core to someone who interacts.

    Any thread may call `stop` and `hold`; workers call `checkpoint` between two bands of rows.

    Parameters
    ----------
    above
        What stops and holds this one as well: that of the user, for several runs.
    """

    def __init__(self, above: Pace | None = None) -> None:
        self._above = above
        self._stopped = threading.Event()
        self._held_until = 0.0
        self._first = threading.local()

    def stop(self) -> None:
        """Make every worker end at its next checkpoint."""
        self._stopped.set()

    def hold(self, seconds: float) -> None:
        """Leave all work to one worker for so long, counted from now."""
        self._held_until = time.monotonic() + seconds

    @property
    def held(self) -> bool:
        return time.monotonic() < self._held_until or (self._above is not None and self._above.held)

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set() or (self._above is not None and self._above.stopped)

    def checkpoint(self, over: Callable[[], bool] | None = None) -> None:
        """Return when there is time to go on.

        Parameters
        ----------
        over
            Return as well where this says that there is nothing left to go on with.

        Raises
        ------
        Stopped
            Where the run was told to stop.
        """
        while not self.stopped and self.held and not getattr(self._first, "yes", True) and not (over and over()):
            time.sleep(_BREATH)
        if self.stopped:
            raise Stopped

    def enter(self, number: int) -> None:
        """Tell which worker the calling thread is; number 0 never steps back."""
        self._first.yes = number == 0
