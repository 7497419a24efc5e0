"""All heads of a prediction side by side, each on the image, in napari's own grid.

Decides, in this order: when the grid comes and goes (`HeadComparison.grid`, napari's button, layers
that come or go), how the layers are dealt out to the cells, and how all is put back.

napari deals its list out in pairs (stride 2), hidden layers included, and leaves out pairs of which
nothing is visible. No layer of the user is moved; copies of the image, which share its data, are
put in so that each head has an image of its own below it::

    list    image L1 | copy L2 | copy L3 | copy L4 | Ensemble (hidden)
    cells   L1   L2
            L3   L4

Where a pair would be torn apart, a hidden copy more puts it right. A layer that somebody adds
meanwhile is one that is to be seen, so it ends the grid.
"""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtCore import QTimer

from napari_unetpp.gui.placing import remove, select, selection_kept
from napari_unetpp.gui.versions import camera_of, grid_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari import Viewer
    from napari.layers import Labels, Layer

    from napari_unetpp.gui.comparison import Level
    from napari_unetpp.gui.layers import LevelLayers

GAP = 4  # pixels between cells
SHARED = ("contrast_limits", "gamma", "colormap", "opacity")  # by the image and its copies
COPY_KEY = "napari-unetpp copy"  # in the metadata of a copy


class LevelGrid:
    """The grid of one prediction, on while its comparison says so."""

    def __init__(self, levels: LevelLayers, viewer: Viewer) -> None:
        self._levels, self._viewer = weakref.ref(levels), weakref.ref(viewer)
        self._before: _Before | None = None  # only while the grid is on
        self._image: Image | None = None
        self._copies: list[Image] = []
        self._dealing = False
        # Nothing can be put in or taken out while the list still tells of another layer.
        self._later = QTimer()
        self._later.setSingleShot(True)
        self._later.timeout.connect(self._deal_again)
        levels.comparison.events.grid.connect(self._on_grid)
        viewer.layers.events.removed.connect(self._on_list)
        viewer.layers.events.inserted.connect(self._on_list)
        viewer.layers.events.reordered.connect(self._on_list)
        grid_of(viewer).events.enabled.connect(self._on_enabled)

    def _on_grid(self, wanted: bool) -> None:
        levels, viewer = self._levels(), self._viewer()
        if levels is None or viewer is None or wanted == (self._before is not None):
            return
        if wanted:
            self._enter(levels, viewer)
        else:
            self._leave(levels, viewer)

    def _on_enabled(self, _event: object) -> None:
        """Follow napari's own button."""
        levels, viewer = self._levels(), self._viewer()
        if self._before is not None and levels is not None and viewer is not None and not grid_of(viewer).enabled:
            levels.comparison.grid = False

    def _on_list(self, _event: object) -> None:
        """Layers have come, gone or changed places, and not by this grid."""
        levels = self._levels()
        if self._before is None or self._dealing or levels is None:
            return
        if levels.present():
            self._later.start(0)
        else:  # at once, because the whole window may be closing
            levels.comparison.grid = False

    def _deal_again(self) -> None:
        levels, viewer = self._levels(), self._viewer()
        if viewer is None:
            return
        if self._before is None or levels is None:  # what could not be removed when it ended
            self._remove_copies(viewer)
            return
        known = {*self._before.visible, *self._copies}
        added = any(layer not in known for layer in viewer.layers)  # and somebody wants to see it
        if added or levels.image_layer is not self._image or len(_heads(levels, viewer)) < 2:
            levels.comparison.grid = False
        else:
            self._deal(levels, viewer)

    # In

    def _enter(self, levels: LevelLayers, viewer: Viewer) -> None:
        self._image = levels.image_layer
        if self._image is None or len(_heads(levels, viewer)) < 2:
            levels.comparison.grid = False
            return
        self._before = _Before.of(viewer, levels)
        for name in SHARED:
            getattr(self._image.events, name).connect(self._share)
        self._deal(levels, viewer)
        grid, camera = grid_of(viewer), camera_of(viewer)
        grid.stride, grid.shape, grid.spacing = 2, (-1, -1), GAP
        grid.enabled = True
        # Each cell shows as much as the whole canvas did.
        self._before.cells = max(grid.actual_shape(viewer.layers))
        camera.zoom /= self._before.cells
        self._before.zoom_in_cells = camera.zoom

    def _deal(self, levels: LevelLayers, viewer: Viewer) -> None:
        heads = _heads(levels, viewer)
        with self._putting(viewer):
            self._remove_copies(viewer)
            below = [self._pair(viewer, layer) for layer in heads]
            levels.show()
            seen = {*levels.layers.values(), *below}
            for layer in viewer.layers:
                if layer.visible and layer not in seen:
                    layer.visible = False
            for layer in heads:
                if (overlay := getattr(layer, "name_overlay", None)) is not None:  # since napari 0.7
                    overlay.visible = True

    def _pair(self, viewer: Viewer, layer: Labels) -> Image:
        """The image, or a copy of it, that has been made the first of a pair with the layer."""
        image, place = self._image, viewer.layers.index(layer)
        assert image is not None
        if place % 2 == 1 and viewer.layers[place - 1] is image:
            image.visible = True
            return image
        if place % 2 == 1:
            viewer.layers.insert(place, self._copy(image, visible=False))
        copy = self._copy(image, visible=True)
        viewer.layers.insert(viewer.layers.index(layer), copy)
        return copy

    def _copy(self, image: Image, *, visible: bool) -> Image:
        data, look, _ = image.as_layer_data_tuple()
        # The grid lives as long as there is a copy that it has to remove.
        look = {**look, "name": f"{image.name} copy", "visible": visible, "metadata": {COPY_KEY: self}}
        copy = Image(data, **look)
        for name in SHARED:
            getattr(copy.events, name).connect(self._share)
        self._copies.append(copy)
        return copy

    def _share(self, event: Any) -> None:
        """What the user changes about one of the images holds for all of them."""
        value = getattr(event.source, event.type)
        for layer in (self._image, *self._copies):
            if layer is not None and layer is not event.source and getattr(layer, event.type) != value:
                setattr(layer, event.type, value)

    # Out

    def _leave(self, levels: LevelLayers, viewer: Viewer) -> None:
        before, image = self._before, self._image
        assert before is not None
        assert image is not None
        self._before, self._image = None, None
        for name in SHARED:
            getattr(image.events, name).disconnect(self._share)
        before.restore_grid(viewer)
        if levels.present():
            self._remove_copies(viewer)
        else:
            self._later.start(0)
        before.restore_layers(viewer, levels)

    def _remove_copies(self, viewer: Viewer) -> None:
        gone, self._copies = self._copies, []
        with self._putting(viewer):
            remove(viewer, gone)

    @contextmanager
    def _putting(self, viewer: Viewer) -> Iterator[None]:
        dealing, self._dealing = self._dealing, True
        with selection_kept(viewer):
            yield
        self._dealing = dealing


@dataclass
class _Before:
    """How the viewer was, for putting it back."""

    visible: dict[Layer, bool]
    overlays: dict[Labels, bool]
    selected: set[Layer]
    level: Level
    labels: bool
    enabled: bool
    stride: int
    shape: tuple[int, int]
    spacing: float
    zoom: float
    zoom_in_cells: float = 0
    cells: int = 1

    @classmethod
    def of(cls, viewer: Viewer, levels: LevelLayers) -> _Before:
        grid = grid_of(viewer)
        return cls(
            visible={layer: layer.visible for layer in viewer.layers},
            overlays={
                layer: layer.name_overlay.visible for layer in levels.layers.values() if hasattr(layer, "name_overlay")
            },
            selected=set(viewer.layers.selection),
            level=levels.comparison.level,
            labels=levels.comparison.visible,
            enabled=grid.enabled,
            stride=grid.stride,
            shape=grid.shape,
            spacing=grid.spacing,
            zoom=camera_of(viewer).zoom,
        )

    def restore_grid(self, viewer: Viewer) -> None:
        grid, camera = grid_of(viewer), camera_of(viewer)
        closed = not grid.enabled  # by napari's own button
        # Off first: at a stride of 1 napari deletes the names of hidden layers, and some graphics drivers
        # then crash in the next drawing of the grid.
        grid.enabled = False
        grid.stride, grid.shape, grid.spacing = self.stride, self.shape, self.spacing
        grid.enabled = self.enabled and not closed
        moved = camera.zoom != self.zoom_in_cells
        camera.zoom = camera.zoom * self.cells if moved else self.zoom

    def restore_layers(self, viewer: Viewer, levels: LevelLayers) -> None:
        for layer, shown in self.overlays.items():
            layer.name_overlay.visible = shown
        for layer, visible in self.visible.items():
            if layer in viewer.layers and layer.visible != visible:
                layer.visible = visible
        comparison = levels.comparison
        if (comparison.level, comparison.visible) != (self.level, self.labels):
            levels.show()
        select(viewer, self.selected)


def _heads(levels: LevelLayers, viewer: Viewer) -> list[Labels]:
    """The heads that the viewer has, in its order."""
    heads = [levels.layers[head] for head in levels.comparison.heads]
    return [layer for layer in viewer.layers if layer in heads]
