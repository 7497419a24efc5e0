"""The study of doubt: it runs, and its curves and areas are those that one counts by hand."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.integrate

from napari_unetpp.evaluation.doubt import METHODS


@pytest.fixture(scope="module")
def study(repository):
    sys.path.insert(0, str(repository))
    try:
        from benchmarks import doubt

        yield doubt
    finally:
        sys.path.remove(str(repository))


def run(repository, out, *arguments):
    command = [sys.executable, "-m", "benchmarks.doubt", "--threads", "1", "--out", str(out), *arguments]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (written,) = out.glob("doubt-*.json")
    return json.loads(written.read_text()), done.stdout


def test_it_runs(repository, tmp_path):
    content, told = run(repository, tmp_path, "--quick")
    found = content["data_sets"]["texture"]
    (size,) = found["sizes"].values()
    assert size["regions"] == 2 * 3 * 4  # two images of 96 x 128, squares of 32
    assert set(size["methods"]) == {*METHODS, "oracle"}
    for method, entry in size["methods"].items():
        shares = [share["value"] for share in entry["found"].values()]
        best = [share["value"] for share in size["methods"]["oracle"]["found"].values()]
        assert all(a <= b + 1e-9 for a, b in zip(shares, best, strict=True)), "nobody finds more than who knows"
        assert shares == sorted(shares)
        assert method in told
    assert all(0 <= auroc <= 1 for auroc in found["auroc"].values())


def test_data_that_are_absent_are_named(repository, tmp_path):
    content, _ = run(repository, tmp_path, str(tmp_path), "--only", "^phase")
    assert set(content["absent"]) == {"phase", "phase-2", "phase-shift", "phase-shift-2"}
    assert not content["data_sets"]


def test_curves_by_hand(study):
    # Five regions of ten voxels. An order that knows finds 6, 8, 10, 10, 10 of 10 errors.
    regions = study.Regions(wrong=[0, 6, 2, 0, 2], voxels=[10] * 5, sample=[0, 0, 1, 1, 1])
    knows, reversed_, mixed = [0, 3, 2, 0, 1], [3, 0, 1, 3, 2], [5, 4, 3, 2, 1]
    for method, doubt in zip(METHODS, [knows, reversed_, mixed, mixed, mixed], strict=True):
        regions.doubt[method] = doubt
    found = study.figures(regions)["methods"]
    assert [found[m]["area"]["value"] for m in METHODS[:2]] == pytest.approx([1, -1])
    # 0, 6, 8, 8, 10 of 10 after each region: area (0 + 3 + 7 + 8 + 9) / 50 = 0.54; the best (3 + 7 + 9 + 10 + 10) / 50.
    assert found[METHODS[2]]["area"]["value"] == pytest.approx((0.54 - 0.5) / (0.78 - 0.5))
    shares = [share["value"] for share in found["oracle"]["found"].values()]
    assert shares == pytest.approx([0.03, 0.15, 0.3, 0.6, 0.9])  # of the first 1, 5, 10, 20, 50 %
    assert found["oracle"]["area"] == {"value": 1, "low": 1, "high": 1}


def test_areas_of_samples_are_those_of_the_regions_repeated(study, monkeypatch):
    monkeypatch.setattr(study, "SAMPLES", 8)
    rng = np.random.default_rng(3)
    wrong, doubt, sample = rng.integers(0, 9, 30), rng.random(30), np.repeat(np.arange(6), 5)
    regions = study.Regions(wrong=wrong.tolist(), voxels=[9] * 30, sample=sample.tolist())
    regions.doubt = {m: doubt.tolist() for m in METHODS}
    areas = []
    for draw in np.random.default_rng(0).multinomial(6, [1 / 6] * 6, 8):
        chosen = np.repeat(np.arange(30), draw[sample])
        by_doubt, by_error = ([*sorted(chosen, key=lambda k, v=v: -v[k])] for v in (doubt, wrong))
        curves = [
            np.concatenate([[0], np.cumsum(wrong[order])]) / wrong[chosen].sum() for order in (by_doubt, by_error)
        ]
        area, best = (scipy.integrate.trapezoid(c, dx=1 / len(chosen)) - 0.5 for c in curves)
        areas.append(area / best)
    found = study.figures(regions)["methods"]["uncertainty"]["area"]
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(areas, [0.025, 0.975]))


def test_auroc_is_the_share_of_pairs_in_order(study):
    rng = np.random.default_rng(0)
    right, wrong = rng.integers(0, 4, (2, 12))
    pairs = [(a > b) + (a == b) / 2 for a in np.repeat(np.arange(12), wrong) for b in np.repeat(np.arange(12), right)]
    assert study.auroc(right, wrong) == pytest.approx(np.mean(pairs))
    assert study.auroc(right, 0 * wrong) is None
