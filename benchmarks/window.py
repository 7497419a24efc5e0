"""How the window behaves: switching levels, the live preview, stalls while something runs, Stop.

    xvfb-run -a -s "-screen 0 1400x900x24" python -m benchmarks.window

The real window with the real dock, driven by its slider and its buttons. Everything is milliseconds:

- switch: from moving the slider to the finished frame, between computed levels of a stack of 64 x 1024 x 1024
- preview: from the slider, or from scrolling, to the frame that shows L1 of a view of 512 x 512 on a slice that
  nobody has computed, and to the frame that shows L4, with the network of the paper (widths 32..512)
- stall: how much later than due a timer of 10 ms comes, while a run goes on, while previews are computed while
  somebody scrolls, and while nothing happens
- stop: from pressing Stop to the dock being idle

A frame is finished when OpenGL says so (glFinish); under Xvfb that is software.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _harness as harness
from benchmarks._harness import say

SHAPE = (64, 1024, 1024)
TICK_MS = 10
MODEL = "standard"


def main(argv: list[str] | None = None) -> None:
    arguments = harness.parser(__doc__, rounds=20).parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        # The user's own settings and models have no part in this.
        os.environ.update(NAPARI_CONFIG=str(home / "napari.yaml"), NAPARI_UNETPP_HOME=str(home))
        bench = Window(home, arguments)
        try:
            figures = bench.measure()
        finally:
            bench.close()
    rows = [(key, e["median"], e["p95"], e["max"], e["count"]) for key, e in figures.items()]
    say("\nmilliseconds\n" + harness.table(rows, ("figure", "median", "95 %", "max", "of")))
    harness.write("window", {"threads": arguments.threads, "milliseconds": figures}, arguments)


class Window:
    """The window, the dock, and what is measured with them."""

    def __init__(self, home: Path, arguments: Any) -> None:
        import napari
        import torch

        from benchmarks.networks import make_model, standard_spec, texture
        from napari_unetpp.model.checkpoint import save_model
        from napari_unetpp.model.zoo import user_folder

        torch.set_num_threads(arguments.threads)
        self.home, self.quick = home, arguments.quick
        self.rounds = 3 if self.quick else arguments.rounds
        user_folder().mkdir(parents=True)
        save_model(make_model(standard_spec(self.quick)), user_folder() / f"{MODEL}.safetensors")
        self.viewer = napari.Viewer()
        self.viewer.window.resize(1400, 900)
        self.texture = texture
        depth, height, width = (8, 256, 256) if self.quick else SHAPE
        self.stack = np.stack([texture((height, width), seed) for seed in range(4)] * (depth // 4))
        # private, and the only way to know when a frame is done
        self.canvas = self.viewer.window._qt_viewer.canvas._scene_canvas

    def measure(self) -> dict[str, Any]:
        figures = {"switch": self.switches()}
        previews = self.previews()
        figures.update(previews)
        figures.update(self.stalls())
        return {name: _summary(values) for name, values in figures.items()}

    def close(self) -> None:
        self.viewer.close()

    # Switching

    def switches(self) -> list[float]:
        """Between all pairs of neighbouring levels and from end to end, on changing slices."""
        from napari_unetpp.gui.comparison import HeadComparison
        from napari_unetpp.gui.layers import add_levels

        store = self._filled_store()
        image = self.viewer.add_image(self.stack, name="stack", axis_labels=("z", "y", "x"), contrast_limits=(0, 255))
        comparison = HeadComparison.of_heads((1, 2, 3, 4))
        add_levels(self.viewer, image, "zyx", store, comparison)
        dock = self._dock(live=False)
        times = []
        places = [0, 1, 2, 3, 4, 0, 3, 1, 4, 2]
        for number in range(self.rounds):
            self.viewer.dims.set_current_step(0, number * 3 % len(self.stack))
            self._settle()
            for place in places:
                times.append(self._until_frame(lambda p=place: dock.slider.slider.setValue(p)))
                _live(30)
        self.viewer.layers.clear()
        return times[1:]  # the slider stood on the first place already, or not

    def _filled_store(self) -> Any:
        """A store with blobs at every level, as if a run had been over it."""
        from benchmarks.networks import standard_spec
        from napari_unetpp.inference.store import create_store
        from napari_unetpp.inference.tiles import plan_tiles
        from napari_unetpp.inference.tiling import Seamless

        tiles = plan_tiles(self.stack.shape, standard_spec(self.quick), Seamless())
        store = create_store(
            self.home / "filled.ome.zarr", self.stack.shape, (1, 2, 3, 4), axes="zyx", chunks=tiles.chunks,
            grid=tiles.grid, record={"model": MODEL, "tiling": tiles.describe()},
        )  # fmt: skip
        for tile in tiles:
            voxels = self.stack[tile.inner.slices]
            store.write(tile, {level: np.roll(voxels, 8 * level, axis=-1)[None] for level in store.levels})
            store.mark_done(tile)
        return store

    # The live preview

    def previews(self) -> dict[str, list[float]]:
        """L1 and L4 of new slices by scrolling, and L1 by the slider on a slice that shows nothing yet."""
        edge = 128 if self.quick else 512
        count = 2 * self.rounds + 2
        views = np.stack([np.roll(self.texture((edge, edge), 9), 17 * z, axis=0) for z in range(count)])
        self.viewer.add_image(views, name="views", axis_labels=("z", "y", "x"), contrast_limits=(0, 255))
        self.viewer.dims.set_current_step(0, 0)  # napari begins in the middle
        dock = self._dock(live=True)
        live = dock.level_box.live_view
        figures: dict[str, list[float]] = {"preview L1 by scrolling": [], "preview L4 by scrolling": []}
        dock.slider.slider.setValue(3)
        self.viewer.reset_view()
        _wait(lambda: live.reached == 4 and not live.computing)
        for z in range(1, self.rounds + 1):
            self._settle()
            marks = self._preview_marks(live, lambda z=z: self.viewer.dims.set_current_step(0, z), 4)
            figures["preview L1 by scrolling"].append(marks[1])
            figures["preview L4 by scrolling"].append(marks[4])
        figures["preview L1 by the slider"] = []
        for z in range(self.rounds + 1, count - 1):
            dock.level_box.live.setChecked(False)
            self.viewer.dims.set_current_step(0, z)
            self._settle()

            def switch_on() -> None:
                dock.level_box.live.setChecked(True)
                dock.slider.slider.setValue(0)

            figures["preview L1 by the slider"].append(self._preview_marks(live, switch_on, 1)[1])
            dock.slider.slider.setValue(3)
        self._drop_preview(dock)
        return figures

    def _preview_marks(self, live: Any, act: Callable[[], None], last: int) -> dict[int, float]:
        """Milliseconds from `act` to the frame in which each level is reached."""
        seen: list[int] = []
        marks: dict[int, float] = {}

        def note(_level: object) -> None:
            if live.reached is not None and live.reached not in seen:
                seen.append(live.reached)

        live.progressed.connect(note)
        began = time.perf_counter()
        act()
        while last not in marks:
            _live(1)
            if new := [level for level in seen if level not in marks]:
                self._finish_frame()
                marks.update(dict.fromkeys(new, (time.perf_counter() - began) * 1e3))
            if time.perf_counter() - began > 120:
                raise TimeoutError(f"no preview of L{last}, reached {live.reached}")
        live.progressed.disconnect(note)
        return marks

    def _drop_preview(self, dock: Any) -> None:
        dock.level_box.live.setChecked(False)
        self.viewer.layers.clear()

    # Stalls, and Stop

    def stalls(self) -> dict[str, list[float]]:
        figures = {}
        self.viewer.add_image(self.stack, name="stack", axis_labels=("z", "y", "x"), contrast_limits=(0, 255))
        dock = self._dock(live=False)
        dock.form.model.setCurrentText(MODEL)
        with self._ticks() as late:
            _live(2000)
        figures["stall while nothing happens"] = list(late)
        dock.run_button.click()
        _wait(lambda: dock.bar.maximum() > 0 and dock.bar.value() > 0)
        with self._ticks() as late:
            _live(2000 if self.quick else 15000)
        figures["stall while a run goes on"] = list(late)
        with self._ticks() as late:
            for z in range(10):
                self.viewer.dims.set_current_step(0, z)
                _live(150)
        figures["stall while a run goes on and somebody scrolls"] = list(late)
        figures["stop"] = []
        for _ in range(3 if self.quick else 5):
            began = time.perf_counter()
            dock.cancel_button.click()
            _wait(lambda: dock.job is None and dock.state in ("cancelled", "done"))
            figures["stop"].append((time.perf_counter() - began) * 1e3)
            if dock.state == "done":
                break
            dock.run_button.click()
            _wait(lambda: dock.bar.maximum() > 0 and dock.bar.value() > 0)
            _live(700)
        dock.cancel_button.click()
        _wait(lambda: dock.job is None)
        self.viewer.layers.clear()
        self.viewer.add_image(self.stack, name="stack", axis_labels=("z", "y", "x"), contrast_limits=(0, 255))
        dock.level_box.live.setChecked(True)
        self.viewer.dims.set_current_step(0, 1)
        with self._ticks() as late:
            for z in range(2, 6 if self.quick else 14):
                self.viewer.dims.set_current_step(0, z)
                _live(200 if self.quick else 700)
        figures["stall while previews are computed"] = list(late)
        return figures

    @contextmanager
    def _ticks(self) -> Iterator[list[float]]:
        """Milliseconds by which each tick of a timer came too late."""
        from qtpy.QtCore import Qt, QTimer

        late: list[float] = []
        last = time.perf_counter()

        def tick() -> None:
            nonlocal last
            now = time.perf_counter()
            late.append(max(0.0, (now - last) * 1e3 - TICK_MS))
            last = now

        timer = QTimer()
        timer.setTimerType(Qt.TimerType.PreciseTimer)
        timer.timeout.connect(tick)
        timer.start(TICK_MS)
        yield late
        timer.stop()

    # The window

    def _dock(self, *, live: bool) -> Any:
        """The Segment dock, opened by its command, ready to run."""
        from napari._app_model import get_app_model

        docks = [w for name, w in self.viewer.window.dock_widgets.items() if "Segment" in name]
        if not docks:
            get_app_model().commands.execute_command("napari-unetpp.segment").result()
            docks = [w for name, w in self.viewer.window.dock_widgets.items() if "Segment" in name]
        (dock,) = docks
        dock.level_box.live.setChecked(live)
        _wait(dock.run_button.isEnabled)
        dock.form.model.setCurrentText(MODEL)
        _live(500)
        return dock

    def _until_frame(self, act: Callable[[], None]) -> float:
        drawn: list[float] = []

        def on_draw(_event: object) -> None:
            drawn.append(time.perf_counter())

        self.canvas.events.draw.connect(on_draw, position="last")
        began = time.perf_counter()
        act()
        _wait(lambda: bool(drawn), 10)
        self._finish()
        ended = time.perf_counter()
        self.canvas.events.draw.disconnect(on_draw)
        return (ended - began) * 1e3

    def _finish_frame(self) -> None:
        """Draw what is due now."""
        self.canvas.update()
        _live(0)
        self._finish()

    def _finish(self) -> None:
        from vispy.gloo import gl

        self.canvas.set_current()
        gl.glFinish()

    def _settle(self) -> None:
        _live(250)


def _live(milliseconds: int) -> None:
    from qtpy.QtTest import QTest

    QTest.qWait(milliseconds)


def _wait(condition: Callable[[], bool], seconds: float = 300) -> None:
    from qtpy.QtWidgets import QApplication

    deadline = time.perf_counter() + seconds
    while not condition():
        QApplication.processEvents()
        if time.perf_counter() > deadline:
            raise TimeoutError(f"still not so after {seconds} s")


def _summary(values: list[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "p95": float(np.percentile(values, 95)),
        "max": max(values),
        "count": len(values),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # PyQt6 6.11 walks over all its objects at exit, and now and then over one that is gone
