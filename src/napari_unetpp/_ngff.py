"""Reading OME-Zarr (NGFF 0.1 to 0.5) and plain zarr arrays at full resolution.

Decides which image of a group is meant (`read_zarr`) and what its axes and spacing are. Everything
stays on disk; zarr reads the chunks that are asked for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import zarr

from napari_unetpp._opened import DAMAGED, Opened, default_axes, micrometres, one_line, seconds, which

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr array or group."""
    return any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def read_zarr(path: Path, series: int | None = None) -> Opened:
    """Open one image of a zarr folder; without `series` its first.

    Raises
    ------
    ValueError
        Where the folder is no zarr, is damaged or has no such image.
    """
    if not is_zarr(path):
        msg = f"{path} is a folder without zarr metadata; give a TIFF, an OME-Zarr or a .npy file"
        raise ValueError(msg)
    try:
        node = zarr.open(path, mode="r")
        if isinstance(node, zarr.Array):
            return wrap_zarr(node, path.stem)
        return _image(node, path, series)
    except _Refused as refusal:
        raise ValueError(str(refusal)) from None
    except (*DAMAGED, FileNotFoundError) as error:
        msg = f"{path} cannot be read as zarr ({one_line(error)})"
        raise ValueError(msg) from error


class _Refused(ValueError):
    """A folder that we refuse ourselves, in words of our own."""


def wrap_zarr(array: zarr.Array[Any], name: str) -> Opened:
    """Take a plain array; zarr v3 names its dimensions, and xarray's attribute does so in v2."""
    attributes: Mapping[str, Any] = array.attrs.asdict()
    found = getattr(array.metadata, "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS")
    names = [str(name) for name in found or () if name]
    axes = _letters([{"name": n} for n in names]) if names else default_axes(array.ndim)
    return Opened(array, axes, _says(names), name, named=bool(names))


def _image(group: zarr.Group, path: Path, series: int | None) -> Opened:
    attributes: Mapping[str, Any] = group.attrs.asdict()
    ome = attributes.get("ome", attributes)  # 0.5 moved everything below "ome"
    images = ome.get("multiscales")
    if images is None and "bioformats2raw.layout" in ome:
        opened = read_zarr(path / str(series or 0))
        if series is None:
            count = sum(name.isdecimal() for name in group.group_keys())
            opened = replace(opened, notes=(*which(0, count, opened.name), *opened.notes), count=max(1, count))
        return opened
    wanted = series or 0
    if not images:
        members = ", ".join(sorted(group.keys())) or "nothing"
        msg = f"{path} is a zarr group without an image of its own; open one of: {members}"
        raise _Refused(msg)
    if not 0 <= wanted < len(images):
        msg = f"{path} has no image {wanted}; it has {len(images)}"
        raise _Refused(msg)
    image = images[wanted]
    finest = image["datasets"][0]  # the specification orders resolutions from fine to coarse
    array = group[finest["path"]]
    if not isinstance(array, zarr.Array):
        msg = f"{path}/{finest['path']} should be an array, but is a group"
        raise _Refused(msg)
    axes = [a if isinstance(a, dict) else {"name": a} for a in image.get("axes", "tczyx")]
    letters = _letters(axes)
    scale = _scale(finest, len(axes), _scale(image, len(axes), [1.0] * len(axes)))
    spacing, interval = {}, None
    for letter, axis, step in zip(letters or "", axes, scale, strict=False):
        length = micrometres(step, axis.get("unit"))
        if letter in "zyx" and length is not None:
            spacing[letter] = length
        if letter == "t":
            interval = seconds(step, axis.get("unit"))
    name = path.stem.removesuffix(".ome")
    says = _says([a["name"] for a in axes])
    notes = which(0, len(images), str(image.get("name") or "")) if series is None else ()
    colours = False if letters and "c" in letters else None
    return Opened(
        array, letters, says, name, spacing, colours=colours, notes=notes, interval_s=interval, count=len(images)
    )


def _letters(axes: Sequence[Mapping[str, Any]]) -> str | None:
    """One letter per axis by its name, or else by its type; None where that leaves a question."""
    by_type = {"time": "t", "channel": "c"}
    letters = [
        name if name in set("tczyx") else by_type.get(axis.get("type", name), "?")
        for axis in axes
        for name in [str(axis["name"]).lower()]
    ]
    named = "".join(letters)
    return named if "?" not in named and len(set(named)) == len(named) else None


def _says(names: Sequence[str]) -> str:
    return f"it says {', '.join(names)}" if names else "it says nothing of them"


def _scale(holder: Mapping[str, Any], ndim: int, before: Sequence[float]) -> list[float]:
    """Spacing per axis after the transformations of `holder`, on top of `before`."""
    scale = list(before)
    for step in holder.get("coordinateTransformations", ()):
        if step.get("type") == "scale" and len(step.get("scale", ())) == ndim:
            scale = [a * float(b) for a, b in zip(scale, step["scale"], strict=True)]
    return scale
