"""The plugin comes into napari as it does at a user's: as a wheel, through the plugin manager."""

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tifffile

pytestmark = [pytest.mark.gui, pytest.mark.slow]

SETUPTOOLS = 77  # as in pyproject.toml: the first that accepts our licence expression
OURS = ("napari_unetpp", "__editable__")
NOWHERE = "http://127.0.0.1:9"  # the port where nobody listens: what goes there fails at once


@pytest.fixture
def wheel(repository, tmp_path):
    """A wheel of the checkout, built in a copy: setuptools leaves files beside what it builds."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    clutter = shutil.ignore_patterns("*.egg-info", "__pycache__")
    for name in ("src", "sample_data"):
        shutil.copytree(repository / name, copy / name, symlinks=True, ignore=clutter)
    for name in ("pyproject.toml", "README.md", "LICENSE", "napari.yaml"):
        shutil.copy2(repository / name, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, copy]
    if int(version("setuptools").split(".")[0]) >= SETUPTOOLS:
        command.append("--no-isolation")  # else pip fetches a newer one
    run(command)
    (built,) = tmp_path.glob("*.whl")
    return built


@pytest.fixture
def overlay(tmp_path):
    """The Python of a new environment that has all that this one has, but not this plugin.

    Links, because the folder itself would bring the metadata of our editable install, and pip would
    then find the plugin installed already.
    """
    packages = tmp_path / "packages"
    packages.mkdir()
    for folder in (Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")):
        for package in folder.iterdir():
            link = packages / package.name
            if not package.name.startswith(OURS) and package.suffix != ".pth" and not link.exists():
                link.symlink_to(package)
    environment = tmp_path / "overlay"
    # Its own pip would come with its own setuptools, in Python 3.11 one that is too old for torch.
    venv.create(environment, with_pip=find_spec("pip") is None)
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    (site,) = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).split()
    (Path(site) / "packages.pth").write_text(f"{packages}\n")
    return python


def run(command, **options):
    """What a command prints; if it fails, what it had to say."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def outside_environment(tmp_path):
    """Variables of a user's session: nothing of the checkout, settings of its own, no network.

    Without uv, which the plugin manager would prefer: uv does not see packages through a .pth file.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "COV"))}
    folders = os.environ["PATH"].split(os.pathsep)
    variables["PATH"] = os.pathsep.join(folder for folder in folders if not shutil.which("uv", path=folder))
    variables["NAPARI_CONFIG"] = str(tmp_path / "settings.yaml")
    variables["PIP_NO_INDEX"] = "1"
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        variables[name] = NOWHERE
    return variables


def test_installed_by_the_plugin_manager_it_segments_without_a_restart(repository, wheel, overlay, tmp_path):
    pytest.importorskip("napari_plugin_manager")
    driver = Path(__file__).with_name("drive_plugin_manager.py")
    outside = outside_environment(tmp_path)
    l1_file = tmp_path / "l1.npy"
    told = json.loads(run([overlay, "-P", driver, wheel, l1_file], env=outside, cwd=tmp_path).splitlines()[-1])

    assert told["hidden"], "the plugin was there before it was installed"
    assert not told["offered_before"]
    assert Path(told["package"]).is_relative_to(overlay.parents[1])
    assert told["status"].startswith("Done")
    assert {f"nuclei {name}" for name in ("L1", "L2", "L3", "L4", "Ensemble")} < set(told["layers"])
    l1 = np.load(l1_file)
    assert np.unique(l1).tolist() == [0, 1]
    # StarDist's own labels of the image are the other opinion.
    real = tifffile.imread(repository / "sample_data" / "nuclei_labels.tif") > 0
    assert 2 * (l1 & real).sum() / (l1.sum() + real.sum()) > 0.8
