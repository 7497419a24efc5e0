"""What all tests share: seeds, real data where it is at hand, a viewer that waits for its workers.

Tests that need a display or a GPU say so with the markers `gui` and `gpu` (a test that asks for
pytest-qt's or napari's fixtures is `gui` by itself) and are skipped where there is none.
"""

from __future__ import annotations

import gc
import os
import random
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# What a precision costs in accuracy has tests of its own; all others expect the numbers of fp32 on any machine.
os.environ["NAPARI_UNETPP_PRECISION"] = "fp32"

# A busy machine is no fault of the code: only wrong answers fail, never slow ones.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


_REGISTERED: list[object] = []  # operators live as long as who registered them


class _TorchvisionAnyway:
    """Lets torchvision be imported where its operators were built for another torch than the one that is there.

    timm and segmentation_models.pytorch import it and call none of them, but its package asks for two at import.
    """

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name != "torchvision" or _REGISTERED or (found := PathFinder.find_spec(name)) is None:
            return
        import torch

        try:
            for built in Path(found.origin or "").parent.glob("_C.*"):
                torch.ops.load_library(str(built))
        except OSError:
            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _REGISTERED.append(library)


sys.meta_path.insert(0, _TorchvisionAnyway)

REPOSITORY = Path(__file__).resolve().parents[1]
GUI_FIXTURES = {"qapp", "qtbot", "viewer", "make_napari_viewer", "make_napari_viewer_proxy"}


def has_display() -> bool:
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if GUI_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("gui")
        # Without a display Qt aborts the whole process, so this cannot be left to the test.
        if item.get_closest_marker("gui") and not has_display():
            item.add_marker(pytest.mark.skip(reason="no display; script/test starts a virtual one"))
        if item.get_closest_marker("gpu") and not has_gpu():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="module", autouse=True)
def _older_is_no_garbage() -> None:
    """Puts what modules and other tests hold where garbage is not looked for, half a second each time with torch loaded."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test may still read the old generator
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)
        # numba, by which napari colours labels, gives OpenMP all cores when it begins, and torch with it. Beside
        # another process of tests each small convolution then takes fifty times as long.
        if threads := os.environ.get("OMP_NUM_THREADS"):
            torch.set_num_threads(int(threads))


@pytest.fixture(autouse=True)
def _own_home(monkeypatch, tmp_path_factory) -> None:
    """Keeps the tests away from the models of whoever runs them."""
    monkeypatch.setenv("NAPARI_UNETPP_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data sets, which is not part of the repository."""
    default = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("NAPARI_UNETPP_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder} (NAPARI_UNETPP_SHARED names another folder)")
    return folder


@pytest.fixture
def viewer(make_napari_viewer, qtbot):
    """A shown viewer; before it closes, every worker that it started has ended."""
    from superqt.utils._qthreading import WorkerBase

    window = make_napari_viewer(show=True)
    yield window
    # A worker that outlives the viewer would signal into deleted widgets, in the next test.
    for worker in list(WorkerBase._worker_set):
        worker.quit()
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=30_000)
