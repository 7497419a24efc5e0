"""The user's models come and go: checked before they are kept, never one in place of another, gone when deleted."""

from __future__ import annotations

import json
import os
import pickle
import string
import struct
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from napari_unetpp.model import zoo
from napari_unetpp.model.card import Card, ClassInfo
from napari_unetpp.model.checkpoint import Model, ModelFileError, load_model, read_header, save_model
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.names import check_name, safe_name
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's folder, which does not exist yet."""
    monkeypatch.setenv("NAPARI_UNETPP_HOME", str(tmp_path / "home"))
    return zoo.user_folder()


def write(path, **changes):
    spec = NetworkSpec(widths=(4, 4, 4), heads=(1, 2))
    card = replace(Card("cells", recommended_level=2), **changes)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_model(Model(spec, UNetPlusPlus(spec).eval(), Intensity(), card, torch.device("cpu")), path)


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "cells.safetensors")


def names(origin="user"):
    return [entry.name for entry in zoo.model_entries() if entry.origin == origin]


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_added_model_is_a_copy_with_a_name(folder, file):
    entry = zoo.add_model(file)
    assert (entry.name, entry.origin, entry.path.parent) == ("cells", "user", folder)
    assert entry.path.read_bytes() == file.read_bytes()
    assert [p.name for p in folder.iterdir()] == ["cells.safetensors"]
    file.unlink()
    assert load_model("cells", "cpu").card.name == "cells"
    assert zoo.find_entry("cells") == entry


def test_nothing_is_replaced(folder, file, tmp_path):
    zoo.add_model(file)
    before = (folder / "cells.safetensors").read_bytes()
    other = write(tmp_path / "b" / "Cells.safetensors")
    for name in (None, "cells", "CELLS"):
        with pytest.raises(FileExistsError, match="'cells' of yours already"):
            zoo.add_model(other, name)
    assert (folder / "cells.safetensors").read_bytes() == before
    assert zoo.add_model(other, zoo.free_name("Cells")).name == "Cells-2"
    assert sorted(names()) == ["Cells-2", "cells"]


def test_a_bundled_model_is_not_hidden_by_accident(folder, file):
    with pytest.raises(FileExistsError, match="'nuclei' that ships with the package"):
        zoo.add_model(file, "Nuclei")
    zoo.add_model(file)
    with pytest.raises(FileExistsError, match="ships with the package"):
        zoo.rename_model("cells", "nuclei")
    assert names() == ["cells"]


def test_a_file_that_appears_meanwhile_is_not_replaced(folder, file, monkeypatch):
    """As when two programs import at once: the one that comes second learns it only while it moves its copy."""
    other = folder / "cells.safetensors"
    checked = zoo.check_file

    def slow(path):
        digest = checked(path)
        other.parent.mkdir(parents=True)
        other.write_bytes(b"somebody else's")
        return digest

    monkeypatch.setattr(zoo, "check_file", slow)
    with pytest.raises(FileExistsError):
        zoo.add_model(file)
    assert other.read_bytes() == b"somebody else's"
    assert list(folder.iterdir()) == [other]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_system_without_links_is_as_careful(folder, file, monkeypatch, links):
    if not links:

        def no_links(*_):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_links)
    zoo.add_model(file)
    zoo.rename_model("cells", "tissue")
    (folder / "taken.safetensors").mkdir()  # no model, so no name of one, but there
    with pytest.raises(FileExistsError):
        zoo.rename_model("tissue", "taken")
    assert names() == ["tissue"]


def test_a_file_that_changes_while_it_is_copied_is_refused(folder, file, monkeypatch):
    monkeypatch.setattr(zoo, "check_file", lambda _: "0" * 64)
    with pytest.raises(OSError, match="changed while it was copied"):
        zoo.add_model(file)
    assert list(folder.iterdir()) == []


def test_a_full_disk_leaves_nothing(folder, file, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        zoo.add_model(file)
    assert list(folder.iterdir()) == []


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("hacked",))


def header_of(length, text=b""):
    return struct.pack("<Q", length) + text


def claims(widths):
    """Header of a network of these widths, or one whose specification is this text."""
    spec = (
        widths if isinstance(widths, str) else NetworkSpec().to_json() | {"widths": widths, "heads": [len(widths) - 1]}
    )
    card = {"name": "bomb", "classes": [{"name": "a"}]}
    texts = {"format": "1", "spec": spec, "intensity": Intensity().to_json(), "card": card}
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in texts.items()}


HOSTILE = {
    "pickle": pickle.dumps(Evil()),
    "empty": b"",
    "header of 2**62 bytes": header_of(2**62),
    "header of 90 MB that is not there": header_of(90_000_000, b"{}"),
    "brackets": header_of(100_000, b"[" * 100_000),
    "no model": header_of(2, b"{}"),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused_in_one_line_and_write_nothing(folder, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as error:
        zoo.add_model(path)
    assert str(path) in one_line(error)
    assert [p.name for p in tmp_path.iterdir()] == ["evil.safetensors"]


@pytest.mark.parametrize(
    ("widths", "says"),
    [
        ([2**20, 2**21, 2**22], "shape|lacks"),  # some terabytes
        ([2**70, 2**71], "cannot be built"),
        ([4] * 100_000, "more than any image"),
        ([1.5, 2.5], "cannot be built"),
        ("[" * 100_000, "recursion"),
    ],
    ids=["terabytes", "no integer", "depth", "fractions", "brackets"],
)
def test_a_network_that_only_the_header_claims_takes_no_memory(folder, tmp_path, widths, says):
    path = tmp_path / "bomb.safetensors"
    save_file({"nodes.0_0.0.weight": torch.zeros(1)}, path, metadata=claims(widths))
    with pytest.raises(ModelFileError, match=says) as error:
        zoo.add_model(path)
    assert len(one_line(error)) < 600
    assert not folder.exists()


@pytest.mark.parametrize("keep", [8, 1000, -1])
def test_truncated_files_write_nothing(folder, file, keep):
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelFileError):
        zoo.add_model(file)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classes": (ClassInfo("a"), ClassInfo("b"))}, "names 2 classes where its network has 1"),
        ({"description": 5}, "description is a int where a str is wanted"),
        ({"scores": {"test": {"L1": 0.5}}}, "scores is no table"),
        ({"scores": {"test": {"L1": {"iou": "good"}}}}, "scores is no table"),
        ({"classes": (ClassInfo(7),)}, "classes names one"),
        ({"spacing_um": ("near", "far")}, "convert"),
    ],
)
def test_cards_that_nobody_could_show_are_refused(folder, tmp_path, changes, says):
    with pytest.raises(ModelFileError, match=says):
        zoo.add_model(write(tmp_path / "odd.safetensors", **changes))
    assert not folder.exists()


def test_a_folder_and_a_missing_file_are_refused(folder, tmp_path):
    for path in (tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            zoo.add_model(path)
    assert not folder.exists()


def test_rename_moves_the_file_and_leaves_its_bytes(folder, file):
    zoo.add_model(file)
    before = load_model("cells", "cpu")
    entry = zoo.rename_model("cells", "tissue 2")
    assert [p.name for p in folder.iterdir()] == ["tissue 2.safetensors"]
    after = load_model("tissue 2", "cpu")
    assert (entry.name, after.sha256, after.card.name) == ("tissue 2", before.sha256, "cells")


def test_only_the_case_of_a_name_can_change(folder, file):
    zoo.add_model(file)
    zoo.rename_model("cells", "Cells")
    assert names() == ["Cells"]
    assert zoo.rename_model("Cells", "Cells").name == "Cells"
    write(folder / "CELLS.safetensors")  # where case matters the two are two
    if len(names()) == 2:
        with pytest.raises(FileExistsError):
            zoo.rename_model("Cells", "cells")
        assert names() == ["CELLS", "Cells"]


def test_delete_removes_the_file_also_an_unreadable_one(folder, file):
    zoo.add_model(file)
    (folder / "broken.safetensors").write_bytes(b"broken")
    assert zoo.delete_model("cells") == folder / "cells.safetensors"
    zoo.rename_model("broken", "scrap")
    zoo.delete_model("scrap")
    assert list(folder.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="there is no model 'cells'; known are"):
        zoo.delete_model("cells")


def test_bundled_models_stay(folder):
    (one, *_) = (entry for entry in zoo.model_entries() if entry.origin == "bundled")
    with pytest.raises(ValueError, match="ships with the package and cannot be deleted"):
        zoo.delete_model(one.name)
    with pytest.raises(ValueError, match="cannot be renamed"):
        zoo.rename_model(one.name, "mine")
    assert one.path.is_file()


def test_deleting_the_users_brings_the_bundled_one_back(folder, file):
    folder.mkdir(parents=True)
    (folder / "nuclei.safetensors").write_bytes(file.read_bytes())
    zoo.delete_model("nuclei")
    assert zoo.find_entry("nuclei").origin == "bundled"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "a\\b", "../up", "c:", "what?", "a\nb", "a\0b", "nul", "COM1.x", " a", "a.", "-o", "x" * 300,
     "\u202egnp", "zero\u200bwidth", "\ud800"],
)  # fmt: skip
def test_names_that_some_system_refuses_are_refused_with_a_proposal(folder, file, name):
    zoo.add_model(file)
    with pytest.raises(ValueError, match="would do"):
        zoo.rename_model("cells", name)
    with pytest.raises(ValueError, match="cannot be the name"):
        zoo.add_model(file, name)
    assert [p.name for p in folder.iterdir()] == ["cells.safetensors"]


@pytest.mark.parametrize(
    "name", ["Zellkerne größer", "細胞 核", "a.b.c", "v1 (final), 100% & more", "x" * 180, "é" * 90]
)
def test_names_with_odd_characters_work(folder, file, name):
    zoo.add_model(file, name)
    assert names() == [name]
    assert load_model(name, "cpu").card.name == "cells"
    zoo.rename_model(name, "plain")
    zoo.rename_model("plain", name)
    zoo.delete_model(name)


def test_the_name_of_a_file_is_made_safe(folder, tmp_path):
    for stem, expected in (("we?ird: one", "we-ird- one"), ("y" * 230, "y" * 180), ("cafe\u0301", "caf\u00e9")):
        assert zoo.add_model(write(tmp_path / f"{stem}.safetensors")).name == expected


@given(st.text(max_size=300))
def test_a_safe_name_is_a_plain_file_of_its_folder_and_stays_what_it_is(text):
    name = safe_name(text)
    assert safe_name(name) == name == check_name(name)
    assert 0 < len(f".{name}.safetensors.12345678".encode()) <= 255 - 32
    assert os.path.basename(name) == name.strip(". ")
    assert not set(name) & {*'<>:"/\\|?*', *map(chr, range(32))}


@given(
    st.text(string.ascii_letters + string.digits + "-_ ", min_size=1, max_size=40).map(str.strip).filter(str.isalnum)
)
def test_plain_names_are_kept(text):
    reserved = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))}
    assert text.lower() in reserved or safe_name(text) == text


def test_a_long_name_still_gets_a_free_number(folder, file):
    zoo.add_model(file, "z" * 180)
    offered = zoo.free_name("z" * 180)
    assert offered == "z" * 174 + "-2"
    assert read_header(zoo.add_model(file, offered).path).card.name == "cells"
