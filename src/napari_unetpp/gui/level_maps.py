"""The maps of a prediction, as lazy Image layers: probability, and disagreement of the heads.

Decides how they look, and when they come and go: as `HeadComparison.probability` and
`HeadComparison.disagreement` say. They lie below the levels, so that labels, best as contours, are
seen on them.

There is one layer of probability a foreground class, and it shows the level of the moment: reading
another level into it takes as long as switching between layers does, and the list stays short.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from napari.utils import Colormap

from napari_unetpp.gui.level_colors import label_colors
from napari_unetpp.gui.placing import placement, remove, selection_kept
from napari_unetpp.inference.labels import LazyView, disagreement_view, probability_view

if TYPE_CHECKING:
    from napari import Viewer

    from napari_unetpp.box import Box
    from napari_unetpp.gui.comparison import HeadComparison
    from napari_unetpp.gui.layers import LevelLayers
    from napari_unetpp.inference.store import PredictionStore

PROBABILITY_COLORS = "magma"
DISAGREEMENT_COLORS = "inferno"  # dark where all agree
OPACITY = 0.8  # the image can still be seen


class LevelMaps:
    """The maps that the viewer has at the moment.

    Attributes
    ----------
    probability, disagreement : list of Image
        Empty while the map is off.
    """

    def __init__(self, levels: LevelLayers, viewer: Viewer) -> None:
        self._levels = weakref.ref(levels)
        self.probability: list[Image] = []
        self.disagreement: list[Image] = []
        comparison = levels.comparison
        comparison.events.probability.connect(self._on_probability)
        comparison.events.disagreement.connect(self._on_disagreement)
        comparison.events.level.connect(self._on_level)
        viewer.layers.events.removed.connect(self._on_removed)

    def layers(self) -> tuple[Image, ...]:
        """All of them."""
        return (*self.probability, *self.disagreement)

    def _on_probability(self, wanted: bool) -> None:
        levels = self._levels()
        if levels is None:
            return
        if wanted:
            self.probability = [_probability_layer(levels, k) for k in _foreground(levels.store)]
            self._insert(levels, self.probability)
        else:
            gone, self.probability = self.probability, []
            _remove(levels, gone)

    def _on_disagreement(self, wanted: bool) -> None:
        levels = self._levels()
        if levels is None:
            return
        if wanted:
            self.disagreement = [_disagreement_layer(levels)]
            self._insert(levels, self.disagreement)
        else:
            gone, self.disagreement = self.disagreement, []
            _remove(levels, gone)

    def _insert(self, levels: LevelLayers, maps: list[Image]) -> None:
        viewer, mine = levels.viewer, set(levels.layers.values())
        if viewer is None:
            return
        levels.comparison.grid = False  # whose cells have no place for them
        places = [place for place, layer in enumerate(viewer.layers) if layer in mine]
        with selection_kept(viewer):
            for layer in reversed(maps):
                viewer.layers.insert(min(places, default=len(viewer.layers)), layer)

    def _on_level(self) -> None:
        for layer in self.probability:
            if layer.visible:
                layer.refresh(extent=False)

    def _on_removed(self, event: Any) -> None:
        """The user took one away: with the last of its kind the switch is off."""
        levels = self._levels()
        if levels is None:
            return
        if event.value in self.probability:
            self.probability.remove(event.value)
            levels.comparison.probability = bool(self.probability)
        elif event.value in self.disagreement:
            self.disagreement.remove(event.value)
            levels.comparison.disagreement = bool(self.disagreement)


def _remove(levels: LevelLayers, maps: list[Image]) -> None:
    viewer = levels.viewer
    if viewer is None:
        return
    with selection_kept(viewer):
        remove(viewer, maps)


def _foreground(store: PredictionStore) -> range:
    """Channels of the classes that are not background."""
    return range(1) if len(store.classes) == 1 else range(1, len(store.classes))


def _probability_layer(levels: LevelLayers, channel: int) -> Image:
    store, comparison = levels.store, levels.comparison
    several = len(store.classes) > 1
    name = f"{levels.image} probability"
    if not several:
        look: dict[str, Any] = {"colormap": PROBABILITY_COLORS, "blending": "translucent"}
    else:  # the classes' own colours, which add up where the network wavers
        name += f" {store.classes[channel]}"
        color = label_colors(comparison.level, store)[channel]
        look = {"colormap": Colormap(["black", color], name=name), "blending": "additive"}
    return _map_layer(levels, _probabilities(store, comparison, channel), name, **look)


def _probabilities(store: PredictionStore, comparison: HeadComparison, channel: int) -> LazyView:
    """Probability of the level of the moment at which it is read."""

    def compute(box: Box) -> Any:
        return probability_view(store, comparison.level, channel)[box.slices]

    return LazyView(store.shape, store.axes, np.float32, compute)


def _disagreement_layer(levels: LevelLayers) -> Image:
    view = disagreement_view(levels.store)
    name = f"{levels.image} disagreement"
    return _map_layer(levels, view, name, colormap=DISAGREEMENT_COLORS, blending="translucent")


def _map_layer(levels: LevelLayers, view: LazyView, name: str, **look: Any) -> Image:
    levels_layer = next(iter(levels.layers.values()))
    return Image(
        levels.in_axes_of_image(view),
        name=name,
        contrast_limits=(0, 1),
        opacity=OPACITY,
        interpolation2d="nearest",
        metadata=levels.metadata,
        rgb=False,  # an image three or four voxels wide would be taken for one
        **placement(levels_layer),
        **look,
    )
