"""How long a TIFF of 20 GB takes to open in napari, what memory that costs, and how fast its slices come.

    xvfb-run -a -s "-screen 0 1400x900x24" python -m benchmarks.large_tiff

Each figure is the median of whole new processes with a window that is shown: a small image is opened and drawn first,
so that what napari loads once does not count. *Open* ends when the first slice is on the screen; a *step* is one move
of the z slider, until its picture is. Added memory is resident memory after all steps, less that before opening. Then
the Segment dock is opened with a bundled model: *live L1* is from one more step to L1 of what is on the screen; its
memory is in the JSON, with torch, the model and its maps.

    contiguous   one block of pixels, as tifffile and Fiji write them: a memory map
    pages        a directory a page, as microscopes write them: strips, read one page at a time
    pyramid      tiles of 512 with zlib, three resolutions: a multiscale layer

The first two are sparse files in which only the slices that are visited hold an image, and all files are in the
system's cache: what the disk adds is not in these figures. napari's own reader is not run, it would read all.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from benchmarks import _harness as harness
from benchmarks._harness import say
from benchmarks.networks import make_model, standard_spec, texture
from napari_unetpp.model.checkpoint import save_model

STEPS = 12  # the first is warm-up
CHILD = """
import json, os, sys, time
import napari, numpy as np, psutil
from qtpy.QtWidgets import QApplication
from vispy.gloo import gl

path, visited, model, before = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], psutil.Process()
viewer = napari.Viewer()
canvas = viewer.window._qt_viewer.canvas._scene_canvas  # what tells that a frame was drawn
frames = []

@canvas.events.draw.connect
def _(event):
    frames.append(event)

def picture(act):
    began, seen = time.perf_counter(), len(frames)
    act()
    while len(frames) == seen:
        QApplication.processEvents()
    gl.glFinish()
    return time.perf_counter() - began

picture(lambda: viewer.add_image(np.zeros((4, 64, 64), np.uint8), contrast_limits=(0, 255)))
picture(lambda: viewer.dims.set_current_step(0, 1))
viewer.layers.clear()
QApplication.processEvents()
memory = before.memory_info().rss
opened = picture(lambda: viewer.open(path, plugin="napari-unetpp"))
(layer,) = viewer.layers
at_once = before.memory_info().rss - memory
steps = [picture(lambda z=z: viewer.dims.set_current_step(0, z)) for z in visited]
assert layer._slice.image.raw.max() > 0, "the slice is empty"
added = before.memory_info().rss - memory

def until(so, seconds=180):
    deadline = time.perf_counter() + seconds
    while not so():
        QApplication.processEvents()
        time.sleep(0.001)  # the interpreter is free for the preview meanwhile, as in Qt's own loop
        if time.perf_counter() > deadline:
            raise TimeoutError("no live preview")

_, dock = viewer.window.add_plugin_dock_widget("napari-unetpp", "Segment")
live, reached = dock.level_box.live_view, {}
live.progressed.connect(lambda level: reached.setdefault(level, time.perf_counter()))
until(dock.run_button.isEnabled)
dock.form.model.setCurrentText(model)
if layer.multiscale:
    viewer.scene.camera.zoom *= 4  # about as many voxels on the screen as in the other files
until(lambda: live.reached is not None and not live.computing)
reached.clear()
began = time.perf_counter()
viewer.dims.set_current_step(0, visited[0])
until(lambda: 1 in reached)
first = reached[1] - began
until(lambda: live.reached is not None and not live.computing)
live_mib = (before.memory_info().rss - memory) / 2**20
print(json.dumps({"open": opened, "live_l1": first, "live_mib": live_mib,
                  "opened_mib": at_once / 2**20, "steps": steps[1:], "data": type(layer.data).__name__,
                  "added_mib": added / 2**20, "shape": layer.level_shapes[0].tolist()
                  if layer.multiscale else list(layer.data.shape)}), flush=True)
viewer.close()
os._exit(0)  # PyQt6 6.11 walks over all its objects at exit, and now and then over one that is gone
"""


def main(argv: list[str] | None = None) -> None:
    arguments = harness.parser(__doc__, rounds=5).parse_args(argv)
    rounds = 1 if arguments.quick else arguments.rounds
    payload: dict[str, Any] = {"rounds": rounds, "steps": STEPS - 1}
    window = _window()
    if window is None:
        say("not measured: there is no display, and no xvfb-run to make one")
        harness.write("large_tiff", {**payload, "not_measured": "no display"}, arguments)
        return
    makers: dict[str, Callable[[Path, bool], list[int]]] = {
        "contiguous": _contiguous,
        "pages": _pages,
        "pyramid": _pyramid,
    }
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        model, environment = "em-boundaries", dict(os.environ)
        if arguments.quick:
            model, environment["NAPARI_UNETPP_HOME"] = "quick", folder
            _save_quick(Path(folder))
        files = {}
        for name, make in makers.items():
            say(f"  writing {name}")
            path = Path(folder) / f"{name}.tif"
            files[name] = (path, make(path, arguments.quick))
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in files}
        for number in range(rounds):
            for name, (path, visited) in files.items():
                found[name].append(_open(window, path, visited, model, environment))
                say(f"  round {number + 1}/{rounds}  {name:12s} {found[name][-1]['open']:.2f} s")
        for name, (path, _) in files.items():
            cases[name] = {"gib": path.stat().st_size / 2**30, **_summary(found[name])}
    rows = [
        (
            n,
            c["gib"],
            c["open_seconds"]["median"],
            c["added_mib"]["median"],
            1e3 * c["step_seconds"]["median"],
            c["live_l1_seconds"]["median"],
            c["data"],
        )
        for n, c in cases.items()
    ]
    say("\n" + harness.table(rows, ("file", "GiB", "open s", "added MiB", "step ms", "live L1 s", "layer data")))
    harness.write("large_tiff", {**payload, "cases": cases}, arguments)


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    steps = [step for run in runs for step in run["steps"]]
    ranges = {
        "open_seconds": [run["open"] for run in runs],
        "opened_mib": [run["opened_mib"] for run in runs],
        "added_mib": [run["added_mib"] for run in runs],
        "step_seconds": steps,
        "live_l1_seconds": [run["live_l1"] for run in runs],
        "live_mib": [run["live_mib"] for run in runs],
    }
    summed = {n: {"median": statistics.median(v), "min": min(v), "max": max(v)} for n, v in ranges.items()}
    return {**summed, "shape": runs[0]["shape"], "data": runs[0]["data"]}


def _window() -> list[str] | None:
    """What to put before a command that needs a display."""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or not sys.platform.startswith("linux"):
        return []
    return ["xvfb-run", "-a", "-s", "-screen 0 1400x900x24"] if shutil.which("xvfb-run") else None


def _save_quick(home: Path) -> None:
    """A tiny model among those of the user whose folder that is."""
    (home / "models").mkdir()
    save_model(make_model(standard_spec(True)), home / "models" / "quick.safetensors")


def _open(window: list[str], path: Path, visited: list[int], model: str, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [*window, sys.executable, "-c", CHILD, str(path), json.dumps(visited), model],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with {done.returncode} and not a word"]
        raise SystemExit(f"{path.name}: {said[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _visited(depth: int) -> list[int]:
    """Slices all over the stack, each once, none in order."""
    return [int((k * 0.618034) % 1 * (depth - 1)) for k in range(1, STEPS + 1)]


def _measured(depth: int) -> list[int]:
    """Slices at which a model looks for the range of intensities."""
    return np.linspace(0, depth - 1, min(16, depth)).round().astype(int).tolist()


def _contiguous(path: Path, quick: bool) -> list[int]:
    shape = (64, 256, 256) if quick else (20480, 1024, 1024)
    stack = tifffile.memmap(path, shape=shape, dtype="u1", bigtiff=True, metadata={"axes": "ZYX"})
    visited = _visited(shape[0])
    for z in {*visited, shape[0] // 2, *_measured(shape[0])}:
        stack[z] = texture(shape[1:])
    stack.flush()
    return visited


def _pages(path: Path, quick: bool) -> list[int]:
    shape = (64, 256, 256) if quick else (20480, 1024, 1024)
    visited, plane = _visited(shape[0]), texture(shape[1:])
    drawn = {*visited, *_measured(shape[0])}
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for z in range(shape[0]):
            data = {"data": plane} if z in drawn else {"data": None, "shape": shape[1:], "dtype": "u1"}
            tif.write(**data, contiguous=False, metadata=None, photometric="minisblack")
    return visited


def _pyramid(path: Path, quick: bool) -> list[int]:
    shape = (8, 512, 512) if quick else (64, 4096, 4096)
    plane = texture(shape[1:])
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as tif:
        for level, step in enumerate((1, 2, 4)):
            small = plane[::step, ::step]
            extra: dict[str, Any] = {"subfiletype": 1} if level else {"subifds": 2, "metadata": {"axes": "ZYX"}}
            tif.write(
                (tile for _ in range(shape[0]) for tile in _tiles(small)),
                shape=(shape[0], *small.shape),
                dtype="u1",
                tile=(512, 512) if not quick else (64, 64),
                compression="zlib",
                photometric="minisblack",
                **extra,
            )
    return _visited(shape[0])


def _tiles(plane: np.ndarray) -> list[np.ndarray]:
    edge = 64 if plane.shape[0] <= 512 else 512
    return [
        np.ascontiguousarray(plane[y : y + edge, x : x + edge])
        for y in range(0, plane.shape[0], edge)
        for x in range(0, plane.shape[1], edge)
    ]


if __name__ == "__main__":
    main()
