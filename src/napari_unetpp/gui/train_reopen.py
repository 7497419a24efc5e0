"""The data of a run that was left unfinished, found again: layers of the same name and shape first, then files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels

from napari_unetpp.gui.image_layer import finest, stack_from_layer
from napari_unetpp.gui.train_pairs import FilePair, LayerPair, PairRequest, corrections_of

if TYPE_CHECKING:
    from napari import Viewer


def open_again(viewer: Viewer, memo: Mapping[str, Any]) -> PairRequest:
    """The pair of which that was noted; whether its voxels are the same is the engine's to say.

    Raises
    ------
    ValueError
        If it is gone, in one line that says what to open.
    """
    return _open(viewer, memo).with_values(memo.get("values", ()))


def _open(viewer: Viewer, memo: Mapping[str, Any]) -> PairRequest:
    image, label = memo["image"], memo["label"]
    layer = _layer(viewer, image, Image)
    if layer is None:
        return FilePair(_path(image), _path(label)).request()
    if label.get("corrections"):
        path = _path(label)
        for painted, corrections in corrections_of(viewer).items():
            if corrections.path == path:
                return LayerPair(layer, painted, image["axes"], corrections).request()
    labels = _layer(viewer, label, Labels | Image)
    if labels is not None:
        return LayerPair(layer, labels, image["axes"]).request()
    return PairRequest(stack_from_layer(layer, image["axes"]), _path(label), dict(memo))


def _layer(viewer: Viewer, memo: Mapping[str, Any], kind: Any) -> Any:
    for layer in viewer.layers:
        named = isinstance(layer, kind) and layer.name == memo.get("layer")
        if named and list(finest(layer).shape) == memo.get("shape"):
            return layer
    return None


def _path(memo: Mapping[str, Any]) -> Path:
    path = Path(memo["path"]) if memo.get("path") else None
    if path is not None and path.exists():
        return path
    name, shape = memo.get("layer"), " x ".join(map(str, memo.get("shape", ())))
    if name:
        raise ValueError(f"the run needs the layer {name} ({shape}), which is gone; open it under that name")
    raise ValueError(f"the run needs {path}, which is gone; put it back, or discard the run")
