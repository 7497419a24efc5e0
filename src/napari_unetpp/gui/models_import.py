"""The import of a checkpoint of another package, from its file to a model: read, asked about, brought in.

Decides, in this order: how it is opened, what is looked at while fields change, and how it ends. Reading and converting are jobs; a
later answer makes an earlier one of no interest. The file is read once: what is brought in is what was shown.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QLineEdit, QPushButton, QScrollArea, QVBoxLayout, QWidget

from napari_unetpp.gui.fields import breakable, rows, wrapping_label
from napari_unetpp.gui.jobs import Job, JobError, start_job
from napari_unetpp.gui.models_import_form import ImportForm
from napari_unetpp.gui.models_import_work import Becoming, Recognised, Untold, become, bring_in, recognise, recognise_on
from napari_unetpp.gui.status import StatusLabel
from napari_unetpp.model.names import check_name
from napari_unetpp.model.zoo import check_free

if TYPE_CHECKING:
    from napari_unetpp.gui.models_work import Changed
    from napari_unetpp.model.foreign import Known, Package
    from napari_unetpp.model.foreign_found import Asked


class ImportBox(QWidget):
    """A form for one file at a time, and its two buttons.

    Attributes
    ----------
    path : Path or None
        The file that is being imported; None between two.
    known : Known or Package or None
        What was read of it; None until then.
    job : Job or None
        The one that reads or writes, while there is one.
    """

    recognised = Signal()
    imported = Signal(object)  # Changed
    said = Signal(str)
    failed = Signal(object)  # JobError
    closed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.path: Path | None = None
        self.known: Known | Package | None = None
        self.job: Job | None = None
        self._looking: Job | None = None
        self._looking_at: Known | Package | None = None
        self._seen: dict[Asked, Becoming] = {}
        self.title = wrapping_label()
        self.title.setTextFormat(Qt.TextFormat.PlainText)
        self.waiting = QLabel()
        self.name = QLineEdit()
        self.name.setAcceptDrops(False)  # a drop is for the dock, wherever it falls
        self.name.setToolTip("What the model will be called among yours.")
        self.problem = StatusLabel()
        self.form = ImportForm()
        self.import_button = QPushButton("Import")
        self.import_button.setToolTip("Convert it, and keep the model among yours.")
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Import nothing of this file.")
        self._lay_out()
        self.form.changed.connect(self._look)
        self.form.encoder_named.connect(self._try_encoder)
        self.form.encoder.textChanged.connect(self._on_named)
        self.name.textChanged.connect(self._on_named)
        self.import_button.clicked.connect(self.accept)
        self.cancel_button.clicked.connect(self.cancel)

    def _lay_out(self) -> None:
        bold = self.title.font()
        bold.setBold(True)
        self.title.setFont(bold)
        naming = QWidget()
        rows(naming, (("Name", self.name),))
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(self.form)
        buttons = QHBoxLayout()
        buttons.setSpacing(6)
        for button in (self.import_button, self.cancel_button):
            buttons.addWidget(button, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.title)
        layout.addWidget(self.waiting)
        layout.addWidget(naming)
        layout.addWidget(self.problem)
        layout.addWidget(scroll, 1)
        layout.addLayout(buttons)
        self.waiting.setVisible(False)

    # Opening

    def open(self, path: Path) -> None:
        """Read this file, and ask about it once it is recognised."""
        self.path = path
        self.title.setText(breakable(f"Import {path.name}"))
        self.said.emit(f"Reading {path.name} …")
        self._run(recognise(path), self._on_recognised, self._on_unreadable)

    def _on_unreadable(self, error: JobError) -> None:
        self.failed.emit(error)
        self.close_form()

    def show_waiting(self, count: int) -> None:
        """Say how many files come after this one."""
        self.waiting.setText(f"{count} more file{'s' * (count > 1)} to ask about")
        self.waiting.setVisible(count > 0)

    def _on_recognised(self, recognised: Recognised | Untold) -> None:
        if recognised.known.path != self.path:
            return
        self.said.emit("")
        if self.known is None:
            self.name.setText(recognised.name)
        self.known = recognised.known
        if isinstance(recognised, Untold):
            self.form.show_untold(recognised.known.what)
        else:
            self._seen[recognised.usual.asked] = recognised.usual
            self.form.show_recognised(recognised)
        self.recognised.emit()
        self._allow()

    def _try_encoder(self, name: str) -> None:
        """See whether the weights are of an encoder of that name; if not, it can be named again."""
        if self.known is not None and self.job is None:
            self.said.emit(f"Looking whether it is {name} …")
            self._run(recognise_on(self.known, name), self._on_recognised, self._on_no_encoder)

    def _on_no_encoder(self, error: JobError) -> None:
        self.said.emit("")
        self.form.refuse_encoder(str(error))

    # What becomes of it

    def _look(self) -> None:
        """Show what the answers make of it: at once where they were given before, else when it was converted."""
        if self.known is None or not self._seen:  # read, or its encoder named
            return
        asked = replace(self.form.asked(), classes=())  # names change no network
        if asked in self._seen:
            self.form.show_becoming(self._seen[asked])
            self.said.emit("")
        elif self._looking is None:  # else it is asked again when that comes to its end
            self.said.emit("Looking what becomes of it …")
            self._looking_at = self.known
            self._looking = start_job(
                become(self.known, asked), self, yielded=self._on_seen, failed=self._on_unfit, finished=self._on_looked
            )

    def _on_seen(self, becoming: Becoming) -> None:
        if self._looking_at is self.known:
            self._seen[becoming.asked] = becoming

    def _on_unfit(self, error: JobError) -> None:
        if self._looking_at is self.known:
            self._on_unreadable(error)  # what does not fit is not offered: whatever it is, asking again would not help

    def _on_looked(self) -> None:
        self._looking = self._looking_at = None
        self._look()

    # How it ends

    def accept(self) -> None:
        """Bring the model in; the form stays until it is there."""
        if self.known is not None and self.job is None:
            self.said.emit(f"Importing {self.known.path.name} …")
            self._run(bring_in(self.known, self.name.text(), self.form.asked()), self._on_imported, self._on_failed)

    def cancel(self) -> None:
        """Forget the file."""
        self.said.emit("Nothing was imported.")
        self.close_form()

    def stop(self) -> None:
        """Forget the file without a word; what is being written becomes whole, or nothing."""
        self._forget()
        for job in (self.job, self._looking):
            if job is not None:
                job.cancel()

    def close_form(self) -> None:
        """Be ready for another file, once the work on this one has come to its end."""
        self._forget()
        if self.job is None:
            self.closed.emit()

    def _forget(self) -> None:
        """Let go of the file, and of its weights."""
        self.path = self.known = None
        self._seen = {}

    def _on_imported(self, changed: Changed) -> None:
        self.imported.emit(changed)
        self.close_form()

    def _run(self, steps: Generator[Any], done: Callable[[Any], None], failed: Callable[[JobError], None]) -> None:
        self.job = start_job(steps, self, yielded=done, failed=failed, finished=self._on_finished)
        self._allow()

    def _on_failed(self, error: JobError) -> None:
        self.failed.emit(error)  # the answers stay

    def _on_finished(self) -> None:
        self.job = None
        self._allow()
        if self.path is None:
            self.closed.emit()

    def _on_named(self, *_: object) -> None:
        self._allow()

    def _allow(self) -> None:
        """Enable what can be done now, and say what is wrong with the name."""
        idle = self.job is None
        for widget in (self.name, self.form):
            widget.setEnabled(idle)
        problem = _name_problem(self.name.text())
        self.problem.setVisible(bool(problem))
        self.problem.say(problem, error=True)
        self.import_button.setEnabled(idle and not problem and self.form.complete)
        self.cancel_button.setEnabled(idle)


def _name_problem(name: str) -> str:
    """Why no model can be called so, in one line; empty if it can."""
    try:
        check_free(check_name(name))
    except (ValueError, OSError) as error:
        return str(error)
    return ""
