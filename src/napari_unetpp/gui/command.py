"""The command line that does what the Segment dock is set to, for a script or a cluster.

Decides which image of which file a layer is (`find_source`), and the words (`command_line`).
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_unetpp.box import Box


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """What the command is to say; `shape` and `axes` are those of the layer's data."""

    source: Path | None
    shape: tuple[int, ...]
    axes: str
    output: Path
    model: str
    level: int
    tiling: str
    device: str
    fast: bool
    region: Box | None
    memory_mib: int | None
    planes: bool = False
    intensity: str | None = None


def describe_command(request: CommandRequest) -> Generator[str]:
    """The command line, as the one event of a job, because files are looked into.

    Raises
    ------
    ValueError
        Where there is no file that the command could read.
    """
    series = find_source(request.source, request.shape, request.axes)
    yield command_line(request, series)


def find_source(path: Path | None, shape: Sequence[int], axes: str) -> int:
    """Which image of a file has this shape.

    Raises
    ------
    ValueError
        Where the layer came from no file, or shows only a part of it.
    """
    from napari_unetpp.stacks import open_stack

    if path is None or not path.exists():
        raise ValueError("The image is not from a file, so there is no command for it; save it first, and open that.")
    for series in range(100):
        try:
            with open_stack(path, series=series, axes=axes) as stack:
                if stack.shape == tuple(shape):
                    return series
        except ValueError:
            try:  # only the axes may not fit this one
                open_stack(path, series=series).close()
            except ValueError:
                break
    raise ValueError(f"No image in {path} has the shape {tuple(shape)} of the layer; open it as a whole for a command.")


def command_line(request: CommandRequest, series: int = 0) -> str:
    """The words, quoted for the shell of this system."""
    words = ["napari-unetpp", "segment", str(request.source), "-o", str(request.output), "--model", request.model]
    words += ["--level", str(request.level), "--tiling", request.tiling, "--axes", request.axes]
    words += ["--planes", "3"] * request.planes
    words += ["--intensity", request.intensity] if request.intensity else []
    words += ["--series", str(series)] * (series > 0)
    words += ["--device", request.device] * (request.device != "auto")
    words += ["--precision", "int8"] * request.fast
    words += ["--memory", f"{request.memory_mib}MiB"] * (request.memory_mib is not None)
    if request.region is not None:
        spans = zip(request.region.start, request.region.stop, strict=True)
        words += ["--region", ",".join(f"{a}:{b}" for a, b in spans)]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
