"""Models whose grid is not the plain one in the Segment dock: on an encoder of timm, and without padding."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from qtpy.QtCore import Qt

from napari_unetpp.inference.predict import measure_stack, predict_array
from napari_unetpp.model.checkpoint import load_model, save_model
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus
from napari_unetpp.model.zoo import user_folder
from napari_unetpp.stacks import open_stack

pytestmark = pytest.mark.gui

LEFT = Qt.MouseButton.LeftButton


def _encoder():
    pytest.importorskip("timm")
    from napari_unetpp.model.backbones import encoder_spec

    return encoder_spec("resnet18", in_channels=1, depth=2, decoder_widths=(4, 4))


SPECS = {
    "encoder": (_encoder, {"kind": "overlap", "patch": 32, "stride": 16}),
    "unpadded": (lambda: NetworkSpec(widths=(4, 6, 8), heads=(1, 2), padding="valid"), {"kind": "seamless"}),
}


@pytest.mark.parametrize("kind", SPECS)
def test_live_and_stored_levels(viewer, home, tiny_model, open_dock, predictions, qtbot, rng, kind):
    make, tiling = SPECS[kind]
    tiny, spec = tiny_model(), make()
    torch.manual_seed(2)
    network = UNetPlusPlus(spec).eval()
    noise = torch.rand(1, 1, 64, 64)
    with torch.no_grad():  # about half of the voxels are yes
        for head, logits in zip(network.heads.values(), network(noise), strict=True):
            head.bias -= logits.median()
    made = replace(tiny, spec=spec, network=network, card=replace(tiny.card, name="other", tiling=tiling))
    save_model(made, user_folder() / "other.safetensors")
    image = rng.integers(0, 200, (2, 48, 56), np.uint8)
    viewer.add_image(image, name="stack", axis_labels=("z", "y", "x"))
    dock = open_dock()
    viewer.reset_view()
    dock.form.model.setCurrentText("other")
    live = dock.level_box.live_view
    qtbot.waitUntil(lambda: live.reached == 1 and not live.computing, timeout=60_000)  # what the card recommends
    dock.slider.slider.setValue(1)
    qtbot.waitUntil(lambda: live.reached == 2 and not live.computing, timeout=60_000)
    (shown,) = [layer for layer in viewer.layers if layer.name.endswith(" live")]
    on_screen = np.asarray(shown.data)[viewer.dims.current_step[0]]
    assert 0.05 < (on_screen > 0).mean() < 0.95
    qtbot.mouseClick(dock.run_button, LEFT)
    qtbot.waitUntil(lambda: dock.state in ("done", "failed") and dock.job is None, timeout=60_000)
    assert dock.state == "done", dock.status.text()
    model = load_model("other", "cpu")
    stack = open_stack(image, axes="zyx")
    assert measure_stack(stack, model)
    for level, head in predict_array(stack, model).items():
        clear = np.abs(head[0] - 0.5) > 1 / 255
        labels = np.asarray(viewer.layers[f"stack L{level}"].data)
        np.testing.assert_array_equal((labels == 1)[clear], (head[0] >= 0.5)[clear])
        assert 0.05 < (labels > 0).mean() < 0.95
