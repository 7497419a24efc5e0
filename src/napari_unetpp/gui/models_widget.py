"""The Models dock: which models there are, what each says of itself, and how the user's come and go.

Decides, in this order: what is listed and shown, what can be done when, how files are imported (button or
drop), one renamed or deleted, and what others are told. The work itself is `models_work`, in jobs of which one
runs at a time; here widgets are only bound and called.

Model files are imported at once. Checkpoints of other packages wait until `models_import` has asked about the
one before.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog, QInputDialog, QMessageBox

from napari_unetpp.gui.jobs import Job, JobError, start_job
from napari_unetpp.gui.models_panel import ModelsPanel
from napari_unetpp.gui.models_work import (
    Changed,
    Foreign,
    Listing,
    ModelFile,
    Taken,
    delete,
    examine,
    import_file,
    list_models,
    rename,
)
from napari_unetpp.gui.shared import shared
from napari_unetpp.gui.status import report
from napari_unetpp.model.zoo import SUFFIX, user_folder

if TYPE_CHECKING:
    from qtpy.QtGui import QDragEnterEvent, QDropEvent, QShowEvent

CHECKPOINTS = (SUFFIX, ".pth", ".pt", ".ckpt", ".bin", ".model", ".h5", ".hdf5", ".keras", ".zip")
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
        self._foreign: list[Path] = []
        self.list.currentItemChanged.connect(self._on_chosen)
        self.import_button.clicked.connect(self.choose_import)
        self.rename_button.clicked.connect(self.rename)
        self.delete_button.clicked.connect(self.delete)
        self.export_box.exported.connect(self._on_changed)
        self.folder_button.clicked.connect(self.open_folder)
        self.import_box.recognised.connect(self._on_recognised)
        self.import_box.imported.connect(self._on_changed)
        for box in (self.export_box, self.import_box):
            box.said.connect(self.say)
            box.failed.connect(self._on_failed)
        self.import_box.closed.connect(self._ask_next)
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
        self._reading = start_job(
            list_models(), self, yielded=self._on_listing, failed=self._on_failed, finished=self._on_read
        )

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
        self.export_box.show_formats(listing.formats)
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
        self.export_box.show_model(model)
        self._allow()
        if model is not None and model.header is not None:
            # a file that is gone meanwhile keeps its card without a hash
            start_job(examine(model), self, yielded=self._on_examined)

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
        self.import_button.setEnabled(idle)

    # What can be done

    def choose_import(self) -> None:
        """Ask for model files and import them."""
        paths, _ = QFileDialog.getOpenFileNames(self, "Import models", "", FILES)
        self.import_files([Path(path) for path in paths])

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
        self.job = start_job(steps, self, yielded=self._on_event, failed=self._on_failed, finished=self._on_finished)
        self._allow()

    def _on_event(self, event: Changed | Taken | Foreign) -> None:
        if isinstance(event, Taken):
            self._ask_for_name(event)
        elif isinstance(event, Foreign):
            self._foreign.append(event.path)
        else:
            self._on_changed(event)

    def _on_changed(self, changed: Changed) -> None:
        self._wanted = changed.name
        self.say(changed.text)
        shared.models_changed.emit()  # this dock hears it as well

    def _on_recognised(self) -> None:
        self.show_import(shown=True)

    def _ask_next(self) -> None:
        """Ask about the next checkpoint; the card comes back when there is none."""
        if self.import_box.path is None and self.import_box.job is None:
            if self._foreign:
                self.import_box.open(self._foreign.pop(0))
            else:
                self.show_import(shown=False)
        self.import_box.show_waiting(len(self._foreign))

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
        self.job = None
        self._allow()
        self._next()
        self._ask_next()

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
        self._foreign.clear()
        self.import_box.stop()
        self.export_box.stop()
        shared.models_changed.disconnect(self._on_models_changed, missing_ok=True)


def _dropped(event: QDropEvent) -> list[Path]:
    """Model files of a drop; any other file is left to napari."""
    files = [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
    return [path for path in files if path.suffix.lower() in CHECKPOINTS]
