"""Checkpoints of other packages in the Models dock: what is asked about them, what it changes, and what then lies on the disk."""

import pytest
import torch
from qtpy.QtCore import Qt
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QFileDialog

from napari_unetpp.model.checkpoint import load_model, save_model
from napari_unetpp.model.foreign import Asked, convert, import_checkpoint, read_known
from napari_unetpp.model.foreign_choices import open_choices
from tests.gui.test_models_widget import choose, drop, names, on_disk, settle
from tests.model.test_foreign import (
    FOUR,
    conv,
    drawn,
    milesial_shapes,
    nested_shapes,
    norm,
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


def answer(dock, field, text, qtbot):
    field.clear()
    qtbot.keyClicks(field, text)
    qtbot.keyClick(field, Qt.Key.Key_Return)
    settle(dock, qtbot)


def told(dock):
    form = dock.import_box.form
    return form.facts.text().replace("\u200b", ""), form.notes.text()


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


def monai_shapes(width=4):
    """BasicUNet's of MONAI: a LeakyReLU and learned up-sampling."""

    def twice(name, into):
        shapes = {}
        for k, channels in enumerate((into, width)):
            at = f"{name}.conv_{k}"
            shapes |= conv(f"{at}.conv", width, channels, ndim=3) | norm(f"{at}.adn.N", width)
        return shapes

    shapes = twice("conv_0", 1) | conv("final_conv", 2, width, 1, 3)
    for i in (1, 2, 3, 4):
        shapes |= twice(f"down_{i}.convs", width) | twice(f"upcat_{i}.convs", 2 * width)
        shapes |= {
            f"upcat_{i}.upsample.deconv.{leaf}": (width, width, 2, 2, 2)[:n] for leaf, n in (("weight", 5), ("bias", 1))
        }
    return shapes


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
    "MONAI": (lambda: drawn(monai_shapes()), {"slope", "intensities"}),
}


@pytest.mark.parametrize("weights", [make for make, _ in FOUND.values()], ids=list(FOUND))
def test_a_choice_is_open_if_and_only_if_it_changes_the_model(tmp_path, weights):
    """Every option is tried on the import itself."""
    known = read_known(saved(tmp_path, weights()))
    usual = convert(known)
    choices = open_choices(known, usual)

    def effect(**asked):
        try:
            model = convert(known, Asked(**asked)).model
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


def test_only_what_is_open_has_a_field(open_dock, give, tmp_path, qtbot):
    """One file after the other, so that what one left behind would be seen."""
    dock = open_dock()
    box = give(dock, *(saved(tmp_path, make(), f"{kind}.pth") for kind, (make, _) in FOUND.items()))
    options = ("upsampling", "heads", "slope", "intensities", "padding", "encoder")
    for kind, (_, wanted) in FOUND.items():
        assert box.path.stem == kind
        assert {option for option in options if shown(dock, getattr(box.form, option))} == wanted, kind
        press(dock, box.cancel_button, qtbot)


def test_an_encoder_that_no_weight_names_is_asked_for(open_dock, give, folder, tmp_path, qtbot):
    pytest.importorskip("timm")
    pytest.importorskip("segmentation_models_pytorch")
    from tests.model.test_foreign_smp import theirs

    dock = open_dock()
    box = give(dock, saved(tmp_path, theirs("tu-test_convnext", "Unet", depth=3).state_dict()))
    form = box.form
    others = (form.upsampling, form.padding, form.heads, form.slope, form.intensities)
    assert shown(dock, form.encoder)
    assert not any(shown(dock, field) for field in others)
    assert not box.import_button.isEnabled()
    box.name.setText("mine")
    answer(dock, form.encoder, "convnext_atto", qtbot)
    assert "name another encoder" in told(dock)[1]
    assert not box.import_button.isEnabled()
    answer(dock, form.encoder, "tu-test_convnext", qtbot)
    assert "on tu-test_convnext" in told(dock)[0]
    assert [shown(dock, field) for field in others] == [True, False, False, False, True]
    pick(form.upsampling, "bilinear", dock, qtbot)
    form.encoder.setText("tu-test")  # not tried, so that it is not what is told above
    assert not box.import_button.isEnabled()
    form.encoder.setText("tu-test_convnext")
    press(dock, box.import_button, qtbot)
    qtbot.waitUntil(lambda: "mine" in names(dock), timeout=10_000)
    spec = load_model("mine", "cpu").spec
    assert (spec.encoder, spec.upsampling) == ("test_convnext", "bilinear")


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


def test_a_damaged_file_is_one_line_and_the_next_one_comes(open_dock, give, folder, tmp_path, caplog):
    dock = open_dock()
    damaged = drawn(nested_shapes())
    del damaged["conv2_1.conv1.weight"]
    whole = saved(tmp_path, drawn(nested_shapes()), "whole.pth")
    box = give(dock, saved(tmp_path, damaged, "damaged.pth"), tmp_path / "gone.pth", whole)
    for words in ("conv2_1.conv1.weight is missing", "gone.pth does not exist", "Traceback"):
        assert words in caplog.text  # the whole story
    assert box.path == whole
    assert on_disk(folder) == ["tiny.safetensors"]


def test_what_comes_is_what_was_read_whatever_became_of_the_file(open_dock, give, tmp_path, qtbot):
    dock = open_dock()
    path = saved(tmp_path, drawn(nested_shapes()))
    wanted = import_checkpoint(path, Asked(upsampling="nearest")).model
    box = give(dock, path)
    path.unlink()
    pick(box.form.upsampling, "nearest", dock, qtbot)
    assert "<b>nearest</b>" in told(dock)[0]
    press(dock, box.import_button, qtbot)
    qtbot.waitUntil(lambda: "theirs" in names(dock), timeout=10_000)
    kept = load_model("theirs", "cpu")
    assert (kept.spec, kept.card) == (wanted.spec, wanted.card)  # with the hash of the file
    state = wanted.network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in kept.network.state_dict().items())


def test_answers_stay_when_it_cannot_be_kept(open_dock, give, tiny_model, folder, tmp_path, qtbot):
    dock = open_dock()
    box = give(dock, saved(tmp_path, drawn(nested_shapes())))
    pick(box.form.upsampling, "nearest", dock, qtbot)
    save_model(tiny_model(), folder / "theirs.safetensors")  # by someone else, meanwhile
    press(dock, box.import_button, qtbot)
    assert "there is a model 'theirs'" in dock.status.toolTip()
    assert "\n" not in dock.status.toolTip()
    assert "<b>nearest</b>" in told(dock)[0]
    assert box.form.asked() == Asked(upsampling="nearest")
    assert box.cancel_button.isEnabled()


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
