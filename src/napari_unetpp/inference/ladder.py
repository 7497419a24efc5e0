"""How a run goes on where a device has no memory left: smaller steps, the same numbers, nothing lost.

Decides, in this order: what is tried next (`rungs`), and how a batch is carried through (`Ladder`)::

    as asked          again, once, with what the allocator keeps given back
    half the images   down to one at a time
    half the rows     one image band by band, down to the grid of the level (`streaming.py`)
    the CPU           in full precision, where the device is another

What was computed before an error stays, and later inputs of the same extent begin where this one
got through. Elsewhere bands and batches decide about nothing but memory; so they do here, up to
the last bits of a network that rounds differently in batches of different sizes.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_unetpp.model.memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rung:
    """How much is done at a time.

    Parameters
    ----------
    images
        Most images of the batch.
    band
        Rows of the first spatial axis; None is all, in one pass over the whole image.
    on_cpu
        Whether the CPU does it in place of the device.
    """

    images: int
    band: int | None
    on_cpu: bool = False

    @property
    def size(self) -> tuple[bool, float, int]:
        """Grows with the memory that is taken."""
        return not self.on_cpu, math.inf if self.band is None else self.band, self.images


def rungs(images: int, rows: int, band: int | None, *, grid: int | None, cpu: bool) -> Iterator[Rung]:
    """All that may be tried, what was asked for first.

    Parameters
    ----------
    rows
        Of one image.
    band
        That was asked for; None is one pass over the whole image.
    grid
        Bands are multiples of it; None is a network that cannot go band by band.
    cpu
        Whether there is a CPU to fall back to.

    >>> [(rung.images, rung.band) for rung in rungs(4, 96, None, grid=16, cpu=False)]
    [(4, None), (2, None), (1, None), (1, 48), (1, 16)]
    """
    yield Rung(images, band)
    if band is None:
        most = images
        while most > 1:
            most //= 2
            yield Rung(most, None)
    if grid is not None:
        size = rows if band is None else band
        while (size := size // 2 // grid * grid) > 0:
            yield Rung(1, size)
    if cpu:
        yield Rung(1, None, on_cpu=True)


class Ladder:
    """The rungs on which inputs of each kind got through; several threads may climb it.

    Parameters
    ----------
    device
        Its name, for the user.
    empty
        Gives back to the device what the allocator keeps; None where there is no such thing.
    """

    def __init__(self, device: str, empty: Callable[[], None] | None = None) -> None:
        self.note = ""  # what a user should know about where it goes on
        self._device, self._empty = device, empty
        self._reached: dict[Hashable, Rung] = {}

    def climb(self, key: Hashable, ways: Sequence[Rung], images: int, attempt: Callable[[slice, Rung], None]) -> None:
        """Have `attempt` do all images of a batch, as many and as much at a time as there is memory for.

        Parameters
        ----------
        key
            What inputs have in common that take the same memory.
        ways
            Rungs for this batch, from `rungs`.
        attempt
            Does some images in the way of a rung. An error may leave them half done: they come again.

        Raises
        ------
        MemoryError
            Where the last rung failed.
        """
        at = begin = self._begin(key, ways)
        done, emptied = 0, self._empty is None
        while done < images:
            part = slice(done, min(done + ways[at].images, images))
            if _worked(attempt, part, ways[at]):
                done = part.stop
                if at > begin:
                    self._remember(key, ways[at])
                continue
            if self._empty is not None:
                self._empty()
            if not emptied:
                emptied = True
                continue
            at += 1
            if at == len(ways):
                raise MemoryError(
                    f"out of memory on {self._device}, though {_words(ways[-1])} at a time {_were(ways[-1])} tried; "
                    "close other programs, take smaller tiles or patches, or a shallower level"
                )

    def _begin(self, key: Hashable, ways: Sequence[Rung]) -> int:
        reached = self._reached.get(key)
        if reached is None:
            return 0
        return next((n for n, way in enumerate(ways) if way.size <= reached.size), len(ways) - 1)

    def _remember(self, key: Hashable, rung: Rung) -> None:
        self._reached[key] = rung
        words = "in fp32 on the CPU" if rung.on_cpu else f"with {_words(rung)} at a time"
        note = f"out of memory on {self._device}: going on {words}"
        if note != self.note:
            self.note = note
            log.info(note)


def _worked(attempt: Callable[[slice, Rung], None], part: slice, rung: Rung) -> bool:
    """Whether an attempt found its memory; when this is left, nothing holds what the attempt had."""
    try:
        attempt(part, rung)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        log.debug("%s", str(error).partition("\n")[0])
        return False
    return True


def _words(rung: Rung) -> str:
    if rung.band is not None:
        return f"{rung.band} rows"
    return "1 image" if rung.images == 1 else f"{rung.images} images"


def _were(rung: Rung) -> str:
    return "was" if rung.band is None and rung.images == 1 else "were"
