"""Notifications of napari about what was chosen or left out while a file was opened."""

from __future__ import annotations

from collections.abc import Sequence

from napari.utils.notifications import show_info


def tell(name: str, notes: Sequence[str]) -> None:
    """Show the notes on a file, each once; called by the reader, in any thread."""
    for note in dict.fromkeys(notes):
        show_info(f"{name}: {note}")
