"""How raw intensities become network input: ``(raw - offset) * gain``, with offset and gain per channel.

A model keeps its *rule* (`Intensity`); a stack gives the *numbers* (`Scaling`) once, before anything is predicted, so that all
tiles of a stack, and a run that is resumed, see the same ones.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kind = Literal["percentile", "zscore", "fixed"]


@dataclass(frozen=True, slots=True)
class Scaling:
    """Offset and gain, one per channel, in raw units and in 1 / raw units."""

    offset: tuple[float, ...]
    gain: tuple[float, ...]

    def apply(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """Network input, float32, out of a raw array (channel, ...) of any integer or float dtype."""
        if raw.shape[0] != len(self.offset):
            raise ValueError(f"array of {raw.shape[0]} channels where the scaling knows {len(self.offset)}")
        trailing = (len(self.offset),) + (1,) * (raw.ndim - 1)
        offset = np.asarray(self.offset, np.float32).reshape(trailing)
        gain = np.asarray(self.gain, np.float32).reshape(trailing)
        scaled: NDArray[np.float32] = (raw.astype(np.float32) - offset) * gain
        return scaled

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Scaling:
        """Scaling out of the values of `to_json`."""
        return cls(tuple(map(float, values["offset"])), tuple(map(float, values["gain"])))


@dataclass(frozen=True, slots=True)
class Intensity:
    """The rule of a model.

    Parameters
    ----------
    kind
        ``"percentile"``: the percentiles `low` and `high` of the stack become 0 and 1. ``"zscore"``: mean 0, standard deviation
        1. ``"fixed"``: `fixed_offset` and `fixed_gain` whatever the stack holds.
    low, high
        Percentiles in percent.
    per_channel
        Measure each channel by itself; otherwise all channels share one range (colours stay what they are).
    replicate_gray
        A stack without channels may enter a network of several: its one channel is repeated.
    """

    kind: Kind = "percentile"
    low: float = 1.0
    high: float = 99.8
    per_channel: bool = True
    replicate_gray: bool = False
    fixed_offset: tuple[float, ...] = (0.0,)
    fixed_gain: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.kind not in ("percentile", "zscore", "fixed"):
            raise ValueError(f"intensity kind {self.kind!r} is unknown; use percentile, zscore or fixed")
        if not 0 <= self.low < self.high <= 100:
            raise ValueError(f"percentiles {self.low} and {self.high} must satisfy 0 <= low < high <= 100")
        if len(self.fixed_offset) != len(self.fixed_gain):
            raise ValueError(
                f"{len(self.fixed_offset)} fixed offsets but {len(self.fixed_gain)} gains; name one of each a channel"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Intensity:
        """Rule out of the values of `to_json`; refuses unknown fields with a ValueError."""
        if unknown := sorted(set(values) - {f.name for f in fields(cls)}):
            raise ValueError(
                f"unknown intensity field {', '.join(unknown)}; a newer version of napari-unetpp may have written it"
            )
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


def measure(intensity: Intensity, sample: NDArray[Any]) -> Scaling:
    """Numbers of a rule for the stack that `sample` (channel, ...) is drawn from.

    A constant channel has gain 1, so it becomes all zeros instead of a division by zero.

    Raises
    ------
    ValueError
        If the sample is empty, holds NaN or infinity, or has other channels than a fixed rule names.
    """
    channels = sample.shape[0]
    if intensity.kind == "fixed":
        if len(intensity.fixed_offset) not in (1, channels):
            raise ValueError(
                f"stack of {channels} channels where the model's fixed intensities name {len(intensity.fixed_offset)}"
            )
        repeat = channels if len(intensity.fixed_offset) == 1 else 1
        return Scaling(intensity.fixed_offset * repeat, intensity.fixed_gain * repeat)
    if sample.size == 0:
        raise ValueError("the stack is empty; there are no intensities to measure")
    flat = sample.reshape(channels, -1) if intensity.per_channel else sample.reshape(1, -1)
    flat = flat.astype(np.float64)
    if not np.isfinite(flat).all():
        raise ValueError("the image contains NaN or infinity; replace them by finite intensities first")
    if intensity.kind == "percentile":
        low, high = np.percentile(flat, [intensity.low, intensity.high], axis=1)
        offset, spread = low, high - low
    else:
        offset, spread = flat.mean(axis=1), flat.std(axis=1)
    gain = 1.0 / np.where(spread > 0, spread, 1.0)
    repeat = 1 if intensity.per_channel else channels
    return Scaling(tuple(map(float, offset)) * repeat, tuple(map(float, gain)) * repeat)
