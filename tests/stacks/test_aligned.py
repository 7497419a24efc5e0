"""Labels that lack axes of extent 1 of their image fit it; all others stay as they are, and are refused."""

from __future__ import annotations

import numpy as np
import pytest

from napari_unetpp.box import Box
from napari_unetpp.stacks import aligned, open_stack
from napari_unetpp.training.pairs import Pair

LABELS = np.random.default_rng(0).integers(0, 9, (5, 6, 7)).astype("u2")


@pytest.mark.parametrize(
    ("shape", "axes", "wanted", "wanted_axes"),
    [
        ((6, 7), "yx", (1, 6, 7), "zyx"),
        ((6, 7), "yx", (1, 1, 6, 7), "tzyx"),
        ((1, 6, 7), "zyx", (6, 7), "yx"),
        ((5, 6, 7), "zyx", (1, 5, 6, 7), "tzyx"),
        ((5, 6, 7), "zyx", (5, 1, 6, 7), "tzyx"),
        ((1, 5, 6, 7), "czyx", (5, 6, 7), "zyx"),
        ((1, 6, 7, 1), "zyxc", (1, 1, 6, 7), "tzyx"),
    ],
)
def test_axes_of_extent_one_are_added_and_left_out(shape: tuple, axes: str, wanted: tuple, wanted_axes: str) -> None:
    data = LABELS.ravel()[: np.prod(shape)].reshape(shape)
    with open_stack(data, axes=axes) as labels, open_stack(np.zeros(wanted), axes=wanted_axes) as image:
        fitting = aligned(labels, wanted_axes, wanted)
        assert (fitting.axes, fitting.shape) == (wanted_axes, wanted)
        np.testing.assert_array_equal(fitting.read(Box.of(wanted))[0], data.reshape(wanted))
        inside = Box([0] * len(wanted), [min(n, 3) for n in wanted])
        np.testing.assert_array_equal(fitting.read(inside)[0], data.reshape(wanted)[inside.slices])
        pair = Pair(image, labels)
        np.testing.assert_array_equal(pair.label.read(pair.whole)[0], data.reshape(wanted))


@pytest.mark.parametrize("wanted", [(5, 6, 8), (6, 5, 7), (7, 6, 5), (1, 5, 42)])
def test_other_extents_are_refused_as_before(wanted: tuple) -> None:
    with open_stack(LABELS) as labels, open_stack(np.zeros(wanted)) as image:
        assert aligned(labels, "zyx", wanted) is labels
        with pytest.raises(ValueError, match="they must be equal"):
            Pair(image, labels)


def test_labels_of_several_channels_are_refused_as_before() -> None:
    wanted = pytest.raises(ValueError, match="integers without a channel axis are wanted")
    with open_stack(LABELS, axes="cyx") as labels, open_stack(LABELS[0]) as image, wanted:
        Pair(image, labels)
