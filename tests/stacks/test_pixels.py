"""What the numbers of a file mean: alpha, palettes, white stored as 0, planes of colour, axes of extent 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_unetpp.box import Box
from napari_unetpp.stacks import Stack, open_stack

GRAY = np.random.default_rng(0).integers(0, 200, (20, 30)).astype("u1")


def whole(stack: Stack) -> np.ndarray:
    return stack.read(Box.of(stack.shape_predicted))


def opened(source: object, **options: object) -> tuple[str, np.ndarray, str]:
    """Axes, voxels (c, ...) and the notes of a stack, as one text."""
    with open_stack(source, **options) as stack:
        return stack.axes, whole(stack), "; ".join(stack.notes)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("alpha", ["assocalpha", "unassalpha"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_alpha_is_left_out_of_colours(tmp_path: Path, compression: str | None, alpha: str, planar: str) -> None:
    rgba = np.stack([GRAY, GRAY // 2, GRAY // 3, np.full_like(GRAY, 255)], axis=-1 if planar == "contig" else 0)
    tifffile.imwrite(
        tmp_path / "a.tif", rgba, photometric="rgb", planarconfig=planar, extrasamples=[alpha], metadata=None,
        compression=compression,
    )  # fmt: skip
    axes, voxels, notes = opened(tmp_path / "a.tif")
    assert axes == ("yxc" if planar == "contig" else "cyx")
    np.testing.assert_array_equal(voxels, [GRAY, GRAY // 2, GRAY // 3])
    assert notes == "its alpha channel is left out"
    assert opened(tmp_path / "a.tif", axes=axes)[2] == notes
    with open_stack(tmp_path / "a.tif") as stack:
        assert stack.colours


def test_alpha_is_left_out_of_gray(tmp_path: Path) -> None:
    both = np.dstack([GRAY, np.full_like(GRAY, 255)])
    tifffile.imwrite(tmp_path / "a.tif", both, photometric="minisblack", planarconfig="contig", extrasamples=[2])
    Image.fromarray(both, "LA").save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        axes, voxels, notes = opened(tmp_path / name)
        assert (axes, notes) == ("yx", "its alpha channel is left out")
        np.testing.assert_array_equal(voxels, [GRAY])
        assert opened(tmp_path / name, axes="yx")[0] == "yx"  # the axes that remain may be named, too
        assert opened(tmp_path / name, axes="yxc")[1].shape == (2, 20, 30)


def test_two_samples_that_are_not_alpha_are_channels(tmp_path: Path) -> None:
    both = np.dstack([GRAY, GRAY // 2])
    tifffile.imwrite(tmp_path / "a.tif", both, photometric="minisblack", planarconfig="contig")
    axes, voxels, _ = opened(tmp_path / "a.tif")
    assert axes == "yxc"
    np.testing.assert_array_equal(voxels, [GRAY, GRAY // 2])


def test_rows_of_two_voxels_are_asked_about(tmp_path: Path) -> None:
    both = np.dstack([GRAY, GRAY // 2])
    tifffile.imwrite(tmp_path / "a.tif", both)  # as pages of 30 x 2
    np.save(tmp_path / "a.npy", both)
    for source in (tmp_path / "a.tif", tmp_path / "a.npy", both, np.dstack([GRAY] * 3)):
        with pytest.raises(ValueError, match=r'planes of 30 x [23] voxels, or one of 20 x 30 .*axes="yxc" \(--axes\)'):
            open_stack(source)
    assert opened(tmp_path / "a.tif", axes="yxc")[1].shape == (2, 20, 30)
    assert opened(tmp_path / "a.tif", axes="zyx")[1].shape == (1, 20, 30, 2)


def test_planes_of_red_green_and_blue_are_channels(tmp_path: Path) -> None:
    planes = np.stack([GRAY, GRAY // 2, GRAY // 3])
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    axes, voxels, notes = opened(tmp_path / "a.tif")
    assert axes == "cyx"
    np.testing.assert_array_equal(voxels, planes)
    assert "--axes zyx takes them as slices" in notes
    assert opened(tmp_path / "a.tif", axes="zyx")[::2] == ("zyx", "")
    four = np.stack([GRAY] * 4)
    tifffile.imwrite(tmp_path / "four.tif", four, photometric="rgb", planarconfig="separate")
    with pytest.raises(ValueError, match=r"its planes are marked as colours, or are slices.*pass axes"):
        open_stack(tmp_path / "four.tif")


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_white_stored_as_zero_is_turned_round(tmp_path: Path, dtype: str, compression: str | None) -> None:
    data = GRAY.astype(dtype)
    stored = -data if dtype == "f4" else -1 - data if dtype == "i2" else np.iinfo(dtype).max - data
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite", compression=compression)
    axes, voxels, notes = opened(tmp_path / "a.tif")
    assert axes == "yx"
    assert voxels.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(voxels, [data])
    assert "MINISWHITE" in notes
    with open_stack(tmp_path / "a.tif") as stack:
        np.testing.assert_array_equal(stack.read(Box((3, 4), (9, 11))), [data[3:9, 4:11]])


def test_a_mask_in_which_white_is_zero_shows_what_a_viewer_shows(tmp_path: Path) -> None:
    mask = GRAY > 100
    tifffile.imwrite(tmp_path / "a.tif", ~mask, photometric="miniswhite", metadata=None)
    seen = np.asarray(Image.open(tmp_path / "a.tif"))  # Pillow follows the photometric interpretation
    np.testing.assert_array_equal(seen, mask)
    np.testing.assert_array_equal(opened(tmp_path / "a.tif")[1], [mask])


def test_tifffile_marks_every_mask_so_its_own_stay(tmp_path: Path) -> None:
    mask = GRAY > 100
    for ome in (False, True):
        tifffile.imwrite(tmp_path / "a.tif", mask, ome=ome)
        with tifffile.TiffFile(tmp_path / "a.tif") as tif:
            assert tif.pages.first.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        _, voxels, notes = opened(tmp_path / "a.tif")
        np.testing.assert_array_equal(voxels, [mask])
        assert "used as stored" in notes


def test_a_mask_with_the_inverting_table_of_imagej_stays(tmp_path: Path) -> None:
    mask = np.where(GRAY > 100, 255, 0).astype("u1")
    tifffile.imwrite(tmp_path / "a.tif", mask, photometric="miniswhite", imagej=True)
    _, voxels, notes = opened(tmp_path / "a.tif")
    np.testing.assert_array_equal(voxels, [mask])
    assert "inverting LUT" in notes


def test_palettes(tmp_path: Path) -> None:
    turned = np.stack([np.arange(256)[::-1] * 257] * 3).astype("u2")
    tifffile.imwrite(tmp_path / "gray.tif", 255 - GRAY, photometric="palette", colormap=turned)
    axes, voxels, notes = opened(tmp_path / "gray.tif")
    assert (axes, voxels.dtype) == ("yx", np.uint8)
    np.testing.assert_array_equal(voxels, [GRAY])
    assert "gray values" in notes
    colours = np.random.default_rng(1).integers(0, 256, (3, 256)).astype("u2")
    tifffile.imwrite(tmp_path / "colour.tif", GRAY, photometric="palette", colormap=colours * 257)
    picture = Image.fromarray(GRAY, "P")
    picture.putpalette(colours.T.astype("u1").tobytes())
    picture.save(tmp_path / "colour.png")
    for name in ("colour.tif", "colour.png"):
        axes, voxels, notes = opened(tmp_path / name)
        assert axes == "yxc"
        np.testing.assert_array_equal(voxels, colours[:, GRAY])
        assert "red, green and blue" in notes
        with open_stack(tmp_path / name) as stack:
            assert stack.colours
            np.testing.assert_array_equal(stack.read(Box((2, 3), (5, 9))), colours[:, GRAY[2:5, 3:9]])
        axes, voxels, _ = opened(tmp_path / name, labels=True)
        assert axes == "yx"
        np.testing.assert_array_equal(voxels, [GRAY])


def test_the_colour_table_of_imagej_is_for_display(tmp_path: Path) -> None:
    green = np.zeros((3, 256), "u2")
    green[1] = np.arange(256) * 257
    description = "ImageJ=1.54f\nmin=0.0\nmax=255.0\n"
    tifffile.imwrite(
        tmp_path / "a.tif", GRAY, photometric="palette", colormap=green, description=description, metadata=None
    )
    axes, voxels, notes = opened(tmp_path / "a.tif")
    assert axes == "yx"
    np.testing.assert_array_equal(voxels, [GRAY])
    assert "for display only" in notes


def test_planes_that_imagej_does_not_announce_are_told(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for number in range(5):
            text = "ImageJ=1.54f\nimages=2\nslices=2\n" if number == 0 else None
            tif.write(GRAY, description=text, metadata=None, contiguous=False)
    _, voxels, notes = opened(tmp_path / "a.tif")
    assert voxels.shape == (1, 2, 20, 30)
    assert notes == "its ImageJ metadata announce 2 planes, the file holds 5; the last ones are left out"


@pytest.mark.parametrize(("kind", "samples", "name"), [("separated", 4, "CMYK"), ("cielab", 3, "CIELab")])
def test_colours_that_are_not_converted_are_refused(tmp_path: Path, kind: str, samples: int, name: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([GRAY] * samples), photometric=kind)
    with pytest.raises(ValueError, match=f"a.tif holds {name} colours; save it as RGB or gray"):
        open_stack(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("shape", "axes", "left"),
    [((20, 30, 1), "yx", (20, 30)), ((1, 1, 1, 20, 30), "yx", (20, 30)), ((1, 5, 20, 30), "zyx", (5, 20, 30)),
     ((1, 20, 30, 1), "yx", (20, 30)), ((5, 1, 20, 30), "zyx", (5, 20, 30)), ((1, 20, 30), "zyx", (1, 20, 30))],
    ids=str,
)  # fmt: skip
def test_axes_of_extent_one_that_nobody_names_are_left_out(
    tmp_path: Path, shape: tuple, axes: str, left: tuple
) -> None:
    data = np.random.default_rng(0).integers(0, 200, shape).astype("u1")
    np.save(tmp_path / "a.npy", data)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack")
    for source in (data, tmp_path / "a.npy", tmp_path / "a.tif"):
        found, voxels, notes = opened(source)
        assert found == axes
        np.testing.assert_array_equal(voxels[0], data.reshape(left))
        assert ("axes of extent 1 are left out" in notes) == (shape != left)
        assert opened(source, axes=axes)[0] == axes
    named = "tczyx"[-len(shape) :]
    assert opened(data, axes=named)[0] == named


def test_what_the_channels_are(tmp_path: Path) -> None:
    def colours(name: str, **options: object) -> bool | None:
        with open_stack(tmp_path / name, **options) as stack:
            return stack.colours

    three = np.stack([GRAY] * 3)
    tifffile.imwrite(tmp_path / "imagej.tif", three, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "ome.tif", three, ome=True, photometric="minisblack", metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "rgb.tif", np.dstack(list(three)), photometric="rgb")
    tifffile.imwrite(tmp_path / "pages.tif", three, photometric="minisblack")
    assert [colours(f"{name}.tif") for name in ("imagej", "ome", "rgb")] == [False, False, True]
    assert colours("pages.tif", axes="cyx") is None
    assert colours("pages.tif") is None  # slices


def test_one_of_several_images_is_told(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as tif:
        tif.write(GRAY, metadata={"axes": "YX", "Name": "well A"})
        tif.write(GRAY[:9], metadata={"axes": "YX", "Name": "well B"})
    assert opened(tmp_path / "two.ome.tif")[2] == "image 1 of 2: well A; choose another with --series 0..1"
    assert opened(tmp_path / "two.ome.tif", series=0)[2] == ""


def test_planes_that_ome_does_not_announce_are_told(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.ome.tif", np.stack([GRAY] * 5), ome=True, metadata={"axes": "TYX"}, compression="zlib"
    )
    assert opened(tmp_path / "a.ome.tif")[2] == ""
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tif:
        text = tif.ome_metadata
    text = text.replace('SizeT="5"', 'SizeT="2"').replace('PlaneCount="5"', 'PlaneCount="2"')
    tifffile.tiffcomment(tmp_path / "a.ome.tif", text.encode())
    _, voxels, notes = opened(tmp_path / "a.ome.tif")
    assert voxels.shape == (1, 2, 20, 30)
    assert notes == "its OME metadata announce 2 planes, the file holds 5; the last ones are left out"


def test_the_interval_of_a_time_series_is_kept(tmp_path: Path) -> None:
    frames = np.stack([GRAY] * 3)
    tifffile.imwrite(tmp_path / "imagej.tif", frames, imagej=True, metadata={"axes": "TYX", "finterval": 2.5})
    ome = {"axes": "TYX", "TimeIncrement": 500, "TimeIncrementUnit": "ms"}
    tifffile.imwrite(tmp_path / "ome.tif", frames, ome=True, metadata=ome)
    for name, interval in (("imagej", 2.5), ("ome", 0.5)):
        with open_stack(tmp_path / f"{name}.tif") as stack:
            assert stack.interval_s == interval
        with open_stack(tmp_path / f"{name}.tif", axes="zyx") as stack:
            assert stack.interval_s is None
