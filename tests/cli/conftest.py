"""A tiny random model and stacks in a folder of their own, and commands run in it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

from napari_unetpp.cli import app
from napari_unetpp.model.card import Card, ClassInfo
from napari_unetpp.model.checkpoint import Model, save_model
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus

OVERLAP = {"kind": "overlap", "patch": 16, "stride": 8, "aggregate": "mean"}
CLASSES = (ClassInfo("background"), ClassInfo("wall"), ClassInfo("nucleus"))


def write_model(path, *, classes=1, channels=1, tiling=OVERLAP):
    torch.manual_seed(7)
    spec = NetworkSpec(widths=(4, 8, 16), heads=(1, 2), classes=classes, in_channels=channels)
    network = UNetPlusPlus(spec).eval()
    named = CLASSES[:classes] if classes > 1 else (ClassInfo("cell"),)
    card = Card(path.stem, classes=named, tiling=tiling, recommended_level=1)
    return save_model(Model(spec, network, Intensity(), card, torch.device("cpu")), path)


def write_tiff(path, array, axes):
    tifffile.imwrite(path, array, ome=True, metadata={"axes": axes.upper()})
    return path


class Result:
    """How a command ended."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def events(self):
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error_lines(self):
        """Lines of stderr, without the progress bar."""
        return [line for line in self.err.splitlines() if line.strip() and "\u2501" not in line]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model, a stack (z, y, x) and its labels; the command's working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAPARI_UNETPP_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NAPARI_UNETPP_DEBUG", raising=False)
    write_model(tmp_path / "tiny.safetensors")
    rng = np.random.default_rng(3)
    smooth = np.cumsum(rng.normal(0, 20, (5, 40, 36)), axis=2)
    stack = np.clip(smooth + 128, 0, 255).astype(np.uint8)
    write_tiff(tmp_path / "stack.tif", stack, "zyx")
    labels = rng.integers(0, 4, stack.shape).astype(np.uint16)
    write_tiff(tmp_path / "labels.tif", labels, "zyx")
    return tmp_path


@pytest.fixture
def run(here):
    """Run a command in this process."""

    def run(*arguments):
        done = CliRunner().invoke(app, [str(a) for a in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Result(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def run_alone(here):
    """Run a command in a process of its own; Ctrl-C, or another signal, after as many lines of stdout as asked."""

    def run(*arguments, interrupt_after=None, send=signal.SIGINT, before=None, **environment):
        def begin():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell lets what it runs in the background ignore it
            if before is not None:
                before()

        process = subprocess.Popen(
            [sys.executable, "-m", "napari_unetpp", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            # As many threads as in this process: another number rounds otherwise, and training shows it.
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), **environment},
            preexec_fn=begin,
        )
        read = []
        if interrupt_after is not None:
            if hasattr(fcntl, "F_SETPIPE_SZ"):  # one page: nobody tells more than that before somebody has read it
                fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
            read = [process.stdout.readline() for _ in range(interrupt_after)]
            process.send_signal(send)
        out, err = process.communicate(timeout=120)
        return Result(process.returncode, (b"".join(read) + out).decode(), err.decode())

    return run


def contents(folder):
    """Every file below a folder that holds voxels or marks, by name."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "zarr.json"
    }
