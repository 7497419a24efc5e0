"""Makes synthetic_em.tif and synthetic_em_membrane.tif: cells that never lived.

    python sample_data/make_synthetic_em.py [FOLDER]

The picture imitates brain tissue in an electron microscope, so that a membrane model has something
to find and its answer can be checked against the truth. Nothing in it was ever measured: it is for
demonstrations and tests, never for comparing methods. It comes about in three steps:

1. a 3D power diagram of bent cells (`make_cells`); its walls are the membranes and the truth;
2. cytoplasm of its own brightness in each cell, mitochondria and vesicles (`make_tissue`);
3. the microscope: blur, uneven brightness, noise, 8 bits (`make_micrograph`).

Lengths are in pixels of a plane; a plane is as thick as three of them. The seed is fixed, so the
arrays are the same at every run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Iterable

SHAPE = (16, 256, 256)
PLANE = 3.0
PIXEL_UM = 0.01
SEED = 2018
MARGIN = 40.0  # cells also sit outside, or those at the border would all be large
MEMBRANE = 1.8  # half the width of the two membranes between two cells
CENTRES = 230

Array = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


def make_stack(shape: tuple[int, int, int] = SHAPE, seed: int = SEED) -> tuple[Bytes, Bytes]:
    """The image (z, y, x) and its membranes (z, y, x), 1 on a membrane and 0 elsewhere."""
    rng = np.random.default_rng(seed)
    cell, wall = make_cells(shape, rng)
    image = make_micrograph(make_tissue(cell, wall, rng), rng)
    return image, (wall < MEMBRANE).astype(np.uint8)


def make_cells(shape: tuple[int, int, int], rng: np.random.Generator) -> tuple[npt.NDArray[np.intp], Array]:
    """The number of each voxel's cell, and its distance from the nearest wall between two cells."""
    centres, weights = _centres(shape, rng)
    # Less along z, where a plane is thick: walls that lie flat in a plane cannot be seen in it.
    bends = [size * _smooth_noise(shape, 14, rng) for size in (5, 11, 11)]
    places = np.stack([place + bend for place, bend in zip(_places(shape), bends, strict=True)])
    cell = np.empty(shape, np.intp)
    wall = np.empty(shape, np.float32)
    for z in range(shape[0]):
        # Power diagram: like Voronoi's, but a heavy centre pushes its walls outwards.
        power = _squared_distance(places[:, z, ..., None], centres.T) - weights
        nearest = np.argpartition(power, 1, axis=-1)[..., :2]
        gap = np.diff(np.take_along_axis(power, nearest, -1), axis=-1)[..., 0]
        first, second = np.moveaxis(nearest, -1, 0)
        cell[z] = np.where(gap < 0, second, first)
        wall[z] = np.abs(gap) / (2 * np.linalg.norm(centres[first] - centres[second], axis=-1))
    return cell, wall


def make_tissue(cell: npt.NDArray[np.intp], wall: Array, rng: np.random.Generator) -> Array:
    """Brightness (z, y, x), about 0 (stained) to 1 (empty), before any microscope."""
    shape = cell.shape
    cytoplasm = rng.normal(0.66, 0.06, cell.max() + 1)
    tissue = cytoplasm[cell].astype(np.float32)
    # Filaments and ribosomes: a fine grain, coarser in some cells than in others.
    grain = rng.uniform(0.02, 0.07, cell.max() + 1)[cell]
    tissue += grain * (_smooth_noise(shape, 1.3, rng) + 0.6 * _smooth_noise(shape, 3, rng))
    for _ in range(60):
        _add_mitochondrion(tissue, cell, wall, rng)
    for _ in range(260):
        _add_vesicle(tissue, wall, rng)
    stain = 0.42 + 0.06 * _smooth_noise(shape, 10, rng)
    return tissue - stain * np.exp(-((wall / MEMBRANE) ** 2))


def make_micrograph(tissue: Array, rng: np.random.Generator) -> Bytes:
    """What the detector makes of the tissue, (z, y, x)."""
    image = ndimage.gaussian_filter(tissue, (0.25, 0.8, 0.8))
    image += 0.025 * _smooth_noise(image.shape, 60, rng)
    image += rng.normal(0, 0.012, (len(image), 1, 1))  # no two planes are equally bright
    image += 0.045 * ndimage.gaussian_filter(rng.standard_normal(image.shape), (0, 0.6, 0.6)) / 0.45
    return np.clip(np.rint(235 * image), 0, 255).astype(np.uint8)


def _centres(shape: tuple[int, int, int], rng: np.random.Generator) -> tuple[Array, Array]:
    """Centres (n, 3) and weights (n,) of the cells: a few wide ones, thin ones in between."""
    low = np.array([-MARGIN, -MARGIN, -MARGIN])
    high = np.array(shape) * (PLANE, 1, 1) + MARGIN
    centres = rng.uniform(low, high, (CENTRES, 3))
    room = np.where(rng.random(CENTRES) < 0.3, 46, 17)
    kept: list[int] = []
    for i in np.argsort(-room, kind="stable"):
        distance = np.linalg.norm(centres[kept] - centres[i], axis=-1)
        if not kept or (distance > (room[kept] + room[i]) / 2).all():
            kept.append(int(i))
    return centres[kept].astype(np.float32), (room[kept] ** 2 / 4).astype(np.float32)


def _add_mitochondrion(tissue: Array, cell: npt.NDArray[np.intp], wall: Array, rng: np.random.Generator) -> None:
    """Puts a dark ellipsoid with folds inside into one cell, if there is room."""
    middle = tuple(int(rng.integers(n)) for n in tissue.shape)
    radii = (rng.uniform(14, 40), rng.uniform(6, 9), rng.uniform(10, 22))
    turn = _rotation(rng)
    if wall[middle] < 8:
        return
    away = np.tensordot(turn, _places(tissue.shape, middle), 1)
    reach = np.sqrt(sum((a / r) ** 2 for a, r in zip(away, radii, strict=True)))  # 1 at the skin
    inside = (reach < 1) & (cell == cell[middle]) & (wall > 4)
    folds = 0.05 * np.cos(1.3 * away[2] + 0.5 * np.sin(0.6 * away[1]))
    to_skin = np.minimum((1 - reach) * radii[1], wall - 4)
    tissue[inside] = (0.36 + folds - 0.1 * np.exp(-((to_skin / 1.2) ** 2)))[inside]


def _add_vesicle(tissue: Array, wall: Array, rng: np.random.Generator) -> None:
    """Puts a small pale ball with a dark skin into a cell, near its wall."""
    middle = tuple(int(rng.integers(n)) for n in tissue.shape)
    radius = rng.uniform(2.2, 4.5)
    if not 6 < wall[middle] < 14:
        return
    distance = np.sqrt(_squared_distance(_places(tissue.shape, middle), (0, 0, 0)))
    skin = np.exp(-(((distance - radius) / 0.9) ** 2))
    tissue += 0.08 * (distance < radius - 0.5) - 0.28 * skin


def _places(shape: tuple[int, ...], origin: tuple[int, ...] = (0, 0, 0)) -> Array:
    """How far each voxel is from the voxel `origin` along z, y and x: (3, z, y, x)."""
    axes = (np.arange(n, dtype=np.float32) - o for n, o in zip(shape, origin, strict=True))
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return np.stack([PLANE * z, y, x])


def _squared_distance(places: Array, point: Iterable[Any]) -> Array:
    """Of places (3, ...) from a point, or from points laid out along a further axis."""
    return sum((place - p) ** 2 for place, p in zip(places, point, strict=True))


def _smooth_noise(shape: tuple[int, ...], width: float, rng: np.random.Generator) -> Array:
    """Noise of unit variance in which neighbours within `width` are alike."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), (width / PLANE, width, width), mode="wrap")
    return (noise - noise.mean()) / noise.std()


def _rotation(rng: np.random.Generator) -> Array:
    """Any turn within the planes and a little tilt out of them."""
    turn, tilt = rng.uniform(0, np.pi), rng.normal(0, 0.25)
    c, s = np.cos(turn), np.sin(turn)
    within = np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    c, s = np.cos(tilt), np.sin(tilt)
    return (np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ within).astype(np.float32)


def write_stack(path: Path, stack: Bytes) -> None:
    """Writes a compressed ImageJ TIFF that knows its axes and its spacing."""
    tifffile.imwrite(
        path,
        stack,
        imagej=True,
        compression="zlib",
        compressionargs={"level": 9},
        resolution=(1 / PIXEL_UM, 1 / PIXEL_UM),
        metadata={"axes": "ZYX", "spacing": PLANE * PIXEL_UM, "unit": "um"},
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    image, membrane = make_stack()
    write_stack(folder / "synthetic_em.tif", image)
    write_stack(folder / "synthetic_em_membrane.tif", membrane)
