"""Images with their labels, as the Train dock collects them: out of layers, or out of files.

Decides, in this order: what a pair is before a voxel is read (`LayerPair`, `FilePair`), which labels a layer can be trained on
(`labels_in`), how files find each other (`match_files`), and what a job is given (`PairRequest`).

Everything that can be wrong without reading is said when a pair is made; the rest is said by the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels

from napari_unetpp.gui.image_layer import check_axes, extents, finest, stack_from_layer
from napari_unetpp.gui.layers import METADATA_KEY
from napari_unetpp.gui.live_layer import LIVE_KEY
from napari_unetpp.stacks import open_stack
from napari_unetpp.training.label_files import match

if TYPE_CHECKING:
    from napari import Viewer

    from napari_unetpp.stacks import Stack
    from napari_unetpp.training.corrections import Corrections

CORRECTIONS_ENDING = ".corrections.zarr"


@dataclass(frozen=True, slots=True)
class PairRequest:
    """A pair for a job: stacks of layers, or paths that the job opens.

    Attributes
    ----------
    memo : dict
        What finds the same data again after a crash: per side name of the layer, path of the file, axes and shape.
    values : tuple of int
        What stands for label 0, 1, 2 in the labels; empty where their numbers are the labels. Corrections have none.
    """

    image: Stack | Path
    label: Stack | Corrections | Path
    memo: dict[str, Any] = field(default_factory=dict)
    values: tuple[int, ...] = ()

    def with_values(self, values: Sequence[int]) -> PairRequest:
        """The same pair, in whose labels these numbers stand for label 0, 1, 2."""
        if not values or self.memo["label"].get("corrections"):
            return self
        return replace(self, memo={**self.memo, "values": list(values)}, values=tuple(values))

    @property
    def files(self) -> tuple[Path, Path] | None:
        """Image and labels where they were taken as files; layers may show but a part of theirs."""
        if isinstance(self.image, Path) and isinstance(self.label, Path):
            return self.image, self.label
        return None


@dataclass(frozen=True, slots=True, eq=False)
class LayerPair:
    """An image layer and a layer with its labels, of the same extent; `axes` are those of the image's data.

    Raises
    ------
    ValueError
        Where the axes do not fit the image, or the labels have another extent; one line for the user.
    """

    image: Image
    label: Labels | Image
    axes: str
    corrections: Corrections | None = None

    def __post_init__(self) -> None:
        check_axes(self.image, self.axes)
        if self.label is self.image:
            raise ValueError(
                f"{self.image.name} is chosen as the image and as its labels; choose another layer for one of them."
            )
        shape = dict(zip(self.axes, finest(self.image).shape, strict=True))
        axes = "".join(a for a in "tzyx" if a in shape) if self.corrections is not None else self._label_axes()
        labels = self.corrections.labels if self.corrections is not None else finest(self.label)
        axes = axes.replace("c", "")
        wanted, got = tuple(shape[axis] for axis in axes), tuple(labels.shape)[: len(axes) if self._is_rgb else None]
        if got != wanted:
            raise ValueError(
                f"Labels {self.label.name} have shape {_times(got)} where the image {self.image.name} has "
                f"{_times(wanted)} ({axes}); choose labels of the same image."
            )

    @property
    def _is_rgb(self) -> bool:
        return isinstance(self.label, Image) and bool(self.label.rgb)

    def _label_axes(self) -> str:
        return self.axes.replace("c", "") + "c" * self._is_rgb

    @property
    def names(self) -> tuple[str, str]:
        return self.image.name, self.label.name

    @property
    def layers(self) -> tuple[Image, Labels | Image]:
        return self.image, self.label

    def request(self) -> PairRequest:
        """The layers as they are now; painting goes on without changing what a plan has taken."""
        image = stack_from_layer(self.image, self.axes)
        memo = {
            "image": _memo(self.image, self.axes),
            "label": _memo(self.label, self._label_axes()),
        }
        if self.corrections is not None:
            memo["label"] = {"path": str(self.corrections.path), "corrections": True}
            return PairRequest(image, self.corrections, memo)
        axes = self._label_axes()
        spacing = dict(zip(image.axes, image.spacing_um, strict=True))
        stack = open_stack(finest(self.label), axes=axes, spacing_um=[spacing.get(axis) for axis in axes])
        return PairRequest(image, replace(stack, name=self.label.name), memo)


@dataclass(frozen=True, slots=True)
class FilePair:
    """An image file and a file, or a corrections folder, with its labels."""

    image: Path
    label: Path

    @property
    def names(self) -> tuple[str, str]:
        return self.image.name, self.label.name

    @property
    def layers(self) -> tuple[()]:
        return ()

    def request(self) -> PairRequest:
        label = {"path": str(self.label), "corrections": self.label.name.endswith(CORRECTIONS_ENDING)}
        return PairRequest(self.image, self.label, {"image": {"path": str(self.image)}, "label": label})


TrainPair = LayerPair | FilePair


def corrections_of(viewer: Viewer) -> dict[Labels, Corrections]:
    """The corrections layers of the viewer, and what each is saved in."""
    from napari_unetpp.gui.correct_layer import corrections_in

    return {opened.layer: opened.corrections for opened in corrections_in(viewer)}


def labels_in(viewer: Viewer) -> list[Labels]:
    """The labels layers that somebody made, corrections first; what a model said teaches it nothing."""
    made = [
        x for x in viewer.layers if isinstance(x, Labels) and not {METADATA_KEY, LIVE_KEY} & set(map(str, x.metadata))
    ]
    corrected = corrections_of(viewer)
    return [x for x in made if x in corrected] + [x for x in made if x not in corrected]


def images_in(viewer: Viewer) -> list[Image]:
    """The image layers that may hold labels, which napari opens as images; what a model said is left out."""
    return [
        x for x in viewer.layers if isinstance(x, Image) and not {METADATA_KEY, LIVE_KEY} & set(map(str, x.metadata))
    ]


def match_files(images: Sequence[Path], labels: Sequence[Path]) -> list[FilePair]:
    """Pairs of files that somebody chose, by name; one image and one label file belong together.

    Raises
    ------
    ValueError
        If there are more of one than of the other, or none; if a name fits no other, or several.

    Examples
    --------
    >>> paths = [Path("b.tif"), Path("a.tif")], [Path("a_labels.tif"), Path("b_labels.tif")]
    >>> [pair.names for pair in match_files(*paths)]
    [('a.tif', 'a_labels.tif'), ('b.tif', 'b_labels.tif')]
    """
    if len(images) != len(labels) or not images:
        raise ValueError(
            f"{_count(len(images), 'image')} but {_count(len(labels), 'label file')}; each image needs its labels."
        )
    if len(images) == 1:
        return [FilePair(images[0], labels[0])]
    matched = match(images, labels)
    if matched.images_left:
        left = "; ".join(matched.left_lines())
        raise ValueError(
            f"Names do not fit: {left}. Give both the same name, or NAME and NAME_mask, or add them one by one."
        )
    return [FilePair(*pair) for pair in matched.pairs]


def _memo(layer: Image | Labels, axes: str) -> dict[str, Any]:
    path = layer.source.path or layer.metadata.get("path")
    shape = [*map(int, finest(layer).shape)]
    return {"layer": layer.name, "path": str(path) if path else None, "axes": axes, "shape": shape}


def _count(number: int, thing: str) -> str:
    return f"{number or 'no'} {thing}{'s' * (number != 1)}"


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def shape_text(pair: LayerPair) -> str:
    """Extent and axes of the image."""
    samples = "c" * pair.image.rgb
    return f"{_times(extents(pair.image))} ({pair.axes.removesuffix(samples) if samples else pair.axes})"
