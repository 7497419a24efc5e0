"""Augmented patches as one picture, for the Preview of the Train dock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = 4
LARGEST_PATCH = 160  # pixels on the screen


def tiled(
    images: NDArray[np.float32], targets: NDArray[np.uint8], colors: list[tuple[int, int, int]]
) -> NDArray[np.uint8]:
    """Patches (n, channel, y, x) and their targets (n, y, x) side by side, as a picture (rows, columns, 3).

    Gray is the first channel between its darkest and brightest; class k has the colour k - 1; 255 was not annotated.
    """
    n, _, height, width = images.shape
    zoom, gap = max(1, LARGEST_PATCH // max(height, width)), 4
    rows = -(-n // COLUMNS)
    step_y, step_x = height * zoom + gap, width * zoom + gap
    picture = np.full((rows * step_y - gap, COLUMNS * step_x - gap, 3), 128, np.uint8)
    for k, (image, target) in enumerate(zip(images, targets, strict=True)):
        gray = image[0]
        low, high = np.percentile(gray, (0.5, 99.5))
        shown = np.repeat(np.clip((gray - low) / max(high - low, 1e-6), 0, 1)[..., None] * 255, 3, axis=2)
        for number, color in enumerate(colors, start=1):
            shown[target == number] = 0.6 * shown[target == number] + 0.4 * np.array(color, float)
        shown[target == 255] *= 0.45
        y, x = (k // COLUMNS) * step_y, (k % COLUMNS) * step_x
        picture[y : y + height * zoom, x : x + width * zoom] = shown.repeat(zoom, 0).repeat(zoom, 1)
    return picture


def rgb(color: str) -> tuple[int, int, int]:
    digits = color.lstrip("#")
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:6], 16)
