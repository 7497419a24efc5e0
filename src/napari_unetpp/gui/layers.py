"""A prediction as Labels layers L1..Ld and Ensemble, of which only the chosen one is visible.

Decides, in this order: how the layers follow their `HeadComparison` and what they share
(`LevelLayers`), how they are made (`add_levels`) and how they are found again (`predictions_in`).

Labels layers have the axes of their image (`in_image_axes`), so that scale, translation and sliders
agree whatever the order of the axes in the file. They are read-only views of the store: painting
cannot alter a prediction.

Layers are the user's: each may be renamed, moved and removed at any moment, and so may the image. A
level that was removed comes back when it is chosen again, as long as any other is there.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from napari.utils import DirectLabelColormap
from napari.utils.notifications import show_error
from psygnal import Signal

from napari_unetpp._image_axes import in_image_axes
from napari_unetpp._reader import METADATA_KEY
from napari_unetpp.gui.comparison import HeadComparison, Level, level_name
from napari_unetpp.gui.image_layer import extents
from napari_unetpp.gui.level_colors import OPACITY, label_colors
from napari_unetpp.gui.level_grid import LevelGrid
from napari_unetpp.gui.level_maps import LevelMaps
from napari_unetpp.gui.placing import place_like, placement, selection_kept, when_placed
from napari_unetpp.gui.versions import unwrapped
from napari_unetpp.inference.folders import GoneError
from napari_unetpp.inference.labels import LazyLabels, LazyView, label_view

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari import Viewer
    from napari.layers import Labels, Layer
    from numpy.typing import NDArray

    from napari_unetpp._image_axes import LabelsInImageAxes
    from napari_unetpp.box import Box
    from napari_unetpp.inference.store import PredictionStore

__all__ = ["METADATA_KEY", "LevelLayers", "add_levels", "predictions_in"]


class LevelLayers:
    """The layers of one prediction; a change of `comparison` shows another of them.

    Lives as long as one of its layers does, because they hold it in their metadata.

    Attributes
    ----------
    store : PredictionStore
    comparison : HeadComparison
    axes : str
        Of the image's data, one letter each.
    layers : dict
        From level to Labels layer, also those that the user has removed since.
    maps : LevelMaps
        The layers of probability and disagreement.
    grid : LevelGrid
        All heads side by side.
    """

    gone = Signal()
    """The last of its layers was removed."""

    def __init__(
        self,
        viewer: Viewer,
        store: PredictionStore,
        comparison: HeadComparison,
        *,
        image: Image | str,
        axes: str,
        extents: Sequence[int],
    ) -> None:
        self.store, self.comparison, self.axes, self.extents = store, comparison, axes, tuple(extents)
        self.layers: dict[Level, Labels] = {}
        # Not kept alive: a layer's metadata must hold neither the window nor the user's image.
        self._viewer = weakref.ref(viewer)
        self._image: weakref.ref[Image] | None = None
        self._image_name = ""
        self._told_gone = False
        self.image = image
        viewer.layers.events.removed.connect(self._on_removed)
        comparison.events.level.connect(self.show)
        comparison.events.visible.connect(self.show)
        comparison.events.threshold.connect(self.refresh)
        comparison.events.contour.connect(self._on_contour)
        self.maps = LevelMaps(self, viewer)
        self.grid = LevelGrid(self, viewer)

    # What they belong to

    @property
    def viewer(self) -> Viewer | None:
        """The viewer that they were added to; None once it is gone."""
        return self._viewer()

    @property
    def image_layer(self) -> Image | None:
        """The image that was predicted, if the viewer has it.

        Where that layer was removed, one that bears its name: the same image, opened once more.
        """
        layers = self.viewer.layers if self.viewer is not None else []
        image = self._image() if self._image is not None else None
        if image is not None and image in layers:
            return image
        return next((x for x in layers if isinstance(x, Image) and x.name == self._image_name), None)

    @property
    def image(self) -> str:
        """Name of the image layer, the last that it had; the layer itself can be assigned."""
        return self._image_name

    @image.setter
    def image(self, image: Image | str) -> None:
        if isinstance(image, str):
            self._image, self._image_name = None, image
            return
        self._image, self._image_name = weakref.ref(image), image.name
        image.events.name.connect(self._on_image_name)
        when_placed(image, self._on_image_placed)

    def is_of(self, image: Image | str) -> bool:
        """Whether they were predicted from that image, or, where it is gone, from one of that name."""
        name = image if isinstance(image, str) else image.name
        return self.image_layer is image or (self.image_layer is None and self.image == name)

    @property
    def metadata(self) -> dict[str, Any]:
        """What marks a layer as one of these."""
        return {METADATA_KEY: self}

    def present(self) -> list[Layer]:
        """Those of its layers that the viewer has, levels and maps, in the viewer's order."""
        if self.viewer is None:
            return []
        mine = {*self.layers.values(), *self.maps.layers()}
        return [layer for layer in self.viewer.layers if layer in mine]

    def labels(self, level: Level) -> LabelsInImageAxes:
        """Labels of a level, at the threshold of the moment at which they are read."""

        def compute(box: Box) -> NDArray[np.uint8]:
            read: NDArray[np.uint8] = label_view(self.store, level, self.comparison.threshold)[box.slices]
            return read

        return self.in_axes_of_image(LazyLabels(self.store.shape, self.store.axes, "uint8", compute))

    def in_axes_of_image(self, view: LazyView) -> LabelsInImageAxes:
        """A view of the store as data of a layer; empty where the store is gone, which is told once."""

        def compute(box: Box) -> NDArray[Any]:
            try:
                read: NDArray[Any] = view[box.slices]
            except GoneError as error:
                self._tell_gone(error)
                return np.zeros(box.shape, view.dtype)
            return read

        safe = LazyView(view.shape, view.axes, view.dtype, compute)
        return in_image_axes(safe, self.store.axes, self.axes, self.extents)

    def _tell_gone(self, error: GoneError) -> None:
        if not self._told_gone:
            self._told_gone = True
            show_error(f"{error}; until then the layers of {self.image} are empty")

    def remove(self) -> None:
        """Take all its layers out of the viewer."""
        viewer = self.viewer
        if viewer is not None:
            for layer in self.present():
                viewer.layers.remove(layer)

    # What is seen

    def show(self) -> None:
        """Make visible what the comparison says, and nothing else of the levels."""
        if not self.present():
            return
        level = self.comparison.level
        chosen: Sequence[Level] = self.comparison.heads if self.comparison.grid else (level,)
        shown = chosen if self.comparison.visible else ()
        if shown and not self.comparison.grid:
            self._bring_back(level)
        # First what is to be seen, so that no frame is drawn without any.
        for level, layer in sorted(self.layers.items(), key=lambda item: item[0] not in shown):
            # Each assignment rebuilds napari's scene, also one that changes nothing.
            if layer.visible != (level in shown):
                layer.visible = level in shown

    def refresh(self) -> None:
        """Draw again what is visible, after more of the store was written."""
        for layer in (*self.layers.values(), *self.maps.layers()):
            if layer.visible:
                layer.refresh(extent=False)

    def _bring_back(self, level: Level) -> None:
        viewer, layer = self.viewer, self.layers.get(level)
        if viewer is None or layer is None or layer in viewer.layers:  # None: removed before it was taken
            return
        top = max(viewer.layers.index(other) for other in self.present())
        with selection_kept(viewer):
            viewer.layers.insert(top + 1, layer)

    # What they share. napari's own links keep both ends alive until somebody unlinks them.

    def _on_layer_opacity(self, event: Any) -> None:
        for layer in self.layers.values():
            if layer.opacity != event.source.opacity:
                layer.opacity = event.source.opacity

    def _on_layer_contour(self, event: Any) -> None:
        self.comparison.contour = event.source.contour

    def _on_contour(self, contour: int) -> None:
        for layer in self.layers.values():
            if layer.contour != contour:
                layer.contour = contour

    def _on_image_name(self, event: Any) -> None:
        self._image_name = event.source.name

    def _on_image_placed(self, event: Any) -> None:
        """The image was scaled, moved or turned after it was predicted."""
        image = self._image() if self._image is not None else None
        if event.source is image and image is not None and extents(image) == self.extents:
            place_like((*self.layers.values(), *self.maps.layers()), image)

    def _on_removed(self, event: Any) -> None:
        mine = (*self.layers.values(), *self.maps.layers())
        if event.value in mine and not self.present():
            self.gone.emit()

    def take(self, level: Level, layer: Labels) -> None:
        """Make a Labels layer over `labels` the one of that level."""
        layer.metadata = {**layer.metadata, **self.metadata}
        layer.editable = False
        layer.contour = self.comparison.contour
        layer.events.opacity.connect(self._on_layer_opacity)
        layer.events.contour.connect(self._on_layer_contour)
        self.layers[level] = layer


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
    viewer, image = unwrapped(viewer), unwrapped(image)
    hide_others(viewer, image)
    levels = LevelLayers(viewer, store, comparison, image=image, axes=axes, extents=extents(image))
    active = viewer.layers.selection.active
    for level in comparison.levels:
        layer = viewer.add_labels(
            levels.labels(level),
            name=f"{image.name} {level_name(level)}",
            colormap=DirectLabelColormap(color_dict=label_colors(level, store)),
            opacity=OPACITY,
            visible=comparison.visible and level == comparison.level,
            metadata=levels.metadata,
            **placement(image),
        )
        levels.take(level, layer)
    # Adding a layer selects it; the user goes on with the image or whatever it was.
    if active is not None or image in viewer.layers:
        viewer.layers.selection.active = active or image
    return levels


def hide_others(viewer: Viewer, image: Image | str, but: LevelLayers | None = None) -> None:
    """Hide what the predictions of an image show: two on top of each other would be read as one.

    Parameters
    ----------
    but
        The one that is to be seen.
    """
    for other in followed_in(viewer):
        if other is but:
            continue
        other.comparison.grid = False
        if other.is_of(image):
            seen = other.comparison
            seen.visible = seen.probability = seen.disagreement = False


def predictions_in(viewer: Viewer) -> list[LevelLayers]:
    """The predictions of which the viewer has at least one layer, in the order of the layers.

    Layers that were opened from disk since the last call begin to follow a slider by this.
    """
    from napari_unetpp.gui.reopened import adopt  # which makes what is defined here

    adopt(viewer)
    return followed_in(viewer)


def followed_in(viewer: Viewer) -> list[LevelLayers]:
    """As `predictions_in`, but without layers that nothing follows yet."""
    found = (layer.metadata.get(METADATA_KEY) for layer in viewer.layers)
    return list(dict.fromkeys(levels for levels in found if isinstance(levels, LevelLayers)))
