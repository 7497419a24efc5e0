"""Band by band equals one pass over the whole image, and holds no more than it says."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_unetpp.inference.kernels import TorchLayers, whole_pass
from napari_unetpp.inference.schedule import FIRST, HEAD, SECOND, Rows, head_reach, peak_bytes, schedule, up_reach
from napari_unetpp.inference.streaming import stream
from napari_unetpp.model.presets import PRESET_NAMES
from napari_unetpp.model.spec import NetworkSpec

CPU = torch.device("cpu")


def streamed(layers, image, level, band):
    """Logits of every head, joined; each row must come once and in order."""
    parts = defaultdict(list)
    for d, first, logits in stream(layers, image, level, band):
        assert first == sum(p.shape[2] for p in parts[d])
        parts[d].append(logits)
    return {d: torch.cat(pieces, dim=2) for d, pieces in sorted(parts.items())}


def reference(model, image, level):
    with torch.no_grad():
        return model.network.double()(image.double(), level)


@pytest.mark.parametrize("name", [n for n in PRESET_NAMES if NetworkSpec.preset(n).streams])
def test_every_named_network(make_model, name):
    spec = NetworkSpec.preset(name)
    depth = 2 if spec.ndim == 3 else 3
    widths = (4, 6, 8, 10)[: depth + 1]
    heads = (depth,) if len(spec.heads) == 1 else tuple(range(1, depth + 1))
    fields = {f: getattr(spec, f) for f in spec.to_json() if f not in ("widths", "heads", "decoder_widths")}
    model = make_model(**fields, widths=widths, heads=heads)
    image = torch.rand(1, 1, 40, *(24,) * (spec.ndim - 1))
    with torch.inference_mode():
        layers = TorchLayers(model.network.double(), CPU, torch.float64)
        bands = streamed(layers, image, depth, 2**depth)
        whole = whole_pass(layers, image)
        for got, once, truth in zip(bands.values(), whole, reference(model, image, None), strict=True):
            torch.testing.assert_close(once, truth, atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(got, truth, atol=1e-9, rtol=1e-9)
            assert truth.std() > 0.01


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "transposed2", "transposed4"])
@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("band", [8, 16, 32, 64])
def test_any_band_and_level(make_model, upsampling, level, band):
    model = make_model(upsampling=upsampling, widths=(3, 4, 5, 6), heads=(1, 2, 3))
    image = torch.rand(1, 1, 56, 16)
    with torch.inference_mode():
        layers = TorchLayers(model.network.double(), CPU, torch.float64)
        got = streamed(layers, image, level, band)
        for d, truth in enumerate(reference(model, image, level), start=1):
            torch.testing.assert_close(got[d], truth, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.bfloat16, 0.25), (torch.float16, 0.05)])
def test_precisions_stay_close(make_model, dtype, tolerance):
    """Logits have standard deviation 2; an error of a layer of another precision would be as large."""
    model = make_model(widths=(8, 16, 32))
    image = torch.rand(2, 1, 48, 40)
    with torch.inference_mode():
        got = whole_pass(TorchLayers(model.network, CPU, dtype), image)
        for logits, truth in zip(got, reference(model, image, None), strict=True):
            assert (logits.double() - truth).abs().max() < tolerance


def test_images_go_one_at_a_time(make_model):
    layers = TorchLayers(make_model().network, CPU, torch.float32)
    with pytest.raises(ValueError, match="a batch of 2 images"):
        next(stream(layers, torch.rand(2, 1, 16, 16), 2, 4))


@st.composite
def plans(draw):
    depth = draw(st.integers(1, 4))
    spec = NetworkSpec(
        widths=tuple(range(4, 5 + depth)),
        heads=tuple(range(1, depth + 1)),
        skips=draw(st.sampled_from(["ensemble", "short", "dense"])),
        upsampling=draw(st.sampled_from(["nearest", "bilinear"])),
        head=draw(st.sampled_from(["conv1", "bn-relu-conv3"])),
    )
    level = draw(st.integers(1, depth))
    return spec, level, spec.grid * draw(st.integers(1, 20)), 2**level * draw(st.integers(1, 6))


@settings(max_examples=60)
@given(plan=plans())
def test_each_row_is_computed_once_from_rows_that_are_there(looks_at, plan):
    """The order of the steps, checked against what each layer looks at, written down anew."""
    spec, level, height, band = plan
    there: dict[Rows, set[int]] = defaultdict(set)
    steps = schedule(spec, level, height, band)
    for number, step in enumerate(steps):
        (i, j, part), rows = step.rows, set(range(step.start, step.stop))
        assert rows
        assert not rows & there[Rows(-1 - i, j, part)], "computed twice"
        there[Rows(-1 - i, j, part)] |= rows
        reach = head_reach(spec) if part == HEAD else 1
        seen = {r + k for r in rows for k in range(-reach, reach + 1)} & set(range(height >> i))
        if part != FIRST:
            assert seen <= there[Rows(i, j, part - 1)]
        elif j == 0 and i > 0:
            assert {2 * r + k for r in seen for k in (0, 1)} <= there[Rows(i - 1, 0, SECOND)]
        elif j > 0:
            for node in spec.same_row(i, j):
                assert seen <= there[Rows(*node, SECOND)]
            below = {r // 2 + k for r in seen for k in range(-up_reach(spec), up_reach(spec) + 1)}
            assert below & set(range(height >> (i + 1))) <= there[Rows(i + 1, j - 1, SECOND)]
        there[step.rows] |= rows
        for freed, stop in step.frees:
            there[freed] -= set(range(stop))
        done = [steps[n] for n in step.needs]
        assert all(n < number for n in step.needs)
        assert looks_at(spec, height, step) <= {(s.rows, r) for s in done for r in range(s.start, s.stop)}
    for i, j in spec.nodes:
        if i + j <= level:
            assert there[Rows(-1 - i, j, SECOND)] == set(range(height >> i))
    for d in range(1, level + 1):
        assert there[Rows(-1, d, HEAD)] == set(range(height))
    assert all(not there[Rows(*n, SECOND)] for n in spec.nodes if n[0] > 0), "rows of the decoder were kept to the end"


def test_rows_that_look_at_the_whole_image_are_refused():
    with pytest.raises(ValueError, match=r"bilinear-aligned .* cannot go band by band"):
        schedule(NetworkSpec(upsampling="bilinear-aligned"), 4, 64, 16)
    with pytest.raises(ValueError, match="height 60 and band 16 are no multiples of 16"):
        schedule(NetworkSpec(), 4, 60, 16)


def test_held_bytes_do_not_grow_with_the_height_but_with_band_and_width():
    spec = NetworkSpec()
    tall, taller = (peak_bytes(spec, 4, (n, 512), 32, item=4) for n in (2048, 20_480))
    assert tall == taller
    assert peak_bytes(spec, 4, (2048, 1024), 32, item=4) == 2 * tall
    assert peak_bytes(spec, 4, (2048, 512), 32, item=1) * 4 == tall
    assert tall < peak_bytes(spec, 4, (2048, 512), 64, item=4) < peak_bytes(spec, 4, (2048, 512), 2048, item=4)


def test_held_bytes_are_those_of_the_tensors(make_model, monkeypatch):
    """What lives during a pass, counted at its tensors."""
    from napari_unetpp.inference import streaming

    model = make_model(widths=(4, 8, 16, 32), heads=(1, 2, 3))
    layers = TorchLayers(model.network, CPU, torch.float32)
    most, maps = 0, []
    make = streaming._Map

    def counted():
        maps.append(make())
        return maps[-1]

    monkeypatch.setattr(streaming, "_Map", counted)
    with torch.inference_mode():
        for _ in stream(layers, torch.rand(1, 1, 512, 64), 3, 16):
            most = max(most, sum(p.numel() * 4 for m in maps for _, p in m._pieces))
    told = peak_bytes(model.spec, 3, (512, 64), 16, item=4)
    # Pieces are kept whole until their last row is done with: up to a band more of each map.
    assert 0.4 * told < most < 1.3 * told


def test_a_whole_pass_by_hand():
    """U-Net of depth 1 and widths 2, 3: all maps, with what is gathered and written at the worst step."""
    spec = NetworkSpec(widths=(2, 3), heads=(1,), skips="plain")
    voxels, row = 8 * 8, 8
    held = 2 * voxels + 3 * voxels // 4  # X00 and X10, whole
    gathered = (2 + 3) * (voxels + 2 * row)  # for the first convolution of X01
    assert peak_bytes(spec, 1, (8, 8), 8, item=1) >= held + gathered
    assert peak_bytes(spec, 1, (8, 8), 8, item=1) <= held + gathered + 4 * voxels
    assert math.isclose(peak_bytes(spec, 1, (8, 8), 8, item=4, batch=3), 12 * peak_bytes(spec, 1, (8, 8), 8, item=1))


def test_the_first_voxels_do_not_depend_on_what_follows(make_model):
    model = make_model()
    layers = TorchLayers(model.network, CPU, torch.float32)
    image = torch.rand(1, 1, 64, 24)
    other = image.clone()
    other[:, :, 60:] = 5
    with torch.inference_mode():
        a, b = (next(p for d, _, p in stream(layers, x, 2, 8) if d == 2) for x in (image, other))
    np.testing.assert_array_equal(a, b)
    assert replace(model.spec).receptive_radius(2) < 60 - a.shape[2]
