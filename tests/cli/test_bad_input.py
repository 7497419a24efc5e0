"""Input that cannot be segmented: one clear line, exit code 1, nothing left behind."""

from __future__ import annotations

import os
import re
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
    tifffile.imwrite(path, stack, photometric="minisblack")


def far(path):
    stack = np.ones((3, 32, 32))
    stack[2, 30, 3] = 1e39  # a float64 of which float32 makes infinity
    tifffile.imwrite(path, stack, photometric="minisblack")


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
    far: "numbers beyond float32",
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


@pytest.mark.parametrize(
    ("stack", "output"),
    [("in.zarr", "in.zarr"), ("in.zarr/L1", "in.zarr"), ("in.zarr", "in.zarr/L1/x"), ("ln", "in.zarr")],
)
def test_what_is_segmented_is_never_written_over(run, here, stack, output):
    run("segment", "stack.tif", "-o", "in.zarr", "--model", "tiny.safetensors")
    (here / "ln").symlink_to("in.zarr")
    before = contents(here / "in.zarr")
    done = run("segment", stack, "-o", output, "--model", "tiny.safetensors", "--overwrite")
    assert done.code == 1
    (line,) = done.error_lines
    assert "in the stack" in line
    assert contents(here / "in.zarr") == before


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("taken", "not a prediction store .* name another path"),
        ("gone", "link to what does not exist"),
        ("in.zarr/x", "lies in the predictions"),
    ],
)
def test_a_place_that_is_taken_is_said_to_be(run, here, place, says):
    run("segment", "stack.tif", "-o", "in.zarr", "--model", "tiny.safetensors")
    (here / "taken").write_text("precious")
    (here / "gone").symlink_to("nowhere")
    before = sorted(here.rglob("*"))
    done = run("segment", "stack.tif", "-o", place, "--model", "tiny.safetensors")
    assert done.code == 1
    (line,) = done.error_lines
    assert re.search(says, line)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("output", "labels"), [("new.tif", "new.tif"), ("a.zarr", "a.zarr/l.tif"), ("a.zarr", "folder.tif")]
)
def test_labels_that_cannot_be_written_are_refused_before_the_work(run, here, output, labels):
    (here / "folder.tif").mkdir()
    run("segment", "stack.tif", "-o", "a.zarr", "--model", "tiny.safetensors")
    before = sorted(here.rglob("*"))
    done = run("segment", "stack.tif", "-o", output, "--model", "tiny.safetensors", "--overwrite", "--labels", labels)
    assert done.code == 2
    assert len(done.error_lines) == 1
    assert sorted(here.rglob("*")) == before


def test_a_long_name_has_room_for_its_temporary_neighbours(run, here):
    name = "x" * 240
    assert run("segment", "stack.tif", "-o", name, "--model", "tiny.safetensors", "--labels", f"{name}.tif").code == 0
    assert {f"{name}.tif", name} < {path.name for path in here.iterdir()}


def test_threads_by_the_thousand(run, here):
    done = run("segment", "stack.tif", *OUT, "--threads", "100000")
    assert done.code == 2
    assert "--threads 100000" in done.error_lines[0]


def test_a_name_of_two_lines_is_told_in_one(run):
    assert run("segment", "no\nfile.tif", *OUT).error_lines == ["error: no file.tif does not exist; check the name"]


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


def test_a_full_file_system_and_going_on_with_more_room(run, here, mounted):
    write_model(here / "tiny.safetensors", tiling={"kind": "seamless", "inner": 64, "halo": 16})
    noise = np.random.default_rng(0).integers(0, 255, (8, 128, 128)).astype(np.uint8)
    write_tiff(here / "stack.tif", noise, "zyx")
    disk = mounted("disk", "size=160k")
    arguments = ("segment", "stack.tif", "-o", disk / "out.zarr", "--model", "tiny.safetensors")
    full = run(*arguments)
    assert full.code == 1
    assert len(full.error_lines) == 1, full.err
    assert "No space left on device" in full.err
    assert "goes on from there" in full.err
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    assert run(*arguments).code == 0
    assert run(*arguments[:2], "-o", "whole.zarr", *arguments[4:]).code == 0
    assert contents(disk / "out.zarr") == contents(here / "whole.zarr")


def test_a_file_system_without_any_room_leaves_nothing(run, here, mounted):
    disk = mounted("disk", "size=4k")
    done = run("segment", "stack.tif", "-o", disk / "o", "--model", "tiny.safetensors")
    assert done.code == 1
    assert len(done.error_lines) == 1, done.err
    assert not list(disk.iterdir())
