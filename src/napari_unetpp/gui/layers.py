"""A prediction as Labels layers L1..Ld and Ensemble, of which only the chosen one is visible.

Decides, in this order: how the layers look and follow their `HeadComparison` (`LevelLayers`,
`add_levels`), how they are found again (`predictions_in`), and how labels come in the axes of the
image (`in_image_axes`).

Labels layers have the axes of their image, so that scale, translation and sliders agree whatever
the order of the axes in the file. A channel axis, which predictions lack, is repeated::

    image layer   z c y x      (3, 2, 64, 64)
    prediction    z   y x      (3,    64, 64)
    labels layer  z c y x      (3, 2, 64, 64)      the same labels for both channels

They are read-only views of the store: painting cannot alter a prediction.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils import DirectLabelColormap

from napari_unetpp.gui.comparison import ENSEMBLE, HeadComparison, Level, level_name
from napari_unetpp.inference.labels import label_view
from napari_unetpp.model.card import CLASS_COLORS

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels
    from numpy.typing import NDArray

    from napari_unetpp.box import ArrayLike
    from napari_unetpp.inference.store import PredictionStore

METADATA_KEY = "napari-unetpp"  # in the metadata of a level's layer: the `LevelLayers` it is of

# Okabe and Ito's colours: distinct on gray images and for most colour-blind readers.
LEVEL_COLORS: Mapping[Level, str] = {
    1: "#56b4e9",
    2: "#009e73",
    3: "#e69f00",
    4: "#cc79a7",
    5: "#d55e00",
    6: "#0072b2",
    ENSEMBLE: "#f0e442",
}
OPACITY = 0.5


class LevelLayers:
    """The layers of one prediction; a change of `comparison` shows another of them.

    Lives as long as one of its layers does, because they hold it in their metadata.

    Attributes
    ----------
    store : PredictionStore
    comparison : HeadComparison
    layers : dict
        From level to Labels layer, also those that the user has removed since.
    image : str
        Name of the image layer when the layers were made.
    """

    def __init__(self, store: PredictionStore, comparison: HeadComparison, image: str = "image") -> None:
        self.store, self.comparison, self.image = store, comparison, image
        self.layers: dict[Level, Labels] = {}
        comparison.events.level.connect(self._show_chosen)
        comparison.events.visible.connect(self._show_chosen)

    def _show_chosen(self) -> None:
        shown = self.comparison.level if self.comparison.visible else None
        # First the one to be seen, so that no frame is drawn without any.
        for level, layer in sorted(self.layers.items(), key=lambda item: item[0] != shown):
            layer.visible = level == shown

    def refresh(self) -> None:
        """Draw again what is visible, after more of the store was written."""
        for layer in self.layers.values():
            if layer.visible:
                layer.refresh()


def add_levels(
    viewer: Viewer,
    image: Image,
    axes: str,
    store: PredictionStore,
    comparison: HeadComparison,
) -> LevelLayers:
    """Layers over a store, placed like the image they were predicted from.

    Call it in the thread of the window only. What other predictions of the same image show is
    hidden. With one class each level has a colour of its own; with several, each class has the one
    that the record of the run names.

    Parameters
    ----------
    axes
        Of the image's data, one letter each out of "tczyx".
    """
    for other in predictions_in(viewer):
        if other.image == image.name:
            other.comparison.visible = False
    levels = LevelLayers(store, comparison, image.name)
    active = viewer.layers.selection.active
    for level in comparison.levels:
        layer = viewer.add_labels(
            in_image_axes(label_view(store, level), store.axes, axes, _extents(image)),
            name=f"{image.name} {level_name(level)}",
            colormap=_colormap(level, store),
            opacity=OPACITY,
            visible=comparison.visible and level == comparison.level,
            metadata={METADATA_KEY: levels},
            scale=image.scale,
            translate=image.translate,
            rotate=image.rotate,
            shear=image.shear,
            affine=image.affine,
            units=image.units,
            axis_labels=image.axis_labels,
        )
        layer.editable = False
        levels.layers[level] = layer
    # Adding a layer selects it; the user goes on with the image or whatever it was.
    if active is not None or image in viewer.layers:
        viewer.layers.selection.active = active or image
    return levels


def predictions_in(viewer: Viewer) -> list[LevelLayers]:
    """The predictions of which the viewer has at least one layer, in the order of the layers."""
    found = (layer.metadata.get(METADATA_KEY) for layer in viewer.layers)
    return list(dict.fromkeys(levels for levels in found if isinstance(levels, LevelLayers)))


def _extents(image: Image) -> tuple[int, ...]:
    data = image.data[0] if image.multiscale else image.data
    return tuple(data.shape[: image.ndim])


def _colormap(level: Level, store: PredictionStore) -> DirectLabelColormap:
    channels = len(store.classes)
    if channels == 1:
        by_label: dict[int | None, Any] = {1: LEVEL_COLORS.get(level, CLASS_COLORS[0])}
    else:
        recorded = dict(enumerate(store.record.get("classes", ())))
        by_label = {
            k: recorded.get(k, {}).get("color") or CLASS_COLORS[(k - 1) % len(CLASS_COLORS)] for k in range(1, channels)
        }
    return DirectLabelColormap(color_dict={None: "transparent", 0: "transparent", **by_label})


def in_image_axes(labels: ArrayLike, axes: str, image_axes: str, extents: Sequence[int]) -> LabelsInImageAxes:
    """Labels with axes `axes` as a lazy array with the axes of an image.

    Parameters
    ----------
    image_axes, extents
        Of the image's data and layer; what `image_axes` names beyond `extents` are RGB samples.
    """
    return LabelsInImageAxes(labels, axes, image_axes[: len(extents)], extents)


class LabelsInImageAxes:
    """A view that permutes axes and repeats those that the labels lack."""

    def __init__(self, labels: ArrayLike, axes: str, image_axes: str, extents: Sequence[int]) -> None:
        self._labels, self._axes, self._image_axes = labels, axes, image_axes
        self.shape = tuple(extents)
        self.ndim = len(self.shape)
        self.dtype = np.dtype(labels.dtype)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        keys = dict(zip(self._image_axes, _one_key_per_axis(key, self.ndim), strict=True))
        voxels = np.asarray(self._labels[tuple(keys[axis] for axis in self._axes)])
        kept = [axis for axis in self._axes if isinstance(keys[axis], slice)]
        wanted = [axis for axis in self._image_axes if isinstance(keys[axis], slice)]
        voxels = voxels.transpose([kept.index(axis) for axis in wanted if axis in kept])
        for place, axis in enumerate(wanted):
            span = keys[axis]
            if axis not in kept and isinstance(span, slice):
                extent = self.shape[self._image_axes.index(axis)]
                repeats = len(range(*span.indices(extent)))
                shape = (*voxels.shape[:place], repeats, *voxels.shape[place:])
                voxels = np.broadcast_to(np.expand_dims(voxels, place), shape)
        return voxels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self[...], dtype=dtype)


def _one_key_per_axis(key: Any, ndim: int) -> list[int | slice]:
    keys = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys[at : at + 1] = [slice(None)] * (ndim - len(keys) + 1)
    keys += [slice(None)] * (ndim - len(keys))
    return [k if isinstance(k, slice) else operator.index(k) for k in keys]
