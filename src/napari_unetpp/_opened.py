"""What a file says of its own image, before anybody decides what to make of it.

Decides what a reader hands over (`Opened`), which axes it names (`name_axes`, `default_axes`) and
what a length in some unit is in micrometres (`micrometres`) or a time in seconds (`seconds`).
"""

from __future__ import annotations

import importlib
import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from napari_unetpp.box import ArrayLike

# What the libraries raise on damaged files, where they do not check first.
DAMAGED = (
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    ZeroDivisionError,
    RuntimeError,
    EOFError,
    struct.error,
)

# Powers of ten from a unit to micrometres: OME-XML, NGFF (UDUNITS names) and ImageJ. No inch and no
# point: those come from screen and print resolutions (72 dpi), which say nothing of the specimen.
_POWERS = {
    **dict.fromkeys(("pm", "picometer"), -6),
    **dict.fromkeys(("å", "angstrom", "ångström"), -4),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), -3),
    **dict.fromkeys(("µm", "um", "micron", "microns", "micrometer", "micrometre"), 0),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 4),
    **dict.fromkeys(("m", "meter", "metre"), 6),
}

_SECONDS = {
    **dict.fromkeys(("ns", "nanosecond", "nsec"), 1e-9),
    **dict.fromkeys(("\N{MICRO SIGN}s", "us", "microsecond", "usec"), 1e-6),
    **dict.fromkeys(("ms", "millisecond", "msec"), 1e-3),
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours", "hr"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}


def close_nothing() -> None:
    """Do nothing: an array holds no file open."""


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """An open image: lazy `data`, `axes` as the file names them, spacing by axis letter (um).

    `axes` is None where the file leaves them open; `says` then tells what it does say. `coarser` are
    smaller resolutions of the same image, from fine to coarse. `notes` are sentences for the user about
    what was chosen or left out while the file was opened.

    Parameters
    ----------
    named
        False where `axes` are only what is usual for so many axes, and nothing in the file says them.
    colours
        True: the channels are red, green and blue. False: the file calls them channels. None: it is not known.
    samples
        Axis of `data` that holds the samples of a pixel, where the file says so.
    alpha
        The last of these samples is alpha.
    assumed
        Notes that hold only where the caller does not name the axes.
    interval_s
        Seconds between the frames of a time series.
    count
        Images in the file.
    """

    data: ArrayLike
    axes: str | None
    says: str
    name: str
    spacing_um: Mapping[str, float] = field(default_factory=dict)
    close: Callable[[], None] = close_nothing
    coarser: tuple[ArrayLike, ...] = ()
    named: bool = True
    colours: bool | None = None
    samples: int | None = None
    alpha: bool = False
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    interval_s: float | None = None
    count: int = 1


def name_axes(letters: str) -> str | None:
    """Our axis letters for tifffile's, or None where they leave a question open.

    Samples (S) are channels. One unnamed page axis (Q or I) is z: the pages of a plain TIFF are
    slices.

    >>> name_axes("TZCYX"), name_axes("YXS"), name_axes("QYX"), name_axes("QQYX")
    ('tzcyx', 'yxc', 'zyx', None)
    """
    named = letters.replace("S", "C")
    if "Z" not in named:
        named = named.replace("I", "Q").replace("Q", "Z")
    named = named.lower()
    return named if set(named) <= set("tczyx") and len(set(named)) == len(named) else None


def default_axes(ndim: int) -> str | None:
    """Axes of an array whose own have no names; None where that would be a guess."""
    return {2: "yx", 3: "zyx"}.get(ndim)


def which(index: int, count: int, name: str = "") -> tuple[str, ...]:
    """The note that tells which of several images of a file was taken.

    >>> which(0, 3, "Position 1")
    ('image 1 of 3: Position 1; choose another with --series 0..2',)
    """
    if count < 2:
        return ()
    return (f"image {index + 1} of {count}{name and f': {name}'}; choose another with --series 0..{count - 1}",)


def chosen(path: Path, series: int | None, count: int) -> int:
    """Which image of a file is meant: by default its first.

    Raises
    ------
    ValueError
        Where the file has no such image.
    """
    if not 0 <= (series or 0) < count:
        raise ValueError(
            f"{path} has no series {series or 0}; it has {count}: 0..{count - 1}" if count else f"{path} is empty"
        )
    return series or 0


def seconds(time: object, unit: object) -> float | None:
    """A time in seconds; None where the unit is no time or the number no interval.

    >>> seconds("500", "ms"), seconds(2, "min"), seconds(0, "s")
    (0.5, 120.0, None)
    """
    factor = _SECONDS.get(str(unit).strip().lower().replace("\N{GREEK SMALL LETTER MU}", "\N{MICRO SIGN}"))
    try:
        number = float(str(time))
    except ValueError:
        return None
    return number * factor if factor is not None and math.isfinite(number) and number > 0 else None


def micrometres(length: object, unit: object) -> float | None:
    """A length in micrometres; None where the unit is no length or the number no spacing.

    >>> micrometres(40, "nm"), micrometres("0.5", "micron"), micrometres(1, "pixel")
    (0.04, 0.5, None)
    """
    # U+03BC, the Greek letter, and U+00B5, the micro sign, are both in use; so is ImageJ's escape.
    spelled = str(unit).strip().lower().replace("\N{GREEK SMALL LETTER MU}", "\N{MICRO SIGN}")
    power = _POWERS.get(spelled.replace("\\u00b5", "\N{MICRO SIGN}"))
    try:
        number = abs(float(str(length)))
    except ValueError:
        return None
    if power is None or not math.isfinite(number) or number == 0:
        return None
    # Dividing keeps 40 nm at 0.04, where multiplying by 1e-3 may add a rounding error.
    factor: int = 10 ** abs(power)
    return number * factor if power > 0 else number / factor


def needs(package: str, path: Path, extra: str) -> Any:
    """The package that reads a format; `extra` is the extra of ours that installs it.

    Raises
    ------
    ValueError
        Where it is not installed, saying how to.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        ending = "".join(path.suffixes[-2:]) if path.suffix.lower() == ".gz" else path.suffix
        raise ValueError(
            f"reading {ending or path} needs the {package} package: pip install 'napari-unetpp[{extra}]'"
        ) from error


def one_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
