"""A folder is there as a whole or not at all, and where that cannot be, it is said."""

from __future__ import annotations

import shutil

import pytest

from napari_unetpp._whole import whole_file, whole_folder
from napari_unetpp.cli._output import one_line


def fill(folder):
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_text("half")


def fail(target, error):
    with whole_folder(target) as temporary:
        fill(temporary)
        raise error


@pytest.mark.parametrize("stop", [OSError, KeyboardInterrupt, GeneratorExit])
def test_a_folder_that_is_not_finished_goes_away(tmp_path, stop):
    with pytest.raises(stop):
        fail(tmp_path / "a", stop())
    assert not list(tmp_path.iterdir())


def test_a_folder_that_does_not_go_away_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(ValueError, match="no room") as caught:
        fail(tmp_path / "a", ValueError("no room"))
    (left,) = tmp_path.iterdir()
    assert one_line(caught.value) == f"no room; {left} is not finished and could not be removed; remove it"


@pytest.mark.parametrize("name", ["x" * 250, "\N{GREEK SMALL LETTER MU}" * 120])
def test_the_longest_names_are_possible(tmp_path, name):
    with whole_folder(tmp_path / name) as temporary:
        fill(temporary)
        temporary.rename(tmp_path / name)
    with whole_file(tmp_path / name[::-1].replace(name[0], "y")) as temporary:
        temporary.write_text("whole")
    assert len(list(tmp_path.iterdir())) == 2
