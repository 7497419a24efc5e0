"""Changes to a network that leave its answers what they are: which heads it keeps, the order of its colours, zeros at kernels.

In this order: the last head alone (`keep_last_head`), one head that gives the mean of all logits (`average_heads`), red, green,
blue for a network that was trained on blue, green, red (`rgb_first`), and a small kernel as a larger one (`surrounded`). States are
those of `UNetPlusPlus.state_dict`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from napari_unetpp.model.spec import NetworkSpec

State = dict[str, "Tensor"]


def keep_last_head(spec: NetworkSpec, state: State) -> tuple[NetworkSpec, State]:
    """Network whose slider has one position, the deepest."""
    kept = {k: v for k, v in state.items() if not k.startswith("heads.") or k.startswith(f"heads.{spec.depth}.")}
    return replace(spec, heads=(spec.depth,)), kept


def average_heads(spec: NetworkSpec, state: State) -> tuple[NetworkSpec, State]:
    """Network of one head whose logits are the mean of the logits of all heads, to the last bits.

    The last node hands on what the heads of the earlier levels read: x^{0,j} is no less than 0 behind its ReLU, so that a
    convolution that copies it and the ReLU after it leave it as it is. The head then reads all of them side by side.

    Raises
    ------
    ValueError
        If the nodes do not end in convolution and ReLU alone, or a level has no head.
    """
    block = spec.decoder_block or spec.block
    if block != "conv-relu" or spec.negative_slope or spec.head != "conv1" or spec.skips != "dense":
        raise ValueError("only heads behind convolution and ReLU can be averaged to one; keep all or the last")
    if spec.heads != tuple(range(1, spec.depth + 1)):
        raise ValueError(f"heads {spec.heads} are not those of all levels 1..{spec.depth}, so they have no mean")
    depth, state = spec.depth, dict(state)
    if depth == 1:
        return spec, state
    last, row = spec.node_width(0, depth), spec.node_width(0, 1)
    first = spec.up_width(0, depth) if spec.concatenation == "up-first" else 0
    copied = [first + spec.node_width(0, 0) + row * j + c for j in range(depth - 1) for c in range(row)]  # x^{0,1} ...
    for place, sources in (("0", copied), ("2", list(range(len(copied))))):
        key = f"nodes.0_{depth}.{place}"
        own = state[f"{key}.weight"]
        inputs = own.shape[1] if place == "0" else len(copied) + last
        weight = own.new_zeros((len(copied) + last, inputs, *own.shape[2:]))
        centre = (1,) * spec.ndim
        for channel, source in enumerate(sources):
            weight[(channel, source, *centre)] = 1
        weight[len(copied) :, inputs - own.shape[1] :] = own
        state[f"{key}.weight"] = weight
        if f"{key}.bias" in state:
            state[f"{key}.bias"] = torch.cat([own.new_zeros(len(copied)), state[f"{key}.bias"]])
    heads = {part: [state.pop(f"heads.{d}.{part}") for d in spec.heads] for part in ("weight", "bias")}
    state[f"heads.{depth}.weight"] = torch.cat(heads["weight"], dim=1) / depth
    state[f"heads.{depth}.bias"] = torch.stack(heads["bias"]).mean(0)
    return replace(spec, heads=(depth,), last_width=len(copied) + last), state


def rgb_first(state: State) -> State:
    """State of the network that takes red, green, blue where it took blue, green, red."""
    key = "nodes.0_0.0.weight"
    return {**state, key: state[key].flip(1)}


def surrounded(value: Tensor, extent: tuple[int, ...]) -> Tensor:
    """Weight of a convolution with zeros around its kernel up to `extent`, odd like its own; as it is where that is smaller.

    >>> surrounded(torch.ones(1, 1, 1, 3), (3, 3))[0, 0].tolist()
    [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    missing = [(wanted - own) // 2 for own, wanted in zip(value.shape[2:], extent, strict=False)]
    if min(missing, default=0) < 0:
        return value
    return torch.nn.functional.pad(value, [m for axis in reversed(missing) for m in (axis, axis)])
