"""A tiny random model in a user's folder of its own, and the Segment dock as a user opens it."""

import gc
import importlib

import pytest

LEVELS = (1, 2)


@pytest.fixture(scope="session")
def _modules():
    """What a window imports sooner or later."""
    for module in ("napari.qt", "napari._qt.qt_main_window", "pyqtgraph", "torch"):
        importlib.import_module(module)


@pytest.fixture
def make_napari_viewer(_modules, make_napari_viewer):
    """napari's own, after all that is older than the window was put where garbage is not looked for.

    napari collects garbage whenever a layer goes, which takes 0.3 s among all that modules and other tests hold.
    """
    gc.collect()
    gc.freeze()
    return make_napari_viewer


def _tiny_model(ndim=2, in_channels=1, classes=1, seed=0):
    """Depth 2, width 4, random, with heads that say yes to about half of white noise."""
    import torch

    from napari_unetpp.model.card import Card, ClassInfo
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.intensity import Intensity
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.model.unetpp import UNetPlusPlus

    torch.manual_seed(seed)
    spec = NetworkSpec(ndim=ndim, in_channels=in_channels, classes=classes, widths=(4, 8, 16), heads=LEVELS)
    network = UNetPlusPlus(spec).eval()
    noise = torch.rand((1, in_channels, *(32,) * ndim))
    with torch.no_grad():
        for head, logits in zip(network.heads.values(), network(noise), strict=True):
            head.bias -= logits.flatten(2).median(dim=2).values[0]
    names = ("cell",) if classes == 1 else ("background", *map(str, range(1, classes)))
    card = Card(
        "tiny",
        classes=tuple(ClassInfo(name) for name in names),
        description="Finds what chance wills.",
        data="White noise",
        licence="CC0",
        recommended_level=1,
        tiling={"kind": "seamless", "inner": 16},
    )
    return Model(spec, network, Intensity(), card, torch.device("cpu"))


@pytest.fixture
def tiny_model():
    """Makes tiny random models: `tiny_model(ndim=2, in_channels=1, classes=1, seed=0)`."""
    return _tiny_model


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder of the user's models; the bundled ones are out of sight."""
    from napari_unetpp.model import zoo

    monkeypatch.setenv("NAPARI_UNETPP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(zoo, "_BUNDLED", tmp_path / "nothing-bundled")
    zoo.user_folder().mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def model(home, tiny_model):
    """The tiny model, saved as "tiny" and loaded from there."""
    from napari_unetpp.model.checkpoint import load_model, save_model
    from napari_unetpp.model.zoo import user_folder

    save_model(tiny_model(), user_folder() / "tiny.safetensors")
    return load_model("tiny", "cpu")


@pytest.fixture
def predictions(tmp_path, monkeypatch):
    """The folder where a dock without an output folder writes."""
    from napari_unetpp.gui import segmenting

    folder = tmp_path / "predictions"
    folder.mkdir()
    monkeypatch.setattr(segmenting, "temporary_folder", lambda: folder)
    return folder


@pytest.fixture
def open_dock(viewer, model, predictions, qtbot):
    """Opens the dock like the Plugins menu does, and waits until it has looked around."""
    from napari._app_model import get_app_model  # in tests only: what a click in the menu runs

    def opened():
        get_app_model().commands.execute_command("napari-unetpp.segment").result()
        (dock,) = [w for name, w in viewer.window.dock_widgets.items() if "Segment" in name]
        qtbot.waitUntil(dock.isVisible, timeout=10_000)
        qtbot.waitUntil(lambda: dock.form.chosen_model() is not None, timeout=60_000)
        qtbot.waitUntil(lambda: "Looking" not in dock.status.text(), timeout=10_000)
        return dock

    return opened


@pytest.fixture
def folder(model):
    """The user's folder, with the model "tiny" in it."""
    from napari_unetpp.model import zoo

    return zoo.user_folder()


@pytest.fixture
def show_models(viewer, folder):
    """Opens the Models dock like the Plugins menu does."""
    from napari._app_model import get_app_model  # in tests only: what a click in the menu runs

    def shown():
        get_app_model().commands.execute_command("napari-unetpp.models").result()
        (dock,) = [w for name, w in viewer.window.dock_widgets.items() if "Models" in name]
        return dock

    return shown


@pytest.fixture
def check_uncut():
    """Checks that every text of a dock has the room that it needs."""
    from qtpy.QtWidgets import QLabel, QPushButton

    def check(dock):
        for label in (w for kind in (QLabel, QPushButton) for w in dock.findChildren(kind)):
            if label.isVisible() and not getattr(label, "wordWrap", bool)():
                assert label.width() >= label.sizeHint().width(), label.text()
            elif label.isVisible():
                assert label.height() >= label.heightForWidth(label.width()), label.text()

    return check
