"""What a dock tells all others, whichever window they are in. Knows neither Qt nor napari.

A dock that offers models connects a method and looks whether it is still there when it is called, because
Qt may have deleted a dock that Python still holds::

    shared.models_changed.connect(self._on_models_changed)

    def _on_models_changed(self) -> None:
        if isalive(self):  # from qtpy.compat
            ...
"""

from __future__ import annotations

from psygnal import Signal


class Shared:
    """The signals; emit them in the thread of the window only."""

    models_changed = Signal(description="A model came, went, or has another name.")


shared = Shared()
