"""A PNG that shows an image, its reference labels and every level next to each other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from napari_unetpp._whole import beside
from napari_unetpp.box import Box
from napari_unetpp.evaluation.boundaries import outline
from napari_unetpp.inference.labels import label_view

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_unetpp.inference.store import PredictionStore
    from napari_unetpp.stacks import Stack

_COLUMNS, _TITLE, _GAP, _FONT = 3, 30, 6, 18  # pixels
_REFERENCE = "#ffffff"
# Okabe and Ito's colours, as the levels have in napari.
_LEVELS = ("#56b4e9", "#009e73", "#e69f00", "#cc79a7", "#d55e00", "#0072b2")
_OPACITY = 0.35


def save_comparison(
    path: Path,
    stack: Stack,
    reference: Stack,
    store: PredictionStore,
    iou: Mapping[str, float],
) -> None:
    """Write the PNG of a plane (y, x); `iou` by the names of levels goes into the titles."""
    box = Box.of(stack.shape_predicted)
    raw = stack.read(box).reshape(stack.channels, *box.shape[-2:]).mean(axis=0)
    low, high = np.percentile(raw, (1, 99))  # dim objects matter here, so bright ones may clip
    gray = (np.clip((raw - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)
    truth = reference.read(box).reshape(box.shape[-2:])
    panels = [("image", _rgb(gray)), ("reference", _overlay(gray, truth, _REFERENCE))]
    for level in store.levels:
        labels = np.asarray(label_view(store, level)[...]).reshape(gray.shape)
        color = _LEVELS[(level - 1) % len(_LEVELS)]
        panels.append((f"L{level}   IoU {iou[f'L{level}']:.3f}", _overlay(gray, labels, color)))
    picture = _side_by_side(panels)
    temporary = beside(path, "png")
    try:
        picture.save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _rgb(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(gray[..., np.newaxis], 3, axis=-1)


def _overlay(gray: NDArray[np.uint8], labels: NDArray[Any], color: str) -> NDArray[np.uint8]:
    """The image with the labels' area tinted and the outline of every instance drawn."""
    rgb = _rgb(gray).astype(np.float32)
    tint = np.array(ImageColor.getrgb(color)[:3], np.float32)
    inside = labels > 0
    rgb[inside] += (tint - rgb[inside]) * _OPACITY
    edge = outline(labels)
    # Touching instances have no background between them, so their seams are drawn as well.
    edge[:-1] |= inside[:-1] & (labels[1:] != labels[:-1])
    edge[:, :-1] |= inside[:, :-1] & (labels[:, 1:] != labels[:, :-1])
    rgb[edge] = tint
    return rgb.astype(np.uint8)


def _side_by_side(panels: list[tuple[str, NDArray[np.uint8]]]) -> Image.Image:
    height, width = panels[0][1].shape[:2]
    rows = -(-len(panels) // _COLUMNS)
    cell = (width + _GAP, height + _TITLE + _GAP)
    picture = Image.new("RGB", (cell[0] * _COLUMNS + _GAP, cell[1] * rows + _GAP), "#202020")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_FONT)
    for number, (title, rgb) in enumerate(panels):
        row, column = divmod(number, _COLUMNS)
        x, y = column * cell[0] + _GAP, row * cell[1] + _GAP
        draw.text((x + 4, y + 3), title, fill="white", font=font)
        picture.paste(Image.fromarray(rgb), (x, y + _TITLE))
    return picture
