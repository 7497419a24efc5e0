"""The state behind the slider: what it offers, what it refuses, when it tells."""

import subprocess
import sys
from unittest.mock import Mock

import pytest

from napari_unetpp.gui.comparison import HeadComparison, level_name


def test_offers_every_head_and_the_ensemble():
    assert HeadComparison.of_heads((4, 1, 3, 2)).levels == (1, 2, 3, 4, "ensemble")


def test_one_head_has_no_ensemble():
    comparison = HeadComparison.of_heads((4,))
    assert comparison.levels == (4,)
    assert comparison.level == 4


def test_starts_at_the_level_asked_for():
    assert HeadComparison.of_heads((1, 2), level=1).level == 1


def test_no_head_is_refused():
    with pytest.raises(ValueError, match="at least one level"):
        HeadComparison.of_heads(())


def test_tells_a_change_once_and_no_change_not_at_all():
    comparison, heard = HeadComparison.of_heads((1, 2, 3)), Mock()
    comparison.events.level.connect(heard, check_nargs=False)
    comparison.level = 2
    comparison.level = 2
    assert [call.args[0] for call in heard.call_args_list] == [2]


def test_refuses_a_level_that_is_not_there_and_tells_nobody():
    comparison, heard = HeadComparison.of_heads((1, 2)), Mock()
    comparison.events.level.connect(heard, check_nargs=False)
    with pytest.raises(ValueError, match="level 3 is not among L1, L2, Ensemble"):
        comparison.level = 3
    assert comparison.level == 2
    heard.assert_not_called()


def test_steps_stop_at_the_ends():
    comparison = HeadComparison.of_heads((1, 2), level=1)
    seen = []
    for by in (-1, 1, 1, 1, -1):
        comparison.step(by)
        seen.append(comparison.level)
    assert seen == [1, 2, "ensemble", "ensemble", 2]


@pytest.mark.parametrize("threshold", [-0.01, 1.01, float("nan")])
def test_refuses_a_threshold_that_is_no_probability(threshold):
    comparison, heard = HeadComparison.of_heads((1, 2)), Mock()
    comparison.events.threshold.connect(heard, check_nargs=False)
    with pytest.raises(ValueError, match="is not a probability; use 0 to 1"):
        comparison.threshold = threshold
    assert comparison.threshold == 0.5
    heard.assert_not_called()
    for allowed in (0, 1):
        comparison.threshold = allowed
    assert heard.call_count == 2


def test_heads_are_the_levels_without_the_ensemble():
    assert HeadComparison.of_heads((3, 1)).heads == (1, 3)
    assert HeadComparison.of_heads((2,)).heads == (2,)


def test_names():
    assert [level_name(level) for level in (1, 4, "ensemble")] == ["L1", "L4", "Ensemble"]


def test_needs_neither_qt_nor_napari():
    code = (
        "import sys, napari_unetpp.gui.comparison\n"
        "heavy = {'napari', 'qtpy', 'superqt', 'torch', 'PyQt6', 'PySide6'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
