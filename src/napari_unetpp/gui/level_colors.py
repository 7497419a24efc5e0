"""The colours of levels and classes, without napari, so that a reader can name them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from napari_unetpp.gui.comparison import ENSEMBLE, Level
from napari_unetpp.model.card import CLASS_COLORS

if TYPE_CHECKING:
    from napari_unetpp.inference.store import PredictionStore

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


def label_colors(level: Level, store: PredictionStore) -> dict[int | None, str]:
    """Colour by label: with one class that of the level, with several those that the run recorded.

    Background and unknown labels (None) are transparent.
    """
    channels = len(store.classes)
    clear: dict[int | None, str] = {None: "transparent", 0: "transparent"}
    if channels == 1:
        return {**clear, 1: LEVEL_COLORS.get(level, CLASS_COLORS[0])}
    recorded = dict(enumerate(store.record.get("classes", ())))
    return clear | {
        k: recorded.get(k, {}).get("color") or CLASS_COLORS[(k - 1) % len(CLASS_COLORS)] for k in range(1, channels)
    }
