"""Ours against MONAI, nnU-Net, tiler and a naive loop: same network, same image, same windows.

    python -m benchmarks.peers                     512x512, array to array
    python -m benchmarks.peers --full              512x512, 1024x1024 and 64x1024x1024, from arrays and from TIFF
    python -m benchmarks.peers --size 1024x1024 --kind both --only 'monai-constant-4|fast|exact'
    python -m benchmarks.peers --device cuda

Ratios are how many times as fast as MONAI's sliding_window_inference (constant, 4 windows a batch, fp32), which is
the baseline of every table. *Share of the ceiling* is what the convolutions computed, halos and overlaps
included, over the time and the processor's arithmetic limit at that precision, measured in the same run.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import _harness as harness
from benchmarks import others, ours
from benchmarks._harness import Case, say
from benchmarks.ceilings import limits
from benchmarks.networks import Heads, make_model, standard_spec, texture, write_tiff

SIZES = ("512x512", "1024x1024", "64x1024x1024")
QUICK_SIZE = "160x176"


def main(argv: list[str] | None = None) -> None:
    arguments = _arguments(argv)
    device, threads = arguments.device, arguments.threads
    torch.set_num_threads(threads)
    say(harness.describe_machine(threads))
    ceilings = limits(device, threads, quick=arguments.quick)
    say("ceilings, GFLOP/s or GOP/s: " + ", ".join(f"{k} {v:.0f}" for k, v in ceilings.items() if v))
    model = make_model(standard_spec(arguments.quick), device)
    heads = Heads(model.network).eval()
    runners, absent = others.peers(heads, device)
    for name, reason in absent.items():
        say(f"left out: {name}: {reason}")
    payload: dict[str, Any] = {
        "device": device,
        "threads": threads,
        "rounds": arguments.rounds,
        "network": model.spec.to_json(),
        "windows": {"patch": others.PATCH, "stride": others.STRIDE},
        "ceilings": ceilings,
        "absent_peers": absent,
        "sizes": {},
    }
    for size in arguments.size:
        payload["sizes"][size] = _one_size(size, model, heads, dict(runners), ceilings, arguments)
    harness.write("peers", payload, arguments, device)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.parser(__doc__)
    parser.add_argument("--size", action="append", help="YxX or ZxYxX; may be repeated [512x512]")
    parser.add_argument("--full", action="store_true", help="all three sizes, from arrays and from files")
    parser.add_argument(
        "--kind", choices=("array", "disk", "both"), help="array to array, TIFF to labels on disk [array]"
    )
    parser.add_argument("--slices", type=int, default=1, help="slices of a stack that the peers do [1]; ours do all")
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="cases whose name holds this; the baseline always runs"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--no-tune", action="store_true", help="do not look for MONAI's own best window")
    arguments = parser.parse_args(argv)
    arguments.kind = arguments.kind or ("both" if arguments.full else "array")
    if arguments.quick:
        arguments.rounds = 1
    arguments.size = arguments.size or (
        [QUICK_SIZE] if arguments.quick else list(SIZES if arguments.full else SIZES[:1])
    )
    return arguments


def _one_size(
    size: str,
    model: Any,
    heads: Heads,
    runners: dict[str, others.Runner],
    ceilings: dict[str, float | None],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    shape = tuple(map(int, size.split("x")))
    image = texture(shape)
    slices = min(arguments.slices, shape[0]) if len(shape) == 3 else 1
    say(f"\n{size}, {arguments.kind}" + (f", peers do {slices} of {shape[0]} slices" if len(shape) == 3 else ""))
    result: dict[str, Any] = {"slices_of_peers": slices if len(shape) == 3 else None}
    if not arguments.no_tune and re.search(arguments.only, "monai-own-best"):
        tuned, runner = _tune(heads, arguments, image.reshape(-1, *shape[-2:])[0])
        if runner:
            result["monai_own_best"] = tuned
            runners["monai-own-best"] = runner
    baseline = others.BASELINE if others.BASELINE in runners else "naive-loop"
    wanted = {n: r for n, r in runners.items() if n == baseline or re.search(arguments.only, n)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiff = folder / "image.tif"
        if arguments.kind != "array":
            write_tiff(tiff, (shape[0] if len(shape) == 3 else 1, *shape[-2:]))
        cases, refused = _cases(model, heads, wanted, image, tiff, folder, slices, arguments)
        result["left_out"] = refused
        samples = harness.interleave(cases, arguments.rounds, _synchronize(arguments.device))
        # A limit is the best that was seen: another process may have been at work the first time.
        for precision, limit in limits(arguments.device, arguments.threads, arguments.quick).items():
            ceilings[precision] = max(limit, ceilings.get(precision) or limit) if limit else None
        if arguments.kind != "array":
            result["split"] = _splits(cases, arguments)
    result["baseline"] = baseline
    result["cases"] = _results(cases, samples, baseline, ceilings, arguments)
    if arguments.kind != "disk" and len(shape) == 2:
        result["deviation"] = _deviations(cases, baseline)
    _print(result["cases"])
    return result


def _cases(
    model: Any,
    heads: Heads,
    runners: dict[str, others.Runner],
    image: np.ndarray,
    tiff: Path,
    folder: Path,
    slices: int,
    arguments: argparse.Namespace,
) -> tuple[list[Case], dict[str, str]]:
    """What is timed, peers first, and why something is not."""
    array, disk = arguments.kind != "disk", arguments.kind != "array"
    plane = image.shape[-2] * image.shape[-1]
    first = image.reshape(-1, *image.shape[-2:])[0]
    cases, refused = [], {}
    for name, runner in runners.items():
        once = others.over_slices(runner, first, 1)
        flops = heads.counted_flops(once) * slices
        precision = "fp16" if name == "nnunet" and arguments.device != "cpu" else "fp32"
        if array:
            cases.append(Case(name, others.over_slices(runner, image, slices), plane * slices, flops, precision))
        if disk:
            run = others.from_tiff(runner, tiff, folder, name, slices)
            cases.append(Case(f"{name} disk", run, plane * slices, flops, precision))
    ready = {p: ours.prepared(model, p, first) for p in {m.precision for m in _modes(arguments)}}
    for mode in _modes(arguments):
        backend = ready[mode.precision].backend
        if backend is None:
            refused[mode.name] = ready[mode.precision].reason
            say(f"left out: {mode.name}: {refused[mode.name]}")
            continue
        flops = ours.profiled_flops(ours.array_run(model, backend, first, mode, arguments.threads)) * (
            image.size // plane
        )
        note = f"made ready in {ready[mode.precision].seconds:.3f} s before"
        if array:
            run = ours.array_run(model, backend, image, mode, arguments.threads)
            cases.append(Case(mode.name, run, image.size, flops, mode.precision, note))
        if disk:
            run = ours.disk_run(model, backend, tiff, folder, mode, arguments.threads)
            cases.append(Case(f"{mode.name} disk", run, image.size, flops, mode.precision, note))
    return cases, refused


def _modes(arguments: argparse.Namespace) -> list[ours.Mode]:
    return [mode for mode in ours.modes(arguments.device) if re.search(arguments.only, mode.name)]


def _results(
    cases: list[Case],
    samples: dict[str, list[harness.Sample]],
    baseline: str,
    ceilings: dict[str, float | None],
    arguments: argparse.Namespace,
) -> dict[str, dict[str, Any]]:
    work = {case.name: case.work for case in cases}
    found = {}
    for case in cases:
        entry = harness.summary(case, samples[case.name], arguments.threads, ceilings)
        plain, on_disk = case.name.removesuffix(" disk"), case.name.endswith(" disk")
        base = f"{baseline} disk" if on_disk else baseline
        # Per voxel, since the peers may do fewer slices.
        entry["ratio"] = harness.ratios(samples[base], samples[case.name], case.work / work[base])
        if on_disk and plain in samples:
            entry["speed_over_array"] = harness.ratios(samples[plain], samples[case.name])
        found[case.name] = entry
    return found


def _tune(
    heads: Heads, arguments: argparse.Namespace, image: np.ndarray
) -> tuple[dict[str, Any], others.Runner | None]:
    """MONAI's fastest window and batch on one slice, each by the best of two runs, those near the best by four."""
    candidates = others.monai_candidates(heads, arguments.device, min(image.shape))
    synchronize = _synchronize(arguments.device)
    seconds: dict[str, float] = {}
    for name, runner in candidates.items():
        run = others.over_slices(runner, image, 1)
        seconds[name] = min(harness.timed(run, synchronize)[0].wall for _ in range(2))
        if seconds[name] < 1.5 * min(seconds.values()):
            again = min(harness.timed(run, synchronize)[0].wall for _ in range(2))
            seconds[name] = min(seconds[name], again)
        say(f"  monai, overlap 0.25, {name:22s} {image.size / seconds[name] / 1e3:8.1f} kvoxels/s")
    if not seconds:
        return {}, None
    best = min(seconds, key=lambda name: seconds[name])
    speeds = {name: image.size / s / 1e3 for name, s in seconds.items()}
    return {"overlap": 0.25, "best": best, "kvoxels_per_second": speeds}, candidates[best]


def _deviations(cases: list[Case], baseline: str) -> dict[str, dict[str, float]]:
    """Last head of every L4 case against the baseline's: proof that the same thing was computed, or how far from it.

    Cases with other windows or weights differ where the images of their windows end.
    """
    reference = next(case for case in cases if case.name == baseline).run()[-1]
    found = {}
    for case in cases:
        if case.name.endswith((" disk", "-L1", "-L2", "-L3")):
            continue
        output = case.run()
        last = output[max(output)][0] if isinstance(output, dict) else output[-1]
        difference = np.abs(last - reference)
        agreement = float(((last >= 0.5) == (reference >= 0.5)).mean())
        found[case.name] = {"max": float(difference.max()), "mean": float(difference.mean()), "agreement": agreement}
    return found


def _splits(cases: list[Case], arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Where the time of our runs from disk to disk goes, each of them run once more."""
    names = {f"{mode.name} disk" for mode in _modes(arguments)}
    found = {}
    for case in cases:
        if case.name in names:
            with ours.split_times(arguments.device) as spent:
                sample, _ = harness.timed(case.run, _synchronize(arguments.device))
            found[case.name] = {"wall": sample.wall, "cpu": sample.cpu, **spent}
    return found


def _print(cases: dict[str, dict[str, Any]]) -> None:
    rows = [
        (
            name,
            e["seconds"]["median"],
            f"{e['seconds']['min']:.3g}-{e['seconds']['max']:.3g}",
            e["kvoxels_per_second"],
            e["ratio"]["median"],
            f"{e['ratio']['min']:.2f}-{e['ratio']['max']:.2f}",
            e["ratio"]["cpu_median"],
            e["share_of_cores"],
            e.get("share_of_ceiling"),
        )
        for name, e in cases.items()
    ]
    header = ("case", "s", "range", "kvox/s", "x MONAI", "range", "by cpu", "cores", "ceiling")
    say("\n" + harness.table(rows, header))


def _synchronize(device: str) -> Callable[[], None] | None:
    return torch.cuda.synchronize if device.startswith("cuda") else None


if __name__ == "__main__":
    main()
