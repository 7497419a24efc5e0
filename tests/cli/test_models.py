"""`models`: what there is, and what one says of itself."""

from __future__ import annotations

import pickle

import pytest

from .conftest import write_model


@pytest.fixture
def home(here):
    folder = here / "home" / "models"
    folder.mkdir(parents=True)
    write_model(folder / "mine.safetensors", classes=3)
    return folder


def test_list_names_own_models_and_the_folder(run, home):
    done = run("models", "list")
    assert done.code == 0
    assert "mine" in done.out
    assert "L1..L2" in done.out
    assert "wall" in done.out
    assert str(home) in done.out.replace("\n", "")
    events = run("models", "list", "--json").events
    mine = next(e for e in events if e.get("name") == "mine")
    assert mine["origin"] == "user"
    assert mine["heads"] == ["L1", "L2"]
    assert events[-1] == {"event": "result", "models": len(events) - 1, "user_folder": str(home)}


def test_a_damaged_model_does_not_hide_the_others(run, home):
    (home / "broken.safetensors").write_bytes(b"\0" * 100)
    done = run("models", "list", "--json")
    assert done.code == 0
    by_name = {e["name"]: e for e in done.events if e["event"] == "model"}
    assert "error" in by_name["broken"]
    assert "error" not in by_name["mine"]
    assert run("models", "list").code == 0


def test_show_by_name_and_by_file(run, home, here):
    done = run("models", "show", "mine")
    assert done.code == 0
    for word in ("mine", "background, wall, nucleus", "recommended level", "overlap", "4, 8, 16"):
        assert word in done.out
    shown = run("models", "show", here / "tiny.safetensors", "--json").events
    assert len(shown) == 1
    assert shown[0]["name"] == "tiny"
    assert shown[0]["card"]["recommended_level"] == 1


def test_show_of_no_model(run, home):
    done = run("models", "show", "yours")
    assert done.code == 1
    assert len(done.error_lines) == 1
    assert "mine" in done.err
    (home / "text.safetensors").write_text("no model")
    assert run("models", "show", "text").code == 1


def test_import_checks_copies_and_names(run, home, here):
    done = run("models", "import", here / "tiny.safetensors", "--json")
    (result,) = done.events
    assert done.code == 0
    assert result == {"event": "result", "name": "tiny", "path": str(home / "tiny.safetensors")}
    assert (home / "tiny.safetensors").read_bytes() == (here / "tiny.safetensors").read_bytes()
    again = run("models", "import", here / "tiny.safetensors")
    assert again.code == 1
    assert again.error_lines == ["error: there is a model 'tiny' of yours already; choose another name"]
    assert run("models", "import", here / "tiny.safetensors", "--name", "small cells").code == 0
    assert "small cells" in run("models", "list").out


def test_import_to_a_place_of_its_own(run, home, here):
    assert run("models", "import", here / "tiny.safetensors", "-o", here / "copy.safetensors").code == 0
    assert (here / "copy.safetensors").read_bytes() == (here / "tiny.safetensors").read_bytes()
    assert run("models", "import", here / "tiny.safetensors", "-o", here / "copy.safetensors").code == 1
    both = run("models", "import", here / "tiny.safetensors", "-o", here / "b.safetensors", "--name", "b")
    assert both.code == 2
    assert [p.name for p in home.iterdir()] == ["mine.safetensors"]


@pytest.mark.parametrize("name", ["weights.pth", "evil.safetensors"])
def test_import_of_a_foreign_file_is_one_clear_line(run, home, here, name):
    (here / name).write_bytes(pickle.dumps({"state_dict": [1, 2, 3]}))
    done = run("models", "import", here / name)
    assert done.code == 1
    assert len(done.error_lines) == 1
    assert "is no model file of napari-unetpp" in done.err
    assert [p.name for p in home.iterdir()] == ["mine.safetensors"]
    assert run("models", "import", here / "none.safetensors").code == 1


def test_export_pruned_is_a_model_of_its_own(run, home, here):
    done = run("models", "export", "mine", "-o", here / "small.safetensors", "--level", "1", "--json")
    assert done.code == 0
    size = (here / "small.safetensors").stat().st_size
    assert done.events == [
        {
            "event": "result",
            "path": str(here / "small.safetensors"),
            "source": str(home / "mine.safetensors"),
            "level": "L1",
            "bytes": size,
        }
    ]
    assert size < (home / "mine.safetensors").stat().st_size
    (shown,) = run("models", "show", here / "small.safetensors", "--json").events
    assert (shown["name"], shown["heads"], shown["widths"]) == ("mine-L1", ["L1"], [4, 8])
    done = run("segment", here / "stack.tif", "-o", here / "out.ome.zarr", "--model", here / "small.safetensors")
    assert done.code == 0, done.err


def test_export_whole_is_the_same_file(run, home, here):
    done = run("models", "export", "mine", "-o", here / "whole.safetensors")
    assert done.code == 0, done.err
    assert (here / "whole.safetensors").read_bytes() == (home / "mine.safetensors").read_bytes()


def test_export_replaces_only_what_it_may(run, home, here):
    before = (here / "tiny.safetensors").read_bytes()
    refused = run("models", "export", "mine", "-o", here / "tiny.safetensors", "--level", "1")
    assert refused.code == 1
    assert "--overwrite" in refused.err
    assert (here / "tiny.safetensors").read_bytes() == before
    for level in ((), ("--level", "1")):
        itself = run("models", "export", "mine", "-o", home / "mine.safetensors", "--overwrite", *level)
        assert itself.code == 2
        assert "itself" in itself.err
    assert run("models", "export", "mine", "-o", here / "tiny.safetensors", "--overwrite").code == 0
    assert (here / "tiny.safetensors").read_bytes() == (home / "mine.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("mine", "-o", "x.safetensors", "--level", "3"), 1, "it has L1, L2"),
        (("mine", "-o", "x.safetensors", "--level", "0"), 2, ""),
        (("mine", "-o", "x.pth"), 2, "let it end in .safetensors"),
        (("mine", "-o", "nowhere/x.safetensors"), 1, "does not exist"),
        (("yours", "-o", "x.safetensors"), 1, "known are"),
    ],
)
def test_exports_that_cannot_be(run, home, here, arguments, code, says):
    before = {*here.iterdir()}
    done = run("models", "export", *arguments)
    assert done.code == code
    assert says in done.err
    assert {*here.iterdir()} == before


def test_rename_and_delete(run, home):
    done = run("models", "rename", "mine", "cells", "--json")
    assert done.code == 0
    assert done.events == [{"event": "result", "name": "cells", "was": "mine", "path": str(home / "cells.safetensors")}]
    assert run("models", "rename", "cells", "a/b").code == 1
    assert run("models", "rename", "mine", "other").code == 1
    unsure = run("models", "delete", "cells")
    assert unsure.code == 2
    assert "--yes" in unsure.err
    assert (home / "cells.safetensors").exists()
    assert run("models", "delete", "cells", "--yes").code == 0
    assert list(home.iterdir()) == []
    assert run("models", "delete", "cells", "--yes").code == 1


def test_bundled_models_can_be_neither_renamed_nor_deleted(run, home):
    for arguments in (("rename", "nuclei", "mine2"), ("delete", "nuclei", "--yes"), ("delete", "nuclei")):
        done = run("models", *arguments)
        assert done.code == 1
        assert "ships with the package" in done.err


def test_export_for_other_programs(run, home, here):
    done = run("models", "export", "mine", "-o", here / "mine.pt", "--level", "1", "--json")
    assert done.code == 0, done.err
    *steps, result = done.events
    assert [event["event"] for event in steps] == ["step"] * len(steps)
    assert (result["format"], result["level"], result["bytes"]) == (
        "torchscript",
        "L1",
        (here / "mine.pt").stat().st_size,
    )
    assert "differs by at most" in result["checked"]
    again = run("models", "export", "mine", "-o", here / "mine.pt", "--format", "torchscript")
    assert again.code == 1
    assert "--overwrite" in again.err
    assert run("models", "export", "mine", "-o", here / "mine.pt", "--overwrite").code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-o", "x.onnx", "--format", "torchscript"), "torchscript ends in .pt"),
        (("-o", "x.h5"), "let it end in .safetensors"),
        (("-o", "x", "--format", "onnx"), "onnx ends in .onnx"),
        (("-o", "x.onnx", "--format", "keras"), "use safetensors, onnx, torchscript, bioimageio"),
    ],
)
def test_formats_and_endings_agree(run, home, here, arguments, says):
    before = {*here.iterdir()}
    done = run("models", "export", "mine", *arguments)
    assert done.code == 2
    assert says in done.err
    assert {*here.iterdir()} == before


def test_show_tells_the_hashes(run, home, here):
    import hashlib

    (shown,) = run("models", "show", "mine", "--json").events
    assert shown["sha256"] == hashlib.sha256((home / "mine.safetensors").read_bytes()).hexdigest()
    assert len(shown["weights_sha256"]) == 64
