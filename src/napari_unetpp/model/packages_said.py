"""What the description of a package says, in our words.

In this order: the description itself (`read_description`), the way that intensities take (`said_intensity`), and what goes into
the card (`said_card`). A description is a text of anybody: what is odd in it is left out, and told where it matters.

Versions 0.4 and 0.5 of bioimage.io's format differ: steps have a ``name`` there and an ``id`` here, axes are letters there and
entries here.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_unetpp.model.card import Card, ClassInfo
from napari_unetpp.model.checkpoint import ModelFileError
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.packages_files import DESCRIPTIONS, MOST_TEXT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_unetpp.model.packages_files import PackageFiles

_MICROMETERS = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}
_LONGEST = 1000  # characters of a text that goes into the card
_NUMBERED = re.compile(r"(channel|class|c|output)?[ _-]?\d*", re.IGNORECASE)  # names that say nothing


def read_description(files: PackageFiles) -> dict[str, Any]:
    """The description of a package as plain values; YAML can name Python objects, and none is made.

    Raises
    ------
    ModelFileError
        If there is none, or it is no description of a model.
    """
    import yaml  # type: ignore[import-untyped]

    path = files.path
    name = next((name for name in DESCRIPTIONS if name in files.sizes), None)
    if name is None:
        raise ModelFileError(f"{path} is no package of bioimage.io: it holds no {', '.join(DESCRIPTIONS)}")
    content = files.read(name, MOST_TEXT)
    try:
        said = yaml.safe_load(content.decode("utf-8"))
    except yaml.constructor.ConstructorError as error:
        raise ModelFileError(
            f"{path}: its {name} asks for more than plain values ({str(error.problem)[:80]}), which is refused"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        raise ModelFileError(f"{path}: its {name} is no readable YAML; fetch it again") from None
    if not isinstance(said, dict) or not isinstance(said.get("weights"), dict):
        raise ModelFileError(f"{path}: its {name} describes no model with weights; a model of bioimage.io is wanted")
    return said


def said_intensity(said: Mapping[str, Any], channels: int, *, gray: bool) -> tuple[Intensity | None, str]:
    """The rule that the preprocessing of the first input amounts to, and what of it had to be left out, in words.

    The rule is None where ours cannot say it.
    """
    gains, offsets = [1.0] * channels, [0.0] * channels  # raw * gain + offset, up to here
    measured: Intensity | None = None
    left: list[str] = []
    for step in _entries(_first(said, "inputs").get("preprocessing")):
        kind, kwargs = str(step.get("id", step.get("name", "")))[:40], step.get("kwargs")
        kwargs = kwargs if isinstance(kwargs, dict) else {}
        if kind == "zero_mean_unit_variance" and kwargs.get("mode") == "fixed":
            kind = "fixed_zero_mean_unit_variance"  # its name in 0.5
        try:
            if kind == "ensure_dtype":
                continue
            if kind in ("scale_linear", "fixed_zero_mean_unit_variance"):
                gain, offset = _linear(kind, kwargs, channels)
                if measured is not None:
                    return None, f"{kind} behind {measured.kind}"
                gains = [g * more for g, more in zip(gains, gain, strict=True)]
                offsets = [o * more + plus for o, more, plus in zip(offsets, gain, offset, strict=True)]
            elif kind in ("zero_mean_unit_variance", "scale_range"):
                if measured is not None or min(gains) <= 0 or kwargs.get("reference_tensor"):
                    return None, f"{kind} behind other steps"
                measured = _measured(kind, kwargs, channels)
            else:
                if kind != "clip":
                    return None, kind or "a step without a name"
                left.append(kind)
        except (TypeError, ValueError):
            return None, f"{kind} with odd values"
    words = ", ".join(left)
    if measured is not None:
        return replace(measured, replicate_gray=gray), words
    if not all(math.isfinite(v) for v in (*gains, *offsets)) or 0.0 in gains:
        return None, "a gain of nothing"
    # ours is (raw - offset) * gain
    starts = tuple(0.0 - o / g if o else 0.0 for g, o in zip(gains, offsets, strict=True))
    return Intensity("fixed", replicate_gray=gray, fixed_offset=starts, fixed_gain=tuple(gains)), words


def said_card(said: Mapping[str, Any], card: Card, ndim: int, *, classes: bool) -> Card:
    """The card with what the description says of name, data, licence, people, spacing and, where asked for, classes."""
    people = [_text(author.get("name")) for author in _entries(said.get("authors"))]
    cited = [" ".join(filter(None, (_text(c.get("text")), _text(c.get("doi"))))) for c in _entries(said.get("cite"))]
    names = _class_names(said, len(card.classes)) if classes else None
    return replace(
        card,
        description=_text(said.get("description")) or card.description,
        licence=_text(said.get("license")) if isinstance(said.get("license"), str) else card.licence,
        credit="; ".join(filter(None, [", ".join(filter(None, people)), *cited]))[:_LONGEST],
        classes=card.classes
        if names is None
        else tuple(ClassInfo(name, c.color) for name, c in zip(names, card.classes, strict=True)),
        spacing_um=_spacing(said, ndim),
    )


def said_order(said: Mapping[str, Any]) -> str:
    """Letters of the spatial axes of the first input, in their order, as ``"yx"``."""
    axes = _first(said, "inputs").get("axes")
    names = axes if isinstance(axes, str) else "".join(str(a.get("id", ""))[:1] for a in _entries(axes))
    return "".join(letter for letter in names if letter in "xyz")


def _linear(kind: str, kwargs: Mapping[str, Any], channels: int) -> tuple[list[float], list[float]]:
    first, second = ("gain", "offset") if kind == "scale_linear" else ("std", "mean")
    values = [kwargs.get(first, 1.0), kwargs.get(second, 0.0)]
    a, b = ([float(x) for x in (v if isinstance(v, list) else [v] * channels)] for v in values)
    if not len(a) == len(b) == channels:
        raise ValueError("not one of each a channel")
    if kind == "scale_linear":
        return a, b
    return [1 / std if std else math.inf for std in a], [
        -mean / std if std else math.inf for std, mean in zip(a, b, strict=True)
    ]


def _measured(kind: str, kwargs: Mapping[str, Any], channels: int) -> Intensity:
    axes = kwargs.get("axes")
    jointly = axes is None or any(str(axis) in ("channel", "c") for axis in axes)
    alone = channels == 1 or not jointly
    if kind == "zero_mean_unit_variance":
        return Intensity("zscore", per_channel=alone)
    low, high = float(kwargs.get("min_percentile", 0.0)), float(kwargs.get("max_percentile", 100.0))
    return Intensity("percentile", low, high, per_channel=alone)


def _class_names(said: Mapping[str, Any], count: int) -> list[str] | None:
    """Names of the channels of the first output, where there are as many as classes and they say something."""
    for axis in _entries(_first(said, "outputs").get("axes")):
        names = axis.get("channel_names")
        if isinstance(names, list) and len(names) == count and all(isinstance(name, str) for name in names):
            texts = [_text(name)[:80] for name in names]
            return None if all(_NUMBERED.fullmatch(text) for text in texts) else texts
    return None


def _spacing(said: Mapping[str, Any], ndim: int) -> tuple[float, ...] | None:
    spacing = []
    for axis in _entries(_first(said, "inputs").get("axes")):
        scale, factor = axis.get("scale"), _MICROMETERS.get(str(axis.get("unit")))
        if axis.get("type") == "space":
            if factor is None or not isinstance(scale, int | float) or not 0 < scale < math.inf:
                return None
            spacing.append(round(scale * factor, 9))
    return tuple(spacing) if len(spacing) == ndim else None


def _first(said: Mapping[str, Any], key: str) -> dict[str, Any]:
    return next(iter(_entries(said.get(key))), {})


def _entries(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return " ".join(value.split())[:_LONGEST] if isinstance(value, str) else ""
