"""What napari saves with this package: a Labels layer as TIFF with axes and spacing.

Decides how a layer's names and units become those of `save_labels` (`write_labels`), and how labels
of any order and integer type become what a TIFF holds (`_Plain`). napari's own writer keeps neither
spacing nor axes, and reads lazy labels as a whole.

napari is not imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from napari_unetpp.box import ArrayLike

_ORDER = "tzcyx"  # of pages in a TIFF
_UNNAMED = {2: "yx", 3: "zyx", 4: "tzyx", 5: "tzcyx"}


def write_labels(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """The path written, in a list, as napari wants it; of a multiscale layer the full resolution.

    Axes are those that the layer's axis labels name, and else "yx", "zyx", "tzyx" or "tzcyx". Spacing
    is scale times unit, where that is a length. Lazy labels are read plane by plane, 64-bit labels
    become 32 bits wide, and the file appears only when it is whole.

    Raises
    ------
    ValueError
        Where the layer has more than five axes, the data are no integers or do not fit into 32 bits,
        or the path does not end in .tif or .tiff.
    OSError
        Where nothing can be written there.
    """
    from napari_unetpp.stacks import save_labels

    finest = data[0] if meta.get("multiscale") or isinstance(data, list | tuple) else data
    axes = _axes(meta.get("axis_labels") or (), finest.ndim)
    spacing = dict(zip(axes, _spacing_um(meta, finest.ndim), strict=True))
    ordered = "".join(axis for axis in _ORDER if axis in axes)
    lengths = tuple(spacing[axis] if axis in "zyx" else None for axis in ordered)
    return [str(save_labels(path, _Plain(finest, axes, ordered), ordered, lengths))]


def _axes(names: Sequence[str], ndim: int) -> str:
    """One letter per axis; the usual ones where the layer does not name them all."""
    named = "".join(str(name).lower() if len(str(name)) == 1 else "?" for name in names)
    if len(named) == ndim and set("yx") <= set(named) <= set(_ORDER) and len(set(named)) == ndim:
        return named
    if ndim not in _UNNAMED:
        raise ValueError(f"labels with {ndim} axes do not fit into a TIFF; it holds 2 to 5, out of t, z, c, y, x")
    return _UNNAMED[ndim]


def _spacing_um(meta: Mapping[str, Any], ndim: int) -> list[float | None]:
    from napari_unetpp._opened import micrometres

    scale = meta.get("scale") or [1.0] * ndim
    units = meta.get("units") or ["pixel"] * ndim  # names, or pint's units, whose text is their name
    return [micrometres(float(length), str(unit)) for length, unit in zip(scale, units, strict=True)]


class _Plain:
    """Labels with their axes in a TIFF's order, and at most 32 bits wide."""

    def __init__(self, labels: ArrayLike, axes: str, ordered: str) -> None:
        import numpy as np

        from napari_unetpp._image_axes import in_image_axes

        extents = dict(zip(axes, map(int, labels.shape), strict=True))
        self._labels = (
            labels if axes == ordered else in_image_axes(labels, axes, ordered, [extents[a] for a in ordered])
        )
        self.shape = tuple(extents[axis] for axis in ordered)
        self.ndim = len(self.shape)
        stored = np.dtype(labels.dtype)
        self._wide = stored.kind in "iu" and stored.itemsize > 4
        self.dtype = np.dtype(f"{stored.kind}4") if self._wide else stored
        chunks = getattr(labels, "chunks", None)
        self.chunks = tuple(chunks[axes.index(axis)] for axis in ordered) if chunks else None

    def __getitem__(self, key: Any) -> NDArray[Any]:
        import numpy as np

        voxels = np.asarray(self._labels[key])
        if self._wide and voxels.size:
            limits = np.iinfo(self.dtype)
            for label in (int(voxels.min()), int(voxels.max())):
                if not limits.min <= label <= limits.max:
                    raise ValueError(f"label {label} does not fit into 32 bits, the most a TIFF holds; relabel first")
        return voxels.astype(self.dtype, copy=False)
