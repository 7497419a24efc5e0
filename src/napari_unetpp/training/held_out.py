"""By what the best epoch is chosen, and what the user is told of the held-out part before the start.

A score needs foreground that is both learnt and held out. Without it the epoch with the lowest training loss is kept: the mean
over the batches of an epoch. Such an epoch is never called the best, because nothing has scored it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from napari_unetpp._voxel_hash import stack_digest
from napari_unetpp.model.sampling import stack_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from napari_unetpp.stacks import Stack
    from napari_unetpp.training.pairs import Pair

ChosenBy = Literal["validation", "training loss"]

_KEPT = "the epoch with the lowest training loss is kept, and nothing tells how good the model is on other images"


def chosen_by(trained: NDArray[np.int64], held: NDArray[np.int64]) -> ChosenBy:
    """What decides which epoch is kept, out of the annotated voxels of each class in the two parts."""
    return "validation" if ((trained > 0) & (held > 0))[1:].any() else "training loss"


def same_images(pairs: Sequence[Pair]) -> tuple[int, ...]:
    """Per pair, the index of the first pair whose image has the same voxels; its own where there is none.

    Only images whose samples are equal are read as a whole.
    """
    samples: dict[tuple[object, ...], list[int]] = {}
    for index, pair in enumerate(pairs):
        image = pair.image
        samples.setdefault((image.shape_predicted, image.channels, stack_hash(image)), []).append(index)
    first = list(range(len(pairs)))
    for alike in samples.values():
        if len(alike) > 1:
            known: dict[str, int] = {}
            for index in alike:
                first[index] = known.setdefault(stack_digest(pairs[index].image), index)
    return tuple(first)


def held_out_lines(
    pairs: Sequence[Pair], validation: Sequence[Pair], same: Sequence[int], by: ChosenBy, *, held_out: bool
) -> Iterator[str]:
    """What the held-out part cannot tell, one sentence each.

    Parameters
    ----------
    same
        Of `same_images`, for `pairs` and `validation` together.
    held_out
        Whether something is held out at all.
    """
    if by == "training loss" and validation:
        yield f"the validation images hold no foreground that is trained on, so nothing is scored; {_KEPT}"
    elif by == "training loss" and not held_out:
        yield (
            "nothing is held out, because no part of the images holds foreground that the training can do without (more images, or "
            f"larger ones, change that); {_KEPT}"
        )
    elif by == "training loss":
        yield f"the held-out part has no foreground that is trained on, so nothing is scored; {_KEPT}"
    for k, pair in enumerate(validation):
        twin = same[len(pairs) + k]
        if twin < len(pairs):
            what = f"has the same voxels as the training image {pairs[twin].image.name}: its scores tell"
        elif (twin_file := next((p.image for p in pairs if _same_file(p.image, pair.image)), None)) is not None:
            what = f"comes from the same file as the training image {twin_file.name}: where both show the same, its scores tell"
        else:
            continue
        yield (
            f"the validation image {pair.image.name} {what} how well the training images were learnt, and not how good the model "
            "is on other images"
        )


def _same_file(one: Stack, other: Stack) -> bool:
    if one.path is None or other.path is None:
        return False
    try:
        return Path(one.path).samefile(other.path)
    except OSError:
        return False
