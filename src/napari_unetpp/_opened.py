"""What a file says of its own image, before anybody decides what to make of it.

Decides what a reader hands over (`Opened`), which axes it names (`name_axes`, `default_axes`) and
what a length in some unit is in micrometres (`micrometres`).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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


def close_nothing() -> None:
    """Do nothing: an array holds no file open."""


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """An open image: lazy `data`, `axes` as the file names them, spacing by axis letter (um).

    `axes` is None where the file leaves them open; `says` then tells what it does say. `coarser` are
    smaller resolutions of the same image, from fine to coarse. `colours` tells that the samples are
    red, green and blue, and not just three channels. `notes` are sentences for the user about what
    was chosen or left out while the file was opened.
    """

    data: ArrayLike
    axes: str | None
    says: str
    name: str
    spacing_um: Mapping[str, float] = field(default_factory=dict)
    close: Callable[[], None] = close_nothing
    coarser: tuple[ArrayLike, ...] = ()
    colours: bool = False
    notes: tuple[str, ...] = ()


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


def one_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
