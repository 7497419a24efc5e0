"""The folder of an output goes before, in the middle of, or just before the end of a job: one line, exit 1, nothing half."""

from __future__ import annotations

import shutil

import pytest
import tifffile

from napari_unetpp import _label_tiff
from napari_unetpp.model import checkpoint, exchange, exchange_graphs, zoo
from napari_unetpp.training import crops
from tests.cli.test_crops import CUT, MILLIMETRES, scans  # noqa: F401 (a fixture)
from tests.cli.test_segment import BASE

GONE = "the folder was moved or deleted while this was written"


@pytest.fixture
def vanishing(here, monkeypatch):
    """A folder "out" that goes, as told, when a function is called for the n-th time; the calls are counted."""
    (here / "out").mkdir()
    calls = []

    def armed(module, name, number, how="deleted"):
        real = getattr(module, name)

        def called(*args, **kwargs):
            calls.append(name)
            if len(calls) == number:
                if how == "renamed":
                    (here / "out").rename(here / "moved")
                else:
                    shutil.rmtree(here / "out")
                if how == "replaced":
                    (here / "out").mkdir()
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, called)
        return calls

    return armed


def check_failed(done, here, how="deleted"):
    assert done.code == 1, done.out
    (line,) = done.error_lines
    assert "out" in line
    assert "Traceback" not in line
    if how == "replaced":
        assert not list((here / "out").iterdir())
    else:
        assert not (here / "out").exists()
    return line


@pytest.mark.parametrize("how", ["deleted", "renamed", "replaced"])
@pytest.mark.parametrize("moment", ["before", "mid", "end"])
def test_labels(run, here, vanishing, monkeypatch, moment, how):
    if moment == "mid":

        def planes(labels, dtype, real=_label_tiff._planes):  # with the file open
            for number, plane in enumerate(real(labels, dtype)):
                if number == 2:
                    shutil.rmtree(here / "out") if how != "renamed" else (here / "out").rename(here / "moved")
                    if how == "replaced":
                        (here / "out").mkdir()
                yield plane

        monkeypatch.setattr(_label_tiff, "_planes", planes)
    else:
        vanishing(_label_tiff, "_write" if moment == "before" else "_read_back", 1, how)
    done = run(*BASE, "--labels", "out/labels.tif")
    if moment == "before" and how == "replaced":  # an empty folder is as good as the one before
        assert done.code == 0
        assert len(list((here / "out").iterdir())) == 1
    else:
        assert GONE in check_failed(done, here, how)
    again = here / "again"
    again.mkdir()
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert run(*BASE, "--labels", "again/labels.tif").code == 0


@pytest.mark.parametrize("how", ["deleted", "renamed", "replaced"])
@pytest.mark.parametrize("call", [1, 3, 4])  # before the first file, in the middle, before the last
def test_crops(run, scans, vanishing, call, how):  # noqa: F811
    calls = vanishing(crops, "_save", call, how)
    done = run("crops", *CUT[:-1], "out/crops", *MILLIMETRES, "--separate", "--json")
    assert GONE in check_failed(done, scans, how)
    assert len(calls) == call


@pytest.mark.parametrize("how", ["deleted", "renamed", "replaced"])
def test_crops_at_the_end(run, scans, vanishing, how):  # noqa: F811
    vanishing(crops, "_read_back", 1, how)
    done = run("crops", *CUT[:-1], "out/crops", *MILLIMETRES, "--separate", "--json")
    check_failed(done, scans, how)


def test_crops_of_which_some_were_deleted_are_not_called_done(run, scans, monkeypatch):  # noqa: F811
    real = crops._save

    def save(path, *rest):
        real(path, *rest)
        if path.parent.name == "labels" and path.name.endswith("1.tif"):
            path.unlink()

    monkeypatch.setattr(crops, "_save", save)
    done = run("crops", *CUT, *MILLIMETRES, "--separate", "--json")
    assert done.code == 1
    assert "was deleted while the crops were written" in done.error_lines[0]
    assert not (scans / "crops").exists()


MOMENTS = [
    (checkpoint, "weights_sha256", 1, ("-o", "out/a.safetensors", "--level", "1")),
    (checkpoint, "save_file", 1, ("-o", "out/a.safetensors", "--level", "1")),
    (checkpoint, "_read_back", 1, ("-o", "out/a.safetensors", "--level", "1")),
    (zoo, "check_file", 1, ("-o", "out/a.safetensors")),
    (zoo, "file_sha256", 1, ("-o", "out/a.safetensors")),
    (zoo, "_place", 1, ("-o", "out/a.safetensors")),
    (exchange, "smaller", 1, ("-o", "out/a.pt")),
    (exchange_graphs, "write_torchscript", 1, ("-o", "out/a.pt")),
    (exchange_graphs, "checked", 1, ("-o", "out/a.pt")),
]


@pytest.mark.parametrize("how", ["deleted", "renamed", "replaced"])
@pytest.mark.parametrize(("module", "name", "call", "arguments"), MOMENTS)
def test_exports(run, here, vanishing, module, name, call, arguments, how):
    calls = vanishing(module, name, call, how)
    done = run("models", "export", "tiny.safetensors", *arguments)
    assert calls
    if how == "replaced" and done.code == 0:  # begun anew in the folder that is there now
        assert (here / arguments[1]).is_file()
        checkpoint.load_model(here / arguments[1], "cpu") if arguments[1].endswith("safetensors") else None
    else:
        check_failed(done, here, how)


def test_what_is_read_back_otherwise_is_not_called_done(run, here, monkeypatch):
    def broken(partial, *rest, write=_label_tiff._write):
        last = write(partial, *rest)
        data = bytearray(partial.read_bytes())
        with tifffile.TiffFile(partial) as tif:
            at = tif.pages[-1].dataoffsets[0]
        data[at : at + 8] = bytes(8)
        partial.write_bytes(data)
        return last

    monkeypatch.setattr(_label_tiff, "_write", broken)
    done = run(*BASE, "--labels", "labels2.tif")
    assert done.code == 1
    assert "what was read back is not what was written" in done.error_lines[0]
    assert not (here / "labels2.tif").exists()


def test_a_model_that_is_read_back_otherwise_is_not_called_done(run, here, monkeypatch):
    def broken(weights, path, metadata, write=checkpoint.save_file):
        write(weights, path, metadata=metadata)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(checkpoint, "save_file", broken)
    done = run("models", "export", "tiny.safetensors", "-o", "a.safetensors", "--level", "1")
    assert done.code == 1
    assert "what was read back is not what was written" in done.error_lines[0]
    assert not (here / "a.safetensors").exists()
