"""UnetPlusPlus and Unet of segmentation_models.pytorch, against that package itself."""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import Mock, patch

import pytest
import torch
from torch.nn import functional

from napari_unetpp.model import foreign
from napari_unetpp.model.checkpoint import ModelFileError, load_model
from napari_unetpp.model.foreign import Known, convert, import_checkpoint, recognise, save_foreign
from napari_unetpp.model.foreign_files import Checkpoint
from napari_unetpp.model.foreign_found import Asked
from napari_unetpp.model.foreign_smp_encoders import find_encoder

pytest.importorskip("timm")
smp = pytest.importorskip("segmentation_models_pytorch")

WIDTHS = (16, 12, 8, 8, 4)
DRAWN = "torch.nn.init.kaiming_uniform_"


def shapes(encoder: str, architecture: str = "UnetPlusPlus", depth: int = 5, **options):
    """Their network on shapes alone, for which drawing weights takes the longest."""
    options = {"encoder_depth": depth, "decoder_channels": WIDTHS[:depth]} | options
    with torch.device("meta"), patch.object(torch.nn.Conv2d, "reset_parameters", Mock()), patch(DRAWN, Mock()):
        return getattr(smp, architecture)(encoder, encoder_weights=None, **options).eval()


def theirs(encoder: str, architecture: str = "UnetPlusPlus", depth: int = 5, **options):
    """Their network with random weights that keep the size of what passes, and statistics as after a training."""
    network = shapes(encoder, architecture, depth, **options).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(3)
    for key, value in network.state_dict().items():
        if value.ndim > 1:
            bound = (6 / value[0].numel()) ** 0.5
            value.uniform_(-bound, bound, generator=generator)
        elif value.ndim == 0:
            value.fill_(1)
        else:
            low, high = (0.6, 1.4) if key.endswith(("var", "weight")) else (-0.1, 0.1)
            value.uniform_(low, high, generator=generator)
    return network


def known(weights) -> Known:
    """As it is read from a file."""
    path = Path("theirs.pth")
    return Known(Checkpoint(path, weights), *foreign._finder(path, weights), "")


def zeros(network):
    """Weights that take no memory."""
    return {key: torch.zeros((), dtype=v.dtype).expand(v.shape) for key, v in network.state_dict().items()}


def compare(network, imported, extent=(64, 32)) -> None:
    image = torch.rand(1, imported.model.spec.in_channels, *extent)
    with torch.inference_mode():
        (ours,), expected = imported.model.network(image), network(image)
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * max(float(expected.abs().max()), 1.0))


# One for each way that an encoder's maps, padding or names are told: (encoder, decoder, depth, options, --encoder).
CASES = {
    "ResNeXt": ("resnext50_32x4d", "UnetPlusPlus", 3, {"classes": 3}, None),
    "without BatchNorm": ("resnet18", "UnetPlusPlus", 5, {"decoder_use_norm": False}, None),
    "SENet, pooled otherwise": ("se_resnet50", "Unet", 3, {}, None),
    "VGG, whose center is never called": ("vgg11", "UnetPlusPlus", 3, {}, None),
    "VGG, whose center is called": ("vgg11_bn", "Unet", 5, {}, None),
    "DenseNet, to a map without ReLU": ("densenet121", "UnetPlusPlus", 5, {}, None),
    "DenseNet, to a map in a transition": ("densenet121", "Unet", 3, {}, "densenet121"),
    "EfficientNet, of even maps": ("efficientnet-b0", "UnetPlusPlus", 5, {}, "efficientnet-b0"),
    "EfficientNet, of odd maps": ("efficientnet-b1", "Unet", 5, {}, None),
    "EfficientNet of timm": ("timm-efficientnet-b0", "UnetPlusPlus", 4, {}, None),
    "EfficientNet of timm, lite": ("timm-tf_efficientnet_lite1", "Unet", 5, {}, None),
    "tu- that need not be named": ("tu-resnet18", "Unet", 3, {}, None),
    "tu- from a quarter": ("tu-test_convnext", "UnetPlusPlus", 5, {}, "tu-test_convnext.r160_in1k"),
    "tu- from a quarter, Unet": ("tu-test_convnext", "Unet", 5, {}, "test_convnext"),
    "tu- in blocks": ("tu-test_efficientnet", "UnetPlusPlus", 4, {"in_channels": 2}, "test_efficientnet"),
    "tu- from the whole": ("tu-vgg11", "Unet", 4, {}, "vgg11"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_package(case):
    encoder, architecture, depth, options, name = CASES[case]
    network = theirs(encoder, architecture, depth, **options)
    imported = convert(known(network.state_dict()), Asked(encoder=name))
    assert imported.what == f"{architecture} of segmentation_models.pytorch on {encoder}"
    compare(network, imported)


def test_a_checkpoint_becomes_a_model_file_for_images_of_any_extent(tmp_path):
    """Their own network wants multiples of 16, and is given the mirrored image that ours makes of it."""
    network = theirs("resnet18", depth=4, in_channels=5, decoder_channels=(24, 12, 6, 5))
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    imported = import_checkpoint(tmp_path / "theirs.pth")
    assert imported.model.spec.heads == (4,)
    assert any("slider has one position" in note for note in imported.notes)
    save_foreign(imported, tmp_path / "ours.safetensors")
    model = load_model(tmp_path / "ours.safetensors", "cpu")
    image = torch.rand(2, 5, 50, 37)
    with torch.inference_mode():
        (ours,) = model.network(image)
        expected = network(functional.pad(image, (0, 11, 0, 14), "reflect"))[..., :50, :37]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_bilinear_upsampling_is_asked_for():
    network = theirs("resnet18", depth=3, decoder_interpolation="bilinear")
    checkpoint = known(network.state_dict())
    compare(network, convert(checkpoint, Asked(upsampling="bilinear")))
    usual = convert(checkpoint)
    assert usual.model.spec.upsampling == "nearest"
    assert any("--upsampling bilinear" in note for note in usual.notes)


def test_what_it_was_trained_on_is_taken_to_be_imagenets():
    imported = convert(known(zeros(shapes("resnet18", depth=3))))
    assert imported.model.intensity.fixed_offset == pytest.approx((123.675, 116.28, 103.53))
    assert any("imagenet" in note and "--intensities" in note for note in imported.notes)
    assert imported.model.card.tiling["kind"] == "overlap"
    gray = convert(known(zeros(shapes("resnet18", depth=3, in_channels=1))))
    assert gray.model.intensity.fixed_gain == pytest.approx((1 / 255,))


def test_encoders_are_known_by_their_shapes():
    """Some that are much alike; the package's own word on the channels of their maps."""
    names = "resnet101 resnext101_32x8d se_resnext50_32x4d vgg13_bn vgg19 densenet161 densenet169 "
    names += "efficientnet-b2 efficientnet-b3 timm-efficientnet-b1 timm-efficientnet-b2"
    for name in names.split():
        with torch.device("meta"):
            encoder = smp.encoders.get_encoder(name, weights=None)
        found = find_encoder({f"encoder.{key}": value for key, value in encoder.state_dict().items()}, None, 5)
        assert found.theirs == name
        assert found.channels == tuple(encoder.out_channels)[found.row :]


@pytest.mark.parametrize(
    ("encoder", "architecture", "options", "name", "said"),
    [
        ("mobilenet_v2", "UnetPlusPlus", {}, None, "its encoder is not known"),
        ("vgg11", "Unet", {"decoder_use_norm": False}, None, "two convolutions without BatchNorm"),
        ("resnet18", "UnetPlusPlus", {"decoder_attention_type": "scse"}, None, "its decoder has attention"),
        ("resnet18", "UnetPlusPlus", {"decoder_use_norm": "layernorm"}, None, "something other than BatchNorm"),
        ("resnet18", "Unet", {}, "resnet34", "its encoder is resnet18, so --encoder resnet34 does not fit"),
        ("tu-seresnet18", "UnetPlusPlus", {}, None, "say what stands behind tu-, as --encoder convnext_tiny"),
        ("tu-resnet26", "Unet", {}, None, "say what stands behind tu-"),
        ("tu-seresnet18", "UnetPlusPlus", {}, "resnet18", "of no known use"),
        ("tu-test_convnext", "Unet", {}, "convnext_atto", "where .* is wanted; name another --encoder"),
        ("tu-test_resnet", "Unet", {}, "seresnet18", "seresnet18, which has .* as well"),
        ("tu-test_resnet", "Unet", {}, "resnet43", "did you mean resnet34"),
        ("tu-hrnet_w18_small", "Unet", {}, "hrnet_w18_small", "cannot be taken apart"),
    ],
)
def test_what_cannot_be_mapped_is_refused_in_one_line(encoder, architecture, options, name, said):
    checkpoint = known(zeros(shapes(encoder, architecture, 3, **options)))
    with pytest.raises(ModelFileError, match=said) as error:
        convert(checkpoint, Asked(encoder=name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet34", "resnet34_d4", "vgg19_bn", "efficientnet-b0"])
def test_the_lists_of_keys_of_release_0_6_are_imported(name, shared_data):
    """Every weight of the list by its shape, and nothing else."""
    path = shared_data.parent / "checkpoint_keys" / f"smp060_unetpp_{name}.txt"
    if not path.is_file():
        pytest.skip(f"no {path}")
    weights = {}
    for line in path.read_text().splitlines()[1:]:
        key, _, shape = line.partition("\t")
        extents = tuple(map(int, re.findall(r"\d+", shape)))
        weights[key] = torch.zeros(()).expand(extents) if extents else torch.tensor(1)
    assert recognise(weights) == "UnetPlusPlus of segmentation_models.pytorch"
    spec = convert(known(weights)).model.spec
    assert spec.encoder == {"efficientnet-b0": "tf_efficientnet_b0"}.get(name, name.removesuffix("_d4"))
    assert spec.depth == (4 if name.endswith("_d4") else 5)
