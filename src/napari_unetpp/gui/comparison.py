"""Which level is on the screen: the state that the slider, the keys and a script share.

Neither Qt nor napari is imported here; whoever shows the state connects to ``comparison.events``,
and whoever changes it just assigns to its fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from psygnal import SignalGroupDescriptor

if TYPE_CHECKING:
    from collections.abc import Sequence

Level = int | Literal["ensemble"]
"""A level d (1 is L1), or "ensemble", the mean of all heads' probabilities."""

ENSEMBLE: Literal["ensemble"] = "ensemble"


@dataclass(eq=False)
class HeadComparison:
    """The levels that can be looked at, the one that is, and how.

    Assigning to a field emits the event of the same name, only if the value changed::

        comparison.events.level.connect(callback)

    Attributes
    ----------
    levels : tuple of int or "ensemble"
        What can be chosen, in the order of the slider. At least one.
    level : int or "ensemble"
        What is on the screen; always one of `levels`. Assigning anything else is a ValueError.
    visible : bool
        False hides the chosen level as well, to see the bare image.
    threshold : float
        Least probability of the foreground, 0..1; anything else is a ValueError. Several classes
        need none, there the largest probability wins.
    contour : int
        Width of outlines in voxels; 0 fills the labels.
    probability : bool
        Whether the probability of the level is on the screen as well.
    disagreement : bool
        Whether the map of where the heads disagree is on the screen as well.
    grid : bool
        Whether all heads are on the screen, side by side.

    Examples
    --------
    >>> comparison = HeadComparison.of_heads((1, 2, 3, 4))
    >>> comparison.levels
    (1, 2, 3, 4, 'ensemble')
    >>> comparison.level
    4
    >>> comparison.level = 2
    >>> comparison.level = 7
    Traceback (most recent call last):
        ...
    ValueError: level 7 is not among L1, L2, L3, L4, Ensemble; choose one of those
    """

    levels: tuple[Level, ...]
    level: Level
    visible: bool = True
    threshold: float = 0.5
    contour: int = 0
    probability: bool = False
    disagreement: bool = False
    grid: bool = False

    events: ClassVar = SignalGroupDescriptor()

    @classmethod
    def of_heads(cls, heads: Sequence[int], level: Level | None = None) -> HeadComparison:
        """Everything that these heads can show; the ensemble only where there are several.

        Parameters
        ----------
        heads : sequence of int
            Levels with a prediction.
        level : int or "ensemble", optional
            The first to be shown; the highest head where it is None.
        """
        if not heads:
            raise ValueError("a comparison needs at least one level; got none")
        ordered = tuple(sorted(heads))
        levels: tuple[Level, ...] = (*ordered, ENSEMBLE) if len(ordered) > 1 else ordered
        return cls(levels, ordered[-1] if level is None else level)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "level" and value not in self.levels:
            offered = ", ".join(map(level_name, self.levels))
            raise ValueError(f"level {value} is not among {offered}; choose one of those")
        if name == "threshold" and not 0 <= value <= 1:
            raise ValueError(f"threshold {value} is not a probability; use 0 to 1")
        super().__setattr__(name, value)

    @property
    def heads(self) -> tuple[int, ...]:
        """The levels without the ensemble."""
        return tuple(level for level in self.levels if level != ENSEMBLE)

    def step(self, by: int) -> None:
        """Move up or down the levels by `by` places, stopping at the ends."""
        place = self.levels.index(self.level) + by
        self.level = self.levels[max(0, min(place, len(self.levels) - 1))]


def level_name(level: Level) -> str:
    """The name of a level as the user reads it.

    Examples
    --------
    >>> level_name(3), level_name("ensemble")
    ('L3', 'Ensemble')
    """
    return "Ensemble" if level == ENSEMBLE else f"L{level}"
