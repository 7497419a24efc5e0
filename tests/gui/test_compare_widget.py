"""The Compare dock in a real window: real buttons are pressed, numbers are those of whole arrays."""

import csv
import errno
import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
import zarr
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog
from superqt.utils._qthreading import WorkerBase

from napari_unetpp.gui.compare_counting import Counting
from napari_unetpp.gui.compare_reference import reference_from_layer, touched_tiles
from napari_unetpp.gui.compare_rows import LevelRow, advise
from napari_unetpp.gui.comparison import HeadComparison
from napari_unetpp.gui.layers import add_levels
from napari_unetpp.gui.shared import shared
from napari_unetpp.inference.labels import label_view
from napari_unetpp.inference.store import create_store, open_store
from napari_unetpp.inference.tiles import Seamless, plan_tiles
from napari_unetpp.model.checkpoint import load_model, save_model
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus
from napari_unetpp.model.zoo import user_folder

pytestmark = pytest.mark.gui

LEFT = Qt.MouseButton.LeftButton
SPEC = NetworkSpec(widths=(4, 8, 16), heads=(1, 2))


class Prediction:
    """A store of smooth random probabilities that is filled tile by tile, and its layers."""

    def __init__(self, folder, model, rng, shape, classes=("cell",), levels=(1, 2), name="cells"):
        self.shape, self.name, self.rng = shape, name, rng
        self.axes = "tzyx"[-len(shape) :]
        self.tiles = plan_tiles(shape, SPEC, Seamless(inner=16, halo=8))
        self.path = folder / f"{name}.ome.zarr"
        record = {"tiling": self.tiles.describe(), "model": "tiny", "model_sha256": model.sha256 if model else ""}
        self.store = create_store(
            self.path,
            shape,
            levels,
            axes=self.axes,
            classes=classes,
            chunks=self.tiles.chunks,
            grid=self.tiles.grid,
            record=record,
        )

    def fill(self, numbers=None):
        """Write tiles and mark them, as another run would: through a store of its own."""
        store = open_store(self.path, "r+")
        for number in range(len(self.tiles)) if numbers is None else numbers:
            tile = self.tiles.tile(self.tiles.index(number))
            shape = (len(store.classes), *tile.inner.shape)
            store.write(tile, {level: self.rng.integers(0, 256, shape, np.uint8) for level in store.levels})
            store.mark_done(tile)
        return self

    def show(self, viewer, axes=None, shape=None):
        """Its image and its layers in the viewer."""
        image = viewer.add_image(np.zeros(shape or self.shape, np.uint8), name=self.name)
        comparison = HeadComparison.of_heads(self.store.levels)
        self.levels = add_levels(viewer, image, axes or self.axes, self.store, comparison)
        return self

    def mask(self, numbers):
        found = np.zeros(self.shape, bool)
        for number in numbers:
            found[self.tiles.tile(self.tiles.index(number)).inner.slices] = True
        return found

    def labels(self, threshold=0.5):
        store = open_store(self.path)
        return [np.asarray(label_view(store, level, threshold)) for level in (*store.levels, "ensemble")]


@pytest.fixture
def prediction(tmp_path, model, rng):
    """A plane of 40 x 52 in 3 x 4 tiles, of which none is done."""
    return Prediction(tmp_path, model, rng, (40, 52))


@pytest.fixture
def open_compare(viewer, qtbot):
    """Opens the dock like the Layers menu does."""
    from napari._app_model import get_app_model  # in tests only: what a click in the menu runs

    def opened():
        get_app_model().commands.execute_command("napari-unetpp.compare").result()
        (dock,) = [w for name, w in viewer.window.dock_widgets.items() if "Compare" in name]
        qtbot.waitUntil(dock.isVisible, timeout=10_000)
        return dock

    return opened


def settled(dock, qtbot, tiles):
    """Wait until so many tiles are in the table, and nothing is to be counted again."""

    def done():
        counting = dock.counting
        fresh = [t for t in (counting.agreement, counting.score) if t is not None]
        counted = bool(fresh) and all(int(t.counted.sum()) == tiles for t in fresh)
        return counted and (counting.score is not None) == (counting.layer is not None) and not dock._showing.isActive()

    qtbot.waitUntil(done, timeout=30_000)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def f2(pred, truth):
    missed, superfluous = (truth & ~pred).sum(), (pred & ~truth).sum()
    both = (pred & truth).sum()
    return 5 * both / (5 * both + 4 * missed + superfluous)


def column(dock, title):
    """Texts of a column of the table, as they are on the screen."""
    table = dock.table
    titles = [table.horizontalHeaderItem(i).text().replace("\n", " ") for i in range(table.columnCount())]
    place = titles.index(title)
    return None if table.isColumnHidden(place) else [table.item(i, place).text() for i in range(table.rowCount())]


def test_agreement_and_scores_are_those_of_whole_arrays(viewer, prediction, open_compare, qtbot, rng):
    prediction.fill().show(viewer)
    truth = rng.integers(0, 3, prediction.shape) * 7  # instances
    viewer.add_labels(truth, name="truth")
    dock = open_compare()
    settled(dock, qtbot, 12)
    labels = [label > 0 for label in prediction.labels()]
    assert column(dock, "Level") == ["L1", "L2 ✓", "Ensemble"]
    assert column(dock, "Dice with L2") == [f"{dice(label, labels[1]):.3f}" for label in labels]
    assert column(dock, "IoU") is None
    assert "L2 is advised" in dock.advice.text()
    dock.reference.setCurrentIndex(1)
    settled(dock, qtbot, 12)
    assert dock.reference.currentText() == "truth"
    for title, score in (("IoU", iou), ("Dice", dice), ("F2", f2)):
        assert column(dock, title) == [f"{score(label, truth > 0):.3f}" for label in labels]
    assert "whole prediction" in dock.counted.text()
    assert [layer.name for layer in viewer.layers if layer.visible] == ["cells", "cells L2", "truth"]


def test_numbers_follow_the_tiles_that_are_done(viewer, prediction, open_compare, qtbot, rng):
    prediction.fill([0, 1, 6]).show(viewer)
    truth = rng.integers(0, 2, prediction.shape, np.uint8)
    viewer.add_labels(truth, name="truth")
    dock = open_compare()
    dock.reference.setCurrentIndex(1)
    settled(dock, qtbot, 3)
    some = prediction.mask([0, 1, 6])
    labels = [label[some] > 0 for label in prediction.labels()]
    assert [row.agreement for row in dock.rows] == [dice(label, labels[1]) for label in labels]
    assert [row.iou for row in dock.rows] == [iou(label, truth[some] > 0) for label in labels]
    assert "3 of 12 tiles" in dock.counted.text()
    prediction.fill([2, 3, 4, 5, 7, 8, 9, 10, 11])  # a store that is not the one that the layers hold
    settled(dock, qtbot, 12)
    labels = [label > 0 for label in prediction.labels()]
    assert [row.agreement for row in dock.rows] == [dice(label, labels[1]) for label in labels]
    assert [row.iou for row in dock.rows] == [iou(label, truth > 0) for label in labels]


def test_a_turn_ends_after_a_while_and_goes_on_where_it_was(viewer, prediction, open_compare, qtbot, monkeypatch):
    monkeypatch.setattr("napari_unetpp.gui.compare_work.TURN_SECONDS", 0)
    prediction.fill().show(viewer)
    dock = open_compare()
    settled(dock, qtbot, 12)
    labels = [label > 0 for label in prediction.labels()]
    assert [row.agreement for row in dock.rows] == [dice(label, labels[1]) for label in labels]


def test_painting_undoing_and_replacing_the_reference(viewer, prediction, open_compare, qtbot, monkeypatch):
    prediction.fill().show(viewer)
    truth = np.zeros(prediction.shape, np.uint8)
    truth[:20] = 1
    layer = viewer.add_labels(truth, name="truth")
    outdated = []
    told = Counting._outdate
    monkeypatch.setattr(Counting, "_outdate", lambda self, numbers: (outdated.append(numbers), told(self, numbers))[1])
    dock = open_compare()
    dock.reference.setCurrentIndex(1)
    settled(dock, qtbot, 12)
    labels = [label > 0 for label in prediction.labels()]

    def scores():
        return [row.iou for row in dock.rows]

    before = scores()
    layer.brush_size = 5
    layer.paint((30, 10), 1)
    assert np.argwhere(truth[20:])[:, 0].min() + 20 > 16
    assert np.array_equal(outdated.pop(), [4, 8]), "the only two tiles that the brush touched"
    settled(dock, qtbot, 12)
    assert scores() == [iou(label, truth > 0) for label in labels] != before
    layer.undo()
    settled(dock, qtbot, 12)
    assert scores() == before
    layer.data = truth[::-1].copy()
    qtbot.waitUntil(lambda: scores() != before and dock.rows[0].iou is not None, timeout=10_000)
    settled(dock, qtbot, 12)
    assert scores() == [iou(label, truth[::-1] > 0) for label in labels]
    outdated.clear()
    layer.visible = False
    layer.visible = True
    layer.contour = 1
    assert outdated == [], "another look is no edit"


def test_what_is_not_annotated_does_not_count(viewer, prediction, open_compare, qtbot, rng):
    prediction.fill().show(viewer)
    painted = rng.integers(0, 3, prediction.shape, np.uint8)
    viewer.add_labels(painted, name="painted")
    dock = open_compare()
    assert not dock.unpainted.isEnabled()
    dock.reference.setCurrentIndex(1)
    assert dock.unpainted.isEnabled()
    dock.unpainted.setCurrentIndex(1)
    settled(dock, qtbot, 12)
    known = painted > 0
    labels = [label[known] > 0 for label in prediction.labels()]
    assert [row.iou for row in dock.rows] == [iou(label, painted[known] == 2) for label in labels]


def test_the_threshold_of_the_viewer_is_that_of_the_table(viewer, prediction, open_compare, qtbot):
    prediction.fill().show(viewer)
    dock = open_compare()
    settled(dock, qtbot, 12)
    prediction.levels.comparison.threshold = 0.8
    settled(dock, qtbot, 12)
    labels = [label > 0 for label in prediction.labels(0.8)]
    assert [row.agreement for row in dock.rows] == [dice(label, labels[1]) for label in labels]


def test_several_classes(viewer, tmp_path, model, open_compare, qtbot, rng):
    prediction = Prediction(tmp_path, model, rng, (2, 20, 30), classes=("background", "a", "b")).fill().show(viewer)
    truth = rng.integers(0, 3, prediction.shape)
    viewer.add_labels(truth, name="truth")
    dock = open_compare()
    dock.reference.setCurrentIndex(1)
    settled(dock, qtbot, 8)
    labels = prediction.labels()
    for row, label in zip(dock.rows, labels, strict=True):
        assert row.agreement == pytest.approx(np.mean([dice(label == k, labels[1] == k) for k in (1, 2)]))
        assert row.iou == pytest.approx(np.mean([iou(label == k, truth == k) for k in (1, 2)]))
    assert "classes 0 to 2" not in dock.advice.text()


def test_gray_values_in_the_reference_are_told(viewer, tmp_path, model, open_compare, qtbot, rng):
    prediction = Prediction(tmp_path, model, rng, (2, 20, 30), classes=("background", "a", "b")).fill().show(viewer)
    viewer.add_labels(np.array([0, 127, 255])[rng.integers(0, 3, prediction.shape)], name="gray")
    dock = open_compare()
    dock.reference.setCurrentIndex(1)
    settled(dock, qtbot, 8)
    said = "gray holds label 255, but the prediction has only the classes 0 to 2"
    qtbot.waitUntil(lambda: said in dock.advice.text(), timeout=10_000)


def test_costs_are_those_of_the_pruned_networks(viewer, prediction, model, open_compare, qtbot):
    from napari_unetpp.model.unetpp import prune

    prediction.fill().show(viewer)
    dock = open_compare()
    qtbot.waitUntil(lambda: dock.rows[0].parameters is not None, timeout=30_000)
    sizes = [sum(p.numel() for p in prune(model.network, level).parameters()) for level in (1, 2)]
    assert [row.parameters for row in dock.rows] == [*sizes, sizes[1]]
    assert 0 < dock.rows[0].gflops < dock.rows[1].gflops == dock.rows[2].gflops


def test_the_advised_level_is_used_by_a_button(viewer, prediction, open_compare, qtbot):
    prediction.fill()
    for level in (1, 2):  # now both say the same
        open_store(prediction.path, "r+").probability(level)[...] = 255
    prediction.show(viewer)
    dock = open_compare()
    settled(dock, qtbot, 12)
    assert column(dock, "Level") == ["L1 ✓", "L2", "Ensemble"]
    assert dock.advice.text().startswith("L1 is enough")
    assert dock.table.chosen() == 1
    qtbot.mouseClick(dock.use_button, LEFT)
    assert prediction.levels.comparison.level == 1
    assert viewer.layers["cells L1"].visible
    assert not dock.use_button.isEnabled()
    assert "on the screen" in dock.use_button.toolTip()
    prediction.levels.comparison.level = "ensemble"
    assert dock.use_button.isEnabled()
    dock.table.selectRow(2)
    assert not dock.use_button.isEnabled()
    dock.table.selectRow(1)
    qtbot.mouseClick(dock.use_button, LEFT)
    assert viewer.layers["cells L2"].visible


def test_advice():
    def rows(*scores, name="iou"):
        return [LevelRow(level, **{name: score}) for level, score in enumerate(scores, 1)] + [
            LevelRow("ensemble", **{name: 0.99})
        ]

    found = advise(rows(0.80, 0.896, 0.899, 0.9), against_reference=True)
    assert (found.level, "within 0.005 of the best (L4, 0.900)" in found.reason) == (2, True)
    found = advise(rows(0.8, 0.7), against_reference=True)
    assert (found.level, "the best of all" in found.reason) == (1, True)
    agreement = rows(0.9, 0.981, 0.99, 1.0, name="agreement")
    assert advise(agreement, against_reference=False).level == 2
    assert advise(agreement, against_reference=True).level is None
    assert advise([LevelRow(2, agreement=1.0)], against_reference=False).level is None


def test_save_pruned(viewer, prediction, model, open_compare, qtbot, monkeypatch, tmp_path):
    from napari_unetpp.inference.predict import predict_region
    from napari_unetpp.model.checkpoint import load_model

    prediction.fill().show(viewer)
    dock = open_compare()
    qtbot.waitUntil(lambda: dock.rows[0].parameters is not None, timeout=30_000)
    dock.table.selectRow(1)
    assert not dock.save_button.isEnabled()
    assert "nothing to prune" in dock.save_button.toolTip()
    dock.table.selectRow(0)
    asked, told = [], []
    target = tmp_path / "small"

    def answer(_parent, _title, proposed, *_):
        asked.append(proposed)
        return str(target), ""

    def on_models_changed():
        told.append(True)

    shared.models_changed.connect(on_models_changed)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", answer)
    qtbot.mouseClick(dock.save_button, LEFT)
    qtbot.waitUntil(lambda: "Saved tiny pruned to L1" in dock.status.text(), timeout=30_000)
    assert asked == [str(user_folder() / "tiny-L1.safetensors")]
    assert told == [True]
    small = load_model(tmp_path / "small.safetensors", "cpu")
    image = np.arange(40 * 40, dtype=np.float32).reshape(1, 40, 40) % 97
    np.testing.assert_array_equal(predict_region(image, small)[0], predict_region(image, model)[0])
    target = tmp_path / "nowhere" / "a.safetensors"
    qtbot.waitUntil(dock.save_button.isEnabled, timeout=10_000)
    qtbot.mouseClick(dock.save_button, LEFT)
    qtbot.waitUntil(lambda: "does not exist" in dock.status.text(), timeout=30_000)
    qtbot.waitUntil(dock.save_button.isEnabled, timeout=10_000)


def test_a_model_on_an_encoder(viewer, tmp_path, home, tiny_model, open_compare, qtbot, monkeypatch, rng):
    """Pruning cuts its encoder too; what the table counts is what the file then holds."""
    pytest.importorskip("timm")
    from napari_unetpp.model.backbones import encoder_spec

    spec = encoder_spec("resnet18", depth=2, decoder_widths=(4, 4))
    made = replace(tiny_model(), spec=spec, network=UNetPlusPlus(spec).eval())
    whole = load_model(save_model(made, user_folder() / "tiny.safetensors"), "cpu")
    Prediction(tmp_path, whole, rng, (40, 52)).fill().show(viewer)
    monkeypatch.setattr("napari_unetpp.gui.compare_speed._measured", {})
    monkeypatch.setattr("napari_unetpp.gui.compare_work.NOISE", {2: (64, 64)})
    dock = open_compare()
    qtbot.waitUntil(dock.measure_button.isEnabled, timeout=30_000)
    qtbot.mouseClick(dock.measure_button, LEFT)
    dock.table.selectRow(0)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "small.safetensors"), ""))
    qtbot.mouseClick(dock.save_button, LEFT)
    qtbot.waitUntil(lambda: dock.job is None and not dock.speed.measuring, timeout=60_000)
    small = load_model(tmp_path / "small.safetensors", "cpu")
    image = torch.rand(1, 1, 48, 40)
    with torch.no_grad():
        assert torch.equal(small.network(image)[-1], whole.network(image)[0])
    qtbot.waitUntil(lambda: not dock._showing.isActive(), timeout=10_000)
    sizes = [sum(p.numel() for p in model.network.parameters()) for model in (small, whole)]
    assert [row.parameters for row in dock.rows] == [*sizes, sizes[1]]
    assert all(row.seconds > 0 for row in dock.rows)


def test_a_model_that_is_gone(viewer, prediction, open_compare, qtbot):
    file = user_folder() / "tiny.safetensors"
    content = file.read_bytes()
    file.unlink()
    prediction.fill().show(viewer)
    dock = open_compare()
    qtbot.waitUntil(lambda: "no longer among the models" in dock.status.text(), timeout=30_000)
    assert hashlib.sha256(content).hexdigest()[:12] in dock.status.text()
    settled(dock, qtbot, 12)
    assert column(dock, "Weights") == ["-"] * 3
    for button in (dock.save_button, dock.measure_button):
        assert not button.isEnabled()
        assert "no longer among the models" in button.toolTip()
    (user_folder() / "back.safetensors").write_bytes(content)  # by its hash, whatever it is called
    shared.models_changed.emit()
    qtbot.waitUntil(lambda: "-" not in column(dock, "Weights"), timeout=30_000)
    assert dock.measure_button.isEnabled()


def test_measure_speed(viewer, prediction, open_compare, qtbot, monkeypatch):
    monkeypatch.setattr("napari_unetpp.gui.compare_speed._measured", {})
    monkeypatch.setattr("napari_unetpp.gui.compare_work.NOISE", {2: (64, 64)})
    prediction.fill().show(viewer)
    dock = open_compare()
    assert column(dock, "Time /Mvoxel") == ["-"] * 3
    qtbot.waitUntil(dock.measure_button.isEnabled, timeout=30_000)
    qtbot.mouseClick(dock.measure_button, LEFT)
    assert dock.measure_button.text() == "Stop measuring"
    qtbot.waitUntil(lambda: dock.measure_button.text() == "Measure speed", timeout=60_000)
    qtbot.waitUntil(lambda: not dock._showing.isActive(), timeout=10_000)
    assert "-" not in column(dock, "Time /Mvoxel")
    first, second, ensemble = (row.seconds for row in dock.rows)
    assert first > 0
    assert 0 < second == ensemble
    assert "CPU, fp32" in dock.measure_button.toolTip()
    # a dock that is opened later knows it as well
    viewer.window.remove_dock_widget(dock)
    assert [row.seconds for row in open_compare().rows] == [first, second, second]


def test_measuring_can_be_stopped(viewer, prediction, open_compare, qtbot, monkeypatch):
    monkeypatch.setattr("napari_unetpp.gui.compare_speed._measured", {})
    prediction.fill().show(viewer)
    dock = open_compare()
    qtbot.waitUntil(dock.measure_button.isEnabled, timeout=30_000)
    settled(dock, qtbot, 12)
    monkeypatch.setattr("napari_unetpp.gui.compare_work.ROUNDS", 10**6)
    qtbot.mouseClick(dock.measure_button, LEFT)
    qtbot.waitUntil(lambda: "runs on" in dock.status.text(), timeout=30_000)
    qtbot.mouseClick(dock.measure_button, LEFT)
    qtbot.waitUntil(lambda: not dock.speed.measuring, timeout=30_000)
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=10_000)
    assert dock.status.text() == ""


def test_export(viewer, prediction, open_compare, qtbot, monkeypatch, tmp_path, rng):
    prediction.fill().show(viewer)
    viewer.add_labels(rng.integers(0, 2, prediction.shape, np.uint8), name="truth, by hand")
    dock = open_compare()
    dock.reference.setCurrentIndex(1)
    settled(dock, qtbot, 12)
    qtbot.waitUntil(lambda: dock.rows[0].parameters is not None, timeout=30_000)
    target = tmp_path / "levels.csv"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(target), ""))
    qtbot.mouseClick(dock.export_button, LEFT)
    qtbot.waitUntil(lambda: "Saved the table" in dock.status.text(), timeout=30_000)
    with target.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [line["level"] for line in read] == ["L1", "L2", "Ensemble"]
    for line, row in zip(read, dock.rows, strict=True):
        assert int(line["parameters"]) == row.parameters
        assert float(line["gflop_per_megavoxel"]) == row.gflops
        assert [float(line[k]) for k in ("dice_with_L2", "iou", "dice", "f2")] == [
            row.agreement,
            row.iou,
            row.dice,
            row.f2,
        ]
        assert line["seconds_per_megavoxel"] == ("" if row.seconds is None else str(row.seconds))
        assert (line["reference"], line["tiles"]) == ("truth, by hand", "12")
    assert [line["advised"] for line in read].count("yes") == 1
    # a full disk leaves the old table, and nothing else
    before, files = target.read_bytes(), sorted(tmp_path.iterdir())

    class Full:
        def __init__(self, file):
            self.file = file

        def writerow(self, row):
            self.file.write("half a")

        def writerows(self, rows):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(csv, "writer", Full)
    qtbot.waitUntil(dock.export_button.isEnabled, timeout=10_000)
    qtbot.mouseClick(dock.export_button, LEFT)
    qtbot.waitUntil(lambda: "No space left" in dock.status.text(), timeout=30_000)
    assert target.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == files


def test_a_reference_that_does_not_fit_is_refused_in_one_line(viewer, prediction, open_compare, qtbot):
    prediction.fill().show(viewer)
    viewer.add_labels(np.zeros((40, 53), np.uint8), name="other")
    dock = open_compare()
    dock.reference.setCurrentIndex(1)
    assert dock.status.text() == (
        "other has shape 40 x 53 where the prediction has 40 x 52 (yx); choose labels of the same image"
    )
    assert column(dock, "IoU") is None
    settled(dock, qtbot, 12)


def test_the_reference_is_removed(viewer, prediction, open_compare, qtbot, rng):
    prediction.fill().show(viewer)
    layer = viewer.add_labels(rng.integers(0, 2, prediction.shape, np.uint8), name="truth")
    dock = open_compare()
    dock.reference.setCurrentIndex(1)
    settled(dock, qtbot, 12)
    layer.name = "renamed"
    assert dock.reference.currentText() == "renamed"
    assert column(dock, "IoU") is not None
    viewer.layers.remove(layer)
    assert dock.reference.currentText() == "none"
    assert column(dock, "IoU") is None


def test_several_predictions(viewer, prediction, tmp_path, model, open_compare, qtbot, rng):
    dock = open_compare()
    assert "Segment an image" in dock.advice.text()
    assert dock.table.rowCount() == 0
    prediction.fill().show(viewer)
    assert dock.prediction.currentText() == "cells · tiny"
    settled(dock, qtbot, 12)
    second = Prediction(tmp_path, model, rng, (3, 20, 20), levels=(1,), name="stack").fill().show(viewer)
    assert dock.levels is second.levels, "what the user has just asked for"
    settled(dock, qtbot, 12)
    assert column(dock, "Level") == ["L1"]
    dock.prediction.setCurrentIndex(0)
    settled(dock, qtbot, 12)
    assert dock.levels is prediction.levels
    for layer in list(prediction.levels.layers.values()):
        viewer.layers.remove(layer)
    assert dock.levels is second.levels
    assert dock.prediction.count() == 1


def test_a_store_that_is_gone(viewer, prediction, open_compare, qtbot, caplog):
    import shutil

    prediction.fill([0]).show(viewer)
    dock = open_compare()
    settled(dock, qtbot, 1)
    shutil.rmtree(prediction.path)
    qtbot.waitUntil(lambda: "no predictions at" in dock.status.text().replace("\u200b", ""), timeout=30_000)


def test_closing_the_dock_stops_the_work(viewer, prediction, open_compare, qtbot, monkeypatch):
    monkeypatch.setattr("napari_unetpp.gui.compare_work.ROUNDS", 10**6)
    prediction.fill([0]).show(viewer)  # not complete, so it is looked at again and again
    dock = open_compare()
    qtbot.waitUntil(dock.measure_button.isEnabled, timeout=30_000)
    qtbot.mouseClick(dock.measure_button, LEFT)
    qtbot.waitUntil(lambda: "runs on" in dock.status.text(), timeout=30_000)
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=30_000)
    assert not dock.counting._timer.isActive()
    prediction.levels.comparison.level = 1  # nobody minds
    prediction.levels.comparison.threshold = 0.3
    assert not WorkerBase._worker_set


def test_opened_by_name_while_a_run_fills_the_store(viewer, model, predictions, qtbot, rng):
    viewer.add_image(rng.integers(0, 200, (6, 40, 48), np.uint8), name="stack", axis_labels=("z", "y", "x"))
    _, compare = viewer.window.add_plugin_dock_widget("napari-unetpp", "Compare")
    _, segment = viewer.window.add_plugin_dock_widget("napari-unetpp", "Segment")
    qtbot.waitUntil(segment.run_button.isEnabled, timeout=60_000)
    qtbot.mouseClick(segment.run_button, LEFT)
    qtbot.waitUntil(lambda: segment.state == "done", timeout=60_000)
    assert segment.levels is not None
    total = int(np.prod(segment.levels.store.grid))
    settled(compare, qtbot, total)
    labels = [np.asarray(viewer.layers[f"stack {name}"].data) > 0 for name in ("L1", "L2", "Ensemble")]
    assert [row.agreement for row in compare.rows] == [dice(label, labels[1]) for label in labels]
    viewer.layers.selection.active = viewer.layers[0]
    assert compare.counting.agreement.counted.all(), "nothing begins anew because something is selected"


def test_nothing_is_cut(viewer, prediction, open_compare, check_uncut, qtbot, rng):
    prediction.fill().show(viewer)
    viewer.add_labels(rng.integers(0, 2, prediction.shape, np.uint8), name="labels with a long name indeed")
    dock = open_compare()
    settled(dock, qtbot, 12)
    assert dock.minimumWidth() <= 340
    dock.reference.setCurrentIndex(1)
    settled(dock, qtbot, 12)
    qtbot.waitUntil(lambda: dock.width() >= dock.minimumWidth(), timeout=5000)
    qtbot.wait(100)
    table = dock.table
    for place in range(table.columnCount()):
        header = table.horizontalHeader()
        assert header.sectionSize(place) >= header.sectionSizeHint(place), place
        assert header.sectionSize(place) >= table.sizeHintForColumn(place), place
    assert table.viewport().height() >= sum(table.rowHeight(i) for i in range(table.rowCount()))
    check_uncut(dock)


def test_opening_needs_no_torch_in_the_thread_of_the_window():
    import subprocess
    import sys

    code = "import sys, napari_unetpp.gui.compare_widget, napari_unetpp.evaluation.agreement\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


class TestReference:
    """How a Labels layer becomes labels in the axes of the prediction."""

    @pytest.fixture
    def viewer(self):
        from napari.components import ViewerModel

        return ViewerModel()

    @pytest.fixture
    def shown(self, viewer, tmp_path, rng):
        """A prediction (t z y x) of an image that has its axes in another order, and channels."""
        return Prediction(tmp_path, None, rng, (2, 3, 20, 21)).show(viewer, "zcxty", (3, 4, 21, 2, 20))

    def test_channels_lazy_data_and_resolutions(self, viewer, shown, rng):
        whole = rng.integers(0, 9, (3, 4, 21, 2, 20), np.uint8)
        expected = whole.max(axis=1).transpose(2, 0, 3, 1)
        lazy = zarr.array(whole)
        plain = whole[:, 0]
        for data, wanted in (
            (whole, expected),
            (lazy, expected),
            ([whole, whole[..., ::2]], expected),
            (plain, plain.transpose(2, 0, 3, 1)),
        ):
            layer = viewer.add_labels(data)
            reference = reference_from_layer(layer, shown.levels)
            for tile in shown.tiles:
                np.testing.assert_array_equal(reference.read(tile.inner), wanted[tile.inner.slices])

    def test_a_region_of_a_larger_stack(self, viewer, tmp_path, rng):
        shown = Prediction(tmp_path, None, rng, (20, 21)).show(viewer)
        shown.store.record["region"] = [[5, 7], [25, 28]]
        truth = rng.integers(0, 9, (30, 40))
        layer = viewer.add_labels(truth)
        reference = reference_from_layer(layer, shown.levels)
        for tile in shown.tiles:
            np.testing.assert_array_equal(reference.read(tile.inner), truth[5:25, 7:28][tile.inner.slices])
        layer.data_setitem((np.array([24]), np.array([10])), 77)
        with pytest.raises(ValueError, match="20 x 20 where the prediction has 20 x 21"):
            reference_from_layer(viewer.add_labels(np.zeros((20, 20), np.uint8), name="cut"), shown.levels)

    def test_the_tiles_that_a_stroke_touched(self, viewer, shown):
        layer = viewer.add_labels(np.zeros((3, 4, 21, 2, 20), np.uint8))
        items = []
        layer.events.paint.connect(lambda event: items.append(event.value))
        places = (np.array([1, 1]), np.array([3, 3]), np.array([2, 17]), np.array([0, 0]), np.array([4, 15]))
        layer.data_setitem(places, 5)
        layer.brush_size = 3
        layer.paint((2, 1, 15, 1, 15), 6)
        for item, value in zip(items, (5, 6), strict=True):
            changed = (layer.data == value).max(axis=1).transpose(2, 0, 3, 1)
            really = [
                n for n in range(len(shown.tiles)) if changed[shown.tiles.tile(shown.tiles.index(n)).inner.slices].any()
            ]
            told = touched_tiles(item, layer, shown.levels, shown.tiles)
            assert really
            assert set(really) <= set(told.tolist())
            assert len(told) <= 4, "of 24"
        assert touched_tiles([object()], layer, shown.levels, shown.tiles) == slice(None)
