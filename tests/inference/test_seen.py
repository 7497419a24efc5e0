"""A run goes on only with the image that its tiles were predicted from: one voxel of another value is noticed."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from napari_unetpp._voxel_hash import hash_voxels
from napari_unetpp.box import Box
from napari_unetpp.inference import runs
from napari_unetpp.inference.folders import GoneError
from napari_unetpp.inference.planes import plan_planes
from napari_unetpp.inference.planes_run import predict_planes
from napari_unetpp.inference.predict import open_run, predict_stack
from napari_unetpp.inference.seen import ChangedImageError
from napari_unetpp.inference.store import create_store, open_store
from napari_unetpp.inference.tiles import Overlap, Seamless, plan_tiles
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.stacks import open_stack

FIXED = Intensity(kind="fixed", fixed_offset=(0.0,), fixed_gain=(0.01,))  # so that the scaling gives nothing away
CASES = [
    ("yx", (40, 50), 2, Seamless(inner=16, halo=8)),
    ("zyx", (3, 40, 24), 2, Overlap(16, 8)),
    ("tzyx", (2, 2, 24, 24), 2, Seamless(inner=16, halo=8)),
    ("zyx", (12, 24, 24), 3, Seamless(inner=16, halo=8)),
    ("zyx", (20, 20, 20), 3, Overlap(16, 8)),
]


@pytest.fixture(autouse=True)
def _no_sample(monkeypatch):
    """Keeps back the quick look at some voxels, which refuses most other images at once."""
    monkeypatch.setattr(runs, "stack_hash", lambda stack: "the same")


def run(path, stack, model, tiling, **options):
    tiles = plan_tiles(stack.shape_predicted, model.spec, tiling)
    return predict_stack(stack, model, tiles, open_run(path, stack, model, tiles), batch=2, **options)


def changed(stack, place):
    data = np.array(stack.data)
    data[place] ^= 1
    return replace(stack, data=data)


def places(shape, rng, count):
    """The corners, and places anywhere."""
    last = tuple(n - 1 for n in shape)
    return [(0,) * len(shape), last, *(tuple(map(int, rng.integers(0, shape))) for _ in range(count))]


@pytest.mark.parametrize(("axes", "shape", "ndim", "tiling"), CASES, ids=str)
def test_one_voxel_anywhere_is_noticed(make_model, tmp_path, rng, axes, shape, ndim, tiling):
    model = replace(make_model(ndim=ndim), intensity=FIXED)
    stack = open_stack(rng.integers(0, 200, shape, np.uint8), axes=axes)
    list(run(tmp_path / "a", stack, model, tiling))
    for place in places(shape, rng, 6):
        with pytest.raises(ChangedImageError, match=r"array has changed since .* of the \d+ tiles .*--overwrite"):
            list(run(tmp_path / "a", changed(stack, place), model, tiling))
    assert list(run(tmp_path / "a", stack, model, tiling)) == []


def test_a_part_counts_with_what_it_read_and_no_more(make_model, tmp_path, rng):
    model = replace(make_model(), intensity=FIXED)
    stack = open_stack(rng.integers(0, 200, (64, 24), np.uint8), axes="yx")
    tiling = Seamless(inner=16, halo=8)
    events = run(tmp_path / "a", stack, model, tiling, threads=1)
    next(events)
    events.close()
    safe = open_store(tmp_path / "a").done().nonzero()[0].max() + 1  # rows of tiles
    inside, outside = (16 * safe + 7, 0), (16 * safe + 8, 0)
    with pytest.raises(ChangedImageError):
        next(run(tmp_path / "a", changed(stack, inside), model, tiling))
    assert safe == 4 or next(run(tmp_path / "a", changed(stack, outside), model, tiling))


def test_along_three_planes(make_model, tmp_path, rng):
    model = replace(make_model(), intensity=FIXED)
    stack = open_stack(rng.integers(0, 200, (18, 20, 20), np.uint8), axes="zyx")
    tiling = Seamless(inner=16, halo=8)

    def start(stack):
        from napari_unetpp.inference.backends import prepare

        backend = prepare(model)
        planes = plan_planes(stack, backend, tiling)
        store = open_run(tmp_path / "a", stack, model, planes.tiles, planes=planes.describe())
        return predict_planes(stack, model, planes, store, backend=backend)

    events = start(stack)
    for _ in range(3):  # parts across y are kept, no tile is final
        next(events)
    events.close()
    assert open_store(tmp_path / "a").done_count == 0
    other = changed(stack, (17, 3, 3))
    list(start(other))
    straight = tmp_path / "a"
    whole = [open_store(straight).read(d, open_whole(other)) for d in (1, 2)]
    shutil.rmtree(straight)
    list(start(other))
    assert all(np.array_equal(open_store(straight).read(d, open_whole(other)), whole[d - 1]) for d in (1, 2))
    for place in places(stack.shape, rng, 3):
        with pytest.raises(ChangedImageError):
            list(start(changed(other, place)))


def open_whole(stack):
    return Box.of(stack.shape_predicted)


def test_a_store_without_hashes_is_not_gone_on_with(make_model, tmp_path, rng):
    model = make_model()
    stack = open_stack(rng.integers(0, 200, (40, 24), np.uint8), axes="yx")
    tiling = Seamless(inner=16, halo=8)
    list(run(tmp_path / "a", stack, model, tiling))
    shutil.rmtree(tmp_path / "a" / "done" / "seen")  # as an earlier version wrote it
    with pytest.raises(ChangedImageError, match="keeps no hash of the image"):
        list(run(tmp_path / "a", stack, model, tiling))


def test_a_hash_sees_values_shape_and_type_and_not_how_they_lie():
    values = np.arange(24, dtype=np.uint16).reshape(4, 6)
    assert hash_voxels(values) == hash_voxels(values.astype(">u2")) == hash_voxels(np.asfortranarray(values))
    others = [values.astype(np.int16), values.reshape(6, 4), values[::-1], values[:, :5]]
    assert len({hash_voxels(values), *map(hash_voxels, others)}) == 5


def test_every_flipped_bit_is_noticed_and_predicted_again(make_model, tmp_path, rng):
    model = make_model()
    stack = open_stack(rng.integers(0, 200, (40, 48), np.uint8), axes="yx")
    tiling = Seamless(inner=16, halo=8)
    list(run(tmp_path / "a", stack, model, tiling))
    files = sorted(path for path in (tmp_path / "a").rglob("L*/0/c/**/*") if path.is_file())
    whole = {path: path.read_bytes() for path in files}
    assert len(files) == 18
    for _ in range(30):
        path = files[rng.integers(len(files))]
        damaged = bytearray(whole[path])
        damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        store = open_store(tmp_path / "a")
        level = int(path.relative_to(tmp_path / "a").parts[0][1:])
        with pytest.raises(ValueError, match=rf"are damaged \(L{level} at"):
            store.read(level, open_whole(stack))
        assert len(list(run(tmp_path / "a", stack, model, tiling))) == 1
        assert path.read_bytes() == whole[path]


def test_one_run_at_a_time_writes(make_model, tmp_path, rng):
    model = make_model()
    stack = open_stack(rng.integers(0, 200, (80, 24), np.uint8), axes="yx")
    tiling = Seamless(inner=16, halo=8)
    first = run(tmp_path / "a", stack, model, tiling)
    next(first)
    with pytest.raises(ValueError, match="is being written by another run"):
        run(tmp_path / "a", stack, model, tiling)
    with pytest.raises(ValueError, match="is being written by another run"):
        create_store(tmp_path / "a", (4, 4), (1,), axes="yx", overwrite=True)
    first.close()
    list(run(tmp_path / "a", stack, model, tiling))


@pytest.mark.parametrize("anew", [False, True], ids=["deleted", "replaced"])
def test_at_no_moment_a_store_that_went_is_called_whole(make_model, tmp_path, rng, monkeypatch, anew):
    """The folder goes before each of the calls that look at it, or write to it, one after the other."""
    from napari_unetpp.inference.store import PredictionStore

    model = make_model()
    stack = open_stack(rng.integers(0, 200, (40, 24), np.uint8), axes="yx")
    tiling = Seamless(inner=16, halo=8)
    path = tmp_path / "a"
    names = ("write", "mark_done", "mark_seen", "check", "check_whole")
    originals = {name: getattr(PredictionStore, name) for name in names}
    moment = count = 0

    def going(name):
        def call(store, *arguments):
            nonlocal count
            count += 1
            if count == moment:
                shutil.rmtree(path)
                if anew:
                    create_store(path, (4, 4), (1,), axes="yx")
            return originals[name](store, *arguments)

        return call

    for name in names:
        monkeypatch.setattr(PredictionStore, name, going(name))
    for moment in range(1, 1000):
        count = 0
        events = run(path, stack, model, tiling)
        if count >= moment:  # it went before the run began
            shutil.rmtree(path, ignore_errors=True)
            continue
        try:
            list(events)
        except GoneError as error:
            assert "moved, deleted or replaced" in str(error)  # noqa: PT017
            assert path.exists() == anew
        else:
            assert count < moment
            break
        shutil.rmtree(path, ignore_errors=True)
    assert moment > 30


def test_a_chunk_that_is_missing_is_predicted_again(make_model, tmp_path, rng):
    """Chunks of zeros are there too, so a missing one is no chunk of zeros."""
    model = make_model()
    stack = open_stack(rng.integers(0, 200, (40, 48), np.uint8), axes="yx")
    tiling = Seamless(inner=16, halo=8)
    list(run(tmp_path / "a", stack, model, tiling))
    files = sorted(path for path in (tmp_path / "a").rglob("L*/0/c/**/*") if path.is_file())
    for path in files[::5]:
        whole = path.read_bytes()
        path.unlink()
        assert len(list(run(tmp_path / "a", stack, model, tiling))) == 1
        assert path.read_bytes() == whole


def test_a_chunk_that_goes_before_the_end_is_noticed_at_the_end(make_model, tmp_path, rng):
    model = make_model()
    stack = open_stack(rng.integers(0, 200, (80, 48), np.uint8), axes="yx")
    events = run(tmp_path / "a", stack, model, Seamless(inner=16, halo=8))
    next(events)
    next(path for path in (tmp_path / "a").rglob("L1/0/c/**/*") if path.is_file()).unlink()
    with pytest.raises(ValueError, match=r"are damaged \(L1/0/c/.* is missing\)"):
        list(events)


def test_kept_planes_that_were_damaged_are_predicted_again(make_model, tmp_path, rng):
    from napari_unetpp.inference.backends import prepare

    model = replace(make_model(), intensity=FIXED)
    stack = open_stack(rng.integers(0, 200, (18, 20, 20), np.uint8), axes="zyx")
    backend = prepare(model)
    planes = plan_planes(stack, backend, Seamless(inner=16, halo=8))

    def start(path):
        store = open_run(path, stack, model, planes.tiles, planes=planes.describe())
        return predict_planes(stack, model, planes, store, backend=backend)

    list(start(tmp_path / "straight"))
    events = start(tmp_path / "a")
    for _ in range(3):
        next(events)
    events.close()
    (kept,) = (tmp_path / "a").rglob("y.L2")
    kept.write_bytes(bytes(byte ^ 0x80 for byte in kept.read_bytes()))
    list(start(tmp_path / "a"))
    for level in (1, 2):
        wanted = open_store(tmp_path / "straight").read(level, open_whole(stack))
        assert np.array_equal(open_store(tmp_path / "a").read(level, open_whole(stack)), wanted)


def test_what_is_refused_keeps_no_right_to_write(make_model, tmp_path, rng):
    model = make_model()
    stack = open_stack(rng.integers(0, 200, (40, 24), np.uint8), axes="yx")
    tiles = plan_tiles(stack.shape_predicted, model.spec, Seamless(inner=16, halo=8))
    store = open_run(tmp_path / "a", stack, model, tiles)
    other = plan_tiles(stack.shape_predicted, model.spec, Overlap(16, 8))
    with pytest.raises(ValueError, match="another tiling") as kept:
        predict_stack(stack, model, other, store)
    assert kept.value is not None  # with all that its traceback holds
    list(predict_stack(stack, model, tiles, store))
