"""What labels hold, counted by a job, and which classes that makes; knows neither Qt nor napari.

Decides, in this order: what is known of a pair once it was read (`PairFacts`), how it is counted (`look_at_pair`), how that is told
in a line (`facts_text`), and what a network can be taught with it (`targets_of`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_unetpp.box import Box
from napari_unetpp.label_values import count_values, needs_map

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_unetpp.gui.train_pairs import PairRequest

MOST_CLASSES = 16  # labels beyond that are numbers of objects
MOST_NUMBERS = 1000  # that are counted one by one
BLOCK = 2**22  # voxels of labels that are read at once
EVERY, EACH = "every", "each"


@dataclass(frozen=True, slots=True)
class PairFacts:
    """What was found in a pair.

    Attributes
    ----------
    counts : dict
        Voxels of each label, of as many labels as are told apart.
    many : bool
        Whether there are more labels than that.
    unpainted : "background" or "ignore" or None
        What the labels themselves say of 0.
    reviewed : int or None
        Number of boxes that alone count; None where all does.
    classes : tuple of str
        Names that the labels themselves give to 1, 2 .. (without the background).
    notes : tuple of str
        What was chosen or left out when the files were opened, a sentence each.
    """

    shape: tuple[int, ...]
    axes: str
    channels: int
    counts: Mapping[int, int]
    many: bool = False
    unpainted: str | None = None
    reviewed: int | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def look_at_pair(request: PairRequest) -> Generator[PairFacts | int]:
    """The share (percent) that was read, now and then, and at last what was found.

    Raises
    ------
    ValueError, OSError
        What is wrong with the pair, in one line.
    """
    from napari_unetpp.gui.train_work import open_pair

    with ExitStack() as opened:
        pair, corrections = open_pair(request, opened)
        whole = Box.of(pair.image.shape_predicted)
        boxes = pair.reviewed if pair.reviewed is not None else (whole,)
        total, read, counts, many = sum(box.size for box in boxes), 0, Counter[int](), False
        for box in (part for reviewed in boxes for part in _blocks(reviewed)):
            found = count_values(pair.label.read(box), MOST_NUMBERS + 1)
            many = many or len(found) + len(counts) > MOST_NUMBERS
            counts.update(found)
            read += box.size
            yield 100 * read // max(total, 1)
        classes = corrections.classes if corrections is not None else ()
        yield PairFacts(
            pair.image.shape_predicted,
            pair.image.axes_predicted,
            pair.image.channels,
            counts,
            many,
            pair.unpainted,
            len(pair.reviewed) if pair.reviewed is not None else None,
            tuple(info.name for info in (classes if len(classes) == 1 else classes[1:])),
            (*(f"image: {note}" for note in pair.image.notes), *(f"labels: {note}" for note in pair.label.notes)),
        )


def _blocks(box: Box) -> Iterator[Box]:
    """The box in pieces of about `BLOCK` voxels, along its first axes."""
    if box.size <= BLOCK or box.ndim == 0:
        yield box
        return
    axis = next((k for k, n in enumerate(box.shape) if n > 1), 0)
    rest = box.size // box.shape[axis]
    step = max(1, BLOCK // rest)
    for first in range(box.start[axis], box.stop[axis], step):
        start, stop = list(box.start), list(box.stop)
        start[axis], stop[axis] = first, min(first + step, box.stop[axis])
        part = Box(tuple(start), tuple(stop))
        yield from _blocks(part) if part.size > BLOCK else (part,)


def facts_text(facts: PairFacts, unpainted: str) -> str:
    r"""The extent, and what is annotated, a line each.

    Examples
    --------
    >>> facts_text(PairFacts((8, 8), "yx", 1, {0: 48, 1: 12, 2: 4}), "background")
    '8 x 8 (yx)\nall annotated, 25 % labelled: 1, 2'
    >>> facts_text(PairFacts((8, 8), "yx", 1, {0: 48, 1: 12, 2: 4}), "ignore")
    '8 x 8 (yx)\n25 % annotated: 1, 2'
    >>> facts_text(PairFacts((8, 8), "yx", 1, {0: 64}), "ignore")
    '8 x 8 (yx)\nnothing is painted'
    >>> facts_text(PairFacts((8, 8), "yx", 1, {-1: 16, 0: 40, 1: 8}), "background")
    '8 x 8 (yx)\n75 % (0 and above) annotated, 12 % labelled: 1'
    """
    shape = f"{' x '.join(map(str, facts.shape))} ({facts.axes})"
    if facts.channels > 1:
        shape += f", {facts.channels} channels"
    labels = sorted(label for label in facts.counts if label > 0)
    painted, counted = sum(facts.counts[label] for label in labels), sum(facts.counts.values())
    below = sum(number for label, number in facts.counts.items() if label < 0)
    if facts.reviewed == 0:
        return f"{shape}\nnothing is marked as reviewed"
    if not labels:
        return f"{shape}\nnothing is painted"
    share = 100 * painted / counted
    percent = f"{share:.0f} %" if share >= 1 else f"{share:.2g} %"
    if facts.many or len(labels) > MOST_CLASSES:
        kinds = f"{'over ' if facts.many else ''}{len(labels)} labels"
    else:
        kinds = ", ".join(map(str, labels))
    if (facts.unpainted or unpainted) == "ignore":
        return f"{shape}\n{percent} annotated: {kinds}"
    where = "all" if facts.reviewed is None else f"{facts.reviewed} box{'es' * (facts.reviewed != 1)}"
    if below:  # numbers below 0 are not annotated
        where = f"{100 * (counted - below) / counted:.3g} % (0 and above)"
    return f"{shape}\n{where} annotated, {percent} labelled: {kinds}"


def gray_values(found: Iterable[PairFacts]) -> tuple[int, ...]:
    """Values of label files that may be gray values of classes, such as 0, 127, 255; empty where there is nothing to ask.

    >>> gray_values([PairFacts((8, 8), "yx", 1, {0: 48, 255: 16}), PairFacts((8, 8), "yx", 1, {0: 60, 127: 4})])
    (0, 127, 255)
    """
    files = [facts for facts in found if facts.unpainted is None and not facts.classes]
    if any(facts.many for facts in files):
        return ()
    return needs_map((value for facts in files for value in facts.counts), MOST_CLASSES + 1)


def with_values(facts: PairFacts, values: Sequence[int]) -> PairFacts:
    """The facts where these values stand for label 0, 1, 2.

    >>> with_values(PairFacts((8, 8), "yx", 1, {0: 48, 127: 12, 255: 4}), (0, 127, 255)).counts
    {0: 48, 1: 12, 2: 4}
    """
    if not values or facts.unpainted is not None or facts.classes:
        return facts
    label = {value: k for k, value in enumerate(values)}
    return replace(facts, counts={label.get(value, value): number for value, number in facts.counts.items()})


def highest_class(found: Iterable[PairFacts], unpainted: str) -> int:
    """The highest class that is painted anywhere; 0 where none is."""
    highest = 0
    for facts in found:
        shift = 1 if (facts.unpainted or unpainted) == "ignore" else 0
        highest = max(highest, max(facts.counts, default=0) - shift)
    return highest


def painted_labels(found: Iterable[PairFacts], unpainted: str) -> list[int]:
    """The numbers that stand for something else than background, as painted."""
    labels: set[int] = set()
    for facts in found:
        least = 2 if (facts.unpainted or unpainted) == "ignore" else 1
        labels |= {label for label in facts.counts if label >= least}
    return sorted(labels)


def targets_of(found: Iterable[PairFacts], unpainted: str, classes: int | None) -> list[tuple[str, str | int]]:
    """What can be made of the labels: (text, `EVERY`, `EACH` or the label that alone counts); the first is the likeliest.

    Parameters
    ----------
    classes
        Of the model to go on from; None makes a new network.
    """
    seen = tuple(found)
    labels, highest = painted_labels(seen, unpainted), highest_class(seen, unpainted)
    few = highest <= MOST_CLASSES and not any(facts.many for facts in seen)
    one: list[tuple[str, str | int]] = [("every label is the class", EVERY)]
    if 1 < len(labels) <= MOST_CLASSES and few:
        one += [(f"only label {label} is the class", label) for label in labels]
    each: tuple[str, str | int] = ("each label is a class", EACH)
    if classes is not None:
        return one if classes == 1 else [each]
    return [each, *one] if few and highest > 1 else one
