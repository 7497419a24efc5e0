"""The store is an OME-Zarr that others read, appears whole, and tells what is broken."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

from napari_unetpp.box import Box
from napari_unetpp.inference.store import StoreError, create_store, open_store
from napari_unetpp.inference.tiles import Seamless, Tile, plan_tiles
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.stacks import open_stack

SPEC = NetworkSpec(widths=(4, 8, 16), heads=(1, 2))
SHAPE = (2, 3, 20, 24)


def make(path, **options):
    settings = {"levels": (1, 2), "axes": "tzyx", "classes": ("background", "cell", "wall")}
    return create_store(path, options.pop("shape", SHAPE), **{**settings, **options})


def planned(path, **options):
    tiles = plan_tiles(SHAPE, SPEC, Seamless(16, 4))
    return make(path, chunks=tiles.chunks, grid=tiles.grid, **options), list(tiles)


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_what_is_written_is_read(tmp_path, rng):
    store, tiles = planned(tmp_path / "a")
    truth = {level: rng.integers(0, 256, (3, *SHAPE)).astype(np.uint8) for level in (1, 2)}
    for tile in tiles:
        store.write(tile, {d: q[(slice(None), *tile.inner.slices)] for d, q in truth.items()})
    again = open_store(tmp_path / "a")
    for level, q in truth.items():
        assert (again.read(level, Box.of(SHAPE)) == q).all()
        box = Box((1, 0, 3, 9), (2, 2, 18, 20))
        assert (again.read(level, box) == q[(slice(None), *box.slices)]).all()
        assert again.probability(level).shape == (2, 3, 3, 20, 24)  # t c z y x
        assert (np.moveaxis(again.probability(level)[:], 1, 0) == q).all()
        assert again.probability(level).chunks == (1, 1, 1, 16, 16)


def test_marks_are_kept_per_tile(tmp_path):
    store, tiles = planned(tmp_path / "a")
    assert (store.grid, store.done_count) == ((2, 3, 2, 2), 0)
    for count, tile in enumerate(reversed(tiles), start=1):
        assert not store.is_done(tile)
        store.mark_done(tile)
        assert store.is_done(tile)
        assert open_store(tmp_path / "a").is_done(tile)
        assert open_store(tmp_path / "a").done_count == store.done_count == count
    assert store.complete
    assert store.done(2).all()


def test_a_done_map_of_many_tiles_is_rewritten_in_small_parts(tmp_path):
    store = make(tmp_path / "a", grid=(50, 40, 30, 20), chunks=(1, 1, 4, 4))
    stored = zarr.open_group(tmp_path / "a", mode="r")["done/L1"]
    assert np.prod(stored.chunks) <= 4096
    places = [(0, 0, 0, 0), (49, 39, 29, 19), (7, 12, 29, 3)]
    for place in places:
        store.mark_done(Tile(place, Box.of(SHAPE), Box.of(SHAPE)))
    assert {tuple(map(int, p)) for p in np.argwhere(open_store(tmp_path / "a").done())} == {*places}


@pytest.mark.parametrize(
    ("axes", "spacing", "scale", "units"),
    [
        ("zyx", (0.5, 0.1, 0.2), [1, 0.5, 0.1, 0.2], [None, *["micrometer"] * 3]),
        ("tyx", (None, 0.1, 0.2), [1, 1, 0.1, 0.2], [None, None, *["micrometer"] * 2]),
        ("yx", (None, None), [1, 1, 1], [None] * 3),
        ("tzyx", (None, None, 3.0, 3.0), [1, 1, 1, 3, 3], [None] * 3 + ["micrometer"] * 2),
    ],
)
def test_ome_zarr_opens_every_level_as_an_image(tmp_path, rng, axes, spacing, scale, units):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    shape = (2, 3, 20, 24)[-len(axes) :]
    stack = open_stack(np.ones(shape, np.uint8), axes=axes, spacing_um=spacing)
    store = create_store(tmp_path / "a.ome.zarr", shape, (1, 2), like=stack, classes=["bg", "cell"])
    whole = Tile((0,), Box.of(shape), Box.of(shape))
    truth = {level: rng.integers(1, 256, (2, *shape)).astype(np.uint8) for level in (1, 2)}
    store.write(whole, truth)
    # The root shows the deepest level; each level can be opened by itself.
    for name, level in (("", 2), ("L1", 1), ("L2", 2)):
        nodes = list(Reader(parse_url(str(store.path / name)))())
        assert len(nodes) == 1
        (data,), metadata = nodes[0].data, nodes[0].metadata
        expected = np.moveaxis(truth[level], 0, axes.find("t") + 1)
        assert data.dtype == np.uint8
        assert (np.asarray(data) == expected).all()
        letters = axes.replace("t", "tc") if "t" in axes else "c" + axes
        assert "".join(axis["name"] for axis in metadata["axes"]) == letters
        types = {"t": "time", "c": "channel"}
        assert [axis["type"] for axis in metadata["axes"]] == [types.get(letter, "space") for letter in letters]
        assert [axis.get("unit") for axis in metadata["axes"]] == units
        assert metadata["coordinateTransformations"] == [[{"type": "scale", "scale": scale}]]
        if name:
            assert metadata["channel_names"] == ["bg", "cell"]
            assert metadata["contrast_limits"] == [[0, 255], [0, 255]]
        dimensions = zarr.open_array(store.path / f"L{level}/0", mode="r").metadata.dimension_names
        assert "".join(dimensions) == letters


def test_the_metadata_are_valid_ngff(tmp_path):
    models = pytest.importorskip("ome_zarr_models.v05")
    store, _ = planned(tmp_path / "a")
    for name in ("", "L1", "L2"):
        image = models.Image.from_zarr(zarr.open_group(store.path / name, mode="r"))
        assert image.ome_attributes.version == "0.5"


def test_our_own_reader_opens_it_as_a_stack(tmp_path):
    stack = open_stack(np.ones((3, 20, 24), np.uint8), axes="zyx", spacing_um=(0.5, 0.1, 0.2))
    store = create_store(tmp_path / "a", (3, 20, 24), (1, 2), like=stack)
    with open_stack(store.path / "L1") as seen:
        assert (seen.axes_predicted, seen.shape_predicted) == ("zyx", (3, 20, 24))
        assert seen.spacing_predicted_um == (0.5, 0.1, 0.2)


def test_the_record_is_kept_and_grows(tmp_path):
    store = make(tmp_path / "a", record={"model": "tiny", "scaling": None})
    store.update_record({"scaling": {"offset": [0.1 + 0.2]}})
    expected = {"model": "tiny", "scaling": {"offset": [0.1 + 0.2]}}  # to the last bit
    assert store.record == open_store(tmp_path / "a").record == expected
    assert open_store(tmp_path / "a").matches({"shape": [1]}) == ["shape"]


def test_an_existing_store_is_refused_unless_overwritten(tmp_path):
    store, tiles = planned(tmp_path / "a")
    store.mark_done(tiles[0])
    with pytest.raises(FileExistsError, match="holds predictions already; go on"):
        make(tmp_path / "a")
    assert open_store(tmp_path / "a").done_count == 1
    planned(tmp_path / "a", overwrite=True)
    assert open_store(tmp_path / "a").done_count == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_is_not_ours_is_never_removed(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_text("purr")
    (tmp_path / "notes.txt").write_text("hm")
    other = zarr.open_group(tmp_path / "other.zarr", mode="w")
    other.attrs["ome"] = {"version": "0.5"}
    make(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    before = tree(tmp_path)
    for name in ("photos", "notes.txt", "other.zarr", "link"):
        with pytest.raises(FileExistsError, match="not a prediction store, so it is not touched"):
            make(tmp_path / name, overwrite=True)
    assert tree(tmp_path) == before
    for name in ("photos", "notes.txt", "other.zarr"):
        with pytest.raises(StoreError, match="is not a prediction store of napari-unetpp"):
            open_store(tmp_path / name, "r+")
    assert open_store(tmp_path / "link").levels == (1, 2)


def test_missing_places_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no predictions at .*nowhere"):
        open_store(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere does not exist; make it"):
        make(tmp_path / "nowhere" / "a")
    with pytest.raises(ValueError, match="do not name those of shape"):
        create_store(tmp_path / "a", (4, 4), (1,))


@pytest.mark.parametrize("when", ["group", "array", "rename"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, when):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    if when == "rename":
        monkeypatch.setattr(Path, "rename", full)
    else:
        monkeypatch.setattr(zarr.Group, f"create_{when}", full)
    with pytest.raises(OSError, match=r"cannot write predictions: No space left.*/a'") as caught:
        make(tmp_path / "a")
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_behind_a_failure(tmp_path, monkeypatch):
    """Zarr writes parts side by side: one that comes late must not make the folder again that another's failure removed."""
    removed, late = Event(), Event()
    put, rmtree = LocalStore.set_if_not_exists, shutil.rmtree

    async def full(store, key, value):
        raise OSError(errno.ENOSPC, "No space left on device")

    async def slow(store, key, value):
        await asyncio.to_thread(removed.wait, 0.3)
        await put(store, key, value)
        late.set()

    def removing(folder, **options):
        rmtree(folder, **options)
        removed.set()

    create = zarr.Group.create_array

    def create_array(group, *arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, "set", full)
            patch.setattr(LocalStore, "set_if_not_exists", slow)
            return create(group, *arguments, **options)

    monkeypatch.setattr(zarr.Group, "create_array", create_array)
    monkeypatch.setattr(shutil, "rmtree", removing)
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path / "a")
    assert late.wait(10)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_while_overwriting_keeps_the_old_store(tmp_path, monkeypatch):
    store, tiles = planned(tmp_path / "a")
    store.mark_done(tiles[0])
    rename = Path.rename

    def full(path, target):
        if path.suffix == ".new":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path / "a", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert open_store(tmp_path / "a").done_count == 1


def test_a_tile_that_does_not_fit_is_not_done(tmp_path, rng):
    """The operating system's own refusal: files of at most 100 bytes."""
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    store, tiles = planned(tmp_path / "a", classes=["cell"])
    noise = rng.integers(0, 256, (1, *tiles[0].inner.shape)).astype(np.uint8)
    store.write(tiles[0], {1: noise // 200})
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, old[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write predictions: .*/a'"):
            store.write(tiles[0], {1: noise})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    again = open_store(tmp_path / "a")
    assert again.done_count == 0
    assert (again.read(1, tiles[0].inner) == noise // 200).all()  # never half a chunk


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind here")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PermissionError, match="cannot write predictions"):
            make(tmp_path / "a")
    finally:
        tmp_path.chmod(0o755)


def edit_root(path, change):
    root = json.loads((path / "zarr.json").read_text())
    change(root["attributes"]["napari-unetpp"])
    (path / "zarr.json").write_text(json.dumps(root))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: shutil.rmtree(p / "L1"), "are damaged .*L1"),
        (lambda p: (p / "L2/0/zarr.json").write_text('{"zarr'), "are damaged"),
        (lambda p: (p / "L2/0/zarr.json").unlink(), "are damaged"),
        (lambda p: edit_root(p, lambda a: a.pop("axes")), "are damaged .*'axes' is missing"),
        (lambda p: edit_root(p, lambda a: a.update(shape=7)), "are damaged"),
        (lambda p: edit_root(p, lambda a: a.update(shape=[2, 3, 20, 25])), "not uint8 of shape"),
        (lambda p: edit_root(p, lambda a: a.update(format=2)), "format 2 where .* update"),
        (lambda p: (p / "zarr.json").write_text('{"attributes": {'), "is not a prediction store"),
        (lambda p: (p / "zarr.json").unlink(), "is not a prediction store"),
    ],
)
def test_a_damaged_store_is_told_in_one_line(tmp_path, damage, message):
    planned(tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(StoreError, match=message) as caught:
        open_store(tmp_path / "a", "r+")
    assert "\n" not in str(caught.value)


def test_a_damaged_chunk_is_told_in_one_line(tmp_path, rng):
    store, tiles = planned(tmp_path / "a")
    noise = rng.integers(0, 256, (3, *tiles[0].inner.shape)).astype(np.uint8)
    store.write(tiles[0], {1: noise})
    chunk = next(p for p in (store.path / "L1/0/c").rglob("*") if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:50])
    with pytest.raises(StoreError, match=r"are damaged .L1 at") as caught:
        open_store(tmp_path / "a").read(1, tiles[0].inner)
    assert "\n" not in str(caught.value)


def test_done_maps_of_an_interrupted_beginning_are_made_again(tmp_path):
    planned(tmp_path / "a")
    shutil.rmtree(tmp_path / "a/done/L2")
    store = open_store(tmp_path / "a", "r+")
    assert store.grid is None
    assert not store.is_done(Tile((0, 0, 0, 0), Box.of(SHAPE), Box.of(SHAPE)))
    store.set_grid((2, 3, 2, 2))
    assert (store.grid, store.done_count) == ((2, 3, 2, 2), 0)
    with pytest.raises(StoreError, match=r"planned with .* tiles per axis"):
        store.set_grid((1, 1, 1, 1))


def test_a_level_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"level 4 is not in .*; it holds L1, L2"):
        make(tmp_path / "a").probability(4)
