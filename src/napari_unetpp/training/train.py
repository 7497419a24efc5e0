"""The training loop, as a generator of events: from scratch and fine-tuning are one function.

In this order: the door (`plan` checks and loads everything behind it), the loop, one step, and the model that an epoch leaves.

Randomness is drawn anew for every step from (seed, epoch, step), so a resumed run sees the patches that an uninterrupted one
would have seen, with no generator state to keep.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from napari_unetpp.model.card import Card, advised_level
from napari_unetpp.model.checkpoint import Model, choose_device, save_model
from napari_unetpp.model.unetpp import UNetPlusPlus
from napari_unetpp.training.augment import AUGMENTATIONS
from napari_unetpp.training.losses import deep_supervision_loss
from napari_unetpp.training.options import BatchDone, EpochDone, TrainOptions
from napari_unetpp.training.patches import Pair, annotated_weights, draw_batch
from napari_unetpp.training.plan import Plan, TrainingError, make_plan
from napari_unetpp.training.resume import RunState, load_state, remove_state, save_state, state_path
from napari_unetpp.training.validate import Scores, validate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_unetpp.model.intensity import Intensity
    from napari_unetpp.model.spec import NetworkSpec

WARM_UP = 0.05  # share of all steps over which a cosine schedule rises to its rate


def train(
    model_or_spec: Model | NetworkSpec,
    pairs: Sequence[Pair],
    options: TrainOptions,
    out: str | Path,
    *,
    validation: Sequence[Pair] = (),
    intensity: Intensity | None = None,
    card: Card | None = None,
    resume: bool = False,
) -> Iterator[BatchDone | EpochDone]:
    """Events of a training run that leaves its best weights in the model file `out`.

    Everything is checked before the generator is returned, so bad input fails here and not at the first ``next``. Stopping the
    iteration is Cancel: `out` holds the best weights of the epochs done, and beside it ``<out>.training`` what `resume` needs;
    that file goes away when the run ends by itself.

    Parameters
    ----------
    model_or_spec
        A model to fine-tune (its classes, intensities and weights are kept) or a specification to start from scratch.
    pairs
        Images and labels. Part of them is held out by `split_pairs`, unless `validation` names other pairs for that.
    intensity, card
        For a run from scratch: how the network shall read intensities, and name, classes, licence and so on of the new model.
    resume
        Go on from ``<out>.training`` where there is one.

    Raises
    ------
    ValueError
        If the data, the options and the network do not fit together, or nothing of the data is annotated.
    FileExistsError
        If `out` exists and `resume` is false, or an unfinished run is there.
    """
    target = Path(out)
    plan = make_plan(
        model_or_spec, pairs, options, validation=validation, intensity=intensity, card=card, name=target.stem
    )
    state = load_state(target, plan.record) if resume else None
    if not resume and state_path(target).exists():
        raise FileExistsError(
            f"{state_path(target)} is an unfinished run; resume it, or remove that file to start anew"
        )
    if not resume and target.exists():
        raise FileExistsError(f"{target} exists; choose another name for the new model or remove it")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"folder {target.parent} does not exist; make it, or save the model elsewhere")
    return _run(plan, options, target, state)


def _run(plan: Plan, options: TrainOptions, out: Path, state: RunState | None) -> Iterator[BatchDone | EpochDone]:
    device = choose_device(options.device)
    network = _start_network(plan, options.seed).to(device)
    if plan.spec.ndim == 2:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    optimizer = torch.optim.Adam(network.parameters(), lr=options.learning_rate)
    if state is None:
        state = RunState()
    else:
        network.load_state_dict(state.network)
        optimizer.load_state_dict(dict(state.optimizer))
    weights = annotated_weights(plan.training)
    for epoch in range(state.epoch, options.epochs):
        started = time.perf_counter()
        network.train()
        total = torch.zeros((), device=device)
        for step in range(options.steps):
            generator = torch.Generator().manual_seed(_seed(options.seed, epoch, step))
            image, target = draw_batch(
                plan.training,
                weights,
                plan.spec.ndim,
                options.patch,
                options.batch,
                AUGMENTATIONS[options.augmentation],
                generator,
            )
            for group in optimizer.param_groups:
                group["lr"] = _rate(options, epoch * options.steps + step)
            loss = _step(network, optimizer, image.to(device), target.to(device), options)
            total += loss
            if step % 10 == 9 or step + 1 == options.steps:  # reading a number off the device makes it wait
                value = float(loss)
                if not math.isfinite(value):
                    raise TrainingError(
                        f"the loss became {value} in epoch {epoch + 1}; lower the learning rate {options.learning_rate}"
                    )
                yield BatchDone(epoch, step + 1, options.steps, value)
        scores = validate(network, plan.validation, options.validation_voxels, device)
        score = sum(scores[f"L{d}"]["iou"] for d in plan.spec.heads) / len(plan.spec.heads)
        best = score > state.best
        state = RunState(
            epoch=epoch + 1,
            best=max(score, state.best),
            stale=0 if best else state.stale + 1,
            seconds=state.seconds + time.perf_counter() - started,
            network=network.state_dict(),
            optimizer=optimizer.state_dict(),
        )
        if best:
            save_model(_model(plan, network, device, scores, state), out)
        stop = state.stale >= options.patience or state.epoch == options.epochs
        if stop:
            remove_state(out)
        else:
            save_state(state, out, plan.record)
        mean = float(total) / options.steps
        yield EpochDone(epoch, options.epochs, mean, scores, best, stop, time.perf_counter() - started)
        if stop:
            return


def _step(
    network: UNetPlusPlus, optimizer: torch.optim.Optimizer, image: Tensor, target: Tensor, options: TrainOptions
) -> Tensor:
    """Loss of one batch, after the weights have taken one step against it."""
    device = image.device.type
    if image.ndim == 4:
        image = image.contiguous(memory_format=torch.channels_last)
    half = options.precision == "bf16" or (options.precision == "auto" and device == "cuda")
    with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
        logits = network(image)
    loss = deep_supervision_loss([head.float() for head in logits], target)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def _rate(options: TrainOptions, step: int) -> float:
    """Learning rate of a step counted from the start of the run."""
    if options.schedule == "constant":
        return options.learning_rate
    total = options.epochs * options.steps
    warm = max(1, round(WARM_UP * total))
    if step < warm:
        return options.learning_rate * (step + 1) / warm
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def _seed(seed: int, epoch: int, step: int) -> int:
    """A seed of 63 bits for one step; distinct for all (epoch, step) below 2**20 each."""
    return (seed * 0x9E3779B97F4A7C15 + (epoch << 20) + step) & 0x7FFF_FFFF_FFFF_FFFF


def _start_network(plan: Plan, seed: int) -> UNetPlusPlus:
    """Network to start from: the parent's weights, or He-normal ones out of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNetPlusPlus(plan.spec)
    if plan.parent is not None:
        network.load_state_dict({k: v.cpu() for k, v in plan.parent.network.state_dict().items()})
    return network


def _model(plan: Plan, network: UNetPlusPlus, device: torch.device, scores: Scores, state: RunState) -> Model:
    levels = {d: scores[f"L{d}"]["iou"] for d in plan.spec.heads}
    training = {**plan.record, "epoch": state.epoch, "seconds": round(state.seconds, 1)}
    card = replace(
        plan.card,
        training=json.loads(json.dumps(training)),
        scores={**plan.card.scores, "validation": scores},
        recommended_level=advised_level(levels),
    )
    return Model(plan.spec, network, plan.intensity, card, device)
