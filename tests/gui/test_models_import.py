"""Checkpoints of other packages in the Models dock: what is asked about them, what it changes, and what then lies on the disk."""

import pytest
from qtpy.QtCore import Qt
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QFileDialog

from napari_unetpp.model.checkpoint import load_model, save_model
from napari_unetpp.model.foreign import Asked, import_checkpoint
from napari_unetpp.model.foreign_choices import open_choices
from tests.gui.test_models_widget import choose, drop, names, on_disk, settle
from tests.model.test_foreign import (
    FOUR,
    drawn,
    milesial_shapes,
    nested_shapes,
    saved,
    shawnbit_shapes,
    wide_shapes,
)

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
def give(qtbot, monkeypatch):
    """Presses Import and chooses these files, then waits for what comes of it."""

    def given(dock, *paths):
        monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_: ([str(path) for path in paths], ""))
        press(dock, dock.import_button, qtbot)
        return dock.import_box

    return given


def press(dock, button, qtbot):
    assert button.isEnabled(), button.text()
    qtbot.mouseClick(button, LEFT)
    settle(dock, qtbot)


def shown(dock, field):
    return dock.import_box.isVisible() and field.isVisibleTo(dock.import_box.form)


def pick(combo, text, dock, qtbot):
    assert text in [combo.itemText(i) for i in range(combo.count())]
    combo.setCurrentText(text)
    settle(dock, qtbot)


def told(dock):
    return dock.import_box.form.facts.text(), dock.import_box.form.notes.text()


def test_what_was_recognised_is_told_before_anything_is_written(open_dock, give, folder, tmp_path):
    dock = open_dock()
    box = give(dock, saved(tmp_path, {"state_dict": drawn(nested_shapes(channels=1, classes=3))}))
    facts, notes = told(dock)
    for words in (
        "NestedUNet of pytorch-nested-unet",
        "2D, 1 channel",
        "4, 6, 8, 10, 12",
        "bilinear-aligned",
        "percentile",
    ):
        assert words in facts
    assert "level slider has one position, L4" in notes
    assert "without deep supervision" in notes
    assert "--" not in notes  # what is said to those who have fields
    assert box.name.text() == "theirs"
    assert [field.placeholderText() for field in box.form.classes] == ["background", "class 1", "class 2"]
    assert on_disk(folder) == ["tiny.safetensors"]


def test_what_was_answered_is_what_is_kept(open_dock, give, folder, tmp_path, qtbot):
    dock = open_dock()
    path = saved(tmp_path, drawn(nested_shapes(channels=1, classes=3, heads=FOUR)))
    box = give(dock, path)
    pick(box.form.upsampling, "nearest", dock, qtbot)
    assert "<b>nearest</b>" in told(dock)[0]
    pick(box.form.intensities, "z-score", dock, qtbot)
    assert "<b>zscore" in told(dock)[0]
    pick(box.form.heads, "the last", dock, qtbot)
    assert "one position" in told(dock)[1]
    qtbot.keyClicks(box.form.classes[1], "wall & <b>")
    assert "wall &amp; &lt;b&gt;" in told(dock)[0]
    box.name.clear()
    qtbot.keyClicks(box.name, "mine")
    press(dock, box.import_button, qtbot)
    qtbot.waitUntil(lambda: "mine" in names(dock), timeout=10_000)
    asked = Asked(
        upsampling="nearest", intensities="zscore", heads="last", classes=("background", "wall & <b>", "class 2")
    )
    wanted, kept = import_checkpoint(path, asked, "mine").model, load_model("mine", "cpu")
    assert (kept.spec, kept.intensity, kept.card) == (wanted.spec, wanted.intensity, wanted.card)
    assert dock.chosen().entry.name == "mine"
    assert dock.below.currentWidget() is dock.card
    assert dock.status.text().startswith("Imported mine")
    assert on_disk(folder) == ["mine.safetensors", "tiny.safetensors"]


def test_choosing_what_is_taken_anyway_asks_for_nothing(open_dock, give, tmp_path, qtbot):
    dock = open_dock()
    box = give(dock, saved(tmp_path, drawn(nested_shapes(heads=FOUR))))
    before = told(dock)
    pick(box.form.upsampling, "bilinear", dock, qtbot)
    assert told(dock) != before
    pick(box.form.upsampling, "bilinear, aligned", dock, qtbot)
    assert told(dock) == before
    assert box.form.asked() == Asked()


def monai_like(width=4):
    """BasicUNet's names (FACTS 6): a LeakyReLU and learned up-sampling."""
    pytest.importorskip("monai")
    from monai.networks.nets import BasicUNet

    return BasicUNet(features=(width,) * 6, norm="batch").state_dict()


FOUND = {
    "nested": (lambda: drawn(nested_shapes()), {"upsampling", "intensities"}),
    "nested, supervised": (lambda: drawn(nested_shapes(heads=FOUR)), {"upsampling", "heads", "intensities"}),
    "wide": (lambda: drawn(wide_shapes()), {"heads", "intensities"}),
    "milesial": (lambda: drawn(milesial_shapes("transposed", bias=True)[0]), {"padding", "intensities"}),
    "milesial, bilinear": (
        lambda: drawn(milesial_shapes("bilinear", bias=True)[0]),
        {"upsampling", "padding", "intensities"},
    ),
    "ShawnBIT": (lambda: drawn(shawnbit_shapes(True)), {"heads", "intensities"}),
    "MONAI": (monai_like, {"slope", "intensities"}),
}


@pytest.mark.parametrize("weights", [make for make, _ in FOUND.values()], ids=list(FOUND))
def test_a_choice_is_open_if_and_only_if_it_changes_the_model(tmp_path, weights):
    """Every option is tried on the import itself."""
    path = saved(tmp_path, weights())
    usual = import_checkpoint(path)
    choices = open_choices(path, usual)

    def effect(**asked):
        try:
            model = import_checkpoint(path, Asked(**asked)).model
        except ValueError:
            return None
        return model.spec, model.intensity

    taken = (usual.model.spec, usual.model.intensity)
    every = {"upsampling": ("bilinear-aligned", "bilinear", "nearest"), "heads": ("all", "last", "mean")}
    every["padding"] = ("same", "valid", "late")
    every["intensities"] = ("unit", "imagenet", "imagenet-255", "raw", "percentile", "zscore")
    for option, values in every.items():
        effects = {value: effect(**{option: value}) for value in values}
        possible = {value for value, result in effects.items() if result is not None}
        is_open = len({result for result in effects.values() if result is not None}) > 1
        offered = getattr(choices, option)
        assert set(offered) == (possible if is_open else set())
        if is_open:
            assert effects[offered[0]] == taken
    assert (choices.slope is not None) == (effect(negative_slope=0.3) not in (None, taken))
    assert choices.classes == tuple(c.name for c in usual.model.classes)


@pytest.mark.parametrize("kind", list(FOUND))
def test_only_what_is_open_has_a_field(open_dock, give, tmp_path, kind):
    dock = open_dock()
    make, wanted = FOUND[kind]
    box = give(dock, saved(tmp_path, make()))
    form = box.form
    fields = {"upsampling": form.upsampling, "heads": form.heads, "slope": form.slope, "intensities": form.intensities}
    fields["padding"] = form.padding
    assert {option for option, field in fields.items() if shown(dock, field)} == wanted


def test_fields_fit_the_next_file(open_dock, give, tmp_path, qtbot):
    dock = open_dock()
    one = saved(tmp_path, drawn(nested_shapes(classes=3, channels=1)), "one.pth")
    two = saved(tmp_path, drawn(shawnbit_shapes(True)), "two.pth")
    box = give(dock, one, two)
    assert (box.path, box.waiting.text()) == (one, "1 more file to ask about")
    pick(box.form.upsampling, "nearest", dock, qtbot)
    press(dock, box.import_button, qtbot)
    assert (box.path, box.waiting.isVisible()) == (two, False)
    assert box.form.asked() == Asked()
    assert not shown(dock, box.form.upsampling)
    assert box.name.text() == "two"
    press(dock, box.cancel_button, qtbot)
    assert box.path is None
    qtbot.waitUntil(lambda: names(dock) == ["one", "tiny"], timeout=10_000)
    assert load_model("one", "cpu").spec.upsampling == "nearest"
    assert dock.below.currentWidget() is dock.card


def test_own_models_do_not_wait_for_an_answer(open_dock, tiny_model, folder, tmp_path, qtbot):
    dock = open_dock()
    theirs = saved(tmp_path, drawn(nested_shapes()), "theirs.pth")
    own = save_model(tiny_model(seed=3), tmp_path / "own.safetensors")
    event, _data = drop(QDropEvent, dock, [theirs, own])
    dock.dropEvent(event)
    qtbot.waitUntil(lambda: "own" in names(dock) and dock.import_box.isVisible(), timeout=30_000)
    settle(dock, qtbot)
    assert dock.import_box.path == theirs
    assert on_disk(folder) == ["own.safetensors", "tiny.safetensors"]
    choose(dock, "tiny")  # nothing else waits either
    assert dock.rename_button.isEnabled()


def test_a_name_that_is_taken_is_told_at_once(open_dock, give, folder, tmp_path, qtbot):
    dock = open_dock()
    box = give(dock, saved(tmp_path, drawn(nested_shapes()), "tiny.pth"))
    assert box.name.text() == "tiny-2"
    for name, words in (("TINY", "there is a model"), ("a/b", "would do"), ("", "would do")):
        box.name.setText(name)
        assert words in box.problem.toolTip()
        assert box.problem.isVisible()
        assert not box.import_button.isEnabled()
    box.name.setText("free")
    assert not box.problem.isVisible()
    press(dock, box.import_button, qtbot)
    assert on_disk(folder) == ["free.safetensors", "tiny.safetensors"]


def test_a_file_that_is_gone_is_one_line_and_the_next_one_comes(open_dock, give, folder, tmp_path, qtbot, caplog):
    dock = open_dock()
    damaged = drawn(nested_shapes())
    del damaged["conv2_1.conv1.weight"]
    give(dock, saved(tmp_path, damaged, "damaged.pth"))
    assert "conv2_1.conv1.weight is missing" in dock.status.toolTip()
    assert "\n" not in dock.status.toolTip()
    assert "Traceback" in caplog.text  # the whole story
    assert dock.below.currentWidget() is dock.card
    one, two = (saved(tmp_path, drawn(nested_shapes()), f"{name}.pth") for name in ("one", "two"))
    box = give(dock, one, two)
    one.unlink()
    pick(box.form.upsampling, "nearest", dock, qtbot)
    assert "does not exist" in caplog.text
    assert box.path == two
    two.unlink()
    press(dock, box.import_button, qtbot)
    assert "does not exist" in dock.status.toolTip()
    assert box.path == two  # the answers stay
    assert box.cancel_button.isEnabled()
    assert on_disk(folder) == ["tiny.safetensors"]


def test_a_closed_dock_asks_nothing_more(open_dock, give, viewer, folder, tmp_path, qtbot):
    dock = open_dock()
    box = give(dock, *(saved(tmp_path, drawn(nested_shapes()), f"{name}.pth") for name in ("one", "two")))
    box.form.upsampling.setCurrentText("nearest")
    viewer.window.remove_dock_widget("all")
    settle(dock, qtbot)
    assert box.path is None
    assert dock._foreign == []
    assert on_disk(folder) == ["tiny.safetensors"]


def test_no_text_is_cut(open_dock, give, tmp_path, check_uncut, qtbot):
    dock = open_dock()
    box = give(dock, saved(tmp_path, drawn(shawnbit_shapes(True)), f"{'long' * 20}.pth"))
    box.name.setText("tiny")
    qtbot.wait(200)
    check_uncut(dock)
    for combo in (box.form.heads, box.form.intensities, dock.export_box.format, dock.export_box.level):
        room = combo.width() - 24  # for its arrow
        assert all(combo.fontMetrics().horizontalAdvance(combo.itemText(i)) <= room for i in range(combo.count()))
