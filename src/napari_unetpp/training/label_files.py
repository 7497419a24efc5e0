"""Which label file belongs to which image file: by name, and never by position.

A name is cut into words at dots, underscores, spaces, dashes, and between letters and digits. Words that only say "image" or
"labels" are left out, at the beginning and at the end; what is left must be equal::

    images/cell_07.tif      masks/cell_07_mask.PNG      cell 07
    plate/A1_img.tif        plate/A1_masks.tif          a 1            both in one folder: a label word makes it labels
    c10.tif                 l10.tif                     10             words that all files of a side share say nothing
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetpp._image_files import natural
from napari_unetpp.training.corrections import SUFFIX as CORRECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

ENDINGS = (
    *(".tif", ".tiff", ".btf", ".tf2", ".tf8", ".png", ".jpg", ".jpeg", ".bmp", ".npy", ".zarr"),
    *(".h5", ".hdf5", ".mrc", ".nii", ".nii.gz", ".nd2", ".lif", ".czi"),
)
_LABELS = (
    "annotation annotations gt groundtruth instance instances label labels lbl lbls man manual mask masks roi rois seg segm "
    "segmentation segmentations truth"
)
_IMAGES = "im image images img imgs input original raw"
LABEL_WORDS, IMAGE_WORDS = frozenset(_LABELS.split()), frozenset(_IMAGES.split())
_OTHERS = re.compile(r"_seg\.npy$|_flows\.tiff?$", re.IGNORECASE)  # what Cellpose writes beside its masks
_KINDS = "TIFF, PNG, JPEG, npy, zarr and others of docs/formats.md"
_NAMED = 6  # left-over files that a message names


@dataclass(frozen=True, slots=True)
class Matched:
    """Pairs of image and label file in natural order, and the files that found no other."""

    pairs: tuple[tuple[Path, Path], ...]
    images_left: tuple[Path, ...] = ()
    labels_left: tuple[Path, ...] = ()

    def left_lines(self) -> list[str]:
        """A line each about images and labels that are left over."""
        sides = (("image", self.images_left, "labels"), ("label file", self.labels_left, "image"))
        return [f"left out, without {other}: {_named(left, what)}" for what, left, other in sides if left]


def match_folders(images: Path, labels: Path) -> Matched:
    """The pairs in two folders, or in one that holds both; looks into subfolders where the folder itself holds no images.

    Raises
    ------
    ValueError
        If there are none, or it is open which belong together; names the folders and files.
    """
    both = images.resolve() == labels.resolve()
    found = files_in(images)
    if both:
        second = [path for path in found if _is_label(path.relative_to(images))]
        found = [path for path in found if path not in set(second)]
    else:
        second = files_in(labels)
        found = [path for path in found if not path.name.lower().endswith(CORRECTIONS)]
    if not found:
        raise ValueError(f"{images}: the folder holds no image file ({_KINDS}); name the images themselves")
    if not second:
        what = "whose name says so, such as NAME_mask" if both else f"({_KINDS})"
        raise ValueError(f"{labels}: the folder holds no label file {what}; name the label files themselves")
    matched = match(found, second, images, labels)
    if not matched.pairs:
        raise ValueError(
            f"no name in {labels} fits one in {images}: there are {_named(found, 'image')}, and {_named(second, 'label file')}. "
            "Give both the same name, or NAME and NAME_mask"
        )
    return matched


def match(
    images: Sequence[Path], labels: Sequence[Path], image_root: Path | None = None, label_root: Path | None = None
) -> Matched:
    """The pairs out of files, by the part of the name that both have in common.

    >>> found = match([Path("c10.tif"), Path("c2.tif"), Path("d.tif")], [Path("c2_masks.png"), Path("C10_masks.png")])
    >>> [(a.name, b.name) for a, b in found.pairs], [a.name for a in found.images_left]
    ([('c2.tif', 'c2_masks.png'), ('c10.tif', 'C10_masks.png')], ['d.tif'])

    Raises
    ------
    ValueError
        Where several files fit, with the candidates.
    """
    first = {path: _words(path, image_root) for path in images}
    second = {path: _words(path, label_root) for path in labels}
    pairs: dict[Path, Path] = {}
    rules: tuple[Callable[[Mapping[Path, tuple[str, ...]]], Mapping[Path, Hashable]], ...] = (_plain, _core, _apart)
    for rule in rules:
        # With each rule only what no stricter one has paired. What all files share is judged over all of them.
        names, others = rule(first), rule(second)
        free = [path for path in labels if path not in pairs.values()]
        _pair(pairs, {p: names[p] for p in images if p not in pairs}, {p: others[p] for p in free})
    _pair_contained(pairs, first, second)
    order = sorted(pairs.items(), key=lambda pair: natural(pair[0]))
    taken = set(pairs.values())
    return Matched(
        tuple(order),
        tuple(sorted((p for p in images if p not in pairs), key=natural)),
        tuple(sorted((p for p in labels if p not in taken), key=natural)),
    )


def files_in(folder: Path) -> list[Path]:
    """The image files in a folder in natural order; those of its subfolders where it holds none itself."""
    here = [path for path in folder.iterdir() if _is_image(path)]
    if not here:
        here = [path for path in folder.rglob("*") if _is_image(path) and not _is_inside(path.relative_to(folder))]
    return sorted(here, key=natural)


def _is_image(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(ENDINGS) and name[:1] != "." and not _OTHERS.search(name)


def _is_inside(path: Path) -> bool:
    """Whether a path lies in a hidden folder or in an image that is a folder."""
    return any(part.startswith(".") or part.lower().endswith(".zarr") for part in path.parts[:-1])


def _stem(name: str) -> str:
    name = name.lower().removesuffix(CORRECTIONS)
    for ending in (*ENDINGS, ".ome"):
        name = name.removesuffix(ending)
    return name


def _words(path: Path, root: Path | None) -> tuple[str, ...]:
    """The words of a path below `root`; "/" ends a folder."""
    inside = path.relative_to(root) if root is not None else Path(path.name)
    words: list[str] = []
    for folder in inside.parts[:-1]:
        cut = _cut(folder.lower())
        if core := _without(cut):  # a folder named "images" or "masks" says nothing more
            words += [*core, "/"]
    return (*words, *_cut(_stem(inside.name)))


def _cut(name: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\d+|[^\W\d_]+", name)) or (name,)


def _without(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words without those for image and labels at both ends."""
    a, b = 0, len(words)
    known = LABEL_WORDS | IMAGE_WORDS | {"cp", "ground"}  # cp_masks: Cellpose
    while a < b and words[a] in known:
        a += 1
    while b > a and words[b - 1] in known:
        b -= 1
    return words[a:b]


def _is_label(path: Path) -> bool:
    """Whether a path says that it is labels: by a word at either end of its name, or by its folder's name."""
    parts = [*(_cut(folder.lower()) for folder in path.parts[:-1]), _cut(_stem(path.name))]
    return path.name.lower().endswith(CORRECTIONS) or any(p[0] in LABEL_WORDS or p[-1] in LABEL_WORDS for p in parts)


def _plain(names: Mapping[Path, tuple[str, ...]]) -> Mapping[Path, Hashable]:
    return names


def _core(names: Mapping[Path, tuple[str, ...]]) -> Mapping[Path, Hashable]:
    found = {}
    for path, words in names.items():
        at = len(words) - words[::-1].index("/") if "/" in words else 0
        found[path] = (*words[:at], *_without(words[at:])) or None  # a name of such words alone is none
    return found


def _apart(names: Mapping[Path, tuple[str, ...]]) -> Mapping[Path, Hashable]:
    """What tells the files of a side apart: without the words that all begin and end with; None where nothing is left."""
    every = list(names.values())
    if len(every) < 2:
        return dict.fromkeys(names)
    first, last = min(every), max(every)
    a = next((k for k, (x, y) in enumerate(zip(first, last, strict=False)) if x != y), min(len(first), len(last)))
    back = [words[a:][::-1] for words in every]
    low, high = min(back), max(back)
    b = next((k for k, (x, y) in enumerate(zip(low, high, strict=False)) if x != y), min(len(low), len(high)))
    return {path: words[a : len(words) - b] or None for path, words in names.items()}


def _pair(pairs: dict[Path, Path], first: Mapping[Path, Hashable], second: Mapping[Path, Hashable]) -> None:
    """Add the pairs of equal names."""
    images, labels = defaultdict(list), defaultdict(list)
    for path, name in first.items():
        images[name].append(path)
    for path, name in second.items():
        labels[name].append(path)
    for name, found in images.items():
        fitting = labels.get(name, [])
        if name is None or not fitting:
            continue
        if len(found) > 1 or len(fitting) > 1:
            raise _ambiguous(found, fitting)
        pairs[found[0]] = fitting[0]


def _pair_contained(
    pairs: dict[Path, Path], first: Mapping[Path, tuple[str, ...]], second: Mapping[Path, tuple[str, ...]]
) -> None:
    """Add the pairs where the words of one name are a part of the other's: cell_1 is in cell_1_by_anna, and not in cell_10."""
    free = [path for path in second if path not in pairs.values()]
    near: dict[Path, list[Path]] = {}
    for image, words in first.items():
        if image not in pairs:
            near[image] = [label for label in free if _holds(second[label], words) or _holds(words, second[label])]
    for image, fitting in near.items():
        if not fitting:
            continue
        rivals = [other for other, found in near.items() if {*found} & {*fitting}]
        if len(fitting) > 1 or len(rivals) > 1:
            raise _ambiguous(rivals, fitting)
        pairs[image] = fitting[0]


def _holds(longer: tuple[str, ...], shorter: tuple[str, ...]) -> bool:
    n = len(shorter)
    return any(longer[k : k + n] == shorter for k in range(len(longer) - n + 1))


def _ambiguous(images: Iterable[Path], labels: Iterable[Path]) -> ValueError:
    return ValueError(
        f"it is open which belong together: {', '.join(str(p) for p in images)} and {', '.join(str(p) for p in labels)}; "
        "rename or move files so that each image fits one label file"
    )


def _named(paths: Sequence[Path], what: str) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return f"{len(paths)} {what}{'s' * (len(paths) != 1)} ({', '.join(p.name for p in paths[:_NAMED])}{more})"
