"""Which network of the UNet++ family is meant, down to the last layer.

In this order: the grid (dimensions, widths, which nodes exist and what each concatenates), the layers (block, up-sampling,
head), and what follows from both without building anything: heads, grid size, receptive radius, the pruned specification.

The grid of UNet++, depth 4. Row i is sampled down i times, column j counts the decoder nodes; the diagonal i + j = d
completes level d, whose head reads X^{0,d}::

    X00 --- X01 --- X02 --- X03 --- X04        heads L1..L4 on X01..X04
       X10 --- X11 --- X12 --- X13
          X20 --- X21 --- X22
             X30 --- X31
                X40

The *skips* decide what X^{i,j}, j > 0, receives beside the up-sampled X^{i+1,j-1}:

========== ============================== ========================================
skips      name                           same-row inputs of X^{i,j}
========== ============================== ========================================
plain      U-Net (only the last diagonal) X^{i,0}
ensemble   U-Net^e                        X^{i,0}
short      UNet+                          X^{i,j-1}
dense      UNet++                         X^{i,0} ... X^{i,j-1}
========== ============================== ========================================
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from napari_unetpp.model.receptive import receptive_radii
from napari_unetpp.model.spec_checks import (
    MAX_DEPTH,
    Block,
    Concatenation,
    Head,
    Middle,
    Padding,
    Pooling,
    Skips,
    Steps,
    Upsampling,
    check_spec,
)

__all__ = ["MAX_DEPTH", "Block", "Middle", "NetworkSpec", "Skips", "Upsampling"]


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """One member of the family; equal specifications build equal networks.

    Parameters
    ----------
    ndim
        Spatial dimensions of the convolutions, 2 or 3.
    in_channels
        Channels of the input image.
    classes
        Channels of every head: 1 is one foreground class (sigmoid), ``n >= 2`` are n exclusive classes (softmax) of which
        channel 0 is the background.
    widths
        Channels of X^{0,0} .. X^{depth,0}; their number less one is the depth.
    heads
        Levels that have a head, ascending. Deep supervision has all of ``1..depth``.
    skips, upsampling, block, head, concatenation
        See the table above and the literals of this module. ``"bilinear"`` is align_corners=False (trilinear in 3D),
        ``"bilinear-aligned"`` align_corners=True; ``transposed2`` and ``transposed4`` have kernels 2 and 4, stride 2;
        ``conv1-`` is a 1x1 convolution in front, where the number of channels changes. In a block, ``in`` is InstanceNorm.
    decoder_block
        Block of the nodes with j > 0 where it differs (S001 has BN-ReLU-conv there).
    decoder_widths
        Channels of X^{i,j>0} per row ``0..depth-1`` where they differ from `widths` (milesial's bilinear variant).
    up_widths
        Channels that learned up-sampling (``transposed``, ``conv1``) gives per row ``0..depth-1`` where they differ from the
        row's (MONAI halves what comes from below).
    last_width
        Channels of X^{0,depth} where they differ from its row's.
    negative_slope
        Slope of the blocks' ReLU below zero (LeakyReLU), in ``[0, 1)``.
    middle
        Channels between a decoder node's two convolutions: its output width, or half of its input.
    conv_bias
        Whether the convolutions of the blocks have a bias.
    dropout
        Probability in ``[0, 1)``, used by ``"conv-relu-dropout"`` after each ReLU.
    multiple
        Inputs are padded to a multiple of this, one number or one for each axis; ``0`` means what the down-sampling asks for,
        ``2**depth`` as a rule. A pruned network keeps its parent's, so that its output stays equal to the parent's head on
        inputs of any size.

    steps
        Factor, 1 or 2, of the down-sampling between the rows i and i + 1, per row ``0..depth-1`` and per axis; None is 2
        everywhere. Stacks whose slices lie far apart are not pooled along z at first (`presets.for_spacing`).
    kernels
        Odd extent of the blocks' convolutions per row ``0..depth`` and per axis; None is 3 everywhere.
    pooling
        ``"max"``, or ``"stride"``: the first convolution of X^{i,0} does it (nnU-Net and what came of it).
    padding
        Of the convolutions: ``"same"`` keeps the extent. ``"valid"`` pads nothing and crops what is concatenated, as the U-Net of
        2015 does; then the image is mirrored past all its borders, so that no border is lost. ``"late"`` pads nothing but the
        up-sampled maps, with zeros (a tutorial's variant).
    encoder
        Name of a network of timm whose stages are X^{i,0} from row `encoder_row` on; empty for none.
    encoder_row
        The first row that the encoder gives: the logarithm of its first reduction.
    encoder_taps
        Modules of the encoder, by timm's names, whose outputs are X^{i,0} from row `encoder_row` on, where they are not those
        that timm itself takes for features.
    last_widths
        Channels of the last diagonal, X^{i,depth-i} per row ``0..depth-1``, where they differ from their row's
        (segmentation_models.pytorch has its decoder's widths there, and its encoder's in the nodes between).
    lone_rows
        So many rows at the top have no node but X^{i,depth-i}, which receives X^{i+1,depth-i-1} alone.
    newest_first
        Whether X^{i,j} receives the nodes of its row newest first, X^{i,0} last.

    Raises
    ------
    ValueError
        If the fields contradict each other; the message names field, value and remedy.
    """

    ndim: int = 2
    in_channels: int = 1
    classes: int = 1
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    heads: tuple[int, ...] = (1, 2, 3, 4)
    skips: Skips = "dense"
    upsampling: Upsampling = "nearest"
    block: Block = "conv-bn-relu"
    head: Head = "conv1"
    concatenation: Concatenation = "skips-first"
    decoder_block: Block | None = None
    decoder_widths: tuple[int, ...] | None = None
    middle: Middle = "out"
    conv_bias: bool = True
    dropout: float = 0.0
    multiple: int | tuple[int, ...] = 0
    up_widths: tuple[int, ...] | None = None
    last_width: int | None = None
    negative_slope: float = 0.0
    steps: Steps | None = None
    kernels: Steps | None = None
    pooling: Pooling = "max"
    padding: Padding = "same"
    encoder: str = ""
    encoder_row: int = 1
    encoder_taps: tuple[str, ...] | None = None
    last_widths: tuple[int, ...] | None = None
    lone_rows: int = 0
    newest_first: bool = False

    def __post_init__(self) -> None:
        check_spec(self)

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

    def node_width(self, i: int, j: int) -> int:
        """Channels of X^{i,j}."""
        if self.last_widths is not None and j > 0 and i + j == self.depth:
            return self.last_widths[i]
        return self.last_width if j == self.depth and self.last_width is not None else self._row_width(i, j)

    def _row_width(self, i: int, j: int) -> int:
        return self.widths[i] if j == 0 or self.decoder_widths is None else self.decoder_widths[i]

    def up_width(self, i: int, j: int) -> int:
        """Channels of the up-sampled X^{i+1,j-1} that X^{i,j} receives: learned ones change to the row's width."""
        if self.upsampling in ("nearest", "bilinear", "bilinear-aligned"):
            return self.node_width(i + 1, j - 1)
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

    def pruned(self, level: int) -> NetworkSpec:
        """Specification of the sub-network that computes L1..`level`: nodes with i + j <= level."""
        heads = self.heads_up_to(level)
        return replace(
            self,
            widths=self.widths[: level + 1],
            decoder_widths=None if self.decoder_widths is None else self.decoder_widths[:level],
            up_widths=None if self.up_widths is None else self.up_widths[:level],
            last_width=self.last_width if level == self.depth else None,
            last_widths=self.last_widths if level == self.depth else None,
            heads=heads,
            multiple=self.grids[0] if len({*self.grids}) == 1 else self.grids,
            steps=None if self.steps is None else self.steps[:level],
            kernels=None if self.kernels is None else self.kernels[: level + 1],
            **self._pruned_encoder(level),
        )

    def _pruned_encoder(self, level: int) -> dict[str, Any]:
        if not self.encoder or level < self.encoder_row:  # nothing of it is left
            return {"encoder": "", "encoder_row": 1, "encoder_taps": None}
        stages = level + 1 - self.encoder_row
        return {"encoder_taps": None if self.encoder_taps is None else self.encoder_taps[:stages]}

    def with_width(self, first: int) -> NetworkSpec:
        """Return the same network with widths `first`, 2 * `first`, 4 * `first` and so on."""
        widths = tuple(first * 2**i for i in range(self.depth + 1))
        return replace(self, widths=widths, up_widths=None, last_width=None, last_widths=None)

    def with_depth(self, depth: int) -> NetworkSpec:
        """Return the same network with `depth` down-samplings; deep supervision stays what it is."""
        widths = (
            tuple(self.widths[0] * 2**i for i in range(depth + 1)) if depth > self.depth else self.widths[: depth + 1]
        )
        heads = tuple(range(1, depth + 1)) if len(self.heads) > 1 else (depth,)
        rows: dict[str, Any] = {"decoder_widths": None, "up_widths": None, "last_width": None, "last_widths": None}
        if self.steps is not None:
            rows["steps"] = (*self.steps, *((2,) * self.ndim for _ in range(depth)))[:depth]
        if self.kernels is not None:
            rows["kernels"] = (*self.kernels, *((3,) * self.ndim for _ in range(depth)))[: depth + 1]
        return replace(self, widths=widths, heads=heads, multiple=0, **rows)

    def to_json(self) -> dict[str, Any]:
        """Fields as plain JSON values; `from_json` reads them back."""
        added = {f.name: f.default for f in fields(self) if f.name in _ADDED}
        return {k: v for k, v in asdict(self).items() if k not in added or v != added[k]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> NetworkSpec:
        """Specification out of the values that `to_json` gave.

        Raises
        ------
        ValueError
            If a field is unknown (a newer version wrote it) or has a wrong type.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(
                f"unknown network field {', '.join(unknown)}; a newer version of napari-unetpp may have written it"
            )
        try:
            return cls(**{k: _as_tuples(v) for k, v in values.items()})
        except TypeError as error:
            raise ValueError(f"the network specification is damaged: {error}") from None

    @classmethod
    def preset(cls, name: str, ndim: int = 2, in_channels: int = 1, classes: int = 1) -> NetworkSpec:
        """Return a network that the literature names; see `presets.PRESETS` for the list and the sources.

        Raises
        ------
        ValueError
            If the name is unknown, or is tied to another number of dimensions.
        """
        from napari_unetpp.model.presets import preset

        return preset(name, ndim, in_channels, classes)


# Later than format 1: written only where they say something, so that older versions read every file that they can build.
def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


_ADDED = (
    "up_widths", "last_width", "negative_slope", "steps", "kernels", "pooling", "padding", "encoder", "encoder_row",
    "encoder_taps", "last_widths", "lone_rows", "newest_first",
)  # fmt: skip
