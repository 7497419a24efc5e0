"""Out of memory: the same numbers in smaller steps, in a known order, and told once."""

from __future__ import annotations

import logging
import math
import weakref

import numpy as np
import pytest
import torch

from napari_unetpp.inference.backends import Backend
from napari_unetpp.inference.gpu import GpuBackend
from napari_unetpp.inference.kernels import TorchLayers
from napari_unetpp.inference.ladder import Ladder, Rung, is_out_of_memory, rungs
from napari_unetpp.inference.predict import predict_array
from napari_unetpp.inference.tiles import Overlap, Seamless
from napari_unetpp.stacks import open_stack

CPU = torch.device("cpu")


class TightLayers(TorchLayers):
    """Layers of a device that has memory for so many voxels of the image at once."""

    def __init__(self, model, voxels, dtype=torch.float32):
        super().__init__(model.network, CPU, dtype)
        self.voxels, self.entered = voxels, []

    def enter(self, image):
        size = len(image) * math.prod(image.shape[2:])
        self.entered.append(tuple(image.shape))
        if size > self.voxels:
            raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} voxels.")
        return super().enter(image)


def tight(model, voxels):
    return Backend(TightLayers(model, voxels), CPU, "fp32")


def exact(model):
    return Backend(TorchLayers(model.network, CPU, torch.float32), CPU, "fp32")


@pytest.mark.parametrize("voxels", [4 * 64 * 48, 2 * 64 * 48, 2 * 64 * 48 - 1, 64 * 48, 64 * 48 - 1, 40 * 48, 6 * 48])
@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("level", [1, 2])
def test_results_are_those_of_enough_memory(make_model, rng, voxels, counts, level):
    model = make_model()
    batch = rng.normal(size=(4, 1, 62, 47)).astype(np.float32)
    crop = (slice(5, 60), slice(0, 40))
    truth = exact(model).run(batch, level, crop=crop, counts=counts)
    got = tight(model, voxels).run(batch, level, crop=crop, counts=counts)
    for head, expected in zip(got, truth, strict=True):
        assert head.dtype == expected.dtype
        np.testing.assert_allclose(head, expected, atol=1 if counts else 1e-6)


def test_results_of_volumes(make_model, rng):
    model = make_model(ndim=3)
    batch = rng.normal(size=(2, 1, 24, 12, 12)).astype(np.float32)
    got = tight(model, 10 * 12 * 12).run(batch)
    for head, expected in zip(got, exact(model).run(batch), strict=True):
        np.testing.assert_allclose(head, expected, atol=1e-5)  # 3D convolutions add in an order that bands change


@pytest.mark.parametrize("tiling", [Overlap(32, 16), Seamless(inner=32)], ids=str)
def test_results_of_a_stack(make_model, texture, tiling):
    model = make_model()
    stack = open_stack(texture(70, 90), axes="yx")
    truth = predict_array(stack, model, tiling=tiling, backend=exact(model))
    got = predict_array(stack, model, tiling=tiling, backend=tight(model, 2 * 32 * 32 - 1), threads=2)
    for level in (1, 2):
        np.testing.assert_allclose(got[level], truth[level], atol=1e-6)


def climb(ladder, fails, *, images=5, band=None, grid=8, cpu=True, key="a"):
    """Rungs that were tried, with the images that each was tried on; `fails` tells which find no memory."""
    tried = []

    def attempt(part, rung):
        tried.append((rung, range(part.start, part.stop)))
        if fails(rung):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    ladder.climb(key, list(rungs(images, 48, band, grid=grid, cpu=cpu)), images, attempt)
    return tried


def test_order_of_the_rungs():
    emptied = []
    tried = climb(Ladder("cuda:0", lambda: emptied.append(1)), lambda rung: not rung.on_cpu, images=4)
    assert [rung for rung, _ in tried] == [
        Rung(4, None),
        Rung(4, None),  # again, with the cache emptied
        Rung(2, None),
        Rung(1, None),
        Rung(1, 24),
        Rung(1, 8),
        *[Rung(1, None, on_cpu=True)] * 4,
    ]
    assert len(emptied) == 6
    assert [rung.band for rung in rungs(1, 512, 64, grid=16, cpu=False)] == [64, 32, 16]


def test_networks_that_look_at_the_whole_image_skip_the_bands(make_model):
    assert [*rungs(2, 48, None, grid=None, cpu=True)] == [Rung(2, None), Rung(1, None), Rung(1, None, on_cpu=True)]
    model = make_model(upsampling="bilinear-aligned")
    backend = tight(model, 16 * 16)
    batch = np.zeros((3, 1, 16, 16), np.float32)
    assert np.isfinite(backend.run(batch)[0]).all()
    with pytest.raises(MemoryError, match="out of memory on cpu, though 1 image at a time was tried"):
        backend.run(np.zeros((1, 1, 20, 20), np.float32))


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_no_image_is_computed_twice(most):
    tried = climb(Ladder("cuda:0"), lambda rung: rung.images > most)
    done = [place for rung, images in tried if rung.images <= most for place in images]
    assert done == [0, 1, 2, 3, 4]


def test_a_passing_shortage_changes_nothing():
    ladder, shortages = Ladder("cuda:0", lambda: None), [1]
    tried = climb(ladder, lambda rung: bool(shortages and shortages.pop()))
    assert [rung for rung, _ in tried] == [Rung(5, None)] * 2
    assert ladder.note == ""


def test_later_batches_begin_where_the_first_got_through(caplog):
    caplog.set_level(logging.INFO)
    ladder = Ladder("cuda:0", lambda: None)

    def too_many(rung):
        return rung.images > 2

    climb(ladder, too_many)
    assert [rung for rung, _ in climb(ladder, too_many)] == [Rung(2, None)] * 3
    # Three images halve to one at a time; that is no reason to go on with one where two have room.
    assert [rung for rung, _ in climb(ladder, too_many, images=3)] == [Rung(1, None)] * 3
    assert [rung for rung, _ in climb(ladder, too_many)] == [Rung(2, None)] * 3
    assert climb(ladder, too_many, key="another extent")[0][0] == Rung(5, None)
    sentence = "out of memory on cuda:0: going on with 2 images at a time"
    assert ladder.note == sentence
    assert caplog.messages == [sentence]


@pytest.mark.parametrize(
    ("fails", "words"),
    [
        (lambda rung: rung.images > 1, "with 1 image at a time"),
        (lambda rung: rung.band is None and not rung.on_cpu, "with 24 rows at a time"),
        (lambda rung: not rung.on_cpu, "in fp32 on the CPU"),
    ],
)
def test_words_for_the_user(fails, words):
    ladder = Ladder("cuda:0", lambda: None)
    climb(ladder, fails)
    assert ladder.note == f"out of memory on cuda:0: going on {words}"


def test_the_note_joins_that_of_the_precision(make_model):
    backend = Backend(TightLayers(make_model(), 32 * 32), CPU, "fp32", "fp32 because of the weather")
    assert backend.note == "fp32 because of the weather"
    backend.run(np.zeros((2, 1, 32, 32), np.float32))
    assert backend.note == "fp32 because of the weather; out of memory on cpu: going on with 1 image at a time"


def test_when_all_rungs_fail_the_error_says_what_to_do(make_model):
    with pytest.raises(MemoryError, match=r"on cpu, though 4 rows at a time were tried; .* take smaller tiles"):
        tight(make_model(), 10).run(np.zeros((2, 1, 32, 32), np.float32))


def test_the_allocators_are_understood():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 8.9 GB)"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(RuntimeError("expected scalar type Half but found Float"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("error", [RuntimeError("sizes do not match"), KeyError("x"), KeyboardInterrupt()])
def test_other_errors_pass(error):
    ladder, calls = Ladder("cuda:0", lambda: None), []

    def attempt(part, rung):
        calls.append(rung)
        raise error

    with pytest.raises(type(error)) as caught:
        ladder.climb("a", list(rungs(4, 48, None, grid=8, cpu=True)), 4, attempt)
    assert caught.value is error
    assert len(calls) == 1


def test_nothing_holds_what_the_attempt_had(make_model):
    held, alive = [], []

    def attempt(part, rung):
        maps = torch.zeros(10)
        held.append(weakref.ref(maps))
        if len(held) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    ladder = Ladder("cuda:0", lambda: alive.append(held[0]() is not None))
    ladder.climb("a", [Rung(1, None)], 1, attempt)
    assert alive == [False]


def test_at_last_the_cpu(make_model, rng):
    model = make_model()
    made = []

    def on_cpu():
        if not made:
            made.append(exact(model))
        return made[0]

    layers = TightLayers(model, 10, torch.bfloat16)
    backend = GpuBackend(layers, CPU, "bf16", in_need=on_cpu)
    batch = rng.normal(size=(2, 1, 32, 20)).astype(np.float32)
    truth = exact(model).run(batch, counts=True)
    for _ in range(2):
        tried = len(layers.entered)
        got = backend.run(batch, counts=True)
        for head, expected in zip(got, truth, strict=True):
            np.testing.assert_array_equal(head, expected)
    assert len(layers.entered) == tried  # the device is not asked again
    assert backend.note == "out of memory on cpu: going on in fp32 on the CPU"
