"""kill -9 while somebody paints in the window: what was painted is there, and one click opens it again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_unetpp.training.corrections import open_corrections
from tests.gui.mouse import LEFT

pytestmark = [pytest.mark.gui, pytest.mark.slow]

STROKES = 40


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_every_finished_stroke_outlives_the_window(viewer, tmp_path, qtbot):
    script = Path(__file__).with_name("paint_until_killed.py")
    painting = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    strokes = []
    for line in painting.stdout:
        strokes.append(tuple(map(int, line.split())))
        if len(strokes) == STROKES:
            painting.send_signal(signal.SIGKILL)
            break
    assert painting.wait(30) == -signal.SIGKILL
    viewer.add_image(np.random.default_rng(0).integers(0, 99, (3, 300, 300), np.uint8), name="cells")
    _, dock = viewer.window.add_plugin_dock_widget("napari-unetpp", "Correct")
    dock.form.folder.setText(str(tmp_path))
    qtbot.waitUntil(dock.open_button.isVisible, timeout=10_000)
    qtbot.mouseClick(dock.open_button, LEFT)
    qtbot.waitUntil(lambda: dock.opened is not None and dock.job is None, timeout=20_000)
    shown = np.asarray(dock.opened.layer.data[1])
    assert all(shown[y, x] == 1 and shown[y + 1, x + 1] == 1 for y, x in strokes)
    assert np.array_equal(open_corrections(dock.opened.corrections.path).labels[1], shown)
    # at most the strokes that came after the last line, and nothing else
    assert np.count_nonzero(shown) <= (STROKES + 60) * 14
    assert not any(np.asarray(dock.opened.layer.data[z]).any() for z in (0, 2))
