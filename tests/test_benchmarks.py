"""The benchmarks run: every command that needs no peer, on a tiny network, and what they count is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from torch.utils.flop_counter import FlopCounterMode

from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.model.unetpp import UNetPlusPlus

PAPER_GFLOP = {1: 1.110, 2: 2.894, 3: 5.698, 4: 9.690}  # counted by others for NestedUNet on a patch of 96 x 96


def run(repository: Path, out: Path, name: str, *arguments: str, **environment: str) -> dict:
    """The JSON that a smoke run of a benchmark writes."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--threads", "1", "--out", str(out), *arguments]
    done = subprocess.run(
        command, cwd=repository, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (written,) = out.glob(f"{name}-*.json")
    content = json.loads(written.read_text())
    assert content["quick"]
    assert content["machine"]["cores"] >= 1
    return content


@pytest.fixture(scope="module")
def networks(repository):
    sys.path.insert(0, str(repository))
    try:
        from benchmarks import networks

        yield networks
    finally:
        sys.path.remove(str(repository))


@pytest.mark.parametrize("level", PAPER_GFLOP)
def test_operations_of_the_standard_network(networks, level):
    counted = networks.network_flops(NetworkSpec.preset("default"), (96, 96), level)
    assert round(counted / 1e9, 3) == PAPER_GFLOP[level]


@pytest.mark.parametrize("name", ["default", "unet++", "unet+", "unetplusplus-64", "milesial-unet-bilinear"])
def test_operations_are_those_that_torch_counts(networks, name):
    spec = NetworkSpec.preset(name).with_width(4) if "64" not in name else NetworkSpec.preset(name)
    if "milesial" in name:
        spec = NetworkSpec.preset(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        UNetPlusPlus(spec)(torch.zeros(2, 1, 32, 48))
    assert networks.network_flops(spec, (32, 48), batch=2) == counter.get_total_flops()


def test_operations_seen_by_the_profiler_are_those_of_the_pass(networks):
    from benchmarks import ours

    spec = NetworkSpec.preset("default").with_width(4)
    model = networks.make_model(spec)
    image = networks.texture((160, 176))
    backend = ours.prepared(model, "fp32", image).backend
    counted = ours.profiled_flops(ours.array_run(model, backend, image, ours.Mode("exact", "fp32", 4), threads=1))
    assert counted == pytest.approx(networks.network_flops(spec, image.shape), rel=1e-6)


def test_a_naive_loop_equals_our_overlap(networks):
    from benchmarks import others, ours

    model = networks.make_model(NetworkSpec.preset("default").with_width(4))
    image = networks.texture((112, 160))
    theirs = others.over_slices(others.naive(networks.Heads(model.network).eval(), "cpu"), image, 1)()
    backend = ours.prepared(model, "fp32", image).backend
    found = ours.array_run(model, backend, image, ours.Mode("overlap", "fp32", 4), threads=1)()
    for level, probability in found.items():
        np.testing.assert_allclose(probability[0], theirs[level - 1], atol=1e-5)


def test_ceilings(repository, tmp_path):
    content = run(repository, tmp_path, "ceilings")
    for name, found in content["arithmetic"].items():
        assert found is None or found["one_core"] > 0, name
        assert found is not None or any(line.startswith(name) for line in content["missing"])
    assert content["copy_gb_per_second"] > 0
    assert content["network"]["L4"]["gflop_per_96_patch"] == pytest.approx(9.690, abs=1e-3)


@pytest.fixture(scope="module")
def peers(repository, tmp_path_factory):
    """A smoke run of `peers`, and the folder where its JSON lies."""
    out = tmp_path_factory.mktemp("peers")
    return run(repository, out, "peers", "--kind", "both", "--only", "^naive|^fast-fp32$", "--no-tune"), out


def test_peers_that_are_absent_are_named(peers):
    content, _ = peers
    (size,) = content["sizes"].values()
    assert {"naive-loop", "naive-loop disk", "fast-fp32", "fast-fp32 disk"} <= set(size["cases"])
    installed = {"monai", "nnunetv2", "tiler"} - set(content["absent_peers"])
    assert (size["baseline"] == "monai-constant-4") == ("monai" in installed)
    for case in size["cases"].values():
        assert case["ratio"]["median"] > 0
        assert case["gflop"] > 0


def test_levels(repository, tmp_path):
    content = run(repository, tmp_path, "levels", "--only", "fast-fp32")
    assert set(content["cases"]) == {"fast-fp32", "fast-fp32-L3", "fast-fp32-L2", "fast-fp32-L1"}


def test_training(repository, tmp_path):
    content = run(repository, tmp_path, "training")
    assert {"all", "decoder", "heads", "all, patches ready"} <= set(content["cases"])
    assert content["cases"]["all"]["busy"]["median"] > 0
    assert content["memory"]["data_mib"] == pytest.approx(1.0)


def test_memory(repository, tmp_path):
    content = run(repository, tmp_path, "memory", "--only", "slice fast-fp32|stack-64 fast-fp32")
    if not Path("/proc/self/clear_refs").exists():
        assert content["not_measured"]
        return
    assert set(content["cases"]) == {"slice fast-fp32", "stack-64 fast-fp32"}
    assert all(case["peak_mib"] > 0 for case in content["cases"].values())


def test_same_image(repository, tmp_path):
    """It fails by itself where a changed voxel is not noticed."""
    figures = run(repository, tmp_path, "same_image")["figures"]
    assert figures["hash_seconds"] > 0
    assert "has changed since" in figures["told"]


@pytest.mark.slow
def test_startup(repository, tmp_path):
    content = run(repository, tmp_path, "startup", "--precision", "fp32")
    assert not content["left_out"]
    assert (
        content["seconds"]["segment fp32 shell to exit"]["median"]
        > content["seconds"]["python fp32 first_l1"]["median"]
    )


@pytest.mark.slow
@pytest.mark.gui
def test_large_tiff(repository, tmp_path):
    content = run(repository, tmp_path, "large_tiff")
    kinds = {name: case["data"] for name, case in content["cases"].items()}
    assert kinds == {"contiguous": "memmap", "pages": "Array", "pyramid": "MultiScaleData"}
    assert all(case["step_seconds"]["min"] > 0 for case in content["cases"].values())


@pytest.mark.gui
def test_window(repository, tmp_path):
    content = run(repository, tmp_path, "window")
    figures = content["milliseconds"]
    assert all(0 <= f["median"] <= f["p95"] <= f["max"] for f in figures.values())
    assert figures["switch"]["count"] == 29
    assert figures["preview L4 by scrolling"]["median"] >= figures["preview L1 by scrolling"]["median"]


def test_accuracy_says_which_data_are_absent(repository, tmp_path):
    content = run(repository, tmp_path, "accuracy", NAPARI_UNETPP_DATA=str(tmp_path))
    assert set(content["absent"]) == {"em_isbi2012", "fib25", "nuclei"}
    assert not content["data_sets"]


def test_accuracy_of_fp32_against_itself(repository, tmp_path, shared_data):
    content = run(
        repository,
        tmp_path,
        "accuracy",
        "--only",
        "nuclei",
        "--modes",
        "exact-fp32",
        NAPARI_UNETPP_DATA=str(shared_data),
    )
    for level in content["data_sets"]["nuclei"]["modes"]["exact-fp32"].values():
        assert level["max_deviation"] == 0
        assert level["label_agreement"] == 1
        assert 0 < level["dice"] <= 1


def test_exports_are_measured_beside_ours(repository, tmp_path):
    content = run(repository, tmp_path, "exports", "--formats", "safetensors,torchscript")
    for kind in ("safetensors", "torchscript"):
        sizes = [content["bytes"][f"{kind}-L{level}"] for level in (4, 3, 2, 1)]
        assert sizes == sorted(sizes, reverse=True)
    assert all(case["times_as_fast_as_ours"]["min"] > 0 for case in content["cases"].values())


def test_hippocampus_scores_every_level_and_goes_on(repository, tmp_path):
    for kind, top in (("images", 255), ("labels", 3)):
        (tmp_path / kind).mkdir()
        for number in range(5):
            voxels = np.random.default_rng(number).integers(0, top, (8, 20, 16)).astype(np.uint8)
            tifffile.imwrite(tmp_path / kind / f"{number}.tif", voxels, metadata={"axes": "ZYX"})
    first = run(repository, tmp_path, "hippocampus", "--data", str(tmp_path), "--networks", "v-net")
    assert [entry["network"] for entry in first["runs"]] == ["v-net"]
    content = run(repository, tmp_path, "hippocampus", "--data", str(tmp_path))
    assert content["runs"][0] == first["runs"][0]
    assert [entry["network"] for entry in content["runs"]] == ["v-net", "vnet+", "vnet++"]
    for entry in content["runs"]:
        levels = ["L2"] if entry["network"] == "v-net" else ["L1", "L2", "ensemble"]
        for dice in entry["dice"].values():
            assert list(dice) == levels
            assert all(0 <= score <= 1 for level in dice.values() for of in level.values() for score in of)


def test_plot(repository, peers, tmp_path):
    pytest.importorskip("matplotlib")
    (result,) = peers[1].glob("peers-*.json")
    picture = tmp_path / "picture.png"
    command = [sys.executable, "-m", "benchmarks.plot", str(result), "--to", str(picture)]
    subprocess.run(command, cwd=repository, check=True, capture_output=True)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_planes(repository, tmp_path, shared_data):
    content = run(repository, tmp_path, "planes", str(shared_data))
    assert set(content["stacks"]) == {"whole", "unseen"}
    for figures in content["stacks"].values():
        one, three = (figures[name]["levels"] for name in ("z", "z, y, x"))
        assert set(one) == set(three) == {"L1", "L2", "L3", "L4"}
        assert all(three[level]["iou"] > one[level]["iou"] for level in one)
