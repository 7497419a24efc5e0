"""What a network of somebody is given beside its weights: how images are scaled, its classes, its tiling, and what is told of it.

In this order: the model with all of it (`Imported`), the intensities (`intensity_of`), the classes (`classes_of`), the tiling its
card recommends (`tiling_of`), and the sentences about what was assumed (`notes_of`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_unetpp.model.card import CLASS_COLORS, ClassInfo
from napari_unetpp.model.foreign_found import INTENSITIES, Asked, Found, Intensities, UnfitError
from napari_unetpp.model.intensity import Intensity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.spec import NetworkSpec

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision and albumentations have them


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """A model made of a checkpoint; `what` is what it was recognised as, `notes` what was assumed, `found` what its weights say."""

    model: Model
    what: str
    notes: tuple[str, ...]
    found: Found | None = None

    @property
    def lines(self) -> dict[str, str]:
        """What was recognised, by what it is called."""
        spec, intensity = self.model.spec, self.model.intensity
        heads = ", ".join(f"L{d}" for d in spec.heads)
        scaled = f"{intensity.kind} of each stack"
        if intensity.kind == "fixed":
            pairs = list(zip(intensity.fixed_offset, intensity.fixed_gain, strict=True))
            scaled = ", ".join(f"(raw - {offset:g}) * {gain:.6g}" for offset, gain in pairs)
            if set(pairs) == {(0.0, 1.0)}:
                scaled = "none, images as they are"
        steps = {"steps": ", ".join("x".join(map(str, step)) for step in spec.steps)} if spec.steps else {}
        return {
            "recognised": self.what,
            "input": f"{spec.ndim}D, {spec.in_channels} channel{'s' * (spec.in_channels > 1)}",
            "widths": ", ".join(map(str, spec.widths)),
            **steps,
            "heads": heads,
            "up-sampling": spec.upsampling,
            "preprocessing": scaled,
            "classes": ", ".join(c.name for c in self.model.classes),
        }


def intensity_of(kind: Intensities, channels: int, *, bgr: bool) -> Intensity:
    """How images became input; 8-bit ones where it counts.

    Raises
    ------
    UnfitError
        If the kind is unknown, or is one for colours and the network takes no three channels.
    """
    if kind not in INTENSITIES:
        raise UnfitError(f"intensities {kind!r} are unknown; use {', '.join(INTENSITIES)}")
    gray = channels > 1
    if kind in ("percentile", "zscore"):
        return Intensity("percentile" if kind == "percentile" else "zscore", replicate_gray=gray)
    if kind in ("unit", "raw"):
        gain = 1 / 255 if kind == "unit" else 1.0
        return Intensity("fixed", replicate_gray=gray, fixed_offset=(0.0,) * channels, fixed_gain=(gain,) * channels)
    if channels != 3:
        raise UnfitError(
            f"--intensities {kind} is for 3 channels, and it takes {channels}; use unit, raw, percentile or zscore"
        )
    mean, std = (
        (_MEAN[::-1], _STD[::-1]) if bgr else (_MEAN, _STD)
    )  # the mean of red was applied to blue; see `rgb_first`
    more = 255.0 if kind == "imagenet-255" else 1.0
    return Intensity(
        "fixed",
        replicate_gray=gray,
        fixed_offset=tuple(255 * m for m in mean),
        fixed_gain=tuple(1 / (255 * s * more) for s in std),
    )


def classes_of(count: int, names: tuple[str, ...], extras: Mapping[str, Any]) -> tuple[ClassInfo, ...]:
    """Classes by the names that were given, the background's added where it was left out, else by what lay beside the weights.

    Raises
    ------
    UnfitError
        If there are other names than classes.
    """
    if names and len(names) == count - 1 and count > 1:
        names = ("background", *names)
    if names and len(names) != count:
        raise UnfitError(f"it has {count} classes, not {len(names)}; give --class once for each")
    if not names:
        masks = extras.get("mask_values")  # milesial's: the gray values of the classes in the masks
        if not (isinstance(masks, list) and len(masks) == count and all(isinstance(m, int) for m in masks)):
            masks = []
        others = [f"mask {m}" for m in masks[1:]] or [f"class {i}" for i in range(1, count)]
        names = ("foreground",) if count == 1 else ("background", *others)
    return tuple(ClassInfo(name, CLASS_COLORS[i % len(CLASS_COLORS)]) for i, name in enumerate(names))


def tiling_of(spec: NetworkSpec, patch: int) -> dict[str, str | int]:
    """Overlapping patches where no halo is exact; else nothing needs them."""
    if spec.size_independent:
        return {"kind": "seamless"}
    extent = max(64 if spec.ndim == 3 else patch, spec.grid) // spec.grid * spec.grid
    return {"kind": "overlap", "patch": extent, "stride": extent // 2, "aggregate": "gaussian"}


def notes_of(found: Found, spec: NetworkSpec, asked: Asked) -> Iterable[str]:
    """Sentences about what was assumed, each with the option that says otherwise."""
    yield from found.notes
    if len(spec.heads) == 1:
        kept = {"mean": "its heads were averaged to one", "last": "only its last head was kept"}
        one = len(found.spec.heads) == 1
        why = "it has no head but that, as without deep supervision" if one else kept[asked.heads or found.heads]
        yield f"the level slider has one position, L{spec.depth}: {why}, so no shallower level can answer"
    if found.bgr:
        yield "it was trained on blue, green, red; its first convolution was turned round, so give it red, green, blue"
    if asked.intensities is None:
        others = [k for k in INTENSITIES if k != found.intensities and (spec.in_channels == 3 or "imagenet" not in k)]
        images = "" if found.intensities in ("percentile", "zscore") else ", for 8-bit images"
        yield f"its preprocessing is taken to be {found.intensities}{images}: else --intensities {'|'.join(others)}"
    if not asked.classes:
        yield "its classes have no names: --class NAME, once for each"
