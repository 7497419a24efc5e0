"""What the options mean, checked before anything heavy is loaded.

1. The words that options take.
2. `parse_memory`, `parse_region`, `refuse_what_comes_later`: text to values.
3. `choose_tiling`, `choose_levels`: options over what the model's card recommends.
4. `plan`, `plan_three`: tiles that keep within `--memory`.

All raise `BadUsage`, which ends the command with exit code 2.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_unetpp.cli._output import BadUsage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_unetpp.box import Box
    from napari_unetpp.inference.backends import Backend
    from napari_unetpp.inference.planes import Planes
    from napari_unetpp.inference.tiles import Tiles
    from napari_unetpp.inference.tiling import Tiling, Voxels
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.stacks import Stack

_UNITS = {"": 1, "k": 1, "m": 2, "g": 3, "t": 4}


class IntensityOver(StrEnum):
    stack = "stack"
    plane = "plane"
    robust = "robust"


AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
NameOrFile = Annotated[str, typer.Argument(help="Name of a model, or a model file.")]
PatchOption = Annotated[
    str | None, typer.Option(metavar="N|Z,Y,X", help="Edge of overlapping patches.  [default: 96; 64 of volumes]")
]
LabelValues = Annotated[
    str | None,
    typer.Option(
        metavar="V0,V1,..",
        help="Values in the label files that stand for label 0, 1, 2.. in this order, as 0,127,255; or colours, as "
        "#000000,#ff0000.  [default: the values are the labels]",
    ),
]
StrideOption = Annotated[
    str | None, typer.Option(metavar="N|Z,Y,X", help="Distance of patches.  [default: half a patch]")
]
HaloOption = Annotated[
    str | None,
    typer.Option(
        metavar="exact|bounded|fast|N|Z,Y,X",
        help="What seamless tiles read around them; see `seams`.  [default: exact; bounded for volumes]",
    ),
]
RgbOption = Annotated[
    bool,
    typer.Option(
        "--rgb", help="The three channels of STACK are red, green and blue, also where its file does not say so."
    ),
]

IntensityOption = Annotated[
    IntensityOver | None,
    typer.Option(
        help="Of what the range of intensities is measured: stack, all voxels; plane, each plane or time point; robust, the "
        "picture without padding, empty area and broken pixels.  [default: the model's]"
    ),
]


HALO_WORDS = ("exact", "bounded", "fast")


class TilingKind(StrEnum):
    overlap = "overlap"
    seamless = "seamless"


class Aggregate(StrEnum):
    mean = "mean"
    vote = "vote"
    gaussian = "gaussian"


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    int8 = "int8"


class Engine(StrEnum):
    torch = "torch"
    openvino = "openvino"


class PlanesAlong(StrEnum):
    one = "1"
    three = "3"


class Unpainted(StrEnum):
    background = "background"
    ignore = "ignore"


def parse_memory(text: str) -> int:
    """Bytes of a size such as 2GiB, 500MB, 1.5G or 1073741824.

    >>> parse_memory("2GiB"), parse_memory("500MB"), parse_memory("1.5g")
    (2147483648, 500000000, 1610612736)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)(b?)\s*", text, re.IGNORECASE)
    if match is None or not float(match[1]):
        raise BadUsage(f"--memory {text!r} is no size; write for instance 2GiB or 500MB")
    number, prefix, binary, byte = match.groups()
    # SI where it says MB, powers of 1024 where it says MiB or just M.
    base = 1000 if byte and not binary else 1024
    return int(float(number) * base ** (_UNITS[prefix.lower()] if prefix else 0))


def parse_region(text: str, axes: str, shape: Sequence[int]) -> Box:
    """The box that text such as 10:20,0:512,0:512 names along `axes` of `shape`.

    >>> parse_region("2:5,:,10:", "zyx", (9, 20, 30))
    Box(start=(2, 0, 10), stop=(5, 20, 30))
    """
    from napari_unetpp.box import Box

    parts = [part.strip() for part in text.split(",")]
    order = ",".join(axes)
    if len(parts) != len(axes):
        raise BadUsage(
            f"--region {text!r} names {len(parts)} ranges; the stack needs {len(axes)}, "
            f"for {order}, such as {','.join(f'0:{n}' for n in shape)}"
        )
    start, stop = [], []
    for part, axis, extent in zip(parts, axes, shape, strict=True):
        match = re.fullmatch(r"(\d*):(\d*)", part)
        if match is None:
            raise BadUsage(f"--region {text!r}: {part!r} is no range; write start:stop for {order}")
        a, b = int(match[1] or 0), int(match[2] or extent)
        if not a < b <= extent:
            raise BadUsage(
                f"--region {text!r}: {a}:{b} along {axis} is empty or leaves the stack, which has 0:{extent}"
            )
        start.append(a)
        stop.append(b)
    return Box(tuple(start), tuple(stop))


def refuse_what_comes_later(cluster: str | None) -> None:
    """Say that something is not there yet, instead of ignoring the wish."""
    if cluster is not None:
        raise BadUsage("--cluster is not available yet; run without it, on this machine")


def check_device(device: str) -> str:
    """A device's name, in a form that torch may know."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise BadUsage(f"--device {device!r} is unknown; use auto, cpu, cuda, cuda:N or mps")
    return device


def one_of(option: str, value: str | None, choices: Sequence[str]) -> Any:
    """The value, where it is one of the choices or None."""
    if value is not None and value not in choices:
        raise BadUsage(f"{option} {value} is unknown; use {', '.join(choices)}")
    return value


def check_threads(threads: int | None) -> None:
    """Refuse threads by the thousand: a system that gives no more of them ends the whole process."""
    most = 16 * (os.cpu_count() or 1)
    if threads is not None and threads > most:
        raise BadUsage(f"--threads {threads} is more than 16 a core; use 1 to {most}, or leave it out")


def choose_tiling(
    model: Model,
    kind: TilingKind | None,
    patch: str | None,
    stride: str | None,
    aggregate: Aggregate | None,
    halo: str | None = None,
) -> Tiling:
    """The card's tiling with the options that were given in place of its numbers."""
    from napari_unetpp.inference.tiling import Overlap, tiling_from_card

    tiling = tiling_from_card(model.card.tiling, model.spec.ndim)
    if kind is not None and kind.value != tiling.describe()["kind"]:
        tiling = tiling_from_card({"kind": kind.value}, model.spec.ndim)
    given: dict[str, Any] = {
        "patch": None if patch is None else parse_voxels("--patch", patch),
        "stride": None if stride is None else parse_voxels("--stride", stride),
        "aggregate": aggregate.value if aggregate is not None else None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if not isinstance(tiling, Overlap):
        if given:
            words = ", ".join(f"--{name}" for name in given)
            which = "" if kind else f", and the card of {model.card.name} recommends seamless"
            raise BadUsage(f"{words} belongs to overlap tiling{which}; add --tiling overlap")
        if halo is None:
            return tiling
        asked: dict[str, Any] = {"halo": halo if halo in HALO_WORDS else parse_voxels("--halo", halo)}
        return replace(tiling, **asked)
    if halo is not None:
        which = "" if kind else f", and the card of {model.card.name} recommends overlap"
        raise BadUsage(f"--halo belongs to seamless tiling{which}; add --tiling seamless")
    if "patch" in given and stride is None:  # half a patch, as in the papers
        edges = given["patch"]
        half = max(1, edges // 2) if isinstance(edges, int) else tuple(max(1, edge // 2) for edge in edges)
        given["stride"] = half
    return replace(tiling, **given)


def parse_voxels(option: str, text: str) -> Voxels:
    """One number of voxels, or one for each axis.

    >>> parse_voxels("--patch", "96"), parse_voxels("--patch", "16,96,96")
    (96, (16, 96, 96))
    """
    if not re.fullmatch(r"\d+(,\d+){0,2}", text.replace(" ", "")):
        raise BadUsage(
            f"{option} {text}: give one number, as 96, or one per axis z, y, x, as 16,96,96; this is no number of voxels"
        )
    numbers = tuple(int(part) for part in text.split(","))
    if min(numbers) < 1 and option != "--halo":
        raise BadUsage(f"{option} {text} must be 1 voxel or more")
    return numbers[0] if len(numbers) == 1 else numbers


def choose_intensity(model: Model, over: IntensityOver | None) -> Model:
    """The model with its range of intensities measured as `--intensity` says."""
    from napari_unetpp.inference.inputs import with_intensity

    try:
        return with_intensity(model, None if over is None else over.value)
    except ValueError as error:
        raise BadUsage(f"--intensity {over}: {error}") from None


def choose_levels(spec: NetworkSpec, level: int | None) -> tuple[int, ...]:
    """The heads to compute: all, or those up to `level`."""
    try:
        return spec.heads_up_to(level)
    except ValueError as error:
        raise BadUsage(f"--level {level}: {error}") from None


def parse_levels(text: str, available: Sequence[int]) -> tuple[int, ...]:
    """Levels of text such as all, 4, L2 or 1,3, out of those available."""
    if text.lower() == "all":
        return tuple(available)
    wanted = []
    for part in text.split(","):
        match = re.fullmatch(r"[lL]?(\d+)", part.strip())
        if match is None or int(match[1]) not in available:
            have = ", ".join(map(str, available))
            raise BadUsage(f"--level {text!r}: {part.strip()!r} is not one of all, {have}")
        wanted.append(int(match[1]))
    return tuple(dict.fromkeys(wanted))


def plan(shape: Sequence[int], backend: Backend, tiling: Tiling, level: int | None, memory: int | None = None) -> Tiles:
    """Tiles of a stack that a backend can predict within `memory` bytes, where that is given."""
    from napari_unetpp.inference.fitting import fitting_tiles

    with _told_as_usage(memory):
        return fitting_tiles(shape, backend, tiling, level=level, memory=memory)


def plan_three(
    image: Stack, backend: Backend, tiling: Tiling, level: int | None, memory: int | None, anisotropic: bool
) -> Planes:
    """The plan along z, y and x, within `memory` bytes where that is given."""
    from napari_unetpp.inference.planes import plan_planes, why_not_planes, why_unequal

    if problem := why_not_planes(image, backend.spec):
        raise ValueError(f"--planes 3: {problem}; leave it out")
    if not anisotropic and (problem := why_unequal(image)):
        raise ValueError(f"--planes 3: {problem}; leave it out, or add --anisotropic to do it all the same")
    with _told_as_usage(memory):
        return plan_planes(image, backend, tiling, level=level, memory=memory)


@contextmanager
def _told_as_usage(memory: int | None) -> Iterator[None]:
    """A bound of memory that is too low, in words of the option."""
    try:
        yield
    except MemoryError as error:
        assert memory is not None
        raise BadUsage(
            f"--memory {memory / 2**20:.0f}MiB is too little: {error}; allow more, or use --tiling overlap "
            "with a small --patch"
        ) from None
