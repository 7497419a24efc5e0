"""A lock on an open file that the system takes back from a process that ends in any way."""

from __future__ import annotations

import errno
import sys
from typing import IO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}  # how systems say that another holds it
_BYTE = 2**30  # far behind the contents: on Windows the byte that is locked cannot be read


def lock(file: IO[bytes]) -> bool | None:
    """Whether the file is ours until it is closed; False where another has it, None where the drive knows no locks."""
    try:
        if sys.platform == "win32":
            file.seek(_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _TAKEN else None
    return True
