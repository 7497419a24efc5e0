"""What a run tells while it goes on; light, so that a window may know it before torch is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_unetpp.inference.tiles import Tile


@dataclass(frozen=True, slots=True)
class TileDone:
    """A tile is safe on disk, at all levels.

    Parameters
    ----------
    done, total
        Tiles that are safe by now, those of earlier runs among them, of how many.
    seconds, voxels
        Time since this run began, and voxels that it has made safe since: their ratio is its speed.
    """

    tile: Tile
    done: int
    total: int
    seconds: float
    voxels: int


@dataclass(frozen=True, slots=True)
class PlaneDone:
    """A tile across y or x is safe, of a run along z, y and x; its voxels are not final yet.

    Parameters
    ----------
    axis
        Along which it is a slice: "y" or "x".
    done, total
        Parts that are safe by now, of how many: tiles along all three axes.
    seconds, voxels
        As for `TileDone`; a voxel counts once for each axis.
    """

    axis: str
    done: int
    total: int
    seconds: float
    voxels: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing was finished for a heartbeat; whoever iterates may stop here."""


@dataclass(frozen=True, slots=True)
class Checking(Waiting):
    """So many of the tiles of an earlier run were compared with the image as it is now; whoever iterates may stop here."""

    done: int
    total: int
