"""What a training run is told, and what it tells while it runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from napari_unetpp.training.augment import AUGMENTATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_unetpp.training.held_out import ChosenBy
    from napari_unetpp.training.pairs import Unpainted

AUTOMATIC_BATCH = 8  # more patches a step make few steps of few annotations
Trainable = Literal["all", "decoder", "heads"]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Everything that decides the weights beside the data and the network; equal options and seed give equal weights.

    Parameters
    ----------
    epochs, steps
        At most this many epochs of this many batches each.
    patience
        Stop after this many epochs without a better validation score.
    batch, patch
        Patches a batch, 0 for as many as memory allows up to `AUTOMATIC_BATCH`; voxels of a patch, one number for all axes or
        one per axis of the network, (z, y, x), multiples of its grid (the papers use 96 for EM and nuclei, 64 for lungs).
    learning_rate, schedule
        Adam's rate (the papers' 3e-4), kept ``"constant"`` or led to zero along half a ``"cosine"`` over all epochs.
    seed
        Of weights, split, patches and augmentation.
    validation_fraction
        Share of the voxels held out.
    validation_voxels
        At most about this many voxels are predicted after each epoch; evenly spread slices stand for the rest.
    unpainted
        What label 0 means: ``"background"``, or ``"ignore"`` (not annotated; 1 is background, 2 and up the classes).
    foreground
        For a network of one class: the painted number that alone is foreground; 0 is every label above the background.
    augmentation
        A name of `augment.AUGMENTATIONS`.
    trainable
        ``"all"``; ``"decoder"``: all but the encoder column X^{i,0}; ``"heads"``: the 1x1 convolutions alone. What is not
        trained keeps its weights and its batch statistics.
    balance
        Weigh the cross-entropy of a class by how rare its annotations are (at most tenfold).
    replay
        Share of each batch that comes from the base model's own training data, where `train` is given any.
    memory
        Bytes of images and targets that are held at once; of more, every epoch draws another part.
    precision
        ``"auto"`` is bf16 autocast on CUDA and fp32 elsewhere (bf16 that a CPU has to emulate is slower than fp32).
    device
        As for `load_model`.
    encoder_weights
        What the encoder of a new network begins with: ``"timm"`` fetches trained weights, else a file of them
        (`backbones_weights.load_pretrained`); empty is noise.

    Raises
    ------
    ValueError
        If a number is out of range or a word unknown.
    """

    epochs: int = 100
    steps: int = 100
    patience: int = 20
    batch: int = 16
    patch: int | tuple[int, ...] = 96
    learning_rate: float = 3e-4
    schedule: Literal["constant", "cosine"] = "constant"
    seed: int = 0
    validation_fraction: float = 0.15
    validation_voxels: int = 2**21
    unpainted: Unpainted = "background"
    foreground: int = 0
    augmentation: str = "em"
    trainable: Trainable = "all"
    balance: bool = False
    replay: float = 0.25
    memory: int = 2**30
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"
    encoder_weights: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.patch, int):  # JSON knows no tuples
            object.__setattr__(self, "patch", tuple(self.patch))
        if not (extents := _numbers(self.patch)) or min(extents) < 1:
            raise ValueError(f"patch {self.patch} must be at least 1 along every axis")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)} must be at least {least}")
        if not 0 <= self.replay < 1:
            raise ValueError(
                f"replay {self.replay} must lie between 0 and 1; it is the share of a batch that is not new"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning rate {self.learning_rate} must be positive")
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; use one of {', '.join(words)}")

    def extents(self, ndim: int) -> tuple[int, ...]:
        """Voxels of a patch along each axis of a network.

        >>> TrainOptions(patch=64).extents(3), TrainOptions(patch=(16, 96, 96)).extents(3)
        ((64, 64, 64), (16, 96, 96))

        Raises
        ------
        ValueError
            If the patch has another number of axes.
        """
        extents = _numbers(self.patch)
        if len(extents) not in (1, ndim):
            raise ValueError(
                f"patch {','.join(map(str, extents))} names {len(extents)} axes where the network has {ndim}; give one number or "
                f"{ndim}"
            )
        return extents if len(extents) == ndim else extents * ndim

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = {**asdict(self), "patch": self.patch if isinstance(self.patch, int) else list(self.patch)}
        if not self.encoder_weights:  # runs that earlier versions began know no such word
            del values["encoder_weights"]
        return values


def _numbers(patch: int | tuple[int, ...]) -> tuple[int, ...]:
    return (patch,) if isinstance(patch, int) else patch


_LEAST = {
    **dict.fromkeys(("epochs", "steps", "patience", "validation_voxels", "memory"), 1),
    **dict.fromkeys(("batch", "foreground"), 0),
}
_WORDS: dict[str, tuple[str, ...]] = {
    "schedule": ("constant", "cosine"),
    "unpainted": ("background", "ignore"),
    "augmentation": tuple(AUGMENTATIONS),
    "precision": ("auto", "fp32", "bf16"),
    "trainable": ("all", "decoder", "heads"),
}


@dataclass(frozen=True, slots=True)
class Started:
    """A run is under way: where, with how many patches a batch, from which epoch on.

    `before` are the parent's scores on the held-out part, as in `EpochDone`, None from scratch or where nothing is scored;
    `history` the epochs that a resumed run has behind it; `chosen_by` what decides which epoch is kept.
    """

    device: str
    batch: int
    epoch: int
    before: Mapping[str, Mapping[str, float]] | None
    history: tuple[EpochDone, ...] = ()
    chosen_by: ChosenBy = "validation"


@dataclass(frozen=True, slots=True)
class BatchDone:
    """One optimizer step is done; `loss` is the sum over the heads."""

    epoch: int
    step: int
    steps: int
    loss: float


@dataclass(frozen=True, slots=True)
class EpochDone:
    """One epoch is done, validated and safe on disk.

    `scores` maps ``"L1"`` .. and ``"ensemble"`` to ``{"iou": ..., "dice": ...}`` of the foreground on the held-out part, and is
    empty where nothing is scored; `kept` says that the model file now holds these weights; `stop` that no further epoch will
    follow.
    """

    epoch: int
    epochs: int
    loss: float
    scores: Mapping[str, Mapping[str, float]]
    kept: bool
    stop: bool
    seconds: float

    @property
    def best(self) -> bool:
        """Whether it was kept because its scores are the best so far; an epoch without scores never is."""
        return self.kept and bool(self.scores)
