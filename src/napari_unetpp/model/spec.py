"""Which network of the UNet++ family is meant, down to the last layer.

In this order: the grid (dimensions, widths, which nodes exist and what each concatenates), the layers (block, up-sampling,
head), and other specifications that are made of one: pruned, wider, deeper. What follows without building anything (heads, nodes,
extents, receptive radius) is in `grid.py`.

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
from typing import Any

from napari_unetpp.model.grid import Grid
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
class NetworkSpec(Grid):
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
        ``"bilinear-aligned"`` align_corners=True; ``transposed2`` and ``transposed4`` have kernels 2 and 4, stride 2,
        ``-relu`` the normalisation and the ReLU of the block behind it; ``conv1-`` is a 1x1 convolution in front, where the
        number of channels changes. In a block, ``in`` is InstanceNorm.
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
        that timm itself takes for features; they may lie inside a layer (`backbones_timm.tapped`).
    encoder_feeds
        (module, channels) of what X^{i,1} up-samples in place of X^{i+1,0}, for the rows i + 1 from `encoder_row` + 1 on, where
        the encoder has other maps for that (the Keras code of the UNet++ authors).
    decoder_convolutions
        Of each node with j > 0, 2 or 1; the convolution of a learned up-sampling stands for the first where it is 1.
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
    encoder_feeds: tuple[tuple[str, int], ...] | None = None
    decoder_convolutions: int = 2
    last_widths: tuple[int, ...] | None = None
    lone_rows: int = 0
    newest_first: bool = False

    def __post_init__(self) -> None:
        check_spec(self)

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
            return {"encoder": "", "encoder_row": 1, "encoder_taps": None, "encoder_feeds": None}
        stages = level + 1 - self.encoder_row
        return {
            "encoder_taps": None if self.encoder_taps is None else self.encoder_taps[:stages],
            "encoder_feeds": None if self.encoder_feeds is None else self.encoder_feeds[: stages - 1],
        }

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


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


# Later than format 1: written only where they say something, so that older versions read every file that they can build.
_ADDED = (
    "up_widths", "last_width", "negative_slope", "steps", "kernels", "pooling", "padding", "encoder", "encoder_row",
    "encoder_taps", "encoder_feeds", "decoder_convolutions", "last_widths", "lone_rows", "newest_first",
)  # fmt: skip
