"""What napari calls otherwise in other versions, and the proxy that it hands to plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari import Viewer


def unwrapped(thing: Any) -> Any:
    """A viewer or a layer without napari's proxy, which lives shorter than the window and wraps what it returns."""
    return getattr(thing, "__wrapped__", thing)


def camera_of(viewer: Viewer) -> Any:
    return getattr(viewer, "scene", viewer).camera  # napari before 0.9 has no scene


def grid_of(viewer: Viewer) -> Any:
    return getattr(viewer, "canvas", viewer).grid  # napari before 0.9 has no canvas model
