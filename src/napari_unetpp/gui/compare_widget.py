"""The Compare dock: what each level costs, how far it agrees, and which one is enough.

Decides, in this order: which prediction and which reference are looked at, what the table shows, and what the buttons do. Tiles are
counted by `compare_counting`, the other work is `compare_work`, all in workers; here widgets are only bound and called.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, QTimer

from napari_unetpp.gui.compare_counting import Counting
from napari_unetpp.gui.compare_panel import ComparePanel
from napari_unetpp.gui.compare_reference import references_in
from napari_unetpp.gui.compare_rows import Advice, LevelRow, advise, level_rows, progress, write_table
from napari_unetpp.gui.compare_speed import Speed
from napari_unetpp.gui.compare_work import Described, describe
from napari_unetpp.gui.comparison import ENSEMBLE
from napari_unetpp.gui.jobs import Job, JobError, start_job
from napari_unetpp.gui.layers import LevelLayers, predictions_in
from napari_unetpp.gui.models_work import Changed, prune_to
from napari_unetpp.gui.shared import shared
from napari_unetpp.gui.status import report
from napari_unetpp.gui.versions import unwrapped
from napari_unetpp.model.zoo import SUFFIX, user_folder

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Labels
    from qtpy.QtGui import QShowEvent

SHOW_MS = 200  # the table changes at most so often
MODELS, TABLES = f"Models (*{SUFFIX})", "Tables (*.csv)"


class CompareWidget(ComparePanel):
    """The dock.

    Attributes
    ----------
    levels : LevelLayers or None
        The prediction that is looked at.
    rows, advised : list of LevelRow, Advice
        What the table shows.
    job : Job or None
        What writes a file, while there is one.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = unwrapped(napari_viewer)
        self.levels: LevelLayers | None = None
        self.rows: list[LevelRow] = []
        self.advised = Advice(None, "")
        self.job: Job | None = None
        self._described = Described()
        self._predictions: list[LevelLayers] = []
        self._references: list[Labels] = []
        self._chose = False  # a row by hand, which the advice then leaves alone
        self.counting = Counting(self.viewer, self)
        self.counting.changed.connect(self._show_soon)
        self.counting.failed.connect(self._on_failed)
        self.speed = Speed(self)
        self.speed.changed.connect(self._on_speed)
        self.speed.failed.connect(self._on_failed)
        self._showing = QTimer(self)
        self._showing.setSingleShot(True)
        self._showing.setInterval(SHOW_MS)
        self._showing.timeout.connect(self._show)
        self.prediction.currentIndexChanged.connect(self._on_prediction)
        self.reference.currentIndexChanged.connect(self._on_reference)
        self.unpainted.currentIndexChanged.connect(self._on_reference)
        self.table.itemSelectionChanged.connect(self._on_row)
        self.use_button.clicked.connect(self.use_level)
        self.save_button.clicked.connect(self.save_pruned)
        self.measure_button.clicked.connect(self.measure_speed)
        self.export_button.clicked.connect(self.export_table)
        self.reset_choices()
        self._show()

    # What is looked at

    def reset_choices(self, _event: object = None) -> None:
        """Offer the predictions and the labels of the viewer; napari calls it when its layers change."""
        before, self._predictions = self._predictions, predictions_in(self.viewer)
        kept = [self.levels] if self.levels in self._predictions else self._predictions
        # A new prediction is what the user just asked for.
        shown = ([levels for levels in self._predictions if levels not in before] or kept)[-1:]
        place = self._predictions.index(shown[0]) if shown and shown[0] is not None else -1
        self.offer(self.prediction, [_name(levels) for levels in self._predictions], place)
        chosen, self._references = self.counting.layer, references_in(self.viewer)
        place = 1 + self._references.index(chosen) if chosen in self._references else 0
        self.offer(self.reference, ["none", *(layer.name for layer in self._references)], place)
        if self._chosen_prediction() is not self.levels:
            self._on_prediction()
        elif self._chosen_reference() is not chosen:
            self._on_reference()
        self._allow()

    def _chosen_prediction(self) -> LevelLayers | None:
        place = self.prediction.currentIndex()
        return self._predictions[place] if 0 <= place < len(self._predictions) else None

    def _chosen_reference(self) -> Labels | None:
        place = self.reference.currentIndex()
        return self._references[place - 1] if 1 <= place <= len(self._references) else None

    def _on_prediction(self, _place: int = 0) -> None:
        if self.levels is not None:
            self.levels.comparison.events.level.disconnect(self._allow, missing_ok=True)
        self.levels, self._chose = self._chosen_prediction(), False
        self.speed.stop()
        self.say("")
        if self.levels is not None:
            self.levels.comparison.events.level.connect(self._allow)
        self.counting.look_at(self.levels)
        self._describe()
        self._on_reference()
        self._show()

    def _on_reference(self, _place: int = 0) -> None:
        self.say("")
        self.counting.compare_with(self._chosen_reference(), self.unpainted.currentData())
        self._chose = False
        self._show()

    def _sha256(self) -> str:
        return self.levels.store.record.get("model_sha256", "") if self.levels else ""

    def _describe(self) -> None:
        """Look for the model of the prediction."""
        if not self._sha256():
            self._described = Described(problem="This prediction does not say which model made it.")
            return
        assert self.levels is not None
        if self._described.sha256 != self._sha256():
            self._described = Described(problem="Looking for the model …")
        start_job(describe(self.levels.store.record), self, yielded=self._on_described)

    def _on_described(self, described: Described) -> None:
        if described.sha256 == self._sha256():  # else another prediction was chosen meanwhile
            self._described = described
            if described.problem:
                self.say(described.problem, error=True)
            self._show()

    def _on_models_changed(self) -> None:
        if isalive(self):
            self._describe()

    # What the table shows

    def _show_soon(self) -> None:
        if not self._showing.isActive():
            self._showing.start()

    def _show(self) -> None:
        if self.levels is None:
            self.rows, self.advised = [], Advice(None, "Segment an image, or open a prediction, to compare its levels.")
        else:
            levels, scored = self.levels.comparison.levels, self.counting.layer is not None
            measured = self.speed.of(self._sha256())
            seconds = measured.seconds if measured else {}
            self.rows = level_rows(levels, self._described.costs, seconds, self.counting.agreement, self.counting.score)
            self.advised = advise(self.rows, against_reference=scored)
        self.unpainted.setEnabled(self.counting.layer is not None)
        deepest = f"L{max(self.levels.store.levels)}" if self.levels else "the deepest"
        self.table.show_rows(self.rows, self.advised.level, deepest, scores=self.counting.layer is not None)
        if self.advised.level is not None and not self._chose:
            with QSignalBlocker(self.table):
                self.table.choose(self.advised.level)
        self.advice.setText(" ".join(filter(None, (self.counting.beyond(), self.advised.reason))))
        counted = self.counting.agreement.tiles if self.counting.agreement else 0
        self.counted.setText(progress(counted, self.counting.last.total) if self.levels else "")
        self.show_width()
        self._allow()

    def _on_row(self) -> None:
        self._chose = True
        self._allow()

    def _allow(self, _level: object = None) -> None:
        """Enable what can be done now, and say why not."""
        if not isalive(self):
            return
        levels, measured = self.levels, self.speed.of(self._sha256())
        shown, deepest = (levels.comparison.level, max(levels.store.levels)) if levels else (None, None)
        self.allow(shown, deepest, self._described.problem, busy=self.job is not None)
        self.allow_measuring(self._described.problem, measured.how if measured else "", self.speed.measuring)

    # What can be done

    def use_level(self) -> None:
        """Show the selected level in the viewer."""
        level = self.table.chosen()
        if self.levels is not None and level is not None:
            self.levels.comparison.level = level

    def save_pruned(self) -> None:
        """Ask where to save the model, pruned to the selected level."""
        level, model = self.table.chosen(), self._described.entry
        if model is None or level is None or level == ENSEMBLE:
            return
        # Where the Segment dock will find it, if the user has such a folder already.
        folder = user_folder() if user_folder().is_dir() else Path.home()
        proposed = folder / f"{model.name}-L{level}{SUFFIX}"
        if target := self.ask(f"Save {model.name} pruned to L{level}", proposed, MODELS):
            self._start(prune_to(model, int(level), target), f"Pruning {model.name} to L{level} …")

    def export_table(self) -> None:
        """Ask where to save the table."""
        if self.levels is None:
            return
        name = f"{self.levels.store.path.name.removesuffix('.ome.zarr')}-levels.csv"
        if target := self.ask("Export the table", Path.home() / name, TABLES):
            layer, agreement = self.counting.layer, self.counting.agreement
            about = {
                "reference": layer.name if layer is not None else "",
                "tiles": agreement.tiles if agreement else 0,
                "prediction": str(self.levels.store.path),
            }
            self._start(write_table(self.rows, self.advised.level, about, target), f"Writing {target.name} …")

    def measure_speed(self) -> None:
        """Measure how fast each level is here, or stop doing so."""
        if self.speed.measuring:
            self.speed.stop()
        elif self.levels is not None and (model := self._described.entry) is not None:
            self.speed.start(model.path, self._sha256(), self.levels.store.levels)

    def _on_speed(self) -> None:
        if self.speed.measuring:
            now = self.speed.progress
            self.say(f"Measuring, {now.done} of {now.total} runs on {now.how} …" if now else "Loading the model …")
        elif self.status.text().startswith(("Measuring", "Loading")):
            self.say("")
        self._show_soon()
        self._allow()

    def _start(self, steps: Generator[Any], text: str) -> None:
        if self.job is None:
            self.say(text)
            self.job = start_job(
                steps, self, yielded=self._on_written, failed=self._on_failed, finished=self._on_finished
            )
            self._allow()

    def _on_written(self, event: Changed | str) -> None:
        self.say(event if isinstance(event, str) else event.text)
        if isinstance(event, Changed):
            shared.models_changed.emit()  # this dock hears it as well

    def _on_finished(self) -> None:
        self.job = None
        self._allow()

    def _on_failed(self, error: JobError) -> None:
        self.say(str(error), error=True)
        report(error)
        self._show_soon()

    # Coming and going

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        shared.models_changed.connect(self._on_models_changed, unique=True)
        self.reset_choices()
        self.counting.resume()

    def stop(self) -> None:
        """Begin nothing more; what is being written becomes whole, or nothing."""
        shared.models_changed.disconnect(self._on_models_changed, missing_ok=True)
        self.speed.stop()
        self._showing.stop()
        if self.levels is not None:
            self.levels.comparison.events.level.disconnect(self._allow, missing_ok=True)
        self.levels = None
        self.counting.look_at(None)


def _name(levels: LevelLayers) -> str:
    model = levels.store.record.get("model")
    return f"{levels.image} · {model}" if model else levels.image
