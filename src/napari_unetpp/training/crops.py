"""Crops around labelled objects, all of one spacing and extent: the protocol of the papers' lung nodules.

In this order: the rule (`CropRule`), the objects of a label stack (`objects_in`), one crop (`cut`), the crops of many pairs as TIFF
files in a folder (`write_crops`).

The papers resample a CT scan to 1-1-1 mm and cut 64x64x64 voxels around each nodule. The resampled grid begins at the corner of
the stack, so its voxel i lies ``(i + 1/2) * wanted / spacing - 1/2`` old voxels from the middle of the first one::

    spacing 3  |    0    |    1    |    2    |        wanted 2, voxel 1: (1 + 1/2) * 2/3 - 1/2 = 1/2,
    wanted  2  |  0  |  1  |  2  |  3  |  4  |        half way between the old voxels 0 and 1

A crop reads no more of the stack than it shows, so stacks of any size will do; past the border the stack is mirrored.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from scipy import ndimage

from napari_unetpp._whole import whole_folder
from napari_unetpp.box import Box

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_unetpp.stacks import Stack
    from napari_unetpp.training.pairs import Pair

IMAGE_ORDER, LABEL_ORDER = 1, 0  # linear and nearest: a label between two labels is a third one
_MOST = 16  # images that a crop may be long: past that a unit was mistaken, by a thousand, and memory would not do


@dataclass(frozen=True, slots=True)
class CropRule:
    """How crops are cut.

    Parameters
    ----------
    spacing_um, extent
        Of the crops, one number per axis (z,) y, x: micrometres, and voxels.
    separate
        True: each connected piece of a label is an object. False: all voxels of a label are one.

    Raises
    ------
    ValueError
        If the two have different axes or a number is not positive.
    """

    spacing_um: tuple[float, ...]
    extent: tuple[int, ...]
    separate: bool = False

    def __post_init__(self) -> None:
        if len(self.spacing_um) != len(self.extent) or len(self.extent) not in (2, 3):
            raise ValueError(
                f"spacing {self.spacing_um} and extent {self.extent} must name the same axes, (z,) y, x; give 2 or 3 numbers each"
            )
        if not all(0 < s < math.inf for s in self.spacing_um) or min(self.extent) < 1:
            raise ValueError(f"spacing {self.spacing_um} and extent {self.extent} must be positive")


@dataclass(frozen=True, slots=True)
class CropDone:
    """One crop is written: of which image, which label is in its middle, where it starts in resampled voxels."""

    image: str
    label: int
    start: tuple[int, ...]
    file: str
    pair: int


def objects_in(labels: NDArray[Any], separate: bool = False) -> list[tuple[int, Box]]:
    """Label and bounding box of every object, by label and then by place; 0 is no object.

    Parameters
    ----------
    labels
        ((z,) y, x) integers.
    separate
        As for `CropRule`; pieces that touch at an edge or corner are connected.
    """
    values, numbers = np.unique(labels, return_inverse=True)
    numbers = numbers.reshape(labels.shape)
    found = []
    everywhere = np.ones((3,) * labels.ndim)
    for number, box in enumerate(ndimage.find_objects(numbers + 1)):
        if values[number] <= 0:
            continue
        boxes = [Box(tuple(s.start for s in box), tuple(s.stop for s in box))]
        if separate:
            pieces, _ = ndimage.label(numbers[box] == number, everywhere)
            boxes = [
                Box(
                    *zip(*((s.start + o.start, s.stop + o.start) for s, o in zip(piece, box, strict=True)), strict=True)
                )
                for piece in ndimage.find_objects(pieces)
            ]
        found += [(int(values[number]), one) for one in boxes]
    return found


def crop_start(box: Box, spacing_um: Sequence[float], rule: CropRule) -> tuple[int, ...]:
    """First voxel, on the resampled grid, of the crop whose middle is nearest to that of a box of the stack.

    >>> crop_start(Box((10, 0), (20, 6)), (2.0, 1.0), CropRule((1.0, 1.0), (8, 8)))
    (26, -1)
    """
    return tuple(
        math.floor((a + b) / 2 * old / new - extent / 2 + 0.5)
        for a, b, old, new, extent in zip(box.start, box.stop, spacing_um, rule.spacing_um, rule.extent, strict=True)
    )


def cut(stack: Stack, spacing_um: Sequence[float], start: Sequence[int], rule: CropRule, order: int) -> NDArray[Any]:
    """Voxels (channel, *rule.extent) of a crop in the stack's dtype.

    Nothing is smoothed before it is made coarser, as in the papers' protocol.

    Parameters
    ----------
    spacing_um
        Of the stack, one number per prediction axis.
    start
        First voxel of the crop on the resampled grid, which begins at the stack's corner.
    order
        Of the spline between voxels: `IMAGE_ORDER` or `LABEL_ORDER`.
    """
    ratio = [new / old for new, old in zip(rule.spacing_um, spacing_um, strict=True)]
    first = [(a + 0.5) * r - 0.5 for a, r in zip(start, ratio, strict=True)]
    last = [f + (n - 1) * r for f, n, r in zip(first, rule.extent, ratio, strict=True)]
    box = Box(tuple(math.floor(f) for f in first), tuple(math.ceil(f) + 1 for f in last))
    raw = stack.read(box)
    offset = [f - a for f, a in zip(first, box.start, strict=True)]
    numbers = None
    if order == LABEL_ORDER and raw.dtype.itemsize == 8:  # scipy computes in double, which merges ids beyond 2**53
        numbers, places = np.unique(raw, return_inverse=True)
        raw = places.reshape(raw.shape)
    found = np.stack(
        [
            ndimage.affine_transform(channel, ratio, offset, output_shape=rule.extent, order=order, mode="nearest")
            for channel in raw
        ]
    )
    return found if numbers is None else numbers[found]


def write_crops(pairs: Sequence[Pair], rule: CropRule, folder: str | Path) -> Iterator[CropDone]:
    """An event for each crop; once all are written, `folder` holds ``images/`` and ``labels/`` with files of equal names.

    ``crops.json`` beside them says where each came from. After an error or a cancelled iteration there is no folder. Everything is
    checked before the generator is returned.

    Raises
    ------
    ValueError
        If an image has other axes than the rule, does not say its spacing, or holds no object.
    FileExistsError
        If the folder exists.
    OSError
        If the folder around it goes meanwhile, or not all can be read back.
    """
    target = Path(folder)
    if os.path.lexists(target):  # a link to nowhere, too
        raise FileExistsError(f"{target} exists; choose another folder for the crops or remove it")
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"folder {target.absolute().parent} does not exist; make it, or choose another place")
    if not pairs:
        raise ValueError("no image was given; name at least one image and its labels")
    for pair in pairs:
        _spacing(pair.image, rule)
    return _written(pairs, rule, target)


def _written(pairs: Sequence[Pair], rule: CropRule, target: Path) -> Iterator[CropDone]:
    stems = [pair.image.name.partition(".")[0] or "image" for pair in pairs]
    often = Counter(stems)
    with whole_folder(target.absolute()) as temporary:
        temporary.mkdir()
        for part in ("images", "labels"):
            (temporary / part).mkdir()
        done: list[CropDone] = []
        for index, (pair, stem) in enumerate(zip(pairs, stems, strict=True)):
            spacing = _spacing(pair.image, rule)
            name = f"{stem}_{index + 1}" if often[stem] > 1 else stem
            for number, (label, box) in enumerate(objects_in(pair.label.read(pair.whole)[0], rule.separate), 1):
                start = crop_start(box, spacing, rule)
                event = CropDone(pair.image.name, label, start, f"{name}_{number:04d}.tif", index)
                image = cut(pair.image, spacing, start, rule, IMAGE_ORDER)
                labels = cut(pair.label, spacing, start, rule, LABEL_ORDER)
                _save(temporary / "images" / event.file, image, rule)
                _save(temporary / "labels" / event.file, labels, rule)
                done.append(event)
                yield event
        if not done:
            raise ValueError("the labels hold no object, all is 0; there is nothing to cut around")
        record = {"rule": asdict(rule), "crops": [asdict(event) for event in done]}
        (temporary / "crops.json").write_text(json.dumps(record, indent=1) + "\n")
        _read_back(temporary, done, labels[0])
        temporary.rename(target.absolute())


def _read_back(folder: Path, done: Sequence[CropDone], last: NDArray[Any]) -> None:
    """Raise OSError unless every file is there and the labels of the last crop are what was written."""
    for event in done:
        for part in ("images", "labels"):
            if not (folder / part / event.file).is_file():
                raise FileNotFoundError(
                    f"{part}/{event.file} was deleted while the crops were written; write them elsewhere"
                )
    if not np.array_equal(tifffile.imread(folder / "labels" / done[-1].file), last):
        raise OSError(f"labels/{done[-1].file} is read back otherwise than it was written; write the crops elsewhere")


def _spacing(image: Stack, rule: CropRule) -> tuple[float, ...]:
    """Micrometres per prediction axis of an image that fits the rule."""
    axes = "zyx"[-len(rule.extent) :]
    if image.axes_predicted != axes:
        raise ValueError(
            f"image {image.name} has the axes {image.axes_predicted} where crops of {len(axes)} axes need {axes}; choose one time "
            "point, or as many numbers as axes"
        )
    known = tuple(s for s in image.spacing_predicted_um if s is not None)
    if len(known) != len(axes):
        raise ValueError(f"image {image.name} does not say its spacing along {', '.join(axes)}; name it yourself")
    for axis, n, step, extent, spacing in zip(
        axes, rule.extent, rule.spacing_um, image.shape_predicted, known, strict=True
    ):
        if n * step > _MOST * extent * spacing:
            raise ValueError(
                f"a crop is {n * step:g} um long along {axis} where image {image.name} has {extent * spacing:g}; check both "
                "spacings and their units"
            )
    return known


def _save(path: Path, voxels: NDArray[Any], rule: CropRule) -> None:
    """An OME-TIFF of (channel, [z,] y, x) with its spacing; one channel is no axis.

    OME knows no integers of 64 bit: they become 32 bit where they fit, else a TIFF without spacing, which labels do not need.
    """
    if voxels.dtype.kind in "iu" and voxels.dtype.itemsize == 8:
        low, high = int(voxels.min()), int(voxels.max())
        fitting = [t for t in (np.int32, np.uint32) if np.iinfo(t).min <= low and high <= np.iinfo(t).max]
        if not fitting:
            tifffile.imwrite(
                path, voxels[0] if len(voxels) == 1 else voxels, photometric="minisblack", compression="zlib"
            )
            return
        voxels = voxels.astype(fitting[0])
    axes = "zyx"[-len(rule.extent) :]
    metadata: dict[str, Any] = {"axes": axes.upper() if len(voxels) == 1 else f"C{axes.upper()}"}
    for axis, spacing in zip(axes, rule.spacing_um, strict=True):
        metadata |= {
            f"PhysicalSize{axis.upper()}": spacing,
            f"PhysicalSize{axis.upper()}Unit": "\N{MICRO SIGN}m",
        }
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(
            voxels[0] if len(voxels) == 1 else voxels, photometric="minisblack", compression="zlib", metadata=metadata
        )
