"""What a package shows of a model: a picture that ships with us, run through the network, and its card as a text.

In this order: the picture that suits a model (`picture`), the cover (`cover`), and the text (`readme`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_unetpp.model.checkpoint import Model

_SAMPLES = Path(__file__).parent.parent / "samples"
_COVER = 512  # pixels: half of the width that bioimage.io shows


def picture(model: Model, extent: tuple[int, ...]) -> NDArray[np.float32]:
    """Raw picture (channel, [z,] y, x) of that extent: nuclei, or made-up EM for volumes and models that speak of membranes."""
    import tifffile

    card = model.card
    words = " ".join([card.description, card.data, *(c.name for c in card.classes)]).lower()
    electrons = model.spec.ndim == 3 or re.search(r"membrane|boundar|electron|\bem\b", words)
    raw = tifffile.imread(_SAMPLES / ("synthetic_em.tif" if electrons else "nuclei.tif"))
    if raw.ndim > len(extent):
        raw = raw[raw.shape[0] // 2]
    for axis, wanted in enumerate(extent):  # from the middle; mirrored where the picture is smaller
        start = max(0, (raw.shape[axis] - wanted) // 2)
        index = np.arange(start, start + wanted) % max(2 * (raw.shape[axis] - 1), 1)
        raw = raw.take(
            np.minimum(index, 2 * (raw.shape[axis] - 1) - index) if wanted > raw.shape[axis] else index, axis
        )
    return np.repeat(raw[None].astype(np.float32), model.spec.in_channels, axis=0)


def cover(raw: NDArray[np.float32], probability: NDArray[np.float32], path: Path) -> None:
    """Write a PNG: the picture (channel, ...) on the left, the probability (class, ...) of the last class on the right."""
    from PIL import Image

    image, answer = raw.mean(axis=0), probability[-1]
    if image.ndim == 3:
        image, answer = image[len(image) // 2], answer[len(answer) // 2]
    edge = min(image.shape)
    low, high = np.percentile(image, (1, 99.8))
    panels = [np.clip((image - low) / max(high - low, 1e-9), 0, 1), answer]
    pixels = np.concatenate([panel[:edge, :edge] for panel in panels], axis=1)
    drawn = Image.fromarray((pixels * 255).round().astype(np.uint8))
    drawn.resize((2 * _COVER, _COVER), Image.Resampling.BICUBIC).save(path)


def readme(model: Model) -> str:
    """The card as Markdown, with what a program cannot read out of the description."""
    card, spec = model.card, model.spec
    deepest = f"L{spec.depth}"
    lines = [
        f"# {card.name}",
        "",
        card.description or "A nested U-Net (UNet++).",
        "",
        f"Outputs: {', '.join(f'`l{d}`' for d in spec.heads[::-1])}. Each is the answer of one level of the same network, "
        f"probabilities in [0, 1]; `{deepest.lower()}` is the deepest, L{card.recommended_level} the one that its card recommends.",
        f"Classes: {', '.join(c.name for c in card.classes)}.",
        "",
        "Intensities are measured on each image by itself here, and once per stack in napari-unetpp.",
        "Images of any size are mirrored past their far ends inside the network.",
        f"The model file of napari-unetpp is attached (`models import` of this zip gives it back), {_count(model)} weights.",
        "",
    ]
    for title, text in (("Data", card.data), ("Licence", card.licence), ("Credit", card.credit)):
        if text:
            lines += [f"## {title}", "", text, ""]
    lines += ["## Validation", ""]
    if not card.scores:
        lines += ["No scores are recorded in its card.", ""]
    for split, heads in card.scores.items():
        names = sorted({name for values in heads.values() for name in values})
        lines += [f"{split}:", "", f"| level | {' | '.join(names)} |", f"|---{'|---' * len(names)}|"]
        for head, values in heads.items():
            cells = (f"{values[name]:.4f}" if name in values else "" for name in names)
            lines.append(f"| {head} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _count(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.network.parameters())
