"""The UNet++ of its authors' PyTorch code, a fork of nnU-Net.

In this order: the network out of the names and shapes of its weights (`find_fork`), its kernels, which like its steps differ from
axis to axis where voxels are longer in z, and which of its heads ever saw a loss (`_trained`).

Their ``loc{z}.{u}`` is X^{i,j} with j = u + 1 and i = depth - z - j: z counts the diagonals from the deepest. ``up{z}.{u}`` is the
up-sampling before it, ``seg_outputs.{k}`` the head of level depth - k; neither has a bias. Strided convolutions do the pooling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_unetpp.model.foreign_found import Found, UnfitError, kernel, learned_upsampling, node, shape
from napari_unetpp.model.spec import MAX_DEPTH, NetworkSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from napari_unetpp.model.foreign_found import Asked, Heads

_SLOPE = 0.01  # of nnU-Net's LeakyReLU
_PLANS = (
    "its plans (.model.pkl) can run code when they are read, so they are not: the spacing that its images were resampled to, and "
    "for CT the range and scale of intensities, are in them alone (scale such images so, then --intensities raw)"
)


def find_fork(weights: Mapping[str, Tensor], asked: Asked) -> Found:
    """Generic_UNetPlusPlus, 2D or 3D; its own trainer builds five poolings."""
    learned_upsampling(asked)
    depth = next((d for d in range(MAX_DEPTH + 1) if f"conv_blocks_context.{d}.0.blocks.0.conv.weight" in weights), 0)
    if depth < 1:
        raise UnfitError("its deepest block conv_blocks_context.5.0 is missing; fetch or save it again")
    blocks = {
        (i, 0): tuple(f"conv_blocks_context.{i}." + (f"{k}.blocks.0" if i == depth else f"blocks.{k}") for k in (0, 1))
        for i in range(depth + 1)
    }
    ups = {}
    for i in range(depth):
        for j in range(1, depth - i + 1):
            place = f"{depth - i - j}.{j - 1}"
            blocks[i, j] = tuple(f"loc{place}.{k}.blocks.0" for k in (0, 1))
            ups[f"ups.{i}_{j}"] = f"up{place}"
    first = kernel(weights, f"{blocks[0, 0][0]}.conv.weight")
    ndim = len(first) - 2
    kernels = tuple(_extent(weights, (b for (row, _), b in blocks.items() if row == i), ndim) for i in range(depth + 1))
    steps = tuple(shape(weights, f"{ups[f'ups.{i}_1']}.weight")[2:] for i in range(depth))
    spec = NetworkSpec(
        ndim=ndim,
        in_channels=first[1],
        classes=kernel(weights, "seg_outputs.0.weight")[0],
        widths=tuple(kernel(weights, f"{blocks[i, 0][1]}.conv.weight")[0] for i in range(depth + 1)),
        heads=tuple(range(1, depth + 1)),
        block="conv-in-relu",
        upsampling="transposed2",
        conv_bias=f"{blocks[0, 0][0]}.conv.bias" in weights,
        negative_slope=_SLOPE if asked.negative_slope is None else asked.negative_slope,
        pooling="stride",
        steps=None if all(n == 2 for step in steps for n in step) else steps,
        kernels=None if all(n == 3 for extent in kernels for n in extent) else kernels,
    )
    modules = ups | {f"heads.{d}": f"seg_outputs.{depth - d}" for d in spec.heads}
    for (i, j), theirs in blocks.items():
        modules |= node(spec.block, i, j, *(f"{their}.{part}" for their in theirs for part in ("conv", "instnorm")))
    seen = [d for d in spec.heads if _trained(weights, blocks[0, d])]
    only_first = seen == [1] and depth > 1
    heads: Heads = "all" if only_first else "last"
    notes = [_PLANS]
    if only_first:
        notes.append(
            "its nodes behind L1 are as they were made, so they never saw a loss (the loss of its authors' code as published is "
            f"that of L1 alone, while its answer is L{depth}): use L1"
        )
    elif asked.heads is None:
        notes.append(
            f"its answer is L{depth}, which is all that is kept; the loss of its authors' code as published is that of L1 alone, "
            "and weights do not tell which heads were trained: --heads all if all were"
        )
    return Found(
        "UNet++ of its authors' PyTorch code (a fork of nnU-Net)",
        spec,
        modules,
        "zscore",
        heads,
        tuple(notes),
        recommended=1 if only_first else None,
        smaller_kernels=True,
    )


def _extent(weights: Mapping[str, Tensor], blocks: Iterable[tuple[str, ...]], ndim: int) -> tuple[int, ...]:
    """Extent per axis of the largest kernel of a row; its decoder has those of the row below, which may be larger."""
    found = [kernel(weights, f"{their}.conv.weight")[2:] for block in blocks for their in block]
    for extent in found:
        if len(extent) != ndim or not {*extent} <= {1, 3}:  # its padding of any other is none
            raise UnfitError(f"a kernel of extent {extent} where 1 and 3 in {ndim} dimensions are known")
    return tuple(max(axis) for axis in zip(*found, strict=True))


def _trained(weights: Mapping[str, Tensor], block: tuple[str, ...]) -> bool:
    """Whether the normalisations of a node differ from what they were made with: ones and zeros, which any step changes."""
    for their in block:
        for part, made in (("weight", 1.0), ("bias", 0.0)):
            value = weights.get(f"{their}.instnorm.{part}")
            if value is not None and bool((value != made).any()):
                return True
    return False
