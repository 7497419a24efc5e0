"""The Train dock: labelled images in, a better model out.

Decides how a run goes through the states of `STATES`, and what becomes of the new model;
what comes before a run is `train_planning`. The work itself is `train_work`, in jobs; here widgets are only bound and called.

    idle -> planning -> planned -> training <-> paused -> (stopping) -> scoring -> done
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_unetpp.gui.jobs import JobError, start_job
from napari_unetpp.gui.progress import duration
from napari_unetpp.gui.shared import shared
from napari_unetpp.gui.train_planning import BUSY, TrainPlanning
from napari_unetpp.gui.train_rescue import lost_model
from napari_unetpp.gui.train_run import TrainRun
from napari_unetpp.gui.train_swap import Swap, segment_docks
from napari_unetpp.gui.train_work import TrainRequest, compare_run
from napari_unetpp.gui.versions import unwrapped

if TYPE_CHECKING:
    import napari.viewer
    from qtpy.QtGui import QShowEvent

RUNNING = ("training", "paused", "stopping")
STATES = ("idle", "planning", "planned", *RUNNING, "scoring", "done", "failed")
PLUGIN, SEGMENT = "napari-unetpp", "Segment"


class TrainWidget(TrainPlanning):
    """The dock.

    Attributes
    ----------
    state : str
        One of `STATES`.
    run : TrainRun or None
        The run, while there is one.
    new, parent : str
        Names of the last model that was trained here, and of the one it came from.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        viewer = unwrapped(napari_viewer)
        super().__init__(viewer)
        self.run: TrainRun | None = None
        self.new = self.parent_name = self._saved = self._rescued = ""
        self.view = self.view_row.view
        self.swap = Swap(self)
        self.left_runs.resumed.connect(self._on_resumed)
        self.left_runs.discarded.connect(self._on_discarded)
        self.left_runs.failed.connect(self.fail)
        self.start_button.clicked.connect(self.start)
        self.pause_button.clicked.connect(self.pause)
        self.keep_button.clicked.connect(self.keep)
        self.discard_button.clicked.connect(self.discard)
        self.sure_button.clicked.connect(self._on_sure)
        self.not_sure_button.clicked.connect(self._on_not_sure)
        self.result.use_button.clicked.connect(self.show_new)
        self.result.back_button.clicked.connect(self.show_parent)
        self.rescue.saved.connect(self._on_rescued)
        self.rescue.failed.connect(self._on_small_failed)
        self.curves.measured.connect(self._on_measured)
        self.pair_box.set_pairs([pair for again in self._recalled.get("pairs", []) if (pair := again())])
        self.reset_choices()
        self.look_around()
        self.left_runs.look()
        self.enter("idle")

    def enter(self, state: str, text: str = "") -> None:
        self.state = state
        busy, running = state in BUSY, state in ("training", "paused")
        problem = "" if busy else self.problem()
        for chosen in (self.pair_box, self.form):
            chosen.setEnabled(not busy)
            chosen.setVisible(state not in (*RUNNING, "scoring", "done"))  # room for the curves
        self.show_buttons(running=state in (*RUNNING, "scoring"))
        self.plan_button.setText("Train again …" if state == "done" else "Plan")
        self.plan_button.setEnabled(state == "done" or not (busy or problem))
        self.start_button.setEnabled(not busy and not problem and state != "done")
        why = "Train as planned." if state == "planned" else "Make the plan; when you have seen it, press Start again."
        self.start_button.setToolTip(problem or why)
        self.pause_button.setEnabled(running)
        self.pause_button.setText("Resume" if state == "paused" else "Pause")
        best = self.run is not None and self.run.training.best is not None
        scored = self.run is None or self.run.training.scored
        self.keep_button.setText("Stop and keep the best" if scored else "Stop and keep the model")
        self.keep_button.setEnabled(running and best)
        self.keep_button.setToolTip(
            f"Stop, and keep the weights of the {'best epoch' if scored else 'lowest training loss'} as the new model."
            if best or not running
            else "No epoch is done yet, so that there is nothing to keep."
        )
        self.discard_button.setEnabled(running or state == "scoring")
        self.discard_button.setText("Skip the scores" if state == "scoring" else "Cancel and discard")
        self.left_runs.setEnabled(not busy)
        self.copy_button.setEnabled(not busy and not problem)
        self.sure_box.setVisible(False)
        self.details_button.setVisible(state == "failed" and self._error is not None)
        self.bar.setVisible(busy)
        ready = "This is the plan; press Start." if state == "planned" else "Ready for a plan."
        if state != "idle":
            self._rescued = ""
        self.say(text or self._rescued or problem or ready, error=state == "failed")

    # A run

    def planned_for(self, then: str) -> None:
        if then == "resume":
            self._begin_run()
        else:
            super().planned_for(then)

    def make_plan(self, _checked: bool = False, *, then: str = "look") -> None:
        if self.state == "done":  # first show what there is to choose
            self.running_box.setVisible(False)
            self.result.setVisible(False)
            self.enter("idle")
        else:
            super().make_plan(then=then)

    def _on_resumed(self, request: TrainRequest) -> None:
        if self.state not in BUSY:
            self.begin_plan(request, "resume")

    def _on_discarded(self, name: str) -> None:
        self.enter("idle", f"{name} was discarded.")
        self.tell_models()

    def start(self) -> None:
        """Train as planned; without a plan that holds, make one, to be looked at first."""
        if self.state in BUSY:
            return
        if self.planned is not None and self.state == "planned":
            self._begin_run()
        else:
            self.make_plan(then="start")

    def _begin_run(self) -> None:
        planned = self.planned
        assert planned is not None
        self.new, self.parent_name = planned.request.name, planned.request.parent
        self.rescue.offer(None)
        self.run = TrainRun(planned, self)
        self.run.changed.connect(self._on_progress)
        self.run.better.connect(self._on_better)
        self.run.failed.connect(self.fail)
        self.run.ended.connect(self._on_ended)
        self.view_row.begin(self.pair_box.pairs, planned.plan.spec.heads, planned.request.options["device"])
        self.curves.show_run(self.run.training, self.view_row.levels)
        self.left_runs.setVisible(False)
        self.running_box.setVisible(True)
        self.result.setVisible(False)
        self.show_progress(0, 0)
        self.enter("training", "Reading every image once, so that the run knows them again …")
        self.run.start()

    def _on_progress(self) -> None:
        if self.run is None:
            return
        training = self.run.training
        self.curves.draw_soon()
        if training.last is not None:
            self.show_progress(*training.reached, training.seconds_left)
        if self.state == "training":
            if training.best is not None and not self.keep_button.isEnabled():
                self.enter("training")
            self.say(training.under_way(self.curves.measure))

    def _on_better(self) -> None:
        if self.run is not None:
            self.view.show_weights(self.run.planned.request.out)

    def pause(self) -> None:
        """Hold the run, or go on with it."""
        if self.run is None or self.state not in ("training", "paused"):
            return
        self.run.hold()
        done = self.run.training.epochs_done
        if self.run.paused:
            self.enter("paused", f"Paused after {done} epoch{'s' * (done != 1)}.")
        else:
            self.enter("training", "Going on …")

    def keep(self) -> None:
        """Stop, and keep the best epoch."""
        self._stop_run("keep", "Stopping; the best epoch is kept …")

    def discard(self) -> None:
        """Stop and remove what was trained, asking first where that is more than a moment's work."""
        if self.state == "scoring":
            if self.job is not None:
                self.job.cancel()
            return
        if self.run is None or self.state not in ("training", "paused"):
            return
        done = self.run.training.epochs_done
        if done == 0:
            self._on_sure()
            return
        self.sure_text.setText(f"Discard {done} trained epoch{'s' * (done != 1)}? The training goes on meanwhile.")
        self.sure_box.setVisible(True)

    def _on_sure(self) -> None:
        self._stop_run("discard", "Stopping; nothing is kept …")

    def _on_not_sure(self) -> None:
        self.sure_box.setVisible(False)

    def _stop_run(self, how: Any, text: str) -> None:
        if self.run is not None and self.state in ("training", "paused"):
            self.run.end(how)
            self.enter("stopping", text)

    def _on_ended(self) -> None:
        run, self.run = self.run, None
        if run is None:
            return
        self.curves.draw()
        self.form.suggest_name()
        if run.outcome in ("done", "kept"):
            took = duration(run.training.seconds)
            self._saved = f"{self.new}: {run.training.kept_line()}, trained in {took}."
            self.result.name_models(self.new, self.parent_name)
            self.result.show_rows((), self.curves.measure)
            self.result.setVisible(True)
            self._score()
            self.show_new(quietly=True)
        else:
            self.view.end()
            self._drop_plan()
            if run.outcome == "discarded":
                self.enter("idle", "Discarded; nothing was kept.")
            elif run.outcome == "left":
                self.enter("idle", f"{self.new} can go on later.")
        self.tell_models()
        run.deleteLater()

    def fail(self, error: JobError) -> None:
        """Tell of an error; a model that is in memory but not on the disk is offered to be saved elsewhere."""
        super().fail(error)
        lost = lost_model(error, self.planned.saved if self.planned is not None else None)
        self.rescue.offer(lost)
        if lost is not None:
            self.say(f"{error}. The model of its epoch {lost.epoch} is still in memory; save it elsewhere.", error=True)
            self.scroll_to_rescue()

    def _on_rescued(self, path: str) -> None:
        self._rescued = f"The model is saved as {path}."  # until the next run, whatever the dock finds meanwhile
        self.enter("idle")
        self.tell_models()

    # Afterwards

    def _score(self) -> None:
        """Compare the new model with its parent."""
        assert self.planned is not None
        self.show_progress(0, 0)
        self.enter("scoring", f"{self._saved} Comparing it with its parent …")
        self.job = start_job(
            compare_run(self.planned), self, yielded=self._on_scored, failed=self.fail, finished=self._on_compared
        )

    def _on_scored(self, table: Any) -> None:
        self.result.show_rows(table.rows, self.curves.measure)

    def _on_compared(self) -> None:
        self.job = None
        self._drop_plan()
        if self.state == "scoring":
            self.enter("done", self._saved)
        self.tell_models()  # the scores stand on its card

    def _on_measured(self) -> None:
        self.result.show_rows(self.result.rows, self.curves.measure)

    def show_new(self, _checked: bool = False, *, quietly: bool = False) -> None:
        """Let the Segment dock use the new model; it is opened if need be, but not `quietly`."""
        self._show(self.new, quietly=quietly)

    def show_parent(self) -> None:
        """Let the Segment dock use the parent again."""
        self._show(self.parent_name, quietly=False)

    def _show(self, name: str, *, quietly: bool) -> None:
        if not segment_docks(self):
            if quietly:  # the preview on the view is all that there is to see
                return
            self.viewer.window.add_plugin_dock_widget(PLUGIN, SEGMENT)
        self.view.end()
        if problem := self.swap.choose(name):
            self.say(problem, error=True)

    def tell_models(self) -> None:
        shared.models_changed.emit()

    # Coming and going

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        shared.models_changed.connect(self.look_around, unique=True)
        shared.models_changed.connect(self.left_runs.look, unique=True)
        self.view.live.resume()

    def stop(self) -> None:
        """Leave a run so that it can go on later; its best epoch is a model already."""
        if not hasattr(self, "view"):  # napari parts what was never finished
            return
        shared.models_changed.disconnect(self.look_around, missing_ok=True)
        shared.models_changed.disconnect(self.left_runs.look, missing_ok=True)
        self.keep_choices()
        self.pair_box.stop()
        self.view.suspend()
        if self.run is not None:
            self.run.end("leave")
        elif self.job is not None:
            self.job.cancel()
