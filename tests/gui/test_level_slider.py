"""The slider and the state agree both ways, without a loop; so do the keys."""

import itertools
from unittest.mock import Mock

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt

from napari_unetpp.gui.comparison import HeadComparison
from napari_unetpp.gui.layers import add_levels
from napari_unetpp.gui.level_slider import LevelSlider, bind_level_keys
from napari_unetpp.inference.store import create_store

pytestmark = pytest.mark.gui


@pytest.fixture
def slider(qtbot):
    widget = LevelSlider()
    qtbot.addWidget(widget)
    widget.resize(300, 80)
    widget.show()
    return widget


def test_without_a_prediction_it_is_disabled(slider):
    assert not slider.isEnabled()
    slider.slider.setValue(1)  # and harmless


def test_it_starts_where_the_comparison_is(slider):
    slider.bind(HeadComparison.of_heads((1, 2, 3, 4), level=3))
    assert slider.isEnabled()
    assert (slider.slider.minimum(), slider.slider.maximum(), slider.slider.value()) == (0, 4, 2)


def test_both_ways(slider, qtbot):
    comparison, heard = HeadComparison.of_heads((1, 2, 3, 4)), Mock()
    slider.bind(comparison)
    comparison.events.level.connect(heard, check_nargs=False)
    slider.slider.setValue(4)
    assert comparison.level == "ensemble"
    slider.slider.setFocus()
    qtbot.keyClick(slider.slider, Qt.Key.Key_Left)
    assert comparison.level == 4
    comparison.level = 1
    assert slider.slider.value() == 0
    assert heard.call_count == 3  # one event a change: nothing goes round


def test_a_click_on_a_name(slider, qtbot):
    comparison = HeadComparison.of_heads((1, 2, 3, 4))
    slider.bind(comparison)
    button = next(b for b in slider.findChildren(type(slider._buttons[0])) if b.text() == "L2")
    for _ in range(2):  # the second click on it changes nothing
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
        assert comparison.level == 2
        assert button.isChecked()


def test_another_prediction_with_fewer_heads(slider):
    first, second = HeadComparison.of_heads((1, 2, 3, 4)), HeadComparison.of_heads((4,))
    slider.bind(first)
    slider.bind(second)
    assert slider.slider.maximum() == 0
    slider.slider.setValue(0)
    first.level = 1  # nobody listens any more
    assert second.level == 4
    assert slider.slider.value() == 0


def test_names_stay_inside_and_apart(slider):
    slider.bind(HeadComparison.of_heads((1, 2, 3, 4)))
    places = [button.geometry() for button in slider._buttons]
    assert places[0].left() >= 0
    assert places[-1].right() < slider.width()
    for left, right in itertools.pairwise(places):
        assert left.right() < right.left()


def test_keys_move_every_prediction_that_has_the_level(tmp_path):
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((8, 9)))
    comparisons = []
    for heads in ((1, 2), (1, 2, 3)):
        store = create_store(tmp_path / f"{len(heads)}", (8, 9), heads, axes="yx")
        comparisons.append(HeadComparison.of_heads(heads))
        add_levels(viewer, image, "yx", store, comparisons[-1])
    bind_level_keys(viewer)
    bind_level_keys(viewer)  # a second dock
    press = {str(key): action for key, action in viewer.keymap.items()}
    for key, levels in (
        ("Alt+1", [1, 1]),
        ("Alt+3", [1, 3]),
        ("Alt+0", ["ensemble", "ensemble"]),
        ("Alt+9", ["ensemble", "ensemble"]),
    ):
        press[key](viewer)
        assert [c.level for c in comparisons] == levels
