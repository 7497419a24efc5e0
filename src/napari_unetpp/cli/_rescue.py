"""What a training that was stopped or failed leaves on the disk, in words, and where its model goes if that is gone."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetpp.cli._output import one_line

if TYPE_CHECKING:
    from napari_unetpp.training.saved import Saved


def what_is_left(saved: Saved) -> str:
    """What there is to go on with; a model that is not on the disk any more is saved elsewhere, because it is still in memory."""
    from napari_unetpp.training.run_files import state_path
    from napari_unetpp.training.saved import NotSavedError

    if saved.model is None:
        return "no epoch was finished, so nothing is kept; start again"
    try:
        saved.check()
    except NotSavedError as error:
        return f"{one_line(error)}; {_saved_elsewhere(saved)}"
    if saved.written != saved.epoch and not state_path(saved.out).exists():  # nobody could train that epoch again
        return f"{saved.out} holds epoch {saved.written}; {_saved_elsewhere(saved)}"
    kept = f"{saved.out} holds the weights of epoch {saved.written}"
    if saved.model.card.training.get("chosen_by") == "validation":
        kept = f"{saved.out} holds the best epoch so far"
    if state_path(saved.out).exists():
        return f"{kept}; the same command with --resume goes on from the last whole epoch"
    return f"{kept}; the run cannot be resumed"


def _saved_elsewhere(saved: Saved) -> str:
    """Where the model went: the working folder, or the one for temporary files; never the folder that is gone."""
    from napari_unetpp.model.checkpoint import save_model

    assert saved.model is not None
    for folder in (Path(), Path(tempfile.gettempdir())):
        try:
            place = folder.absolute()
            free = (place / f"{saved.out.stem} rescued{n or ''}.safetensors" for n in range(1000))
            target = save_model(saved.model, next(path for path in free if not path.exists()))
        except (OSError, StopIteration):  # the working folder may be the one that is gone
            continue
        return f"its epoch {saved.epoch} is saved as {target} instead, and the run cannot be resumed"
    return f"its epoch {saved.epoch} could not be saved elsewhere and is lost"
