"""The Models dock: which models there are, what each says of itself, and how the user's come and go.

Decides, in this order: what is listed and shown, what can be done when, how a file is imported (button or
drop), renamed, deleted, saved pruned, and what others are told. The work itself is `models_work`, in jobs of
which one runs at a time; here widgets are only bound and called.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog, QInputDialog, QMessageBox

from napari_unetpp.gui.jobs import Job, JobError
from napari_unetpp.gui.models_panel import ModelsPanel
from napari_unetpp.gui.models_work import (
    Changed,
    Listing,
    ModelFile,
    Taken,
    delete,
    examine,
    import_file,
    list_models,
    prune_to,
    rename,
)
from napari_unetpp.gui.shared import shared
from napari_unetpp.gui.status import report
from napari_unetpp.model.zoo import SUFFIX, user_folder

if TYPE_CHECKING:
    from qtpy.QtGui import QDragEnterEvent, QDropEvent, QShowEvent

CHECKPOINTS = (SUFFIX, ".pth", ".pt", ".ckpt")
FILES = f"Models ({' '.join(f'*{suffix}' for suffix in CHECKPOINTS)});;All files (*)"


class ModelsWidget(ModelsPanel):
    """The dock.

    Attributes
    ----------
    models : dict
        From name to `ModelFile`, as listed.
    job : Job or None
        The one that changes something, while there is one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, ModelFile] = {}
        self.job: Job | None = None
        self._reading: Job | None = None
        self._outdated = False
        self._wanted: str | None = None
        self._waiting: list[tuple[Path, str | None]] = []
        self._saved_to: Path | None = None
        self.list.currentItemChanged.connect(self._on_chosen)
        self.import_button.clicked.connect(self.choose_import)
        self.rename_button.clicked.connect(self.rename)
        self.delete_button.clicked.connect(self.delete)
        self.save_button.clicked.connect(self.save_pruned)
        self.folder_button.clicked.connect(self.open_folder)
        self._allow()
        self.refresh()

    # What is listed and shown

    def refresh(self) -> None:
        """Read the list anew."""
        if self._reading is not None:
            self._outdated = True  # what is being read may be older than what was just done
            return
        if not self.models:
            self.say("Looking for models …")
        self._outdated = False
        self._reading = Job(list_models(), self)
        self._reading.yielded.connect(self._on_listing)
        self._reading.failed.connect(self._on_failed)
        self._reading.finished.connect(self._on_read)
        self._reading.start()

    def chosen(self) -> ModelFile | None:
        """The model selected in the list."""
        item = self.list.currentItem()
        return self.models.get(item.text(0)) if item is not None else None

    def _on_listing(self, listing: Listing) -> None:
        before = self.chosen()
        chosen = self._wanted or (before.entry.name if before else None)
        self._wanted = None
        if not self.models:
            self.say("")
        self.models = {model.entry.name: model for model in listing.models}
        self.show_models(listing.models, chosen)
        self._on_chosen()

    def _on_read(self) -> None:
        self._reading = None
        if self._outdated:
            self.refresh()

    def _on_chosen(self, *_items: object) -> None:
        model = self.chosen()
        self.show_card(model)
        self.show_levels(model)
        self._allow()
        if model is not None and model.header is not None:
            job = Job(examine(model), self)
            job.yielded.connect(self._on_examined)
            job.start()  # a file that is gone meanwhile keeps its card without a hash

    def _on_examined(self, model: ModelFile) -> None:
        listed = self.models.get(model.entry.name)
        if listed is not None and listed.header is model.header:  # and not renamed or replaced meanwhile
            self.models[model.entry.name] = model
            if self.chosen() is model:
                self.show_card(model)

    def _on_models_changed(self) -> None:
        if isalive(self):
            self.refresh()

    def _allow(self) -> None:
        """Enable what can be done now, and say why not."""
        model, idle = self.chosen(), self.job is None
        own = model is not None and model.entry.origin == "user"
        for button in (self.rename_button, self.delete_button):
            button.setEnabled(idle and own)
        usable = model is not None and model.header is not None
        self.import_button.setEnabled(idle)
        self.save_button.setEnabled(idle and usable)
        self.level.setEnabled(idle and usable)

    # What can be done

    def choose_import(self) -> None:
        """Ask for a model file and import it."""
        path, _ = QFileDialog.getOpenFileName(self, "Import a model", "", FILES)
        if path:
            self.import_files([Path(path)])

    def import_files(self, paths: list[Path]) -> None:
        """Import model files, one after the other."""
        self._waiting += [(path, None) for path in paths]
        self._next()

    def rename(self) -> None:
        """Ask for another name of the selected model."""
        if (model := self.chosen()) is None:
            return
        name, yes = QInputDialog.getText(self, "Rename model", "New name:", text=model.entry.name)
        if yes and name != model.entry.name:
            self._start(rename(model.entry.name, name), f"Renaming {model.entry.name} …")

    def delete(self) -> None:
        """Ask whether to remove the selected model for good."""
        if (model := self.chosen()) is None:
            return
        buttons = QMessageBox.StandardButton
        question = f"Remove the model {model.entry.name} for good?\n\n{model.entry.path}"
        answer = QMessageBox.question(self, "Delete model", question, buttons.Yes | buttons.No, buttons.No)
        if answer == buttons.Yes:
            self._start(delete(model.entry.name), f"Deleting {model.entry.name} …")

    def save_pruned(self) -> None:
        """Ask where to save the selected model, pruned to the level of the combo box."""
        model, level = self.chosen(), self.level.currentData()
        if model is None or level is None:
            return
        folder = self._saved_to or self._make_folder()
        proposed = folder / f"{model.entry.name}-L{level}{SUFFIX}"
        path, _ = QFileDialog.getSaveFileName(self, f"Save {model.entry.name} pruned to L{level}", str(proposed), FILES)
        if not path:
            return
        target = Path(path)
        if target.suffix != SUFFIX:
            target = target.with_name(target.name + SUFFIX)
            if target.exists():  # the dialog has asked about a file of another name
                self._on_failed(JobError(FileExistsError(f"{target} exists; choose that file, or another name")))
                return
        self._saved_to = target.parent
        self._start(prune_to(model.entry, level, target), f"Pruning {model.entry.name} to L{level} …")

    def open_folder(self) -> None:
        """Show the folder of the user's models in the file manager."""
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._make_folder())))

    def _make_folder(self) -> Path:
        folder = user_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._on_failed(JobError(error))
        return folder

    # Jobs

    def _next(self) -> None:
        if self._waiting and self.job is None:
            path, name = self._waiting.pop(0)
            self._start(import_file(path, name), f"Checking {path.name} …")

    def _start(self, steps: Generator[Any], text: str) -> None:
        if self.job is not None:
            return
        self.say(text)
        self.job = Job(steps, self)
        self.job.yielded.connect(self._on_event)
        self.job.failed.connect(self._on_failed)
        self.job.finished.connect(self._on_finished)
        self._allow()
        self.job.start()

    def _on_event(self, event: Changed | Taken) -> None:
        if isinstance(event, Taken):
            self._ask_for_name(event)
            return
        self._wanted = event.name
        self.say(event.text)
        shared.models_changed.emit()  # this dock hears it as well

    def _ask_for_name(self, taken: Taken) -> None:
        name, yes = QInputDialog.getText(self, "Import a model", f"{taken.reason}:", text=taken.offered)
        if yes and name:
            self._waiting.insert(0, (taken.path, name))
        else:
            self.say("Nothing was imported.")

    def _on_failed(self, error: JobError) -> None:
        self.say(str(error), error=True)
        report(error)

    def _on_finished(self) -> None:
        if self.job is not None:
            self.job.deleteLater()
            self.job = None
        self._allow()
        self._next()

    # Drops, coming and going

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if _dropped(event):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        event.acceptProposedAction()
        self.import_files(_dropped(event))

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        shared.models_changed.connect(self._on_models_changed, unique=True)
        if self.models:  # not the first time: something else may have written a model meanwhile
            self.refresh()

    def stop(self) -> None:
        """Begin nothing more; what is being written becomes whole, or nothing."""
        self._waiting.clear()
        shared.models_changed.disconnect(self._on_models_changed, missing_ok=True)


def _dropped(event: QDropEvent) -> list[Path]:
    """Model files of a drop; any other file is left to napari."""
    files = [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
    return [path for path in files if path.suffix in CHECKPOINTS]
