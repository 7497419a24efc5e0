"""Predictions that were opened from disk, made to follow a slider like those of a run.

The reader (`napari_unetpp._reader`) gives plain Labels layers with their place in a store in their
metadata; `adopt` makes a `LevelLayers` of them. `predictions_in` calls it, so that no dock needs to.
It may be called while napari is still adding the layers of a store, one after the other: it changes
none but its own, and those that come later join those that were there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image, Labels

from napari_unetpp._reader import METADATA_KEY, StoredLevel, recommended_level
from napari_unetpp.gui.comparison import HeadComparison
from napari_unetpp.gui.image_layer import extents, suggest_axes
from napari_unetpp.gui.layers import LevelLayers, followed_in, hide_others
from napari_unetpp.gui.placing import place_like
from napari_unetpp.gui.versions import unwrapped

if TYPE_CHECKING:
    from napari import Viewer

    from napari_unetpp.gui.comparison import Level
    from napari_unetpp.inference.store import PredictionStore


def adopt(viewer: Viewer) -> list[LevelLayers]:
    """The predictions that gained layers by this call; call it in the thread of the window only.

    Where the image is open that was predicted, the layers are placed like it, and what other
    predictions of it show is hidden. Where a store is open already, in the layers of a run or from
    disk, opening it once more gives a second set of layers.
    """
    viewer = unwrapped(viewer)
    gained: dict[LevelLayers, None] = {}
    for layer in list(viewer.layers):
        marked = layer.metadata.get(METADATA_KEY)
        if isinstance(layer, Labels) and isinstance(marked, StoredLevel):
            levels = _levels_of(viewer, marked.store) or _new_levels(viewer, layer, marked.store)
            _join(levels, layer, marked.level)
            gained[levels] = None
    return list(gained)


def _join(levels: LevelLayers, layer: Labels, level: Level) -> None:
    image, comparison = levels.image_layer, levels.comparison
    if image is not None and extents(image) == levels.extents:
        place_like([layer], image)
    layer.data = levels.labels(level)  # which follow the threshold
    levels.take(level, layer)
    shown = comparison.visible and level == comparison.level
    if layer.visible != shown:
        layer.visible = shown


def _levels_of(viewer: Viewer, store: PredictionStore) -> LevelLayers | None:
    return next((levels for levels in followed_in(viewer) if levels.store is store), None)


def _new_levels(viewer: Viewer, layer: Labels, store: PredictionStore) -> LevelLayers:
    name = str(store.record.get("stack", {}).get("name") or layer.name.rpartition(" ")[0])
    image = _image_below(viewer, layer, name)
    hide_others(viewer, image or name)
    comparison = HeadComparison.of_heads(store.levels, recommended_level(store))
    axes = "".join(layer.axis_labels) + ("c" if image is not None and image.rgb else "")
    return LevelLayers(viewer, store, comparison, image=image or name, axes=axes, extents=layer.data.shape)


def _image_below(viewer: Viewer, layer: Labels, name: str) -> Image | None:
    """The image that was predicted: of the same axes and extents, by preference of this name."""
    fitting = []
    for image in viewer.layers:
        if not isinstance(image, Image) or extents(image) != tuple(layer.data.shape):
            continue
        if suggest_axes(image).axes[: image.ndim] == "".join(layer.axis_labels):
            fitting.append(image)
    named = [image for image in fitting if image.name == name]
    return next(iter(named or fitting), None)
