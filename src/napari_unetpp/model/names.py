"""What a model can be called: the stem of a file that every system takes, and that a command line does not mistake.

In this order: whether a name will do (`check_name`), the nearest that does (`safe_name`), and when two names are one (`folded`).
"""

from __future__ import annotations

import re
import unicodedata

LONGEST_NAME = 180  # bytes in UTF-8: file systems take 255, of which the suffix and a temporary file's ending need some
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')  # in a file's name on Windows, and "/" everywhere
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no file on Windows can be called so


def check_name(name: str) -> str:
    """Return `name`, composed (NFC), if a file can be called so on any system; see `safe_name` for one that can.

    Raises
    ------
    ValueError
        If not; the message proposes a name.
    """
    composed = unicodedata.normalize("NFC", name)
    if composed != safe_name(name):
        shown = name if len(name) <= 40 else f"{name[:40]} ..."
        raise ValueError(
            f"{shown!r} cannot be the name of a model, because not every system can call a file so; "
            f"{safe_name(name)!r} would do"
        )
    return composed


def safe_name(text: str) -> str:
    """The most of `text` that every file system and command line takes for a name; ``"model"`` where nothing is left.

    Examples
    --------
    >>> safe_name("My cells (2)"), safe_name("a/b: c?"), safe_name(" .. "), safe_name("--yes"), safe_name("nul")
    ('My cells (2)', 'a-b- c-', 'model', 'yes', 'nul-')
    """
    composed = unicodedata.normalize("NFC", text)
    # C: control and invisible characters, halves of surrogate pairs; Z: spaces that do not look like one, line ends
    kinds = ((c, unicodedata.category(c)) for c in composed)
    plain = "".join("" if kind[0] == "C" else " " if kind[0] == "Z" else c for c, kind in kinds)
    name = _FORBIDDEN.sub("-", plain).strip(" .").lstrip("-. ")
    name = name.encode()[:LONGEST_NAME].decode(errors="ignore").rstrip(" .")
    return f"{name}-" if _DEVICES.fullmatch(name) else name or "model"


def folded(name: str) -> str:
    """What two names have in common that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
