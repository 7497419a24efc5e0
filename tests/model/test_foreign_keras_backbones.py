"""Xnet, Nestnet and Unet of the UNet++ authors' Keras package: the logits of the network that Keras itself runs.

The encoders are Keras' own VGG, and a ResNet built layer by layer as the authors' package has it; the decoders follow its names,
its loops over rows and columns and its order of concatenation. The encoders have their own widths, the decoders a quarter.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from napari_unetpp.inference.kernels import TorchLayers, whole_pass
from napari_unetpp.model.backbones_preact import channels_of, feeds_of
from napari_unetpp.model.costs import flops_per_voxel, parameters
from napari_unetpp.model.foreign import Asked, import_checkpoint, recognise
from napari_unetpp.model.foreign_found import UnfitError
from napari_unetpp.model.foreign_hdf5 import Layer, read_keras
from napari_unetpp.model.foreign_keras import agreed
from napari_unetpp.model.foreign_keras_backbones import find_backbone
from napari_unetpp.model.foreign_keras_encoders import told_encoder
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus, prune
from tests.model.test_foreign import notes, refused, round_trip, same

h5py = pytest.importorskip("h5py")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own

ROWS = 5
FILTERS = (64, 32, 16, 8, 4)  # decoder_filters, from the bottom up
STRAIGHT = tuple(FILTERS[ROWS - i - 1] for i in range(ROWS))
SLIPPED = tuple(FILTERS[ROWS - i - 2] for i in range(ROWS))  # the index of the original, -1 in the last row


@pytest.fixture(scope="module")
def keras():
    if "keras" not in sys.modules:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KERAS_BACKEND", "torch")
            return pytest.importorskip("keras", minversion="3")
    return sys.modules["keras"]


# --- the original, in Keras -------------------------------------------------------------------------------------------


def vgg16(keras):
    made = keras.applications.VGG16(include_top=False, weights=None, input_shape=(None, None, 3))
    skips = ["block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3"]
    below = [f"block{b}_pool" for b in (1, 2, 3, 4, 5)]
    return made, skips, below


def resnet(keras, channels, repetitions, bottleneck):
    layer = keras.layers

    def norm(x, name, **more):
        return layer.BatchNormalization(epsilon=2e-5, momentum=0.99, name=name, **more)(x)

    def conv(x, name, filters, size, strides=1):
        if size > 1:
            x = layer.ZeroPadding2D(size // 2)(x)
        return layer.Conv2D(filters, size, strides=strides, padding="valid", use_bias=False, name=name)(x)

    image = layer.Input((None, None, channels), name="data")
    x = conv(norm(image, "bn_data", scale=False), "conv0", 64, 7, 2)
    x = layer.Activation("relu", name="relu0")(norm(x, "bn0"))
    x = layer.MaxPooling2D(3, 2, padding="valid", name="pooling0")(layer.ZeroPadding2D(1)(x))
    for stage, units in enumerate(repetitions, 1):
        filters = 64 * 2 ** (stage - 1)
        for unit in range(1, units + 1):
            name = f"stage{stage}_unit{unit}_"
            strides = 2 if unit == 1 and stage > 1 else 1
            before = layer.Activation("relu", name=f"{name}relu1")(norm(x, f"{name}bn1"))
            if bottleneck:
                y = conv(before, f"{name}conv1", filters, 1)
                y = layer.Activation("relu", name=f"{name}relu2")(norm(y, f"{name}bn2"))
                y = conv(y, f"{name}conv2", filters, 3, strides)
                y = layer.Activation("relu", name=f"{name}relu3")(norm(y, f"{name}bn3"))
                y = conv(y, f"{name}conv3", filters * 4, 1)
            else:
                y = conv(before, f"{name}conv1", filters, 3, strides)
                y = layer.Activation("relu", name=f"{name}relu2")(norm(y, f"{name}bn2"))
                y = conv(y, f"{name}conv2", filters, 3)
            given = filters * 4 if bottleneck else filters
            x = layer.Add()([y, conv(before, f"{name}sc", given, 1, strides) if unit == 1 else x])
    made = keras.Model(image, layer.Activation("relu", name="relu1")(norm(x, "bn1")))
    skips = [None, "relu0", *(f"stage{s}_unit1_relu1" for s in (2, 3, 4))]
    return made, skips, [None, *(f"stage{s}_unit2_relu1" for s in (1, 2, 3)), "relu1"]


def resnet18(keras):
    return resnet(keras, 1, (2, 2, 2, 2), bottleneck=False)


def resnet50(keras):
    return resnet(keras, 3, (3, 4, 6, 3), bottleneck=True)


def densenet121(keras):
    """Without the ReLU at its end, as Keras 2.2.2 had it."""
    made = keras.applications.DenseNet121(include_top=False, weights=None, input_shape=(None, None, 3))
    made = keras.Model(made.inputs, made.get_layer("bn").output)
    between = [f"pool{k}_conv" for k in (2, 3, 4)]
    return made, [None, "conv1_relu", *between], [None, *between, "bn"]


def block(keras, filters, name, merge, x, skips, transposed, epsilon):
    layer = keras.layers

    def conv(x, k):
        x = layer.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv{k}")(x)
        x = layer.BatchNormalization(name=f"{name}_bn{k}", epsilon=epsilon)(x)
        return layer.Activation("relu", name=f"{name}_relu{k}")(x)

    if transposed:
        x = layer.Conv2DTranspose(filters, 4, strides=2, padding="same", use_bias=False, name=f"{name}_upsample")(x)
        x = layer.Activation("relu", name=f"{name}_relu1")(
            layer.BatchNormalization(name=f"{name}_bn1", epsilon=epsilon)(x)
        )
    else:
        x = layer.UpSampling2D(2, name=f"{name}_upsample")(x)
    if skips:
        x = layer.Concatenate(name=merge)([x, *skips])
    return conv(x if transposed else conv(x, 1), 2)


def network(keras, encoder, kind, transposed, classes=1, epsilon=1e-3):
    """Logits of Unet, Nestnet or Xnet; a sigmoid behind them as the original has it."""
    made, skips, below = encoder
    got = [name and made.get_layer(name).output for name in skips]
    fed = [name and made.get_layer(name).output for name in below]
    if kind == "Unet":
        x = made.outputs[0]
        for k, i in enumerate(reversed(range(ROWS))):
            beside = [] if got[i] is None else [got[i]]
            x = block(keras, STRAIGHT[i], f"decoder_stage{k}", None, x, beside, transposed, epsilon)
    else:
        grid = {(i, 0): got[i] for i in range(ROWS)}
        for j in range(1, ROWS + 1):
            for i in range(ROWS + 1 - j):
                if got[i] is None and j < ROWS:
                    grid[i, j] = None
                    continue
                beside = [grid[i, k] for k in (range(j) if kind == "Xnet" else [j - 1])]
                beside = [] if any(b is None for b in beside) else beside
                source = fed[i] if j == 1 else grid[i + 1, j - 1]
                name, merge = f"decoder_stage{i + 1}-{j}", f"merge_{i + 1}-{j}"
                grid[i, j] = block(keras, SLIPPED[i], name, merge, source, beside, transposed, epsilon)
        x = grid[0, ROWS]
    x = keras.layers.Conv2D(classes, 3, padding="same", name="final_conv")(x)
    logits = keras.Model(made.inputs, x)
    return logits, keras.Model(made.inputs, keras.layers.Activation("sigmoid", name="sigmoid")(x))


def shake(model):
    """Weights out of one generator, so large that every layer tells, and statistics that BatchNorm needs."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        weights = layer.get_weights()
        if not weights:
            continue
        if layer.__class__.__name__ == "BatchNormalization":
            *affine, mean, variance = weights
            drawn = [1 + rng.normal(size=w.shape) / 5 for w in affine] + [rng.normal(size=mean.shape) / 5]
            layer.set_weights([*drawn, rng.uniform(0.7, 1.5, variance.shape)])
        else:
            kernel = weights[0]
            fan = kernel[..., 0].size if "Transpose" not in layer.__class__.__name__ else kernel[..., 0, :].size / 4
            drawn = [rng.standard_normal(kernel.shape, np.float32) * (1 / fan) ** 0.5]
            layer.set_weights(drawn + [rng.normal(size=w.shape) / 5 for w in weights[1:]])


def runs(keras, logits):
    def run(x):
        maps = logits(x.permute(0, 2, 3, 1).numpy(), training=False)
        return [torch.from_numpy(keras.ops.convert_to_numpy(maps)).permute(0, 3, 1, 2)]

    return run


def written(keras, folder, kind, encoder, transposed, file, **more):
    """Logits of a network of theirs, and a file of it."""
    logits, whole = network(keras, encoder(keras), kind, transposed, **more)
    shake(logits)
    (whole.save_weights if file.endswith(".weights.h5") else whole.save)(folder / file)
    return logits, folder / file


@pytest.fixture(scope="module")
def xnet(keras, tmp_path_factory):
    """Xnet on VGG16 for three exclusive classes, its BatchNorm with another epsilon than Keras' own."""
    return written(keras, tmp_path_factory.mktemp("xnet"), "Xnet", vgg16, False, "t.h5", classes=3, epsilon=0.1)


def check(keras, imported, logits, kind, encoder, rows):
    spec = imported.model.spec
    assert imported.what == f"{kind} on {encoder} of its authors' Keras package segmentation_models"
    assert spec.decoder_widths == rows
    assert spec.heads == (5,)
    assert "one position, L5" in notes(imported)
    assert imported.model.intensity.fixed_gain == (1.0,) * spec.in_channels
    assert imported.lines["preprocessing"] == "none, images as they are"
    same(imported.model, runs(keras, logits), spec.in_channels, ((64, 32), (40, 65)), multiple=32)
    trained = sum(int(np.prod(w.shape)) for w in logits.trainable_weights)
    constant = spec.in_channels if encoder.startswith("resnet") else 0  # bn_data has no scale, ours is 1
    assert parameters(spec) == trained + constant


def test_xnet_on_vgg(keras, xnet):
    logits, path = xnet
    imported = import_checkpoint(path)
    check(keras, imported, logits, "Xnet (UNet++)", "vgg16", SLIPPED)
    assert "exclusive classes" in notes(imported)
    assert "weights alone" not in notes(imported)


def test_nestnet_on_resnet_with_transposed_convolutions(tmp_path, keras):
    logits, path = written(keras, tmp_path, "Nestnet", resnet18, True, "t.weights.h5")
    imported = import_checkpoint(path)
    check(keras, imported, logits, "Nestnet (UNet+)", "resnet18", SLIPPED)
    assert "weights alone" in notes(imported)
    state = imported.model.network.state_dict()
    for ours, theirs, epsilon in (("encoder.layers.bn0", "bn0", 2e-5), ("nodes.0_5.1", "decoder_stage1-5_bn2", 1e-3)):
        variance = keras.ops.convert_to_numpy(logits.get_layer(theirs).moving_variance)
        assert state[f"{ours}.running_var"].numpy() + 1e-5 == pytest.approx(variance + epsilon, abs=3e-7)
    round_trip(imported.model, tmp_path)


def test_unet_on_a_resnet_of_bottlenecks(tmp_path, keras):
    logits, path = written(keras, tmp_path, "Unet", resnet50, False, "t.keras")
    check(keras, import_checkpoint(path), logits, "Unet", "resnet50", STRAIGHT)


def test_xnet_on_densenet(tmp_path, keras):
    logits, path = written(keras, tmp_path, "Xnet", densenet121, False, "t.h5")
    imported = import_checkpoint(path)
    check(keras, imported, logits, "Xnet (UNet++)", "densenet121", SLIPPED)
    later = told_encoder(imported.model.spec, {"relu": Layer("Activation", {"activation": "relu"}, ("bn",))})
    assert imported.model.spec.encoder_taps[-1].removesuffix(".drop") == later.encoder_taps[-1]


def test_layers_with_a_slash_in_their_name(tmp_path):
    """Keras 2 made groups of them, in which one layer is not to be taken for another."""
    layers = {"conv1/conv": ("kernel:0",), "conv1/bn": ("beta:0", "gamma:0"), "bn": ("gamma:0",), "conv1/relu": ()}
    with h5py.File(tmp_path / "t.h5", "w") as file:
        for number, (name, leaves) in enumerate(layers.items()):
            group = file.create_group(name)
            for leaf in leaves:
                group[f"{name}/{leaf}"] = np.full(4, number, np.float32)
        file.attrs["layer_names0"] = [name.encode() for name in layers][:2]
        file.attrs["layer_names1"] = [name.encode() for name in layers][2:]
    weights, _ = read_keras(tmp_path / "t.h5")
    assert {key: int(value[0]) for key, value in weights.items()} == {
        "conv1/conv.weight": 0,
        "conv1/bn.weight": 1,
        "conv1/bn.bias": 1,
        "bn.weight": 2,
    }


# --- what the configuration contradicts, and what is refused ----------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "change", "words"),
    [
        ("merge_2-1", {"inputs": ("decoder_stage2-1_upsample", "block2_conv1")}, "_upsample, block2_conv1 where"),
        ("merge_1-2", {"inputs": ("decoder_stage1-2_upsample", "decoder_stage1-1_relu2")}, "other skip_connections"),
        ("decoder_stage2-1_upsample", {"inputs": ("block3_conv3",)}, "receives block3_conv3 where block2_pool is wanted"),
        ("decoder_stage2-1_upsample", {"config": {"interpolation": "bilinear"}}, "interpolation bilinear where nearest is"),
        ("decoder_stage1-5_conv1", {"config": {"activation": "relu"}}, "activation relu where linear is wanted"),
        ("block2_conv1", {"config": {"dilation_rate": [2, 2]}}, "dilation_rate [2, 2] where 1 is wanted"),
        ("block2_pool", {"kind": "Lambda"}, "is not in the original"),
    ],
)  # fmt: skip
def test_configurations_of_another_network(told, layer, change, words):
    found, layers = told
    changed = layers | {layer: replace(layers[layer], **change)}
    with pytest.raises(UnfitError) as refusal:
        agreed(found, changed)
    assert words in str(refusal.value)


@pytest.fixture(scope="module")
def told(xnet):
    weights, layers = read_keras(xnet[1])
    return find_backbone(weights, Asked()), layers


DECODER = ("decoder_stage1-5_conv2", "decoder_stage1-1_conv2", "decoder_stage5-1_conv2")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((*DECODER, "stage1_unit1_conv2_0", "stage1_unit1_conv1"), "its encoder is ResNeXt"),
        ((*DECODER, "conv2_block1_1_conv"), "a DenseNet of (0, 0, 0, 0) layers"),
        ((*DECODER, "conv2d_7"), "its encoder is Inception"),
        ((*DECODER, "patch_embedding"), "its encoder is not known"),
        ((*DECODER, "stage1_unit1_conv1"), "a ResNet of (1, 0, 0, 0) blocks"),
        (DECODER[1:2], "n_upsample_blocks"),
        (("decoder_stage1-1_conv1",), "other blocks than the original's"),
        ((*DECODER, "block1_conv1"), "its weight block2_conv1.weight is missing"),
    ],
)
def test_what_is_refused(tmp_path, names, words):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        for name in names:
            file[f"{name}/{name}/kernel:0"] = np.ones((3, 3, 2, 2), np.float32)
    assert words in refused(tmp_path / "t.h5")
    assert "Keras package segmentation_models" in recognise([f"{name}.weight" for name in names])


def test_the_up_sampling_is_not_asked_for(xnet):
    assert "its layers tell its up-sampling" in refused(xnet[1], Asked(upsampling="nearest"))


@pytest.mark.parametrize("name", ["keras-resnet18", "keras-resnet152"])
def test_operations_are_those_that_torch_counts(name):
    spec = NetworkSpec(
        in_channels=3,
        widths=(4, *channels_of(name)),
        heads=(5,),
        upsampling="transposed4-relu",
        concatenation="up-first",
        conv_bias=False,
        head="conv3",
        decoder_widths=SLIPPED,
        decoder_convolutions=1,
        lone_rows=1,
        encoder=name,
        encoder_feeds=feeds_of(name),
    )
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        UNetPlusPlus(spec, initialise=False).eval()(torch.empty(1, 3, 256, 256))
    assert counter.get_total_flops() / 256**2 == pytest.approx(flops_per_voxel(spec))


@pytest.mark.parametrize("name", ["keras-resnet18", "keras-resnet50"])
def test_what_is_fed_is_there_at_every_level(name):
    """Pruned, level by level and in the engine, as when all levels are computed at once."""
    spec = NetworkSpec(
        widths=(4, *channels_of(name)[:3]),
        heads=(1, 2, 3),
        decoder_widths=(4, 6, 8),
        encoder=name,
        encoder_feeds=feeds_of(name)[:2],
    )
    network = UNetPlusPlus(spec).eval()
    x = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        heads = network(x)
        engine = whole_pass(TorchLayers(network, torch.device("cpu"), torch.float32), x)
        for level, head, again in zip(spec.heads, heads, engine, strict=True):
            assert torch.allclose(head, again, rtol=1e-4, atol=1e-4 * float(head.abs().max()))
            pruned = prune(network, level)
            assert torch.equal(pruned(x)[-1], head)
            assert parameters(pruned.spec) == sum(p.numel() for p in pruned.parameters())
