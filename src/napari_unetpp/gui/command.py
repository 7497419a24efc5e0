"""The command line that does what the Segment dock is set to, for a script or a cluster.

Decides which image of a file has a shape (`find_source`), and the words (`command_line`). Whether a layer still shows
its file is in `command_source`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetpp.gui.command_source import FilePart, find_part

if TYPE_CHECKING:
    from napari_unetpp.box import Box
    from napari_unetpp.inference.events import Waiting
    from napari_unetpp.stacks import Stack


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """What the command is to say; `stack` is the layer's data, which are compared with the file; `axes` are those of the layer."""

    source: Path | None
    stack: Stack
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
    as_colours: bool = False


def describe_command(request: CommandRequest) -> Generator[str | Waiting]:
    """The command line, as the last event of a job, because the file is compared with the layer.

    Raises
    ------
    ValueError
        Where there is no file that the command could read, or the layer was changed since it was opened.
    """
    part = yield from find_part(request.source, request.stack, request.axes)
    yield command_line(request, part)


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


def command_line(request: CommandRequest, part: FilePart) -> str:
    """The words, quoted for the shell of this system."""
    words = ["napari-unetpp", "segment", str(request.source), "-o", str(request.output), "--model", request.model]
    words += ["--level", str(request.level), "--tiling", request.tiling, "--axes", part.axes]
    words += ["--planes", "3"] * request.planes
    words += ["--intensity", request.intensity] if request.intensity else []
    words += ["--series", str(part.series)] * (part.series > 0)
    words += ["--channel", str(part.channel)] * (part.channel is not None)
    words += ["--rgb"] * request.as_colours
    words += ["--device", request.device] * (request.device != "auto")
    words += ["--precision", "int8"] * request.fast
    words += ["--memory", f"{request.memory_mib}MiB"] * (request.memory_mib is not None)
    if request.region is not None:
        spans = zip(request.region.start, request.region.stop, strict=True)
        words += ["--region", ",".join(f"{a}:{b}" for a, b in spans)]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
