"""What a training run is told, and what it tells while it runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from napari_unetpp.training.augment import AUGMENTATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping


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
        Patches a batch; voxels per axis of a patch, a multiple of ``2**depth`` (the papers use 96 for EM and nuclei).
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
    augmentation
        A name of `augment.AUGMENTATIONS`.
    precision
        ``"auto"`` is bf16 autocast on CUDA and fp32 elsewhere (bf16 that a CPU has to emulate is slower than fp32).
    device
        As for `load_model`.

    Raises
    ------
    ValueError
        If a number is out of range or a word unknown.
    """

    epochs: int = 100
    steps: int = 100
    patience: int = 20
    batch: int = 16
    patch: int = 96
    learning_rate: float = 3e-4
    schedule: Literal["constant", "cosine"] = "constant"
    seed: int = 0
    validation_fraction: float = 0.15
    validation_voxels: int = 2**21
    unpainted: Literal["background", "ignore"] = "background"
    augmentation: str = "em"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "patience", "batch", "patch", "validation_voxels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning rate {self.learning_rate} must be positive")
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; use one of {', '.join(words)}")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


_WORDS: dict[str, tuple[str, ...]] = {
    "schedule": ("constant", "cosine"),
    "unpainted": ("background", "ignore"),
    "augmentation": tuple(AUGMENTATIONS),
    "precision": ("auto", "fp32", "bf16"),
}


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

    `scores` maps ``"L1"`` .. and ``"ensemble"`` to ``{"iou": ..., "dice": ...}`` of the foreground on the held-out part; `best`
    says that the model file now holds these weights; `stop` that no further epoch will follow.
    """

    epoch: int
    epochs: int
    loss: float
    scores: Mapping[str, Mapping[str, float]]
    best: bool
    stop: bool
    seconds: float
