"""A network in 8-bit integers: the numbers that have to be measured for it, and what it becomes.

Decides, in this order: what is measured (`Calibration`), the weights of a convolution between counts
(`exact_weights`), and the integers that they become (`quantise_network`). `calibrate.py` measures,
`int8.py` runs.

A map holds uint8 counts q of a scale s per channel, x = s q, never negative because every convolution
ends in a ReLU. A convolution of counts that gives counts again needs no scale while it runs: those of
its inputs i and outputs o are folded into its weights, which become int8 of a unit u per output::

    q_o = round( sum_i (w_oi s_i / s_o) q_i + b_o / s_o ),        w_oi s_i / s_o = u_o * integer

So each channel has the scale that it needs, and concatenation, pooling, nearest up-sampling and zero
padding only move bytes. The first convolution takes the image as it is, in float32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from napari_unetpp.inference.folding import Convolution, fold_network
from napari_unetpp.inference.rounding import nudged, round_smooth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.model.unetpp import UNetPlusPlus

COUNTS = 255  # of a uint8
ENTRY = "0_0.0"  # the convolution that takes the image


@dataclass(frozen=True, slots=True)
class Calibration:
    """All that an int8 network is made of beside its weights: the same numbers, the same network.

    Keys are ``"i_j.0"`` and ``"i_j.1"`` for the convolutions of X^{i,j}, ``"head_d.0"`` for heads.

    Parameters
    ----------
    limit
        Largest weight: 127, or 63 where the processor adds pairs of products in 16 bits.
    ranges
        Activation that becomes 255, per channel of a convolution's output.
    offsets
        What is added to the bias, so that rounded weights leave the mean of an output where it was.
    nudges
        Where the integers of a convolution's weights are not the usual ones (`rounding.nudges`).
    """

    limit: int
    ranges: Mapping[str, tuple[float, ...]]
    offsets: Mapping[str, tuple[float, ...]]
    nudges: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads the very same numbers back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """Calibration out of the values of `to_json`.

        Raises
        ------
        ValueError
            Where a part is missing or of a wrong type.
        """
        try:
            ranges, offsets = ({k: tuple(map(float, v)) for k, v in values[n].items()} for n in ("ranges", "offsets"))
            return cls(int(values["limit"]), ranges, offsets, {k: str(v) for k, v in values["nudges"].items()})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"the calibration is damaged ({error!r}); calibrate again") from None


@dataclass(frozen=True, slots=True, eq=False)
class Exact:
    """Weights as they should be, (out, in, k * k) float64, in units of the integers to come.

    Parameters
    ----------
    unit
        Counts of the output per integer and count of the input, per output channel.
    incoming, outgoing
        Activation per count, per input and per output channel. A head's output is not counted: 1.
    """

    weight: Tensor
    unit: Tensor
    incoming: Tensor
    outgoing: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Int8Convolution:
    """A convolution of counts: int8 `weight` (out, in, k, k) times `unit`, plus `bias`, both float32."""

    weight: Tensor
    unit: Tensor
    bias: Tensor


def convolutions(network: UNetPlusPlus, level: int) -> dict[str, Convolution]:
    """Folded convolutions that L1..`level` need, in the order in which they run, by the keys of `Calibration`."""
    folded = dict(fold_network(network))
    nodes = {
        f"{i}_{j}.{part}": folded[f"{i}_{j}"][part] for i, j in network.spec.nodes if i + j <= level for part in (0, 1)
    }
    return nodes | {f"head_{d}.0": folded[f"head_{d}"][0] for d in network.spec.heads_up_to(level)}


def exact_weights(spec: NetworkSpec, key: str, convolution: Convolution, calibration: Calibration) -> Exact:
    """Weights of a convolution of counts, before they are rounded."""
    incoming = torch.cat([_scale(calibration, source) for source in _sources(spec, key)])
    outputs = len(convolution.weight)
    outgoing = _scale(calibration, key) if key in calibration.ranges else torch.ones(outputs, dtype=torch.float64)
    weight = convolution.weight.double() * incoming.view(1, -1, 1, 1) / outgoing.view(-1, 1, 1, 1)
    unit = weight.abs().amax((1, 2, 3)) / calibration.limit
    unit = torch.where(unit > 0, unit, 1.0)
    return Exact((weight / unit.view(-1, 1, 1, 1)).flatten(2), unit, incoming, outgoing)


def quantise_network(network: UNetPlusPlus, calibration: Calibration) -> dict[str, Int8Convolution | Convolution]:
    """Convolutions of the levels that were calibrated; the first stays what it is, but gives counts.

    Raises
    ------
    ValueError
        Where the calibration is damaged or of another network.
    """
    level = max(int(key.split(".")[0].split("_")[1]) for key in calibration.offsets if key.startswith("head"))
    quantised: dict[str, Int8Convolution | Convolution] = {}
    for key, convolution in convolutions(network, level).items():
        if key == ENTRY:
            quantised[key] = _entry(convolution, calibration)
            continue
        exact = exact_weights(network.spec, key, convolution, calibration)
        if key in calibration.nudges:
            rounded = nudged(exact.weight, calibration.nudges[key], calibration.limit)
        else:
            rounded = round_smooth(exact.weight, calibration.limit)
        offset = torch.tensor(calibration.offsets[key], dtype=torch.float64)
        bias = (convolution.bias.double() + offset) / exact.outgoing
        weight = rounded.to(torch.int8).view(convolution.weight.shape)
        quantised[key] = Int8Convolution(weight, exact.unit.float(), bias.float())
    return quantised


def _entry(convolution: Convolution, calibration: Calibration) -> Convolution:
    """The first convolution in float32; cut off behind the point, what it gives is counts."""
    scale = _scale(calibration, ENTRY)
    weight = convolution.weight.double() / scale.view(-1, 1, 1, 1)
    bias = convolution.bias.double() / scale + 0.5
    return Convolution(weight.float(), bias.float(), relu=True)


def _sources(spec: NetworkSpec, key: str) -> list[str]:
    """Convolutions whose outputs a convolution takes, in the order of its input channels."""
    node, part = key.split(".")
    if node.startswith("head"):
        return [f"0_{node.removeprefix('head_')}.1"]
    i, j = map(int, node.split("_"))
    if part == "1":
        return [f"{node}.0"]
    if j == 0:
        return [f"{i - 1}_0.1"]
    skips = [f"{a}_{b}.1" for a, b in spec.same_row(i, j)]
    up = [f"{i + 1}_{j - 1}.1"]
    return up + skips if spec.concatenation == "up-first" else skips + up


def _scale(calibration: Calibration, key: str) -> Tensor:
    """Activation per count of a convolution's output channels, float64."""
    reach = torch.tensor(calibration.ranges[key], dtype=torch.float64)
    alive = reach[reach > 0]
    # A channel that never spoke may do so elsewhere: then it is taken for one like the others.
    usual = alive.median() if len(alive) else torch.ones((), dtype=torch.float64)
    return torch.where(reach > 0, reach, usual) / COUNTS
