"""The status line: its error is legible in every theme, and stays so when the theme changes."""

import pytest
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_unetpp.gui.status import StatusLabel

# Of the Web Content Accessibility Guidelines 2, success criterion 1.4.3, for text of a usual size.
LEAST_CONTRAST = 4.5


@pytest.fixture
def label(viewer, qtbot):
    panel = QWidget()
    shown = StatusLabel()
    QVBoxLayout(panel).addWidget(shown)
    viewer.window.add_dock_widget(panel, name="a dock")
    qtbot.waitUntil(shown.isVisible, timeout=10_000)
    return shown


def luminance(color):
    """As WCAG 2 defines it."""
    linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in color.getRgbF()[:3]]
    return sum(weight * x for weight, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(label):
    """Of the text on the pixels behind it."""
    picture = label.parentWidget().grab().toImage()
    light = sorted(luminance(color) for color in (picture.pixelColor(2, 2), QColor(shown_color(label))))
    return (light[1] + 0.05) / (light[0] + 0.05)


def shown_color(label):
    return label.palette().color(label.foregroundRole()).name()


def show_theme(viewer, theme, label, qtbot):
    around = label.parentWidget()
    before = around.palette().color(around.foregroundRole()).name()
    changes = viewer.theme != theme
    viewer.theme = theme
    if changes:
        qtbot.waitUntil(lambda: around.palette().color(around.foregroundRole()).name() != before, timeout=10_000)
    qtbot.wait(100)


@pytest.mark.parametrize("themes", [("dark",), ("light",), ("dark", "light"), ("light", "dark")])
def test_an_error_is_red_and_legible(viewer, label, qtbot, themes):
    show_theme(viewer, themes[0], label, qtbot)
    label.say("The disk is full.", error=True)
    for theme in themes:
        show_theme(viewer, theme, label, qtbot)
        color = QColor(shown_color(label))
        assert color.red() > 1.4 * max(color.green(), color.blue())
        assert contrast(label) >= LEAST_CONTRAST, theme


def test_what_is_no_error_has_the_colour_of_the_theme(viewer, label, qtbot):
    around = label.parentWidget()
    label.say("The disk is full.", error=True)
    assert shown_color(label) != shown_color(around)
    label.say("Ready.")
    assert shown_color(label) == shown_color(around)
    show_theme(viewer, "light", label, qtbot)
    assert shown_color(label) == shown_color(around)


def test_long_words_can_be_broken_and_are_whole_in_the_tooltip(qtbot):
    label = StatusLabel()
    qtbot.addWidget(label)
    path = "/a/path/" + "x" * 90
    label.say(path)
    assert label.text().replace("\u200b", "") == label.toolTip() == path
    assert max(map(len, label.text().split("\u200b"))) <= 24
    assert label.minimumSizeHint().width() < 320
