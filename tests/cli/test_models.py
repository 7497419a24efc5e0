"""`models`: what there is, and what one says of itself."""

from __future__ import annotations

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
