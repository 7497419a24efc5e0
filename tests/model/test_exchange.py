"""Exports: whatever runs them gives the network's own probabilities, on any size, and a package comes back to the bit."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from napari_unetpp.model import exchange_graphs
from napari_unetpp.model.card import Card, ClassInfo
from napari_unetpp.model.checkpoint import Model, load_model
from napari_unetpp.model.exchange import FORMATS, Exported, export_model, format_of
from napari_unetpp.model.foreign import import_checkpoint
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus

EXTENTS = {2: ((24, 20), (13, 27), (1, 3)), 3: ((8, 12, 16), (5, 9, 13), (1, 2, 5))}  # even, odd, less than the grid
SPECS = {
    "2D, two classes": NetworkSpec(widths=(4, 6, 8), heads=(1, 2), classes=2, conv_bias=False),
    "3D": NetworkSpec(ndim=3, widths=(3, 4, 5), heads=(1, 2), upsampling="transposed2", block="conv-relu"),
    "instance norm": NetworkSpec(
        in_channels=3,
        widths=(4, 6, 8),
        heads=(2,),
        block="conv-in-relu",
        upsampling="bilinear-aligned",
        negative_slope=0.1,
    ),
}


def made(spec, intensity=None, **card):
    """A model whose BatchNorm has seen something, so that its statistics matter."""
    torch.manual_seed(1)
    network = UNetPlusPlus(spec).train()
    with torch.no_grad():
        network(torch.randn(2, spec.in_channels, *(16,) * spec.ndim))
    names = ("background", "wall", "nucleus")[: spec.classes] if spec.classes > 1 else ("membrane",)
    about = Card("tiny cells", tuple(ClassInfo(name) for name in names), **card)
    return Model(spec, network.eval(), intensity or Intensity(), about, torch.device("cpu"), "ab" * 32)


def exported(model, target, kind, **options) -> tuple[Exported, list[str]]:
    steps, lines = export_model(model, target, format=kind, **options), []
    while True:
        try:
            lines.append(next(steps))
        except StopIteration as done:
            return done.value, lines


def expected(model, image, level=None):
    """Probabilities straight from the logits of the unpruned network."""
    with torch.no_grad():
        logits = model.network(image)[: model.spec.heads.index(level) + 1 if level else None]
    return [torch.sigmoid(x).numpy() if x.shape[1] == 1 else torch.softmax(x, 1).numpy() for x in logits]


def same(model, answer, level=None):
    # InstanceNorm has nothing to measure in one voxel.
    extents = EXTENTS[model.spec.ndim][: 2 if "-in-" in model.spec.block else 3]
    for number, extent in enumerate(extents):
        image = torch.randn(number + 1, model.spec.in_channels, *extent)
        theirs, ours = answer(image), expected(model, image, level)
        assert len(theirs) == len(ours)
        for one, other in zip(theirs, ours, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "level"), [("2D, two classes", None), ("2D, two classes", 1), ("3D", None), ("instance norm", None)]
)
def test_onnx_answers_as_the_network(tmp_path, name, level):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = made(SPECS[name])
    done, lines = exported(model, tmp_path / "net.onnx", "onnx", level=level)
    session = onnxruntime.InferenceSession(done.path)
    heads = [f"L{d}" for d in model.spec.heads_up_to(level)]
    assert [output.name for output in session.get_outputs()] == heads
    same(model, lambda image: session.run(heads, {"image": image.numpy()}), level)

    graph = onnx.load(done.path)
    extents = [d.dim_param or d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim]
    assert extents == ["batch", model.spec.in_channels, *"zyx"[-model.spec.ndim :]]
    assert graph.opset_import[0].version >= 20
    said = session.get_modelmeta().custom_metadata_map
    assert Intensity.from_json(json.loads(said["intensity"])) == model.intensity
    assert json.loads(said["classes"]) == [c.name for c in model.classes]
    assert json.loads(said["multiple"]) == [4] * model.spec.ndim
    assert json.loads(said["heads"]) == heads
    assert said["source_sha256"] == model.sha256
    assert __file__.encode() not in done.path.read_bytes()
    assert b"site-packages" not in done.path.read_bytes()
    assert "onnxruntime differs by at most" in done.checked
    assert lines[-1] == done.checked
    assert done.bytes == done.path.stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("level", [None, 1])
@pytest.mark.parametrize("name", SPECS)
def test_torchscript_answers_as_the_network(tmp_path, name, level):
    model = made(SPECS[name])
    if level not in (None, *model.spec.heads):
        pytest.skip("it has no such head")
    done, _ = exported(model, tmp_path / "net.pt", "torchscript", level=level)
    extra = {exchange_graphs.ABOUT: ""}
    graph = torch.jit.load(done.path, _extra_files=extra)
    with torch.no_grad():
        same(model, lambda image: [head.numpy() for head in graph(image)], level)
    assert json.loads(extra[exchange_graphs.ABOUT])["source_sha256"] == model.sha256
    # A device that was written into the graph would keep it from running on another: it may only stand where it is asked for.
    assert 'device=torch.device("cpu")' not in graph.code


def test_torchscript_needs_nothing_of_ours(tmp_path):
    model = made(SPECS["2D, two classes"])
    exported(model, tmp_path / "net.pt", "torchscript")
    image = torch.randn(1, 1, 13, 27)
    np.save(tmp_path / "image.npy", image.numpy())
    code = (
        "import sys; sys.modules['napari_unetpp'] = None; import numpy as np, torch;"
        "net = torch.jit.load('net.pt'); out = net(torch.from_numpy(np.load('image.npy')));"
        "np.save('out.npy', out[-1].detach().numpy())"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected(model, image)[-1], atol=1e-6)


@pytest.mark.parametrize("level", [None, 1])
def test_model_files_keep_every_bit(tmp_path, level):
    model = made(SPECS["2D, two classes"])
    done, _ = exported(model, tmp_path / "small.safetensors", "safetensors", level=level)
    back, image = load_model(done.path, "cpu"), torch.randn(1, 1, 13, 27)
    with torch.no_grad():
        for one, other in zip(back.network(image), model.network(image)[:level], strict=True):
            assert torch.equal(one, other)
    assert len(back.spec.heads) == (level or 2)


class Cut:
    """No network: whatever wants to connect fails."""

    def __init__(self, monkeypatch):
        def refuse(*_, **__):
            raise OSError("there is no network")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)


PACKAGES = {
    "fixed, colours, licence of its own": (
        made(
            NetworkSpec(in_channels=3, classes=3, widths=(4, 6), heads=(1,)),
            Intensity("fixed", fixed_offset=(10.0, 20.0, 30.0), fixed_gain=(0.01, 0.02, 0.03)),
            licence="ask first",
            spacing_um=(0.325, 0.325),
            credit="Somebody 2019, doi 10.1073/pnas.1509820112.",
            scores={"test": {"L1": {"iou": 0.5}}},
        ),
        None,
    ),
    "3D, z-score, pruned": (
        made(
            NetworkSpec(ndim=3, widths=(3, 4, 5), heads=(1, 2)),
            Intensity("zscore"),
            licence="CC BY 4.0",
            spacing_um=(0.03, 0.01, 0.01),
        ),
        1,
    ),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_pass_the_test_of_bioimage_io_and_come_back(tmp_path, monkeypatch, name):
    core = pytest.importorskip("bioimageio.core")
    pytest.importorskip("onnxscript")
    Cut(monkeypatch)
    model, level = PACKAGES[name]
    done, lines = exported(model, tmp_path / "tiny.zip", "bioimageio", level=level)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.zip"]
    assert any("onnxruntime differs" in line for line in lines)
    described = core.load_description(done.path)
    summary = core.test_model(described)
    assert summary.status == "passed", summary.format()
    assert {described.weights.torchscript is None, described.weights.onnx is None} == {False}

    spec = model.spec if level is None else model.spec.pruned(level)
    assert [output.id for output in described.outputs] == [f"l{d}" for d in spec.heads[::-1]]
    space = [axis for axis in described.outputs[0].axes if axis.type == "space"]
    assert [axis.id for axis in space] == list("zyx"[-spec.ndim :])
    micrometers = {"micrometer": 1, "nanometer": 1000}
    assert [axis.scale / micrometers[axis.unit] for axis in space] == pytest.approx(model.card.spacing_um)
    assert described.outputs[0].axes[1].channel_names == [c.name for c in model.classes]
    if spec.ndim == 2:
        assert str(described.license.source.path).endswith("LICENSE.txt")
        assert "10.1073/pnas.1509820112" in [c.doi for c in described.cite]
    else:
        assert described.license == "CC-BY-4.0"

    # The package's own test input through our rule and the unpruned network gives the package's own test output.
    raw = described.get_input_test_arrays()[0][0].astype(np.float64)
    if model.intensity.kind == "fixed":
        offset, gain = (np.reshape(v, (-1, 1, 1)) for v in (model.intensity.fixed_offset, model.intensity.fixed_gain))
        scaled = (raw - offset) * gain
    else:
        scaled = (raw - raw.mean()) / raw.std()
    answers = expected(model, torch.from_numpy(scaled.astype(np.float32))[None], level)
    np.testing.assert_allclose(described.get_output_test_arrays()[0], answers[-1], atol=1e-5)

    back = import_checkpoint(done.path).model
    assert (back.spec, back.intensity) == (spec, model.intensity)
    assert back.card == model.card or level is not None
    state = model.network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in back.network.state_dict().items())


def test_a_file_has_its_name_only_after_the_check(tmp_path, monkeypatch):
    model, right = made(SPECS["2D, two classes"]), exchange_graphs.torchscript_answers
    monkeypatch.setattr(
        exchange_graphs, "torchscript_answers", lambda *a: [[head + 1e-3 for head in heads] for heads in right(*a)]
    )
    (tmp_path / "net.pt").write_text("before")
    with pytest.raises(ValueError, match=r"differs by at most 1\.0e-03"):
        exported(model, tmp_path / "net.pt", "torchscript", overwrite=True)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("net.pt", "before")]


def test_a_stopped_export_leaves_nothing(tmp_path):
    steps = export_model(made(SPECS["2D, two classes"]), tmp_path / "net.pt", format="torchscript")
    assert "L1, L2" in next(steps)
    steps.close()
    assert list(tmp_path.iterdir()) == []


def test_exports_that_cannot_be(tmp_path):
    model = made(SPECS["2D, two classes"])
    (tmp_path / "there.pt").write_text("mine")
    for target, options, error, words in (
        ("there.pt", {}, FileExistsError, "exists"),
        ("no/net.pt", {}, FileNotFoundError, "does not exist"),
        ("net.pt", {"level": 3}, ValueError, "it has L1, L2"),
        ("net.pt", {"format": "tensorflow"}, ValueError, "use safetensors, onnx"),
    ):
        with pytest.raises(error, match=words):
            list(export_model(model, tmp_path / target, **{"format": "torchscript", **options}))
    assert [p.name for p in tmp_path.iterdir()] == ["there.pt"]
    valid = made(NetworkSpec(widths=(4, 6), heads=(1,), padding="valid"))
    with pytest.raises(ValueError, match="without padding"):
        exported(valid, tmp_path / "x.onnx", "onnx")
    odd = made(SPECS["2D, two classes"], Intensity(low=0.1, high=0.9))
    pytest.importorskip("bioimageio.spec")
    with pytest.raises(ValueError, match="no percentiles"):
        exported(odd, tmp_path / "x.zip", "bioimageio")
    assert [p.name for p in tmp_path.iterdir()] == ["there.pt"]


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(
        ModuleNotFoundError, match=r'no_such_thing.at_all is not installed.*"napari-unetpp\[exchange\]"'
    ):
        exchange_graphs.need("torch", "no_such_thing.at_all")


def test_endings_name_formats(tmp_path):
    assert {format_of(tmp_path / f"a{about.suffix.upper()}") for about in FORMATS.values()} == set(FORMATS)
    with pytest.raises(ValueError, match="names no format"):
        format_of(tmp_path / "a.h5")
