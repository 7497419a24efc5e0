"""The Train dock's choice of an encoder, and what follows from it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from napari_unetpp.gui import train_form
from napari_unetpp.gui.models_card import card_page
from napari_unetpp.gui.models_work import ModelFile
from napari_unetpp.gui.train_form import SCRATCH, TIMM_MISSING, TrainForm
from napari_unetpp.gui.train_work import Scratch
from napari_unetpp.model.zoo import ModelEntry

pytest.importorskip("timm")


@pytest.fixture
def form(qtbot):
    form = TrainForm()
    qtbot.addWidget(form)
    form.start.addItem(SCRATCH)
    form._on_start()
    form.show()
    return form


def test_an_encoder_takes_the_place_of_a_preset(form):
    assert form.encoder.isVisible()
    assert form.preset.isVisible()
    assert not form.pretrained.isVisible()
    form.encoder.setCurrentText("  mobilenetv3_small_050 ")  # free text
    assert not form.preset.isVisible()
    form.pretrained.setChecked(True)
    chosen = form.choices()
    assert chosen.start == Scratch("default", encoder="mobilenetv3_small_050")
    assert chosen.options["encoder_weights"] == "timm"
    form.encoder.setCurrentText("none")
    assert form.choices().start == Scratch("default")
    assert "encoder_weights" not in form.choices().options
    form.ndim.setCurrentIndex(form.ndim.findData(3))
    assert not form.encoder.isVisible()


def test_a_network_goes_on_with_patches_of_the_shape_that_somebody_chose_for_it(form):
    from napari_unetpp.gui.catalogue import ModelChoice
    from napari_unetpp.model.card import Card
    from napari_unetpp.model.checkpoint import Header
    from napari_unetpp.model.intensity import Intensity
    from napari_unetpp.model.spec import NetworkSpec

    for name, ndim, patch in (("plane", 2, 64), ("volume", 3, [16, 96, 96])):
        card = Card(name, (), tiling={"kind": "overlap", "patch": patch})
        form._models[name] = ModelChoice(name, Path(name), Header(NetworkSpec(ndim=ndim), Intensity(), card))
        form.start.addItem(name)
    form.start.setCurrentText("volume")
    assert form.choices().options["patch"] == (16, 96, 96)
    form.start.setCurrentText("plane")
    assert form.choices().options["patch"] == 96
    form.patch.setText("8,64,64")  # by hand: what is chosen stays, and is told where it does not fit
    assert "the network is 2D" in form.problem()
    form.start.setCurrentText("volume")
    assert form.problem() == ""
    assert form.choices().options["patch"] == (8, 64, 64)


def test_without_timm_it_says_what_to_install(form, monkeypatch):
    monkeypatch.setattr(train_form, "find_spec", lambda _: None)
    form.encoder.setCurrentText("resnet34")
    assert form.encoder_note.text() == TIMM_MISSING
    assert form.problem() == TIMM_MISSING
    form.encoder.setCurrentText("none")
    assert not form.encoder_note.isVisible()
    assert form.problem() == ""


def encoder_model():
    from napari_unetpp.model.backbones import encoder_spec
    from napari_unetpp.model.card import Card
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.foreign_card import tiling_of
    from napari_unetpp.model.intensity import Intensity
    from napari_unetpp.model.unetpp import UNetPlusPlus

    torch.manual_seed(0)
    spec = encoder_spec("mobilenetv3_small_050", decoder_widths=(2, 4, 4, 4))
    card = Card("tiny", tiling=tiling_of(spec, 64))
    return Model(
        spec,
        UNetPlusPlus(spec).eval(),
        Intensity("fixed", fixed_offset=(0.0,), fixed_gain=(1.0,)),
        card,
        torch.device("cpu"),
    )


def test_the_live_view_deepens_level_by_level(rng):
    """The cache that the live view keeps between levels, against one pass through the network."""
    from napari_unetpp.inference.backends import prepare
    from napari_unetpp.inference.region import RegionCache, predict_region
    from napari_unetpp.model.unetpp import probabilities

    model = encoder_model()
    image = rng.random((1, 50, 70)).astype(np.float32)
    backend, cache = prepare(model), RegionCache()
    for level in (1, 3, 4):
        predict_region(image, model, level, backend=backend, cache=cache)
    with torch.inference_mode():
        heads = model.network(torch.from_numpy(image)[None])
    for level, logits in enumerate(heads, start=1):
        np.testing.assert_allclose(cache.heads[level], probabilities(logits)[0].numpy(), atol=1e-4)


def test_the_card_tells_its_costs_or_what_to_install(tmp_path, monkeypatch):
    import sys

    from napari_unetpp.model import backbones, backbones_timm
    from napari_unetpp.model.checkpoint import read_header, save_model

    path = save_model(encoder_model(), tmp_path / "tiny.safetensors")
    file = ModelFile(ModelEntry("tiny", path, "user"), read_header(path))
    assert "Parameters" in card_page(file)
    monkeypatch.setitem(sys.modules, "timm", None)
    backbones_timm.offered_maps.cache_clear()
    backbones._stage_costs.cache_clear()
    page = card_page(file)
    assert "Parameters" not in page
    assert "napari-unetpp[backbones]" in page
