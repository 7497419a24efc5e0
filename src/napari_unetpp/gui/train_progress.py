"""How far a training run is, in numbers and in words; knows neither Qt nor napari.

Decides what is remembered of the events of a run (`Training`): the points of the curves, the best epoch, and
the time that is left at most, without that for which the run was held.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_unetpp.gui.comparison import ENSEMBLE, Level, level_name
from napari_unetpp.gui.progress import duration

if TYPE_CHECKING:
    from napari_unetpp.training.options import BatchDone, EpochDone

Scores = Mapping[str, Mapping[str, float]]  # from "L1" .. "ensemble" to {"iou": ..., "dice": ...}
MEASURES = {"iou": "IoU", "dice": "Dice"}


@dataclass(slots=True)
class Training:
    """What a run has told so far.

    Attributes
    ----------
    batches : list of (float, float)
        Time in epochs, and the loss of one batch.
    losses : list of (float, float)
        The same of whole epochs.
    scores : list of (int, Scores)
        Epochs done, and what was then reached on the held-out part.
    before : Scores or None
        What the parent reaches there.
    best : int or None
        Place in `scores` of the epoch whose weights were kept.
    scored : bool
        Whether scores decide that; else the loss does, and the scores are empty.
    """

    epochs: int = 1
    first: int = 0  # epochs that were done before this run went on with them
    before: Scores | None = None
    batches: list[tuple[float, float]] = field(default_factory=list)
    losses: list[tuple[float, float]] = field(default_factory=list)
    scores: list[tuple[int, Scores]] = field(default_factory=list)
    best: int | None = None
    last: BatchDone | None = None
    scored: bool = True
    _began: float | None = None
    _held_at: float | None = None
    _held: float = 0.0

    def begin(self, epochs: int, first: int, before: Scores | None) -> None:
        """The first step is about to be taken."""
        self.epochs, self.first, self.before = epochs, first, before
        self._began = time.monotonic()

    def take_batch(self, event: BatchDone) -> None:
        self.last = event
        self.batches.append((event.epoch + event.step / event.steps, event.loss))

    def take_epoch(self, event: EpochDone) -> None:
        self.losses.append((event.epoch + 0.5, event.loss))  # a mean over the epoch lies in its middle
        self.scores.append((event.epoch + 1, event.scores))
        if event.kept:
            self.best = len(self.scores) - 1

    def pause(self) -> None:
        self._held_at = time.monotonic()

    def resume(self) -> None:
        if self._held_at is not None:
            self._held += time.monotonic() - self._held_at
            self._held_at = None

    @property
    def epochs_done(self) -> int:
        """With those of the run that this one goes on with."""
        return self.scores[-1][0] if self.scores else self.first

    @property
    def reached(self) -> tuple[int, int]:
        """Steps that are done, of how many at most."""
        steps = self.last.steps if self.last else 1
        done = self.last.epoch * steps + self.last.step if self.last else self.first * steps
        return done, self.epochs * steps

    @property
    def seconds(self) -> float:
        """Time at work since the first step."""
        if self._began is None:
            return 0.0
        now = self._held_at if self._held_at is not None else time.monotonic()
        return now - self._began - self._held

    @property
    def seconds_left(self) -> float | None:
        """At most, at the speed so far; None before the first batch."""
        if self.last is None:
            return None
        done, total = self.reached
        since = done - self.first * self.last.steps
        return self.seconds / since * (total - done) if since else None

    def under_way(self, measure: str) -> str:
        """Where the run is, and what is the best so far."""
        if self.last is None:
            return "Waiting for the first batch …"
        epoch, step = self.last.epoch + 1, self.last.step
        line = f"Epoch {epoch} of at most {self.epochs}, step {step} of {self.last.steps}, loss {self.last.loss:.3f}."
        return f"{line}\n{self.best_line(measure)}" if self.best is not None else line

    def kept_line(self) -> str:
        """Which epoch was kept at the end, and why."""
        done = self.epochs_done
        if self.scored or self.best is None:
            return f"the best of {done} epoch{'s' * (done != 1)}"
        return (
            f"epoch {self.scores[self.best][0]} of {done}, the one with the lowest training loss (no epoch was scored)"
        )

    def best_line(self, measure: str) -> str:
        """The scores that were kept, in a line; empty where none were."""
        if self.best is None:
            return ""
        epoch, scores = self.scores[self.best]
        if not scores:
            return f"Lowest training loss so far: epoch {epoch}, {self.losses[self.best][1]:.3f}. No epoch is scored."
        level, value = best_level(scores, measure)
        return f"Best so far: epoch {epoch}, {level_name(level)} with {MEASURES[measure]} {value:.3f}."


def best_level(scores: Scores, measure: str) -> tuple[Level, float]:
    """The level with the highest score, and that score.

    >>> best_level({"L1": {"iou": 0.5}, "L2": {"iou": 0.7}, "ensemble": {"iou": 0.6}}, "iou")
    (2, 0.7)
    """
    name = max(scores, key=lambda key: scores[key][measure])
    return level_of(name), scores[name][measure]


def level_of(name: str) -> Level:
    """The level that the engine calls so.

    >>> level_of("L3"), level_of("ensemble")
    (3, 'ensemble')
    """
    return ENSEMBLE if name == ENSEMBLE else int(name.removeprefix("L"))


def planned_time(seconds_per_step: float, steps: int, epochs: int) -> str:
    """How long a run takes, as one reads it before it starts.

    >>> planned_time(0.5, 20, 30)
    '10 s an epoch and the validation, 5 min 0 s for all 30 epochs at most'
    """
    epoch = seconds_per_step * steps
    return f"{duration(epoch)} an epoch and the validation, {duration(epoch * epochs)} for all {epochs} epochs at most"
