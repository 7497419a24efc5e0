"""What all benchmarks share: the machine in words, interleaved rounds, ratios, the JSON and the table.

Cases are timed A B C A B C ..., and a ratio is taken within a round, so that a machine which slows down for a
minute slows down both sides. *Share* is the part of the cores that a case got: processor seconds of this process over
wall seconds times threads. Below about 0.9 something else was running, or the case leaves cores idle.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ISA = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
ISA_ARM = ("asimd", "asimddp", "bf16", "i8mm", "sve")
PACKAGES = ("napari-unetpp", "torch", "numpy", "monai", "nnunetv2", "tiler", "openvino", "llvmlite")


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed run: seconds on the wall and of the processors, all threads together."""

    wall: float
    cpu: float


@dataclass(slots=True)
class Case:
    """Something to time, and what is known of it beforehand.

    `work` is how many voxels a run gives; `flops` what it computes; `precision` names the ceiling that it is under.
    """

    name: str
    run: Callable[[], Any]
    work: int = 0
    flops: float | None = None
    precision: str = "fp32"
    note: str = ""


def parser(doc: str | None, rounds: int = 5) -> argparse.ArgumentParser:
    """Arguments that every benchmark takes."""
    made = argparse.ArgumentParser(description=(doc or "").strip().splitlines()[0])
    made.add_argument("--quick", action="store_true", help="seconds instead of minutes: a tiny network and image")
    made.add_argument("--rounds", type=int, default=rounds, help=f"interleaved rounds [{rounds}]")
    made.add_argument("--threads", type=int, default=cores(), help="threads [all cores]")
    made.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="where the JSON goes")
    made.add_argument("--tag", default="", help="added to the name of the JSON")
    return made


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, instruction sets, memory, system and versions, for the JSON."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    found: dict[str, Any] = {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": cores(),
        "isa": [name for name in (*ISA, *ISA_ARM) if name in flags],
        "memory_gib": _memory_gib(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(),
    }
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        found["torch_cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        if device.startswith("cuda"):
            found["gpu"] = torch.cuda.get_device_name(device)
    return found


def versions() -> dict[str, str]:
    """Installed versions of what takes part."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def timed(run: Callable[[], Any], synchronize: Callable[[], None] | None = None) -> tuple[Sample, Any]:
    """One run and what it gave."""
    if synchronize:
        synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    if synchronize:
        synchronize()
    return Sample(time.perf_counter() - wall, time.process_time() - cpu), result


def interleave(
    cases: Sequence[Case], rounds: int, synchronize: Callable[[], None] | None = None, warm: bool = True
) -> dict[str, list[Sample]]:
    """Samples of every case, one a round; before that each runs once untimed (its first run compiles and packs)."""
    samples: dict[str, list[Sample]] = {case.name: [] for case in cases}
    for number in range(-1 if warm else 0, rounds):
        for case in cases:
            sample, _ = timed(case.run, synchronize)
            if number >= 0:
                samples[case.name].append(sample)
            say(f"  {'warm' if number < 0 else f'round {number + 1}/{rounds}'}  {case.name:34s} {sample.wall:8.3f} s")
    return samples


def summary(
    case: Case, samples: Sequence[Sample], threads: int, ceilings: Mapping[str, float | None]
) -> dict[str, Any]:
    """Median, range, share of the cores, speed, and share of the ceiling of the case's precision."""
    wall = [s.wall for s in samples]
    median = statistics.median(wall)
    entry: dict[str, Any] = {
        "seconds": {"median": median, "min": min(wall), "max": max(wall), "all": wall},
        "cpu_seconds": statistics.median(s.cpu for s in samples),
        "share_of_cores": statistics.median(s.cpu / (s.wall * threads) for s in samples),
        "precision": case.precision,
    }
    if case.work:
        entry["voxels"] = case.work
        entry["kvoxels_per_second"] = case.work / median / 1e3
    ceiling = ceilings.get(case.precision)
    if case.flops:
        entry["gflop"] = case.flops / 1e9
        entry["share_of_ceiling"] = case.flops / median / 1e9 / ceiling if ceiling else None
    if case.note:
        entry["note"] = case.note
    return entry


def ratios(base: Sequence[Sample], other: Sequence[Sample], scale: float = 1.0) -> dict[str, float]:
    """How many times as fast `other` is as `base`: median and range of the rounds, and by processor seconds."""
    wall = [scale * b.wall / o.wall for b, o in zip(base, other, strict=True)]
    cpu = [scale * b.cpu / o.cpu for b, o in zip(base, other, strict=True) if o.cpu > 0]
    return {
        "median": statistics.median(wall),
        "min": min(wall),
        "max": max(wall),
        "cpu_median": statistics.median(cpu) if cpu else float("nan"),
    }


def write(name: str, payload: Mapping[str, Any], arguments: argparse.Namespace, device: str = "cpu") -> Path:
    """The JSON file of a run, named by benchmark and machine; its folder is made."""
    about = machine(device)
    content = {
        "benchmark": name,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": command(name, sys.argv[1:]),
        "quick": bool(arguments.quick),
        "machine": about,
        **payload,
    }
    slug = "-".join(filter(None, [name, arguments.tag, "quick" if arguments.quick else "", machine_slug(about)]))
    arguments.out.mkdir(parents=True, exist_ok=True)
    path: Path = arguments.out / f"{slug}.json"
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")
    say(f"written: {path}")
    return path


def command(name: str, argv: Sequence[str]) -> str:
    """Command line that measures the same, without the folder that its file went to.

    >>> command("peers", ["--out", "/tmp/results", "--only", "a|b c", "--out=there"])
    "python -m benchmarks.peers --only 'a|b c'"
    """
    kept = [word for before, word in zip(["", *argv], argv, strict=False) if before != "--out"]
    return shlex.join(["python", "-m", f"benchmarks.{name}", *(w for w in kept if w.partition("=")[0] != "--out")])


def machine_slug(about: Mapping[str, Any]) -> str:
    """Short name of a machine: `intel-xeon-2-cores`."""
    text = str(about.get("gpu") or about["cpu"])
    text = re.sub(r"\((r|tm|c)\)|\b(processor|cpu)\b|@.*", "", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-") + f"-{about['cores']}-cores"


def table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """Columns as text; the first is left-aligned."""
    texts = [[_cell(v) for v in row] for row in (header, *rows)]
    widths = [max(len(row[k]) for row in texts) for k in range(len(header))]
    lines = [
        "  ".join(t.ljust(w) if k == 0 else t.rjust(w) for k, (t, w) in enumerate(zip(row, widths, strict=True)))
        for row in texts
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def say(text: str) -> None:
    """Print at once, so that a long run can be watched."""
    print(text, flush=True)


def describe_machine(threads: int) -> str:
    """One line about where this runs."""
    about = machine()
    isa = " ".join(about["isa"])
    return f"{about['cpu']}, {about['cores']} cores, {threads} threads, {about['memory_gib']} GiB, {isa}"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def _cpuinfo() -> dict[str, str]:
    """First processor of /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    pairs = (line.split(":", 1) for line in path.read_text().split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
