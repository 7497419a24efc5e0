"""The first half of the Train dock: what is offered, and the plan.

Decides, in this order: what there is to choose from, when a plan can be made and when it no longer holds, and what can be looked
at before a run: patches, and the command line.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from napari.layers import Labels, Layer
from qtpy.compat import isalive
from qtpy.QtWidgets import QApplication

from napari_unetpp.gui.catalogue import Catalogue, look_around
from napari_unetpp.gui.jobs import Job, JobError, start_job
from napari_unetpp.gui.segment_panel import show_details
from napari_unetpp.gui.status import report
from napari_unetpp.gui.train_command import describe_command
from napari_unetpp.gui.train_labels import highest_class, targets_of
from napari_unetpp.gui.train_panel import TrainPanel
from napari_unetpp.gui.train_patches import PatchWindow
from napari_unetpp.gui.train_remember import noted, recall, remember, set_values, values_of
from napari_unetpp.gui.train_texts import plan_summary
from napari_unetpp.gui.train_work import Patches, Planned, TrainRequest, draw_patches, plan_run
from napari_unetpp.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from napari import Viewer

BUSY = ("planning", "training", "paused", "stopping", "scoring")


class TrainPlanning(TrainPanel):
    """Everything up to a plan that holds.

    Attributes
    ----------
    job : Job or None
        What makes a plan or a table, while there is one.
    planned : Planned or None
        The plan, as long as it holds.
    patches : PatchWindow or None
        The window with patches, once it was opened.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__(viewer)
        self.viewer = viewer
        self.state = "idle"
        self.job: Job | None = None
        self.planned: Planned | None = None
        self.patches: PatchWindow | None = None
        self._error: JobError | None = None
        self._seed, self._offering = 0, False
        self._then = ""  # what the plan is made for: "look", "start", "resume" or "patches"
        self._painted: list[Layer] = []
        self._recalled = recall(viewer)
        self.pair_box.changed.connect(self._on_pairs)
        self.pair_box.unpainted.currentIndexChanged.connect(self._on_pairs)
        self.pair_box.refused.connect(self._on_refused)
        self.form.changed.connect(self._on_form)
        self.form.preview_button.clicked.connect(self.preview_patches)
        self.plan_button.clicked.connect(self.make_plan)
        self.copy_button.clicked.connect(self.copy_command)
        self.details_button.clicked.connect(self._on_details)

    def enter(self, state: str, text: str = "") -> None:
        """Change the state, and with it what can be done; `train_widget` knows what."""
        raise NotImplementedError

    # What is offered

    def reset_choices(self, _event: object = None) -> None:
        """Offer the layers of the viewer; napari calls it when its layers change."""
        self.pair_box.reset_choices()

    def look_around(self) -> None:
        """Find models and devices, at first and whenever the models have changed."""
        if not isalive(self):
            return
        start_job(look_around(), self, yielded=self._on_catalogue, failed=self._on_look_failed)

    def _on_catalogue(self, catalogue: Catalogue) -> None:
        before = self._chosen()
        self._offering = True
        self.form.set_catalogue(catalogue, preferred=DEFAULT_MODEL)
        values, self._recalled = self._recalled.get("form", {}), {}
        set_values(self.form, values)
        self._on_pairs()
        self._offering = False
        # Else others have come or gone; and what has failed stays to be read.
        if self.state == "idle" or (self.state != "failed" and before != self._chosen()):
            self._on_form()

    def _chosen(self) -> Any:
        """All that a plan rests on but the pairs; the name of the new model follows from what there is."""
        values = values_of(self.form)
        values.pop("name", None)
        return values, self.form.parent_choice()

    def _on_look_failed(self, error: JobError) -> None:
        self.say(str(error), error=True)
        report(error)

    def keep_choices(self) -> None:
        """For when the dock is opened again in this window."""
        remember(self.viewer, {"form": values_of(self.form), "pairs": noted(self.pair_box.pairs)})

    def _on_pairs(self, _place: int = 0) -> None:
        """Other pairs, or more is known of them: what can be taught follows."""
        facts, unpainted = self.pair_box.known_facts(), self.pair_box.unpainted.currentData()
        model = self.form.parent_choice()
        classes = model.header.spec.classes if model is not None and model.header is not None else None
        names = next((found.classes for found in facts if found.classes), ())
        self.form.set_targets(targets_of(facts, unpainted, classes), names)
        self._listen_to_painting()
        self._on_form()

    def _listen_to_painting(self) -> None:
        wanted = [layer for pair in self.pair_box.pairs for layer in pair.layers]
        for layer in self._painted:
            if layer not in wanted:
                for event in _changes(layer):
                    event.disconnect(self._on_painted)
        for layer in wanted:
            if layer not in self._painted:
                for event in _changes(layer):
                    event.connect(self._on_painted)
        self._painted = wanted

    def _on_painted(self, _event: object) -> None:
        """Labels or images are not those of the plan any more."""
        if isalive(self) and self.planned is not None and self.state == "planned":
            self._drop_plan()
            self.enter("idle")

    def _on_refused(self, why: str) -> None:
        self.say(why, error=True)

    # When a plan can be made, and when it no longer holds

    def problem(self) -> str:
        """What is missing before a plan can be made, in one line; empty if nothing is."""
        box = self.pair_box
        if not box.pairs:
            return "Add an image with its labels."
        highest, model = highest_class(box.known_facts(), box.unpainted.currentData()), self.form.parent_choice()
        classes = model.header.spec.classes if model is not None and model.header is not None else 1
        if classes > 1 and highest >= classes and box.gray_values() and not box.chosen_values():
            return f'The model has the classes 0 to {classes - 1}, not {highest}. Tick "{box.values.text()}" if that is meant.'
        return self.form.problem(highest)

    def request(self) -> TrainRequest:
        """What is chosen; only while there is no `problem`."""
        chosen = self.form.choices()
        options = {**chosen.options, "unpainted": self.pair_box.unpainted.currentData()}
        values = self.pair_box.chosen_values()
        pairs = tuple(pair.request().with_values(values) for pair in self.pair_box.pairs)
        return TrainRequest(pairs, chosen.start, options, chosen.name, chosen.classes, chosen.parent, chosen.replay)

    def _on_form(self) -> None:
        """Any choice has changed: the plan no longer holds."""
        if self.state not in BUSY and not self._offering:
            self._drop_plan()
            self.enter("idle")

    def _drop_plan(self) -> None:
        if self.planned is not None:
            self.planned.close()
        self.planned = None
        self.plan_box.setVisible(False)

    def make_plan(self, _checked: bool = False, *, then: str = "look") -> None:
        """Read the labels, choose what is held out, measure a step."""
        if self.job is not None or self.state in BUSY:
            return
        try:
            if problem := self.problem():
                raise ValueError(problem)
            request = self.request()
        except ValueError as error:
            self.say(str(error), error=True)
            return
        self.begin_plan(request, then)

    def begin_plan(self, request: TrainRequest, then: str) -> None:
        """Make the plan of a request in a job, and then do what it is made for."""
        self._drop_plan()
        self._then, self._error = then, None
        self.show_progress(0, 0)
        self.enter("planning", "Making the plan …")
        steps = plan_run(request, measure=then != "patches", resume=then == "resume")
        self.job = start_job(
            steps, self, yielded=self._on_plan, failed=self._on_plan_failed, finished=self._on_plan_finished
        )

    def _on_plan(self, event: Planned | str) -> None:
        if isinstance(event, str):
            self.say(event)
            return
        self.planned = event
        self.show_plan(plan_summary(event))

    def _on_plan_failed(self, error: JobError) -> None:
        self.fail(error)

    def _on_plan_finished(self) -> None:
        self.job = None
        if self.state == "planning":
            self.enter("planned" if self.planned is not None else "idle")
            if self.planned is not None:
                self.planned_for(self._then)

    def planned_for(self, then: str) -> None:
        """The plan is there; do what it was made for."""
        if then == "patches":
            self._draw_patches()

    def fail(self, error: JobError) -> None:
        """Tell of an error, in one line and on demand at length."""
        self._error = error
        self.enter("failed", str(error))
        report(error)

    def _on_details(self) -> None:
        if self._error is not None:
            show_details(self, self._error)

    def _do(self, steps: Generator[Any], slot: Any) -> None:
        """A small job whose one event goes to a slot; it fails in the status."""
        start_job(steps, self, yielded=slot, failed=self._on_small_failed)

    def _on_small_failed(self, error: JobError) -> None:
        self.say(str(error), error=True)

    # What can be looked at before

    def preview_patches(self) -> None:
        """Show augmented patches; without a plan one is made first."""
        if self.planned is not None and self.state in ("planned", "done"):
            self._draw_patches()
        else:
            self.make_plan(then="patches")

    def _draw_patches(self) -> None:
        if self.patches is None:
            self.patches = PatchWindow(self)
            self.patches.again.connect(self.preview_patches)
        self.patches.show()
        self.patches.raise_()
        if self.planned is not None:
            self._seed += 1
            self._do(draw_patches(self.planned, self._seed), self._on_patches)

    def _on_patches(self, patches: Patches) -> None:
        if self.patches is not None:
            self.patches.show_patches(patches)

    def copy_command(self) -> None:
        """Put the command line that does the same into the clipboard."""
        try:
            if problem := self.problem():
                raise ValueError(problem)
            self._do(describe_command(self.request()), self._on_command)
        except ValueError as error:
            self.say(str(error), error=True)

    def _on_command(self, line: str) -> None:
        QApplication.clipboard().setText(line)
        self.say(f"Copied: {line}")


def _changes(layer: Layer) -> list[Any]:
    """The events that say that a layer has other voxels."""
    return [layer.events.data, *([layer.events.paint] if isinstance(layer, Labels) else [])]
