"""Models that leave the Models dock, in every format: what lies on the disk, and what is said of it."""

import shutil
import sys
import threading
import zipfile

import numpy as np
import pytest
import torch
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from napari_unetpp.gui import models_work
from napari_unetpp.model import checkpoint, exchange, exchange_graphs
from napari_unetpp.model.checkpoint import load_model
from tests.gui.test_models_import import told
from tests.gui.test_models_widget import names, on_disk, settle

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def open_dock(show_models, qtbot):
    """Opens the dock, and waits until it has looked around."""

    def opened():
        dock = show_models()
        qtbot.waitUntil(lambda: names(dock) == ["tiny"], timeout=60_000)
        settle(dock, qtbot)
        return dock

    return opened


@pytest.fixture
def export(qtbot, monkeypatch):
    """Chooses a format and a level (0 is all), presses Export, names that file; returns what was proposed."""

    def exported(dock, target, title="Model file", level=0, *, wait=True):
        proposed = []

        def answer(_parent, _title, path, _filter):
            proposed.append(path)
            return str(target), ""

        monkeypatch.setattr(QFileDialog, "getSaveFileName", answer)
        box = dock.export_box
        box.format.setCurrentText(title)
        assert box.format.currentText() == title
        box.level.setCurrentIndex(box.level.findData(level))
        assert box.export_button.isEnabled()
        qtbot.mouseClick(box.export_button, LEFT)
        if wait:
            settle(dock, qtbot)
        return proposed[0]

    return exported


def test_a_pruned_model_has_the_heads_of_the_whole(open_dock, export, model, folder, qtbot):
    dock = open_dock()
    proposed = export(dock, folder / "small", level=1)  # whoever types no ending gets one
    assert proposed == str(folder / "tiny-L1.safetensors")
    qtbot.waitUntil(lambda: names(dock) == ["small", "tiny"], timeout=10_000)
    assert dock.chosen().entry.name == "small"
    pruned = load_model("small", "cpu")
    image = torch.rand(1, 1, 33, 20)
    with torch.no_grad():
        (head,) = pruned.network(image)
        assert torch.equal(head, model.network(image)[0])
    assert pruned.card.training["pruned_from"]["sha256"] == model.sha256
    qtbot.waitUntil(lambda: model.sha256 in dock.card.toPlainText().replace("\n", ""), timeout=10_000)


def test_a_whole_model_is_the_same_elsewhere(open_dock, export, model, tmp_path):
    dock = open_dock()
    export(dock, tmp_path / "copy.safetensors")
    copy = load_model(tmp_path / "copy.safetensors", "cpu")
    state = model.network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in copy.network.state_dict().items())
    assert copy.card == model.card


def check_onnx(graph, model, levels, *, deepest_first=False):
    """The graph, a file or its bytes, answers as the network does; a package has the best answer first."""
    session = pytest.importorskip("onnxruntime").InferenceSession(graph)
    image = torch.rand(1, 1, 32, 48)
    answers = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        wanted = [torch.sigmoid(logits).numpy() for logits in model.network(image)][:levels]
    assert len(answers) == levels
    for mine, theirs in zip(wanted[:: -1 if deepest_first else 1], answers, strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-5)


def test_an_onnx_file_of_a_level_answers_as_the_network_does(open_dock, export, model, tmp_path):
    dock = open_dock()
    pytest.importorskip("onnxscript")
    export(dock, tmp_path / "tiny.onnx", "ONNX", level=1)
    assert "Checked: onnxruntime" in dock.status.toolTip()
    check_onnx(tmp_path / "tiny.onnx", model, levels=1)


def test_torchscript_is_written_and_told(open_dock, export, tmp_path):
    dock = open_dock()
    export(dock, tmp_path / "tiny.pt", "TorchScript")
    assert str(tmp_path / "tiny.pt") in dock.status.toolTip()
    assert "Checked: " in dock.status.toolTip()
    assert len(torch.jit.load(tmp_path / "tiny.pt")(torch.rand(1, 1, 16, 16))) == 2
    assert names(dock) == ["tiny"]


def test_a_package_comes_back_as_the_model_that_it_was_made_of(
    open_dock, export, model, folder, tmp_path, qtbot, monkeypatch
):
    pytest.importorskip("bioimageio.core")
    dock = open_dock()
    export(dock, tmp_path / "tiny.zip", "bioimage.io package")
    assert "Checked: " in dock.status.toolTip()
    with zipfile.ZipFile(tmp_path / "tiny.zip") as package:
        check_onnx(package.read("weights.onnx"), model, levels=2, deepest_first=True)
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_: ([str(tmp_path / "tiny.zip")], ""))
    qtbot.mouseClick(dock.import_button, LEFT)
    settle(dock, qtbot)
    box = dock.import_box
    assert "bioimage.io" in told(dock)[0]
    assert not box.form.fields.isVisible()  # it says everything itself
    assert box.name.text() == "tiny-2"
    qtbot.mouseClick(box.import_button, LEFT)
    settle(dock, qtbot)
    assert on_disk(folder) == ["tiny-2.safetensors", "tiny.safetensors"]
    again, state = load_model("tiny-2", "cpu"), model.network.state_dict()
    assert (again.spec, again.intensity, again.card) == (model.spec, model.intensity, model.card)
    assert all(torch.equal(value, state[key]) for key, value in again.network.state_dict().items())


def test_what_is_missing_is_told_with_the_command_that_installs_it(open_dock, export, tmp_path, monkeypatch):
    dock = open_dock()
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    export(dock, tmp_path / "tiny.onnx", "ONNX")
    assert 'pip install "napari-unetpp[exchange]"' in dock.status.toolTip()
    assert "\n" not in dock.status.toolTip()
    assert list(tmp_path.glob("*.onnx")) == []
    assert dock.export_box.export_button.isEnabled()


def test_an_export_replaces_neither_its_model_nor_what_was_not_asked_about(open_dock, export, folder):
    dock = open_dock()
    before = (folder / "tiny.safetensors").read_bytes()
    for level in (0, 1):
        export(dock, folder / "tiny.safetensors", level=level)
        assert "itself" in dock.status.toolTip()
        export(dock, folder / "tiny", level=level)
        assert "exists" in dock.status.toolTip()
    assert (folder / "tiny.safetensors").read_bytes() == before
    assert on_disk(folder) == ["tiny.safetensors"]


def test_a_file_that_the_dialog_asked_about_is_replaced(open_dock, export, tmp_path):
    dock = open_dock()
    (tmp_path / "old.safetensors").write_bytes(b"old")
    export(dock, tmp_path / "old.safetensors", level=1)
    assert load_model(tmp_path / "old.safetensors", "cpu").spec.depth == 1


def test_an_export_is_stopped_between_two_steps(open_dock, export, tmp_path, qtbot, monkeypatch):
    """The real steps, held where the first one is told until Cancel was pressed."""
    dock = open_dock()
    held, go_on = threading.Event(), threading.Event()
    steps = exchange.export_model

    def slow(*arguments, **keywords):
        inner = steps(*arguments, **keywords)
        line = next(inner)
        try:
            held.set()
            go_on.wait(30)
            yield line
            return (yield from inner)
        finally:
            inner.close()

    monkeypatch.setattr(exchange, "export_model", slow)
    export(dock, tmp_path / "tiny.pt", "TorchScript", wait=False)
    qtbot.waitUntil(held.is_set, timeout=60_000)
    box = dock.export_box
    assert box.stop_button.isVisible()
    assert box.bar.isVisible()
    assert not box.export_button.isVisible()
    qtbot.mouseClick(box.stop_button, LEFT)
    go_on.set()
    settle(dock, qtbot)
    assert dock.status.text() == "The export was stopped; nothing was written."
    assert on_disk(tmp_path) == ["home"]
    assert box.export_button.isVisible()
    assert not box.bar.isVisible()


def test_what_was_chosen_stays_when_the_list_is_read_anew(open_dock, qtbot):
    dock = open_dock()
    box = dock.export_box
    box.format.setCurrentText("ONNX")
    box.level.setCurrentIndex(box.level.findData(0))
    dock.refresh()
    settle(dock, qtbot)
    assert (box.format.currentText(), box.level.currentData()) == ("ONNX", 0)
    assert models_work.ModelFile is type(dock.chosen())


@pytest.mark.parametrize("how", ["deleted", "replaced"])
@pytest.mark.parametrize(
    ("module", "function", "title"),
    [
        (exchange, "smaller", "TorchScript"),  # before the first byte
        (exchange_graphs, "write_torchscript", "TorchScript"),
        (exchange_graphs, "checked", "TorchScript"),  # just before it would get its name
        (checkpoint, "save_file", "Model file"),
        (checkpoint, "_read_back", "Model file"),
    ],
)
def test_an_export_whose_folder_goes_is_told_and_can_be_done_elsewhere(
    open_dock, export, tmp_path, monkeypatch, module, function, title, how
):
    out, real = tmp_path / "out", getattr(module, function)
    out.mkdir()

    def called(*args, **kwargs):
        shutil.rmtree(out)
        if how == "replaced":
            out.mkdir()
        return real(*args, **kwargs)

    dock = open_dock()
    name = "a.pt" if title == "TorchScript" else "a.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(module, function, called)
        export(dock, out / name, title)
    if how == "replaced" and "Exported" in dock.status.text():  # written into the folder that is there now
        assert (out / name).is_file()
    else:
        assert "Exported" not in dock.status.text()
        assert "moved or deleted" in dock.status.text() or "No such file" in dock.status.text()
        assert dock.status.styleSheet()  # red
        assert not (out.exists() and list(out.iterdir()))
    other = tmp_path / "other"
    other.mkdir()
    export(dock, other / name, title)
    assert "Exported" in dock.status.text()
    assert (other / name).is_file()
