"""How far a run is, in numbers and in words; knows neither Qt nor napari."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_unetpp.gui.segmenting import Prepared
    from napari_unetpp.inference.events import PlaneDone, TileDone


@dataclass(slots=True)
class RunProgress:
    """What a run has told so far, without the time for which it was paused."""

    prepared: Prepared | None = None
    last: TileDone | PlaneDone | None = None
    _paused_at: float | None = None
    _paused_seconds: float = 0.0

    def pause(self) -> None:
        self._paused_at = time.monotonic()

    def resume(self) -> None:
        if self._paused_at is not None:
            self._paused_seconds += time.monotonic() - self._paused_at
            self._paused_at = None

    @property
    def seconds(self) -> float:
        """Time at work until the last tile."""
        return max(self.last.seconds - self._paused_seconds, 1e-6) if self.last else 0.0

    @property
    def speed(self) -> str:
        return speed(self.last.voxels / self.seconds) if self.last else ""

    @property
    def seconds_left(self) -> float | None:
        """At the speed so far; None before the first tile."""
        if self.last is None or self.prepared is None:
            return None
        since = self.last.done - self.prepared.done
        return self.seconds / since * (self.last.total - self.last.done) if since else None

    @property
    def reached(self) -> tuple[int, int]:
        """Tiles that are done, of how many."""
        event = self.last or self.prepared
        return (event.done, event.total) if event else (0, 1)

    @property
    def safe(self) -> str:
        """The same counted anew, in words; some more may be safe than were told. Empty before a run begins."""
        return f" after {self.prepared.safe()} of {self.prepared.total} tiles" if self.prepared else ""

    @property
    def note(self) -> str:
        """What came otherwise than usual: another precision, a device without memory. A line of its own."""
        note = self.prepared.note() if self.prepared else ""
        return f"\n{note[:1].upper()}{note[1:]}." if note else ""

    @property
    def under_way(self) -> str:
        done, total = self.reached
        rate = f", {self.speed}" if self.last else ""
        axis = getattr(self.last, "axis", None)
        across = f" planes across {axis}" if axis else ""
        return f"Segmenting{across}: {done} of {total} tiles{rate}{self.note}"

    @property
    def outcome(self) -> str:
        if self.last is None:
            return f"Nothing left to do, all was there already.{self.note}"
        return f"Done in {duration(self.seconds)}, {self.speed}.{self.note}"


def duration(seconds: float) -> str:
    """A time as one reads it.

    Examples
    --------
    >>> duration(7.6), duration(75), duration(7320)
    ('8 s', '1 min 15 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def speed(voxels_per_second: float) -> str:
    """A speed as one reads it.

    Examples
    --------
    >>> speed(876), speed(10_234), speed(3.21e6)
    ('876 voxels/s', '10 kvoxel/s', '3.2 Mvoxel/s')
    """
    if voxels_per_second < 1e3:
        return f"{voxels_per_second:.0f} voxels/s"
    if voxels_per_second < 1e6:
        return f"{voxels_per_second / 1e3:.0f} kvoxel/s"
    return f"{voxels_per_second / 1e6:.1f} Mvoxel/s"
