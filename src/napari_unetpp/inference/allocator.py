"""How memory that is freed goes back to the system while a run is going on.

A pass takes and frees many blocks of a few MiB. glibc learns to keep such blocks, cut into pieces by
whatever is taken between them, and one thread's pieces are of no use to another: at 1024x1024 a pass
that needs 220 MiB then holds 350. So during a run larger blocks are asked of the system one by one,
which costs a few percent of the time, for page faults (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_M_MMAP_THRESHOLD = -3  # malloc.h
_USUAL = 32 * 2**20  # what glibc's own rule arrives at in a process that has freed a large block

_inside: list[int] = []
_counting = threading.Lock()


@contextmanager
def giving_back(large: int) -> Iterator[None]:
    """While anyone is inside, blocks of `large` bytes and more go back to the system as soon as they are freed.

    Where the C library is not glibc, nothing is done: others have their own ways.
    """
    with _counting:
        _inside.append(large)
        _set_threshold(min(_inside))
    try:
        yield
    finally:
        with _counting:
            _inside.remove(large)
            _set_threshold(min(_inside, default=_USUAL))


def _set_threshold(size: int) -> bool:
    """Whether the C library took it."""
    try:
        mallopt: Any = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018  # musl has a mallopt that does nothing
    except (OSError, AttributeError, TypeError):  # no such function; TypeError: no such library (Windows)
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, size))
