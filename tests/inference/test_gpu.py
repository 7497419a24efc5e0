"""Cards: what comes back, in which order, which passes are recorded, and what a card is believed.

On a CPU, lanes without streams and recordings by Python stand where a card's would be.
"""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
import torch

from napari_unetpp.inference import gpu
from napari_unetpp.inference.backends import Backend
from napari_unetpp.inference.crew import Crew
from napari_unetpp.inference.gpu import GpuBackend, agrees, full_precision, prepare_gpu
from napari_unetpp.inference.kernels import TorchLayers
from napari_unetpp.inference.lanes import Graphs, Lane, Returning
from napari_unetpp.inference.pace import Pace, Stopped
from napari_unetpp.inference.predict import predict_array
from napari_unetpp.inference.tiles import Overlap, Seamless
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.stacks import open_stack

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def layers_of(model, dtype=torch.float32, device=CPU):
    return TorchLayers(model.network, device, dtype)


def replaying(log=None):
    """Records as CUDA does: the numbers of every replay lie where those of the recording lay."""

    def record(image, compute):
        if log is not None:
            log.append(tuple(image.shape))
        results = compute(image)

        def replay(image):
            for result, new in zip(results, compute(image), strict=True):
                result.copy_(new)
            return results

        return replay

    return record


class RecordingLane(Lane):
    def __init__(self, recorded=None):
        super().__init__(CPU)
        self.graphs = Graphs(replaying(recorded))


@pytest.mark.parametrize("band", [None, 4, 16])
@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_card_gives_what_the_cpu_gives(make_model, rng, band, counts, ndim):
    model = make_model(ndim=ndim, in_channels=2, classes=3)
    extent = (37, 50) if ndim == 2 else (21, 10, 9)
    batch = rng.normal(size=(3, 2, *extent)).astype(np.float32)
    crop = (slice(6, 20), slice(3, 9), slice(0, 7))[:ndim]
    card = GpuBackend(layers_of(model), CPU, "fp32", lane=RecordingLane)
    cpu = Backend(layers_of(model), CPU, "fp32")
    for _ in range(4):  # the third and the fourth pass are replayed
        for level in (1, 2):
            got = card.run(batch, level, band=band, crop=crop, counts=counts)
            for head, expected in zip(got, cpu.run(batch, level, crop=crop, counts=counts), strict=True):
                assert head.dtype == expected.dtype
                np.testing.assert_allclose(head, expected, atol=1 if counts else 1e-5)
        batch = batch[::-1].copy()


def test_networks_that_look_at_the_whole_image(make_model, rng):
    model = make_model(upsampling="bilinear-aligned")
    batch = rng.normal(size=(2, 1, 21, 30)).astype(np.float32)
    got = GpuBackend(layers_of(model), CPU, "fp32").run(batch)
    for head, expected in zip(got, Backend(layers_of(model), CPU, "fp32").run(batch), strict=True):
        np.testing.assert_allclose(head, expected, atol=1e-6)


@pytest.mark.parametrize("tiling", [Overlap(16, 8), Seamless(inner=16)], ids=str)
def test_a_stack_through_a_card(make_model, texture, tiling):
    model = make_model()
    stack = open_stack(texture(2, 50, 40), axes="zyx")
    recorded = []
    card = GpuBackend(layers_of(model), CPU, "fp32", lane=lambda: RecordingLane(recorded))
    truth = predict_array(stack, model, tiling=tiling)
    got = predict_array(stack, model, tiling=tiling, backend=card, batch=2)
    assert recorded
    for level in (1, 2):
        np.testing.assert_allclose(got[level], truth[level], atol=1e-6)


def test_results_are_waited_for_two_behind():
    events = []

    def fetch(values):
        number, here = int(values[0]), torch.full_like(values, -1)
        events.append(("sent", number))

        def arrived():
            events.append(("arrived", number))
            here.copy_(values)

        return here, arrived

    out = torch.zeros(5, 2)
    returning = Returning(fetch)
    for n in range(5):
        returning.put(torch.full((2,), float(n)), out[n])
    returning.finish()
    assert out.tolist() == [[n, n] for n in range(5)]
    assert [n for kind, n in events if kind == "arrived"] == [0, 1, 2, 3, 4]
    on_the_way = 0
    for kind, _ in events:
        on_the_way += 1 if kind == "sent" else -1
        assert 0 <= on_the_way <= 2
    assert on_the_way == 0


def test_a_shape_is_recorded_when_it_comes_for_the_third_time():
    recorded, computed = [], []

    def compute(image):
        computed.append(tuple(image.shape))
        return [image * 2]

    graphs = Graphs(replaying(recorded))
    for n in range(6):
        for shape in ((2, 3), (4, 3)):
            assert torch.equal(graphs.run(shape, torch.full(shape, float(n)), compute)[0], torch.full(shape, 2.0 * n))
        assert recorded == ([(2, 3), (4, 3)] if n >= 2 else [])
    for n in range(20):
        graphs.run(("more", n % 5), torch.ones(1), compute)
    assert len(recorded) == 4


def test_where_nothing_can_be_recorded_passes_go_on_as_before(caplog):
    caplog.set_level(logging.INFO)
    asked = []

    def record(image, compute):
        asked.append(1)
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore of it")

    graphs = Graphs(record)
    for n in range(6):
        for key in "ab":
            assert graphs.run(key, torch.tensor(float(n)), lambda image: [image + 1])[0] == n + 1
    assert asked == [1]
    assert caplog.messages == ["no CUDA graphs: CUDA error: operation not permitted when stream is capturing"]


def test_large_inputs_are_not_recorded(make_model, monkeypatch):
    recorded = []
    backend = GpuBackend(layers_of(make_model()), CPU, "fp32", lane=lambda: RecordingLane(recorded))
    monkeypatch.setattr(gpu, "_GRAPH_VOXELS", 4 * 16 * 16)
    for _ in range(4):
        backend.run(np.zeros((5, 1, 16, 16), np.float32))
        backend.run(np.zeros((4, 1, 16, 16), np.float32))
    assert recorded == [(4, 1, 16, 16)]


def test_a_shortage_ends_the_recordings(make_model):
    lane = RecordingLane()
    backend = GpuBackend(layers_of(make_model()), CPU, "fp32", lane=lambda: lane)
    batch = np.zeros((4, 1, 16, 16), np.float32)
    for _ in range(3):
        backend.run(batch)
    assert lane.graphs._replays
    enter = backend.layers.enter
    short = [True]

    def enter_once_short(image):
        if short:
            short.pop()
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return enter(image)

    backend.layers.enter = enter_once_short
    before = backend.run(batch, 1)
    assert not short
    assert not lane.graphs._replays
    for head, expected in zip(backend.run(batch, 1), before, strict=True):
        np.testing.assert_array_equal(head, expected)
    assert backend.note == ""


def test_each_thread_has_a_lane(make_model):
    lanes = []

    def new():
        lanes.append(Lane(CPU))
        return lanes[-1]

    backend = GpuBackend(layers_of(make_model()), CPU, "fp32", lane=new)
    image = np.zeros((1, 1, 16, 16), np.float32)

    def twice():
        backend.run(image)
        backend.run(image)

    threads = [threading.Thread(target=twice) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lanes) == 3


def test_a_cancelled_pass_leaves_the_lane_usable(make_model):
    backend = GpuBackend(layers_of(make_model()), CPU, "fp32")
    image = np.zeros((1, 1, 32, 32), np.float32)
    calls = []

    class Impatient(Pace):
        def checkpoint(self):
            calls.append(1)
            if len(calls) == 3:
                raise Stopped

    with pytest.raises(Stopped):
        backend.run(image, band=4, crew=Crew(0, pace=Impatient()))
    assert backend.run(image)[0].shape == (1, 1, 32, 32)


def pretend(model_spec, memory, monkeypatch, precision="bf16"):
    """A backend as it would be on a card with that much free memory; it plans, and computes nothing."""

    class Layers:
        spec, item = model_spec, 2

    monkeypatch.setattr(gpu, "_device_memory", lambda device: memory)
    return GpuBackend(Layers(), CUDA, precision)


def test_batches_fill_the_memory_of_a_card(monkeypatch):
    spec, before = NetworkSpec(), 0
    for gibibytes in (0.001, 0.1, 0.5, 1, 2, 80):
        card = pretend(spec, int(gibibytes * 2**30), monkeypatch)
        images = card.best_batch(4, (96, 96))
        assert images == 1 or 2 * card.bytes_held(4, (96, 96), images, None) <= card.memory
        assert images == 64 or 2 * card.bytes_held(4, (96, 96), 2 * images, None) > card.memory
        assert before <= images <= 64
        before = images
    assert before == 64


def test_cards_run_whole_inputs_and_high_bands(monkeypatch):
    card = pretend(NetworkSpec(), 80 * 2**30, monkeypatch)
    work = card.plan(4, (1024, 1024), 1, inputs=9, memory=card.memory, threads=16)
    assert (work.workers, work.band) == (2, None)
    whole = card.bytes_held(4, (1024, 1024), 1, None)
    assert card.plan(4, (1024, 1024), 1, 9, whole, threads=16).workers == 1
    assert card.plan(4, (1024, 1024), 1, 9, whole - 1, threads=16).band == 512
    assert card.region_band((1000, 1000), 4) is None
    with pytest.raises(MemoryError):
        card.plan(4, (1024, 1024), 1, 9, 2**20, threads=16)
    aligned = pretend(NetworkSpec(upsampling="bilinear-aligned"), 80 * 2**30, monkeypatch)
    assert list(aligned._bands(4, (512, 512), 1)) == [None]


def test_fp32_is_fp32_while_anyone_needs_it(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    inside, leave = threading.Event(), threading.Event()

    def longer():
        with full_precision():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=longer)
    with full_precision():
        assert not torch.backends.cudnn.allow_tf32
        thread.start()
        inside.wait(30)
        with full_precision():
            assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    leave.set()
    thread.join()
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("bf16", True), ("fp16", True)])
def test_only_fp32_on_cuda_asks_for_it(monkeypatch, precision, tf32):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with pretend(NetworkSpec(), 2**30, monkeypatch, precision).computing():
        assert torch.backends.cudnn.allow_tf32 is tf32


def test_who_agrees(make_model):
    model, other = make_model(widths=(8, 16, 32)), make_model(seed=1, widths=(8, 16, 32))
    reference = layers_of(model)
    assert agrees(layers_of(model), reference)
    assert agrees(layers_of(model, torch.bfloat16), reference)
    assert not agrees(layers_of(other), reference)
    lacking = layers_of(model)
    lacking.pool = _not_implemented
    assert not agrees(lacking, reference)
    wrong_in_bands = layers_of(model)
    pool = wrong_in_bands.pool
    wrong_in_bands.pool = lambda i, x: pool(i, x) if x.shape[2] >= 16 else 2 * pool(i, x)
    assert not agrees(wrong_in_bands, reference)


def _not_implemented(i, x):
    raise NotImplementedError("max_pool3d is not implemented for MPS")


def test_a_card_that_is_wrong_is_not_used(make_model, monkeypatch, rng):
    model = make_model()
    batch = rng.normal(size=(1, 1, 24, 24)).astype(np.float32)
    assert isinstance(prepare_gpu(model.network, CPU, "bf16", torch.bfloat16), GpuBackend)
    monkeypatch.setattr(gpu, "agrees", lambda layers, reference: False)
    backend = prepare_gpu(model.network, CPU, "bf16", torch.bfloat16)
    assert type(backend) is Backend
    assert backend.precision == "fp32"
    assert "the CPU does the work, in fp32" in backend.note
    for head, expected in zip(backend.run(batch), Backend(layers_of(model), CPU, "fp32").run(batch), strict=True):
        np.testing.assert_array_equal(head, expected)


@pytest.fixture
def cuda():
    return torch.device("cuda", torch.cuda.current_device())


@pytest.mark.gpu
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("band", [None, 16])
def test_cuda_gives_what_the_cpu_gives(make_model, rng, cuda, ndim, band):
    model = make_model(ndim=ndim)
    extent = (70, 50) if ndim == 2 else (40, 16, 20)
    cpu = Backend(layers_of(model), CPU, "fp32")
    card = prepare_gpu(model.network, cuda, "fp32", torch.float32)
    for _ in range(5):
        batch = rng.normal(size=(3, 1, *extent)).astype(np.float32)
        for head, expected in zip(card.run(batch, band=band), cpu.run(batch), strict=True):
            np.testing.assert_allclose(head, expected, atol=1e-4)
    assert card.note == ""


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_labels_of_half_precisions_on_cuda(make_model, rng, cuda, precision):
    model = make_model(widths=(8, 16, 32))
    card = prepare_gpu(model.network, cuda, precision, {"bf16": torch.bfloat16, "fp16": torch.float16}[precision])
    batch = rng.random((4, 1, 64, 64)).astype(np.float32)
    for head, expected in zip(card.run(batch), Backend(layers_of(model), CPU, "fp32").run(batch), strict=True):
        sure = np.abs(expected - 0.5) > 0.05
        assert ((head >= 0.5) == (expected >= 0.5))[sure].all()


@pytest.mark.gpu
def test_cuda_records_and_replays(make_model, rng, cuda):
    model = make_model()
    card = prepare_gpu(model.network, cuda, "fp32", torch.float32)
    batches = [rng.random((4, 1, 32, 32)).astype(np.float32) for _ in range(6)]
    got = [card.run(batch, counts=True) for batch in batches]
    assert len(card._lane().graphs._replays) == 1
    eager = prepare_gpu(model.network, cuda, "fp32", torch.float32)
    eager._lane().graphs.give_up()
    for heads, batch in zip(got, batches, strict=True):
        for head, expected in zip(heads, eager.run(batch, counts=True), strict=True):
            np.testing.assert_array_equal(head, expected)


@pytest.mark.gpu
def test_cuda_with_too_little_memory(make_model, rng, cuda):
    model = make_model(widths=(32, 64, 128))
    card = prepare_gpu(model.network, cuda, "fp32", torch.float32)
    batch = rng.random((4, 1, 512, 512)).astype(np.float32)
    truth = card.run(batch)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(cuda) + 150 * 2**20) / total, cuda)
    try:
        for head, expected in zip(card.run(batch), truth, strict=True):
            np.testing.assert_allclose(head, expected, atol=1e-4)
        assert card.note.startswith("out of memory on cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, cuda)


@pytest.mark.gpu
@pytest.mark.parametrize("tiling", [Overlap(32, 16), Seamless(inner=64)], ids=str)
def test_a_stack_on_cuda(make_model, texture, cuda, tiling):
    model = make_model()
    stack = open_stack(texture(6, 150, 140), axes="zyx")
    truth = predict_array(stack, model, tiling=tiling)
    card = prepare_gpu(model.network, cuda, "fp32", torch.float32)
    got = predict_array(stack, model, tiling=tiling, backend=card)
    for level in (1, 2):
        np.testing.assert_allclose(got[level], truth[level], atol=1e-4)


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no MPS device")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_mps_gives_what_the_cpu_gives(make_model, rng, precision):
    model = make_model(widths=(8, 16, 32))
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[precision]
    card = prepare_gpu(model.network, torch.device("mps"), precision, dtype)
    batch = rng.random((3, 1, 70, 50)).astype(np.float32)
    for band in (None, 16):
        heads = card.run(batch, band=band)
        for head, expected in zip(heads, Backend(layers_of(model), CPU, "fp32").run(batch), strict=True):
            sure = np.abs(expected - 0.5) > 0.05
            assert ((head >= 0.5) == (expected >= 0.5))[sure].all()
