"""How a layer comes to lie on another and stays there, and the user's selection is left alone meanwhile."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from napari import Viewer
    from napari.layers import Layer


def placement(layer: Layer) -> dict[str, Any]:
    """What puts a layer with the same axes where this one lies."""
    return {
        "scale": layer.scale,
        "translate": layer.translate,
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }


def place_like(layers: Iterable[Layer], source: Layer) -> None:
    """Put layers with the same axes where `source` lies now."""
    wanted = placement(source)
    for layer in layers:
        for name, value in wanted.items():
            # Each assignment draws the layer again, also one that changes nothing.
            if not np.array_equal(np.asarray(getattr(layer, name)), np.asarray(value)):
                setattr(layer, name, value)


def when_placed(layer: Layer, placed: Callable[[Any], None]) -> None:
    """Call a method, which is not kept alive, whenever the layer is moved, scaled, turned or its axes are named."""
    for name in placement(layer):
        getattr(layer.events, name).connect(placed)


@contextmanager
def selection_kept(viewer: Viewer) -> Iterator[None]:
    """Layers that come or go meanwhile change nothing about what is selected."""
    selected = set(viewer.layers.selection)
    yield
    select(viewer, selected)


def select(viewer: Viewer, layers: Iterable[Layer]) -> None:
    """Select those of the layers that the viewer still has, and nothing else."""
    selection = viewer.layers.selection
    there = {layer for layer in layers if layer in viewer.layers}
    selection.difference_update(set(selection) - there)
    selection.update(there)


def remove(viewer: Viewer, layers: Iterable[Layer]) -> None:
    """Remove those of the layers that the viewer still has."""
    there = [layer for layer in layers if layer in viewer.layers]
    if not there:
        return
    # napari collects garbage after each layer that goes, which takes 0.3 s beside torch; its newer versions wait for the last.
    batched = getattr(viewer.layers, "batched_update", nullcontext)
    with batched():
        for layer in there:
            viewer.layers.remove(layer)
