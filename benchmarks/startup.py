"""How long one waits for the first picture: from the shell, and after the model is loaded.

    python -m benchmarks.startup

Every figure is the median of whole new processes: `napari-unetpp segment` on one image from shell to exit, importing
torch, loading a bundled model (after torch), and the first and the next L1 picture of the image with the model loaded.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import _harness as harness
from benchmarks._harness import say

MODEL = "em-boundaries"
CHILD = """
import json, sys, time
began = time.perf_counter()
import torch
torch_imported = time.perf_counter()
torch.set_num_threads({threads})
from napari_unetpp.inference.backends import prepare
from napari_unetpp.inference.predict import predict_region
from napari_unetpp.stacks import open_stack
from napari_unetpp.model.checkpoint import load_model
import tifffile
ours_imported = time.perf_counter()
model = load_model({model!r}, "cpu")
loaded = time.perf_counter()
image = tifffile.imread({image!r})[None]
made = time.perf_counter()
backend = prepare(model, {precision!r}, stack=open_stack(image[0], axes="yx"))
ready = time.perf_counter()
pictures = []
for _ in range(3):
    start = time.perf_counter()
    predict_region(image, model, 1, backend=backend)
    pictures.append(time.perf_counter() - start)
print(json.dumps({{"import_torch": torch_imported - began, "import_ours": ours_imported - torch_imported,
                  "load_model": loaded - ours_imported, "make_ready": ready - made,
                  "precision": backend.precision, "first_l1": pictures[0], "next_l1": pictures[-1]}}))
"""


def main(argv: list[str] | None = None) -> None:
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--precision", action="append", help="auto, fp32, bf16 or int8; may be repeated [all]")
    arguments = parser.parse_args(argv)
    rounds, edge = (1, 96) if arguments.quick else (arguments.rounds, 512)
    precisions = arguments.precision or (["auto"] if arguments.quick else ["auto", "fp32", "bf16", "int8"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = _image(folder, edge)
        figures: dict[str, list[float]] = {}
        failed: dict[str, str] = {}
        for number in range(rounds):
            say(f"  round {number + 1}/{rounds}")
            for precision in precisions:
                _add(figures, failed, f"segment {precision}", lambda p=precision: _segment(image, folder, p, arguments))
                _add(figures, failed, f"python {precision}", lambda p=precision: _python(image, p, arguments))
            _add(figures, failed, "napari-unetpp --help", lambda: {"": _wall([*_command(), "--help"], arguments)})
    cases = {
        name: {"median": statistics.median(v), "min": min(v), "max": max(v), "all": v} for name, v in figures.items()
    }
    rows = [(name, e["median"], f"{e['min']:.3g}-{e['max']:.3g}") for name, e in cases.items()]
    say(f"\nimage {edge} x {edge}, model {MODEL}, seconds\n" + harness.table(rows, ("figure", "median", "range")))
    for name, reason in failed.items():
        say(f"left out: {name}: {reason}")
    payload = {"threads": arguments.threads, "rounds": rounds, "image": [edge, edge], "model": MODEL}
    harness.write("startup", {**payload, "seconds": cases, "left_out": failed}, arguments)


def _add(figures: dict[str, list[float]], failed: dict[str, str], name: str, run: Any) -> None:
    if name in failed:
        return
    try:
        found = run()
    except subprocess.CalledProcessError as error:
        failed[name] = (error.stderr.strip().splitlines() or [f"exit {error.returncode}"])[-1]
        return
    except RuntimeError as error:
        failed[name] = str(error)
        return
    for part, seconds in found.items():
        figures.setdefault(f"{name} {part}".strip(), []).append(seconds)


def _segment(image: Path, folder: Path, precision: str, arguments: Any) -> dict[str, float]:
    """Shell to exit of a whole run, with everything that it writes."""
    out = folder / f"out-{precision}.ome.zarr"
    command = [*_command(), "segment", str(image), "-o", str(out), "--model", MODEL, "--precision", precision]
    return {"shell to exit": _wall([*command, "--overwrite"], arguments)}


def _python(image: Path, precision: str, arguments: Any) -> dict[str, float]:
    code = CHILD.format(threads=arguments.threads, model=MODEL, image=str(image), precision=precision)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment(arguments)
    )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    became = found.pop("precision")
    if precision not in ("auto", became):
        raise RuntimeError(f"became {became}")
    found["ready_and_first_l1"] = found["make_ready"] + found["first_l1"]
    return found


def _wall(command: list[str], arguments: Any) -> float:
    began = time.perf_counter()
    subprocess.run(command, capture_output=True, text=True, check=True, env=_environment(arguments))
    return time.perf_counter() - began


def _environment(arguments: Any) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}


def _command() -> list[str]:
    """The installed script, or the module where it is not beside this Python."""
    script = Path(sys.executable).with_name("napari-unetpp")
    return [str(script)] if script.exists() else [sys.executable, "-m", "napari_unetpp"]


def _image(folder: Path, edge: int) -> Path:
    import tifffile

    from benchmarks.networks import texture

    path = folder / "image.tif"
    tifffile.imwrite(path, texture((edge, edge)), metadata={"axes": "YX"})
    return path


if __name__ == "__main__":
    main()
