"""A napari window with a prediction in it: what `napari-unetpp demo` opens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import napari
import numpy as np

from napari_unetpp._reader import placed
from napari_unetpp.gui.comparison import HeadComparison
from napari_unetpp.gui.layers import add_levels

if TYPE_CHECKING:
    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.stacks import Stack

PLUGIN, WIDGET = "napari-unetpp", "Segment"  # as in the manifest


def open_prediction(
    stack: Stack, store: PredictionStore, reference: Stack | None = None, *, block: bool = True
) -> napari.Viewer:
    """A viewer with the image, its levels, and the Segment dock whose slider switches them.

    Parameters
    ----------
    reference
        Integer labels of the same image, shown below the levels, at first hidden.
    block
        Return when the window has been closed; else at once, without starting the event loop.
    """
    viewer = napari.Viewer(title=f"{stack.name} - napari-unetpp")
    # A named channel axis at the end is shown in colour where napari can.
    rgb = stack.axes[-1] == "c" and stack.channels in (3, 4) and stack.dtype == np.uint8
    image = viewer.add_image(stack.data, name=stack.name, rgb=rgb, **_placed(stack, rgb=rgb))
    if reference is not None:
        viewer.add_labels(
            reference.data,
            name=f"{stack.name} reference",
            visible=False,
            **_placed(reference, rgb=False, spacing_of=stack),
        )
    viewer.layers.selection.active = image  # the last layer added is, else
    add_levels(viewer, image, stack.axes, store, HeadComparison.of_heads(store.levels))
    viewer.window.add_plugin_dock_widget(PLUGIN, WIDGET)
    if block:
        napari.run()
    return viewer


def _placed(stack: Stack, *, rgb: bool, spacing_of: Stack | None = None) -> dict[str, Any]:
    """Scale, units and axis labels of a layer over a stack; micrometres only if all are known."""
    source = spacing_of or stack
    axes = stack.axes[:-1] if rgb else stack.axes
    return placed(axes, dict(zip(source.axes, source.spacing_um, strict=True)))
