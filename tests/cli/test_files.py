"""Files of all kinds from the command line: what was chosen is said, and what cannot be known is asked."""

from __future__ import annotations

from contextlib import chdir

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_unetpp.cli import _inputs
from napari_unetpp.stacks import open_stack, save_labels


@pytest.fixture
def plane(here):
    return tifffile.imread(here / "stack.tif")[2]


def labels_of(run, source, *options):
    done = run(
        "segment",
        source,
        "-o",
        "out.ome.zarr",
        "--model",
        "tiny.safetensors",
        "--labels",
        "out.tif",
        "--overwrite",
        *options,
    )
    assert done.code == 0, done.err
    return tifffile.imread("out.tif"), done.out


def test_a_png_gives_the_labels_of_the_tiff(run, here, plane):
    tifffile.imwrite("plane.tif", plane)
    Image.fromarray(plane).save("plane.png")
    tifffile.imwrite(
        "rgba.tif", np.dstack([plane, plane]), photometric="minisblack", planarconfig="contig", extrasamples=[1]
    )
    tifffile.imwrite("white.tif", 255 - plane, photometric="miniswhite")
    wanted, said = labels_of(run, "plane.tif")
    assert wanted.any()
    assert "alpha" not in said
    for name, note in (
        ("plane.png", ""),
        ("rgba.tif", "rgba: its alpha channel is left out\n"),
        ("white.tif", "white: it stores white as 0"),
    ):
        found, said = labels_of(run, name)
        np.testing.assert_array_equal(found, wanted)
        assert note in said


def test_a_folder_gives_the_labels_of_the_stack(run, here):
    (here / "planes").mkdir()
    for number, plane in enumerate(tifffile.imread("stack.tif")):
        Image.fromarray(plane).save(here / "planes" / f"p{number + 8}.png")
    wanted, _ = labels_of(run, "stack.tif")
    with chdir("planes"):
        assert run("segment", "p*.png", "-o", "out.ome.zarr", "--model", here / "tiny.safetensors").code == 0
    for source in ("planes", "planes/p*.png"):
        found, said = labels_of(run, source)
        np.testing.assert_array_equal(found, wanted)
        assert "planes: 5 files from p8.png to p12.png are taken as slices along z; --axes tyx makes them time" in said


def test_notes_are_events(run, here, plane):
    tifffile.imwrite("white.tif", 255 - plane, photometric="miniswhite")
    done = run("segment", "white.tif", "-o", "out.ome.zarr", "--model", "tiny.safetensors", "--json")
    (note,) = [event for event in done.events if event["event"] == "note"]
    assert note["stack"] == "white.tif"
    assert "MINISWHITE" in note["note"]


@pytest.mark.parametrize("shape", [(1, 80, 72), (1, 1, 80, 72), (1, 5, 80, 72)], ids=str)
def test_labels_of_axes_of_extent_one_fit_their_own_image(run, here, shape):
    axes = "tzyx"[-len(shape) :]
    data = np.tile(tifffile.imread("stack.tif"), (1, 2, 2))[: shape[-3]].reshape(shape)
    tifffile.imwrite("thin.tif", data, metadata={"axes": axes.upper()}, photometric="minisblack")
    with open_stack("thin.tif") as stack:
        assert (stack.axes, stack.shape) == (axes, shape)
    saved, _ = labels_of(run, "thin.tif")
    assert saved.shape != shape  # TIFF keeps no such axes
    for files in (("out.ome.zarr", "out.tif"), ("tiny.safetensors", "thin.tif", "out.tif"), ("thin.tif", "out.tif")):
        done = run("score", *files)
        assert done.code == 0, done.err
    done = run("score", "out.ome.zarr", "out.tif", "--level", "1", "--json")
    assert [row["iou"] for row in done.events[-1]["scores"]] == [1.0]  # 1 is the level that was saved
    done = run(
        "train", "--image", "thin.tif", "--label", "out.tif", "-o", "new.safetensors", "--base", "tiny.safetensors",
        "--epochs", 1, "--steps", 1, "--patch", 16, "--batch", 1,
    )  # fmt: skip
    assert done.code == 0, done.err


def test_three_channels_are_no_colours_unless_somebody_says_so(run, here, monkeypatch):
    from napari_unetpp.cli import _output

    three = np.stack([tifffile.imread("stack.tif")] * 3, axis=1)
    tifffile.imwrite("channels.tif", three, imagej=True, metadata={"axes": "ZCYX"})
    tifffile.imwrite("colours.tif", three.transpose(0, 2, 3, 1), photometric="rgb")

    class Spec:
        in_channels = 3

    class Model:
        spec = Spec()
        intensity = type("Intensity", (), {"replicate_gray": True})()
        card = type("Card", (), {"name": "nuclei"})()

    with open_stack("channels.tif") as stack:
        with pytest.raises(ValueError, match=r"--channel 0..2, or all three as colours with --rgb"):
            _inputs._select_channel(stack, None, Model(), rgb=False)
        assert _inputs._select_channel(stack, None, Model(), rgb=True) is stack
        assert _inputs._select_channel(stack, 1, Model(), rgb=False).channels == 1
    with open_stack("colours.tif") as stack:
        assert _inputs._select_channel(stack, None, Model(), rgb=False) is stack
    with open_stack("stack.tif") as stack, pytest.raises(_output.BadUsage, match="has 1 channels and not 3"):
        _inputs._select_channel(stack, None, Model(), rgb=True)
    done = run("segment", "channels.tif", "-o", "out.ome.zarr")  # the model that ships takes 1 or 3
    assert done.code == 1
    assert "--channel 0..2" in done.err
    done = run("segment", "channels.tif", "-o", "out.ome.zarr", "--rgb", "--channel", 1)
    assert done.code == 2


def test_the_interval_of_a_time_series_stays_with_its_predictions(run, here):
    movie = tifffile.imread("stack.tif")
    tifffile.imwrite("movie.tif", movie, imagej=True, metadata={"axes": "TYX", "finterval": 2.5})
    labels_of(run, "movie.tif")
    with open_stack("out.tif") as stack:
        assert (stack.axes, stack.interval_s) == ("tyx", 2.5)
    for path in ("out.ome.zarr", "out.ome.zarr/L1"):  # as any reader of OME-Zarr finds it
        ome = zarr.open_group(path, mode="r").attrs["ome"]["multiscales"][0]
        assert ome["axes"][0] == {"name": "t", "type": "time", "unit": "second"}
        assert ome["datasets"][0]["coordinateTransformations"][0]["scale"][0] == 2.5
        with open_stack(path) as stack:
            assert stack.interval_s == 2.5


def test_an_interval_goes_into_ome_where_imagej_cannot_hold_the_labels(tmp_path):
    labels = np.zeros((3, 20, 30), np.uint32)
    with open_stack(save_labels(tmp_path / "a.tif", labels, "tyx", interval_s=0.5)) as stack:
        assert (stack.axes, stack.interval_s) == ("tyx", 0.5)


def test_training_on_channels_as_colours_is_told(run, here):
    three = np.tile(np.stack([tifffile.imread("stack.tif")] * 3, axis=1), (1, 1, 2, 2))
    tifffile.imwrite("channels.tif", three, imagej=True, metadata={"axes": "ZCYX"})
    tifffile.imwrite("cells.tif", (three[:, 0] > 99).astype("u1"), imagej=True, metadata={"axes": "ZYX"})
    done = run(
        "train", "--image", "channels.tif", "--label", "cells.tif", "-o", "new.safetensors", "--base", "nuclei",
        "--epochs", 1, "--steps", 1, "--patch", 32, "--batch", 1, "--trainable", "heads", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    (note,) = [event["note"] for event in done.events if event["event"] == "note"]
    assert note == "its three channels are taken as the red, green and blue of nuclei"


def test_one_of_several_images_is_told_with_what_can_be_done(run, here):
    with tifffile.TiffWriter("two.ome.tif", ome=True) as tif:
        for name in ("A", "B"):
            tif.write(tifffile.imread("stack.tif"), metadata={"axes": "ZYX", "Name": name})
    _, said = labels_of(run, "two.ome.tif")
    assert "two [0]: image 1 of 2: A; choose another with --series 0..1\n" in said
    assert "image" not in labels_of(run, "two.ome.tif", "--series", 1)[1]
    assert (
        "two [0]: image 1 of 2: A; save another as a file of its own\n"
        in run("score", "out.ome.zarr", "two.ome.tif").out
    )
