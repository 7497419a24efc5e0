"""The package as a whole: its manifest, what importing it loads, and what its wheel holds."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from npe2 import PluginManifest

import napari_unetpp

GUI_LIBRARIES = ("napari", "qtpy", "superqt", "magicgui", "pyqtgraph", "PyQt6", "PySide6")
PACKAGE = Path(napari_unetpp.__file__).parent
ENGINE = sorted(
    ".".join(("napari_unetpp", *file.relative_to(PACKAGE).with_suffix("").parts))
    for file in PACKAGE.rglob("*.py")
    if not {"gui", "samples", "__init__.py"} & set(file.relative_to(PACKAGE).parts)
)


def loaded_by(*modules: str) -> set[str]:
    """The top-level names of what a fresh Python has loaded after importing `modules`."""
    show = "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    code = f"import sys, {', '.join(modules)}\n{show}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_importing_the_package_loads_neither_torch_nor_qt():
    assert not loaded_by("napari_unetpp") & {"torch", "numpy", "zarr", *GUI_LIBRARIES}


def test_the_engine_loads_no_gui_library():
    assert len(ENGINE) > 5
    assert not loaded_by(*ENGINE) & set(GUI_LIBRARIES)


def test_every_public_name_can_be_had():
    for name in napari_unetpp.__all__:
        assert getattr(napari_unetpp, name) is not None, name
    assert set(napari_unetpp.__all__) <= set(dir(napari_unetpp))
    with pytest.raises(AttributeError, match="segment_everything"):
        napari_unetpp.segment_everything  # noqa: B018 - the access is the test


def test_manifest_commands_exist():
    manifest = PluginManifest.from_distribution("napari-unetpp")
    offers = manifest.contributions
    commands = {command.id for command in offers.commands}
    used = {
        offer.command
        for group in (offers.widgets, offers.readers, offers.writers, offers.sample_data)
        for offer in group or ()
    }
    used |= {item.command for items in offers.menus.values() for item in items if hasattr(item, "command")}
    assert used == commands  # none dangles, none is out of reach
    manifest.validate_imports()


def test_manifest_at_the_top_level_is_the_one_in_the_package(repository):
    assert (repository / "napari.yaml").read_bytes() == (PACKAGE / "napari.yaml").read_bytes()


def test_the_command_is_installed():
    (script,) = entry_points(group="console_scripts", name="napari-unetpp")
    assert callable(script.load())


@pytest.mark.slow
def test_wheel_and_source_archive_hold_what_the_package_opens(repository, tmp_path):
    # Out of the source archive, as a package index would build it: that checks both.
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", tmp_path, repository],
        check=True,
        capture_output=True,
        timeout=600,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.getinfo(name).file_size for name in archive.namelist()}
        assert archive.read("napari_unetpp/napari.yaml") == (PACKAGE / "napari.yaml").read_bytes()

    wanted = [*PACKAGE.glob("models/*.safetensors"), *PACKAGE.glob("samples/*.tif")]
    wanted += [*PACKAGE.glob("samples/LICENSE*"), PACKAGE / "py.typed", *PACKAGE.rglob("*.py")]
    for file in wanted:
        if "samples" in file.parts and file.suffix == ".py":
            continue  # the scripts that made the samples stay in the repository
        name = f"napari_unetpp/{file.relative_to(PACKAGE).as_posix()}"
        assert held[name] == file.stat().st_size, name
    assert not [name for name in held if name.startswith(("tests", "sample_data", "napari.yaml"))]
