"""What the user prefers, as set on our page of napari's Preferences (File > Preferences).

Decides, in this order: what can be preferred and what holds otherwise (`Preferences`), and how the
page is read (`preferences`). The page itself is `configurations` in napari.yaml; napari draws it,
checks it, and keeps it in a file beside its own settings.

Preferences are what a dock begins with. They never stop anything: what cannot be read is its default.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

PLUGIN = "napari-unetpp"
TILINGS = ("overlap", "seamless")
PLANES = ("z", "zyx")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a dock begins with; without arguments, what holds where the user prefers nothing.

    Attributes
    ----------
    tiling : str or None
        One of `TILINGS`; None is what the card of the model recommends.
    device : str
        One of `DEVICES`, whether or not this machine has it.
    memory_mib : int or None
        What a run may take, in MiB; None is what suits the device.
    output_folder : Path or None
        Where predictions go, whether or not it exists; None is a temporary folder.
    live : bool
        Whether the level on the screen is computed where nothing is predicted yet.
    planes : str
        One of `PLANES`: along which axes a 2D model goes, where it may.
    """

    tiling: str | None = None
    device: str = "auto"
    memory_mib: int | None = None
    output_folder: Path | None = None
    live: bool = True
    planes: str = "z"


def preferences() -> Preferences:
    """What the page says now; the defaults with a napari before 0.9, which has no such page."""
    try:
        from napari.settings import get_plugin_settings

        page = get_plugin_settings(PLUGIN).segment
    except (ImportError, KeyError):  # no page, or napari drew its pages before we were installed
        return Preferences()
    except Exception:  # napari reads the files of all plugins at once, and fails with the first bad one
        log.warning("the preferences cannot be read, the defaults are used", exc_info=True)
        return Preferences()
    default = Preferences()
    return Preferences(
        tiling=_one_of(TILINGS, getattr(page, "tiling", None), default.tiling),
        planes=_one_of(PLANES, getattr(page, "planes", None), default.planes),
        device=_one_of(DEVICES, getattr(page, "device", None), default.device),
        memory_mib=_positive(getattr(page, "memory_mib", None)),
        output_folder=_folder(getattr(page, "output_folder", None)),
        live=bool(_one_of((True, False), getattr(page, "live", None), default.live)),
    )


def _one_of(offered: tuple[Any, ...], value: Any, default: Any) -> Any:
    return value if value in offered else default


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _folder(value: Any) -> Path | None:
    if not isinstance(value, str) or not value.strip():
        return None
    try:
        return Path(value.strip()).expanduser()
    except RuntimeError:  # "~somebody" of whom this machine knows nothing
        return None
