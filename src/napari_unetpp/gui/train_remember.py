"""What was chosen in the Train dock of a window, for when the dock is opened there again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QLineEdit, QSpinBox, QToolButton, QWidget

from napari_unetpp.gui.train_pairs import FilePair, LayerPair

if TYPE_CHECKING:
    from napari import Viewer

    from napari_unetpp.gui.train_pairs import TrainPair

_kept: dict[int, dict[str, Any]] = {}  # by viewer, as long as that lives


def remember(viewer: Viewer, values: dict[str, Any]) -> None:
    """Keep these until the viewer is gone."""
    if id(viewer) not in _kept:
        weakref.finalize(viewer, _kept.pop, id(viewer), None)
    _kept[id(viewer)] = values


def recall(viewer: Viewer) -> dict[str, Any]:
    """What was kept last; empty where nothing was."""
    return _kept.get(id(viewer), {})


def noted(pairs: Sequence[TrainPair]) -> list[Callable[[], TrainPair | None]]:
    """The pairs without their layers, which would keep the window alive; each gives its pair back, if that is still there."""
    return [_note(pair) for pair in pairs]


def _note(pair: TrainPair) -> Callable[[], TrainPair | None]:
    if isinstance(pair, FilePair):
        return lambda: pair
    image, label, axes, corrections = weakref.ref(pair.image), weakref.ref(pair.label), pair.axes, pair.corrections

    def again() -> TrainPair | None:
        layers = image(), label()
        try:
            return LayerPair(*layers, axes, corrections) if None not in layers else None
        except ValueError:  # its data were replaced by others
            return None

    return again


def values_of(form: QWidget) -> dict[str, Any]:
    """The values of the fields that are attributes of a form, by their names."""
    found = {name: _value(field) for name, field in vars(form).items() if isinstance(field, QWidget)}
    return {name: value for name, value in found.items() if value is not None}


def set_values(form: QWidget, values: dict[str, Any]) -> None:
    """Set the fields again, as far as they still offer what was chosen."""
    for name, value in values.items():
        field = getattr(form, name, None)
        if isinstance(field, QComboBox):
            place = field.findText(value)
            if place >= 0:
                field.setCurrentIndex(place)
        elif isinstance(field, QSpinBox | QDoubleSpinBox):
            field.setValue(value)
        elif isinstance(field, QLineEdit):
            field.setText(value)
        elif isinstance(field, QCheckBox | QToolButton):
            field.setChecked(value)


def _value(field: QWidget) -> Any:
    if isinstance(field, QComboBox):
        return field.currentText()
    if isinstance(field, QSpinBox | QDoubleSpinBox):
        return field.value()
    if isinstance(field, QLineEdit):
        return field.text()
    if isinstance(field, QCheckBox) or (isinstance(field, QToolButton) and field.isCheckable()):
        return field.isChecked()
    return None
