"""The jobs behind the Train dock, as generators that know neither Qt nor napari.

Decides, in this order: what a run is asked for (`TrainRequest`), how it is planned and measured (`plan_run`), what becomes of its
files when it ends (`run_training`), how it is compared with its parent (`compare_run`), and how patches are drawn to be looked at
(`draw_patches`).

The new model lies in the user's folder from its first epoch on, so that it can be looked at while it trains; a run that is
neither finished nor stopped leaves there what it needs to go on (`train_unfinished`).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_unetpp.gui.train_pairs import CORRECTIONS_ENDING, PairRequest
from napari_unetpp.gui.train_pictures import rgb, tiled
from napari_unetpp.model.names import check_name
from napari_unetpp.model.zoo import SUFFIX, check_free, user_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_unetpp.model.card import Card
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.training.compare import BeforeAfter
    from napari_unetpp.training.corrections import Corrections
    from napari_unetpp.training.options import BatchDone, EpochDone, Started
    from napari_unetpp.training.pairs import Pair
    from napari_unetpp.training.plan import Plan

# Everything that imports torch is imported inside the generators: they run in the worker.

PATCHES = 12  # that are looked at


@dataclass(frozen=True, slots=True)
class Scratch:
    """A new network: a preset, with other numbers where they are not None, or a decoder on an `encoder` of timm."""

    preset: str
    width: int | None = None
    depth: int | None = None
    ndim: int = 2
    encoder: str = ""


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """All that decides a run, taken from the dock before it starts.

    Attributes
    ----------
    start : Path or Scratch
        The model file to go on from, or the network to make.
    options : dict
        For `TrainOptions`.
    classes : tuple of str
        Names of the classes of a new network, in the order of their labels.
    name : str
        Of the new model.
    parent : str
        Name of the model to go on from; empty from scratch.
    """

    pairs: tuple[PairRequest, ...]
    start: Path | Scratch
    options: dict[str, Any]
    name: str
    classes: tuple[str, ...] = ()
    parent: str = ""
    replay: bool = False

    @property
    def out(self) -> Path:
        return user_folder() / f"{self.name}{SUFFIX}"


@dataclass(eq=False, slots=True)
class Planned:
    """A plan with what keeps its files open, and how long a step takes.

    Attributes
    ----------
    seconds_per_step : float or None
        None where it was not measured.
    """

    request: TrainRequest
    plan: Plan
    opened: ExitStack
    seconds_per_step: float | None = None
    resume: bool = False

    def close(self) -> None:
        """Nothing of it is read any more."""
        self.opened.close()


def plan_run(request: TrainRequest, *, measure: bool = True, resume: bool = False) -> Generator[Planned | str]:
    """What is being done, in words, and at last the plan.

    Raises
    ------
    ValueError, OSError
        What cannot be trained on, in one line; nothing was written.
    """
    from napari_unetpp.training.options import TrainOptions
    from napari_unetpp.training.plan import make_plan

    if not resume:
        check_name(request.name)
        check_free(request.name)
    options = TrainOptions(**request.options)
    with ExitStack() as opened:
        yield "Reading the labels …"
        pairs = [open_pair(pair, opened)[0] for pair in request.pairs]
        start = _start(request, pairs)
        card = _card(request) if isinstance(request.start, Scratch) else None
        replay = _replay(start, opened) if request.replay else ()
        plan = make_plan(start, pairs, options, replay=replay, card=card, name=request.name)
        seconds = None
        if measure:
            from napari_unetpp.training.speed import seconds_per_step

            yield "Measuring how long a step takes …"
            seconds = seconds_per_step(plan)
        planned = Planned(request, plan, opened.pop_all(), seconds, resume)
    try:
        yield planned
    except GeneratorExit:  # nobody has taken it
        planned.close()
        raise


def open_pair(request: PairRequest, opened: ExitStack) -> tuple[Pair, Corrections | None]:
    """The pair of a request, its files open as long as `opened` is, and the corrections that its labels are, if any.

    Raises
    ------
    ValueError, OSError
        If it cannot be opened, or its extents differ.
    """
    from napari_unetpp.stacks import open_stack
    from napari_unetpp.training.corrections import Corrections, open_corrections
    from napari_unetpp.training.pairs import Pair, corrections_pair

    image, label = request.image, request.label
    if isinstance(image, Path):
        image = opened.enter_context(open_stack(image))
    if isinstance(label, Path) and label.name.endswith(CORRECTIONS_ENDING):
        label = open_corrections(label)
    if isinstance(label, Corrections):
        return corrections_pair(image, label), label
    if isinstance(label, Path):
        label = opened.enter_context(open_stack(label, labels=True))
    return Pair(image, label), None


def _start(request: TrainRequest, pairs: list[Pair]) -> Model | NetworkSpec:
    from napari_unetpp.model.checkpoint import load_model
    from napari_unetpp.model.presets import preset
    from napari_unetpp.training.spacing import fit_spacing

    if isinstance(request.start, Path):
        return load_model(request.start, request.options.get("device", "auto"))
    channels = {pair.image.channels for pair in pairs}
    if len(channels) > 1:
        raise ValueError(f"the images have {sorted(channels)} channels; all need the same")
    new, classes = request.start, len(request.classes)
    if new.encoder:
        from napari_unetpp.model.backbones import encoder_spec

        count = classes + 1 if classes > 1 else 1
        depth, width = new.depth or 4, new.width or 32
        return encoder_spec(new.encoder, in_channels=channels.pop(), classes=count, depth=depth, width=width)
    spec = preset(new.preset, new.ndim, channels.pop(), classes + 1 if classes > 1 else 1)
    if new.depth is not None:
        spec = spec.with_depth(new.depth)
    return fit_spacing(spec if new.width is None else spec.with_width(new.width), pairs)


def _card(request: TrainRequest) -> Card:
    from napari_unetpp.model.card import CLASS_COLORS, Card, ClassInfo

    named = tuple(ClassInfo(name, CLASS_COLORS[k % len(CLASS_COLORS)]) for k, name in enumerate(request.classes))
    return Card(request.name, classes=named if len(named) == 1 else (ClassInfo("background", "#000000"), *named))


def _replay(start: Model | NetworkSpec, opened: ExitStack) -> list[Pair]:
    """The base model's own training data, as far as this computer has them."""
    from napari_unetpp.training.at_hand import known_data

    sources = known_data(getattr(start, "sha256", ""))
    return [open_pair(PairRequest(source.image, source.label), opened)[0] for source in sources]


def _remember_data(request: TrainRequest) -> None:
    """Note where the data of the new model are, as far as they are files, so that a later training can replay them."""
    from napari_unetpp.model.zoo import file_sha256
    from napari_unetpp.training.at_hand import Source, remember

    files = [pair.files for pair in request.pairs]
    if request.out.exists() and any(files):
        remember(file_sha256(request.out), [Source(*found) for found in files if found is not None])


@dataclass(slots=True)
class Ending:
    """What is to become of a run that is stopped; the window assigns it before it cancels the job.

    Attributes
    ----------
    how : "leave", "keep" or "discard"
        Leave everything, so that the run can go on later; keep the best epoch as the new model; or nothing.
    """

    how: Literal["leave", "keep", "discard"] = "leave"


def run_training(planned: Planned, ending: Ending) -> Generator[Started | BatchDone | EpochDone]:
    """What `train_plan` tells; when it is stopped, its files become what `ending` says.

    Raises
    ------
    ValueError, OSError
        As `train_plan`; what an earlier epoch saved is left.
    """
    from napari_unetpp.gui.train_unfinished import hold_request
    from napari_unetpp.training.resume import discard, forget
    from napari_unetpp.training.train import train_plan

    out = planned.request.out
    out.parent.mkdir(parents=True, exist_ok=True)
    with hold_request(planned.request, resume=planned.resume):
        try:
            yield from train_plan(planned.plan, out, resume=planned.resume)
        except GeneratorExit:
            if ending.how == "discard":
                discard(out)
            elif ending.how == "keep":
                forget(out)
                _remember_data(planned.request)
            raise
        _remember_data(planned.request)


def compare_run(planned: Planned) -> Generator[BeforeAfter]:
    """Tables of the parent and the new model, each with more in it than the one before."""
    from napari_unetpp.training.compare import before_after

    yield from before_after(planned.plan, planned.request.out)
    _remember_data(planned.request)  # anew, because the table went onto the card, and so into the file


@dataclass(frozen=True, slots=True)
class Patches:
    """Patches as the network will see them: (rows, columns, 3) uint8, how many of them, and the names of the tints."""

    picture: NDArray[np.uint8]
    classes: tuple[tuple[str, str], ...] = field(default=())


def draw_patches(planned: Planned, seed: int) -> Generator[Patches]:
    """Augmented patches with their labels tinted, and what nobody annotated darkened; another seed draws others."""
    from napari_unetpp.training.patches import preview_patches

    images, targets = preview_patches(planned.plan, PATCHES, seed)
    classes = planned.plan.card.classes
    foreground = classes if len(classes) == 1 else classes[1:]
    colors = [rgb(info.color) for info in foreground]
    yield Patches(tiled(images, targets, colors), tuple((info.name, info.color) for info in foreground))
