"""What lies where in a store, and what other OME-Zarr readers (NGFF 0.5) are told about it.

Decides, in this order: the axes of the stored arrays, the attributes of the root, the group of one
level, the done maps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from napari_unetpp._codecs import CODECS

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = "0.5"
SEEN = "done/seen"  # name of the array of hashes
DONE_CHUNK = 4096  # a mark rewrites one chunk of the done map, so it must stay small
_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


def array_axes(axes: str) -> str:
    """Axes of the stored arrays: the class channel at its NGFF place, after time and before space.

    >>> array_axes("tzyx"), array_axes("yx")
    ('tczyx', 'cyx')
    """
    return axes.replace("t", "tc") if "t" in axes else "c" + axes


def root_attributes(
    levels: Sequence[int], axes: str, spacing_um: Sequence[float | None], interval_s: float | None = None
) -> dict[str, Any]:
    """`ome` attributes of the root: one multiscale image per level, the deepest first.

    A reader that knows a single image takes the first entry, as the specification says.
    """
    images = [
        _multiscale(f"L{level}", f"L{level}/0", axes, spacing_um, interval_s) for level in sorted(levels, reverse=True)
    ]
    return {"ome": {"version": VERSION, "multiscales": images}}


def create_level(
    group: zarr.Group,
    level: int,
    axes: str,
    shape: Sequence[int],
    spacing_um: Sequence[float | None],
    chunks: Sequence[int],
    classes: Sequence[str],
    interval_s: float | None = None,
) -> None:
    """Add the group of one level: an image by itself, with named channels, shown from 0 to 255."""
    image = group.create_group(f"L{level}")
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels = [
        # A visible background channel would cover the others.
        {
            "label": name,
            "color": "FFFFFF",
            "window": window,
            "active": number > 0 or len(classes) == 1,
        }
        for number, name in enumerate(classes)
    ]
    ome: dict[str, Any] = {
        "version": VERSION,
        "multiscales": [_multiscale(f"L{level}", "0", axes, spacing_um, interval_s)],
        "omero": {"channels": channels, "rdefs": {"model": "color"}},
    }
    image.attrs["ome"] = ome
    place = array_axes(axes).index("c")
    image.create_array(
        "0",
        shape=(*shape[:place], len(classes), *shape[place:]),
        chunks=(*chunks[:place], 1, *chunks[place:]),
        dtype=np.uint8,
        compressors=CODECS,
        dimension_names=tuple(array_axes(axes)),
    )


def create_done(group: zarr.Group, levels: Sequence[int], grid: Sequence[int]) -> None:
    """Add what is known of each tile: the done map of every level, and a hash of the voxels that were read; all 0.

    Old ones are replaced.
    """
    chunks, room = [], DONE_CHUNK
    for extent in reversed(grid):
        chunks.append(max(1, min(extent, room)))
        room //= chunks[-1]
    # The hashes first: where the done maps of all levels are there, so are they.
    names: dict[str, type[np.unsignedinteger[Any]]] = {SEEN: np.uint64}
    names.update({f"done/L{level}": np.uint8 for level in levels})
    for name, dtype in names.items():
        group.create_array(
            name,
            shape=tuple(grid),
            chunks=tuple(reversed(chunks)),
            dtype=dtype,
            compressors=CODECS,
            overwrite=True,
        )


def stored_array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """The array of that name; KeyError where nothing has it, TypeError where it is a group.

    Chunks of zeros are written too, so that one that is missing is told from one of zeros.
    """
    found = group[name]
    if not isinstance(found, zarr.Array):
        raise TypeError(name)
    return found.with_config({"write_empty_chunks": True})


def _multiscale(
    name: str, path: str, axes: str, spacing_um: Sequence[float | None], interval_s: float | None
) -> dict[str, Any]:
    spacing = dict(zip(axes, spacing_um, strict=True))
    described: list[dict[str, str]] = []
    scale: list[float] = []
    for axis in array_axes(axes):
        known = spacing.get(axis)
        unit = {"unit": "micrometer"} if known is not None and _TYPES[axis] == "space" else {}
        described.append({"name": axis, "type": _TYPES[axis], **unit})
        if axis == "t" and interval_s is not None:
            known = interval_s
            described[-1]["unit"] = "second"
        scale.append(1.0 if known is None else float(known))
    transformation = {"type": "scale", "scale": scale}
    return {
        "name": name,
        "axes": described,
        "datasets": [{"path": path, "coordinateTransformations": [transformation]}],
    }
