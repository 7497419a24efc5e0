"""Model files: round trip, refusals in one line, nothing half written."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from napari_unetpp.model import zoo
from napari_unetpp.model.card import Card, ClassInfo, advised_level
from napari_unetpp.model.checkpoint import Model, ModelFileError, choose_device, load_model, read_header, save_model
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus

SPEC = NetworkSpec(widths=(4, 4, 4), heads=(1, 2), classes=2)
CARD = Card(
    "cells",
    classes=(ClassInfo("background", "#000000"), ClassInfo("cell", "#ff0000")),
    licence="CC0-1.0",
    scores={"validation": {"L1": {"iou": 0.5}}},
    recommended_level=2,
    spacing_um=(0.2, 0.1),
)


@pytest.fixture
def model():
    torch.manual_seed(1)
    network = UNetPlusPlus(SPEC)
    network(torch.rand(4, 1, 8, 8))  # gives BatchNorm statistics of its own
    return Model(SPEC, network.eval(), Intensity("zscore", replicate_gray=True), CARD, torch.device("cpu"))


@pytest.fixture
def saved(model, tmp_path):
    return save_model(model, tmp_path / "cells.safetensors")


def edited(path, **changes):
    """The same file with other header entries."""

    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    weights = load_file(path)
    metadata.update(changes)
    save_file(weights, path, metadata={k: v for k, v in metadata.items() if v is not None})
    return path


def test_round_trip_keeps_everything(model, saved):
    loaded = load_model(saved, "cpu")
    assert (loaded.spec, loaded.intensity, loaded.card) == (model.spec, model.intensity, model.card)
    assert all(torch.equal(v, model.network.state_dict()[k]) for k, v in loaded.network.state_dict().items())
    assert not loaded.network.training
    assert len(loaded.sha256) == 64
    assert read_header(saved).card == CARD
    image = torch.rand(1, 1, 12, 12)
    assert all(torch.equal(a, b) for a, b in zip(loaded.network(image), model.network(image), strict=True))


def test_half_precision_is_smaller_and_close(model, saved, tmp_path):
    small = save_model(model, tmp_path / "small.safetensors", torch.float16)
    assert small.stat().st_size < saved.stat().st_size
    loaded = load_model(small, "cpu").network.state_dict()
    for key, value in model.network.state_dict().items():
        assert loaded[key].dtype == value.dtype
        torch.testing.assert_close(loaded[key], value, rtol=1e-3, atol=1e-4)
    assert torch.equal(loaded["nodes.0_0.1.running_var"], model.network.state_dict()["nodes.0_0.1.running_var"])


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("keep", [0, 4, 100, 2000])
def test_truncated_files_are_refused(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ModelFileError) as error:
        load_model(saved)
    assert "damaged" in one_line(error)


def test_a_pickle_is_refused_and_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "hacked"), "w"))

    path = tmp_path / "evil.safetensors"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelFileError):
        load_model(path)
    assert not (tmp_path / "hacked").exists()


def test_foreign_safetensors_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ModelFileError, match="without format, spec, intensity, card"):
        load_model(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "2"}, "format version '2' where this version reads '1'"),
        ({"spec": json.dumps(SPEC.to_json() | {"attention": 1})}, "unknown network field attention"),
        ({"spec": "[1]"}, "JSON object"),
        ({"spec": "{"}, "Expecting"),
        ({"card": json.dumps(CARD.to_json() | {"mood": "good"})}, "unknown card field mood"),
        ({"intensity": json.dumps({"kind": "guess"})}, "guess"),
        ({"intensity": None}, "without intensity"),
        ({"spec": json.dumps(replace(SPEC, widths=(4, 4, 8)).to_json())}, "shape"),
        ({"spec": json.dumps(replace(SPEC, widths=(4, 4, 4, 4), heads=(1, 2, 3)).to_json())}, "lacks"),
        ({"spec": json.dumps(replace(SPEC, skips="ensemble").to_json())}, "shape"),
        ({"spec": json.dumps(replace(SPEC, widths=(4, 4), heads=(1,)).to_json())}, "has not"),
    ],
)
def test_headers_that_do_not_fit_are_refused(saved, changes, says):
    with pytest.raises(ModelFileError) as error:
        load_model(edited(saved, **changes))
    assert says in one_line(error)


def test_nan_weights_are_refused(model, tmp_path):
    next(model.network.parameters()).data[0] = torch.nan
    with pytest.raises(ModelFileError, match="NaN"):
        load_model(save_model(model, tmp_path / "nan.safetensors"))


def test_failed_write_leaves_the_old_file_and_nothing_else(model, saved, monkeypatch):
    before = saved.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_unetpp.model.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(model, saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_missing_folder_and_missing_model_say_what_to_do(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        save_model(model, tmp_path / "nowhere" / "a.safetensors")
    with pytest.raises(FileNotFoundError, match="neither a file nor a known name"):
        load_model("no-such-model")


def test_a_user_model_hides_a_bundled_one(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_UNETPP_HOME", str(tmp_path / "home"))
    zoo.user_folder().mkdir(parents=True)
    (zoo.user_folder() / "cells.safetensors").write_bytes(saved.read_bytes())
    entries = {entry.name: entry for entry in zoo.model_entries()}
    assert entries["cells"].origin == "user"
    assert load_model("cells", "cpu").card.name == "cells"


def test_devices_are_checked():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="abacus"):
        choose_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            choose_device("cuda")


def test_advised_level_is_the_smallest_within_tolerance():
    assert advised_level({1: 0.80, 2: 0.896, 3: 0.9, 4: 0.899}) == 2
    assert advised_level({1: 0.80, 2: 0.894, 3: 0.9, 4: 0.899}) == 3
    with pytest.raises(ValueError, match="no level"):
        advised_level({})


def test_weights_that_are_not_those_of_the_header(tmp_path, model):
    """One bit that no other check would see; files of before, which tell no hash, still load."""
    path = save_model(model, tmp_path / "a.safetensors")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="its weights are not those that its header tells the sha256 of"):
        load_model(path, "cpu")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert len(metadata.pop("weights_sha256")) == 64
    save_file(weights, path, metadata=metadata)
    load_model(path, "cpu")
