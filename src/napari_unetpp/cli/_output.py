"""What the user sees: lines or JSON, a progress bar, one line for a failure, an exit code.

1. `BadUsage`, `Failure`: exit codes 2 and 1.
2. `Output`: results on stdout, progress on stderr; with `--json` one object a line on stdout.
3. `Bar`: a bar with the time left; a no-op with `--json`.
4. `reported`: the door through which a command's failures leave.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress, TaskID

FAILED, BAD_USAGE, CANCELLED = 1, 2, 130
_LONGEST = 400  # characters of a failure's line: some of torch's messages fill the screen

P = ParamSpec("P")
R = TypeVar("R")


class BadUsage(ValueError):
    """An option that cannot be obeyed; its text is the one line that the user sees."""


class Failure(Exception):
    """What went wrong, already in the one line that the user sees."""


class Output:
    """Where a command's words go."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json

    def event(self, kind: str, **values: Any) -> None:
        """Print one JSON object; without `--json` nothing."""
        if self.as_json:
            # NaN and infinity are no JSON; a reader of lines should not have to know that.
            text = json.dumps(_plain({"event": kind, **values}), allow_nan=False)
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def say(self, text: str) -> None:
        """Print a line for people; with `--json` nothing."""
        if not self.as_json:
            typer.echo(text)

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """Print a table for people; with `--json` nothing."""
        if self.as_json:
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(
            title=title or None,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        for i, name in enumerate(columns):
            # Headings may take two lines; numbers that did would be read wrongly.
            table.add_column(name, justify="right" if i else "left", no_wrap=not i, min_width=6 if i else None)
        for row in rows:
            table.add_row(*row)
        console = Console(file=sys.stdout, highlight=False, markup=False)
        if not console.is_terminal:  # a pipe has no width that a table must fit into
            console.width = 200
        console.print(table)


class Bar:
    """A progress bar with the time left, on stderr; nothing where `output` is JSON."""

    def __init__(self, output: Output, title: str, total: int | None, done: int = 0) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if output.as_json:
            return
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(title, total=total, completed=done, note="")

    def __enter__(self) -> Bar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, note: str = "") -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """The command, with its failures turned into one line on stderr and an exit code.

    `NAPARI_UNETPP_DEBUG=1` shows the traceback as well.
    """

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BadUsage as error:
            complain(f"usage: {one_line(error)}")
            raise typer.Exit(BAD_USAGE) from None
        except KeyboardInterrupt as stop:
            complain(str(stop) or "cancelled")
            raise typer.Exit(CANCELLED) from None
        except BrokenPipeError:  # `napari-unetpp ... | head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(FAILED) from None
        except Exception as error:  # noqa: BLE001 - the last door: nothing may leave as a traceback
            if os.environ.get("NAPARI_UNETPP_DEBUG", "0") not in ("", "0"):
                traceback.print_exc()
            complain(f"error: {one_line(error)}")
            raise typer.Exit(FAILED) from None

    return wrapper


def complain(text: str) -> None:
    """Print one line on stderr."""
    typer.echo(text, err=True)


def one_line(error: BaseException) -> str:
    """What a user can do something with, of an exception: one line, no class names.

    >>> one_line(OSError(28, "No space left on device", "/data/out"))
    '/data/out: No space left on device'
    """
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = " ".join(str(error).split())
    if not isinstance(error, (ValueError, OSError, Failure)) or not text:
        # Not one of the errors that the engine raises on purpose, so its kind helps a report.
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    text = " ".join("; ".join([text, *getattr(error, "__notes__", ())]).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 4] + " ..."


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that no more can be written here."""
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    return isinstance(error, OSError) and error.errno in full


def _plain(value: Any) -> Any:
    """Plain JSON values out of numpy scalars, paths, tuples; None for what is not finite."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        return _plain(value.item())
    return str(value)
