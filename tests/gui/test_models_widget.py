"""The Models dock in a real window: real buttons are pressed, files on disk are looked at."""

import hashlib
import pickle
from dataclasses import replace

import pytest
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDesktopServices, QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QFileDialog, QInputDialog, QMessageBox

from napari_unetpp.gui.models_card import card_page, training_sentence
from napari_unetpp.gui.models_work import ModelFile
from napari_unetpp.gui.shared import shared
from napari_unetpp.model import zoo
from napari_unetpp.model.card import ClassInfo
from napari_unetpp.model.checkpoint import load_model, read_header, save_model

LEFT = Qt.MouseButton.LeftButton
YES, NO = QMessageBox.StandardButton.Yes, QMessageBox.StandardButton.No


@pytest.fixture
def open_dock(show_models, qtbot):
    """Opens the dock, and waits until it has looked around."""

    def opened():
        dock = show_models()
        qtbot.waitUntil(dock.isVisible, timeout=10_000)
        qtbot.waitUntil(lambda: names(dock) != [], timeout=60_000)
        return dock

    return opened


@pytest.fixture
def changes():
    """How often others were told that the models changed."""
    told = []
    listener = shared.models_changed.connect(lambda: told.append(True))
    yield told
    shared.models_changed.disconnect(listener)


@pytest.fixture
def answers(monkeypatch):
    """What the user will answer to each dialog: answers(file=path, name=text, delete=YES, save=path)."""
    asked = []

    def answer(file=None, name=None, delete=None, save=None):
        def put(kind, place, attribute, value):
            def dialog(_parent, *arguments, **keywords):
                asked.append((kind, arguments, keywords))
                return value

            monkeypatch.setattr(place, attribute, dialog)

        put("open", QFileDialog, "getOpenFileNames", ([str(file)] if file else [], ""))
        put("save", QFileDialog, "getSaveFileName", (str(save or ""), ""))
        put("name", QInputDialog, "getText", (name or "", name is not None))
        put("delete", QMessageBox, "question", delete or NO)
        return asked

    return answer


def names(dock):
    return [dock.list.topLevelItem(i).text(0) for i in range(dock.list.topLevelItemCount())]


def choose(dock, name):
    dock.list.setCurrentItem(dock.list.topLevelItem(names(dock).index(name)))
    assert dock.chosen().entry.name == name


def press(dock, button, qtbot):
    assert button.isEnabled(), button.text()
    qtbot.mouseClick(button, LEFT)
    settle(dock, qtbot)


def settle(dock, qtbot):
    def idle():
        jobs = (dock.job, dock._reading, dock.import_box.job, dock.import_box._looking, dock.export_box.job)
        return not any(jobs) and not dock._waiting and (dock.import_box.path is not None or not dock._foreign)

    qtbot.waitUntil(idle, timeout=60_000)


def on_disk(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_list_and_the_card_say_what_the_file_says(open_dock, model, folder, qtbot):
    dock = open_dock()
    item = dock.list.topLevelItem(0)
    assert [item.text(i) for i in range(4)] == ["tiny", "own", "2D", "cell"]
    qtbot.waitUntil(lambda: model.sha256[:12] in dock.card.toPlainText(), timeout=10_000)
    text = dock.card.toPlainText()
    for words in (
        "Finds what chance wills.",
        "White noise",
        "CC0",
        "L1 to L2, L1 recommended",
        "seamless",
        "widths 4, 8, 16",
    ):
        assert words in text
    assert str(folder / "tiny.safetensors") in text
    trained = sum(p.numel() for p in model.network.parameters())
    assert f"{trained / 1e3:.3g} k" in text


def test_an_import_is_listed_selected_and_told(open_dock, tiny_model, tmp_path, folder, qtbot, answers, changes):
    dock = open_dock()
    path = save_model(tiny_model(classes=3), tmp_path / "walls.safetensors")
    answers(file=path)
    press(dock, dock.import_button, qtbot)
    qtbot.waitUntil(lambda: "walls" in names(dock), timeout=10_000)
    assert dock.chosen().entry.name == "walls"
    assert dock.list.currentItem().text(3) == "1, 2"  # the background is no class to be found
    assert (folder / "walls.safetensors").read_bytes() == path.read_bytes()
    assert dock.status.text() == "Imported walls."
    assert changes == [True]


def test_a_taken_name_is_asked_for_and_nothing_is_replaced(open_dock, tiny_model, tmp_path, folder, qtbot, answers):
    dock = open_dock()
    other = save_model(tiny_model(seed=5), tmp_path / "tiny.safetensors")
    before = (folder / "tiny.safetensors").read_bytes()
    asked = answers(file=other)  # and no name: cancelled
    press(dock, dock.import_button, qtbot)
    assert on_disk(folder) == ["tiny.safetensors"]
    assert asked[-1][0] == "name"
    assert asked[-1][2]["text"] == "tiny-2"
    assert dock.status.text() == "Nothing was imported."
    answers(file=other, name="other noise")
    press(dock, dock.import_button, qtbot)
    qtbot.waitUntil(lambda: names(dock) == ["other noise", "tiny"], timeout=10_000)
    assert (folder / "tiny.safetensors").read_bytes() == before
    assert (folder / "other noise.safetensors").read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    "content",
    [pickle.dumps({"state_dict": 1}), b"\xff" * 64, (90_000_000).to_bytes(8, "little") + b"{}", None],
    ids=["pickle", "huge header", "header that is not there", "truncated"],
)
def test_hostile_files_are_one_clear_line(open_dock, folder, tmp_path, qtbot, answers, changes, content):
    dock = open_dock()
    path = tmp_path / "evil.safetensors"
    path.write_bytes((folder / "tiny.safetensors").read_bytes()[:-5] if content is None else content)
    answers(file=path)
    press(dock, dock.import_button, qtbot)
    assert "evil.safetensors" in dock.status.toolTip()
    assert "\n" not in dock.status.toolTip()
    assert on_disk(folder) == ["tiny.safetensors"]
    assert changes == []
    assert names(dock) == ["tiny"]


def test_an_unreadable_file_is_listed_with_its_problem_and_can_go(open_dock, folder, qtbot, answers):
    dock = open_dock()
    (folder / "broken.safetensors").write_bytes(b"no model" * 9)
    dock.refresh()
    qtbot.waitUntil(lambda: names(dock) == ["broken", "tiny"], timeout=10_000)
    choose(dock, "broken")
    assert dock.list.currentItem().text(3) == "unreadable"
    assert "cannot be used" in dock.card.toPlainText()
    assert not dock.export_box.export_button.isEnabled()
    answers(delete=YES)
    press(dock, dock.delete_button, qtbot)
    qtbot.waitUntil(lambda: names(dock) == ["tiny"], timeout=10_000)
    assert on_disk(folder) == ["tiny.safetensors"]


def test_rename_keeps_bytes_and_selection(open_dock, model, folder, qtbot, answers, changes):
    dock = open_dock()
    asked = answers(name="größer (2)")
    press(dock, dock.rename_button, qtbot)
    qtbot.waitUntil(lambda: names(dock) == ["größer (2)"], timeout=10_000)
    assert asked[-1][2]["text"] == "tiny"
    assert load_model("größer (2)", "cpu").sha256 == model.sha256
    assert dock.chosen().entry.name == "größer (2)"
    assert "tiny" in dock.card.toPlainText()  # what its card still calls it
    assert changes == [True]


def test_a_name_that_will_not_do_is_refused_in_one_line(open_dock, folder, qtbot, answers):
    dock = open_dock()
    answers(name="../elsewhere")
    press(dock, dock.rename_button, qtbot)
    assert "would do" in dock.status.toolTip()
    assert on_disk(folder) == ["tiny.safetensors"]
    assert on_disk(folder.parent) == ["models"]


def test_delete_asks_first(open_dock, folder, qtbot, answers, changes):
    dock = open_dock()
    asked = answers(delete=NO)
    press(dock, dock.delete_button, qtbot)
    assert str(folder / "tiny.safetensors") in asked[-1][1][1]
    assert on_disk(folder) == ["tiny.safetensors"]
    answers(delete=YES)
    press(dock, dock.delete_button, qtbot)
    qtbot.waitUntil(lambda: names(dock) == [], timeout=10_000)
    assert on_disk(folder) == []
    assert dock.card.toPlainText() == ""
    assert not dock.delete_button.isEnabled()
    assert changes == [True]


def test_shipped_models_can_only_be_looked_at_and_exported(open_dock, folder, tmp_path, monkeypatch, qtbot):
    dock = open_dock()
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (folder / "tiny.safetensors").rename(shipped / "tiny.safetensors")
    monkeypatch.setattr(zoo, "_BUNDLED", shipped)
    shared.models_changed.emit()  # as another dock does
    qtbot.waitUntil(lambda: dock.list.topLevelItem(0).text(1) == "shipped", timeout=10_000)
    assert not dock.rename_button.isEnabled()
    assert not dock.delete_button.isEnabled()
    assert dock.export_box.export_button.isEnabled()


def drop(kind, dock, paths):
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    place = QPointF(dock.width() / 2, dock.height() / 2)
    if kind is QDragEnterEvent:
        place = place.toPoint()
    event = kind(place, Qt.DropAction.CopyAction, data, LEFT, Qt.KeyboardModifier.NoModifier)
    return event, data


def test_files_dropped_on_the_dock_are_imported_in_turn(open_dock, tiny_model, tmp_path, folder, qtbot):
    dock = open_dock()
    one, two = (save_model(tiny_model(seed=s), tmp_path / f"{s}.safetensors") for s in (1, 2))
    (tmp_path / "cells.tif").write_bytes(b"no model")
    entering, _data = drop(QDragEnterEvent, dock, [one])
    entering.ignore()
    dock.dragEnterEvent(entering)
    assert entering.isAccepted()
    image, _data = drop(QDragEnterEvent, dock, [tmp_path / "cells.tif"])
    image.ignore()
    dock.dragEnterEvent(image)
    assert not image.isAccepted()  # napari opens it
    dropped, _data = drop(QDropEvent, dock, [one, two, tmp_path / "cells.tif"])
    dock.dropEvent(dropped)
    settle(dock, qtbot)
    qtbot.waitUntil(lambda: names(dock) == ["1", "2", "tiny"], timeout=10_000)
    assert on_disk(folder) == ["1.safetensors", "2.safetensors", "tiny.safetensors"]


def test_open_folder_shows_the_users_folder(open_dock, folder, qtbot, monkeypatch):
    dock = open_dock()
    opened = []
    monkeypatch.setattr(QDesktopServices, "openUrl", opened.append)
    press(dock, dock.folder_button, qtbot)
    assert [url.toLocalFile() for url in opened] == [str(folder)]


def test_a_closed_dock_hears_nothing(open_dock, viewer, folder, qtbot):
    dock = open_dock()
    settle(dock, qtbot)
    viewer.window.remove_dock_widget("all")
    (folder / "tiny.safetensors").unlink()
    shared.models_changed.emit()
    assert dock._reading is None
    assert names(dock) == ["tiny"]


def page_of(model, tmp_path, **changes):
    path = save_model(replace(model, card=replace(model.card, **changes)), tmp_path / "odd.safetensors")
    return card_page(ModelFile(zoo.ModelEntry("odd", path, "user"), read_header(path)))


def test_a_card_cannot_put_pictures_or_endless_text_into_the_page(tiny_model, tmp_path):
    page = page_of(
        tiny_model(),
        tmp_path,
        name="<img src='file:///etc/passwd'>",
        description="a" * 100_000,
        data="<a href='http://x'>x</a>",
        classes=(ClassInfo("<b>", "red; background: url(x)"),),
        scores={"<table>": {"<td>": {"<th>": 0.5}}},
        training={"options": 5, "epoch": "x", "seconds": [], "training": {}, "pruned_from": {"name": "<i>"}},
    )
    assert not any(f"<{tag}" in page for tag in ("img", "a ", "i>", "th>"))
    assert "url(" not in page
    assert len(page) < 10_000


def test_scores_have_a_column_per_level_and_the_advised_one_is_bold(tiny_model, tmp_path):
    scores = {"test": {"L1": {"iou": 0.5, "dice": 0.667}, "L2": {"iou": 0.51}, "ensemble": {"iou": 0.52}}}
    page = page_of(tiny_model(), tmp_path, scores=scores)
    assert "<b>0.500</b>" in page
    assert ">0.510<" in page
    assert "<b>0.510</b>" not in page
    assert "Dice" in page


def test_the_card_has_the_hashes_of_the_model_and_of_what_it_was_made_from(tiny_model, tmp_path):
    grandparent, parent, theirs = "a" * 64, "b" * 64, "c" * 64
    pruned = {"name": "whole", "sha256": parent, "depth": 4, "pruned_from": {"name": "<old>", "sha256": grandparent}}
    record = {"pruned_from": pruned, "parent": "d" * 64, "imported": "UNet", "file": "n.pth", "sha256": theirs}
    path = save_model(
        replace(tiny_model(), card=replace(tiny_model().card, training=record)), tmp_path / "m.safetensors"
    )
    own = hashlib.sha256(path.read_bytes()).hexdigest()
    page = card_page(ModelFile(zoo.ModelEntry("m", path, "user"), read_header(path), sha256=own))
    assert [page.index(sha) for sha in (own, parent, grandparent, "d" * 64, theirs)] == sorted(
        page.index(sha) for sha in (own, parent, grandparent, "d" * 64, theirs)
    )
    assert "whole, unpruned" in page
    assert "<old>" not in page


@pytest.mark.parametrize(
    "record", [{"pruned_from": {"sha256": 5}}, {"notes": [1, None]}, {"notes": "x"}, {"imported": {}}]
)
def test_an_odd_record_is_no_harm(tiny_model, tmp_path, record):
    assert "SHA-256" in page_of(tiny_model(), tmp_path, training=record)


def test_an_empty_record_has_no_sentence():
    assert training_sentence({}) == ""
    assert training_sentence({"parent": "9e2c23cd4dd38bf3"}) == "fine-tuned from 9e2c23cd4dd3"
