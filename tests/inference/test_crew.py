"""Several threads at one pass: any order that the steps allow, the same numbers, nothing left behind."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_unetpp.inference import streaming
from napari_unetpp.inference.backends import Backend, prepare
from napari_unetpp.inference.crew import Crew, Turns, steps_ahead, thread_pool
from napari_unetpp.inference.joining import Buffer
from napari_unetpp.inference.kernels import TorchLayers, whole_pass
from napari_unetpp.inference.pace import Pace, Stopped
from napari_unetpp.inference.predict import predict_array
from napari_unetpp.inference.schedule import HEAD, peak_bytes, schedule
from napari_unetpp.inference.streaming import stream
from napari_unetpp.inference.tiles import Seamless
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.stacks import open_stack

CPU = torch.device("cpu")


@pytest.fixture
def crew_of():
    crews = []

    def make(hands, pace=None):
        crews.append(Crew(hands - 1, pace=pace))
        return crews[-1]

    yield make
    for crew in crews:
        crew.close()


@settings(max_examples=40, deadline=None)
@given(
    hands=st.integers(2, 5),
    height=st.integers(1, 6),
    band=st.integers(1, 4),
    random=st.randoms(use_true_random=False),
)
def test_in_whatever_order_hands_finish_rows_are_there(looks_at, hands, height, band, random):
    """Hands take what `Turns` gives and finish in any order: all rows that a step looks at are there and not freed."""
    spec = NetworkSpec(widths=(4, 5, 6, 7), heads=(1, 2, 3))
    height, band = height * 32, band * 8
    steps = schedule(spec, 3, height, band)
    there, most = set(), 0

    def passed(step):
        for rows, below in step.frees:
            there.difference_update({(rows, r) for r in range(below)})

    turns = Turns(steps, hands, passed)
    under_way, order = [], []
    while True:
        if len(under_way) < hands and (number := taken(turns)) is not None:
            assert looks_at(spec, height, steps[number]) <= there
            under_way.append(number)
        elif under_way:
            number = under_way.pop(random.randrange(len(under_way)))
            # Its rows must still be there when it ends: it was reading them all the time.
            assert looks_at(spec, height, steps[number]) <= there
            step = steps[number]
            new = {(step.rows, r) for r in range(step.start, step.stop)} if step.rows.part != HEAD else set()
            turns.finish(number, lambda new=new: there.update(new))
            order.append(number)
            most = max(most, sum(64 * spec.node_width(r.i, r.j) >> r.i for r, _ in there))
        else:
            break
    assert sorted(order) == list(range(len(steps)))
    assert most <= peak_bytes(spec, 3, (height, 64), band, item=1, hands=hands)


def taken(turns):
    """A step that may be begun now; None where one would have to wait."""
    before = turns._changed.wait
    turns._changed.wait = lambda: (_ for _ in ()).throw(BlockingIOError)
    try:
        return turns.take()
    except BlockingIOError:
        return None
    finally:
        turns._changed.wait = before


@pytest.mark.parametrize("hands", [2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_hands_give_the_logits_of_one(make_model, crew_of, hands, dtype):
    model = make_model(widths=(4, 8, 16, 32), heads=(1, 2, 3))
    layers = TorchLayers(model.network, CPU, dtype)
    image = torch.rand(1, 1, 128, 40)
    with torch.inference_mode():
        whole = dict(zip((1, 2, 3), whole_pass(layers, image), strict=True))
        parts = defaultdict(dict)
        for d, first, logits in stream(layers, image, 3, 16, crew_of(hands)):
            assert first not in parts[d]
            parts[d][first] = logits
    for d, pieces in parts.items():
        np.testing.assert_array_equal(
            torch.cat([pieces[first] for first in sorted(pieces)], 2).float(), whole[d].float()
        )
    assert sorted(parts) == [1, 2, 3]


def test_a_stack_by_hands_is_the_stack_by_one(make_model, texture):
    model = make_model()
    stack = open_stack(texture(2, 96, 70), axes="zyx")
    truth = predict_array(stack, model, tiling=Seamless(), threads=1)
    backend = Bands(prepare(model).layers, CPU, "fp32")
    for threads in (1, 2, 5):
        got = predict_array(stack, model, tiling=Seamless(), backend=backend, threads=threads)
        for level, heads in truth.items():
            np.testing.assert_array_equal(got[level], heads)
    assert {work.hands for work in backend.seen} == {1, 2, 5}


class Bands(Backend):
    """Goes band by band, also where one pass would do."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seen = []

    def _bands(self, level, extent, batch):
        yield 16

    def plan(self, *args):
        self.seen.append(super().plan(*args))
        return self.seen[-1]


class Failing(TorchLayers):
    """A network whose X20 cannot be computed, in whichever thread."""

    def node(self, i, j):
        if (i, j) == (2, 0):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return super().node(i, j)


@pytest.mark.parametrize("hands", [1, 2, 4])
def test_what_one_hand_fails_with_ends_the_pass(make_model, crew_of, hands):
    layers = Failing(make_model().network, CPU, torch.float32)
    crew = crew_of(hands)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="can't allocate memory"):
        list(stream(layers, torch.rand(1, 1, 64, 16), 2, 4, crew))
    # All of them are free for the next pass.
    with torch.inference_mode():
        sound = TorchLayers(make_model().network, CPU, torch.float32)
        assert list(stream(sound, torch.rand(1, 1, 64, 16), 2, 4, crew))


def test_a_pass_that_is_left_early_leaves_nobody_at_work(make_model, crew_of):
    layers = TorchLayers(make_model().network, CPU, torch.float32)
    crew = crew_of(3)
    with torch.inference_mode():
        for _ in range(5):
            running = stream(layers, torch.rand(1, 1, 64, 16), 2, 4, crew)
            next(running)
            running.close()
        assert list(stream(layers, torch.rand(1, 1, 64, 16), 2, 4, crew))


@pytest.mark.parametrize("hands", [1, 3])
@pytest.mark.parametrize("complete", [True, False])
def test_memory_is_free_as_soon_as_a_pass_ends(make_model, crew_of, monkeypatch, hands, complete):
    """Not only when Python looks for cycles, which may be many tiles later."""
    made = []

    def recorded():
        made.append(weakref.ref(buffer := Buffer()))
        return buffer

    monkeypatch.setattr(streaming, "Buffer", recorded)
    layers = TorchLayers(make_model().network, CPU, torch.float32)
    gc.collect()
    gc.disable()
    try:
        with torch.inference_mode():
            running = stream(layers, torch.rand(1, 1, 64, 16), 2, 4, crew_of(hands))
            if complete:
                assert sum(1 for _ in running) > 4
            else:
                next(running)
                running.close()
            assert made
            assert not any(buffer() for buffer in made)
    finally:
        gc.enable()


def test_helpers_step_back_while_the_user_needs_a_core(make_model, crew_of):
    pace = Pace()
    crew = crew_of(4, pace)
    layers = Watched(make_model().network, CPU, torch.float32)
    image = torch.rand(1, 1, 256, 16)
    pace.hold(600)
    with torch.inference_mode():
        assert sum(len(p[2]) for p in stream(layers, image, 2, 4, crew)) > 0
        assert layers.threads == {threading.get_ident()}
        assert pace.held  # nobody has waited for those that stepped back
        pace.hold(0)
        list(stream(layers, image, 2, 4, crew))
    pace.stop()
    with pytest.raises(Stopped):
        crew.checkpoint()


class Watched(TorchLayers):
    def __init__(self, *args):
        super().__init__(*args)
        self.threads = set()

    def node(self, i, j):
        self.threads.add(threading.get_ident())
        return super().node(i, j)


def test_one_hand_is_never_ahead():
    assert steps_ahead(1) == 1
    assert steps_ahead(2) < steps_ahead(3)


def test_threads_of_a_pool_have_their_share_and_others_theirs():
    before = torch.get_num_threads()
    numbers = []
    pool = thread_pool("test", 3, 2, numbers.append)
    try:
        assert sorted(numbers) == [0, 1, 2]
        assert pool.submit(torch.get_num_threads).result() == 2
        assert torch.get_num_threads() == before
    finally:
        pool.shutdown()
