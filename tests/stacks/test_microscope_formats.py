"""ND2, LIF and CZI. Nothing in Python writes them, so:

CZI and LIF are tiny files that are put together here, byte by byte as their formats are described; the packages' own
`asarray` says what is in them. For ND2 the package's `ND2File` is replaced by a stub with the same public attributes: what
is tested is what we make of it, and not whether the package reads ND2.
"""

from __future__ import annotations

import struct
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import imagecodecs
import numpy as np
import pytest

from napari_unetpp.box import Box
from napari_unetpp.stacks import Stack, open_stack

czifile = pytest.importorskip("czifile")
liffile = pytest.importorskip("liffile")

RNG = np.random.default_rng(0)


def whole(stack: Stack) -> np.ndarray:
    return stack.read(Box.of(stack.shape_predicted))


# CZI


def segment(kind: bytes, data: bytes) -> bytes:
    room = -(-len(data) // 32) * 32
    return struct.pack("<16sqq", kind, room, len(data)) + data.ljust(room, b"\0")


def write_czi(path: Path, blocks: list[tuple[dict[str, int], np.ndarray]], compression: int = 0, xml: str = "") -> None:
    """A CZI of subblocks; each is the place of its first pixel, by axis, and its pixels (y, x) or (y, x, 3)."""
    kinds = {("u1", 1): 0, ("u2", 1): 1, ("u1", 3): 3}
    header_size = 32 + 512
    parts, entries, at = [], [], header_size
    for place, pixels in blocks:
        samples = pixels.shape[2] if pixels.ndim == 3 else 1
        sizes = {"X": pixels.shape[1], "Y": pixels.shape[0]}
        axes = ["X", "Y", *(axis for axis in place if axis not in "XY")]
        dims = b"".join(
            struct.pack("<4siifi", axis.encode(), place.get(axis, 0), sizes.get(axis, 1), 0.0, sizes.get(axis, 1))
            for axis in axes
        )
        kind = kinds[pixels.dtype.str[1:], samples]
        entry = struct.pack("<2siqiiBB4si", b"DV", kind, at, 0, compression, 0, 0, b"", len(axes)) + dims
        stored = pixels[..., ::-1] if samples == 3 else pixels
        data = stored.tobytes()
        if compression == 6:
            split = np.frombuffer(data, "u1").reshape(-1, 2).T.tobytes()
            data = b"\x03\x01\x01" + imagecodecs.zstd_encode(split)
        part = segment(b"ZISRAWSUBBLOCK", (struct.pack("<iiq", 0, 0, len(data)) + entry).ljust(256, b"\0") + data)
        parts.append(part)
        entries.append(entry)
        at += len(part)
    directory_at = at
    parts.append(segment(b"ZISRAWDIRECTORY", struct.pack("<i124x", len(entries)) + b"".join(entries)))
    metadata_at = at + len(parts[-1])
    text = xml.encode()
    parts.append(segment(b"ZISRAWMETADATA", struct.pack("<ii248x", len(text), 0) + text))
    head = struct.pack("<iiii16s16siqqiq", 1, 0, 0, 0, bytes(16), bytes(16), 0, directory_at, metadata_at, 0, 0)
    path.write_bytes(segment(b"ZISRAWFILE", head.ljust(512, b"\0")) + b"".join(parts))


XML = (
    "<ImageDocument><Metadata><Information><Image><Dimensions><T><Positions><Interval><Increment>2.5</Increment></Interval>"
    "</Positions></T></Dimensions></Image></Information><Scaling><Items>"
    '<Distance Id="X"><Value>1e-07</Value></Distance><Distance Id="Y"><Value>2e-07</Value></Distance>'
    '<Distance Id="Z"><Value>5e-07</Value></Distance></Items></Scaling></Metadata></ImageDocument>'
)


@pytest.mark.parametrize("compression", [0, 6])
def test_czi(tmp_path: Path, compression: int) -> None:
    path = tmp_path / "cells.czi"
    data = RNG.integers(0, 60000, (2, 3, 4, 20, 30)).astype("u2")  # t c z y x
    blocks = [({"C": c, "Z": z, "T": t}, data[t, c, z]) for t in range(2) for c in range(3) for z in range(4)]
    write_czi(path, blocks, compression, XML)
    if compression == 0:
        with czifile.CziFile(str(path)) as file:
            assert (file.axes, file.shape) == ("TZCYX0", (2, 4, 3, 20, 30, 1))
            np.testing.assert_array_equal(file.asarray()[..., 0].transpose(0, 2, 1, 3, 4), data)
    with open_stack(path) as stack:
        assert (stack.axes, stack.dtype, stack.colours, stack.notes) == ("tczyx", np.uint16, False, ())
        assert stack.spacing_um == pytest.approx((None, None, 0.5, 0.2, 0.1))
        assert stack.interval_s == 2.5
        np.testing.assert_array_equal(whole(stack), data.transpose(1, 0, 2, 3, 4))
        part = stack.read(Box((1, 2, 3, 4), (2, 4, 9, 11)))
        np.testing.assert_array_equal(part[:, 0], data[1, :, 2:4, 3:9, 4:11])


def test_czi_of_scenes_tiles_and_colours(tmp_path: Path) -> None:
    path = tmp_path / "slide.czi"
    first, second = RNG.integers(0, 255, (20, 50, 3)).astype("u1"), RNG.integers(0, 255, (12, 9, 3)).astype("u1")
    blocks = [
        ({"X": 100, "Y": 7, "S": 0, "M": 0}, first[:, :30]),
        ({"X": 130, "Y": 7, "S": 0, "M": 1}, first[:, 30:]),
        ({"X": 400, "Y": 90, "S": 1, "M": 0}, second),
    ]
    write_czi(path, blocks)
    with open_stack(path) as stack:
        assert (stack.axes, stack.name, stack.colours) == ("yxc", "slide [0]", True)
        assert stack.notes == ("image 1 of 2: scene 0; choose another with --series 0..1",)
        assert stack.spacing_um == (None, None, None)
        np.testing.assert_array_equal(whole(stack), first.transpose(2, 0, 1))
    with open_stack(path, series=1) as stack:
        assert stack.notes == ()
        np.testing.assert_array_equal(whole(stack), second.transpose(2, 0, 1))
    with pytest.raises(ValueError, match=r"has no series 2; it has 2: 0..1"):
        open_stack(path, series=2)


def test_a_czi_of_axes_that_no_network_has(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi", [({"H": phase}, np.zeros((9, 9), "u1")) for phase in range(5)])
    with pytest.raises(ValueError, match=r"has the axes H, Y, X; export it as OME-TIFF"):
        open_stack(tmp_path / "a.czi")


def test_a_czi_with_a_plane_missing(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi", [({"Z": z}, np.full((9, 9), 7, "u1")) for z in (0, 2)])
    with open_stack(tmp_path / "a.czi") as stack:
        assert stack.notes == ("1 of its planes were not recorded; they are read as 0",)
        assert whole(stack)[0, :, 0, 0].tolist() == [7, 0, 7]


# LIF


def write_lif(path: Path, images: dict[str, np.ndarray]) -> None:
    """A LIF of images (t, c, z, y, x) of 8 bit: the XML header, then one block of memory each."""
    elements, blocks = [], []
    for number, (name, data) in enumerate(images.items()):
        t, c, z, y, x = data.shape
        # Each is one step of the number of voxels, less one, long; in metres and seconds.
        dims = [
            (1, x, 1, (x - 1) * 1e-7),
            (2, y, x, (y - 1) * 2e-7),
            (3, z, x * y * c, (z - 1) * 5e-7),
            (4, t, x * y * c * z, (t - 1) * 2.5),
        ]
        described = "".join(
            f'<DimensionDescription DimID="{k}" NumberOfElements="{n}" Origin="0" Length="{length}" Unit="{"s" if k == 4 else "m"}"'
            f' BitInc="0" BytesInc="{step}"/>' for k, n, step, length in dims if n > 1
        )  # fmt: skip
        channels = "".join(
            f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="8" NameOfMeasuredQuantity="" Min="0" Max="255"'
            f' Unit="" LUTName="Gray" IsLUTInverted="0" BytesInc="{k * x * y}" BitInc="0"/>' for k in range(c)
        )  # fmt: skip
        elements.append(
            f'<Element Name="{name}" Visibility="1" UniqueID="id{number}"><Data><Image TextDescription=""><ImageDescription>'
            f"<Channels>{channels}</Channels><Dimensions>{described}</Dimensions></ImageDescription></Image></Data>"
            f'<Memory Size="{data.nbytes}" MemoryBlockID="MemBlock_{number}"/></Element>'
        )
        block = f"MemBlock_{number}".encode("utf-16-le")
        body = struct.pack("<BQBI", 0x2A, data.nbytes, 0x2A, len(block) // 2) + block
        blocks.append(struct.pack("<II", 0x70, len(body)) + body + data.transpose(0, 2, 1, 3, 4).tobytes())
    text = (
        '<LMSDataContainerHeader Version="2"><Element Name="project.lif" Visibility="1" UniqueID="root"><Data>'
        f'<Experiment Path="" IsSavedFlag="1"/></Data><Memory Size="0" MemoryBlockID="MemBlock_root"/><Children>{"".join(elements)}'
        "</Children></Element></LMSDataContainerHeader>"
    ).encode("utf-16-le")
    head = struct.pack("<BI", 0x2A, len(text) // 2) + text
    path.write_bytes(struct.pack("<II", 0x70, len(head)) + head + b"".join(blocks))


def test_lif(tmp_path: Path) -> None:
    path = tmp_path / "project.lif"
    first, second = (
        RNG.integers(0, 255, (2, 3, 4, 20, 30)).astype("u1"),
        RNG.integers(0, 255, (1, 1, 1, 9, 8)).astype("u1"),
    )
    write_lif(path, {"Series001": first, "Series002": second})
    with liffile.LifFile(path) as file:
        assert [image.dims for image in file.images] == [("T", "Z", "C", "Y", "X"), ("Y", "X")]
        np.testing.assert_array_equal(file.images[0].asarray().transpose(0, 2, 1, 3, 4), first)
    with open_stack(path) as stack:
        assert (stack.axes, stack.name, stack.colours, stack.dtype) == ("tzcyx", "project [0]", False, np.uint8)
        assert stack.spacing_um == pytest.approx((None, 0.5, None, 0.2, 0.1))
        assert stack.interval_s == pytest.approx(2.5)
        assert stack.notes == ("image 1 of 2: Series001; choose another with --series 0..1",)
        np.testing.assert_array_equal(whole(stack), first.transpose(1, 0, 2, 3, 4))
        np.testing.assert_array_equal(stack.read(Box((1, 1, 2, 3), (2, 3, 9, 9)))[:, 0], first[1, :, 1:3, 2:9, 3:9])
    with open_stack(path, series=1) as stack:
        assert (stack.axes, stack.notes) == ("yx", ())
        np.testing.assert_array_equal(whole(stack)[0], second[0, 0, 0])
    with pytest.raises(ValueError, match=r"has no series 2; it has 2: 0..1"):
        open_stack(path, series=2)


# ND2


class StubND2:
    """What the reader uses of `nd2.ND2File`: sizes, dtype, experiment, metadata, read_frame, close."""

    def __init__(self, data: np.ndarray, sizes: dict[str, int], calibrated: bool = True) -> None:
        self.sizes, self.dtype, self.closed, self.frames = sizes, data.dtype, False, []
        inner = sum(name in "CYXS" for name in sizes)
        self._frames = data.reshape(-1, *data.shape[data.ndim - inner :])
        loops = {
            "T": SimpleNamespace(type="TimeLoop", parameters=SimpleNamespace(periodMs=500.0)),
            "P": SimpleNamespace(
                type="XYPosLoop",
                parameters=SimpleNamespace(points=[SimpleNamespace(name=n) for n in ("A1", "A2", None)]),
            ),
            "Z": SimpleNamespace(type="ZStackLoop", parameters=None),
        }
        self.experiment = [loops[name] for name in sizes if name in loops]
        volume = SimpleNamespace(axesCalibrated=(calibrated,) * 3, axesCalibration=(0.1, 0.2, 0.5))
        self.metadata = SimpleNamespace(channels=[SimpleNamespace(volume=volume)])

    def read_frame(self, number: int) -> np.ndarray:
        assert not self.closed
        self.frames.append(number)
        return self._frames[number]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "cells.nd2"
    path.write_bytes(b"\xda\xce\xbe\x0a" + bytes(400))

    def use(data: np.ndarray, names: str, **options: object) -> tuple[Path, StubND2]:
        file = StubND2(data, dict(zip(names, data.shape, strict=True)), **options)
        module = types.ModuleType("nd2")
        module.ND2File = lambda _: file
        monkeypatch.setitem(sys.modules, "nd2", module)
        return path, file

    return use


def test_the_stub_has_the_attributes_of_the_package() -> None:
    nd2 = pytest.importorskip("nd2")
    assert all(
        hasattr(nd2.ND2File, name) for name in ("sizes", "dtype", "experiment", "metadata", "read_frame", "close")
    )
    from nd2.structures import TimeLoopParams, Volume

    assert {"axesCalibrated", "axesCalibration"} <= set(Volume.__annotations__)
    assert "periodMs" in TimeLoopParams.__annotations__


def test_nd2(stub) -> None:
    data = RNG.integers(0, 60000, (2, 3, 4, 2, 20, 30)).astype("u2")
    path, file = stub(data, "TPZCYX")
    with open_stack(path) as stack:
        assert (stack.axes, stack.name, stack.colours) == ("tzcyx", "cells [0]", False)
        assert stack.spacing_um == (None, 0.5, None, 0.2, 0.1)
        assert stack.interval_s == 0.5
        assert stack.notes == ("image 1 of 3: A1; choose another with --series 0..2",)
        assert file.frames == []
        np.testing.assert_array_equal(stack.read(Box((1, 2, 3, 4), (2, 3, 9, 9)))[:, 0, 0], data[1, 0, 2, :, 3:9, 4:9])
        assert file.frames == [14]  # one frame of 24
    assert file.closed
    path, file = stub(data, "TPZCYX")
    with open_stack(path, series=2) as stack:
        np.testing.assert_array_equal(whole(stack), data[:, 2].transpose(2, 0, 1, 3, 4))


def test_nd2_of_one_coloured_frame_without_calibration(stub) -> None:
    data = RNG.integers(0, 255, (20, 30, 3)).astype("u1")
    path, _ = stub(data, "YXS", calibrated=False)
    with open_stack(path) as stack:
        assert (stack.axes, stack.name, stack.colours, stack.spacing_um) == ("yxc", "cells", True, (None,) * 3)
        np.testing.assert_array_equal(whole(stack), data.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("name", "head"), [("a.nd2", b"\xda\xce\xbe\x0a"), ("a.lif", b"\x70\0\0\0"), ("a.czi", b"ZISRAWFILE")]
)
def test_nonsense_is_refused_in_one_line(tmp_path: Path, name: str, head: bytes) -> None:
    pytest.importorskip("nd2")
    for rest in (b"", bytes(400), b"nonsense" * 90):
        (tmp_path / name).write_bytes(head + rest)
        with pytest.raises(ValueError, match=rf"{name} (is damaged|is no image|holds no image)") as caught:
            open_stack(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["lif", "czi"])
def test_truncated_files_are_refused_in_one_line(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    data = RNG.integers(0, 255, (1, 2, 3, 40, 50)).astype("u1")
    if ending == "lif":
        write_lif(path, {"one": data})
    else:
        write_czi(path, [({"C": c, "Z": z}, data[0, c, z]) for c in range(2) for z in range(3)], xml=XML)
    content = path.read_bytes()
    for kept in np.linspace(12, len(content) - 70, 25).astype(int):
        path.write_bytes(content[:kept])
        with pytest.raises(ValueError, match=rf"a.{ending}") as caught, open_stack(path) as stack:
            whole(stack)
        assert "\n" not in str(caught.value)
