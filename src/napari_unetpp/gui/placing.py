"""How a new layer comes to lie on another, and the user's selection is left alone meanwhile."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
