"""Labels and tables that are saved from the window into a folder that goes meanwhile: told, and nothing half is left."""

import csv
import shutil

import numpy as np
import pytest

from napari_unetpp import _label_tiff
from napari_unetpp.gui import compare_rows
from napari_unetpp.gui.compare_rows import LevelRow, write_table

GONE = "the folder was moved or deleted while this was written"


def vanish_in(monkeypatch, module, name, folder):
    real = getattr(module, name)

    def called(*args, **kwargs):
        shutil.rmtree(folder)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, called)


@pytest.mark.gui
@pytest.mark.parametrize("name", ["_write", "_planes", "_read_back"])
def test_a_labels_layer(viewer, tmp_path, monkeypatch, rng, name):
    labels = rng.integers(0, 9, (4, 20, 30)).astype(np.uint8)
    layer = viewer.add_labels(labels, name="cells")
    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patch:
        vanish_in(patch, _label_tiff, name, tmp_path / "out")
        with pytest.raises(OSError, match=GONE):
            viewer.layers.save(str(tmp_path / "out" / "cells.tif"), plugin="napari-unetpp")
    assert not (tmp_path / "out").exists()
    assert layer in viewer.layers
    (saved,) = viewer.layers.save(str(tmp_path / "cells.tif"), plugin="napari-unetpp")
    assert saved == str(tmp_path / "cells.tif")


@pytest.mark.parametrize("name", ["writer", "reader"])
def test_a_table(tmp_path, monkeypatch, name):
    rows = [LevelRow(1, parameters=861, gflops=1.9), LevelRow(2, parameters=8370, gflops=4.98)]
    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patch:
        vanish_in(patch, compare_rows.csv, name, tmp_path / "out")
        with pytest.raises(FileNotFoundError, match=GONE):
            list(write_table(rows, 1, {}, tmp_path / "out" / "a.csv"))
    assert not (tmp_path / "out").exists()
    list(write_table(rows, 1, {}, tmp_path / "a.csv"))
    with (tmp_path / "a.csv").open(newline="") as file:
        assert [row["parameters"] for row in csv.DictReader(file)] == ["861", "8370"]
