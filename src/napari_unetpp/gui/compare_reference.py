"""A Labels layer as the reference of a prediction, and which tiles an edit of it touches.

Decides, in this order: which layers can be one (`references_in`), how its voxels become those of the prediction
(`reference_from_layer`), and what has to be counted again after somebody painted (`touched_tiles`).

A reference has the axes of the image, with its channels or without::

    image        z c y x     (3, 2, 64, 64)
    prediction   z   y x     (3,    64, 64)
    reference    z c y x     (3, 2, 64, 64)     the largest label of all channels, or
                 z   y x     (3,    64, 64)     as it is
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels

from napari_unetpp.gui.image_layer import finest
from napari_unetpp.gui.layers import METADATA_KEY

if TYPE_CHECKING:
    from napari import Viewer
    from numpy.typing import NDArray

    from napari_unetpp.box import Box
    from napari_unetpp.evaluation.agreement import Reference
    from napari_unetpp.evaluation.levels import Unpainted
    from napari_unetpp.gui.layers import LevelLayers
    from napari_unetpp.inference.tiles import Tiles


def references_in(viewer: Viewer) -> list[Labels]:
    """The Labels layers of the viewer that are no prediction, in its order."""
    return [x for x in viewer.layers if isinstance(x, Labels) and METADATA_KEY not in x.metadata]


def reference_from_layer(layer: Labels, levels: LevelLayers, unpainted: Unpainted = "background") -> Reference:
    """The layer's labels in the axes of the prediction, read where they are asked for; of several resolutions, the finest.

    Raises
    ------
    ValueError
        Where its shape is not that of the image, with or without channels; one line for the user.
    """
    from napari_unetpp.evaluation.agreement import Reference

    data = finest(layer)
    store = levels.store
    axes, origin = _placed(layer.name, tuple(data.shape), levels)

    def read(box: Box) -> NDArray[Any]:
        spans = dict(zip(store.axes, box.shift(origin).slices, strict=True))
        voxels = np.asarray(data[tuple(spans.get(axis, slice(None)) for axis in axes)])
        if "c" in axes:
            voxels = voxels.max(axis=axes.index("c"))
        kept = [axis for axis in axes if axis != "c"]
        return voxels.transpose([kept.index(axis) for axis in store.axes])

    return Reference(read, unpainted)


def touched_tiles(atoms: Sequence[Any], layer: Labels, levels: LevelLayers, tiles: Tiles) -> NDArray[np.intp] | slice:
    """Numbers of the tiles in which voxels were painted; all of them where that cannot be told.

    Parameters
    ----------
    atoms
        The value of a Labels layer's `paint` event. Each holds a box that was painted in, or the indices of the voxels.
    """
    shape = tuple(finest(layer).shape)
    axes, origin = _placed(layer.name, shape, levels)
    found = []
    for atom in atoms:
        spans = _painted(atom)
        if spans is None or len(spans) != len(axes):
            return slice(None)
        of_axis = dict(zip(axes, spans, strict=True))
        places = []
        for axis, shift, inner in zip(levels.store.axes, origin, tiles.inner_spans, strict=True):
            low, high = (edge - shift for edge in of_axis[axis])
            places.append([i for i, (start, stop) in enumerate(inner) if start < high and stop > low])
        found.append(np.ravel_multi_index(np.ix_(*places), tiles.grid).ravel())
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.intp)


def _painted(atom: Any) -> list[tuple[int, int]] | None:
    """Half-open spans, per axis of the layer, around what a step of a stroke changed."""
    box = getattr(atom, "slice_key", None)
    if box is not None and all(isinstance(part, slice) and None not in (part.start, part.stop) for part in box):
        return [(part.start, part.stop) for part in box]
    try:
        return [(int(np.min(places)), int(np.max(places)) + 1) for places in atom[0]]
    except (TypeError, ValueError, IndexError):
        return None


def _placed(name: str, shape: tuple[int, ...], levels: LevelLayers) -> tuple[str, tuple[int, ...]]:
    """The axes of a reference, and where in it the prediction begins."""
    store = levels.store
    region = store.record.get("region")  # of a larger stack, that was cut out before it was predicted
    with_channels = levels.axes[: _ndim(levels)]  # without the samples of RGB
    for axes in (with_channels, with_channels.replace("c", "")):
        if len(axes) == len(shape):
            extents = dict(zip(axes, shape, strict=True))
            found = tuple(extents[axis] for axis in store.axes)
            if found == store.shape:
                return axes, (0,) * len(found)
            if region is not None and all(b <= n for b, n in zip(region[1], found, strict=True)):
                return axes, tuple(region[0])
    raise ValueError(
        f"{name} has shape {_text(shape)} where the prediction has {_text(store.shape)} ({store.axes}); "
        "choose labels of the same image"
    )


def _ndim(levels: LevelLayers) -> int:
    return next(iter(levels.layers.values())).ndim


def _text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
