"""How raw intensities become network input: ``(raw - offset) * gain``, with offset and gain per channel.

A model keeps its *rule* (`Intensity`); a stack gives the *numbers* (`Scaling`) once, before anything is predicted, so that all
tiles of a stack, and a run that is resumed, see the same ones. Differences are taken before anything becomes float32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Kind = Literal["percentile", "zscore", "fixed"]
Over = Literal["stack", "plane", "robust"]
OVERS: tuple[Over, ...] = ("stack", "plane", "robust")
_EXACT = 2.0**53  # integers up to here are exact as double
_FLOAT32 = 1e-4  # of the range: what rounding to float32 may cost


@dataclass(frozen=True, slots=True)
class Scaling:
    """Offset and gain, one per channel, in raw units and in 1 / raw units.

    Parameters
    ----------
    offset
        An integer where a double could not hold it (uint64 beyond 2**53).
    axes, counts, offsets, gains
        Where planes differ: the leading axes ("t", "z" or "tz"), their extents, and offset and gain of each plane, in the
        order of storage. Then `offset` and `gain` are those of the brightest plane.
    speck
        Where pixels are broken: a voxel that differs from the median of its 3 x 3 neighbours by more than this, one number per
        channel in raw units, becomes that median.
    padding, fill
        Raw values that stand for "no picture", one row of channels each, and what the network is given there and for NaN: one
        number per channel, in units of network input.
    note
        What was left out or treated by itself, in one line; empty where the plain rule holds.
    """

    offset: tuple[float, ...]
    gain: tuple[float, ...]
    axes: str = ""
    counts: tuple[int, ...] = ()
    offsets: tuple[tuple[float, ...], ...] = ()
    gains: tuple[tuple[float, ...], ...] = ()
    speck: tuple[float, ...] = ()
    padding: tuple[tuple[float, ...], ...] = ()
    fill: tuple[float, ...] = ()
    note: str = ""

    @property
    def plain(self) -> bool:
        """Whether every voxel is scaled by itself, and all in the same way."""
        return not self.axes and not self.speck and not self.fill

    @property
    def range(self) -> tuple[float, float]:
        """Raw intensities that become 0 and 1, of all channels together."""
        return min(self.offset), max(
            o + (round(1 / g) if isinstance(o, int) else 1 / g) for o, g in zip(self.offset, self.gain, strict=True)
        )

    def apply(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """Network input, float32, out of a raw array (channel, ...) of any integer or float dtype.

        NaN, which is only found outside the picture, becomes 0.

        Raises
        ------
        ValueError
            Where the channels are others, or the scaling is not `plain`: `napari_unetpp.model.sampling.as_seen` applies it.
        """
        if not self.plain:
            raise ValueError("this scaling depends on the plane or on neighbours; apply it with as_seen")
        if raw.shape[0] != len(self.offset):
            raise ValueError(f"array of {raw.shape[0]} channels where the scaling knows {len(self.offset)}")
        trailing = (len(self.offset),) + (1,) * (raw.ndim - 1)
        entered = scaled(raw, _column(self.offset, trailing), np.asarray(self.gain).reshape(trailing))
        if raw.dtype.kind == "f":
            entered[np.isnan(entered)] = 0
        return entered

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; what does not differ from the plain rule is left out."""
        return {k: v for k, v in asdict(self).items() if v or k in ("offset", "gain")}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Scaling:
        """Scaling out of the values of `to_json`."""
        return cls(
            tuple(map(_number, values["offset"])),
            tuple(map(float, values["gain"])),
            str(values.get("axes", "")),
            tuple(map(int, values.get("counts", ()))),
            tuple(tuple(map(_number, row)) for row in values.get("offsets", ())),
            tuple(tuple(map(float, row)) for row in values.get("gains", ())),
            tuple(map(float, values.get("speck", ()))),
            tuple(tuple(map(_number, row)) for row in values.get("padding", ())),
            tuple(map(float, values.get("fill", ()))),
            str(values.get("note", "")),
        )


def scaled(raw: NDArray[Any], offset: NDArray[Any], gain: NDArray[Any]) -> NDArray[np.float32]:
    """(raw - offset) * gain as float32; offset and gain broadcast to raw.

    In float32 where that is as good, else in double, and for 64-bit integers the difference is an integer's.
    """
    lost = np.abs(offset.astype(np.float64) * gain).max(initial=0) * np.finfo(np.float32).eps
    if lost < _FLOAT32:
        single: NDArray[np.float32] = (raw.astype(np.float32) - offset.astype(np.float32)) * gain.astype(np.float32)
    else:
        single = (difference(raw, offset) * gain).astype(np.float32)
    return single


def difference(raw: NDArray[Any], offset: NDArray[Any]) -> NDArray[np.float64]:
    """The difference in double, exact where 64-bit integers lie near each other.

    >>> difference(np.array([2**63 + 1], np.uint64), np.array([2**63], object)).tolist()
    [1.0]
    """
    rough: NDArray[np.float64] = raw.astype(np.float64) - offset.astype(np.float64)
    if raw.dtype.kind not in "iu" or raw.dtype.itemsize < 8:
        return rough
    whole = np.asarray([int(v) % 2**64 for v in offset.reshape(-1)], np.uint64).reshape(offset.shape)
    fraction = np.asarray([float(v - int(v)) for v in offset.reshape(-1)]).reshape(offset.shape)
    near = (raw.astype(np.uint64) - whole).view(np.int64) - fraction  # uint64 wraps, and the difference is right again
    return np.where(np.abs(rough) < 2.0**62, near, rough)


def _column(values: tuple[float, ...], shape: tuple[int, ...]) -> NDArray[Any]:
    large = any(isinstance(v, int) for v in values)
    return np.array(values, object if large else np.float64).reshape(shape)


def _number(value: Any) -> float:
    """A float, or an integer that a float would round."""
    return value if isinstance(value, int) and abs(value) >= _EXACT else float(value)


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
    over
        Of what the range is measured. ``"stack"``: of all voxels. ``"plane"``: of each plane or time point by itself.
        ``"robust"``: of the picture alone, without padding, empty area and broken pixels, and of each plane where planes
        differ in brightness; where nothing of this is found, exactly as ``"stack"``.
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
    over: Over = "stack"

    def __post_init__(self) -> None:
        if self.kind not in ("percentile", "zscore", "fixed"):
            raise ValueError(f"intensity kind {self.kind!r} is unknown; use percentile, zscore or fixed")
        if self.over not in OVERS:
            raise ValueError(f"intensities over {self.over!r} are unknown; use {', '.join(OVERS)}")
        if not 0 <= self.low < self.high <= 100:
            raise ValueError(f"percentiles {self.low} and {self.high} must satisfy 0 <= low < high <= 100")
        if len(self.fixed_offset) != len(self.fixed_gain):
            raise ValueError(
                f"{len(self.fixed_offset)} fixed offsets but {len(self.fixed_gain)} gains; name one of each a channel"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as earlier versions know them where `over` is ``"stack"``."""
        return {k: v for k, v in asdict(self).items() if k != "over" or v != "stack"}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Intensity:
        """Rule out of the values of `to_json`; refuses unknown fields with a ValueError."""
        if unknown := sorted(set(values) - {f.name for f in fields(cls)}):
            raise ValueError(
                f"unknown intensity field {', '.join(unknown)}; a newer version of napari-unetpp may have written it"
            )
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


NEW = Intensity(over="robust")  # of models that are trained anew


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
    base = int(flat.flat[0]) if flat.dtype.kind in "iu" and flat.dtype.itemsize == 8 else 0
    flat = difference(flat, np.array(base, object)) if base else flat.astype(np.float64)
    if not np.isfinite(flat).all():
        raise ValueError("the image contains NaN or infinity; replace them by finite intensities first")
    spans = [statistics(intensity, row) for row in flat]
    return scaling_of(spans if intensity.per_channel else spans * channels, base)


def statistics(intensity: Intensity, values: NDArray[np.float64]) -> tuple[float, float]:
    """What becomes 0, and what lies 1 above it, of the values of one channel."""
    if intensity.kind == "percentile":
        low, high = np.percentile(values, [intensity.low, intensity.high])
        return float(low), float(high - low)
    return float(values.mean()), float(values.std())


def scaling_of(spans: Sequence[tuple[float, float]], base: int = 0) -> Scaling:
    """Scaling of channels out of `statistics`, of intensities from which `base` was taken away."""
    offsets = tuple(base + round(low) if abs(base) >= _EXACT else base + low for low, _ in spans)
    return Scaling(offsets, tuple(1.0 / spread if spread > 0 else 1.0 for _, spread in spans))
