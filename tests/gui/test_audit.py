"""What every dock of ours owes to napari: public names only, nothing that is going away, nothing left behind.

The docks are those of the manifest, so that a new one is audited from its first day.
"""

import ast
import gc
import re
import runpy
import traceback
import warnings
import weakref
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from npe2 import PluginManifest

import napari_unetpp

PACKAGE = Path(napari_unetpp.__file__).parent
GUI = sorted((PACKAGE / "gui").glob("*.py"))
GUI_LIBRARIES = ("napari", "qtpy", "superqt", "magicgui", "pyqtgraph", "psygnal", "vispy")
PRIVATE = re.compile("_(?!_)")
MANIFEST = PluginManifest.from_distribution("napari-unetpp")
COMMANDS = {command.id: command for command in MANIFEST.contributions.commands}
DOCKS = {widget.display_name: COMMANDS[widget.command] for widget in MANIFEST.contributions.widgets}


def own_names(tree):
    """The private names that a module gives: to what it defines, and to attributes of its objects."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            yield node.attr


def is_self(node):
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def used_names(tree):
    """(line, name) of each private attribute that a module reaches for, also through getattr, and of imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and PRIVATE.match(node.attr):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            if isinstance(node.args[1], ast.Constant) and PRIVATE.match(node.args[1].value):
                yield node.lineno, node.args[1].value
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in GUI_LIBRARIES:
            for name in (*node.module.split("."), *(alias.name for alias in node.names)):
                if PRIVATE.match(name):
                    yield node.lineno, f"import of {node.module}: {name}"


def foreign_private_names(sources):
    """What of the private names used in these sources none of them has given: it must be somebody else's."""
    trees = {name: ast.parse(text) for name, text in sources.items()}
    ours = {name for tree in trees.values() for name in own_names(tree)}
    return [
        f"{name}:{line}: {used}" for name, tree in trees.items() for line, used in used_names(tree) if used not in ours
    ]


@contextmanager
def complaints():
    """The warnings of what is private or going away that code of ours has caused, in a list that fills."""
    found = []

    def note(message, category, filename, lineno, file=None, line=None):
        if issubclass(category, FutureWarning | DeprecationWarning):
            stack = traceback.extract_stack()
            ours = [frame for frame in stack if Path(frame.filename).is_relative_to(PACKAGE)]
            importing = any(frame.filename.startswith("<frozen importlib") for frame in stack)
            if ours and not importing:  # other packages warn of one another when we import them first
                found.append(f"{ours[-1].filename}:{ours[-1].lineno}: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        yield found


@pytest.fixture
def image(rng):
    """The arguments of an image layer that all docks can work on."""
    return {"data": rng.integers(0, 255, (64, 64), np.uint8), "name": "cells"}


def settle(qtbot):
    """Wait until what the docks have begun is over: looking for models, and so on."""
    from superqt.utils._qthreading import WorkerBase  # in tests only: nobody else counts them

    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=60_000)
    qtbot.wait(50)


@pytest.fixture
def menu_entry():
    """Finds an entry of a menu by the beginnings of its path, as in the test of the plugin manager."""
    return runpy.run_path(str(Path(__file__).with_name("drive_plugin_manager.py")))["entry"]


def test_our_sources_use_no_private_name_of_others():
    assert foreign_private_names({file.name: file.read_text(encoding="utf-8") for file in GUI}) == []


@pytest.mark.parametrize(
    "line",
    [
        "viewer.window._qt_window.resize(1, 2)",
        "shown = viewer.window._dock_widgets",
        "layer._slice = None",
        "getattr(viewer.window, '_qt_viewer')",
        "from napari._qt.qthreading import create_worker",
        "from superqt.utils._qthreading import WorkerBase",
        "from napari.utils import _magicgui",
        "self._qt_window.close()",
    ],
)
def test_the_scan_finds_what_it_looks_for(line):
    fine = (
        "class Dock:\n    _kept = 1\n    def close(self):\n        self._own = self._kept\n        other._own.close()\n"
    )
    assert foreign_private_names({"fine.py": fine}) == []
    assert len(foreign_private_names({"fine.py": fine, "bad.py": line})) == 1


def test_there_are_docks_to_audit():
    assert "Segment" in DOCKS


@pytest.mark.parametrize("title", DOCKS)
def test_through_the_viewer_that_plugins_are_given(title, home, model, viewer, image, qtbot):
    viewer.add_image(**image)
    with complaints() as found:
        _, dock = viewer.window.add_plugin_dock_widget("napari-unetpp", title)  # gives it a PublicOnlyProxy
        settle(qtbot)
        viewer.layers.remove("cells")
        viewer.window.remove_dock_widget(dock)
        settle(qtbot)
    assert found == []


def test_complaints_are_heard(make_napari_viewer_proxy):
    viewer = make_napari_viewer_proxy()
    code = {"private": "viewer.window._qt_window", "old": "viewer.window.add_dock_widget(widget, shortcut='x')"}
    from qtpy.QtWidgets import QWidget

    for statement in code.values():
        with complaints() as found:
            ours = compile(statement, str(PACKAGE / "gui" / "made_up.py"), "exec")
            exec(ours, {"viewer": viewer, "widget": QWidget()})
        assert found, statement


@pytest.mark.parametrize("title", DOCKS)
def test_opened_and_closed_twice_from_the_menu(title, home, model, make_napari_viewer, image, menu_entry, qtbot):
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(**image)
    gone = []
    for _ in range(2):
        menu_entry(viewer.window.plugins_menu, title).trigger()
        (name,) = [name for name in viewer.window.dock_widgets if name.startswith(title)]
        dock = viewer.window.dock_widgets[name]
        qtbot.waitUntil(dock.isVisible, timeout=10_000)
        settle(qtbot)
        gone.append(weakref.ref(dock))
        viewer.window.remove_dock_widget(dock)
        del dock
        settle(qtbot)
        assert name not in viewer.window.dock_widgets
    assert gone[0] is not gone[1]
    gc.collect()
    assert [dock() for dock in gone] == [None, None]


@pytest.mark.parametrize("title", DOCKS)
def test_a_second_click_in_the_menu_makes_no_second_dock(title, home, model, viewer, menu_entry, qtbot):
    for _ in range(2):
        menu_entry(viewer.window.plugins_menu, title).trigger()
        settle(qtbot)
    assert len([name for name in viewer.window.dock_widgets if name.startswith(title)]) == 1
