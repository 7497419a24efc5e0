"""From logits to what is kept of them, on whichever device they are.

Decides, in this order: what is made of logits (`finished`), how a probability is stored
(`to_counts`, `to_uint8`), where the results of a pass go (`Results`), and which of the rows that just
came are wanted (`wanted_part`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_unetpp.model.unetpp import probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def finished(logits: Tensor, counts: bool) -> Tensor:
    """Probabilities float32, or uint8 with 255 = 1.0, where the logits are."""
    probability = probabilities(logits.float())
    return to_counts(probability) if counts else probability


def to_counts(probability: Tensor) -> Tensor:
    """Stored form of a probability: round(255 p). Half counts up where it matters, at p = 0.5.

    >>> to_counts(torch.tensor([0.0, 0.4999, 0.5, 1.0])).tolist()
    [0, 127, 128, 255]
    """
    return torch.round(probability * 255).clamp_(0, 255).to(torch.uint8)


def to_uint8(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """`to_counts` of an array.

    >>> to_uint8(np.array([0.0, 0.4999, 0.5, 1.0], np.float32)).tolist()
    [0, 127, 128, 255]
    """
    counts: NDArray[np.uint8] = to_counts(torch.from_numpy(probability)).numpy()
    return counts


@dataclass(frozen=True, slots=True)
class Results:
    """Where the probabilities of a pass go.

    Parameters
    ----------
    heads
        Levels, the deepest last.
    crop
        Part of the spatial axes that is kept.
    out
        An array (batch, class, *crop) for each of them, float32 or uint8.
    """

    heads: tuple[int, ...]
    crop: tuple[slice, ...]
    out: list[NDArray[Any]]

    @property
    def level(self) -> int:
        return self.heads[-1]

    @property
    def counts(self) -> bool:
        """Whether uint8 is kept."""
        return self.out[0].dtype == np.uint8

    def of(self, images: slice) -> Results:
        """Where those of some images of the batch go."""
        return Results(self.heads, self.crop, [head[images] for head in self.out])

    def place(self, images: slice, d: int, first: int, count: int) -> tuple[tuple[slice, ...], Tensor] | None:
        """What to take of `count` rows of level d, and the view that it goes into; None where nothing is kept."""
        if (part := wanted_part(first, count, self.crop)) is None:
            return None
        taken, rows = part
        return taken, torch.from_numpy(self.out[self.heads.index(d)])[images, :, rows]


def wanted_part(first: int, count: int, crop: tuple[slice, ...]) -> tuple[tuple[slice, ...], slice] | None:
    """Where in `count` rows from `first` on the crop lies, and which rows of the crop these are.

    Parameters
    ----------
    crop
        Part of the spatial axes that is kept.

    >>> wanted_part(32, 32, (slice(40, 90), slice(8, 24)))
    ((slice(None, None, None), slice(None, None, None), slice(8, 32, None), slice(8, 24, None)), slice(0, 24, None))
    >>> wanted_part(0, 32, (slice(40, 90), slice(8, 24))) is None
    True
    """
    low, high = max(crop[0].start, first), min(crop[0].stop, first + count)
    if low >= high:
        return None
    everything = slice(None)  # of the batch, of the classes
    return (everything, everything, slice(low - first, high - first), *crop[1:]), slice(
        low - crop[0].start, high - crop[0].start
    )
