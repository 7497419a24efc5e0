"""Input that cannot be segmented: one clear line, exit code 1, nothing left behind."""

from __future__ import annotations

import os
import subprocess

import numpy as np
import pytest
import tifffile

from .conftest import contents, write_model, write_tiff

OUT = ("-o", "out.ome.zarr", "--model", "tiny.safetensors")


def text(path):
    path.write_text("this is not an image\n" * 50)


def truncated(path):
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 255, (4, 64, 64), np.uint8))
    path.write_bytes(path.read_bytes()[:9000])


def nothing(path):
    path.write_bytes(b"")


def nan(path):
    stack = np.ones((3, 32, 32), np.float32)
    stack[2, 30, 3] = np.nan  # in the last plane, far from where a glance would see it
    tifffile.imwrite(path, stack)


def rgb(path):
    tifffile.imwrite(path, np.zeros((32, 32, 3), np.uint8), photometric="rgb")


def pixel(path):
    tifffile.imwrite(path, np.ones((1, 1), np.uint8))


def missing(path):
    pass


BAD = {
    text: "no image that can be read",
    truncated: "truncated",
    nothing: "empty",
    nan: "NaN",
    rgb: "3 channels",
    pixel: "1 voxel thin",
    missing: "does not exist",
}


@pytest.mark.parametrize("write", BAD, ids=lambda f: f.__name__)
def test_one_clear_line_and_nothing_half_written(run, here, write):
    write(here / "bad.tif")
    before = sorted(here.iterdir())
    done = run("segment", "bad.tif", *OUT, "--labels", "out.tif")
    assert done.code == 1
    assert done.out == ""
    assert len(done.error_lines) == 1
    assert done.err.startswith("error: ")
    assert BAD[write] in done.err
    assert sorted(here.iterdir()) == before


def test_an_empty_stack(run, here):
    np.save(here / "empty.npy", np.zeros((0, 32, 32), np.uint8))
    done = run("segment", "empty.npy", *OUT)
    assert done.code == 1
    assert "empty" in done.err
    assert not (here / "out.ome.zarr").exists()


def test_a_damaged_model(run, here):
    model = here / "tiny.safetensors"
    model.write_bytes(model.read_bytes()[:2000])
    done = run("segment", "stack.tif", *OUT)
    assert done.code == 1
    assert len(done.error_lines) == 1
    assert "damaged" in done.err


def test_a_failure_shows_its_traceback_only_on_demand(run_alone, here):
    (here / "bad.tif").write_text("text")
    quiet = run_alone("segment", "bad.tif", *OUT)
    loud = run_alone("segment", "bad.tif", *OUT, NAPARI_UNETPP_DEBUG="1")
    assert (quiet.code, loud.code) == (1, 1)
    assert "Traceback" not in quiet.err
    assert "Traceback" in loud.err
    assert quiet.err.strip() == loud.err.strip().splitlines()[-1]


@pytest.fixture
def mounted(here):
    """Mounts a small file system of its own; needs root and the right to mount."""
    mounts = []

    def mount(name, options):
        folder = here / name
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no right to mount a file system here")
        mounts.append(folder)
        return folder

    yield mount
    for folder in mounts:
        subprocess.run(["umount", str(folder)], check=True)


def check_read_only(run, folder):
    for arguments in (
        ("segment", "stack.tif", "-o", folder / "out.zarr", "--model", "tiny.safetensors"),
        ("segment", "stack.tif", *OUT, "--labels", folder / "out.tif"),
    ):
        done = run(*arguments)
        assert done.code == 1
        assert len(done.error_lines) == 1
        assert str(folder) in done.err
    assert not list(folder.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(run, here):
    folder = here / "closed"
    folder.mkdir(mode=0o555)
    check_read_only(run, folder)
    assert not (here / "out.ome.zarr").exists()


def test_a_read_only_file_system(run, here, mounted):
    check_read_only(run, mounted("closed", "ro"))
    assert not (here / "out.ome.zarr").exists()


def test_a_full_file_system_and_going_on_with_more_room(run_alone, here, mounted):
    write_model(here / "tiny.safetensors", tiling={"kind": "seamless", "inner": 128, "halo": 16})
    noise = np.random.default_rng(0).integers(0, 255, (8, 256, 256)).astype(np.uint8)
    write_tiff(here / "stack.tif", noise, "zyx")
    disk = mounted("disk", "size=300k")
    arguments = ("segment", "stack.tif", "-o", disk / "out.zarr", "--model", "tiny.safetensors")
    full = run_alone(*arguments)
    assert full.code == 1
    assert len(full.error_lines) == 1, full.err
    assert "No space left on device" in full.err
    assert "goes on from there" in full.err
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    assert run_alone(*arguments).code == 0
    assert run_alone(*arguments[:2], "-o", "whole.zarr", *arguments[4:]).code == 0
    assert contents(disk / "out.zarr") == contents(here / "whole.zarr")


def test_a_file_system_without_any_room_leaves_nothing(run_alone, here, mounted):
    disk = mounted("disk", "size=4k")
    done = run_alone("segment", "stack.tif", "-o", disk / "o", "--model", "tiny.safetensors")
    assert done.code == 1
    assert len(done.error_lines) == 1, done.err
    assert not list(disk.iterdir())
