"""How well rules for the range of intensities hold out: IoU of the bundled models by stress and rule.

    python -m benchmarks.intensities DATA [--seeds 2] [--only REGEX] [--rules stack,robust]

DATA is the folder of data sets that the tests use too. Each stress spoils an image of which the truth is known, and only voxels
of that image are scored. Rules: `stack` (percentiles of all voxels), `plane` (of each plane), `blocks` (of blocks that hold
signal, always), `median` (of the 3 x 3 median), `local` (of each block of 64 voxels with its neighbours, with a floor from the
noise) and `robust` (what new models have).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from scipy import ndimage

from napari_unetpp.box import Box
from napari_unetpp.inference.backends import prepare
from napari_unetpp.inference.region import predict_region
from napari_unetpp.model.checkpoint import load_model
from napari_unetpp.model.intensity import Intensity, Scaling
from napari_unetpp.model.picture import examine, find_padding, look_at
from napari_unetpp.model.sampling import as_seen, read_raw, scale_stack
from napari_unetpp.stacks import open_stack

RULES = ("stack", "plane", "blocks", "median", "local", "robust")
EDGE = 320  # voxels of an image that are looked at
AROUND = 96  # voxels around a field in a large empty picture
Image = NDArray[Any]


@dataclass(frozen=True)
class Spoilt:
    """A spoilt image ([z,] y, x[, c]) and where in its planes the picture of known truth lies."""

    image: Image
    corner: tuple[int, int] = (0, 0)
    known: NDArray[np.bool_] | None = None
    axis: Literal["", "z", "t"] = ""


def images(data: Path) -> Iterator[tuple[str, str, Image, NDArray[np.bool_]]]:
    """Name, model, image and truth: one of each kind, in 16 bit as cameras give them, the background above 0."""
    kinds = ["256x256", "256x320", "260x347", "360x360", "512x640", "520x696", "603x1272"]
    for k, kind in enumerate(kinds):
        path = data / f"nuclei_dsb2018/fluo_{kind}"
        yield kind, "nuclei", *_pair(f"{path}_images.tif", f"{path}_labels.tif", k % 3)
    path = data / "nuclei_dsb2018/he_rgb_256x320"
    yield "H&E", "nuclei", *_pair(f"{path}_images.tif", f"{path}_labels.tif", 3)
    yield "img2d", "nuclei", *_pair(data / "stardist_samples/img2d.tif", data / "stardist_samples/mask2d.tif", 0)
    path = data / "fib25_medulla"
    yield "FIB-25", "em-boundaries", *_pair(path / "images.tif", path / "derived_boundary.tif", 160)


def _pair(image: str | Path, label: str | Path, page: int) -> tuple[Image, NDArray[np.bool_]]:
    """The window that holds the most of what is looked for."""
    raw, truth = tifffile.imread(image, key=page), tifffile.imread(label, key=page) > 0
    corners = [
        (y, x)
        for y in range(0, max(1, len(truth) - EDGE + 1), 40)
        for x in range(0, max(1, truth.shape[1] - EDGE + 1), 40)
    ]
    y, x = max(corners, key=lambda c: truth[c[0] : c[0] + EDGE, c[1] : c[1] + EDGE].sum())
    window = np.s_[y : y + EDGE, x : x + EDGE]
    return raw[window].astype(np.uint16) * 16 + 200, truth[window]


def _columns(image: Image, count: int, value: int) -> Spoilt:
    spoilt, known = image.copy(), np.ones(image.shape[:2], bool)
    spoilt[:, :count], known[:, :count] = value, False
    return Spoilt(spoilt, known=known)


def _tile(image: Image, value: int) -> Spoilt:
    spoilt, known = image.copy(), np.ones(image.shape[:2], bool)
    middle = tuple(slice(n // 2, None) for n in image.shape[:2])
    spoilt[middle], known[middle] = value, False
    return Spoilt(spoilt, known=known)


def _frame(image: Image, edge: int, value: int) -> Spoilt:
    pads = ((edge, edge), (edge, edge), (0, 0))[: image.ndim]
    return Spoilt(np.pad(image, pads, constant_values=value), (edge, edge))


def _rotated(image: Image, rng: np.random.Generator) -> Spoilt:
    """Turned there and back: corners are lost, the rest is a little smoother, and the truth stays where it is."""
    angle = rng.uniform(5, 20)
    there = ndimage.rotate(image, angle, order=1, reshape=False)
    seen = ndimage.rotate(np.ones(image.shape[:2], np.float32), angle, order=1, reshape=False)
    spoilt = ndimage.rotate(there, -angle, order=1, reshape=False)
    known = ndimage.rotate(seen, -angle, order=1, reshape=False) > 0.999
    return Spoilt(np.where(known if image.ndim == 2 else known[..., None], spoilt, 0), known=known)


def _field(image: Image, edge: int, empty: bool, rng: np.random.Generator) -> Spoilt:
    """In a large picture: of noise about the background, or of zeros."""
    level = np.percentile(image, 5, axis=(0, 1))
    if image.ndim == 3:
        level = np.percentile(image, 95, axis=(0, 1))  # glass is bright
    large = np.zeros((edge, edge, *image.shape[2:]), np.uint16)
    if empty:
        large[...] = np.clip(rng.normal(level, 16, large.shape), 0, 65535)
    corner = tuple(int(rng.integers(AROUND, edge - n - AROUND)) for n in image.shape[:2])
    large[corner[0] : corner[0] + image.shape[0], corner[1] : corner[1] + image.shape[1]] = image
    return Spoilt(large, corner)


def _mosaic(image: Image, tiles: int) -> Spoilt:
    rows, columns = image.shape[:2]
    large = np.zeros((2 * rows, 2 * columns, *image.shape[2:]), image.dtype)
    for k in range(tiles):
        y, x = k // 2 * rows, k % 2 * columns
        large[y : y + rows, x : x + columns] = image
    return Spoilt(large)


def _broken(image: Image, share: float, value: int, rng: np.random.Generator) -> Spoilt:
    spoilt = image.copy()
    spoilt[rng.random(image.shape[:2]) < share] = value
    return Spoilt(spoilt)


def _planes(image: Image, factors: tuple[float, ...], axis: Literal["z", "t"]) -> Spoilt:
    return Spoilt(np.stack([(image * f).astype(image.dtype) for f in factors]), axis=axis)


def _nan(image: Image) -> Spoilt:
    found = _columns(image, 40, 0)
    assert found.known is not None
    spoilt = image.astype(np.float32)
    spoilt[~found.known] = np.nan
    return replace(found, image=spoilt)


Stress = Callable[[Image, np.random.Generator], Spoilt]
STRESSES: dict[str, Stress] = {
    "plain": lambda x, _: Spoilt(x),
    "6 columns of 0": lambda x, _: _columns(x, 6, 0),
    "17 % of 0": lambda x, _: _columns(x, round(0.17 * x.shape[1]), 0),
    "17 % of 65535": lambda x, _: _columns(x, round(0.17 * x.shape[1]), 65535),
    "one tile of four missing": lambda x, _: _tile(x, 0),
    "frame of 3, 0": lambda x, _: _frame(x, 3, 0),
    "frame of 40, 0": lambda x, _: _frame(x, 40, 0),
    "rotated": _rotated,
    "40 columns of NaN": lambda x, _: _nan(x),
    "field in 2048 x 2048 of noise": lambda x, rng: _field(x, 2048, True, rng),
    "field in 2048 x 2048 of 0": lambda x, rng: _field(x, 2048, False, rng),
    "mosaic, 1 of 4": lambda x, _: _mosaic(x, 1),
    "mosaic, 2 of 4": lambda x, _: _mosaic(x, 2),
    "mosaic, 3 of 4": lambda x, _: _mosaic(x, 3),
    "0.3 % hot": lambda x, rng: _broken(x, 0.003, 65535, rng),
    "0.6 % hot": lambda x, rng: _broken(x, 0.006, 65535, rng),
    "0.6 % at the largest value": lambda x, rng: _broken(x, 0.006, int(x.max()), rng),
    "0.6 % dead": lambda x, rng: _broken(x, 0.006, 0, rng),
    "planes x 1/8, 1/4, 1": lambda x, _: _planes(x, (1 / 8, 1 / 4, 1), "z"),
    "planes x 1/2, 1, 1/3": lambda x, _: _planes(x, (1 / 2, 1, 1 / 3), "z"),
    "times x 1 to 0.15": lambda x, _: _planes(x, (1, 0.7, 0.5, 0.3, 0.2, 0.15), "t"),
    "uint32 at 2e9": lambda x, _: Spoilt(x.astype(np.uint32) // 16 + np.uint32(2_000_000_000)),
    "uint64 at 2**63": lambda x, _: Spoilt(x.astype(np.uint64) // np.uint64(16) + np.uint64(2**63)),
}


def ious(spoilt: Spoilt, truth: NDArray[np.bool_], model: Any, backend: Any, rule: str) -> list[float]:
    """IoU of each plane."""
    image = spoilt.image
    axes = spoilt.axis + "yx" + "c" * (image.ndim - 2 - bool(spoilt.axis))
    stack = open_stack(image, axes=axes)
    channels = model.spec.in_channels
    over = rule if rule in ("plane", "robust") else "stack"
    intensity = replace(model.intensity, over=over)
    if rule in ("stack", "plane", "robust"):
        stack, scaling = as_seen(stack, scale_stack(stack, intensity, channels))
    else:
        scaling = _other(rule, image, intensity, channels) if rule != "local" else None
    rows, columns = truth.shape
    y, x = spoilt.corner
    found = []
    for plane in range(image.shape[0] if spoilt.axis else 1):
        lead = (plane,) if spoilt.axis else ()
        low = (max(0, y - AROUND), max(0, x - AROUND))
        high = (min(stack.shape_predicted[-2], y + rows + AROUND), min(stack.shape_predicted[-1], x + columns + AROUND))
        box = Box((*lead, *low), (*(p + 1 for p in lead), *high))
        raw = read_raw(stack, box)
        raw = raw.reshape(raw.shape[0], *raw.shape[-2:])
        used = scaling
        if used is None:
            raw, used = _local(raw, intensity), Scaling((0.0,) * channels, (1.0,) * channels)
        if rule == "median":
            raw = ndimage.median_filter(np.nan_to_num(raw), (1, 3, 3))
        head = predict_region(raw, model, scaling=used, backend=backend)[-1][0] >= 0.5
        got = head[y - low[0] : y - low[0] + rows, x - low[1] : x - low[1] + columns]
        known = np.ones(truth.shape, bool) if spoilt.known is None else spoilt.known
        both, either = (got & truth & known).sum(), ((got | truth) & known).sum()
        found.append(float(both / max(1, either)))
    return found


def _other(rule: str, image: Image, intensity: Intensity, channels: int) -> Scaling:
    gray = [plane.mean(axis=-1) if plane.ndim == 3 else plane for plane in (image if image.ndim > 3 else image[None])]
    if image.ndim == 3 and image.shape[-1] != 3:
        gray = list(image)
    gray = [np.asarray(plane, np.float64) for plane in gray]
    if rule == "median":
        values = np.concatenate([ndimage.median_filter(np.nan_to_num(plane), 3).ravel() for plane in gray])
    else:
        base = np.nanmin(gray[0])
        looks = [look_at(p, find_padding(p)[0]) for p in ((plane - base).astype(np.float32) for plane in gray)]
        found = examine(looks, intensity.low, intensity.high)
        values = (found.lively if found.lively.size else found.values).astype(np.float64) + base
        if not values.size:
            values = np.concatenate([plane.ravel() for plane in gray])
    low, high = np.percentile(values, [intensity.low, intensity.high])
    return Scaling((float(low),) * channels, (1 / max(float(high - low), 1e-6),) * channels)


def _local(raw: Image, intensity: Intensity) -> Image:
    """Each block of 64 voxels with the range of it and its neighbours, interpolated, at least twenty times the noise wide."""
    gray = np.nan_to_num(raw.astype(np.float64)).mean(axis=0)
    noise = np.median(np.abs(np.diff(gray, axis=1))) / 0.95
    rows, columns = (max(1, n // 64) for n in gray.shape)
    table = np.empty((2, rows, columns))
    for i in range(rows):
        for j in range(columns):
            part = gray[max(0, 64 * (i - 1)) : 64 * (i + 2), max(0, 64 * (j - 1)) : 64 * (j + 2)]
            table[:, i, j] = np.percentile(part, [intensity.low, intensity.high])
    low, high = (
        ndimage.zoom(t, (gray.shape[0] / rows, gray.shape[1] / columns), order=1, mode="nearest", grid_mode=True)
        for t in table
    )
    return np.nan_to_num((raw - low) / np.maximum(high - low, 20 * noise + 1e-6)).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", default="", metavar="REGEX", help="stresses whose name holds this")
    parser.add_argument("--images", default="", metavar="REGEX", help="images whose name holds this")
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rules = arguments.rules.split(",")
    torch.set_num_threads(1)
    models = {name: load_model(name, "cpu") for name in ("nuclei", "em-boundaries")}
    backends = {name: prepare(model) for name, model in models.items()}
    chosen = [one for one in images(arguments.data) if re.search(arguments.images, one[0])]
    plain = {
        name: ious(Spoilt(image), truth, models[model], backends[model], "stack")[0]
        for name, model, image, truth in chosen
    }
    print("plain", {name: round(iou, 3) for name, iou in plain.items()})
    print("largest loss of any image, plane and seed against the plain image under the plain rule, and the mean loss")
    print(f"{'':32s}" + "".join(f"{rule:>16s}" for rule in rules))
    table: dict[str, dict[str, dict[str, list[float]]]] = {}
    for stress, spoil in STRESSES.items():
        if not re.search(arguments.only, stress):
            continue
        line = f"{stress:32s}"
        for rule in rules:
            losses: dict[str, list[float]] = {}
            for name, model, image, truth in chosen:
                spoilt = [spoil(image, np.random.default_rng(seed)) for seed in range(arguments.seeds)]
                if all(np.array_equal(one.image, spoilt[0].image, equal_nan=True) for one in spoilt):
                    spoilt = spoilt[:1]  # no chance in it
                for one in spoilt:
                    best = plain[name]
                    if one.known is not None:  # of the part that is left
                        best = ious(Spoilt(image, known=one.known), truth, models[model], backends[model], "stack")[0]
                    losses.setdefault(name, []).extend(
                        best - iou for iou in ious(one, truth, models[model], backends[model], rule)
                    )
            table.setdefault(stress, {})[rule] = losses
            worst = max(losses, key=lambda name: max(losses[name]))
            mean = np.mean([np.mean(v) for v in losses.values()])
            line += f"{max(losses[worst]):8.3f} {mean:6.3f} "
        print(line, {n: round(max(v), 3) for n, v in table[stress][rules[-1]].items() if max(v) > 0.02}, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
