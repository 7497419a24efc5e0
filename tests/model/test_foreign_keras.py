"""The UNet++ authors' Keras files: the same logits as the network they were saved from, or one line that says why not.

Two references: Keras itself (torch backend) where it is installed, which also writes the files; and the network written out in
numpy on channels-last arrays, with the files written by the rules of Keras 2.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from napari_unetpp.cli import app
from napari_unetpp.model import zoo
from napari_unetpp.model.foreign import Asked, import_checkpoint
from napari_unetpp.model.foreign_hdf5 import read_keras
from tests.model.test_foreign import EVEN, refused, round_trip, same
from tests.model.test_foreign import notes as notes_of

h5py = pytest.importorskip("h5py")

WIDTHS = (3, 4, 5, 6, 7)


# --- a network of theirs: weights, configuration, and what it computes ------------------------------------------------


def grid(nested):
    """(a, b) of their layers ``conv{a}{b}``, as helper_functions.py of the authors has them."""
    return [(a, b) for a in range(1, 6) for b in range(1, 7 - a) if nested or b == 1 or a + b == 6]


def skips_of(a, b, nested):
    return [(a, c) for c in range(1, b)] if nested else [(a, 1)]


def drawn(nested, widths=WIDTHS, channels=1, classes=1, outputs=("output",), last_up=False):
    """Arrays by layer, kernels (y, x, in, out) and of transposed convolutions (y, x, out, in)."""
    rng = np.random.default_rng(0)

    def layer(*shape, out):
        kernel = rng.normal(size=shape) * (2 / np.prod(shape[:3])) ** 0.5
        return {"kernel": kernel.astype(np.float32), "bias": rng.normal(size=out).astype(np.float32) / 3}

    layers = {}
    for a, b in grid(nested):
        w = widths[a - 1]
        into = (channels if a == 1 else widths[a - 2]) if b == 1 else w + w * len(skips_of(a, b, nested))
        layers[f"conv{a}{b}_1"] = layer(3, 3, into, w, out=w)
        layers[f"conv{a}{b}_2"] = layer(3, 3, w, w, out=w)
        if b > 1:
            layers[f"up{a}{b}"] = layer(2, 2, w, widths[a], out=w)
    return layers | {name: layer(1, 1, widths[0], classes, out=classes) for name in outputs}


def network(layers, image, nested, outputs, last_up=False):
    """Logits (y, x, class) of every output for one image (y, x, channel), term by term of the sums."""

    def conv(name, x):
        kernel, bias = layers[name]["kernel"], layers[name]["bias"]
        r = kernel.shape[0] // 2
        padded = np.pad(x, ((r, r), (r, r), (0, 0)))
        shifted = [
            padded[dy : dy + x.shape[0], dx : dx + x.shape[1]] @ kernel[dy, dx]
            for dy in range(kernel.shape[0])
            for dx in range(kernel.shape[1])
        ]
        return sum(shifted) + bias

    def up(name, x):
        kernel, bias = layers[name]["kernel"], layers[name]["bias"]
        out = np.zeros((2 * x.shape[0], 2 * x.shape[1], kernel.shape[2]))
        for dy in (0, 1):
            for dx in (0, 1):
                out[dy::2, dx::2] = x @ kernel[dy, dx].T
        return out + bias

    def unit(ab, x):
        return np.maximum(conv(f"conv{ab}_2", np.maximum(conv(f"conv{ab}_1", x), 0)), 0)

    def pool(x):
        return x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max((1, 3))

    x = {}
    for a, b in sorted(grid(nested), key=lambda ab: (sum(ab), ab[1])):
        if b == 1:
            inputs = image.astype(np.float64) if a == 1 else pool(x[a - 1, 1])
        else:
            below, beside = up(f"up{a}{b}", x[a + 1, b - 1]), [x[s] for s in skips_of(a, b, nested)]
            inputs = np.concatenate([*beside, below] if last_up else [below, *beside], axis=-1)
        x[a, b] = unit(f"{a}{b}", inputs)
    return [conv(name, x[1, 5 if name == "output" else int(name[-1]) + 1]) for name in outputs]


def reference(layers, nested, outputs, last_up=False):
    def run(x):
        images = [network(layers, one.permute(1, 2, 0).numpy(), nested, outputs, last_up) for one in x]
        return [torch.from_numpy(np.stack(maps)).permute(0, 3, 1, 2).float() for maps in zip(*images, strict=True)]

    return run


def configuration(layers, nested, outputs, rate=0.5, last_up=False, activation="sigmoid", keras=2):
    """`model.to_json()` of such a network, as Keras 2 or 3 words it; the settings that matter."""

    def inbound(*names):
        if keras == 2:
            return [[[name, 0, 0, {}] for name in names]] if names else []
        told = [{"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}} for name in names]
        return [{"args": [told], "kwargs": {}}] if names else []

    def layer(kind, name, *inputs, **settings):
        return {
            "class_name": kind,
            "name": name,
            "config": {"name": name, **settings},
            "inbound_nodes": inbound(*inputs),
        }

    found = [layer("InputLayer", "main_input")]
    common = {"padding": "same", "strides": [1, 1], "dilation_rate": [1, 1]}
    for a, b in grid(nested):
        before = "main_input" if a == 1 else f"pool{a - 1}"
        if b == 1 and a > 1:
            found.append(
                layer(
                    "MaxPooling2D",
                    before,
                    f"dp{a - 1}1_2",
                    pool_size=[2, 2],
                    strides=[2, 2],
                    padding="valid",
                )
            )
        if b > 1:
            up = {"strides": [2, 2], "padding": "same", "activation": "linear", "dilation_rate": [1, 1]}
            found.append(layer("Conv2DTranspose", f"up{a}{b}", f"dp{a + 1}{b - 1}_2", **up))
            beside = [f"dp{c}{d}_2" for c, d in skips_of(a, b, nested)]
            before = f"merge{a}{b}"
            found.append(
                layer("Concatenate", before, *([*beside, f"up{a}{b}"] if last_up else [f"up{a}{b}", *beside]), axis=3)
            )
        for k in (1, 2):
            found.append(layer("Conv2D", f"conv{a}{b}_{k}", before, activation="relu", **common))
            before = f"dp{a}{b}_{k}"
            found.append(layer("Dropout", before, f"conv{a}{b}_{k}", rate=rate))
    found += [layer("Conv2D", name, "dp12_2", activation=activation, **common) for name in outputs]
    return {"class_name": "Model", "config": {"name": "model_1", "layers": found}}


def write(group, layers, kind="2"):
    """Weights as Keras 2 writes them: a group per layer, the names of its weights once more inside it."""
    for name, arrays in layers.items():
        for leaf, value in arrays.items():
            group[f"{name}/{name}/{leaf}:0" if kind == "2" else f"{name}/{leaf}:0"] = value
    for name in [n.replace("conv", "dp") for n in layers if n.startswith("conv")]:
        group.create_group(name)  # dropout: no weights
    group.attrs["layer_names"] = np.array([n.encode() for n in layers])


def weights_file(path, layers):
    with h5py.File(path, "w") as file:
        write(file, layers)
        file.attrs["keras_version"] = b"2.2.2"
    return path


def model_file(path, layers, config):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config).encode()
        write(file.create_group("model_weights"), layers)
        file["optimizer_weights/adam/iterations:0"] = np.int64(7)
    return path


def parallel_file(path, layers, config):
    """As of a model on several GPUs: the network is a layer of another model, beside layers of the split."""
    outer = {
        "class_name": "Model",
        "config": {
            "layers": [
                {"class_name": "Lambda", "name": "lambda_1", "config": {"name": "lambda_1", "function": ["4wEAAAA="]}},
                {**config, "name": "model_1", "inbound_nodes": []},
            ]
        },
    }
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(outer)
        write(file.create_group("model_weights/model_1"), layers, kind="nested")
    return path


FOUR = tuple(f"output_{d}" for d in (1, 2, 3, 4))
NETWORKS = {
    "U-Net": (False, ("output",), WIDTHS),
    "UNet++": (True, FOUR, WIDTHS),
    "UNet++, one head": (True, FOUR[-1:], (4, 3, 5, 2, 6)),
}
FILES = {
    "weights": lambda path, layers, _: weights_file(path, layers),
    "model": model_file,
    "parallel": parallel_file,
}


# --- what is equal ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", FILES)
def test_networks_of_keras_2(tmp_path, name, kind):
    nested, outputs, widths = NETWORKS[name]
    layers = drawn(nested, widths, outputs=outputs)
    imported = import_checkpoint(FILES[kind](tmp_path / "t.h5", layers, configuration(layers, nested, outputs)))
    model = imported.model
    assert imported.what == f"{name.split(',')[0]} of its authors' Keras code"
    assert (model.spec.widths, model.spec.dropout) == (widths, 0.5)
    assert model.spec.heads == ((1, 2, 3, 4) if len(outputs) == 4 else (4,))
    assert ("weights alone" in notes_of(imported)) == (kind == "weights")
    assert ("one position, L4" in notes_of(imported)) == (len(outputs) == 1)
    extents = (EVEN, (37, 21), (16, 16)) if kind == "model" else (EVEN,)
    same(model, reference(layers, nested, outputs), 1, extents)
    round_trip(model, tmp_path)


def test_wide_unet_and_the_parameters_of_the_paper(tmp_path):
    """helper_functions.py says 9,282,246, 7,759,521 and 9,041,601 parameters."""
    for widths, nested, outputs, what, parameters in (
        ((35, 70, 140, 280, 560), False, ("output",), "wide U-Net", 9_282_246),
        ((32, 64, 128, 256, 512), False, ("output",), "U-Net", 7_759_521),
        ((32, 64, 128, 256, 512), True, FOUR[-1:], "UNet++", 9_041_601),
    ):
        path = weights_file(tmp_path / f"{parameters}.h5", drawn(nested, widths, outputs=outputs))
        imported = import_checkpoint(path)
        assert imported.what.startswith(f"{what} of its authors")
        assert sum(p.numel() for p in imported.model.network.parameters()) == parameters


def test_classes_and_colours(tmp_path):
    layers = drawn(True, channels=3, classes=3, outputs=FOUR)
    imported = import_checkpoint(weights_file(tmp_path / "t.h5", layers), Asked(intensities="unit", classes=("a", "b")))
    same(imported.model, reference(layers, True, FOUR), 3, (EVEN,))
    assert "exclusive classes" in notes_of(imported)
    assert [c.name for c in imported.model.classes] == ["background", "a", "b"]
    config = configuration(layers, True, FOUR, activation="softmax")
    assert "exclusive" not in notes_of(import_checkpoint(model_file(tmp_path / "s.h5", layers, config)))


@pytest.mark.parametrize("keras", [2, 3])
def test_a_fork_that_concatenates_the_other_way_round(tmp_path, keras):
    """The weights cannot tell, the configuration does; it also tells another dropout."""
    layers = drawn(True, outputs=FOUR)
    config = configuration(layers, True, FOUR, rate=0.2, last_up=True, keras=keras)
    model = import_checkpoint(model_file(tmp_path / "t.h5", layers, config)).model
    same(model, reference(layers, True, FOUR, last_up=True), 1, (EVEN,))
    assert (model.spec.concatenation, model.spec.dropout) == ("skips-first", 0.2)


def test_precision_and_byte_order(tmp_path):
    layers = drawn(False)
    changed = {n: {k: v.astype(">f8" if n < "conv3" else "f2") for k, v in w.items()} for n, w in layers.items()}
    model = import_checkpoint(weights_file(tmp_path / "t.h5", changed)).model
    exact = {n: {k: v.astype(np.float32) for k, v in w.items()} for n, w in changed.items()}
    same(model, reference(exact, False, ("output",)), 1, (EVEN,))


def keras_network(keras, nested, outputs, rate=0.5):
    layer = keras.layers

    def unit(x, name, width):
        for k in (1, 2):
            x = layer.Conv2D(width, (3, 3), activation="relu", name=f"conv{name}_{k}", padding="same")(x)
            x = layer.Dropout(rate, name=f"dp{name}_{k}")(x)
        return x

    image = layer.Input((None, None, 1), name="main_input")
    nodes = {(1, 1): unit(image, "11", WIDTHS[0])}
    for a in range(2, 6):
        pooled = layer.MaxPooling2D((2, 2), strides=(2, 2), name=f"pool{a - 1}")(nodes[a - 1, 1])
        nodes[a, 1] = unit(pooled, f"{a}1", WIDTHS[a - 1])
    for a, b in sorted(grid(nested), key=lambda ab: (sum(ab), ab[1])):
        if b > 1:
            name, width = f"{a}{b}", WIDTHS[a - 1]
            up = layer.Conv2DTranspose(width, (2, 2), strides=(2, 2), padding="same", name=f"up{name}")
            beside = [nodes[s] for s in skips_of(a, b, nested)]
            merged = layer.concatenate([up(nodes[a + 1, b - 1]), *beside], name=f"merge{name}")
            nodes[a, b] = unit(merged, name, width)
    made = [
        layer.Conv2D(1, (1, 1), activation="sigmoid", name=name, padding="same")(
            nodes[1, 5 if name == "output" else int(name[-1]) + 1]
        )
        for name in outputs
    ]
    return keras.Model(image, made)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own
@pytest.mark.parametrize("name", ["U-Net", "UNet++"])
def test_files_that_keras_itself_wrote(tmp_path, monkeypatch, name):
    if "keras" not in sys.modules:
        monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", minversion="3")
    nested, outputs, _ = NETWORKS[name]
    theirs = keras_network(keras, nested, outputs)
    rng = np.random.default_rng(0)
    theirs.set_weights([rng.normal(size=w.shape).astype(np.float32) / 4 for w in theirs.get_weights()])
    theirs.compile("adam", "mse")
    files = [tmp_path / n for n in ("t.h5", "t.weights.h5", "t.keras")]
    theirs.save(files[0])
    theirs.save_weights(files[1])
    theirs.save(files[2])
    for head in outputs:  # the logits behind the sigmoid
        theirs.get_layer(head).activation = keras.activations.linear

    def run(x):
        maps = theirs(x.permute(0, 2, 3, 1).numpy(), training=False)
        maps = maps if isinstance(maps, list | tuple) else [maps]
        return [torch.from_numpy(keras.ops.convert_to_numpy(m)).permute(0, 3, 1, 2) for m in maps]

    for path in files:
        imported = import_checkpoint(path)
        same(imported.model, run, 1)
        assert ("weights alone" in notes_of(imported)) == (path.name == "t.weights.h5")


# --- what is refused ----------------------------------------------------------------------------------------------------


def changed(config, name, **settings):
    for layer in config["config"]["layers"]:
        if layer["name"] == name:
            kind = settings.pop("kind", layer["class_name"])
            layer.update(class_name=kind)
            layer["config"].update(settings)
    return config


@pytest.mark.parametrize(
    ("layer", "settings", "words"),
    [
        ("conv22_1", {"activation": "elu"}, "conv22_1 has activation elu where relu is wanted"),
        ("conv22_1", {"activation": {"class_name": "LeakyReLU"}}, "has activation"),
        ("conv22_1", {"padding": "valid"}, "has padding valid"),
        ("conv22_1", {"dilation_rate": [2, 2]}, "has dilation_rate"),
        ("conv22_1", {"strides": 2}, "has strides 2"),
        ("up22", {"strides": [4, 4]}, "up22 has strides"),
        ("pool2", {"pool_size": [3, 3]}, "pool2 has pool_size"),
        ("pool2", {"kind": "AveragePooling2D"}, "of the kind AveragePooling2D is not in the original"),
        ("pool2", {"kind": "Lambda", "function": ["4wEAAAA="]}, "is a Lambda, code that is not run"),
        ("output_4", {"activation": "tanh"}, "output_4 has activation tanh"),
        ("dp22_1", {"rate": 0.9}, "dropout differs"),
        ("conv22_1", {"kind": "SeparableConv2D"}, "of the kind SeparableConv2D"),
    ],
)
def test_networks_that_differ(tmp_path, layer, settings, words):
    layers = drawn(True, outputs=FOUR)
    config = changed(configuration(layers, True, FOUR), layer, **settings)
    assert words in refused(model_file(tmp_path / "t.h5", layers, config))


def test_concatenation_that_is_neither(tmp_path):
    layers = drawn(True, outputs=FOUR)
    config = configuration(layers, True, FOUR)
    for layer in config["config"]["layers"]:
        if layer["name"] == "merge13":
            layer["inbound_nodes"][0].reverse()
    assert "in another order" in refused(model_file(tmp_path / "t.h5", layers, config))


def test_weights_that_do_not_fit(tmp_path):
    layers = drawn(True, outputs=FOUR)

    def without(*names):
        return {n: w for n, w in layers.items() if n not in names}

    cases = {
        "conv22_1.weight is missing": without("conv22_1"),
        "conv31_1.weight is missing": without("conv31_1"),
        "head output or output_4 is missing": without("output_4"),
        "up12.weight is missing": without("up12"),
        "no known use, the first is attention.bias": layers | {"attention": {"bias": np.ones(3, np.float32)}},
        "holds NaN or infinity": layers | {"conv22_1": {**layers["conv22_1"], "bias": np.full(4, np.nan, np.float32)}},
        "has shape (4,) where (7,) is wanted": layers | {"conv51_1": {**layers["conv51_1"], "bias": np.ones(4, "f4")}},
        "one row": {n: w for n, w in layers.items() if n.startswith("conv11")},
        "is not known, the first is dense": {"dense": {"kernel": np.ones((3, 3), np.float32)}},
    }
    for number, (words, given) in enumerate(cases.items()):
        assert words in refused(weights_file(tmp_path / f"{number}.h5", given))
    assert "its up-sampling is learned" in refused(weights_file(tmp_path / "u.h5", layers), Asked(upsampling="nearest"))


# --- hostile files ------------------------------------------------------------------------------------------------------


def spoiled(path, change, layers=None):
    weights_file(path, layers or drawn(False))
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def put(file, key, **options):
    del file[key]
    return file.create_dataset(key, **options)


KEY = "conv21_1/conv21_1/kernel:0"


def external_link(file):
    del file["conv21_1"]
    file["conv21_1"] = h5py.ExternalLink("/etc/hostname", "/")


def soft_link(file):
    del file["conv21_1"]
    file["conv21_1"] = h5py.SoftLink("/conv11_1")


def link_to_weights(file):
    file["model_weights"] = h5py.ExternalLink("/etc/hostname", "/")


def virtual(file):
    layout = h5py.VirtualLayout((3, 3, 5, 4), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (3, 3, 5, 4))
    del file[KEY]
    file.create_virtual_dataset(KEY, layout)


def circle(file):
    file["conv21_1/again"] = file["conv21_1"]


HOSTILE = {
    "external link": (external_link, "is a link to elsewhere"),
    "soft link": (soft_link, "is a link to elsewhere"),
    "the weights elsewhere": (link_to_weights, "is a link to elsewhere"),
    "external data": (
        lambda f: put(f, KEY, shape=(4, 4), dtype="f4", external=[("/etc/hostname", 0, 64)]),
        "lies in another file",
    ),
    "virtual data": (virtual, "lies in another file"),
    "huge, never written": (lambda f: put(f, KEY, shape=(2**20, 2**20), dtype="f4"), "is not in the file"),
    "small, never written": (lambda f: put(f, KEY, shape=(3, 3, 4, 4), dtype="f4"), "is not in the file"),
    "huge, compressed": (
        lambda f: put(f, KEY, shape=(2**14, 2**14), dtype="f4", chunks=(64, 2**14), compression="gzip"),
        "claim more bytes than the file has",
    ),
    "text": (lambda f: put(f, KEY, data=["a", "b"]), "no plain floating-point array"),
    "integers": (lambda f: put(f, KEY, data=np.ones((3, 3, 8, 4), np.int64)), "no plain floating-point array"),
    "nothing": (lambda f: put(f, KEY, data=h5py.Empty("f4")), "no plain floating-point array"),
    "a circle": (circle, "contain each other without an end"),
    "a bare weight": (lambda f: f.create_dataset("kernel", data=np.ones(3, np.float32)), "belongs to no layer"),
    "no weights": (lambda f: f.clear(), "holds no weights"),
    "no JSON": (lambda f: f.attrs.__setitem__("model_config", "{"), "is damaged"),
    "JSON without an end": (lambda f: f.attrs.__setitem__("model_config", "[" * 60_000), "is damaged"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_files(tmp_path, how):
    change, words = HOSTILE[how]
    assert words in refused(spoiled(tmp_path / "t.h5", change))
    assert [p.name for p in tmp_path.iterdir()] == ["t.h5"]


def test_truncated_files(tmp_path):
    whole = weights_file(tmp_path / "t.h5", drawn(False)).read_bytes()
    for size in (9, 100, 2000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "t.h5").write_bytes(whole[:size])
        assert "damaged" in refused(tmp_path / "t.h5")


def test_layers_without_names(tmp_path):
    """As Keras 2.12 to 3.0 wrote their .weights.h5."""
    with h5py.File(tmp_path / "t.weights.h5", "w") as file:
        file["layers/conv2d/vars/0"] = np.ones((3, 3, 1, 4), np.float32)
        file["layers/conv2d/vars/1"] = np.ones(4, np.float32)
    assert "its layers have no names" in refused(tmp_path / "t.weights.h5")


def test_archives_that_grow(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(50_000_000))
        archive.writestr("config.json", "{}")
    assert "many times its size" in refused(tmp_path / "t.keras")
    inner = io.BytesIO(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with zipfile.ZipFile(tmp_path / "u.keras", "w") as archive:
        archive.writestr("model.weights.h5", inner.getvalue())
        archive.writestr("config.json", "{}")
    assert "is damaged" in refused(tmp_path / "u.keras")


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    path = weights_file(tmp_path / "t.h5", drawn(False))
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert 'pip install "napari-unetpp[keras]"' in refused(path)


def test_the_command_says_what_it_recognised_and_writes_nothing_of_what_it_refuses(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_UNETPP_HOME", str(tmp_path / "home"))
    layers = drawn(True, outputs=FOUR)
    good = model_file(tmp_path / "cells.h5", layers, configuration(layers, True, FOUR))
    done = CliRunner().invoke(app, ["models", "import", str(good)])
    assert done.exit_code == 0, done.stderr
    for words in (
        "UNet++ of its authors' Keras code",
        "3, 4, 5, 6, 7",
        "L1, L2, L3, L4",
        "percentile",
        "--intensities",
    ):
        assert words in done.stdout
    bad = spoiled(tmp_path / "bad.h5", external_link)
    refusal = CliRunner().invoke(app, ["models", "import", str(bad)])
    assert (refusal.exit_code, len(refusal.stderr.splitlines())) == (1, 1)
    assert [p.name for p in zoo.user_folder().iterdir()] == ["cells.safetensors"]


def test_layers_are_named_also_where_they_have_no_weights(tmp_path):
    weights, layers = read_keras(weights_file(tmp_path / "t.h5", drawn(False)))
    assert {"conv11_1", "dp11_1", "output"} <= set(layers)
    assert weights["up42.weight"].shape == (WIDTHS[4], WIDTHS[3], 2, 2)
