"""Most memory above the loaded model, each case in a process of its own.

    python -m benchmarks.memory                    a slice of 1024x1024 in every mode, stacks of 64 and 512 slices
    python -m benchmarks.memory --only 'slice'

The child imports everything, loads the model and the libraries of its case, resets the kernel's high-water mark of resident memory
(5 to /proc/self/clear_refs), works, and reads the mark again (VmHWM). So the figure holds the result, the buffers, what
oneDNN compiles and the mapped pages of files. Linux only: elsewhere nothing is measured, and the JSON says so.

Stacks are TIFFs on disk of 1024x1024 slices and go to a store on disk. The stack of 512 slices is done to L1 by a
network of widths 4..64, for time's sake: what it shows is that memory does not grow with the number of slices.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import _harness as harness
from benchmarks._harness import say

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
PEERS = ("monai-constant-4", "monai-constant-16")


def main(argv: list[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose name holds this")
    parser.add_argument("--case", help="for the child: measure this case and print JSON")
    parser.add_argument("--stack", type=Path, help="for the child: TIFF of its case")
    parser.add_argument("--memory", type=float, metavar="MIB", help="bound given to our engine [its own]")
    arguments = parser.parse_args(argv)
    if arguments.case:
        print(json.dumps(_measure(arguments.case, arguments)))
        return
    payload: dict[str, Any] = {"threads": arguments.threads, "cases": {}}
    if not CLEAR.exists():
        payload["not_measured"] = f"no {CLEAR} on this system: resident peaks are read on Linux only"
        say(payload["not_measured"])
    else:
        payload["cases"] = _all_cases(arguments)
        rows = [
            (n, e.get("peak_mib"), e.get("base_mib"), e.get("seconds"), e.get("error"))
            for n, e in payload["cases"].items()
        ]
        say("\n" + harness.table(rows, ("case", "MiB above", "MiB before", "s", "")))
    harness.write("memory", payload, arguments)


def _all_cases(arguments: Any) -> dict[str, dict[str, Any]]:
    from benchmarks import ours

    edge = 160 if arguments.quick else 1024
    slices = {"stack-64": 3 if arguments.quick else 64, "stack-512": 6 if arguments.quick else 512}
    modes = [mode.name for mode in ours.modes()]
    names = [f"slice {mode}" for mode in modes] + [f"slice {peer}" for peer in PEERS]
    names += [f"stack-64 {mode.name}" for mode in ours.modes(short_levels=False)]
    names += [f"stack-512 {tiling}-{precision}-L1" for tiling in ours.TIMED for precision in ours.CPU_PRECISIONS]
    names = [name for name in names if re.search(arguments.only, name)]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        tiffs: dict[str, Path] = {}
        for name in names:
            kind = name.split()[0]
            if kind in slices and kind not in tiffs:
                from benchmarks.networks import write_tiff

                tiffs[kind] = write_tiff(Path(folder) / f"{kind}.tif", (slices[kind], edge, edge))
            found[name] = _child(name, tiffs.get(kind), arguments)
            shown = found[name].get("error") or f"{found[name]['peak_mib']:.0f} MiB above {found[name]['base_mib']:.0f}"
            say(f"  {name:34s} {shown}")
    return found


def _child(name: str, tiff: Path | None, arguments: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.memory", "--case", name, "--threads", str(arguments.threads)]
    command += ["--quick"] * arguments.quick + (["--stack", str(tiff)] if tiff else [])
    command += ["--memory", str(arguments.memory)] if arguments.memory else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _measure(name: str, arguments: Any) -> dict[str, Any]:
    """In the child: peak above the base in MiB of one case."""
    import torch

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        run = _prepared(name, arguments, Path(folder))
        gc.collect()
        give_back_free_memory()
        base = status_kib("VmRSS")
        CLEAR.write_text("5")
        sample, _ = harness.timed(run)
        peak = status_kib("VmHWM")
    return {
        "peak_mib": (peak - base) / 1024,
        "base_mib": base / 1024,
        "seconds": sample.wall,
        **_about(name, arguments),
    }


def _prepared(name: str, arguments: Any, folder: Path) -> Callable[[], Any]:
    """What is measured, with the model loaded and everything imported, but nothing run yet."""
    from benchmarks import others, ours
    from benchmarks.networks import Heads, make_model, standard_spec, texture
    from napari_unetpp.model.checkpoint import load_model, save_model

    kind, mode_name = name.split()
    small = arguments.quick or kind == "stack-512"
    # Saved and loaded, so that nothing of its making is left.
    path = save_model(make_model(standard_spec(small)), folder / "model.safetensors")
    model = load_model(path, "cpu")
    if mode_name in PEERS:
        runner = others.peers(Heads(model.network).eval(), "cpu")[0].get(mode_name)
        if runner is None:
            raise SystemExit(f"{mode_name.split('-')[0]} is not installed")
        return others.over_slices(runner, texture((160, 160) if arguments.quick else (1024, 1024)), 1)
    tiling, precision, *rest = mode_name.split("-")
    mode = ours.Mode(tiling, precision, int(rest[0][1:]) if rest else 4)
    image = texture((160, 160) if arguments.quick else (1024, 1024))
    # Made ready before the mark is reset: a loaded model is one that can run.
    ready = ours.prepared(model, precision, image)
    if ready.backend is None:
        raise SystemExit(ready.reason)
    bound = None if arguments.memory is None else int(arguments.memory * 2**20)
    if kind == "slice":
        return ours.array_run(model, ready.backend, image, mode, arguments.threads, bound)
    del image
    return ours.disk_run(model, ready.backend, arguments.stack, folder, mode, arguments.threads, bound)


def _about(name: str, arguments: Any) -> dict[str, Any]:
    network = "widths 4..64" if arguments.quick or name.startswith("stack-512") else "widths 32..512"
    return {"network": network, "memory_bound_mib": arguments.memory}


def status_kib(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{STATUS} names no {key}")
    return int(found[1])


def give_back_free_memory() -> None:
    """Free memory that the allocator kept would hide as much of the peak."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except OSError:
        return


if __name__ == "__main__":
    main()
