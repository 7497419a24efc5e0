"""What the Compare dock's table says: numbers per level, which level is enough, and all of it as CSV.

Decides, in this order: the rows (`level_rows`), the advice (`advise`), the file (`write_table`), and how a number is read (`cell`).
Knows neither Qt nor napari.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetpp._whole import whole_file
from napari_unetpp.gui.comparison import ENSEMBLE, Level, level_name
from napari_unetpp.model.card import LEVEL_TOLERANCE

if TYPE_CHECKING:
    from napari_unetpp.evaluation.agreement import Tally
    from napari_unetpp.model.costs import LevelCost


@dataclass(frozen=True, slots=True)
class LevelRow:
    """A level's numbers; None is what is not known.

    Attributes
    ----------
    parameters, gflops, seconds
        Of the network pruned to the level; operations (10^9) and time for a megavoxel (10^6). The ensemble needs the whole network.
    agreement
        Dice of its labels with those of the deepest level.
    iou, dice, f2
        Against the reference.
    """

    level: Level
    parameters: int | None = None
    gflops: float | None = None
    seconds: float | None = None
    agreement: float | None = None
    iou: float | None = None
    dice: float | None = None
    f2: float | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """The level that is enough, None where nothing can be said yet, and why."""

    level: int | None
    reason: str


def level_rows(
    levels: Sequence[Level],
    costs: Sequence[LevelCost] = (),
    seconds: Mapping[int, float] | None = None,
    agreement: Tally | None = None,
    score: Tally | None = None,
) -> list[LevelRow]:
    """A row for each level and the ensemble, in that order, which is also the order of the tallies."""
    deepest = max(level for level in levels if level != ENSEMBLE)
    of_level = {cost.level: cost for cost in costs}
    nothing: list[float | None] = [None] * len(levels)

    def scores(tally: Tally | None, name: str) -> list[float | None]:
        return nothing if tally is None else tally.scores(name)

    columns = zip(
        levels,
        scores(agreement, "dice"),
        *(scores(score, name) for name in ("iou", "dice", "f2")),
        strict=True,
    )
    rows = []
    for level, *values in columns:
        network = deepest if level == ENSEMBLE else level
        cost = of_level.get(network)
        rows.append(
            LevelRow(
                level,
                None if cost is None else cost.parameters,
                None if cost is None else cost.flops_per_voxel / 1e3,  # a megavoxel's, in 10^9
                (seconds or {}).get(network),
                *values,
            )
        )
    return rows


def advise(rows: Sequence[LevelRow], *, against_reference: bool) -> Advice:
    """The smallest level within a tolerance of the best.

    Against a reference it is the IoU that counts, as in `score`; without one, the agreement with the deepest level.
    """
    heads = [row for row in rows if row.level != ENSEMBLE]
    known = {int(row.level): row.iou if against_reference else row.agreement for row in heads}
    scores = {level: value for level, value in known.items() if value is not None}
    if len(heads) < 2:
        return Advice(None, "There is only one level.")
    if len(scores) < len(heads):
        return Advice(None, "Nothing to compare yet.")
    # not before there are scores: then a worker has imported them
    from napari_unetpp.evaluation.agreement import AGREEMENT_TOLERANCE
    from napari_unetpp.evaluation.levels import level_enough

    tolerance = LEVEL_TOLERANCE if against_reference else AGREEMENT_TOLERANCE
    level, deepest = level_enough(scores, tolerance), max(scores)
    if against_reference:
        best = max(scores, key=lambda d: scores[d])
        if level == best:
            lower = "" if level == min(scores) else f", and lower levels lose more than {tolerance:g}"
            return Advice(level, f"L{level} is enough: its IoU, {scores[level]:.3f}, is the best of all{lower}.")
        return Advice(
            level,
            f"L{level} is enough: its IoU, {scores[level]:.3f}, is within {tolerance:g} of the best (L{best}, {scores[best]:.3f}).",
        )
    if level == deepest:
        text = (
            f"L{deepest} is advised: the labels of lower levels differ from its own by more than {tolerance:g} of Dice."
        )
    else:
        text = f"L{level} is enough: its labels agree with those of L{deepest} within {tolerance:g} of Dice."
    return Advice(level, f"{text} A reference would tell more.")


def progress(counted: int, total: int) -> str:
    """On how much of the prediction the scores rest; `total` tiles are planned, 0 while that is not known.

    Examples
    --------
    >>> progress(0, 0), progress(3, 48), progress(48, 48)
    ('Counting …', 'Scores are of 3 of 48 tiles so far.', 'Scores are of the whole prediction.')
    """
    if not total:
        return "Counting …"
    part = "the whole prediction" if counted == total else f"{counted} of {total} tiles so far"
    return f"Scores are of {part}."


def write_table(
    rows: Sequence[LevelRow], advised: int | None, about: Mapping[str, object], path: Path
) -> Generator[str]:
    """Write the table as CSV, under its name only once it is whole, and say so.

    A number that is not known is an empty field. `about` is added to every row, so that tables can be put together.

    Raises
    ------
    OSError
        Where the folder cannot be written or the disk is full; what was there before is untouched.
    """
    deepest = max((row.level for row in rows if row.level != ENSEMBLE), default=0)
    header = {
        "level": lambda row: level_name(row.level),
        "parameters": lambda row: row.parameters,
        "gflop_per_megavoxel": lambda row: row.gflops,
        "seconds_per_megavoxel": lambda row: row.seconds,
        f"dice_with_L{deepest}": lambda row: row.agreement,
        "iou": lambda row: row.iou,
        "dice": lambda row: row.dice,
        "f2": lambda row: row.f2,
        "advised": lambda row: "yes" if row.level == advised else "",
    }
    if not path.parent.is_dir():
        raise FileNotFoundError(f"folder {path.parent} does not exist; make it, or save the table elsewhere")
    with whole_file(path) as temporary:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            table: list[list[Any]] = [[*header, *about]]
            table += [[*(value(row) for value in header.values()), *about.values()] for row in rows]
            csv.writer(file).writerows(table)
        with temporary.open(newline="", encoding="utf-8") as file:
            if len(list(csv.reader(file))) != len(table):
                raise OSError(f"{path} is read back otherwise than it was written; save the table elsewhere")
        temporary.chmod(0o644)  # others may read the table
    yield f"Saved the table: {path}"


def cell(row: LevelRow, name: str) -> str:
    """A number of a row as one reads it.

    Examples
    --------
    >>> row = LevelRow(2, parameters=518_433, gflops=314.04, seconds=0.2512, agreement=0.98284)
    >>> [cell(row, name) for name in ("parameters", "gflops", "seconds", "agreement", "iou")]
    ['518 k', '314', '0.25 s', '0.983', '-']
    """
    value = getattr(row, name)
    if value is None:
        return "-"
    if name == "parameters":
        return count_text(value)
    if name == "gflops":
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    if name == "seconds":
        return seconds_text(value)
    return f"{value:.3f}"


def count_text(number: int) -> str:
    """A number of weights in three digits.

    Examples
    --------
    >>> count_text(861), count_text(102_209), count_text(9_159_204), count_text(26_198_273)
    ('861', '102 k', '9.16 M', '26.2 M')
    """
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            value = number / size
            return f"{value:.{2 - min(2, len(str(int(value))) - 1)}f} {unit}"
    return str(number)


def seconds_text(seconds: float) -> str:
    """A time in two or three digits.

    Examples
    --------
    >>> seconds_text(0.0042), seconds_text(0.2512), seconds_text(12.34), seconds_text(345.6)
    ('4.2 ms', '0.25 s', '12.3 s', '346 s')
    """
    if seconds < 0.1:
        return f"{seconds * 1e3:.2g} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"
