"""The error of a short halo: none for the exact one, and what brute force finds for a shorter one."""

from __future__ import annotations

import numpy as np
import pytest

from napari_unetpp.inference.predict import predict_array, predict_region
from napari_unetpp.inference.seams import seam_errors
from napari_unetpp.inference.tiles import Seamless, plan_tiles
from napari_unetpp.stacks import open_stack


@pytest.mark.parametrize("classes", [1, 3])
def test_no_halo_shows_its_seams_and_the_exact_one_has_none(make_model, texture, classes):
    model = make_model(ndim=3, widths=(2, 3, 4), classes=classes)
    stack = open_stack(texture(24, 40, 48), axes="zyx")
    exact = -(-model.spec.receptive_radius() // 4) * 4
    found = list(seam_errors(stack, model, [exact, 0, 8], inner=8))
    assert [(e.level, e.halo) for e in found] == [(d, h) for h in (0, 8, exact) for d in (1, 2)]
    none, short, right = (found[k + 1] for k in (0, 2, 4))  # of L2
    assert none.mean > short.mean > right.mean
    assert right.largest < 1e-5
    assert right.labels == 0
    assert none.read_factor == 1
    assert right.read_factor > short.read_factor > 1
    assert {e.reference for e in found} == {exact}


def test_the_error_is_that_of_whole_predictions(make_model, texture):
    model = make_model(widths=(4, 6, 8))
    image = texture(8, 40)
    stack = open_stack(image, axes="yx")
    tiling = Seamless(8, 4)
    whole = predict_region(image[None], model)
    tiled = predict_array(stack, model, tiling=tiling)
    tiles = plan_tiles(image.shape, model.spec, tiling)
    assert len(tiles) == 5  # of which the middle one and those around it are compared
    seen = np.r_[8:32]
    for error, (head, truth) in zip(
        seam_errors(stack, model, [4], inner=8), zip(tiled.values(), whole, strict=True), strict=True
    ):
        off = np.abs(head - truth)[..., seen]
        assert error.voxels == off[0].size
        assert error.mean == pytest.approx(off.mean(), abs=1e-6)
        assert error.largest == pytest.approx(off.max(), abs=1e-6)
        assert error.labels == pytest.approx(((head >= 0.5) != (truth >= 0.5))[..., seen].mean())


def test_a_halo_beyond_what_counts_as_right_is_refused(make_model, texture):
    model = make_model()
    with pytest.raises(ValueError, match="halo 8 is longer than 4"):
        list(seam_errors(open_stack(texture(32, 32), axes="yx"), model, [8], inner=8, longest=4))
