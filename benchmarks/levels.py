"""What the levels cost: L1, L2 and L3 against L4, in every tiling and precision of ours.

    python -m benchmarks.levels
    python -m benchmarks.levels --only 'exact-bf16' --size 1024x1024

*Theory* is the ratio of the operations that a pass needs, without any halo.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from benchmarks import _harness as harness
from benchmarks import ours
from benchmarks._harness import Case, say
from benchmarks.ceilings import limits
from benchmarks.networks import make_model, network_flops, standard_spec, texture

LEVELS = (4, 3, 2, 1)


def main(argv: list[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--size", help="YxX [512x512]")
    parser.add_argument("--only", default="", metavar="REGEX", help="modes whose name holds this, as exact-bf16")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args(argv)
    device, threads, quick = arguments.device, arguments.threads, arguments.quick
    rounds = 1 if quick else arguments.rounds
    torch.set_num_threads(threads)
    say(harness.describe_machine(threads))
    ceilings = limits(device, threads, quick=quick)
    model = make_model(standard_spec(quick), device)
    size = arguments.size or ("160x176" if quick else "512x512")
    image = texture(tuple(map(int, size.split("x"))))
    cases, refused = [], {}
    ready: dict[str, ours.Prepared] = {}
    for mode in ours.modes(device, short_levels=False):
        if not re.search(arguments.only, mode.name):
            continue
        if mode.precision not in ready:
            ready[mode.precision] = ours.prepared(model, mode.precision, image)
        backend = ready[mode.precision].backend
        if backend is None:
            refused[mode.name] = ready[mode.precision].reason
            say(f"left out: {mode.name}: {refused[mode.name]}")
            continue
        for level in LEVELS:
            wanted = ours.Mode(mode.tiling, mode.precision, level)
            run = ours.array_run(model, backend, image, wanted, threads)
            cases.append(Case(wanted.name, run, image.size, ours.profiled_flops(run), mode.precision))
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else None
    samples = harness.interleave(cases, rounds, synchronize)
    found = {}
    for case in cases:
        entry = harness.summary(case, samples[case.name], threads, ceilings)
        deepest, level = re.sub(r"-L\d$", "", case.name), int(case.name[-1]) if "-L" in case.name else LEVELS[0]
        entry["times_as_fast_as_l4"] = harness.ratios(samples[deepest], samples[case.name])
        entry["theory"] = network_flops(model.spec, image.shape) / network_flops(model.spec, image.shape, level)
        found[case.name] = entry
    payload: dict[str, Any] = {
        "device": device,
        "threads": threads,
        "rounds": rounds,
        "size": size,
        "ceilings": ceilings,
        "left_out": refused,
        "cases": found,
    }
    _print(found)
    harness.write("levels", payload, arguments, device)


def _print(cases: dict[str, dict[str, Any]]) -> None:
    rows = []
    for name, e in cases.items():
        ratio = e["times_as_fast_as_l4"]
        rows.append(
            (
                name,
                e["seconds"]["median"],
                e["kvoxels_per_second"],
                ratio["median"],
                f"{ratio['min']:.2f}-{ratio['max']:.2f}",
                e["theory"],
                e["share_of_cores"],
                e.get("share_of_ceiling"),
            )
        )
    say("\n" + harness.table(rows, ("case", "s", "kvox/s", "x L4", "range", "theory", "cores", "ceiling")))


if __name__ == "__main__":
    main()
