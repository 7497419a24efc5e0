"""Labels go to disk plane by plane, whole or not at all, and come back with axes and spacing."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import dask.array
import numpy as np
import pytest
import tifffile
import zarr

from napari_unetpp import _label_tiff
from napari_unetpp.box import Box
from napari_unetpp.stacks import open_stack, save_labels


def labels(shape: tuple[int, ...], dtype: str = "u1") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "u4", "i1", "i2", "i4", "?"])
@pytest.mark.parametrize(
    ("axes", "shape", "spacing"),
    [
        ("yx", (20, 30), (0.2, 0.1)),
        ("zyx", (5, 20, 30), (0.5, 0.108, 0.2)),
        ("zyx", (3, 20, 30), None),
        ("zyx", (4, 20, 30), (0.5, None, None)),
        ("tyx", (4, 20, 30), (None, 0.3, 0.3)),
        ("tzyx", (2, 3, 20, 30), (None, 1 / 3, 0.1, 0.1)),
        ("tzcyx", (2, 3, 4, 20, 30), (None, 5.0, None, 0.004, 0.004)),
        ("zyx", (5, 1, 1), (1.0, 1.0, 1.0)),
        ("zyx", (5, 1, 9), (1.0, 1.0, 1.0)),
        ("yx", (1, 1), (1.0, 1.0)),
    ],
)
def test_what_is_saved_comes_back(tmp_path: Path, dtype: str, axes: str, shape: tuple, spacing: tuple | None) -> None:
    path = tmp_path / "labels.tif"
    data = labels(shape, dtype)
    with open_stack(save_labels(path, data, axes, spacing)) as stack:
        assert stack.axes == axes
        assert stack.spacing_um == pytest.approx(spacing or (None,) * len(axes))
        got = stack.read(Box.of(stack.shape_predicted))
        back = got if "c" in axes else got[0]
        expected = np.moveaxis(data, axes.index("c"), 0) if "c" in axes else data
        np.testing.assert_array_equal(back, expected)
        assert stack.dtype == np.dtype("u1" if dtype == "?" else dtype).newbyteorder("=")
    assert [p.name for p in tmp_path.iterdir()] == ["labels.tif"]


@pytest.mark.parametrize(
    ("dtype", "spacing", "kind"),
    [("u1", (1, 1, 1), "imagej"), ("u2", None, "imagej"), ("u4", (1, 1, 1), "ome"),
     ("i2", None, "ome"), ("u1", (1, None, None), "ome")],
)  # fmt: skip
def test_imagej_where_it_can_else_ome(tmp_path: Path, dtype: str, spacing: tuple | None, kind: str) -> None:
    path = save_labels(tmp_path / "labels.tif", labels((4, 20, 30), dtype), "zyx", spacing)
    with tifffile.TiffFile(path) as tif:
        assert tif.series[0].kind == kind
        assert tif.pages.first.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert not tif.is_bigtiff


class Endless:
    """Labels of any shape that are computed slice by slice, and remember the largest piece."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.ndim, self.dtype, self.largest = shape, len(shape), np.dtype("u1"), 0

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        shape = [len(range(*k.indices(n))) for k, n in zip(key, self.shape, strict=False)]
        shape += self.shape[len(key) :]
        self.largest = max(self.largest, int(np.prod(shape)))
        return np.full(shape, key[-1].start or 0, np.uint8)


def test_lazy_labels_are_read_plane_by_plane(tmp_path: Path) -> None:
    lazy = Endless((3, 50, 64, 64))
    with open_stack(save_labels(tmp_path / "lazy.tif", lazy, "tzyx", None)) as stack:
        assert lazy.largest == 64 * 64
        got = stack.read(Box((1, 40, 0, 0), (2, 43, 1, 1)))
    assert got.ravel().tolist() == [40, 41, 42]


@pytest.mark.parametrize("wrap", ["zarr", "dask"])
def test_lazy_labels_are_read_chunk_by_chunk(tmp_path: Path, wrap: str) -> None:
    data = labels((11, 20, 30), "u2")
    lazy = (
        zarr.create_array({}, data=data, chunks=(4, 8, 8))
        if wrap == "zarr"
        else dask.array.from_array(data, chunks=(4, 8, 8))
    )
    path = save_labels(tmp_path / "lazy.tif", lazy, "zyx", None)
    np.testing.assert_array_equal(tifffile.imread(path), data)


def test_bigtiff_where_four_gigabytes_are_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    class Enough(Exception):
        pass

    def writer(*_: object, **options: object) -> None:
        asked.update(options)
        raise Enough

    monkeypatch.setattr(_label_tiff.tifffile, "TiffWriter", writer)
    for shape, big in (((4200, 1024, 1024), True), ((3900, 1024, 1024), False)):
        with pytest.raises(Enough):
            save_labels(tmp_path / "big.tif", Endless(shape), "zyx", (1, 1, 1))
        assert asked == {"bigtiff": big, "ome": big, "imagej": not big}
    assert list(tmp_path.iterdir()) == []


class Failing(Endless):
    def __init__(self, shape: tuple[int, ...], error: BaseException) -> None:
        super().__init__(shape)
        self.error = error

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        if key[0].start == 3:
            raise self.error
        return super().__getitem__(key)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_failure_leaves_the_old_file_and_no_other(tmp_path: Path, error: BaseException) -> None:
    path = save_labels(tmp_path / "labels.tif", labels((4, 20, 30)), "zyx", None)
    before = path.read_bytes()
    with pytest.raises(type(error)) as caught:
        save_labels(path, Failing((9, 20, 30), error), "zyx", None)
    if isinstance(error, OSError):
        assert "labels.tif cannot be written (No space left on device); free" in str(caught.value)
        assert caught.value.errno == errno.ENOSPC
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["labels.tif"]


FULL_DISK = """
import resource, signal, sys
import numpy as np
from napari_unetpp.stacks import save_labels
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
noise = np.random.default_rng(0).integers(0, 255, (50, 100, 100)).astype("u1")
try:
    save_labels(sys.argv[1], noise, "zyx", None)
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_file_that_may_not_grow_is_not_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "labels.tif"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert "labels.tif cannot be written (File too large); free space" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"labels.tif cannot be written \(No such file"):
        save_labels(tmp_path / "absent" / "labels.tif", labels((4, 5)), "yx", None)


@pytest.mark.parametrize(
    ("name", "dtype", "axes", "spacing", "match"),
    [
        ("labels.png", "u1", "zyx", None, "should end in .tif or .tiff"),
        ("labels.tif", "f4", "zyx", None, "of type float32; TIFF wants integers up to 32 bit"),
        ("labels.tif", "i8", "zyx", None, "of type int64; TIFF wants integers up to 32 bit"),
        ("labels.tif", "u1", "yx", None, r'shape \(2, 4, 5\) do not fit the axes "yx"'),
        ("labels.tif", "u1", "yxz", None, 'in that order, ending in "yx"'),
        ("labels.tif", "u1", "qyx", None, 'letters of "tzcyx"'),
        ("labels.tif", "u1", "zzyx", None, 'letters of "tzcyx"'),
        ("labels.tif", "u1", "zyx", (1, 1), "spacing .* does not fit"),
        ("labels.tif", "u1", "zyx", (1, 0, 1), "spacing .* does not fit"),
    ],
)
def test_what_cannot_be_saved(
    tmp_path: Path, name: str, dtype: str, axes: str, spacing: tuple | None, match: str
) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        save_labels(tmp_path / name, labels((2, 4, 5), dtype), axes, spacing)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
