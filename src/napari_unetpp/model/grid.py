"""What follows from a specification without building anything: rows, nodes, their widths, heads, and how far they see."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from napari_unetpp.model.receptive import receptive_radii

if TYPE_CHECKING:
    from napari_unetpp.model.spec_checks import Padding, Pooling, Skips, Steps, Upsampling


class Grid:
    """The grid of X^{i,j}; `spec.NetworkSpec` says what these fields mean."""

    __slots__ = ()

    ndim: int
    widths: tuple[int, ...]
    heads: tuple[int, ...]
    skips: Skips
    upsampling: Upsampling
    block: str
    decoder_block: str | None
    decoder_widths: tuple[int, ...] | None
    multiple: int | tuple[int, ...]
    up_widths: tuple[int, ...] | None
    last_width: int | None
    steps: Steps | None
    kernels: Steps | None
    pooling: Pooling
    padding: Padding
    encoder: str
    encoder_row: int
    encoder_feeds: tuple[tuple[str, int], ...] | None
    last_widths: tuple[int, ...] | None
    lone_rows: int
    newest_first: bool

    @property
    def depth(self) -> int:
        """Down-samplings of the whole network; the deepest level."""
        return len(self.widths) - 1

    @property
    def grids(self) -> tuple[int, ...]:
        """Inputs are padded to a multiple of so many voxels, per spatial axis."""
        if self.multiple:
            return self.multiple if isinstance(self.multiple, tuple) else (self.multiple,) * self.ndim
        return self.reduction(self.depth)

    @property
    def grid(self) -> int:
        """The largest of `grids`, of which every other is a divisor."""
        return max(self.grids)

    def step(self, i: int) -> tuple[int, ...]:
        """Factor of the down-sampling between rows i and i + 1, per spatial axis."""
        return (2,) * self.ndim if self.steps is None else self.steps[i]

    def reduction(self, i: int) -> tuple[int, ...]:
        """Voxels of the image that a voxel of row i stands for, per spatial axis."""
        return tuple(math.prod(self.step(row)[axis] for row in range(i)) for axis in range(self.ndim))

    def kernel(self, i: int) -> tuple[int, ...]:
        """Extent of the convolutions of the blocks of row i, per spatial axis."""
        return (3,) * self.ndim if self.kernels is None else self.kernels[i]

    def from_encoder(self, i: int, j: int) -> bool:
        """Whether X^{i,j} is a stage of the encoder from timm."""
        return bool(self.encoder) and j == 0 and i >= self.encoder_row

    @property
    def nodes(self) -> tuple[tuple[int, int], ...]:
        """Indices (i, j) of all nodes, diagonal by diagonal, each from the bottom up."""
        return tuple(
            (diagonal - j, j)
            for diagonal in range(self.depth + 1)
            for j in range(diagonal + 1)
            if self._has(diagonal - j, j)
        )

    def _has(self, i: int, j: int) -> bool:
        if i < self.lone_rows and i + j < self.depth:
            return j == 0 and (not self.encoder or i >= self.encoder_row)  # only for the row below, which is made of it
        return self.skips != "plain" or j == 0 or i + j == self.depth

    @property
    def size_independent(self) -> bool:
        """Whether a voxel's logits depend on its neighbourhood alone, never on the extent of the image."""
        return not self.size_dependence

    @property
    def size_dependence(self) -> str:
        """What makes a voxel's logits depend on the extent of the image; empty where nothing does."""
        if self.upsampling.endswith("bilinear-aligned"):
            return f"{self.upsampling} up-sampling (align_corners=True) depends on the extent of its input"
        if "conv-in-relu" in (self.block, self.decoder_block):
            return "InstanceNorm depends on all voxels of its input"
        if self.padding == "late":
            return "padding of the up-sampled maps reaches deeper with the extent of the input"
        if self.encoder:
            return f"encoder {self.encoder} looks as far as its own layers do"
        return ""

    @property
    def streams(self) -> bool:
        """Whether it can go band by band: every row of maps lies over as many rows of the image as in the paper's grid."""
        plain = self.steps is None and self.kernels is None and self.pooling == "max" and self.padding == "same"
        return plain and self.size_independent

    def below(self, i: int, j: int) -> tuple[int, int]:
        """Node that X^{i,j}, j > 0, up-samples: X^{i+1,j-1}, or (i + 1, -1) for what an encoder feeds to X^{i,1} in its place."""
        fed = self.encoder_feeds is not None and j == 1 and i >= self.encoder_row
        return i + 1, -1 if fed else j - 1

    def node_width(self, i: int, j: int) -> int:
        """Channels of X^{i,j}, and with j = -1 of what the encoder feeds."""
        if j < 0:
            assert self.encoder_feeds is not None
            return self.encoder_feeds[i - 1 - self.encoder_row][1]
        if self.last_widths is not None and j > 0 and i + j == self.depth:
            return self.last_widths[i]
        return self.last_width if j == self.depth and self.last_width is not None else self._row_width(i, j)

    def _row_width(self, i: int, j: int) -> int:
        return self.widths[i] if j == 0 or self.decoder_widths is None else self.decoder_widths[i]

    def up_width(self, i: int, j: int) -> int:
        """Channels of what was up-sampled from below that X^{i,j} receives: learned ones change to the row's width."""
        if self.upsampling in ("nearest", "bilinear", "bilinear-aligned"):
            return self.node_width(*self.below(i, j))
        return self._row_width(i, j) if self.up_widths is None else self.up_widths[i]

    def same_row(self, i: int, j: int) -> tuple[tuple[int, int], ...]:
        """Nodes of row i whose output X^{i,j}, j > 0, concatenates, in that order."""
        if i < self.lone_rows:
            return ()
        if self.skips == "dense":
            return tuple((i, k) for k in (reversed(range(j)) if self.newest_first else range(j)))
        return ((i, j - 1 if self.skips == "short" else 0),)

    def heads_up_to(self, level: int | None) -> tuple[int, ...]:
        """Levels whose heads a forward pass to `level` gives.

        Raises
        ------
        ValueError
            If `level` has no head in this network.
        """
        if level is None:
            return self.heads
        if level not in self.heads:
            have = ", ".join(f"L{d}" for d in self.heads)
            raise ValueError(f"level {level} has no head in this network; it has {have}")
        return tuple(d for d in self.heads if d <= level)

    def receptive_radii(self, level: int | None = None) -> tuple[int, ...]:
        """Farthest input voxel, per axis, that a logit of L1..`level` depends on (the worst phase on the pooling grid).

        Found by following intervals of voxels from the head back to the image, so it holds for every member of the family:
        7 * 2**level - 5 for nearest, 8 * 2**level - 6 for bilinear up-sampling and two 3x3 convolutions a node.

        Raises
        ------
        ValueError
            If the network depends on the extent of its input (`size_dependence`): then no radius is enough.
        """
        if not self.size_independent:
            raise ValueError(
                f"{self.size_dependence}, so no halo makes tiles agree with the whole image; use overlap tiling"
            )
        return receptive_radii(self, self.heads_up_to(level)[-1])

    def receptive_radius(self, level: int | None = None) -> int:
        """The largest of `receptive_radii`."""
        return max(self.receptive_radii(level))
