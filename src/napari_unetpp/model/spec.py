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

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

Skips = Literal["plain", "ensemble", "short", "dense"]
Upsampling = Literal["transposed2", "transposed4", "nearest", "bilinear", "bilinear-aligned", "conv1-bilinear-aligned"]
Block = Literal["conv-relu", "conv-bn-relu", "bn-relu-conv", "conv-relu-dropout", "conv-in-relu"]
Head = Literal["conv1", "bn-relu-conv3"]
Concatenation = Literal["skips-first", "up-first"]
Middle = Literal["out", "half-in"]

MAX_DEPTH = 10  # pads images to multiples of 1024 voxels, and its deepest node sees more than 10 000 of them
CONVOLUTIONS_PER_NODE = 2  # H of equation 1 in both papers: two 3x3 convolutions


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
        Inputs are padded to a multiple of this; ``0`` means ``2**depth``. A pruned network keeps its parent's, so that its
        output stays equal to the parent's head on inputs of any size.

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
    multiple: int = 0
    up_widths: tuple[int, ...] | None = None
    last_width: int | None = None
    negative_slope: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in _LITERALS.items():
            value = getattr(self, name)
            if value not in allowed and not (name == "decoder_block" and value is None):
                raise ValueError(f"{name} {value!r} is unknown; use one of {', '.join(allowed)}")
        if self.ndim not in (2, 3):
            raise ValueError(f"ndim {self.ndim} is not supported; use 2 or 3")
        for name in ("in_channels", "classes", *("widths",) * bool(self.widths)):
            values = getattr(self, name)
            if any(v < 1 for v in (values if isinstance(values, tuple) else (values,))):
                raise ValueError(f"{name} {values} must be positive")
        if self.depth < 1:
            raise ValueError(f"widths {self.widths} give no level; name at least two widths")
        if self.depth > MAX_DEPTH:
            raise ValueError(
                f"widths of depth {self.depth} are more than any image has use for; use at most {MAX_DEPTH}"
            )
        for name in ("decoder_widths", "up_widths"):
            rows = getattr(self, name)
            if rows is not None and (len(rows) != self.depth or min(rows) < 1):
                raise ValueError(
                    f"{name} {rows} must name {self.depth} rows, one per level, with 1 or more channels each"
                )
        if self.up_widths is not None and self.upsampling in ("nearest", "bilinear", "bilinear-aligned"):
            raise ValueError(
                f"up_widths {self.up_widths} are for learned up-sampling; {self.upsampling} keeps what is below"
            )
        if self.last_width is not None and self.last_width < 1:
            raise ValueError(f"last_width {self.last_width} must be positive")
        levels = range(1, self.depth + 1)
        if not self.heads or list(self.heads) != sorted({*self.heads} & {*levels}):
            raise ValueError(f"heads {self.heads} must be ascending levels out of 1..{self.depth}")
        if self.heads[-1] != self.depth:
            raise ValueError(
                f"heads {self.heads} leave nodes deeper than L{self.heads[-1]} untrained; prune the widths instead"
            )
        if self.skips == "plain" and self.heads != (self.depth,):
            raise ValueError(f"a plain U-Net has one head, L{self.depth}, not {self.heads}")
        for name in ("dropout", "negative_slope"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} {getattr(self, name)} must lie in [0, 1)")
        if self.multiple % 2**self.depth:
            raise ValueError(f"multiple {self.multiple} is not a multiple of {2**self.depth} (2**depth)")

    @property
    def depth(self) -> int:
        """Down-samplings of the whole network; the deepest level."""
        return len(self.widths) - 1

    @property
    def grid(self) -> int:
        """Inputs are padded to a multiple of this many voxels along every spatial axis."""
        return self.multiple or 2**self.depth

    @property
    def nodes(self) -> tuple[tuple[int, int], ...]:
        """Indices (i, j) of all nodes, diagonal by diagonal, each from the bottom up."""
        return tuple(
            (diagonal - j, j)
            for diagonal in range(self.depth + 1)
            for j in range(diagonal + 1)
            if self.skips != "plain" or j == 0 or diagonal == self.depth
        )

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
        return ""

    def node_width(self, i: int, j: int) -> int:
        """Channels of X^{i,j}."""
        return self.last_width if j == self.depth and self.last_width is not None else self._row_width(i, j)

    def _row_width(self, i: int, j: int) -> int:
        return self.widths[i] if j == 0 or self.decoder_widths is None else self.decoder_widths[i]

    def up_width(self, i: int, j: int) -> int:
        """Channels of the up-sampled X^{i+1,j-1} that X^{i,j} receives: learned ones change to the row's width."""
        if self.upsampling in ("nearest", "bilinear", "bilinear-aligned"):
            return self.node_width(i + 1, j - 1)
        return self._row_width(i, j) if self.up_widths is None else self.up_widths[i]

    def same_row(self, i: int, j: int) -> tuple[tuple[int, int], ...]:
        """Nodes of row i whose output X^{i,j}, j > 0, concatenates, oldest first."""
        if self.skips == "dense":
            return tuple((i, k) for k in range(j))
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

    def receptive_radius(self, level: int | None = None) -> int:
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
        last = self.heads_up_to(level)[-1]
        head_radius = 1 if self.head == "bn-relu-conv3" else 0
        radius = 0
        for voxel in range(2**last):
            low, high = self._input_interval(0, last, voxel - head_radius, voxel + head_radius)
            radius = max(radius, voxel - low, high - voxel)
        return radius

    def _input_interval(self, i: int, j: int, low: int, high: int) -> tuple[int, int]:
        """Closed interval of image voxels that voxels low..high of X^{i,j} depend on, per axis."""
        low, high = low - CONVOLUTIONS_PER_NODE, high + CONVOLUTIONS_PER_NODE
        if j == 0:  # x^{i,0} = H(D(x^{i-1,0}))
            return (low, high) if i == 0 else self._input_interval(i - 1, 0, 2 * low, 2 * high + 1)
        intervals = [self._input_interval(*node, low, high) for node in self.same_row(i, j)]
        # Bilinear and a 4-wide transposed kernel read the two nearest voxels below, the others the one.
        two = 0 if self.upsampling in ("nearest", "transposed2") else 1
        intervals.append(self._input_interval(i + 1, j - 1, (low - two) // 2, (high + two) // 2))
        return min(a for a, _ in intervals), max(b for _, b in intervals)

    def pruned(self, level: int) -> NetworkSpec:
        """Specification of the sub-network that computes L1..`level`: nodes with i + j <= level."""
        heads = self.heads_up_to(level)
        return replace(
            self,
            widths=self.widths[: level + 1],
            decoder_widths=None if self.decoder_widths is None else self.decoder_widths[:level],
            up_widths=None if self.up_widths is None else self.up_widths[:level],
            last_width=self.last_width if level == self.depth else None,
            heads=heads,
            multiple=self.grid,
        )

    def with_width(self, first: int) -> NetworkSpec:
        """Return the same network with widths `first`, 2 * `first`, 4 * `first` and so on."""
        widths = tuple(first * 2**i for i in range(self.depth + 1))
        return replace(self, widths=widths, up_widths=None, last_width=None)

    def with_depth(self, depth: int) -> NetworkSpec:
        """Return the same network with `depth` down-samplings; deep supervision stays what it is."""
        widths = (
            tuple(self.widths[0] * 2**i for i in range(depth + 1)) if depth > self.depth else self.widths[: depth + 1]
        )
        heads = tuple(range(1, depth + 1)) if len(self.heads) > 1 else (depth,)
        rows: dict[str, Any] = {"decoder_widths": None, "up_widths": None, "last_width": None}
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
            plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return cls(**plain)
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
_ADDED = ("up_widths", "last_width", "negative_slope")
_LITERALS: dict[str, tuple[str, ...]] = {
    "skips": get_args(Skips),
    "upsampling": get_args(Upsampling),
    "block": get_args(Block),
    "decoder_block": get_args(Block),
    "head": get_args(Head),
    "concatenation": get_args(Concatenation),
    "middle": get_args(Middle),
}
