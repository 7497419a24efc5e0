"""Which prediction corrections start from, follow and are led by, and what is remembered of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_unetpp.gui.comparison import level_name
from napari_unetpp.gui.correct_work import Proposed
from napari_unetpp.gui.image_layer import extents
from napari_unetpp.gui.layers import predictions_in
from napari_unetpp.inference.labels import label_view
from napari_unetpp.model.card import CLASS_COLORS, ClassInfo

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image

    from napari_unetpp.box import Box
    from napari_unetpp.gui.comparison import Level
    from napari_unetpp.gui.layers import LevelLayers
    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.training.corrections import Corrections

FOREGROUND: tuple[ClassInfo, ...] = (ClassInfo("foreground"),)  # of corrections that nobody has predicted anything for


def prediction_of(viewer: Viewer, image: Image | None, axes: str) -> LevelLayers | None:
    """The newest prediction of the whole image, of those that are visible if any is."""
    if image is None or not axes:
        return None
    extent = dict(zip(axes, extents(image), strict=False))
    found = []
    for levels in predictions_in(viewer):
        store = levels.store
        if levels.is_of(image) and tuple(extent.get(axis) for axis in store.axes) == store.shape:
            found.append(levels)
    visible = [levels for levels in found if levels.comparison.visible]
    return next(reversed(visible or found), None)


def proposed_of(levels: LevelLayers, level: Level, first: Box | None) -> Proposed:
    """The labels of a level as they are on the screen."""
    view = label_view(levels.store, level, levels.comparison.threshold)
    about = {"level": level_name(level), "threshold": levels.comparison.threshold, **_identity(levels.store)}
    return Proposed(view, levels.store, about, first)


def is_news(corrections: Corrections, levels: LevelLayers) -> bool:
    """Whether a prediction is another than what the corrections followed, or has more tiles by now."""
    now = _identity(levels.store)
    return now["done"] > 0 and any(corrections.source.get(key) != value for key, value in now.items())


def _identity(store: PredictionStore) -> dict[str, Any]:
    return {
        "model": str(store.record.get("model", "")),
        "model_sha256": str(store.record.get("model_sha256", "")),
        "predictions": str(store.path),
        "done": store.done_count,
    }


def classes_of(store: PredictionStore) -> tuple[ClassInfo, ...]:
    """Names and colours of the classes of a prediction, without the background."""
    recorded = dict(enumerate(store.record.get("classes", ())))
    first = 0 if len(store.classes) == 1 else 1
    return tuple(
        ClassInfo(store.classes[k], recorded.get(k, {}).get("color") or CLASS_COLORS[(k - first) % len(CLASS_COLORS)])
        for k in range(first, len(store.classes))
    )
