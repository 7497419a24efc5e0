"""What a model says of itself to the person who picks it: classes, data, licence, scores, and which level is enough."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Distinct on gray images and for most colour-blind readers (Okabe and Ito's palette, without its black).
CLASS_COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
LEVEL_TOLERANCE = 0.005  # half a point of IoU: what the papers lose between L4 and L3 on their worst data set


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """Name and colour (``#rrggbb``) of one class."""

    name: str
    color: str = CLASS_COLORS[0]


@dataclass(frozen=True, slots=True)
class Card:
    """What accompanies the weights.

    Parameters
    ----------
    name
        How users call the model: letters, digits, dash.
    classes
        One entry per channel of the heads; with two and more channels the first is the background.
    description, data, licence, credit
        One or two sentences each: what it finds, what it was trained on, under which terms, whom to thank.
    training
        Record of the run: options, split, seconds, version.
    scores
        ``{split: {"L1": {"iou": 0.9, ...}, ..., "ensemble": {...}}}``.
    recommended_level
        The smallest level within `LEVEL_TOLERANCE` of the best, on validation data.
    tiling
        ``{"kind": "overlap", "patch": 96, "stride": 48, "aggregate": "mean"}`` or ``{"kind": "seamless"}``.
    spacing_um
        Voxel spacing of the training images along the network's axes, (z,) y, x; None where unknown.
    """

    name: str
    classes: tuple[ClassInfo, ...] = (ClassInfo("foreground"),)
    description: str = ""
    data: str = ""
    licence: str = ""
    credit: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    recommended_level: int = 4
    tiling: Mapping[str, Any] = field(default_factory=lambda: {"kind": "seamless"})
    spacing_um: tuple[float, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(self)
        values["classes"] = [asdict(c) for c in self.classes]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Card:
        """Card out of the values of `to_json`; refuses unknown fields (ValueError) and wrong types (TypeError or ValueError)."""
        if unknown := sorted(set(values) - {f.name for f in fields(cls)}):
            raise ValueError(
                f"unknown card field {', '.join(unknown)}; a newer version of napari-unetpp may have written it"
            )
        for name, kind in _KINDS.items():
            if not isinstance(values.get(name, kind()), kind):
                raise TypeError(
                    f"card field {name} is a {type(values[name]).__name__} where a {kind.__name__} is wanted"
                )
        known = dict(values)
        known["classes"] = tuple(ClassInfo(**c) for c in known.get("classes", ({"name": "foreground"},)))
        if not all(isinstance(text, str) for c in known["classes"] for text in (c.name, c.color)):
            raise ValueError("card field classes names one or its colour by something else than a text")
        if not _are_scores(known.get("scores", {})):
            raise ValueError("card field scores is no table of numbers per data, level and score")
        if known.get("spacing_um") is not None:
            known["spacing_um"] = tuple(map(float, known["spacing_um"]))
        return cls(**known)


# A file may come from anybody; whoever shows a card should not have to doubt its types.
_KINDS: dict[str, type] = {
    **dict.fromkeys(("name", "description", "data", "licence", "credit"), str),
    **dict.fromkeys(("training", "scores", "tiling"), dict),
    "classes": list,
    "recommended_level": int,
}


def _are_scores(scores: Any) -> bool:
    tables = [heads for heads in scores.values() if isinstance(heads, dict)]
    rows = [values for heads in tables for values in heads.values() if isinstance(values, dict)]
    whole = len(tables) == len(scores) and len(rows) == sum(map(len, tables))
    return whole and all(isinstance(value, int | float) for values in rows for value in values.values())


def advised_level(scores: Mapping[int, float], tolerance: float = LEVEL_TOLERANCE) -> int:
    """Smallest level whose score is at most `tolerance` below the best level's.

    Parameters
    ----------
    scores
        Score per level, higher is better, each on the same validation data.

    Raises
    ------
    ValueError
        If there is no score.

    Examples
    --------
    >>> advised_level({1: 0.86, 2: 0.911, 3: 0.914, 4: 0.915})
    2
    """
    if not scores:
        raise ValueError("no level has a score; score at least one before asking which is enough")
    best = max(scores.values())
    return min(level for level, score in scores.items() if score >= best - tolerance)
