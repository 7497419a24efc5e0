"""The training loop, as a generator of events: from scratch and fine-tuning are one function.

In this order: the door (`train` plans, `train_plan` runs a plan), the loop, one step that may run out of memory, and the model
that an epoch leaves.

Randomness is drawn anew for every step from (seed, epoch, step), so a resumed run sees the patches that an uninterrupted one
would have seen, with no generator state to keep.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from napari_unetpp.model.backbones_weights import load_pretrained
from napari_unetpp.model.card import Card, advised_level
from napari_unetpp.model.checkpoint import Model, choose_device
from napari_unetpp.model.memory import give_back, is_out_of_memory
from napari_unetpp.model.unetpp import UNetPlusPlus
from napari_unetpp.training.divergence import constant_loss, has_diverged
from napari_unetpp.training.feed import batches
from napari_unetpp.training.freeze import freeze, set_training
from napari_unetpp.training.identity import identified
from napari_unetpp.training.losses import class_weights
from napari_unetpp.training.options import BatchDone, EpochDone, Started, TrainOptions
from napari_unetpp.training.plan import Plan, TrainingError, make_plan
from napari_unetpp.training.resume import RunState, forget, load_state, state_path
from napari_unetpp.training.run_files import hold_run, let_go
from napari_unetpp.training.saved import Saved
from napari_unetpp.training.step import make_optimizer, memory_format, rate, take_step
from napari_unetpp.training.validate import Scores, validate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_unetpp._locks import Hold
    from napari_unetpp.model.intensity import Intensity
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.training.pairs import Pair

_COPIES = (
    7  # of the weights on disk at worst: two models, and weights with Adam's moments, before one replaces the other
)


def train(
    model_or_spec: Model | NetworkSpec,
    pairs: Sequence[Pair],
    options: TrainOptions,
    out: str | Path,
    *,
    validation: Sequence[Pair] = (),
    replay: Sequence[Pair] = (),
    intensity: Intensity | None = None,
    card: Card | None = None,
    resume: bool = False,
) -> Iterator[Started | BatchDone | EpochDone]:
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
    replay
        The base model's own training data: part of each batch is drawn from it, so that what the model knows is not lost.
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
    InUse
        If another window or program trains `out` now.
    OSError
        If the folder does not exist or has no room. `NotSavedError` while it runs: the folder or the model is gone.
    """
    target = Path(out)
    plan = make_plan(
        model_or_spec,
        pairs,
        options,
        validation=validation,
        replay=replay,
        intensity=intensity,
        card=card,
        name=target.stem,
    )
    return train_plan(plan, target, resume=resume)


def train_plan(
    plan: Plan, out: str | Path, *, resume: bool = False, hold: Hold | None = None, saved: Saved | None = None
) -> Iterator[Started | BatchDone | EpochDone]:
    """Events of the run that was planned; see `train`.

    Reads every image once, for the hash by which `resume` knows it again.

    Parameters
    ----------
    hold
        The right to train `out`, where the caller has it and keeps it.
    saved
        Is told what the run saves, so that the caller can look for it on the disk, or save it elsewhere.
    """
    target = Path(out)
    mine = hold if hold is not None else hold_run(target)
    try:
        if not resume and state_path(target).exists():
            raise FileExistsError(
                f"{state_path(target)} is an unfinished run; resume it, or remove that file to start anew"
            )
        if not resume and target.exists():
            raise FileExistsError(f"{target} exists; choose another name for the new model or remove it")
        plan = identified(plan)
        state = load_state(target, plan.record) if resume else None
        network = _start_network(plan, resumed=state is not None)
        needed = _COPIES * 4 * sum(p.numel() for p in network.parameters())
        if (free := shutil.disk_usage(target.parent).free) < needed:
            raise OSError(
                f"folder {target.parent} has {free / 2**20:.0f} MiB free where the model and what it can be resumed from take up "
                f"to {needed / 2**20:.0f}; free some space, or save the model elsewhere"
            )
        files = saved if saved is not None else Saved(target)
        files.begin(state)
    except BaseException:
        if hold is None:
            let_go(target, mine)
        raise
    return _held(_run(plan, network, files, state), target, None if hold is not None else mine)


def _held(
    run: Iterator[Started | BatchDone | EpochDone], out: Path, mine: Hold | None
) -> Iterator[Started | BatchDone | EpochDone]:
    """The run, after which the right to train is given back."""
    try:
        yield from run
    finally:
        if mine is not None:
            let_go(out, mine)


def _run(
    plan: Plan, network: UNetPlusPlus, files: Saved, state: RunState | None
) -> Iterator[Started | BatchDone | EpochDone]:
    options = plan.options
    device = choose_device(options.device)
    network = network.to(device).to(memory_format=memory_format(plan.spec.ndim))  # type: ignore[call-overload]  # torch's stubs lack it
    optimizer = make_optimizer(freeze(network, options.trainable), options)
    scored = plan.chosen_by == "validation"
    if state is None:
        before = None if plan.parent is None or not scored else validate(network, plan.validation, device)
        state = RunState(plan.batch, before=before)
    else:
        network.load_state_dict(state.network)
        optimizer.load_state_dict(dict(state.optimizer))
    yield Started(
        str(device),
        state.batch,
        state.epoch,
        state.before,
        tuple(EpochDone(**epoch) for epoch in state.history),
        plan.chosen_by,
    )
    weights = class_weights(plan.training.counts.tolist(), options.balance).to(device)
    constant = constant_loss(plan.spec, weights)
    every = 1 if device.type == "cpu" else 10  # steps: reading a number off a card makes the card wait
    parts = 1
    for epoch in range(state.epoch, options.epochs):
        started = time.perf_counter()
        set_training(network, options.trainable)
        losses = torch.zeros(options.steps, device=device)
        for step, (image, target) in enumerate(batches(plan, state.batch, epoch)):
            for group in optimizer.param_groups:
                group["lr"] = rate(options, epoch * options.steps + step)
            losses[step], parts = _fitting_step(network, optimizer, (image, target), weights, options, parts)
            if step % every == every - 1 or step + 1 == options.steps:
                value = float(losses[step])
                if not math.isfinite(value):
                    raise _diverged(plan, files, epoch, value)
                yield BatchDone(epoch, step + 1, options.steps, value)
        middle = float(
            losses.sort().values[options.steps // 2]
        )  # of two, the larger: the first is that of untouched weights
        if has_diverged(middle, [past["loss"] for past in state.history], constant):
            raise _diverged(plan, files, epoch, middle)
        loss = float(losses.mean())
        scores = validate(network, plan.validation, device) if scored else {}
        score = sum(scores[f"L{d}"]["iou"] for d in plan.spec.heads) / len(plan.spec.heads) if scored else -loss
        better = score > state.best
        stale = 0 if better else state.stale + 1
        stop = stale >= options.patience or epoch + 1 == options.epochs
        seconds = time.perf_counter() - started
        done = EpochDone(epoch, options.epochs, loss, scores, better, stop, seconds)
        state = replace(
            state,
            epoch=epoch + 1,
            best=max(score, state.best),
            stale=stale,
            seconds=state.seconds + seconds,
            history=(*state.history, asdict(done)),
            network=network.state_dict(),
            optimizer=optimizer.state_dict(),
        )
        if better:
            files.save(_model(plan, network, device, scores, state), epoch + 1)
        if not stop:
            files.save_state(state, plan.record)
        files.check(whole=stop)  # nobody is told of what is not there
        if stop:
            forget(files.out)
        yield done
        if stop:
            return


def _diverged(plan: Plan, files: Saved, epoch: int, loss: float) -> TrainingError:
    """The error of a run whose loss has exploded; going on with it would end the same, so what it needs for that goes."""
    forget(files.out)
    what = "the best epoch" if plan.chosen_by == "validation" else "the epoch with the lowest training loss"
    left = f"{files.out} holds {what} before that, {files.epoch}" if files.model is not None else "no model was saved"
    rate_now = plan.options.learning_rate
    return TrainingError(
        f"the training diverged in epoch {epoch + 1}: its loss became {loss:.3g}; lower the learning rate {rate_now:g}, for "
        f"example to {rate_now / 10:g}; {left}"
    )


def _fitting_step(
    network: UNetPlusPlus,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    weights: Tensor,
    options: TrainOptions,
    parts: int,
) -> tuple[Tensor, int]:
    """Loss of a step, and in how many parts it fitted; a device out of memory is asked again for half as much."""
    device = weights.device
    image, target = (tensor.to(device, non_blocking=True) for tensor in batch)
    while True:
        try:
            return take_step(network, optimizer, image, target, weights, options, parts), parts
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if parts >= len(image):
                patch = " x ".join(map(str, target.shape[1:]))
                raise TrainingError(
                    f"{device} has too little memory for one patch of {patch}; choose a smaller patch, or train on the CPU"
                ) from None
        optimizer.zero_grad(set_to_none=True)  # out here, where no error holds what the step had
        give_back(device)
        parts = min(2 * parts, len(image))


def _start_network(plan: Plan, *, resumed: bool) -> UNetPlusPlus:
    """Network to start from: the parent's weights, or He-normal ones out of the seed under a trained encoder, if asked for."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.options.seed)
        network = UNetPlusPlus(plan.spec)
    if plan.parent is not None:
        network.load_state_dict({k: v.cpu() for k, v in plan.parent.network.state_dict().items()})
    elif plan.options.encoder_weights and not resumed:
        load_pretrained(network, plan.options.encoder_weights)
    return network


def _model(plan: Plan, network: UNetPlusPlus, device: torch.device, scores: Scores, state: RunState) -> Model:
    levels = {d: scores[f"L{d}"]["iou"] for d in plan.spec.heads} if scores else {}
    parent = plan.parent.card.name if plan.parent is not None else None
    training = {
        **plan.record,
        "parent_name": parent,
        "batch": state.batch,
        "epoch": state.epoch,
        "seconds": round(state.seconds, 1),
    }
    before = {"validation, parent": state.before} if state.before is not None else {}
    card = replace(
        plan.card,
        training=json.loads(json.dumps(training)),
        scores={**plan.card.scores, **before, **({"validation": scores} if scores else {})},
        recommended_level=advised_level(levels) if levels else max(plan.spec.heads),
    )
    return Model(plan.spec, network, plan.intensity, card, device)
