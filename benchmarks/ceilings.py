"""What this machine can do at most, what oneDNN reaches of it, and what the network asks for.

    python -m benchmarks.ceilings

Arithmetic by loops that touch registers alone (fp32, bf16, int8; one core and all), copying by large arrays, single
convolutions of the network through torch, and the operations of L1..L4 counted from the specification. What the
processor has no instruction for is null in the JSON, with the reason beside it.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import _harness as harness
from benchmarks import _loops
from benchmarks._harness import say
from benchmarks.networks import network_flops, standard_spec

# Input and output channels, then rows and columns: nodes X04, X12, X31 and X40 of a tile of 288.
LAYERS = ((192, 32, 288, 288), (256, 64, 144, 144), (768, 256, 36, 36), (512, 512, 18, 18))


def main(argv: list[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args(argv)
    threads, seconds = arguments.threads, 0.01 if arguments.quick else 0.3
    torch.set_num_threads(threads)
    say(harness.describe_machine(threads))
    payload: dict[str, Any] = {"threads": threads, "missing": []}
    payload["arithmetic"] = arithmetic(threads, seconds, payload["missing"])
    payload["copy_gb_per_second"] = copy_rate(threads, 2**24 if arguments.quick else 2**28)
    payload["convolutions"] = convolutions(payload["arithmetic"], threads, arguments.quick)
    payload["network"] = demands(payload["arithmetic"])
    if arguments.device.startswith("cuda"):
        payload["matmul"] = matmul_limits(arguments.device)
    harness.write("ceilings", payload, arguments, arguments.device)
    _print(payload)


def limits(device: str, threads: int, quick: bool = False) -> dict[str, float | None]:
    """Giga-operations a second by precision, measured now: registers on a CPU, large matrix products on CUDA."""
    if device.startswith("cuda"):
        return matmul_limits(device)
    return _loops.ceilings(threads, 0.01 if quick else 0.2)


def arithmetic(threads: int, seconds: float, missing: list[str]) -> dict[str, Any]:
    """Register-only ceilings by precision; what is None is explained in `missing`."""
    try:
        loops = _loops.loops()
    except ImportError:
        missing.append("arithmetic: llvmlite is not installed")
        return {}
    if "amx_bf16" in harness.machine()["isa"]:
        missing.append("this processor has AMX, whose tiles these loops do not use; its limits are higher")
    found = {}
    for name, loop in loops.items():
        found[name] = _loops.measure(name, loop, threads, seconds)
        if loop is None:
            missing.append(_loops.missing(name))
    return found


def copy_rate(threads: int, size: int) -> float:
    """GB/s read and written by all threads together, each copying an array of its own; the best of some."""
    pairs = [(np.ones(size // threads, np.uint8), np.zeros(size // threads, np.uint8)) for _ in range(threads)]

    def once() -> float:
        running = [threading.Thread(target=np.copyto, args=(target, source)) for source, target in pairs]
        began = time.perf_counter()
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return time.perf_counter() - began

    once()
    return 2 * size / min(once() for _ in range(7)) / 1e9


def convolutions(ceilings: dict[str, Any], threads: int, quick: bool) -> list[dict[str, Any]]:
    """Speed of single layers through torch (channels last, packed weights, ReLU) and their share of the ceiling."""
    found = []
    for channels, out, height, width in LAYERS[-1:] if quick else LAYERS:
        flops = 2.0 * 9 * channels * out * height * width
        entry: dict[str, Any] = {"layer": f"{channels} -> {out}, 3x3, {height} x {width}", "gflop": flops / 1e9}
        for name in ("fp32", "bf16", "int8"):
            run = _convolution(name, channels, out, height, width)
            if run is None or ceilings.get(name) is None:
                entry[name] = None
                continue
            rate = flops / _median_seconds(run, 3 if quick else 15) / 1e9
            entry[name] = {"rate": rate, "share_of_ceiling": rate / ceilings[name]["all_cores"]}
        found.append(entry)
    return found


def _convolution(name: str, channels: int, out: int, height: int, width: int) -> Callable[[], Any] | None:
    """A call of one layer; None where torch has no such operator."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, channels, height, width), generator=generator)
    weight = torch.randn((out, channels, 3, 3), generator=generator)
    bias, one = torch.zeros(out), [1, 1]
    if name != "int8":
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
        x = image.to(dtype).contiguous(memory_format=torch.channels_last)
        w, b = weight.to(dtype).contiguous(memory_format=torch.channels_last), bias.to(dtype)
        try:
            packed = torch.ops.mkldnn._reorder_convolution_weight(w, one, one, one, 1, list(x.shape))
            run = lambda: torch.ops.mkldnn._convolution_pointwise(x, packed, b, one, one, one, 1, "relu", [], "")  # noqa: E731
            run()
        except (AttributeError, RuntimeError, TypeError):
            return lambda: F.conv2d(x, w, b, padding=1).relu_()
        return run
    x = (image * 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)
    q = (weight * 30).clamp(-127, 127).to(torch.int8)
    scales, zeros = torch.full((out,), 0.01), torch.zeros(out, dtype=torch.int32)
    try:
        operators = torch.ops.onednn
        packed = operators.qconv_prepack(q, scales, 1.0, 0, one, one, one, 1, list(x.shape))
        run = lambda: operators.qconv_pointwise(  # noqa: E731 - a call to time
            x, 1.0, 0, packed, scales, zeros, bias, one, one, one, 1, 50.0, 0, torch.uint8, "relu", [], ""
        )
        run()
    except (AttributeError, RuntimeError, TypeError):
        return None
    return run


def demands(ceilings: dict[str, Any]) -> dict[str, Any]:
    """Operations of L1..L4 of the standard network, and how many voxels a second the ceilings allow."""
    spec = standard_spec()
    found: dict[str, Any] = {}
    for level in spec.heads:
        flops = network_flops(spec, (96, 96), level)
        entry: dict[str, Any] = {"gflop_per_96_patch": flops / 1e9, "kflop_per_voxel": flops / 96**2 / 1e3}
        limits = {name: m["all_cores"] * 1e6 / (flops / 96**2) for name, m in ceilings.items() if m}
        entry["limit_seamless_kvoxels_per_second"] = limits
        entry["limit_stride_48_kvoxels_per_second"] = {name: v / 4 for name, v in limits.items()}
        found[f"L{level}"] = entry
    return found


def matmul_limits(device: str, edge: int = 8192) -> dict[str, float | None]:
    """GFLOP/s of a large matrix product on a CUDA device by precision; fp32 as torch is set up (TF32 or not)."""
    found: dict[str, float | None] = {"int8": None}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        a, b = (torch.randn((edge, edge), device=device).to(dtype) for _ in range(2))

        def run(a: torch.Tensor = a, b: torch.Tensor = b) -> None:
            for _ in range(10):
                torch.mm(a, b)
            torch.cuda.synchronize()

        found[name] = 10 * 2 * edge**3 / _median_seconds(run, 5) / 1e9
    return found


def _median_seconds(run: Callable[[], Any], repeats: int) -> float:
    with torch.inference_mode():
        run()
        return statistics.median(harness.timed(run)[0].wall for _ in range(repeats))


def _print(payload: dict[str, Any]) -> None:
    rows = [
        (name, m["one_core"], m["all_cores"], m["unit"], m["instruction"])
        for name, m in payload["arithmetic"].items()
        if m
    ]
    say("\n" + harness.table(rows, ("ceiling", "1 core", f"{payload['threads']} cores", "unit", "instruction")))
    for line in payload["missing"]:
        say(line)
    say(f"copying: {payload['copy_gb_per_second']:.1f} GB/s\n")
    shown = [
        (c["layer"], *(f"{c[n]['rate']:.0f} ({c[n]['share_of_ceiling']:.0%})" if c[n] else "-" for n in _NAMES))
        for c in payload["convolutions"]
    ]
    say(harness.table(shown, ("oneDNN convolution", *_NAMES)) + "\n")
    demand = [
        (
            level,
            d["gflop_per_96_patch"],
            d["kflop_per_voxel"],
            *(d["limit_seamless_kvoxels_per_second"].get(n) for n in _NAMES),
        )
        for level, d in payload["network"].items()
    ]
    say(harness.table(demand, ("level", "GFLOP per 96^2", "kFLOP/voxel", *(f"{n} kvox/s" for n in _NAMES))))
    for name, value in payload.get("matmul", {}).items():
        say(f"matrix product {name}: {value / 1e3:.1f} TFLOP/s" if value else f"matrix product {name}: -")


_NAMES = ("fp32", "bf16", "int8")

if __name__ == "__main__":
    main()
