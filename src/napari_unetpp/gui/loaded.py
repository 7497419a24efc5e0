"""Models that are in memory, ready to run, so that a run or a preview need not wait for them.

Decides when a loaded model is the one on disk, and how many are kept. Called by workers, never in
the thread of the window: the first call imports torch.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_unetpp.inference.backends import Backend
    from napari_unetpp.model.checkpoint import Model

_KEPT = 2  # one is on the screen, one is compared with it; each holds its weights twice
_lock = threading.Lock()
_loaded: OrderedDict[tuple[str, str, int, int], tuple[Model, Backend]] = OrderedDict()


def load_ready(path: Path, device: str = "auto") -> tuple[Model, Backend]:
    """The model of a file, and the same made ready to run, in the precision that is best for its device.

    Raises
    ------
    ValueError, OSError
        As `load_model`.
    """
    from napari_unetpp.inference.backends import prepare
    from napari_unetpp.model.checkpoint import load_model

    about = path.stat()
    key = (str(path), device, about.st_mtime_ns, about.st_size)
    with _lock:  # a second caller waits for the first instead of loading it again
        if key not in _loaded:
            model = load_model(path, device)
            _loaded[key] = model, prepare(model)
        _loaded.move_to_end(key)
        while len(_loaded) > _KEPT:
            _loaded.popitem(last=False)
        return _loaded[key]
