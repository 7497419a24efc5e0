"""Names too long for their field show both their ends, and all of them as tooltip; sliders show the axes that the form knows."""

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QPoint
from qtpy.QtGui import QHelpEvent
from qtpy.QtWidgets import QApplication, QComboBox, QToolTip, QTreeWidget

from napari_unetpp.gui.elided import ElidedCombo, ElidedLineEdit
from napari_unetpp.gui.fields import combo_box
from napari_unetpp.model.checkpoint import save_model
from napari_unetpp.model.zoo import user_folder
from tests.gui.mouse import LEFT

pytestmark = pytest.mark.gui

LONG = "em-boundaries tuned-2 tuned with corrections of the third animal"


def tooltip_of(widget):
    """What a mouse that rests on it is told."""
    QToolTip.hideText()
    at = widget.rect().center()
    QApplication.sendEvent(widget, QHelpEvent(QEvent.Type.ToolTip, at, widget.mapToGlobal(QPoint(0, 0))))
    return QToolTip.text()


def check_short(widget, whole):
    shown = widget.shown_text()
    assert shown != whole
    start, end = shown.split("\N{HORIZONTAL ELLIPSIS}")
    assert whole.startswith(start)
    assert whole.endswith(end)
    assert min(len(start), len(end)) > 4
    assert widget.fontMetrics().horizontalAdvance(shown) <= widget.width()
    assert tooltip_of(widget).startswith(whole)


@pytest.mark.parametrize("make", [lambda: combo_box("About it."), ElidedLineEdit])
def test_both_ends_are_seen_and_all_of_it_is_the_tooltip(qtbot, make):
    field = make()
    qtbot.addWidget(field)
    if isinstance(field, QComboBox):
        field.addItem(LONG)
    else:
        field.setText(LONG)
        field.setToolTip("About it.")
    field.resize(200, 28)
    field.show()
    check_short(field, LONG)
    assert tooltip_of(field).endswith("About it.")
    field.grab()
    field.resize(900, 28)
    assert field.shown_text() == LONG
    assert tooltip_of(field) == "About it."


def test_what_is_painted_is_short(qtbot):
    """The pixels are those of a field that holds the shortened text itself."""
    long, short = combo_box(""), combo_box("")
    for combo in (long, short):
        qtbot.addWidget(combo)
        combo.resize(200, 28)
    long.addItem(LONG)
    short.addItem(long.shown_text())
    assert short.shown_text() == long.shown_text()
    assert long.grab().toImage() == short.grab().toImage()


def test_every_dock_shortens_long_names(viewer, model, tiny_model, qtbot, rng):
    save_model(tiny_model(), user_folder() / f"{LONG}.safetensors")
    viewer.add_image(rng.integers(0, 99, (3, 32, 32), np.uint8), name=f"{LONG} raw")
    viewer.add_labels(rng.integers(0, 2, (3, 32, 32)).astype(np.uint8), name=f"{LONG} labels")
    seen = set()
    for name in ("Segment", "Models", "Correct", "Train", "Compare"):
        _, dock = viewer.window.add_plugin_dock_widget("napari-unetpp", name)
        qtbot.waitUntil(dock.isVisible, timeout=10_000)
        if name in ("Segment", "Train"):
            field = dock.form.model if name == "Segment" else dock.form.start
            qtbot.waitUntil(lambda field=field: field.findText(LONG) >= 0, timeout=60_000)
            field.setCurrentText(LONG)
        if name == "Models":
            qtbot.waitUntil(lambda dock=dock: LONG in dock.models, timeout=60_000)
        qtbot.wait(50)
        for combo in (combo for combo in dock.findChildren(QComboBox) if combo.isVisible()):
            text = combo.currentText()
            if text.startswith(LONG):
                check_short(combo, text)
                seen.add(name)
            elif not isinstance(combo, ElidedCombo):
                assert combo.width() >= combo.fontMetrics().horizontalAdvance(text), text
        if name == "Models":
            (table,) = dock.findChildren(QTreeWidget)
            row = next(table.topLevelItem(k) for k in range(2) if table.topLevelItem(k).text(0) == LONG)
            assert row.toolTip(0) == LONG
            assert "Middle" in str(table.textElideMode())
            seen.add(name)
    assert seen == {"Segment", "Models", "Correct", "Train"}  # there is no prediction to compare


def test_sliders_get_the_names_of_the_axes(viewer, open_dock, qtbot, rng):
    image = viewer.add_image(rng.integers(0, 99, (3, 4, 32, 32), np.uint8), name="cells")
    dock = open_dock()
    button = dock.form.axis_names
    assert not button.isVisible()  # nobody knows the axes of four
    dock.form.axes.setText("")
    qtbot.keyClicks(dock.form.axes, "tzyx")
    assert button.isVisible()
    assert viewer.dims.axis_labels == ("-4", "-3", "-2", "-1")
    qtbot.mouseClick(button, LEFT)
    assert image.axis_labels == tuple("tzyx")
    assert viewer.dims.axis_labels == tuple("tzyx")
    assert not button.isVisible()
    dock.form.axes.clear()
    qtbot.keyClicks(dock.form.axes, "ztyx")  # it was a mistake
    qtbot.mouseClick(button, LEFT)
    assert image.axis_labels == tuple("ztyx")
    image.axis_labels = ("plane", "time", "row", "column")  # names of somebody's own are left alone
    dock.form.changed.emit()
    assert not button.isVisible()
