"""UnetPlusPlus and Unet of segmentation_models.pytorch, against that package itself."""

from __future__ import annotations

import re

import pytest
import torch

from napari_unetpp.model.checkpoint import ModelFileError, load_model
from napari_unetpp.model.foreign import import_checkpoint, recognise, save_foreign
from napari_unetpp.model.foreign_found import Asked

pytest.importorskip("timm")
smp = pytest.importorskip("segmentation_models_pytorch")


def theirs(encoder: str, architecture: str = "UnetPlusPlus", **options):
    """Their network with random weights, and statistics as after a training."""
    torch.manual_seed(3)
    network = getattr(smp, architecture)(encoder, encoder_weights=None, **options).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.8, 1.2)
                module.bias.normal_(0, 0.1)
    return network


def saved(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


CASES = {
    "resnet34": ("resnet34", "UnetPlusPlus", {}),
    "resnet34 of depth 4, five channels": (
        "resnet34", "UnetPlusPlus", {"encoder_depth": 4, "decoder_channels": (48, 24, 12, 6), "in_channels": 5},
    ),
    "resnext50, three classes": (
        "resnext50_32x4d", "UnetPlusPlus", {"encoder_depth": 3, "decoder_channels": (32, 16, 8), "classes": 3},
    ),
    "vgg11_bn, whose center is never called": ("vgg11_bn", "UnetPlusPlus", {"decoder_channels": (32, 16, 8, 8, 4)}),
    "vgg19_bn of depth 3": ("vgg19_bn", "UnetPlusPlus", {"encoder_depth": 3, "decoder_channels": (16, 8, 4)}),
    "efficientnet-b0": ("efficientnet-b0", "UnetPlusPlus", {"decoder_channels": (32, 16, 8, 8, 4)}),
    "tu-resnet18": ("tu-resnet18", "UnetPlusPlus", {"decoder_channels": (32, 16, 8, 8, 4)}),
    "without BatchNorm": ("resnet18", "UnetPlusPlus", {"decoder_channels": (32, 16, 8, 8, 4), "decoder_use_norm": False}),
    "Unet": ("resnet18", "Unet", {"decoder_channels": (32, 16, 8, 8, 4)}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_package(case, tmp_path):
    encoder, architecture, options = CASES[case]
    network = theirs(encoder, architecture, **options)
    imported = import_checkpoint(saved(network, tmp_path))
    spec = imported.model.spec
    assert spec.heads == (spec.depth,)
    assert architecture in imported.what
    save_foreign(imported, tmp_path / "ours.safetensors")
    model = load_model(tmp_path / "ours.safetensors", "cpu")
    for extent in ((64, 32), (32, 96)):
        image = torch.rand(2, spec.in_channels, *extent)
        with torch.inference_mode():
            (ours,), expected = model.network(image), network(image)
        scale = float(expected.abs().max())
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * max(scale, 1.0))
    assert any("slider has one position" in note for note in imported.notes)


def test_bilinear_upsampling_is_asked_for(tmp_path):
    network = theirs("resnet18", decoder_channels=(32, 16, 8, 8, 4), decoder_interpolation="bilinear")
    path = saved(network, tmp_path)
    imported = import_checkpoint(path, Asked(upsampling="bilinear"))
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(imported.model.network(image)[0], network(image), rtol=1e-5, atol=1e-5)
    usual = import_checkpoint(path)
    assert usual.model.spec.upsampling == "nearest"
    assert any("--upsampling bilinear" in note for note in usual.notes)


def test_what_it_was_trained_on_is_taken_to_be_imagenets(tmp_path):
    options = {"encoder_depth": 3, "decoder_channels": (8, 8, 4)}
    imported = import_checkpoint(saved(theirs("resnet18", **options), tmp_path))
    assert imported.model.intensity.fixed_offset == pytest.approx((123.675, 116.28, 103.53))
    assert any("imagenet" in note and "--intensities" in note for note in imported.notes)
    assert imported.model.card.tiling["kind"] == "overlap"
    gray = import_checkpoint(saved(theirs("resnet18", in_channels=1, **options), tmp_path))
    assert gray.model.intensity.fixed_gain == pytest.approx((1 / 255,))


@pytest.mark.parametrize(
    ("encoder", "architecture", "options", "said"),
    [
        ("densenet121", "UnetPlusPlus", {}, "its encoder is a DenseNet"),
        ("mobilenet_v2", "UnetPlusPlus", {}, "its encoder is not known"),
        ("efficientnet-b1", "UnetPlusPlus", {}, "EfficientNet of 23 blocks"),
        ("vgg11", "Unet", {}, "two more convolutions"),
        ("resnet18", "UnetPlusPlus", {"decoder_attention_type": "scse"}, "its decoder has attention"),
        ("resnet18", "UnetPlusPlus", {"decoder_use_norm": "layernorm"}, "something other than BatchNorm"),
        ("tu-seresnet18", "UnetPlusPlus", {}, "of no known use"),
    ],
)
def test_what_cannot_be_mapped_is_refused_in_one_line(encoder, architecture, options, said, tmp_path):
    network = theirs(encoder, architecture, encoder_depth=3, decoder_channels=(8, 8, 4), **options)
    with pytest.raises(ModelFileError, match=said) as error:
        import_checkpoint(saved(network, tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet34", "resnet34_d4", "vgg19_bn", "efficientnet-b0"])
def test_the_lists_of_keys_of_release_0_6_are_imported(name, shared_data, tmp_path):
    """Every weight of the list by its shape, and nothing else."""
    path = shared_data.parent / "checkpoint_keys" / f"smp060_unetpp_{name}.txt"
    if not path.is_file():
        pytest.skip(f"no {path}")
    weights = {}
    for line in path.read_text().splitlines()[1:]:
        key, _, shape = line.partition("\t")
        extents = tuple(map(int, re.findall(r"\d+", shape)))
        weights[key] = torch.zeros(extents) if extents else torch.tensor(1)
    assert recognise(weights) == "UnetPlusPlus of segmentation_models.pytorch"
    torch.save(weights, tmp_path / "list.pth")
    spec = import_checkpoint(tmp_path / "list.pth").model.spec
    assert spec.encoder == {"efficientnet-b0": "tf_efficientnet_b0"}.get(name, name.removesuffix("_d4"))
    assert spec.depth == (4 if name.endswith("_d4") else 5)
