"""Packages of bioimage.io: weights that are known come in with what the description says, everything else is one line.

The packages are put together here by hand, as others write them; those that we write are in test_exchange.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from napari_unetpp.cli import app
from napari_unetpp.model import packages_files, zoo
from napari_unetpp.model.checkpoint import ModelFileError, load_model, save_model
from napari_unetpp.model.exchange_package import preprocessing
from napari_unetpp.model.foreign import Asked, add_foreign, convert, import_checkpoint, read_known
from napari_unetpp.model.intensity import Intensity, measure
from napari_unetpp.model.packages import OWN_FILE, is_package
from napari_unetpp.model.packages_said import said_intensity

from .test_exchange import SPECS, expected, made
from .test_foreign import drawn, nested, nested_shapes

HEADS = tuple(f"final{d}" for d in (1, 2, 3, 4))
CODE = "raise SystemExit('this was run')\n"


def axes(channels, count=1):
    names = [{"type": "channel", "id": "channel", "channel_names": channels}]
    space = [{"type": "space", "id": a, "size": 64, "unit": "nanometer", "scale": 325.0} for a in "yx"]
    return [{"type": "batch"}, *names, *space]


def described(state: bytes, **changes):
    """A description as of 0.5, of a two-class network on gray images."""
    return {
        "type": "model",
        "format_version": "0.5.3",
        "name": "Mitochondria finder!",
        "description": "Finds mitochondria.",
        "license": "MIT",
        "authors": [{"name": "A. Person"}],
        "cite": [{"text": "A paper", "doi": "10.1000/xyz"}],
        "inputs": [
            {
                "id": "raw",
                "axes": axes(["gray"]),
                "preprocessing": [
                    {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
                    {"id": "scale_linear", "kwargs": {"gain": 0.5, "offset": -3.0}},
                    {"id": "clip", "kwargs": {"min": 0, "max": 1}},
                ],
            }
        ],
        "outputs": [{"id": "out", "axes": axes(["outside", "mitochondrion"])}],
        "weights": {
            "pytorch_state_dict": {
                "source": "weights.pt",
                "sha256": hashlib.sha256(state).hexdigest(),
                "architecture": {"source": "unet.py", "callable": "NestedUNet"},
            },
            "onnx": {"source": "weights.onnx", "opset_version": 15},
        },
        **changes,
    }


def dumped(weights) -> bytes:
    file = io.BytesIO()
    torch.save(weights, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def weights():
    return drawn(nested_shapes(channels=1, classes=2, heads=HEADS))


def packed(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def package(path, weights, said=None, **more):
    state = dumped(weights)
    description = described(state) if said is None else said(state)
    return packed(path, {"rdf.yaml": yaml.safe_dump(description), "weights.pt": state, "unet.py": CODE, **more})


def test_a_state_dict_comes_with_what_the_package_says(tmp_path, weights):
    imported = import_checkpoint(package(tmp_path / "mito.zip", weights))
    model, card = imported.model, imported.model.card
    image = torch.randn(1, 1, 37, 21)
    padded = torch.from_numpy(np.pad(image.numpy(), [(0, 0), (0, 0), (0, 11), (0, 11)], mode="reflect"))
    with torch.no_grad():
        for ours, theirs in zip(model.network(image), nested(weights, padded, HEADS), strict=True):
            torch.testing.assert_close(ours, theirs[..., :37, :21], atol=1e-4, rtol=1e-4)
    assert card.name == "Mitochondria finder!"
    assert [c.name for c in model.classes] == ["outside", "mitochondrion"]
    assert (card.description, card.licence, card.spacing_um) == ("Finds mitochondria.", "MIT", (0.325, 0.325))
    assert card.credit == "A. Person; A paper 10.1000/xyz"
    assert card.training["sha256"] == hashlib.sha256(dumped(weights)).hexdigest()
    # (raw - 6) * 0.5 is raw * 0.5 - 3
    raw = np.array([[0.0, 6.0, 8.0]])
    np.testing.assert_allclose(measure(model.intensity, raw).apply(raw), raw * 0.5 - 3)
    notes = " ".join(imported.notes)
    assert "its Python code (unet.py NestedUNet) was not run" in notes
    assert "without its clip" in notes
    assert "--intensities" not in notes
    assert "--class" not in notes


def test_options_win_over_the_description(tmp_path, weights):
    known = read_known(package(tmp_path / "mito.zip", weights))
    usual = convert(known).model
    known.path.unlink()  # which is not needed any more
    model = convert(known, Asked(intensities="zscore", classes=("mito",), heads="last"), "cells").model
    assert convert(known).model.card == usual.card
    assert model.intensity.kind == "zscore"
    assert [c.name for c in model.classes] == ["background", "mito"]
    assert (model.card.name, model.spec.heads) == ("cells", (4,))


def test_a_folder_and_other_places(tmp_path, weights):
    state = dumped({"state_dict": weights})
    (tmp_path / "model" / "deep").mkdir(parents=True)
    said = described(state)
    said["weights"]["pytorch_state_dict"]["source"] = "./deep/w.pth"
    (tmp_path / "model" / "bioimageio.yaml").write_text(yaml.safe_dump(said))
    (tmp_path / "model" / "deep" / "w.pth").write_bytes(state)
    entry, imported = add_foreign(tmp_path / "model", "from a folder")
    assert load_model(entry.path, "cpu").card == imported.model.card
    zoo.delete_model("from a folder")
    (tmp_path / "model" / "deep" / "w.pth").unlink()
    (tmp_path / "model" / "deep" / "w.pth").symlink_to(tmp_path)
    assert "is a link" in refused(tmp_path / "model")


def test_the_format_of_before(tmp_path, weights):
    """0.4 names steps and letters of axes."""
    zscore = {"name": "zero_mean_unit_variance", "kwargs": {"mode": "per_sample", "axes": "xy"}}
    old = {"format_version": "0.4.9", "inputs": [{"name": "raw", "axes": "bcxy", "preprocessing": [zscore]}]}

    def said(state):
        values = described(state, **old, outputs=[{"name": "out", "axes": "bcxy"}])
        values["weights"]["pytorch_state_dict"]["architecture"] = "unet.py:NestedUNet"
        return values

    imported = import_checkpoint(package(tmp_path / "old.zip", weights, said))
    assert imported.model.intensity == Intensity("zscore")
    assert imported.found.intensities == "zscore"
    assert "in the order xy" in " ".join(imported.notes)
    assert [c.name for c in imported.model.classes] == ["background", "class 1"]


def test_our_own_file_comes_back_to_the_bit(tmp_path):
    model = made(SPECS["2D, two classes"], Intensity("fixed", fixed_offset=(0.1,), fixed_gain=(1 / 3,)))
    own = save_model(model, tmp_path / "own.safetensors").read_bytes()
    said = {
        "weights": {"onnx": {"source": "w.onnx"}},
        "attachments": [{"source": OWN_FILE, "sha256": hashlib.sha256(own).hexdigest()}],
    }
    path = packed(tmp_path / "ours.zip", {"rdf.yaml": yaml.safe_dump(said), OWN_FILE: own})
    entry, _ = add_foreign(path, "back")
    back = load_model(entry.path, "cpu")
    assert (back.spec, back.intensity, back.card) == (model.spec, model.intensity, model.card)
    image = torch.randn(1, 1, 13, 27)
    assert all(np.array_equal(a, b) for a, b in zip(expected(back, image), expected(model, image), strict=True))
    zoo.delete_model("back")
    assert "leave the other options out" in refused(path, Asked(intensities="raw"))
    broken = packed(tmp_path / "broken.zip", {"rdf.yaml": yaml.safe_dump(said), OWN_FILE: own[:-1] + b"\1"})
    assert "has sha256" in refused(broken)


# --- preprocessing ------------------------------------------------------------------------------------------------------


def step(kind, **kwargs):
    return {"id": kind, "kwargs": kwargs}


@pytest.mark.parametrize(
    ("steps", "rule"),
    [
        ([], Intensity("fixed", fixed_offset=(0.0, 0.0), fixed_gain=(1.0, 1.0))),
        (
            [step("fixed_zero_mean_unit_variance", mean=[1.0, 2.0], std=[2.0, 4.0], axis="channel")],
            Intensity("fixed", fixed_offset=(1.0, 2.0), fixed_gain=(0.5, 0.25)),
        ),
        (
            [step("scale_linear", gain=0.5), step("scale_linear", gain=[0.5, 1.0], offset=[-1.0, 0.0], axis="channel")],
            Intensity("fixed", fixed_offset=(4.0, 0.0), fixed_gain=(0.25, 0.5)),
        ),
        (
            [step("scale_linear", gain=1 / 255), step("scale_range", min_percentile=2, max_percentile=99, axes=["y", "x"])],
            Intensity("percentile", 2.0, 99.0),
        ),
        ([step("scale_range")], Intensity("percentile", 0.0, 100.0, per_channel=False)),
        ([step("zero_mean_unit_variance", axes=["channel", "y", "x"])], Intensity("zscore", per_channel=False)),
        ([{"name": "zero_mean_unit_variance", "kwargs": {"mode": "fixed", "mean": 3, "std": 2}}],
         Intensity("fixed", fixed_offset=(3.0, 3.0), fixed_gain=(0.5, 0.5))),
    ],
)  # fmt: skip
def test_preprocessing_in_our_words(steps, rule):
    found, left = said_intensity({"inputs": [{"preprocessing": steps}]}, 2, gray=False)
    assert (found, left) == (rule, "")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "fixed", "fixed_offset": 0.0, "fixed_gain": 1.0},
        {"kind": "fixed", "fixed_offset": 8.0, "fixed_gain": 1.0},
        {"kind": "fixed", "fixed_offset": 0.0, "fixed_gain": 0.5},
        {"kind": "percentile", "low": 2.0, "high": 98.0},
        {"kind": "zscore", "per_channel": False},
    ],
)
def test_the_words_of_bioimage_io_say_our_rule_again(rule, channels):
    """Also the one that leaves images as they are, for which they have no step."""
    ours = Intensity(**{k: (v,) * channels if k.startswith("fixed_") else v for k, v in rule.items()})
    steps = [described.model_dump(mode="json") for described in preprocessing(ours, channels, 2)]
    again, left = said_intensity({"inputs": [{"preprocessing": steps}]}, channels, gray=False)
    raw = np.random.default_rng(0).uniform(0, 255, (channels, 16, 16)).astype(np.float32)
    assert left == ""
    assert measure(again, raw).apply(raw) == pytest.approx(measure(ours, raw).apply(raw), abs=1e-5)


@pytest.mark.parametrize(
    "steps",
    [
        [step("custom", callable="f", source="f.py")],
        [step("binarize", threshold=3)],
        [step("scale_range"), step("scale_linear", gain=2)],
        [step("scale_linear", gain=-1), step("zero_mean_unit_variance")],
        [step("scale_linear", gain="much")],
        [step("scale_linear", gain=[1, 2, 3])],
        [step("scale_linear", gain=0)],
        [step("fixed_zero_mean_unit_variance", mean=0, std=0)],
        [step("scale_range", min_percentile=50, max_percentile=10)],
    ],
)
def test_preprocessing_that_we_cannot_say(tmp_path, weights, steps):
    assert said_intensity({"inputs": [{"preprocessing": steps}]}, 2, gray=False)[0] is None


def test_unsaid_preprocessing_is_told(tmp_path, weights):
    inputs = [{"axes": axes(["gray"]), "preprocessing": [step("custom", callable="f", source="f.py")]}]
    imported = import_checkpoint(package(tmp_path / "m.zip", weights, lambda state: described(state, inputs=inputs)))
    assert "its preprocessing holds custom" in " ".join(imported.notes)


# --- what is refused ----------------------------------------------------------------------------------------------------


def refused(path, asked=Asked()):  # noqa: B008
    with pytest.raises(ModelFileError) as error:
        import_checkpoint(path, asked)
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    assert "/napari-unetpp-" not in text, "the name of a temporary folder tells nobody anything"
    return text


@pytest.mark.parametrize("kind", ["torchscript", "onnx", "keras_hdf5"])
def test_programs_are_no_weights(tmp_path, kind):
    said = {"weights": {kind: {"source": "w"}}}
    text = refused(packed(tmp_path / "m.zip", {"rdf.yaml": yaml.safe_dump(said), "w": b"x"}))
    assert f"as {kind} alone" in text
    assert "pytorch_state_dict is wanted" in text


def test_unknown_weights_say_that_their_code_is_never_run(tmp_path):
    text = refused(package(tmp_path / "m.zip", {"a.weight": torch.ones(3)}))
    assert "not known, the first is a.weight" in text
    assert "its Python code (unet.py NestedUNet) is never run" in text


def test_descriptions_that_are_none(tmp_path, weights):
    state = dumped(weights)
    for words, text in {
        "holds no rdf.yaml": None,
        "no readable YAML": "weights: [",
        "asks for more than plain values": "weights: !!python/object/apply:os.system ['touch pwned']",
        "describes no model": "- 1",
        "more than 262144": "weights: " + "x" * packages_files.MOST_TEXT,
        "is no readable YAML;": "a: " + "[" * 5000,
        "names no file of weights": "weights: {pytorch_state_dict: {source: 3}}",
        "nothing is downloaded": "weights: {pytorch_state_dict: {source: 'https://example.org/w.pt'}}",
        "which it lacks": "weights: {pytorch_state_dict: {source: ../../weights.pt}}",
    }.items():
        files = {"weights.pt": state} if text is None else {"weights.pt": state, "rdf.yaml": text}
        assert words in refused(packed(tmp_path / "m.zip", files))
    lies = described(b"other bytes")
    assert "fetch it again" in refused(
        packed(tmp_path / "m.zip", {"rdf.yaml": yaml.safe_dump(lies), "weights.pt": state})
    )
    laughs = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
    )
    assert "describes no model" in refused(packed(tmp_path / "m.zip", {"rdf.yaml": laughs}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.zip"]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:/evil"])
def test_names_that_lead_out(tmp_path, weights, name):
    assert "leads out of the package" in refused(package(tmp_path / "m.zip", weights, **{name: b"x"}))


def test_links_and_encryption_and_twins(tmp_path, weights):
    path = package(tmp_path / "m.zip", weights)
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "is a link" in refused(path)
    path = package(tmp_path / "m.zip", weights)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("rdf.yaml", "{}")
    assert "two files of the same name" in refused(path)


def test_sizes(tmp_path, weights, monkeypatch):
    many = {f"f{i}": b"" for i in range(packages_files.MOST_FILES)}
    assert "more than 1000" in refused(package(tmp_path / "m.zip", weights, **many))
    zeros = bytes(90 * 2**20)
    bomb = package(tmp_path / "m.zip", {"a.weight": torch.ones(3)}, zeros=zeros)
    assert "would unpack to" in refused(bomb)
    monkeypatch.setattr(packages_files, "MOST_BYTES", 1000)
    assert "would unpack to" in refused(package(tmp_path / "m.zip", weights))


def test_damage(tmp_path, weights):
    path = package(tmp_path / "m.zip", weights)
    whole = path.read_bytes()
    for cut in (len(whole) // 2, 100, 4):
        path.write_bytes(whole[:cut])
        assert "fetch it again" in refused(path)
    spoiled = bytearray(whole)
    spoiled[len(whole) // 2] ^= 255
    path.write_bytes(spoiled)
    assert "damaged" in refused(path)
    # A file that unpacks to more than its entry says: the size in the central directory is a lie.
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rdf.yaml", yaml.safe_dump(described(dumped(weights))))
        archive.writestr("weights.pt", bytes(4321))
    lies = stored.getvalue().replace((4321).to_bytes(4, "little"), (12).to_bytes(4, "little"))
    path.write_bytes(lies)
    assert "fetch it again" in refused(path) or "refused" in refused(path)


class Evil:
    def __reduce__(self):
        return (exec, ("open('pwned', 'w').close()",))


def test_a_pickle_in_a_package_that_executes(tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    assert "which is refused" in refused(package(tmp_path / "m.zip", {**weights, "x": Evil()}))
    assert os.listdir(tmp_path) == ["m.zip"]


def test_what_is_a_package(tmp_path, weights):
    torch.save(weights, tmp_path / "weights.pth")
    torch.save(weights, tmp_path / "weights.zip")
    assert not is_package(tmp_path / "weights.pth")
    assert not is_package(tmp_path / "weights.zip")  # torch's checkpoints are zips as well
    assert not is_package(tmp_path / "none.zip")
    assert not is_package(tmp_path)
    assert is_package(package(tmp_path / "no-suffix", weights))
    assert is_package(packed(tmp_path / "m.zip", {"a": b""}))


def test_the_command(tmp_path, monkeypatch, weights):
    monkeypatch.setenv("NAPARI_UNETPP_HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(app, ["models", "import", str(package(tmp_path / "mito.zip", weights)), "--name", "mito"])
    assert done.exit_code == 0, done.stderr
    assert "NestedUNet of pytorch-nested-unet, in a package of bioimage.io" in done.stdout
    assert load_model("mito", "cpu").card.licence == "MIT"
    bad = CliRunner().invoke(app, ["models", "import", str(packed(tmp_path / "bad.zip", {"../x": b""}))])
    assert (bad.exit_code, len(bad.stderr.splitlines())) == (1, 1)
    assert [path.name for path in zoo.user_folder().iterdir()] == ["mito.safetensors"]
