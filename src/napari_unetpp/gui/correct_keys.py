"""The keys of the Correct dock, bound to the viewer while the dock is there.

None of them is bound by napari in a viewer, an Image or a Labels layer (a Shapes layer has its own R and D, a user's
shortcut comes before ours).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari import Viewer

KEYS = {"next": "N", "previous": "Shift-N", "mark": "R", "unmark": "Shift-R", "draw": "D"}


class BoundKeys:
    """Keys that call methods of an object, which they do not keep alive; `release` gives back what they were bound to."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._bound: dict[str, tuple[Any, Any]] = {}

    def bind(self, keys: dict[str, Callable[[], None]]) -> None:
        """Bind these, unless that is done already."""
        for key, method in keys.items():
            if key not in self._bound:
                press = _calling(method)
                self._bound[key] = press, self._viewer.bind_key(key, None)
                self._viewer.bind_key(key, press, overwrite=True)

    def release(self) -> None:
        """Unbind what is still ours."""
        for key, (press, before) in self._bound.items():
            found = self._viewer.bind_key(key, None)
            back = before if found is press else found
            if back is not None:
                self._viewer.bind_key(key, back, overwrite=True)
        self._bound = {}


def _calling(method: Callable[[], None]) -> Callable[[Any], None]:
    called = weakref.WeakMethod(method)

    def press(_viewer: Any) -> None:  # napari asks a key's action for its __name__
        if (alive := called()) is not None:
            alive()

    press.__doc__ = method.__doc__
    return press
