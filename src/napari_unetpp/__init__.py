"""UNet++ segmentation of large image stacks, on the command line and inside napari.

What can be used from here is the main chain, in the order in which it is used::

    stack = open_stack("cells.tif")
    model = load_model("nuclei")
    tiles = plan_tiles(stack.shape_predicted, model.spec, Overlap())
    store = create_store("cells.ome.zarr", stack.shape_predicted, (1, 2, 3, 4), like=stack)
    for done in predict_stack(stack, model, tiles, store): ...
    labels = label_view(store, level=4)

Importing this package loads neither torch nor Qt: a name is fetched from its room when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_unetpp.inference.labels import label_view
    from napari_unetpp.inference.predict import predict_stack
    from napari_unetpp.inference.store import create_store, open_store
    from napari_unetpp.inference.tiles import Overlap, Seamless, plan_tiles, tiling_from_card
    from napari_unetpp.model.checkpoint import load_model, save_model
    from napari_unetpp.stacks import open_stack, save_labels
    from napari_unetpp.training.train import train

__version__ = "0.1.0"

__all__ = [
    "Overlap",
    "Seamless",
    "__version__",
    "create_store",
    "label_view",
    "load_model",
    "open_stack",
    "open_store",
    "plan_tiles",
    "predict_stack",
    "save_labels",
    "save_model",
    "tiling_from_card",
    "train",
]

_ROOM_OF = {
    "Overlap": "inference.tiles",
    "Seamless": "inference.tiles",
    "create_store": "inference.store",
    "label_view": "inference.labels",
    "load_model": "model.checkpoint",
    "open_stack": "stacks",
    "open_store": "inference.store",
    "plan_tiles": "inference.tiles",
    "predict_stack": "inference.predict",
    "save_labels": "stacks",
    "save_model": "model.checkpoint",
    "tiling_from_card": "inference.tiles",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Kept in this module, so that only the first use of a name comes through here.
    value = globals()[name] = getattr(import_module(f"{__name__}.{room}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
