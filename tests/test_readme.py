"""What the README tells people to type works."""

from __future__ import annotations

import re

import pytest

from napari_unetpp.model.zoo import model_entries


@pytest.fixture
def readme(repository) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_snippet_runs(readme, repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample_data").symlink_to(repository / "sample_data")
    (snippet,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["labels"].shape == (512, 512)
    assert names["store"].complete
    assert (tmp_path / "nuclei.ome.zarr").is_dir()


def test_the_models_it_names_are_there(readme):
    bundled = {entry.name for entry in model_entries() if entry.origin == "bundled"}
    assert bundled >= {"nuclei", "em-boundaries"}
    assert all(f"`{name}`" in readme for name in bundled)


def test_files_it_points_to_exist(readme, repository):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", readme):
        assert (repository / target).exists(), target
    for target in ("script/demo", "script/test", "CONTRIBUTING.md", "sample_data"):
        assert target in readme
        assert (repository / target).exists(), target
