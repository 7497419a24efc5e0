"""A 2D model along z, y and x: the mean of three predictions of whole planes, however it is cut, stopped or continued."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_unetpp.box import Box
from napari_unetpp.inference import planes as planning
from napari_unetpp.inference.backends import prepare
from napari_unetpp.inference.events import PlaneDone, TileDone
from napari_unetpp.inference.inputs import measure_stack
from napari_unetpp.inference.planes import plan_planes, why_not_planes, why_unequal
from napari_unetpp.inference.planes_kept import mean_of_three, to_counts16
from napari_unetpp.inference.planes_run import count_parts, predict_planes
from napari_unetpp.inference.predict import open_run, predict_region, predict_stack
from napari_unetpp.inference.spans import BAND_ROWS
from napari_unetpp.inference.store import StoreError, open_store
from napari_unetpp.inference.tiles import Overlap, Seamless, plan_tiles
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.stacks import open_stack

EXACT = Seamless(inner=16)
TILINGS = [Seamless(inner=16, halo=8), Overlap(16, 8, "mean"), Overlap(16, 8, "gaussian")]
# Planes (z, y, x) -> (slice, row, column), and back.
ALONG = {"z": ((0, 1, 2), (0, 1, 2)), "y": ((1, 0, 2), (1, 0, 2)), "x": ((2, 0, 1), (1, 2, 0))}


@pytest.fixture
def thin_slabs(monkeypatch):
    """Slabs of about 16 slices, so that a small stack has several."""
    monkeypatch.setattr(planning, "_SLAB_LEAST", 16)
    monkeypatch.setattr(planning, "_SLAB_HALOS", 0)
    monkeypatch.setattr(planning, "_SLAB_BANDS", 1)
    monkeypatch.setitem(BAND_ROWS, 2, 16)


def start(path, stack, model, tiling, *, region=None, visible=None, level=None, **options):
    backend = prepare(model)
    planes = plan_planes(stack, backend, tiling, level=level, visible=visible)
    store = open_run(path, stack, model, planes.tiles, planes=planes.describe(), **options)
    return predict_planes(stack, model, planes, store, region=region, backend=backend)


def contents(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def voxels(path: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(path).items() if not name.endswith("zarr.json")}


def of_whole_planes(volume, model, scaling, level=None):
    """Mean (level, class, z, y, x) of one pass over each whole plane (channel first), along each axis in turn."""
    total = 0.0
    for order, back in ALONG.values():
        seen = volume.transpose(0, *(1 + k for k in order))
        slices = [predict_region(seen[:, k], model, level, scaling=scaling) for k in range(seen.shape[1])]
        along = np.stack([np.stack(heads) for heads in slices], axis=2).astype(np.float64)
        total = total + along.transpose(0, 1, *(2 + k for k in back))
    return total / 3


@pytest.mark.parametrize("spec", [{}, {"seed": 1, "classes": 3, "in_channels": 2}], ids=str)
def test_it_is_the_mean_of_three_predictions_of_whole_planes(make_model, texture, tmp_path, thin_slabs, spec):
    model = make_model(**spec)
    channels = spec.get("in_channels", 1)
    volume = np.stack([texture(21, 18, 13) for _ in range(channels)])
    stack = open_stack(volume.transpose(1, 0, 2, 3), axes="zcyx") if channels > 1 else open_stack(volume[0], axes="zyx")
    list(start(tmp_path / "store", stack, model, EXACT))
    store = open_store(tmp_path / "store")
    assert store.complete
    expected = 255 * of_whole_planes(volume, model, measure_stack(stack, model))
    for d, mean in zip((1, 2), expected, strict=True):
        stored = store.read(d, Box.of(store.shape)).astype(np.float64)
        # rounded once: half a count, and what float32 and 16 bits leave
        assert np.abs(stored - mean).max() <= 0.5 + 255 / 131070 + 1e-3
        assert np.ptp(mean) > 100
    alone = plan_tiles(stack.shape_predicted, model.spec, EXACT)
    list(predict_stack(stack, model, alone, open_run(tmp_path / "z", stack, model, alone)))
    one = open_store(tmp_path / "z").read(2, Box.of(store.shape))
    assert np.abs(one - expected[1]).mean() > 5  # the other planes say something else


def test_kept_probabilities_are_averaged_and_rounded_once():
    rng = np.random.default_rng(0)
    three = rng.random((3, 10_000), np.float32)
    counts = [to_counts16(p) for p in three]
    exact = 255 * three.astype(np.float64).mean(axis=0)
    mean = mean_of_three(*counts)
    assert np.abs(mean - exact).max() <= 0.5 + 255 / 131070
    assert (mean != np.rint(exact)).mean() < 0.005  # as three uint8 it would be one in nine
    assert mean_of_three(*(to_counts16(np.float32([0.5])) for _ in range(3))) == 128  # is a label, as p >= 0.5


@pytest.mark.parametrize("tiling", [EXACT, *TILINGS[1:]], ids=str)
def test_a_turned_stack_gives_the_turned_prediction(make_model, texture, tmp_path, thin_slabs, tiling):
    """A network that does not tell rows from columns sees the same planes, whichever axis is called z."""
    model = make_model(intensity=Intensity(kind="fixed", fixed_gain=(1 / 255,)))  # others look at planes across z
    for parameter in model.network.parameters():
        if parameter.ndim == 4:
            parameter.data = (parameter.data + parameter.data.transpose(2, 3)) / 2
    volume = texture(17, 20, 18)
    order = (2, 1, 0) if isinstance(tiling, Overlap) else (1, 2, 0)
    for name, data in (("a", volume), ("b", volume.transpose(order))):
        list(start(tmp_path / name, open_stack(data, axes="zyx"), model, tiling))
    a, b = (open_store(tmp_path / name) for name in "ab")
    for d in (1, 2):
        first, second = (s.read(d, Box.of(s.shape))[0].astype(int) for s in (a, b))
        assert np.abs(first.transpose(order) - second).max() <= 1
        assert np.ptp(first) > 100


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_resumed_equals_uninterrupted_byte_for_byte(make_model, texture, tmp_path, thin_slabs, tiling):
    model = make_model()
    stack = open_stack(texture(20, 18, 12), axes="zyx")
    events = list(start(tmp_path / "straight", stack, model, tiling))
    total = len(events)
    assert [e.done for e in events] == list(range(1, total + 1))
    assert {e.total for e in events} == {total}
    assert events[-1].voxels == 3 * np.prod(stack.shape)
    assert len({e.axis for e in events if isinstance(e, PlaneDone)}) == 2
    expected = voxels(tmp_path / "straight")
    assert not any(".planes" in name for name in expected)
    for k in (3, total - 2):
        path = tmp_path / f"killed after {k}"
        run = start(path, stack, model, tiling)
        for _ in range(k):
            next(run)
        run.close()
        planes = plan_planes(stack, prepare(model), tiling)
        safe, parts = count_parts(planes, open_store(path))
        assert parts == total
        assert safe >= k
        # The second run sees another part of the stack on the screen.
        rest = list(start(path, stack, model, tiling, visible=Box((17, 0, 0), (18, 18, 12))))
        assert [e.done for e in rest] == list(range(safe + 1, total + 1))
        assert voxels(path) == expected


def test_killed_between_any_two_writes(make_model, texture, tmp_path, thin_slabs, monkeypatch):
    from napari_unetpp.inference.planes_kept import KeptSide

    class PowerCutError(BaseException): ...

    model, stack = make_model(), open_stack(texture(18, 12, 18), axes="zyx")
    list(start(tmp_path / "straight", stack, model, TILINGS[0]))
    for part in ("write", "mark_done"):
        whole, left = getattr(KeptSide, part), [7]

        def broken(side, *arguments, whole=whole, left=left):
            left[0] -= 1
            if not left[0]:
                raise PowerCutError
            whole(side, *arguments)

        path = tmp_path / part
        with monkeypatch.context() as patch:
            patch.setattr(KeptSide, part, broken)
            with pytest.raises(PowerCutError):
                list(start(path, stack, model, TILINGS[0]))
        kept = next((path / ".planes").iterdir())
        (kept / "x.L1").write_bytes(b"torn") if (kept / "x.L1").exists() else None
        list(start(path, stack, model, TILINGS[0]))
        assert voxels(path) == voxels(tmp_path / "straight")


def test_slices_become_final_slab_by_slab_and_what_is_visible_first(make_model, texture, tmp_path, thin_slabs):
    model, stack = make_model(), open_stack(texture(36, 8, 12), axes="zyx")
    visible = Box((34, 0, 0), (35, 8, 12))
    run = start(tmp_path / "store", stack, model, TILINGS[0], visible=visible)
    store, seen = tmp_path / "store", []
    for event in run:
        if isinstance(event, TileDone):
            assert open_store(store).is_done(event.tile)
            seen.append(event.tile.inner.start[0] // 16)
            kept = list((store / ".planes").iterdir())
            assert len(kept) <= 1  # of one slab at a time
    assert list(dict.fromkeys(seen)) == [2, 1, 0]
    assert not (store / ".planes").exists()


def test_a_region_is_part_of_the_whole_and_the_rest_comes_later(make_model, texture, tmp_path, thin_slabs):
    model, stack = make_model(), open_stack(texture(20, 18, 10), axes="zyx")
    list(start(tmp_path / "whole", stack, model, TILINGS[0]))
    whole = open_store(tmp_path / "whole")
    region = Box((5, 0, 0), (7, 16, 10))
    events = list(start(tmp_path / "part", stack, model, TILINGS[0], region=region))
    assert [e.done for e in events] == list(range(1, events[-1].total + 1))
    part = open_store(tmp_path / "part")
    wanted = plan_tiles(stack.shape, model.spec, TILINGS[0]).touching(region)
    np.testing.assert_array_equal(part.done(), wanted)
    np.testing.assert_array_equal(part.read(2, region), whole.read(2, region))
    assert not list((tmp_path / "part" / ".planes").glob("*"))
    list(start(tmp_path / "part", stack, model, TILINGS[0]))
    assert voxels(tmp_path / "part") == voxels(tmp_path / "whole")


def test_time_stays_leading(make_model, texture, tmp_path, thin_slabs):
    model, film = make_model(), texture(2, 18, 10, 12)
    stack = open_stack(film, axes="tzyx")
    list(start(tmp_path / "film", stack, model, EXACT))
    store = open_store(tmp_path / "film")
    scaling = measure_stack(stack, model)
    for t in (0, 1):
        mean = 255 * of_whole_planes(film[t][None], model, scaling, 1)[0]
        stored = store.read(1, Box((t, 0, 0, 0), (t + 1, 18, 10, 12)))[:, 0]
        assert np.abs(stored - mean).max() <= 0.51


def test_another_choice_of_planes_is_another_run(make_model, texture, tmp_path):
    model, stack = make_model(), open_stack(texture(16, 20, 24), axes="zyx")
    next(start(tmp_path / "three", stack, model, EXACT))
    tiles = plan_tiles(stack.shape, model.spec, EXACT)
    before = contents(tmp_path / "three")
    with pytest.raises(StoreError, match=r"another choice of planes \(was z, y and x .*, now z\)"):
        open_run(tmp_path / "three", stack, model, tiles)
    with pytest.raises(StoreError, match="choice of planes"):
        predict_stack(stack, model, tiles, open_store(tmp_path / "three", "r+"))
    assert contents(tmp_path / "three") == before
    open_run(tmp_path / "one", stack, model, tiles)
    with pytest.raises(StoreError, match=r"choice of planes \(was z, now z, y and x"):
        next(start(tmp_path / "one", stack, model, EXACT))
    started = start(tmp_path / "three", stack, model, EXACT, overwrite=True)
    assert next(started).done == 1
    assert not open_store(tmp_path / "three").done_count


def test_planes_are_read_many_at_once(make_model, texture, tmp_path, monkeypatch):
    """A compressed file is decoded slice by slice, so a plane across y costs as much to read as the whole stack."""
    volume = texture(20, 20, 24)
    tifffile.imwrite(tmp_path / "a.tif", volume, compression="zlib", metadata={"axes": "ZYX"})
    model = make_model()
    asked = []
    with open_stack(tmp_path / "a.tif", axes="zyx") as stack:
        read = type(stack).read
        monkeypatch.setattr(type(stack), "read", lambda s, box: (asked.append((s.axes, box.shape)), read(s, box))[1])
        list(start(tmp_path / "store", stack, model, EXACT))
    decoded = [shape for axes, shape in asked if axes == "yzx" and np.prod(shape) == volume.size]
    assert len(decoded) == 1
    assert [shape for axes, shape in asked if axes == "yxz" and np.prod(shape) == volume.size] == [(24, 20, 20)]


def test_what_it_is_not_for(make_model, texture):
    flat, thin = open_stack(texture(32, 32), axes="yx"), open_stack(texture(3, 32, 32), axes="zyx")
    stack = open_stack(texture(16, 32, 32), axes="zyx")
    spec = make_model().spec
    assert "no z" in why_not_planes(flat, spec)
    assert "3 slices" in why_not_planes(thin, spec)
    assert "3D model" in why_not_planes(stack, make_model(ndim=3).spec)
    assert why_not_planes(stack, spec) == ""
    for problem, model in ((flat, make_model()), (thin, make_model()), (stack, make_model(ndim=3))):
        with pytest.raises(ValueError, match="planes"):
            plan_planes(problem, prepare(model), EXACT)


@pytest.mark.parametrize(
    ("spacing", "words"),
    [
        ((0.01, 0.01, 0.01), ""),
        ((0.0109, 0.01, 0.01), ""),
        ((0.05, 0.01, 0.01), "z 0.05, y 0.01, x 0.01 um"),
        ((0.01, 0.01, 0.02), "stretched"),
        ((None, None, None), ""),
    ],
)
def test_unequal_spacing_is_told(texture, spacing, words):
    said = why_unequal(open_stack(texture(4, 4, 4), axes="zyx", spacing_um=spacing))
    assert words in said if words else not said


def test_memory_bounds_all_three(make_model, texture):
    model, stack = make_model(widths=(8, 16, 32)), open_stack(texture(300, 24, 500), axes="zyx")
    backend = prepare(model)
    with pytest.raises(MemoryError):
        plan_planes(stack, backend, Seamless(), memory=1000)
    planes = plan_planes(stack, backend, Seamless(halo=8), memory=2**21)
    for tiles in (planes.tiles, *planes.sides.values()):
        backend.plan(tiles.level, tiles.input_extent, 1, 1, 2**21, 1)
    covered = np.zeros(300, int)
    for slab in planes.slabs:
        covered[slab.start[0] : slab.stop[0]] += 1
        for axis in ("y", "x"):
            assert planes.part(axis, slab).inner_spans[-2][0][0] == slab.start[0]
            assert planes.part(axis, slab).inner_spans[-2][-1][1] == slab.stop[0]
    assert (covered == 1).all()
