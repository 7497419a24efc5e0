from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from napari_unetpp.inference.kernels import TorchLayers, whole_pass
from napari_unetpp.model import backbones, backbones_timm
from napari_unetpp.model.backbones import WholeEncoder, build_encoder, encoder_spec
from napari_unetpp.model.backbones_timm import BackboneError
from napari_unetpp.model.backbones_weights import load_pretrained
from napari_unetpp.model.card import Card
from napari_unetpp.model.checkpoint import Model, ModelFileError, load_model, save_model
from napari_unetpp.model.costs import flops_per_voxel, level_costs, parameters
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.pruning import save_pruned
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus, prune
from napari_unetpp.training.freeze import freeze, set_training

timm = pytest.importorskip("timm")

PAPER = ("vgg19_bn", "resnet152", "densenet201")
SMALL = (
    "vgg11_bn",
    "test_resnet",
    "densenet121",
    "test_efficientnet",
    "test_convnext",
    "mobilenetv3_small_050",
    "hrnet_w18_small",
)
TINY = "mobilenetv3_small_050"


def network(name: str, *, depth: int = 4, in_channels: int = 2, **asked) -> UNetPlusPlus:
    torch.manual_seed(0)
    widths = (4, 6, 8, 10)[:depth]
    spec = encoder_spec(name, in_channels=in_channels, depth=depth, decoder_widths=widths, **asked)
    return filled(UNetPlusPlus(spec, initialise=False)).eval()


def filled(module):
    """Weights that keep the size of what passes, drawn faster than timm draws them, and statistics as after a training."""
    for key, value in module.state_dict().items():
        if value.ndim > 1:
            bound = (6 / value[0].numel()) ** 0.5
            value.uniform_(-bound, bound)
        elif value.is_floating_point():
            low, high = (0.5, 1.5) if key.endswith(("var", "weight", "gamma")) else (-0.1, 0.1)
            value.uniform_(low, high)
        else:
            value.fill_(0)
    return module


def timms(net: UNetPlusPlus):
    """timm's own network of features, with the weights of the encoder."""
    with torch.device("meta"):  # nothing of it is drawn in vain
        theirs = timm.create_model(net.spec.encoder, features_only=True, in_chans=net.spec.in_channels)
    ours = {key.partition(".")[2]: value for key, value in net.encoder.state_dict().items()}
    theirs = theirs.to_empty(device="cpu")
    state = {key: ours.get(key, ours.get(key.replace(".", "_", 2))) for key in theirs.state_dict()}
    theirs.load_state_dict({key: value for key, value in state.items() if value is not None}, strict=False)
    return theirs.eval()


@pytest.mark.parametrize("name", SMALL)
def test_features_are_timms_and_pruned_is_the_head(name):
    """timm's own forward pass over the same weights; and every level alone gives the bits of its head in the whole."""
    net = network(name)
    image = torch.randn(1, 2, 32, 32)
    nodes = {}
    with torch.inference_mode():
        theirs = timms(net)
        expected = dict(zip(theirs.feature_info.reduction(), theirs(image), strict=True))
        copies = {}
        for d in range(5):
            net.add_diagonal(nodes, image, d)
            copies[d] = nodes[d, 0].clone()
        heads = net(image)
        alone = {level: prune(net, level) for level in (1, 2, 3)}
        assert all(torch.equal(alone[d](image)[-1], heads[d - 1]) for d in alone)
    first = net.spec.encoder_row
    for row in range(first, 5):
        assert torch.equal(nodes[row, 0], copies[row]), f"row {row} was changed by the row below it"
        torch.testing.assert_close(nodes[row, 0], expected[2**row], rtol=1e-5, atol=1e-5)
    held = [sum(v.numel() for k, v in n.state_dict().items() if k.startswith("encoder.")) for n in alone.values()]
    whole = sum(v.numel() for v in net.encoder.state_dict().values())
    if not isinstance(net.encoder, WholeEncoder):
        assert held == sorted({*held})
        assert held[-1] < whole


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in PAPER), TINY])
def test_a_few_steps_lower_the_loss_and_the_trained_network_predicts(name):
    net = network(name, in_channels=1).train()
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 1, 32, 32, generator=generator)
    target = (image > 0.5).float()
    optimiser = torch.optim.SGD(net.parameters(), 1e-3)
    losses = []
    for _ in range(2):
        optimiser.zero_grad()
        heads = net(image)
        loss = sum(torch.nn.functional.binary_cross_entropy_with_logits(head, target) for head in heads)
        loss.backward()
        assert all(p.grad is not None for p in net.encoder.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with torch.inference_mode():
        heads = net.eval()(torch.rand(1, 1, 37, 50))
    assert [tuple(head.shape) for head in heads] == [(1, 1, 37, 50)] * 4
    assert all(bool(head.isfinite().all()) for head in heads)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_the_prepared_network_is_the_network(name):
    """Channels last and packed by oneDNN, in fp32 to 1e-5 and in bf16 as near as its digits allow."""
    net = network(name)
    image = torch.rand(2, 2, 70, 45)
    with torch.inference_mode():
        expected = [torch.sigmoid(head) for head in net(image)]
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
            heads = whole_pass(TorchLayers(net, torch.device("cpu"), dtype), image)
            for head, like in zip(heads, expected, strict=True):
                torch.testing.assert_close(torch.sigmoid(head.float()), like, rtol=0, atol=tolerance)


@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_channels_and_a_round_trip_through_a_file(channels, tmp_path):
    net = network(TINY, in_channels=channels, classes=3)
    classes = Card("x").classes[:1] * 3
    model = Model(net.spec, net, Intensity("percentile"), Card("tiny", classes=classes), torch.device("cpu"))
    path = save_model(model, tmp_path / "tiny.safetensors")
    again = load_model(path, "cpu")
    assert again.spec == net.spec
    image = torch.rand(1, channels, 40, 56)
    with torch.inference_mode():
        expected = net(image)
        assert all(torch.equal(a, b) for a, b in zip(again.network(image), expected, strict=True))
        for level in (1, 3):
            small = load_model(save_pruned(again, level, tmp_path / f"L{level}.safetensors"), "cpu")
            assert small.network.encoder is not None
            assert len(small.network.encoder.state_dict()) < len(net.encoder.state_dict())
            assert torch.equal(small.network(image)[-1], expected[level - 1])


def test_what_lies_above_the_first_stage_needs_no_encoder():
    net = network("test_convnext")
    assert net.spec.encoder_row == 2
    assert prune(net, 1).encoder is None
    assert prune(net, 1).spec.encoder == ""
    assert not net.spec.size_independent
    assert net.spec.pruned(1).size_independent


@pytest.mark.parametrize(
    ("name", "channels", "suffix"),
    [
        ("test_convnext", 1, ".pth"),
        (TINY, 2, ".safetensors"),
        ("test_resnet", 5, ".pth"),
        ("test_convnext", 3, ".safetensors"),
    ],
)
def test_weights_of_a_file_are_those_that_timm_would_use(name, channels, suffix, tmp_path):
    """The state dict of timm's whole classifier; timm's features over it, by timm's own loader, are the reference."""
    with torch.device("meta"):
        classifier = timm.create_model(name, pretrained=False)
    classifier = filled(classifier.to_empty(device="cpu"))
    path = tmp_path / f"weights{suffix}"
    state = classifier.state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    net = network(name, in_channels=channels)
    load_pretrained(net, path)
    theirs = timm.create_model(
        name, features_only=True, pretrained=True, in_chans=channels, pretrained_cfg_overlay={"file": str(path)}
    ).eval()
    image = torch.rand(1, channels, 32, 32)
    with torch.inference_mode():
        nodes = {}
        for d in range(5):
            net.add_diagonal(nodes, image, d)
        expected = dict(zip(theirs.feature_info.reduction(), theirs(image), strict=True))
    for row in range(net.spec.encoder_row, 5):
        torch.testing.assert_close(nodes[row, 0], expected[2**row], rtol=1e-5, atol=1e-5)


def test_weights_of_the_features_alone_fit_as_well(tmp_path):
    with torch.device("meta"):
        features = timm.create_model("test_convnext", features_only=True, pretrained=False)
    state = filled(features.to_empty(device="cpu")).state_dict()
    torch.save(state, tmp_path / "features.pth")
    net = network("test_convnext", in_channels=3)
    load_pretrained(net, tmp_path / "features.pth")
    assert torch.equal(net.encoder.state_dict()["layers.stem_0.weight"], state["stem_0.weight"])


def test_layers_keep_timms_names_but_where_a_map_lies_inside_them():
    """Model files hold them: timm's own names of its features, and of a DenseNet with maps in its transitions."""
    taps = ("features.norm0", "features.transition1.norm", "features.transition2.norm", "features.transition3.norm")
    for name, given in (("densenet121", taps), ("test_resnet", None)):
        spec = encoder_spec(name, depth=4)
        with torch.device("meta"):
            theirs = timm.create_model(name, features_only=True, in_chans=1, out_indices=(3,))
            whole = build_encoder(spec).state_dict()
            assert set(whole) == {f"layers.{key}" for key in theirs.state_dict()}
            if given is None:
                continue
            cut = build_encoder(replace(spec, encoder_taps=given)).state_dict()
        renamed = {re.sub(r"(transition\d)\.", r"\1_", key) for key in whole}
        assert set(cut) - renamed == {
            f"layers.features_transition3_norm.{leaf}" for leaf in torch.nn.BatchNorm2d(1).state_dict()
        }
        assert renamed <= set(cut)


@pytest.mark.parametrize("tap", ["features.transition4.norm", "features.norm0.relu", "denseblock1.denselayer1"])
def test_maps_that_lie_nowhere_are_refused_in_one_line(tap):
    spec = replace(encoder_spec("densenet121", depth=1), encoder_taps=(tap,))
    with torch.device("meta"), pytest.raises(BackboneError, match=f"no layer {tap.replace('.', '_')} where row 1"):
        build_encoder(spec)


def test_files_that_do_not_fit_say_why_and_change_nothing(tmp_path):
    net = network("resnet18")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    good = timm.create_model("resnet18", pretrained=False).state_dict()
    wrong = {
        "lacks 2 of": {k: v for k, v in good.items() if not k.startswith("layer3.0.bn1.r") or k.endswith("tracked")},
        "holds NaN": good | {"layer1.0.conv1.weight": good["layer1.0.conv1.weight"] * float("nan")},
        "has shape": good | {"layer1.0.conv1.weight": torch.zeros(3, 64, 3, 3)},
    }
    for said, state in wrong.items():
        torch.save(state, tmp_path / "wrong.pth")
        with pytest.raises(ModelFileError, match=said):
            load_pretrained(net, tmp_path / "wrong.pth")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_pretrained(net, tmp_path / "none.pth")
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    with pytest.raises(BackboneError, match="no encoder"):
        load_pretrained(UNetPlusPlus(NetworkSpec(widths=(4, 8), heads=(1,))), "timm")


def test_without_a_network_timms_weights_are_refused_in_one_line(monkeypatch):
    def offline(*_, **__):
        raise OSError("We couldn't connect to\nthe hub")

    net = network("resnet18")
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(BackboneError, match="could not fetch the weights of resnet18") as error:
        load_pretrained(net, "timm")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "depth", "said"),
    [
        ("resnet43", 4, "did you mean resnet34"),
        ("hf-hub:somebody/something", 4, "unknown to timm"),
        ("../resnet34", 4, "unknown to timm"),
        ("swin_tiny_patch4_window7_224", 4, "one size only"),
        ("vit_tiny_patch16_224", 4, "one size only"),
        ("inception_v4", 4, "125 x 125 where 64 channels of 128 x 128"),
        ("resnet18@224", 4, "leave out what follows the @"),
        ("resnet18", 6, "at most 5"),
        ("convnext_atto", 1, "at least 2"),
    ],
)
def test_encoders_that_do_not_fit_say_so_in_one_line(name, depth, said):
    with pytest.raises(BackboneError, match=said) as error:
        encoder_spec(name, depth=depth)
    assert "\n" not in str(error.value)


def test_costs_are_those_of_the_network():
    """Parameters counted on the module, operations by torch's own counter over its forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    for name in ("test_resnet", "test_convnext"):
        spec = encoder_spec(name, in_channels=2, decoder_widths=(4, 6, 8, 10))
        for cost in level_costs(spec):
            with torch.device("meta"):
                pruned = UNetPlusPlus(spec.pruned(cost.level)).eval()
                image = torch.empty(1, 2, 64, 64)
            assert cost.parameters == sum(p.numel() for p in pruned.parameters()) == parameters(pruned.spec)
            with FlopCounterMode(display=False) as counter, torch.inference_mode():
                pruned(image)
            assert cost.flops_per_voxel * 64 * 64 == pytest.approx(counter.get_total_flops(), rel=1e-9)
            assert flops_per_voxel(pruned.spec) == pytest.approx(cost.flops_per_voxel, rel=1e-9)


def test_training_the_decoder_leaves_the_encoder_and_its_statistics():
    net = network("test_resnet", in_channels=1)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    chosen = freeze(net, "decoder")
    set_training(net, "decoder")
    optimiser = torch.optim.Adam(chosen, 1e-2)
    for head in net(torch.rand(2, 1, 32, 32)):
        head.sum().backward(retain_graph=True)
    optimiser.step()
    after = net.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert not any(key.startswith("encoder.") for key in changed)
    assert {"nodes.0_0.0.weight", "nodes.0_1.0.weight", "heads.1.weight"} <= changed  # X^{0,0} is no stage of timm's


def test_models_are_known_without_timm_and_run_with_it(tmp_path, monkeypatch):
    net = network(TINY)
    model = Model(net.spec, net, Intensity("percentile"), Card("tiny"), torch.device("cpu"))
    path = save_model(model, tmp_path / "tiny.safetensors")
    monkeypatch.setitem(sys.modules, "timm", None)
    for cached in (backbones_timm.offered_maps, backbones_timm._on_shapes, backbones._stage_costs):
        cached.cache_clear()
    from napari_unetpp.model.checkpoint import read_header

    assert read_header(path).spec == net.spec
    for asked in (lambda: load_model(path, "cpu"), lambda: level_costs(net.spec), lambda: encoder_spec("resnet18")):
        with pytest.raises(ValueError, match=r'pip install "napari-unetpp\[backbones\]"') as error:
            asked()
        assert "\n" not in str(error.value)


def test_old_files_read_and_plain_networks_write_no_new_field():
    spec = NetworkSpec()
    assert not {"encoder", "encoder_taps", "last_widths", "lone_rows", "newest_first"} & set(spec.to_json())
    odd = encoder_spec("resnet18")
    assert NetworkSpec.from_json(odd.to_json()) == odd
    taps = replace(odd, encoder_taps=("act1", "layer1", "layer2", "layer3"))
    assert NetworkSpec.from_json(taps.to_json()) == taps
