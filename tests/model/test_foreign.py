"""Other people's checkpoints: the same logits as the network they were made for, or one line that says why not.

The references are written from the equations of the papers and from the names of the weights (FACTS 6), in functional torch;
MONAI's networks are MONAI's own.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from typer.testing import CliRunner

from napari_unetpp.cli import app
from napari_unetpp.inference.kernels import TorchLayers, whole_pass
from napari_unetpp.model import foreign, zoo
from napari_unetpp.model.checkpoint import ModelFileError, load_model, save_model
from napari_unetpp.model.costs import parameters
from napari_unetpp.model.extents import margins
from napari_unetpp.model.foreign import Asked, convert, import_checkpoint, read_known, recognise
from napari_unetpp.model.spec import NetworkSpec

# Beside the data sets, which are not part of the repository.
SHARED = Path(os.environ.get("NAPARI_UNETPP_SHARED", Path(__file__).parents[3] / "shared" / "data"))
KEYS = SHARED.parent / "checkpoint_keys"
WIDTHS = (4, 6, 8, 10, 12)
EVEN, ODD = (32, 48), (37, 21)
NOTHING = Asked()
NODES = [(d - j, j) for d in range(5) for j in range(d + 1)]


# --- random weights by name, and the references ---------------------------------------------------------------------


def conv(name, out, into, size=3, ndim=2, bias=True):
    return {f"{name}.weight": (out, into, *(size,) * ndim)} | ({f"{name}.bias": (out,)} if bias else {})


def tconv(name, into, out, size):
    return {f"{name}.weight": (into, out, size, size), f"{name}.bias": (out,)}


def norm(name, n):
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (n,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def drawn(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            value = torch.tensor(7)
        elif key.endswith("running_var"):
            value = value.abs() + 0.5
        elif len(shape) > 1:
            value = value * (2 / np.prod(shape[1:])) ** 0.5
        elif key.endswith("weight"):
            value = 1 + 0.2 * value
        weights[key] = value
    return weights


def C(w, name, x, padding=1):
    convolve = F.conv2d if x.ndim == 4 else F.conv3d
    return convolve(x, w[f"{name}.weight"], w.get(f"{name}.bias"), padding=padding)


def B(w, name, x):
    p = [w[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *p, training=False)


def pool(x):
    return F.max_pool2d(x, 2) if x.ndim == 4 else F.max_pool3d(x, 2)


def up(x, mode="bilinear-aligned"):
    if mode == "nearest":
        return F.interpolate(x, scale_factor=2, mode="nearest")
    linear = "bilinear" if x.ndim == 4 else "trilinear"
    return F.interpolate(x, scale_factor=2, mode=linear, align_corners=mode == "bilinear-aligned")


def unetpp(x, H, U, last_up=True):
    """X^{i,j} of equation 1 for four levels, written out."""

    def cat(below, *skips):
        return torch.cat([*skips, below] if last_up else [below, *skips], 1)

    x00 = H(0, 0, x)
    x10 = H(1, 0, pool(x00))
    x01 = H(0, 1, cat(U(0, 1, x10), x00))
    x20 = H(2, 0, pool(x10))
    x11 = H(1, 1, cat(U(1, 1, x20), x10))
    x02 = H(0, 2, cat(U(0, 2, x11), x00, x01))
    x30 = H(3, 0, pool(x20))
    x21 = H(2, 1, cat(U(2, 1, x30), x20))
    x12 = H(1, 2, cat(U(1, 2, x21), x10, x11))
    x03 = H(0, 3, cat(U(0, 3, x12), x00, x01, x02))
    x40 = H(4, 0, pool(x30))
    x31 = H(3, 1, cat(U(3, 1, x40), x30))
    x22 = H(2, 2, cat(U(2, 2, x31), x20, x21))
    x13 = H(1, 3, cat(U(1, 3, x22), x10, x11, x12))
    x04 = H(0, 4, cat(U(0, 4, x13), x00, x01, x02, x03))
    return x01, x02, x03, x04


def nested_shapes(widths=WIDTHS, channels=3, classes=1, heads=("final",), ndim=2, plain=False):
    shapes = {}
    for i, j in NODES:
        if plain and j and i + j < 4:
            continue
        skips = 1 if plain else j
        into = (channels if i == 0 else widths[i - 1]) if j == 0 else skips * widths[i] + widths[i + 1]
        name = f"conv{i}_{j}"
        shapes |= conv(f"{name}.conv1", widths[i], into, ndim=ndim) | norm(f"{name}.bn1", widths[i])
        shapes |= conv(f"{name}.conv2", widths[i], widths[i], ndim=ndim) | norm(f"{name}.bn2", widths[i])
    for head in heads:
        shapes |= conv(head, classes, widths[0], 1, ndim)
    return shapes


def nested_block(w, name, x):
    x = F.relu(B(w, f"{name}.bn1", C(w, f"{name}.conv1", x)))
    return F.relu(B(w, f"{name}.bn2", C(w, f"{name}.conv2", x)))


def nested(w, x, heads=("final",), mode="bilinear-aligned"):
    maps = unetpp(x, lambda i, j, y: nested_block(w, f"conv{i}_{j}", y), lambda i, j, y: up(y, mode))
    return [C(w, head, y, 0) for head, y in zip(reversed(heads), reversed(maps), strict=False)][::-1]


def mirrored(x, multiple=16):
    """The image as our network pads it, by numpy."""
    extent = x.shape[2:]
    missing = [(0, -n % m) for n, m in zip(extent, np.broadcast_to(multiple, len(extent)), strict=True)]
    pad = [(0, 0), (0, 0), *missing]
    return torch.from_numpy(np.pad(x.numpy(), pad, mode="reflect"))


def image(channels, extent, seed=1):
    return torch.randn((2, channels, *extent), generator=torch.Generator().manual_seed(seed))


def saved(tmp_path, weights, name="theirs.pth"):
    torch.save(weights, tmp_path / name)
    return tmp_path / name


def same(model, reference, channels, extents=(EVEN, ODD), flip=False, multiple=16):
    """Equal logits of every head, also by the engine that predicts, and after a round trip through a file."""
    for extent in extents:
        x = image(channels, extent)
        crop = (slice(None), slice(None), *(slice(n) for n in extent))
        with torch.inference_mode():
            wanted = [y[crop] for y in reference(mirrored(x, multiple))]
            given = x.flip(1) if flip else x
            found = model.network(given)
            engine = whole_pass(TorchLayers(model.network, torch.device("cpu"), torch.float32), given)
        assert len(found) == len(wanted) == len(model.spec.heads)
        for a, b, c in zip(found, wanted, engine, strict=True):
            scale = max(1.0, float(b.abs().max()))
            assert float((a - b).abs().max()) < 1e-5 * scale
            assert float((a - c).abs().max()) < 1e-4 * scale


def round_trip(model, tmp_path):
    again = load_model(save_model(model, tmp_path / "again.safetensors"), "cpu")
    assert (again.spec, again.intensity, again.card) == (model.spec, model.intensity, model.card)
    assert NetworkSpec.from_json(model.spec.to_json()) == model.spec
    state, kept = model.network.state_dict(), again.network.state_dict()
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[key], kept[key]) for key in state)
    assert parameters(model.spec) == sum(p.numel() for p in model.network.parameters())


def notes(imported):
    return " ".join(imported.notes)


# --- pytorch-nested-unet -----------------------------------------------------------------------------------------------

FOUR = tuple(f"final{d}" for d in (1, 2, 3, 4))
SEG = tuple(f"seg_outputs.{d}" for d in range(4))


@pytest.mark.parametrize("heads", [("final",), FOUR, SEG])
@pytest.mark.parametrize("widths", [WIDTHS, (3, 5, 4, 7, 6)])
def test_nested_unet(tmp_path, heads, widths):
    w = drawn(nested_shapes(widths, heads=heads))
    imported = import_checkpoint(saved(tmp_path, {"state_dict": w}))
    model = imported.model
    assert imported.what == "NestedUNet of pytorch-nested-unet"
    assert model.spec.heads == ((4,) if len(heads) == 1 else (1, 2, 3, 4))
    assert model.spec.widths == widths
    same(model, lambda x: nested(w, x, heads), 3, flip=True)  # it takes red first, they blue
    assert ("one position, L4: it has no head but that" in notes(imported)) == (len(heads) == 1)
    assert "--upsampling" in notes(imported)
    round_trip(model, tmp_path)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_the_upsampling_of_forks_is_asked_for(tmp_path, mode):
    w = drawn(nested_shapes(channels=1, heads=FOUR, classes=3))
    imported = import_checkpoint(saved(tmp_path, w), Asked(upsampling=mode, classes=("wall", "cell")))
    same(imported.model, lambda x: nested(w, x, FOUR, mode), 1)
    assert "--upsampling" not in notes(imported)
    assert [c.name for c in imported.model.classes] == ["background", "wall", "cell"]
    assert imported.model.spec.size_independent
    assert imported.model.card.tiling == {"kind": "seamless"}


def test_heads_without_bias(tmp_path):
    """As in nnU-Net, whose name for them such forks have; a single one that lacks it is a damaged file."""
    w = drawn(nested_shapes(heads=SEG))
    bare = {k: v for k, v in w.items() if not (k.startswith("seg_outputs") and k.endswith("bias"))}
    same(import_checkpoint(saved(tmp_path, bare)).model, lambda x: nested(bare, x, SEG), 3, flip=True)
    assert "seg_outputs.2.bias is missing" in refused(
        saved(tmp_path, {k: v for k, v in w.items() if k != "seg_outputs.2.bias"})
    )


def test_nested_unet_in_3d(tmp_path):
    w = drawn(nested_shapes((2, 3, 4, 3, 2), channels=1, ndim=3, heads=FOUR))
    model = import_checkpoint(saved(tmp_path, w)).model
    assert model.spec.ndim == 3
    same(model, lambda x: nested(w, x, FOUR), 1, extents=((16, 32, 16), (16, 19, 21)))


def test_the_unet_beside_it(tmp_path):
    w = drawn(nested_shapes(plain=True))

    def reference(x):
        e = [nested_block(w, "conv0_0", x)]
        for i in range(1, 5):
            e.append(nested_block(w, f"conv{i}_0", pool(e[-1])))
        y = e[4]
        for i in (3, 2, 1, 0):
            y = nested_block(w, f"conv{i}_{4 - i}", torch.cat([e[i], up(y)], 1))
        return [C(w, "final", y, 0)]

    imported = import_checkpoint(saved(tmp_path, w))
    assert imported.what == "UNet of pytorch-nested-unet"
    same(imported.model, reference, 3, flip=True)
    round_trip(imported.model, tmp_path)


def test_its_preprocessing_is_in_the_intensities(tmp_path):
    """cv2 reads blue first; Normalize is given that, and dataset.py divides by 255 again."""
    w = drawn(nested_shapes())
    model = import_checkpoint(saved(tmp_path, w)).model
    rgb = np.random.default_rng(0).integers(0, 256, (3, 16, 32)).astype(np.uint8)
    bgr = rgb[::-1].transpose(1, 2, 0).astype(np.float64)
    theirs = (bgr / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225] / 255
    x = torch.from_numpy(theirs.transpose(2, 0, 1)[None].astype(np.float32))
    from napari_unetpp.model.intensity import measure

    ours = torch.from_numpy(measure(model.intensity, rgb).apply(rgb))[None]
    with torch.inference_mode():
        wanted, found = nested(w, x)[0], model.network(ours)[0]
    assert float((wanted - found).abs().max()) < 1e-5 * max(1.0, float(wanted.abs().max()))
    unit = import_checkpoint(saved(tmp_path, w), Asked(intensities="unit")).model.intensity
    assert unit.fixed_gain == (1 / 255,) * 3


# --- the UnetPlusPlus of 64 to 1024 channels ---------------------------------------------------------------------------


def wide_shapes(widths=WIDTHS, channels=3, classes=1):
    shapes = {}
    for i, j in NODES:
        c = widths[i]
        if j == 0:
            into, name = (channels if i == 0 else widths[i - 1]), f"stage_{i}.Conv_forward"
            shapes |= conv(f"{name}.0", c, into) | norm(f"{name}.1", c) | conv(f"{name}.3", c, c) | norm(f"{name}.4", c)
        else:
            into, name = (j + 1) * c, f"CONV{i}_{j}.Conv_forward"
            shapes |= norm(f"{name}.0", into) | conv(f"{name}.2", c, into) | norm(f"{name}.3", c)
            shapes |= conv(f"{name}.5", c, c) | tconv(f"upsample_{i}_{j}", widths[i + 1], c, 4)
    for d in (1, 2, 3, 4):
        shapes |= norm(f"final_super_0_{d}.0", widths[0]) | conv(f"final_super_0_{d}.2", classes, widths[0])
    return shapes


def wide(w, x):
    def H(i, j, y):
        if j == 0:
            name = f"stage_{i}.Conv_forward"
            y = F.relu(B(w, f"{name}.1", C(w, f"{name}.0", y)))
            return F.relu(B(w, f"{name}.4", C(w, f"{name}.3", y)))
        name = f"CONV{i}_{j}.Conv_forward"
        y = C(w, f"{name}.2", F.relu(B(w, f"{name}.0", y)))
        return C(w, f"{name}.5", F.relu(B(w, f"{name}.3", y)))

    def U(i, j, y):
        name = f"upsample_{i}_{j}"
        return F.conv_transpose2d(y, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1)

    maps = unetpp(x, H, U, last_up=False)
    return [C(w, f"final_super_0_{d}.2", F.relu(B(w, f"final_super_0_{d}.0", y))) for d, y in enumerate(maps, 1)]


@pytest.mark.parametrize("trained", [True, False])
def test_unetplusplus_of_twice_the_width(tmp_path, trained):
    w = drawn(wide_shapes(classes=3))
    if not trained:
        w |= {f"final_super_0_{d}.0.num_batches_tracked": torch.tensor(0) for d in (1, 2, 3)}
    imported = import_checkpoint(saved(tmp_path, {"model": {f"module.{k}": v for k, v in w.items()}}))
    same(imported.model, lambda x: wide(w, x) if trained else wide(w, x)[-1:], 3)
    assert ("never saw an image" in notes(imported)) is not trained
    round_trip(imported.model, tmp_path)


# --- milesial ----------------------------------------------------------------------------------------------------------


def milesial_shapes(kind, bias, old=False, classes=2):
    c = list(WIDTHS)
    if kind == "bilinear":
        c[4] = c[3]
    in_, down, upper = (
        ("inc.conv.conv", "down{}.mpconv.1.conv", "up{}.conv.conv")
        if old
        else ("inc.double_conv", "down{}.maxpool_conv.1.double_conv", "up{}.conv.double_conv")
    )

    def double(name, into, middle, out):
        first = conv(f"{name}.0", middle, into, bias=bias) | norm(f"{name}.1", middle)
        return first | conv(f"{name}.3", out, middle, bias=bias) | norm(f"{name}.4", out)

    shapes = double(in_, 3, c[0], c[0])
    for i in range(1, 5):
        shapes |= double(down.format(i), c[i - 1], c[i], c[i])
    below = c[4]
    for k, i in enumerate((3, 2, 1, 0), 1):
        out = c[max(i - 1, 0)] if kind == "bilinear" or old else c[i]
        arrives = below
        if kind == "transposed":
            arrives = below if old else c[i]  # of 2018: ConvTranspose2d(in // 2, in // 2)
            shapes |= tconv(f"up{k}.up", below, arrives, 2)
        into = c[i] + arrives
        shapes |= double(upper.format(k), into, into // 2 if kind == "bilinear" and not old else out, out)
        below = out
    return shapes | conv("outc.conv", classes, c[0], 1), (in_, down, upper)


def milesial(w, x, names):
    def double(name, y):
        y = F.relu(B(w, f"{name}.1", C(w, f"{name}.0", y)))
        return F.relu(B(w, f"{name}.4", C(w, f"{name}.3", y)))

    e = [double(names[0], x)]
    for i in range(1, 5):
        e.append(double(names[1].format(i), pool(e[-1])))
    y = e[4]
    for k in (1, 2, 3, 4):
        learned = w.get(f"up{k}.up.weight")
        y = up(y) if learned is None else F.conv_transpose2d(y, learned, w[f"up{k}.up.bias"], stride=2)
        y = double(names[2].format(k), torch.cat([e[4 - k], y], 1))
    return [C(w, "outc.conv", y, 0)]


@pytest.mark.parametrize("kind", ["transposed", "bilinear"])
@pytest.mark.parametrize(("bias", "old"), [(True, False), (False, False), (True, True)])
def test_unet_of_milesial(tmp_path, kind, bias, old):
    shapes, names = milesial_shapes(kind, bias, old)
    w = drawn(shapes)
    imported = import_checkpoint(saved(tmp_path, w | {"mask_values": [0, 255]}))
    assert imported.what == f"U-Net of milesial ({kind})"
    same(imported.model, lambda x: milesial(w, x, names), 3)
    assert imported.model.spec.conv_bias is bias
    assert [c.name for c in imported.model.classes] == ["background", "mask 255"]
    assert imported.model.intensity.fixed_gain == (1 / 255,) * 3
    assert "one position" in notes(imported)
    round_trip(imported.model, tmp_path)


@pytest.mark.parametrize("padding", ["late", "valid"])
@pytest.mark.parametrize("extent", [EVEN, ODD])
def test_unpadded_copies_of_it(tmp_path, padding, extent):
    """A tutorial's pads what is up-sampled, with zeros, the U-Net of 2015 crops the skips: the weights look the same."""
    shapes, names = milesial_shapes("transposed", bias=True)
    w = drawn(shapes)

    def double(name, y):
        y = F.relu(B(w, f"{name}.1", C(w, f"{name}.0", y, 0)))
        return F.relu(B(w, f"{name}.4", C(w, f"{name}.3", y, 0)))

    def reference(x):
        e = [double(names[0], x)]
        for i in range(1, 5):
            e.append(double(names[1].format(i), pool(e[-1])))
        y = e[4]
        for k in (1, 2, 3, 4):
            y = F.conv_transpose2d(y, w[f"up{k}.up.weight"], w[f"up{k}.up.bias"], stride=2)
            skip = e[4 - k]
            dy, dx = skip.shape[2] - y.shape[2], skip.shape[3] - y.shape[3]
            if padding == "late":
                y = F.pad(y, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
            else:
                skip = skip[:, :, dy // 2 : dy // 2 + y.shape[2], dx // 2 : dx // 2 + y.shape[3]]
            y = double(names[2].format(k), torch.cat([skip, y], 1))
        return C(w, "outc.conv", y, 0)

    path = saved(tmp_path, w)
    assert "--padding" in notes(import_checkpoint(path))
    model = import_checkpoint(path, Asked(padding=padding)).model
    x = image(3, extent)
    pads = [(0, 0), (0, 0), *(margins(model.spec, axis, n) for axis, n in enumerate(extent))]
    with torch.inference_mode():
        wanted = reference(torch.from_numpy(np.pad(x.numpy(), pads, mode="reflect")))
        (found,) = model.network(x)
    wanted = wanted[..., : extent[0], : extent[1]]
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) < 1e-5 * max(1.0, float(wanted.abs().max()))
    round_trip(model, tmp_path)
    assert "so --padding late does not fit" in refused(saved(tmp_path, drawn(wide_shapes())), Asked(padding="late"))
    assert "so --encoder resnet18 does not fit" in refused(
        saved(tmp_path, drawn(wide_shapes())), Asked(encoder="resnet18")
    )


# --- MONAI -------------------------------------------------------------------------------------------------------------

CASES = {
    "default": {},
    "own widths": {"features": (4, 6, 8, 10, 12, 5)},
    "batch": {"norm": "batch", "bias": False},
    "bilinear": {"upsample": "nontrainable"},
    "3d": {"spatial_dims": 3},
}


@pytest.mark.parametrize("name", ["BasicUNetPlusPlus", "BasicUNet"])
@pytest.mark.parametrize("case", list(CASES))
def test_monai(tmp_path, name, case):
    nets = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(3)
    options = {"spatial_dims": 2, "features": (4, 4, 8, 6, 12, 4), "out_channels": 3, **CASES[case]}
    supervised = {"deep_supervision": True} if "Plus" in name else {}
    theirs = getattr(nets, name)(**options, **supervised)
    w = drawn({k: tuple(v.shape) for k, v in theirs.state_dict().items()})
    theirs.load_state_dict(w)
    theirs.eval()
    path = saved(tmp_path, {"state_dict": w})

    def reference(x):
        out = theirs(x)
        return out if isinstance(out, list) else [out]

    extents = ((32, 32, 32), (32, 19, 32)) if case == "3d" else (EVEN, ODD)
    imported = import_checkpoint(path, Asked(heads="all"))
    same(imported.model, reference, 1, extents)
    assert "--slope" in notes(imported)
    assert ("InstanceNorm" in notes(imported)) == (case != "batch")
    round_trip(imported.model, tmp_path)
    if supervised:
        usual = import_checkpoint(path)
        same(usual.model, lambda x: reference(x)[-1:], 1, extents[:1])
        assert "--heads all" in notes(usual)
        assert "only its last head was kept" in notes(usual)


def test_monai_with_another_activation(tmp_path):
    nets = pytest.importorskip("monai.networks.nets")
    theirs = nets.BasicUNet(2, features=(4, 4, 4, 4, 4, 4), act="relu", norm="batch").eval()
    model = import_checkpoint(saved(tmp_path, theirs.state_dict()), Asked(negative_slope=0.0)).model
    same(model, lambda x: [theirs(x)], 1)


def test_monai_pixelshuffle_and_no_norm_are_refused(tmp_path):
    nets = pytest.importorskip("monai.networks.nets")
    f = (4, 4, 4, 4, 4, 4)
    shuffled = nets.BasicUNetPlusPlus(2, features=f, upsample="pixelshuffle").state_dict()
    assert "pixelshuffle" in refused(saved(tmp_path, shuffled))
    bare = nets.BasicUNetPlusPlus(2, features=f, norm=("instance", {"affine": False})).state_dict()
    assert "normalisation without weights" in refused(saved(tmp_path, bare))


# --- ShawnBIT ----------------------------------------------------------------------------------------------------------


def shawnbit_shapes(transposed, widths=WIDTHS):
    shapes = {}
    for i, j in NODES:
        c = widths[i]
        if j == 0:
            into, name = (1 if i == 0 else widths[i - 1]), f"conv{i}0"
            shapes |= conv(f"{name}.conv1.0", c, into) | norm(f"{name}.conv1.1", c)
            shapes |= conv(f"{name}.conv2.0", c, c) | norm(f"{name}.conv2.1", c)
        else:
            name, below = f"up_concat{i}{j}", widths[i + 1]
            shapes |= conv(f"{name}.conv.conv1.0", c, (j + 1) * c) | conv(f"{name}.conv.conv2.0", c, c)
            shapes |= tconv(f"{name}.up", below, c, 2) if transposed else conv(f"{name}.up.1", c, below, 1)
    for d in (1, 2, 3, 4):
        shapes |= conv(f"final_{d}", 2, widths[0], 1)
    return shapes


def shawnbit(w, x, transposed):
    def H(i, j, y):
        if j == 0:
            for k in (1, 2):
                y = F.relu(B(w, f"conv{i}0.conv{k}.1", C(w, f"conv{i}0.conv{k}.0", y)))
            return y
        for k in (1, 2):
            y = F.relu(C(w, f"up_concat{i}{j}.conv.conv{k}.0", y))
        return y

    def U(i, j, y):
        name = f"up_concat{i}{j}.up"
        if transposed:
            return F.conv_transpose2d(y, w[f"{name}.weight"], w[f"{name}.bias"], stride=2)
        return C(w, f"{name}.1", up(y), 0)  # UpsamplingBilinear2d, then 1 x 1

    return [C(w, f"final_{d}", y, 0) for d, y in enumerate(unetpp(x, H, U, last_up=False), 1)]


@pytest.mark.parametrize("transposed", [True, False])
def test_unet_nested_of_shawnbit(tmp_path, transposed):
    w = drawn(shawnbit_shapes(transposed))
    path = saved(tmp_path, w)
    imported = import_checkpoint(path)
    same(imported.model, lambda x: [torch.stack(shawnbit(w, x, transposed)).mean(0)], 1)
    assert "mean of the logits" in notes(imported)
    assert "averaged to one" in notes(imported)
    round_trip(imported.model, tmp_path)
    every = import_checkpoint(path, Asked(heads="all")).model
    same(every, lambda x: shawnbit(w, x, transposed), 1)
    last = import_checkpoint(path, Asked(heads="last")).model
    same(last, lambda x: shawnbit(w, x, transposed)[-1:], 1, extents=(EVEN,))


def test_pruned_imports_answer_as_their_heads(tmp_path):
    from napari_unetpp.model.unetpp import prune

    nets = pytest.importorskip("monai.networks.nets")
    theirs = nets.BasicUNetPlusPlus(2, features=(4, 6, 8, 10, 12, 5), norm="batch").eval()
    model = import_checkpoint(saved(tmp_path, theirs.state_dict()), Asked(heads="all")).model
    x = image(1, EVEN)
    with torch.inference_mode():
        whole = model.network(x)
        for d in (1, 2, 3):
            assert torch.equal(prune(model.network, d)(x)[-1], whole[d - 1])


# --- names, wrappers and what is not known ----------------------------------------------------------------------------


@pytest.mark.skipif(not KEYS.is_dir(), reason="the lists of names are not here")
@pytest.mark.parametrize("path", sorted(KEYS.glob("*.txt")), ids=lambda p: p.stem)
def test_every_list_of_names_is_recognised(path):
    lines = path.read_text().splitlines()
    title, rows = lines[0], [line.split("\t") for line in lines[1:] if line]
    shapes = {key: tuple(int(n) for n in shape.strip("()").split(",") if n.strip()) for key, shape in rows}
    words = {
        "nested": "pytorch-nested-unet",
        "seed001": "UnetPlusPlus with stage_",
        "seed004": "milesial",
        "milesial": "milesial",
        "official": "its authors' PyTorch",
        "smp060": "segmentation_models.pytorch",
        "shawnbit": "ShawnBIT",
        "monai": "MONAI",
    }
    assert words[path.stem.split("_")[0]] in recognise(shapes)
    if path.stem.startswith("smp060"):
        return
    if path.stem.startswith("official"):
        return  # all of it in test_foreign_fork.py
    zero = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    _, finder = foreign._finder(path, zero)
    found = finder(zero, Asked())
    foreign._converted(zero, found)  # every weight has its place
    assert f" {parameters(found.spec)} parameters" in title


WRAPPED = {
    "bare": lambda w: w,
    "state_dict": lambda w: {"epoch": 3, "state_dict": w},
    "model_state_dict": lambda w: {"model_state_dict": w, "loss": 0.5},
    "twice": lambda w: {"model": {"state_dict": {f"module.{k}": v for k, v in w.items()}}},
    "net": lambda w: {"net": {f"_orig_mod.model.{k}": v for k, v in w.items()}},
    "network": lambda w: {"network": w},
}


@pytest.mark.parametrize("how", WRAPPED)
def test_wrappers(tmp_path, how):
    w = drawn(nested_shapes(channels=1))
    state = import_checkpoint(saved(tmp_path, w)).model.network.state_dict()
    found = import_checkpoint(saved(tmp_path, WRAPPED[how](w), "wrapped.pth")).model.network.state_dict()
    assert all(torch.equal(state[key], found[key]) for key in state)


def test_what_was_read_once_becomes_what_reading_it_anew_does(tmp_path):
    """Whatever was asked before, and whatever became of the models that came of it."""
    path = saved(tmp_path, drawn(nested_shapes(heads=SEG)))  # trained on blue, green, red
    known = read_known(path)
    for asked in (NOTHING, Asked(heads="last", intensities="zscore"), NOTHING):
        found, wanted = convert(known, asked).model, import_checkpoint(path, asked).model
        assert (found.spec, found.intensity, found.card) == (wanted.spec, wanted.intensity, wanted.card)
        state = wanted.network.state_dict()
        for key, value in found.network.state_dict().items():
            assert torch.equal(value, state[key])
            value.fill_(9)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_and_half_precision(tmp_path, metadata):
    w = {k: v.half() if v.ndim > 1 else v for k, v in drawn(nested_shapes(channels=1)).items()}
    save_file(w, tmp_path / "theirs.safetensors", metadata=metadata)
    imported = import_checkpoint(tmp_path / "theirs.safetensors")
    wide = {k: v.float() for k, v in w.items()}
    same(imported.model, lambda x: nested(wide, x), 1, extents=(EVEN,))


def test_files_of_before_still_have_the_same_words():
    """The fields that came with imports are written only where they say something."""
    assert {"up_widths", "last_width", "negative_slope"}.isdisjoint(NetworkSpec.preset("default").to_json())
    assert NetworkSpec(negative_slope=0.1).to_json()["negative_slope"] == 0.1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"up_widths": (4, 4, 4, 4)}, "are for learned up-sampling"),
        ({"up_widths": (4,), "upsampling": "transposed2"}, "must name 4 rows"),
        ({"last_width": 0}, "last_width 0 must be positive"),
        ({"negative_slope": 1.5}, "negative_slope 1.5 must lie in"),
    ],
)
def test_specifications_that_contradict_themselves(fields, words):
    with pytest.raises(ValueError, match=words):
        NetworkSpec(**fields)


def test_what_sees_its_whole_input_is_not_tiled_seamlessly():
    spec = NetworkSpec(block="conv-in-relu")
    assert not spec.size_independent
    with pytest.raises(ValueError, match="InstanceNorm depends on all voxels"):
        spec.receptive_radius()


# --- hostile and broken files ------------------------------------------------------------------------------------------


def refused(path, asked=NOTHING):
    with pytest.raises(ModelFileError) as error:
        import_checkpoint(path, asked)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


class Evil:
    def __reduce__(self):
        return (exec, ("open('pwned', 'w').close()",))


@pytest.mark.parametrize("inside", [False, True])
def test_a_pickle_that_executes(tmp_path, monkeypatch, inside):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": drawn(nested_shapes()), "x": Evil()}, path) if inside else path.write_bytes(
        pickle.dumps(Evil(), protocol=2)
    )
    text = refused(path)
    assert "refused" in text or "cannot read" in text
    assert not inside or "exec" in text
    assert [p.name for p in tmp_path.iterdir()] == ["evil.pth"]


def test_a_whole_pickled_network_is_refused(tmp_path):
    assert "Conv2d" in refused(saved(tmp_path, torch.nn.Conv2d(1, 1, 3)))


def test_damaged_files(tmp_path):
    w = drawn(nested_shapes())
    whole = saved(tmp_path, w).read_bytes()
    save_file(w, tmp_path / "t.safetensors")
    tensors = (tmp_path / "t.safetensors").read_bytes()
    broken = {
        "empty.pth": b"",
        "short.pth": whole[: len(whole) // 2],
        "head.pth": whole[:100],
        "noise.pth": bytes(range(256)) * 10,
        "pickle.pth": pickle.dumps({"state_dict": [1, 2, 3]}),
        "short.safetensors": tensors[: len(tensors) // 2],
        "huge.safetensors": struct.pack("<Q", 2**62) + b"{" + b" " * 100,
        "large.safetensors": struct.pack("<Q", 2**28) + b"{" + b" " * 100,
        "keras.h5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
        text = refused(tmp_path / name)
        assert "Keras" in text or "no model file of napari-unetpp" in text or "damaged" in text
    torch.save([1, 2, 3], tmp_path / "list.pth")
    assert "holds no weights" in refused(tmp_path / "list.pth")
    with pytest.raises(FileNotFoundError):
        import_checkpoint(tmp_path)


def test_archives_that_grow(tmp_path):
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    (tmp_path / "bomb.pth").write_bytes(bomb.getvalue())
    assert "unpack to 50000000 bytes" in refused(tmp_path / "bomb.pth")
    w = drawn(nested_shapes())
    w["conv0_0.conv1.weight"] = torch.zeros(1).expand(10**6, 10**6)
    assert "claim more bytes" in refused(saved(tmp_path, w))


def test_weights_that_do_not_fit(tmp_path):
    w = drawn(nested_shapes())
    key = "conv2_1.conv2.weight"
    assert f"{key} is missing" in refused(saved(tmp_path, {k: v for k, v in w.items() if k != key}))
    assert "conv0_0.conv1.weight" in refused(saved(tmp_path, {k: v for k, v in w.items() if "conv0_0" not in k}))
    gap = {k: v for k, v in w.items() if k != "conv3_0.conv1.weight"}
    assert "its weight conv3_0.conv1.weight is missing" in refused(saved(tmp_path, gap))
    assert "has shape (3, 8, 3, 3)" in refused(saved(tmp_path, w | {key: w[key][:3]}))
    nan = w[key].clone()
    nan[0, 0, 0, 0] = float("nan")
    assert f"{key} holds NaN" in refused(saved(tmp_path, w | {key: nan}))
    assert "no known use, the first is attention" in refused(saved(tmp_path, w | {"attention.weight": torch.ones(3)}))
    assert "not known, the first is a.weight" in refused(saved(tmp_path, {"a.weight": torch.ones(3)}))
    assert "no plain tensor" in refused(saved(tmp_path, w | {key: w[key].to(torch.complex64)}))
    wide = torch.zeros(10**5, 3, 1, 1)
    assert "is wanted" in refused(saved(tmp_path, w | {"conv0_0.conv1.weight": wide}))
    for shape in ((4, 3), (4, 3, 0, 3)):
        assert "is wanted" in refused(saved(tmp_path, w | {"conv0_0.conv1.weight": torch.zeros(shape)}))


def test_options_that_do_not_fit(tmp_path):
    path = saved(tmp_path, drawn(wide_shapes()))
    assert "its up-sampling is learned" in refused(path, Asked(upsampling="nearest"))
    assert "it has 1 classes, not 2" in refused(path, Asked(classes=("a", "b")))
    assert "can be averaged" in refused(path, Asked(heads="mean"))
    gray = saved(tmp_path, drawn(nested_shapes(channels=1)))
    assert "is for 3 channels" in refused(gray, Asked(intensities="imagenet"))


# --- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_UNETPP_HOME", str(tmp_path / "home"))
    return lambda *arguments: CliRunner().invoke(app, ["models", "import", *map(str, arguments)])


def test_the_command_says_what_it_recognised(tmp_path, run):
    path = saved(tmp_path, drawn(nested_shapes(heads=FOUR)))
    done = run(path, "--name", "cells", "--class", "cell")
    assert done.exit_code == 0, done.stderr
    for words in (
        "NestedUNet of pytorch-nested-unet",
        "4, 6, 8, 10, 12",
        "L1, L2, L3, L4",
        "(raw - 103.53)",
        "--upsampling",
    ):
        assert words in done.stdout
    model = load_model("cells", "cpu")
    assert (model.card.name, [c.name for c in model.classes]) == ("cells", ["cell"])
    assert [p.name for p in zoo.user_folder().iterdir()] == ["cells.safetensors"]
    again = run(path, "--name", "cells")
    assert (again.exit_code, "already" in again.stderr) == (1, True)
    placed = tmp_path / "placed.safetensors"
    assert run(path, "-o", placed, "--upsampling", "nearest", "--json").exit_code == 0
    assert load_model(placed, "cpu").spec.upsampling == "nearest"
    assert run(path, "-o", placed).exit_code == 1
    assert run(path, "--upsampling", "magic").exit_code == 2
    assert run(placed, "--heads", "last").exit_code == 2
    assert run(placed, "--name", "ours").exit_code == 0


def test_a_refused_file_writes_nothing(tmp_path, run):
    path = saved(tmp_path, {"encoder.stages.0.conv1.0.weight": torch.ones(3)})
    done = run(path)
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert "a network of nnU-Net, which is recognised but cannot be imported yet" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["theirs.pth"]
