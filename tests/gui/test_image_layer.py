"""An image layer as a stack: axes are named and never guessed from a length."""

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_unetpp.box import Box
from napari_unetpp.gui.image_layer import (
    check_axes,
    slice_box,
    stack_from_layer,
    suggest_axes,
    visible_box,
)


def test_named_axes_are_taken_and_are_certain():
    layer = Image(np.zeros((3, 4, 40, 50)), axis_labels=("z", "c", "y", "x"))
    suggestion = suggest_axes(layer)
    assert suggestion.axes == "zcyx"
    assert suggestion.certain


def test_metadata_names_axes():
    assert suggest_axes(Image(np.zeros((4, 3, 9, 9)), metadata={"axes": "TZYX"})).axes == "tzyx"
    rgb = Image(np.zeros((9, 9, 3), np.uint8), rgb=True, metadata={"axes": "YXS"})
    assert suggest_axes(rgb).axes == "yxc"


def test_rgb_has_its_channels_last():
    layer = Image(np.zeros((20, 30, 3), np.uint8), rgb=True, axis_labels=("y", "x"))
    assert suggest_axes(layer).axes == "yxc"
    stack = stack_from_layer(layer)
    assert (stack.axes, stack.channels, stack.shape_predicted) == ("yxc", 3, (20, 30))


@pytest.mark.parametrize("extent", [3, 4, 7])
def test_a_short_axis_is_no_channel(extent):
    """(3, y, x) is a stack of three slices like (7, y, x), and both are said to be assumed."""
    for shape in ((extent, 40, 50), (40, 50, extent)):
        suggestion = suggest_axes(Image(np.zeros(shape), rgb=False))
        assert suggestion.axes == "zyx"
        assert not suggestion.certain


def test_a_plane_is_certain_and_four_axes_have_to_be_named():
    assert suggest_axes(Image(np.zeros((8, 8)))).certain
    layer = Image(np.zeros((2, 3, 8, 8)))
    assert suggest_axes(layer).axes == ""
    with pytest.raises(ValueError, match="Name the 4 axes"):
        stack_from_layer(layer)
    assert stack_from_layer(layer, "czyx").shape_predicted == (3, 8, 8)


@pytest.mark.parametrize(
    ("axes", "wrong"),
    [("", "Name the 3"), ("qyx", "'q' is not one"), ("yyx", "twice"), ("yx", "name 2"),
     ("tcz", "lack y or x")],
)  # fmt: skip
def test_axes_that_cannot_be_are_refused(axes, wrong):
    with pytest.raises(ValueError, match=wrong):
        check_axes(Image(np.zeros((5, 6, 7))), axes)


def test_a_colour_image_with_c_elsewhere_is_refused():
    with pytest.raises(ValueError, match="last axis is c"):
        check_axes(Image(np.zeros((5, 6, 3), np.uint8), rgb=True), "cyx")


def test_spacing_comes_from_scale_and_units():
    layer = Image(
        np.zeros((5, 6, 7)),
        axis_labels=("z", "y", "x"),
        scale=(0.5, -200, 200),
        units=("um", "nm", "nm"),
    )
    assert stack_from_layer(layer).spacing_um == pytest.approx((0.5, 0.2, 0.2))


def test_pixels_and_seconds_are_no_spacing():
    assert stack_from_layer(Image(np.zeros((6, 7)), scale=(2, 2))).spacing_um == (None, None)
    layer = Image(np.zeros((4, 6, 7)), axis_labels=("t", "y", "x"), scale=(3, 1, 1), units=("s", "um", "um"))
    assert stack_from_layer(layer).spacing_um == (None, 1.0, 1.0)


def test_the_stack_shows_the_layer_and_bears_its_name():
    data = np.arange(6 * 7).reshape(6, 7)
    stack = stack_from_layer(Image(data, name="cells"))
    assert stack.name == "cells"
    np.testing.assert_array_equal(stack.read(Box((0, 0), (6, 7)))[0], data)


def test_of_a_multiscale_image_the_full_resolution_is_taken():
    layer = Image([np.ones((64, 64)), np.ones((32, 32))], multiscale=True)
    assert stack_from_layer(layer).shape == (64, 64)
    assert slice_box(ViewerModel(), layer, "yx") == Box((0, 0), (64, 64))


@pytest.fixture
def model():
    """Shadows the network of the same name: this is a viewer without a window."""
    return ViewerModel()


def test_the_slice_box_follows_the_sliders(model):
    layer = model.add_image(np.zeros((5, 6, 20, 30)), scale=(1, 2.5, 1, 1))
    model.dims.set_current_step((0, 1), (3, 4))
    assert slice_box(model, layer, "tzyx") == Box((3, 4, 0, 0), (4, 5, 20, 30))
    assert slice_box(model, layer, "zcyx") == Box((3, 0, 0), (4, 20, 30))


def test_below_more_axes_the_last_ones_count(model):
    model.add_image(np.zeros((9, 5, 20, 30)))
    layer = model.add_image(np.zeros((5, 20, 30)))
    model.dims.set_current_step((0, 1), (8, 2))
    assert slice_box(model, layer, "zyx") == Box((2, 0, 0), (3, 20, 30))


def test_a_turned_view_still_asks_for_whole_planes(model):
    layer = model.add_image(np.zeros((5, 20, 30)))
    model.dims.order = (1, 0, 2)  # z and x on the screen, a slider for y
    model.dims.set_current_step(1, 7)
    layer.corner_pixels = np.array([[0, 0, 0], [4, 0, 29]])
    assert slice_box(model, layer, "zyx") == Box((0, 0, 0), (5, 20, 30))
    assert visible_box(model, layer, "zyx") == Box((0, 7, 0), (5, 8, 30))


def test_what_is_on_the_screen_lies_inside_the_image(model):
    layer = model.add_image(np.zeros((5, 20, 30)))
    model.dims.set_current_step(0, 4)
    layer.corner_pixels = np.array([[0, 5, -9], [0, 11, 400]])
    assert visible_box(model, layer, "zyx") == Box((4, 5, 0), (5, 12, 30))
    layer.corner_pixels = np.array([[0, 50, 50], [0, 60, 60]])  # panned away
    assert visible_box(model, layer, "zyx") == Box((4, 19, 29), (5, 20, 30))


def test_in_3d_everything_is_on_the_screen(model):
    layer = model.add_image(np.zeros((5, 20, 30)))
    model.dims.ndisplay = 3
    assert slice_box(model, layer, "zyx") == Box((0, 0, 0), (5, 20, 30))
