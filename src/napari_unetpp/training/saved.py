"""What a run has put on the disk, kept in memory as well: it is looked for there, and can be saved elsewhere where it is gone."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from napari_unetpp.model.checkpoint import Model, ModelFileError, load_model, network_of, read_header, save_model
from napari_unetpp.training.resume import RunState, save_state
from napari_unetpp.training.run_files import state_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class NotSavedError(OSError):
    """The folder of a run is gone, or the model file in it is not what the run has saved; one line for the user."""


@dataclass(slots=True)
class Saved:
    """The files of one run.

    Attributes
    ----------
    model : Model or None
        What the model file must hold, on the CPU; None before the first epoch.
    epoch, written : int
        The epoch that it is of, counted from 1, and the one that was last written whole; 0 for none.
    resumable : bool
        Whether there must be a file from which the run can go on.
    """

    out: Path
    model: Model | None = None
    epoch: int = 0
    written: int = 0
    resumable: bool = False
    _weights: str = ""
    _folder: tuple[int, int] | None = field(default=None)

    def begin(self, state: RunState | None) -> None:
        """Remember the folder, and what a run that goes on finds in it.

        Raises
        ------
        FileNotFoundError, ModelFileError
            If the model of a run that goes on is gone or damaged.
        """
        self._folder = _identity(self.out.parent)
        if self._folder is None:
            raise FileNotFoundError(f"folder {self.out.parent} does not exist; make it, or save the model elsewhere")
        if state is not None:
            if not self.out.exists():
                raise FileNotFoundError(
                    f"{self.out}, the model of the stopped run, is gone; put it back, or remove {state_path(self.out)} to start "
                    "anew"
                )
            self.model, self.resumable = load_model(self.out, "cpu"), True
            self.epoch = next((past["epoch"] + 1 for past in reversed(state.history) if past["kept"]), 0)
            self.written = self.epoch
            self._weights = read_header(self.out).weights_sha256

    def save(self, model: Model, epoch: int) -> None:
        """Write the model file.

        Raises
        ------
        NotSavedError
            If the folder is gone.
        OSError
            If it cannot be written.
        """
        cpu = torch.device("cpu")
        self.model = replace(model, network=network_of(model.spec, _on_cpu(model)).eval(), device=cpu)
        self.epoch = epoch
        with self._writing():
            save_model(self.model, self.out)
            self._weights = read_header(self.out).weights_sha256
        self.written = epoch

    def save_state(self, state: RunState, record: Mapping[str, Any]) -> None:
        """Write what the run can go on from; raises as `save`."""
        with self._writing():
            save_state(state, self.out, record)
        self.resumable = True

    def check(self, *, whole: bool = False) -> None:
        """Look whether the model file is there, and is what was last written; `whole` reads all of it back.

        Raises
        ------
        NotSavedError
            If it is not.
        """
        self._check_folder()
        if self.model is None:
            return
        if not self.out.exists():
            what = "was moved or deleted during the training" if self.written else "could not be written"
            raise NotSavedError(f"{self.out} {what}")
        try:
            found = read_header(self.out).weights_sha256
            if whole and found == self._weights:
                load_model(self.out, "cpu")  # compares the weights with their hash
        except (ModelFileError, OSError) as error:
            raise NotSavedError(f"{self.out} cannot be read back: {error}") from None
        if found != self._weights:
            raise NotSavedError(f"{self.out} was replaced by another model during the training")

    def _check_folder(self) -> None:
        if _identity(self.out.parent) != self._folder:
            raise NotSavedError(f"folder {self.out.parent} was moved, deleted or replaced during the training")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._check_folder()
        try:
            yield
        except (OSError, RuntimeError) as error:
            self._check_folder()  # which says it better
            if isinstance(error, OSError):
                raise
            line = " ".join(str(error).split())[:200]  # what torch says to a full disk
            raise OSError(f"{self.out} could not be written: {line}") from None


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one that was made in its place."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _on_cpu(model: Model) -> dict[str, torch.Tensor]:
    return {key: value.detach().cpu() for key, value in model.network.state_dict().items()}
