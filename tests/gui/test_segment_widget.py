"""The Segment dock in a real window: real buttons are pressed, real layers' pixels are read."""

import threading

import numpy as np
import pytest
from qtpy.QtCore import Qt
from superqt.utils._qthreading import WorkerBase

from napari_unetpp.inference.backends import Backend
from napari_unetpp.inference.int8 import weight_limit
from napari_unetpp.inference.labels import label_view
from napari_unetpp.inference.predict import predict_region
from napari_unetpp.inference.store import open_store

pytestmark = pytest.mark.gui

LEFT = Qt.MouseButton.LeftButton


def noise(rng, *shape):
    return rng.integers(0, 200, shape, np.uint8)


def press_run(dock, qtbot, state="done"):
    assert dock.run_button.isEnabled(), dock.run_button.toolTip()
    qtbot.mouseClick(dock.run_button, LEFT)
    assert dock.state == "running"
    qtbot.waitUntil(lambda: dock.state != "running", timeout=60_000)
    qtbot.waitUntil(lambda: dock.job is None, timeout=5_000)
    assert dock.state == state, dock.status.text()


@pytest.fixture
def slow(monkeypatch):
    """Makes every tile take a while, until its `hurry` is set; counts the tiles."""
    from napari_unetpp.inference import stages

    class Slow:
        tiles = 0
        seconds = 0.15

        def __init__(self):
            self.hurry = threading.Event()

    def wait(stack, box, read=stages.read_raw):
        state.tiles += 1
        state.hurry.wait(state.seconds)
        return read(stack, box)

    state = Slow()
    monkeypatch.setattr(stages, "read_raw", wait)
    yield state
    state.hurry.set()


def test_run_shows_what_the_network_says(viewer, open_dock, model, qtbot, rng):
    data = noise(rng, 40, 52)
    viewer.add_image(data, name="cells", axis_labels=("y", "x"), scale=(2, 3), translate=(5, 6))
    dock = open_dock()
    press_run(dock, qtbot)
    names = [layer.name for layer in viewer.layers]
    assert names == ["cells", "cells L1", "cells L2", "cells Ensemble"]
    heads = [head[0] for head in predict_region(data[None], model)]
    # 0.5 is no number that is stored, so compare where rounding cannot matter
    for name, probability in zip(names[1:], [*heads, np.mean(heads, axis=0)], strict=True):
        clear = np.abs(probability - 0.5) > 1 / 255
        expected = probability >= 0.5
        assert 0.1 < expected[clear].mean() < 0.9
        shown = np.asarray(viewer.layers[name].data)
        np.testing.assert_array_equal(shown[clear] == 1, expected[clear], err_msg=name)
        assert tuple(viewer.layers[name].scale) == (2, 3)
    assert viewer.layers["cells L1"].visible  # what the card recommends
    assert viewer.layers.selection.active.name == "cells"


def test_the_canvas_shows_the_level_of_the_slider(viewer, open_dock, model, predictions, qtbot, rng):
    viewer.add_image(np.zeros((48, 48), np.uint8) + noise(rng, 48, 48) // 8, name="dim")
    dock = open_dock()
    press_run(dock, qtbot)
    (folder,) = predictions.iterdir()
    # so that the pixels on the canvas can be counted: L1 says yes, L2 says no everywhere
    store = open_store(folder, "r+")
    store.probability(1)[...] = 255
    store.probability(2)[...] = 0
    dock.slider.slider.setValue(1)

    def coloured():
        picture = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
        return (np.ptp(picture, axis=-1) > 40).mean()

    qtbot.waitUntil(lambda: coloured() < 0.01, timeout=5000)
    dock.slider.slider.setValue(0)
    qtbot.waitUntil(lambda: coloured() > 0.3, timeout=5000)
    dock.show_labels.setChecked(False)
    qtbot.waitUntil(lambda: coloured() < 0.01, timeout=5000)


def test_slider_keys_and_script_agree(viewer, open_dock, qtbot, rng):
    dock = open_dock()
    assert not dock.slider.isEnabled()
    viewer.add_image(noise(rng, 32, 32), name="cells")
    press_run(dock, qtbot)
    dock.slider.slider.setFocus()
    for key, name in (
        (Qt.Key.Key_End, "Ensemble"),
        (Qt.Key.Key_Left, "L2"),
        (Qt.Key.Key_Home, "L1"),
    ):
        qtbot.keyClick(dock.slider.slider, key)
        assert [x.name for x in viewer.layers if x.visible] == ["cells", f"cells {name}"]
    dock.levels.comparison.level = 2
    assert dock.slider.slider.value() == 1
    # a key on the dock goes on to the viewer
    qtbot.keyClick(dock, Qt.Key.Key_1, Qt.KeyboardModifier.AltModifier)
    qtbot.waitUntil(lambda: dock.levels.comparison.level == 1, timeout=2000)
    assert dock.slider.slider.value() == 0


def test_only_the_current_slice(viewer, open_dock, model, qtbot, rng):
    data = noise(rng, 5, 32, 40)
    viewer.add_image(data, name="stack", axis_labels=("z", "y", "x"))
    viewer.dims.set_current_step(0, 3)
    dock = open_dock()
    dock.form.region.setCurrentIndex(1)
    press_run(dock, qtbot)
    assert "Done" in dock.status.text()
    labels = np.asarray(viewer.layers["stack L2"].data)
    assert labels[3].any()
    # neighbours that shared a pass may be there, the far ones are not
    assert not labels[0].any()
    dock.form.region.setCurrentIndex(0)
    press_run(dock, qtbot)
    assert len(viewer.layers) == 4, "the same store goes on below the same layers"
    labels = np.asarray(viewer.layers["stack L2"].data)
    assert all(plane.any() for plane in labels)
    press_run(dock, qtbot)
    assert "all was there already" in dock.status.text()


def test_cancel_keeps_what_is_done_and_run_goes_on(viewer, open_dock, predictions, slow, qtbot, rng):
    viewer.add_image(noise(rng, 12, 16, 64), name="stack", axis_labels=("z", "y", "x"))
    dock = open_dock()
    qtbot.mouseClick(dock.run_button, LEFT)
    assert not dock.run_button.isEnabled()
    assert not dock.form.isEnabled()
    # Tiles are predicted in fixed groups; once the second is being read, all of the first are safe.
    qtbot.waitUntil(lambda: slow.tiles > 4 and dock.bar.value() > 0, timeout=30_000)
    asked = slow.tiles
    qtbot.mouseClick(dock.cancel_button, LEFT)
    qtbot.waitUntil(lambda: dock.state == "cancelled", timeout=30_000)
    # Reading is some passes ahead of the network, and stops at once.
    assert slow.tiles - asked <= 16
    assert dock.run_button.isEnabled()
    assert dock.form.isEnabled()
    (folder,) = predictions.iterdir()
    done = open_store(folder).done_count
    assert 0 < done < 48
    assert f"Stopped after {done} of 48" in dock.status.text()
    before = slow.tiles
    slow.hurry.set()
    press_run(dock, qtbot)
    assert open_store(folder).complete
    assert slow.tiles - before < 48
    assert list(predictions.iterdir()) == [folder]


def test_layers_fill_in_while_it_runs(viewer, open_dock, slow, qtbot, rng):
    viewer.add_image(noise(rng, 12, 16, 64), name="stack", axis_labels=("z", "y", "x"))
    dock = open_dock()
    qtbot.mouseClick(dock.run_button, LEFT)
    qtbot.waitUntil(lambda: "stack L1" in viewer.layers, timeout=30_000)
    qtbot.waitUntil(lambda: dock.bar.value() > 0, timeout=10_000)
    qtbot.wait(400)
    assert dock.state == "running"
    shown = viewer.layers["stack L1"]
    assert any(shown.get_value((viewer.dims.point[0], y, x)) for y in range(16) for x in range(64))
    assert "left" in dock.bar.text()
    slow.hurry.set()
    qtbot.waitUntil(lambda: dock.state == "done", timeout=30_000)


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, OSError])
def test_an_error_of_the_worker_reaches_the_panel(viewer, open_dock, qtbot, rng, monkeypatch, kind, caplog):
    def broken(*_args, **_options):
        raise kind("the network caught fire\nand more that nobody wants to read")

    viewer.add_image(noise(rng, 32, 32), name="cells")
    dock = open_dock()
    with monkeypatch.context() as patch:
        patch.setattr(Backend, "run", broken)
        press_run(dock, qtbot, state="failed")
    assert dock.status.text().replace("\u200b", "") == "the network caught fire"
    assert "nobody wants to read" in caplog.text
    press_run(dock, qtbot)  # the dock is restored


def test_a_colour_image_under_a_model_of_gray_waits_for_a_channel(viewer, open_dock, qtbot, rng):
    viewer.add_image(noise(rng, 32, 32, 3), name="slide", rgb=True)
    dock = open_dock()
    assert dock.form.axes.text() == "yxc"
    assert not dock.run_button.isEnabled()
    assert "3 channels" in dock.status.text()
    dock.form.channel.setCurrentIndex(dock.form.channel.findData(2))
    press_run(dock, qtbot)


def test_run_is_disabled_with_a_reason(viewer, open_dock, qtbot, rng, tmp_path):
    dock = open_dock()
    assert not dock.run_button.isEnabled()
    assert "Open an image first" in dock.run_button.toolTip()
    layer = viewer.add_image(noise(rng, 4, 2, 32, 32), name="film")
    assert "Name the 4 axes" in dock.status.text()
    dock.form.axes.setFocus()
    qtbot.keyClicks(dock.form.axes, "tzy")
    assert "name 3" in dock.status.text()
    assert "name 3" in dock.form.axes_note.text()
    qtbot.keyClicks(dock.form.axes, "x")
    assert dock.run_button.isEnabled()
    assert dock.status.text() == "Ready."
    dock.form.folder.setText(str(tmp_path / "missing"))
    assert "no output folder" in dock.status.text()
    dock.form.folder.setText(str(tmp_path))
    assert dock.run_button.isEnabled()
    viewer.layers.remove(layer)
    assert not dock.run_button.isEnabled()


def test_a_chosen_folder_receives_the_predictions(viewer, open_dock, qtbot, rng, tmp_path):
    viewer.add_image(noise(rng, 32, 32), name="my cells #1")
    dock = open_dock()
    folder = tmp_path / "out"
    folder.mkdir()
    dock.form.folder.setText(str(folder))
    press_run(dock, qtbot)
    store = open_store(folder / "my-cells-1-tiny.ome.zarr")
    assert store.complete
    np.testing.assert_array_equal(np.asarray(label_view(store, 1)), np.asarray(viewer.layers["my cells #1 L1"].data))
    # another tiling is another run, and overwrites nothing
    dock.form.tiling.setCurrentIndex(1)
    assert dock.form.tiling.currentData() == "overlap"
    press_run(dock, qtbot)
    assert open_store(folder / "my-cells-1-tiny-2.ome.zarr").record["tiling"]["kind"] == "overlap"
    visible = [layer.name for layer in viewer.layers if layer.visible]
    assert visible == ["my cells #1", "my cells #1 L1 [1]"]


def test_fast_says_how_many_labels_stay_the_same(viewer, open_dock, qtbot, rng, tmp_path, monkeypatch):
    if not weight_limit():
        pytest.skip("no exact int8 convolution on this processor")
    viewer.add_image(noise(rng, 48, 48), name="image")
    dock = open_dock()
    dock.form.folder.setText(str(tmp_path))
    assert dock.form.speed.currentText() == "Exact"
    dock.form.speed.setCurrentIndex(1)
    monkeypatch.setattr("napari_unetpp.inference.fast.LEAST_AGREEMENT", 1.1)
    press_run(dock, qtbot)
    assert "Only int8 gives the labels of fp32 at L1 " in dock.status.text()
    assert "running in fp32" in dock.status.text()
    assert open_store(tmp_path / "image-tiny.ome.zarr").record["precision"] == "fp32"
    monkeypatch.setattr("napari_unetpp.inference.fast.LEAST_AGREEMENT", 0.0)
    press_run(dock, qtbot)
    assert "Int8 gives the labels of fp32 at L1 " in dock.status.text()
    store = open_store(tmp_path / "image-tiny-2.ome.zarr")
    assert store.record["precision"] == "int8"
    np.testing.assert_array_equal(np.asarray(label_view(store, 1)), np.asarray(viewer.layers["image L1 [1]"].data))


def test_levels_up_to(viewer, open_dock, qtbot, rng):
    viewer.add_image(noise(rng, 32, 32), name="cells")
    dock = open_dock()
    assert [dock.form.level.itemText(i) for i in range(2)] == ["L1 (recommended)", "L1 to L2"]
    dock.form.level.setCurrentIndex(0)
    press_run(dock, qtbot)
    assert [layer.name for layer in viewer.layers] == ["cells", "cells L1"]


def test_the_card_is_shown(open_dock):
    dock = open_dock()
    for word in ("2D", "cell", "L1", "White noise", "CC0"):
        assert word in dock.form.card.text()
    assert "Finds what chance wills." in dock.form.card.toolTip()
    devices = [dock.form.device.itemData(i) for i in range(dock.form.device.count())]
    assert devices[:2] == ["auto", "cpu"]


def test_a_damaged_model_is_named_and_blocks_run(home, viewer, open_dock, qtbot, rng):
    from napari_unetpp.model.zoo import user_folder

    (user_folder() / "a-broken.safetensors").write_bytes(b"no weights at all")
    viewer.add_image(noise(rng, 32, 32))
    dock = open_dock()
    dock.form.model.setCurrentIndex(dock.form.model.findText("a-broken"))
    assert not dock.run_button.isEnabled()
    assert "a-broken" in dock.status.text().replace("\u200b", "")
    dock.form.model.setCurrentIndex(dock.form.model.findText("tiny"))
    assert dock.run_button.isEnabled()


def test_closing_the_dock_ends_the_run(viewer, open_dock, slow, qtbot, rng):
    viewer.add_image(noise(rng, 12, 16, 64), name="stack", axis_labels=("z", "y", "x"))
    dock = open_dock()
    qtbot.mouseClick(dock.run_button, LEFT)
    qtbot.waitUntil(lambda: dock.bar.value() > 0, timeout=30_000)
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=5000)
    assert slow.tiles < 48
    # the layers are still there, and so are their keys
    press = {str(key): action for key, action in viewer.keymap.items()}
    press["Alt+2"](viewer)
    assert viewer.layers["stack L2"].visible


def test_closing_the_window_ends_the_run(make_napari_viewer, model, predictions, slow, qtbot, rng):
    window = make_napari_viewer(show=True)
    window.add_image(noise(rng, 12, 16, 64), name="stack", axis_labels=("z", "y", "x"))
    _, dock = window.window.add_plugin_dock_widget("napari-unetpp", "Segment")
    qtbot.waitUntil(dock.run_button.isEnabled, timeout=60_000)
    qtbot.mouseClick(dock.run_button, LEFT)
    qtbot.waitUntil(lambda: slow.tiles > 0, timeout=30_000)
    window.close()
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=5000)
    assert slow.tiles < 48


def test_opened_by_name_it_works_on_a_proxy_of_the_viewer(viewer, model, predictions, qtbot, rng):
    viewer.add_image(noise(rng, 3, 32, 40), name="stack", axis_labels=("z", "y", "x"))
    _, dock = viewer.window.add_plugin_dock_widget("napari-unetpp", "Segment")
    qtbot.waitUntil(dock.run_button.isEnabled, timeout=60_000)
    press_run(dock, qtbot)
    press_run(dock, qtbot)
    assert len(viewer.layers) == 4
    dock.slider.slider.setValue(1)
    assert [layer.name for layer in viewer.layers if layer.visible] == ["stack", "stack L2"]


def test_opened_again_it_takes_up_what_is_there(viewer, open_dock, qtbot, rng):
    viewer.add_image(noise(rng, 32, 32), name="cells")
    first = open_dock()
    press_run(first, qtbot)
    viewer.window.remove_dock_widget(first)
    second = open_dock()
    assert second is not first
    assert second.slider.isEnabled()
    second.slider.slider.setValue(2)
    assert viewer.layers["cells Ensemble"].visible


def test_two_docks_share_one_slider(viewer, open_dock, qtbot, rng):
    from napari_unetpp.gui.segment_widget import SegmentWidget

    viewer.add_image(noise(rng, 32, 32), name="cells")
    first = open_dock()
    press_run(first, qtbot)
    second = SegmentWidget(viewer)
    viewer.window.add_dock_widget(second, name="another")
    first.slider.slider.setValue(2)
    assert second.slider.slider.value() == 2
    second.show_labels.setChecked(False)
    assert not first.show_labels.isChecked()
    qtbot.waitUntil(second.run_button.isEnabled, timeout=30_000)


def test_two_docks_do_not_write_to_one_store(viewer, open_dock, predictions, slow, qtbot, rng):
    from napari_unetpp.gui.segment_widget import SegmentWidget

    viewer.add_image(noise(rng, 3, 16, 64), name="stack", axis_labels=("z", "y", "x"))
    first = open_dock()
    second = SegmentWidget(viewer)
    viewer.window.add_dock_widget(second, name="another")
    qtbot.waitUntil(second.run_button.isEnabled, timeout=30_000)
    slow.seconds = 30  # until told to hurry
    first.run()
    qtbot.waitUntil(lambda: "tiles" in first.status.text(), timeout=30_000)
    second.run()
    qtbot.waitUntil(lambda: "tiles" in second.status.text(), timeout=30_000)
    slow.hurry.set()
    qtbot.waitUntil(lambda: {first.state, second.state} == {"done"}, timeout=30_000)
    assert len(list(predictions.iterdir())) == 2


def test_removing_or_renaming_the_image_in_mid_run(viewer, open_dock, slow, qtbot, rng):
    image = viewer.add_image(noise(rng, 3, 16, 64), name="stack", axis_labels=("z", "y", "x"))
    dock = open_dock()
    qtbot.mouseClick(dock.run_button, LEFT)
    image.name = "renamed"
    assert dock.form.image.currentText() == "renamed"
    viewer.layers.remove(image)
    slow.hurry.set()
    qtbot.waitUntil(lambda: dock.state == "done", timeout=30_000)
    assert not dock.run_button.isEnabled()  # nothing to run on any more
    assert "renamed L1" in viewer.layers


def test_nothing_is_cut_at_320_pixels(viewer, open_dock, check_uncut, qtbot, rng):
    viewer.add_image(noise(rng, 32, 32), name="an image with a very long name indeed")
    dock = open_dock()
    press_run(dock, qtbot)
    assert dock.minimumWidth() <= 320
    assert dock.minimumSizeHint().width() <= 320
    dock.form.folder.setText("/no/such/folder/" + "long-name" * 12)
    qtbot.wait(200)
    check_uncut(dock)


def test_opening_needs_no_torch_in_the_thread_of_the_window():
    import subprocess
    import sys

    code = "import sys, napari_unetpp.gui.segment_widget, napari_unetpp.gui.launch\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
