"""How training spends its time, and what it holds in memory.

    python -m benchmarks.training

*Busy* is the share of an epoch's time that goes into forward, backward and the optimizer: the same steps on batches that are
ready, over the steps with their patches drawn, augmented and copied. The ceiling counts three forward passes a step. Memory
is the most that a process takes above its start while it trains on a stack on disk, in parts and as a whole.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from benchmarks import _harness as harness
from benchmarks._harness import Case, say
from benchmarks.ceilings import limits
from benchmarks.memory import CLEAR, give_back_free_memory, status_kib
from benchmarks.networks import make_model, network_flops, standard_spec, texture
from napari_unetpp.model.checkpoint import load_model
from napari_unetpp.stacks import open_stack
from napari_unetpp.training.feed import batches
from napari_unetpp.training.freeze import freeze, set_training
from napari_unetpp.training.options import TrainOptions
from napari_unetpp.training.pairs import Pair
from napari_unetpp.training.plan import Plan, make_plan
from napari_unetpp.training.step import make_optimizer, take_step
from napari_unetpp.training.train import train

STACK = (64, 1024, 1024)  # of the memory part
MEMORY = 16 * 2**20


def steps_of(plan: Plan, ready: list | None, steps: int) -> Callable[[], None]:
    """So many optimizer steps on a network of their own, with the patches of `ready` or drawn as `train` draws them."""
    device = torch.device(plan.options.device)
    assert plan.parent is not None
    network = copy.deepcopy(plan.parent.network).to(device).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(freeze(network, plan.options.trainable), plan.options)
    set_training(network, plan.options.trainable)
    weights = torch.ones(2, device=device)

    def run() -> None:
        for image, target in batches(plan, plan.batch, 0, steps) if ready is None else ready:
            moved = (tensor.to(device, non_blocking=True) for tensor in (image, target))
            take_step(network, optimizer, *moved, weights, plan.options)

    return run


def growth(arguments: list[str]) -> float:
    """MiB that a process of this file took at most above what it took before training."""
    command = [sys.executable, "-m", "benchmarks.training", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1])["mib"])


def child(folder: Path, memory: int) -> None:
    """Train for an epoch on the files of a folder, and print by how much the process grew."""
    torch.set_num_threads(1)
    model = load_model(folder / "base.safetensors", "cpu")
    options = TrainOptions(epochs=1, steps=4, batch=4, patch=32, memory=memory, device="cpu", validation_voxels=2**18)
    small = texture((1, 64, 128))
    warm = [Pair(open_stack(small, axes="zyx"), open_stack((small > 128).astype(np.uint8), axes="zyx"))]
    for _ in train(model, warm, options, folder / f"warm-{memory}.safetensors"):
        pass
    gc.collect()
    give_back_free_memory()
    before = status_kib("VmRSS")
    CLEAR.write_text("5")
    with open_stack(folder / "image.tif") as image, open_stack(folder / "labels.tif") as labels:
        for _ in train(model, [Pair(image, labels)], options, folder / f"out-{memory}.safetensors"):
            pass
    print(json.dumps({"mib": (status_kib("VmHWM") - before) / 1024}))


def measure_memory(quick: bool) -> dict[str, Any]:
    """Growth with all of a stack in memory and with a part of it at a time."""
    from napari_unetpp.model.checkpoint import save_model

    shape = (8, 256, 256) if quick else STACK
    memory = 2**18 if quick else MEMORY
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(make_model(standard_spec(True), "cpu"), folder / "base.safetensors")
        plane = texture(shape[1:])
        stack = np.stack([np.roll(plane, 7 * z, axis=0) for z in range(shape[0])])
        # Compressed: a file that is mapped would count with each page that was read, though the system may drop it.
        about = {"metadata": {"axes": "ZYX"}, "ome": True, "compression": "zlib"}
        tifffile.imwrite(folder / "image.tif", stack, **about)
        tifffile.imwrite(folder / "labels.tif", (stack > 128).astype(np.uint8), **about)
        found = {
            "data_mib": 2 * stack.nbytes / 2**20,
            "allowed_mib": memory / 2**20,
            "in_parts_mib": growth(["--child", name, str(memory)]),
            "as_a_whole_mib": growth(["--child", name, str(2**34)]),
        }
    return {**found, "parts_to_whole": found["in_parts_mib"] / found["as_a_whole_mib"]}


def main(argv: list[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "BYTES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        child(Path(arguments.child[0]), int(arguments.child[1]))
        return
    device, threads, quick = arguments.device, arguments.threads, arguments.quick
    rounds = 1 if quick else arguments.rounds
    torch.set_num_threads(threads)
    say(harness.describe_machine(threads))
    ceilings = limits(device, threads, quick=quick)
    base = make_model(standard_spec(True), "cpu") if quick else load_model("em-boundaries", "cpu")
    image = texture((4, 256, 256) if quick else (8, 512, 512))
    pair = Pair(open_stack(image, axes="zyx"), open_stack((image > 128).astype(np.uint8), axes="zyx"))
    patch, batch, steps = (32, 4, 2) if quick else (96, 8, 8)
    options = TrainOptions(batch=batch, patch=patch, steps=steps, device=device)
    flops = 3.0 * network_flops(base.spec, (patch, patch)) * batch * steps
    kinds = {
        "all": options,
        "all, bf16": replace(options, precision="bf16"),
        "decoder": replace(options, trainable="decoder"),
        "heads": replace(options, trainable="heads"),
    }
    cases = []
    for name, chosen in kinds.items():
        plan = make_plan(base, [pair], chosen)
        work = batch * steps * patch**2
        counted = flops if chosen.trainable == "all" else None
        precision = "bf16" if chosen.precision == "bf16" else "fp32"
        ready = list(batches(plan, batch, 0, steps))
        cases.append(Case(name, steps_of(plan, None, steps), work, counted, precision))
        cases.append(Case(f"{name}, patches ready", steps_of(plan, ready, steps), work, counted, precision))
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else None
    samples = harness.interleave(cases, rounds, synchronize)
    found = {}
    for case in cases:
        entry = harness.summary(case, samples[case.name], threads, ceilings)
        entry["times_as_fast_as_all"] = harness.ratios(samples["all"], samples[case.name])
        if (ready_name := f"{case.name}, patches ready") in samples:
            slower = harness.ratios(samples[ready_name], samples[case.name])
            entry["busy"] = slower
        found[case.name] = entry
    memory = measure_memory(quick) if CLEAR.exists() else None
    rows = [
        (
            name,
            e["seconds"]["median"] / steps,
            e["times_as_fast_as_all"]["median"],
            e.get("busy", {}).get("cpu_median"),
            e["share_of_cores"],
            e.get("share_of_ceiling"),
        )
        for name, e in found.items()
    ]
    say("\n" + harness.table(rows, ("case", "s/step", "x all", "busy (cpu)", "cores", "ceiling")))
    if memory is None:
        say(f"\nmemory was not measured: there is no {CLEAR} on this system")
    else:
        say(
            f"\n{memory['data_mib']:.0f} MiB of images and labels on disk: {memory['in_parts_mib']:.0f} MiB with "
            f"{memory['allowed_mib']:.0f} allowed, {memory['as_a_whole_mib']:.0f} as a whole"
        )
    payload = {
        "device": device,
        "threads": threads,
        "rounds": rounds,
        "steps": steps,
        "batch": batch,
        "patch": patch,
        "network": base.spec.to_json(),
        "ceilings": ceilings,
        "cases": found,
        "memory": memory,
    }
    harness.write("training", payload, arguments, device)


if __name__ == "__main__":
    main()
