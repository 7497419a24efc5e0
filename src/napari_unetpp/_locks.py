"""The right to write to a file or a folder: one program and one window at a time has it."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}  # a drive that knows no locks


class InUse(ValueError):
    """Another program or window is writing there; one line for the user."""


class Hold:
    """The right to write, from here until `release` or the end of a with statement.

    The system takes it back from a process that ends in any way. On a drive that knows no locks everybody gets it:
    better without a lock than not at all.

    Parameters
    ----------
    file
        The lock file, made where it is missing, and left there. Its folder must exist.
    busy
        What the user is told where another program or window has the right.

    Raises
    ------
    InUse
        Where another has it, in this process or in any other.
    OSError
        Where the folder is missing or cannot be written.
    """

    def __init__(self, file: Path, busy: str) -> None:
        if not file.parent.is_dir():  # filelock would make it
            raise FileNotFoundError(errno.ENOENT, "the folder was moved or deleted", str(file.parent))
        self._lock: FileLock | None = FileLock(file, timeout=0, thread_local=False)  # workers may give it back
        try:
            self._lock.acquire()
        except Timeout:
            raise InUse(busy) from None
        except NotImplementedError:
            self._lock = None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self._lock = None
        self._released = False

    @property
    def held(self) -> bool:
        """Whether it was not given back."""
        return not self._released

    def release(self) -> None:
        """Give it back; more than once is fine."""
        self._released = True
        if self._lock is not None:
            with suppress(OSError):  # the drive is gone, and the lock with it
                self._lock.release()
            self._lock = None

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def is_held(file: Path) -> bool:
    """Whether some program or window holds the lock file now; nothing is made or kept."""
    if not file.is_file():
        return False
    try:
        Hold(file, "").release()
    except InUse:
        return True
    except OSError:
        return False
    return False
