"""What napari opens with this package: TIFF of any size and other formats, lazily, and the predictions of earlier runs.

Decides, in this order: which paths are ours (`get_tiff_reader`, `get_image_reader`, `get_store_reader`), which layers an
image becomes (`read_tiff_layers`, `read_image_layers`), and which a prediction store (`read_store_layers`).

napari asks a reader for a path and gets a function or None, "not mine". It asks all plugins that
claim the ending, so a .tif that is dropped on the window now brings up "Choose reader" with a box to
remember the answer (with napari's own reader the file is read into memory as a whole);
`viewer.open(path)` in a script goes on using napari's own, `viewer.open(path, plugin="napari-unetpp")`
this one. Folders are offered to every reader that takes folders: one that is no store is declined.

napari is not imported here; what was chosen while an image was opened is shown by `gui.notices`, where napari runs.
"""

from __future__ import annotations

import sys
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from napari_unetpp._opened import Opened
    from napari_unetpp.box import ArrayLike
    from napari_unetpp.gui.comparison import Level
    from napari_unetpp.inference.store import PredictionStore

# numpy, zarr and tifffile are imported where they are used: napari imports this file when it starts.

LayerData = tuple[Any, dict[str, Any], str]
METADATA_KEY = "napari-unetpp"  # of a layer's metadata: here a `StoredLevel`, later its `LevelLayers`
IMAGE_ENDINGS = (".h5", ".hdf5", ".mrc", ".mrcs", ".rec", ".map", ".nii", ".nii.gz", ".nd2", ".lif", ".czi")
_SAMPLE_EDGE = 512  # voxels; three such squares show the range of an image and take no time to read


@dataclass(frozen=True, slots=True, eq=False)
class StoredLevel:
    """In the metadata of a layer: the open store and the level that it shows.

    The layers that were opened together hold the same store. `gui.reopened.adopt` makes them follow a
    slider.
    """

    store: PredictionStore
    level: Level


# Whose path it is


def get_tiff_reader(path: str | Sequence[str]) -> Callable[[str], list[LayerData]] | None:
    """A function that opens a TIFF, going by its first bytes; None for all else.

    Several files at once (napari's "open as stack") are left to napari, which stacks them lazily.
    """
    from napari_unetpp._tiff import SIGNATURES

    if not isinstance(path, str):
        return None
    try:
        with Path(path).open("rb") as file:
            return read_tiff_layers if file.read(4) in SIGNATURES else None
    except OSError:  # a folder, an address, or nothing that may be read
        return None


def get_image_reader(path: str | Sequence[str]) -> Callable[[str], list[LayerData]] | None:
    """A function that opens a file of another format, or a folder of planes; None for all else."""
    if not isinstance(path, str):
        return None
    if Path(path).is_dir():
        from napari_unetpp._image_files import picture_files
        from napari_unetpp._ngff import is_zarr

        return None if is_zarr(Path(path)) or not picture_files(Path(path)) else read_image_layers
    return read_image_layers if path.lower().endswith(IMAGE_ENDINGS) and Path(path).is_file() else None


def get_store_reader(path: str | Sequence[str]) -> Callable[[str], list[LayerData]] | None:
    """A function that opens a folder of predictions; None for any other folder."""
    from napari_unetpp.inference.folders import is_store

    return read_store_layers if isinstance(path, str) and is_store(Path(path)) else None


# TIFF


def read_tiff_layers(path: str | Path) -> list[LayerData]:
    """A layer per image of the file, whose voxels stay on the disk.

    The data are a memory map or a zarr array, not dask, which scrolls more slowly; a pyramid becomes
    a multiscale layer. The file is closed when the last of the layers is gone. Axes and spacing are
    those of `open_stack`; channels stay an axis, so that the layer can be segmented as it is.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where it is damaged, truncated or holds no numbers that can be shown; one line for the user.
    """
    from napari_unetpp._tiff import read_all

    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; check the name")
    return _layers(read_all(path), path)


def read_image_layers(path: str | Path) -> list[LayerData]:
    """A layer per image of a file (a position, a scene), or one of a folder of planes; voxels stay on the disk.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where it cannot be read; one line for the user.
    """
    from napari_unetpp._formats import open_path

    path = Path(path).expanduser()
    images = [open_path(path)]
    try:
        for series in range(1, images[0].count):
            images.append(open_path(path, series))  # noqa: PERF401 - what was opened before one that fails is closed
    except BaseException:
        for opened in images:
            opened.close()
        raise
    return _layers(images, path)


def _layers(images: Sequence[Opened], path: Path) -> list[LayerData]:
    try:
        layers = [_layer(opened, path) for opened in images]
    except BaseException:
        for opened in images:
            opened.close()
        raise
    for opened in images:
        _close_when_gone(opened)
    if "napari" in sys.modules and (told := [n for _, about, _ in layers for n in about["metadata"].get("notes", ())]):
        from napari_unetpp.gui.notices import tell

        tell(path.name, told)
    return layers


def _layer(opened: Opened, path: Path) -> LayerData:
    from napari_unetpp._settled import simplified
    from napari_unetpp._unread import Unread

    opened = simplified(opened)
    dtype, shape = opened.data.dtype, opened.data.shape
    if dtype.kind not in "buif":
        raise ValueError(f"{path} holds {dtype}; wanted are integers, floating-point numbers or bool")
    if 0 in shape:
        raise ValueError(f"{path} of shape {tuple(shape)} is empty; every axis needs at least one voxel")
    rgb = opened.colours is True and dtype == "uint8" and (opened.axes or "").endswith("c") and shape[-1] in (3, 4)
    about: dict[str, Any] = {"name": opened.name, "metadata": {"axes": opened.axes or "", "path": str(path)}}
    # All images of the file become layers, so that none was chosen.
    if notes := [note for note in (*opened.notes, *opened.assumed) if "--series" not in note]:
        about["metadata"]["notes"] = notes
    if opened.interval_s is not None:
        about["metadata"]["interval_s"] = opened.interval_s
    if opened.axes is not None:
        about |= placed(opened.axes[:-1] if rgb else opened.axes, opened.spacing_um)
    levels = [opened.data, *opened.coarser]
    data = [Unread(level) for level in levels] if opened.coarser else opened.data
    about["multiscale"] = bool(opened.coarser)
    # As napari does; it cannot show labels of foreign byte order.
    if dtype.kind in "ui" and dtype.itemsize >= 4 and dtype.isnative:
        return data, about, "labels"
    if not rgb:
        about["contrast_limits"] = _contrast(levels[-1], opened.axes)
    return data, {**about, "rgb": rgb}, "image"


def placed(axes: str, spacing_um: Mapping[str, float | None]) -> dict[str, Any]:
    """Scale, units and axis labels of a layer; micrometres only where all lengths are known.

    >>> placed("zyx", {"z": 0.5, "y": 0.1, "x": 0.1})["units"]
    ('um', 'um', 'um')
    >>> placed("tyx", {"y": 0.1})["scale"]
    (1.0, 1.0, 1.0)
    """
    known = all(spacing_um.get(axis) for axis in axes if axis in "zyx")
    return {
        "scale": tuple((known and spacing_um.get(axis)) or 1.0 for axis in axes),
        "units": tuple("um" if known and axis in "zyx" else "pixel" for axis in axes),
        "axis_labels": tuple(axes),
    }


def _contrast(data: ArrayLike, axes: str | None) -> tuple[float, float]:
    """Range of the middle of the first, the middle and the last plane; of uint8 and bool all there is."""
    import numpy as np

    dtype = np.dtype(data.dtype)
    if dtype.kind == "b":
        return 0, 1
    if dtype == np.uint8:
        return 0, 255
    plane = {"y", "x"} if axes else {data.ndim - 2, data.ndim - 1}
    ends = []
    for part in (0, 1, 2):
        key: list[int | slice] = []
        for axis, extent in zip(axes or range(data.ndim), data.shape, strict=True):
            start = max(0, (extent - _SAMPLE_EDGE) // 2)
            key.append(slice(start, start + _SAMPLE_EDGE) if axis in plane else (extent - 1) * part // 2)
        voxels = np.asarray(data[tuple(key)])
        finite = voxels[np.isfinite(voxels)]
        if finite.size:
            ends += [float(finite.min()), float(finite.max())]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    return low, high if high > low else low + 1


def _close_when_gone(opened: Opened) -> None:
    """Close an image once nobody can reach any of its resolutions; a running job may outlive the layer."""
    import numpy as np

    arrays = [array for array in (opened.data, *opened.coarser) if not isinstance(array, np.ndarray)]
    left, close = len(arrays), opened.close  # not `opened`, which would keep the arrays

    def one_less() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            close()

    if not arrays:  # memory maps keep themselves open
        close()
    for array in arrays:
        weakref.finalize(array, one_less)


# Predictions


def read_store_layers(path: str | Path) -> list[LayerData]:
    """A Labels layer per level, and Ensemble: lazy, read-only, with the colours and names of a run.

    They have the axes of the image that was segmented, as far as the store recorded them, and its
    spacing, so that they lie on it. Only the level that the run recommends is visible, else the deepest.

    Raises
    ------
    StoreError
        Where the store is damaged or comes from a newer version; one line for the user.
    """
    from napari_unetpp._image_axes import in_image_axes
    from napari_unetpp.gui.comparison import HeadComparison, level_name
    from napari_unetpp.gui.level_colors import OPACITY, label_colors
    from napari_unetpp.inference.labels import label_view
    from napari_unetpp.inference.store import open_store

    store = open_store(Path(path).expanduser().absolute())
    image, axes, extents = _image_of(store)
    where = placed(axes, dict(zip(store.axes, store.spacing_um, strict=True)))
    comparison = HeadComparison.of_heads(store.levels)
    return [
        (
            in_image_axes(label_view(store, level), store.axes, axes, extents),
            {
                "name": f"{image} {level_name(level)}",
                "colormap": label_colors(level, store),
                "opacity": OPACITY,
                "visible": level == recommended_level(store),
                "metadata": {METADATA_KEY: StoredLevel(store, level)},
                "multiscale": False,
                **where,
            },
            "labels",
        )
        for level in comparison.levels
    ]


def recommended_level(store: PredictionStore) -> int:
    """The level that the run recorded as enough, if the store has it; else the deepest."""
    recorded = store.record.get("recommended_level")
    return recorded if recorded in store.levels else max(store.levels)


def _image_of(store: PredictionStore) -> tuple[str, str, tuple[int, ...]]:
    """Name, axes and extents of the layer that was segmented; those of the store where it does not say."""
    recorded = store.record.get("stack", {})
    name = str(recorded.get("name") or store.path.name.removesuffix(".zarr").removesuffix(".ome"))
    axes, shape = str(recorded.get("axes", "")), tuple(recorded.get("shape", ()))
    extent = dict(zip(axes, shape, strict=False))
    if [extent.get(axis) for axis in store.axes] != list(store.shape) or len(axes) != len(shape):
        return name, store.axes, store.shape
    # Samples of a colour image are no axis of its layer.
    if axes.endswith("c") and extent["c"] in (3, 4) and recorded.get("dtype") == "uint8":
        axes = axes[:-1]
    return name, axes, tuple(extent[axis] for axis in axes)
