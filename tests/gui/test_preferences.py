"""What the user prefers: the page in napari's Preferences, and how it is read."""

from pathlib import Path

import pytest
from npe2 import PluginManifest

from napari_unetpp.gui.preferences import DEVICES, TILINGS, Preferences, preferences

# What a user can set, and what a dock then begins with.
SETTINGS = [
    ("tiling", "recommended", None),
    ("tiling", "overlap", "overlap"),
    ("tiling", "seamless", "seamless"),
    ("device", "cpu", "cpu"),
    ("device", "mps", "mps"),
    ("memory_mib", 0, None),
    ("memory_mib", 1500, 1500),
    ("output_folder", "", None),
    ("output_folder", "  /data/predictions ", Path("/data/predictions")),
    ("output_folder", "~/predictions", Path.home() / "predictions"),
    ("output_folder", "~nobody-of-that-name/predictions", None),
    ("live", False, False),
]


@pytest.fixture
def page(plugin_settings, npe2pm):
    """Our settings in napari, kept in a folder of the test's own."""
    pytest.importorskip("napari", minversion="0.9")
    from napari.settings import get_plugin_settings

    npe2pm.register(PluginManifest.from_distribution("napari-unetpp"))
    return get_plugin_settings("napari-unetpp").segment


@pytest.fixture
def dialog(page, viewer, qtbot):
    """The Preferences as the menu opens them."""
    from qtpy.QtWidgets import QApplication

    menu = viewer.window.file_menu
    next(action for action in menu.actions() if action.text().replace("&", "") == "Preferences").trigger()

    def found():
        return [w for w in QApplication.topLevelWidgets() if w.windowTitle() == "Preferences" and w.isVisible()]

    qtbot.waitUntil(lambda: bool(found()), timeout=10_000)
    (opened,) = found()
    yield opened
    opened.close()


def fields(dialog):
    """The page of the plugin, chosen in the list at the left, as {title: field}."""
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QFormLayout, QListWidget, QStackedWidget

    names = dialog.findChild(QListWidget, "Preferences")
    (entry,) = names.findItems("napari-unetpp", Qt.MatchFlag.MatchExactly)
    names.setCurrentItem(entry)
    shown = dialog.findChild(QStackedWidget).currentWidget()
    found = {}
    for form in shown.findChildren(QFormLayout):
        for row in range(form.rowCount()):
            label, field = (form.itemAt(row, role) for role in (QFormLayout.LabelRole, QFormLayout.FieldRole))
            if label is not None and field is not None:
                found[label.widget().text()] = field.widget()
    return found


def test_an_untouched_page_is_the_defaults(page):
    assert preferences() == Preferences()


def test_the_page_offers_what_is_understood(page):
    offered = type(page).model_json_schema()["properties"]
    assert offered["tiling"]["enum"] == ["recommended", *TILINGS]
    assert offered["device"]["enum"] == list(DEVICES)


@pytest.mark.parametrize(("name", "value", "expected"), SETTINGS)
def test_each_setting_is_read_and_no_other_changes(page, name, value, expected):
    setattr(page, name, value)
    changed = preferences()
    assert getattr(changed, name) == expected
    others = [other for other in Preferences.__dataclass_fields__ if other != name]
    assert [getattr(changed, other) for other in others] == [getattr(Preferences(), other) for other in others]


def test_settings_are_kept_for_the_next_session(page):
    from napari import settings

    page.tiling, page.memory_mib, page.live = "overlap", 4096, False
    # what a new process does: read the file
    settings._clear_plugin_settings_cache()
    assert preferences() == Preferences(tiling="overlap", memory_mib=4096, live=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("segment: {tiling: hexagons, device: cpu}", Preferences(device="cpu")),
        ("segment: {memory_mib: -5, device: abacus, live: perhaps, tiling: overlap}", Preferences(tiling="overlap")),
        ("segment: {memory_mib: much, output_folder: [a, b]}", Preferences()),
        ("segment: nothing", Preferences()),
        ("[a, list]", Preferences()),
        ("{ torn", Preferences()),
        ("", Preferences()),
    ],
)
def test_what_a_damaged_file_does_not_say_is_the_default(page, tmp_path, text, expected):
    from napari import settings

    (tmp_path / "napari-unetpp.yaml").write_text(text)
    settings._clear_plugin_settings_cache()
    assert preferences() == expected


@pytest.mark.parametrize(
    "value", [{"tiling": 3, "device": None, "memory_mib": "8", "output_folder": 8, "live": "yes"}, {}]
)
def test_values_that_napari_did_not_check(page, monkeypatch, value):
    from types import SimpleNamespace

    from napari import settings

    monkeypatch.setattr(settings, "get_plugin_settings", lambda _: SimpleNamespace(segment=SimpleNamespace(**value)))
    assert preferences() == Preferences()


def test_a_napari_without_plugin_settings(monkeypatch, caplog):
    from napari import settings

    monkeypatch.delattr(settings, "get_plugin_settings")
    assert preferences() == Preferences()
    assert not caplog.records  # nothing is wrong


def test_a_plugin_that_napari_does_not_know_yet(plugin_settings, caplog):
    assert preferences() == Preferences()
    assert not [record for record in caplog.records if record.name.startswith("napari_unetpp")]


def test_the_page_shows_every_setting(page, dialog):
    described = type(page).model_json_schema()["properties"]
    shown = fields(dialog)
    assert list(shown) == [about["title"] for about in described.values()]
    assert {about.get("description", "")[-1:] for about in described.values()} == {"."}
    assert all(field.isVisible() for field in shown.values())


def test_what_is_chosen_on_the_page_is_preferred(page, dialog, qtbot, tmp_path):
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QPushButton

    shown = list(fields(dialog).values())
    tiling, planes, device, memory, folder, live = shown
    planes.setCurrentText("zyx")
    tiling.setCurrentText("seamless")
    device.setCurrentText("cuda")
    memory.selectAll()
    qtbot.keyClicks(memory, "2048")
    qtbot.keyClicks(folder, str(tmp_path))
    live.click()
    (ok,) = [button for button in dialog.findChildren(QPushButton) if button.text() == "OK"]
    qtbot.mouseClick(ok, Qt.MouseButton.LeftButton)
    assert preferences() == Preferences("seamless", "cuda", 2048, tmp_path, False, "zyx")
    assert "memory_mib: 2048" in (tmp_path / "napari-unetpp.yaml").read_text()
