"""The box of the Correct dock that leads to what is most in doubt: by which measure, to and fro, and how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGroupBox, QHBoxLayout, QLabel, QPushButton, QVBoxLayout

from napari_unetpp.gui.correct_doubt import DoubtTour, look_at
from napari_unetpp.gui.correct_keys import KEYS
from napari_unetpp.gui.correct_work import methods
from napari_unetpp.gui.fields import combo_box, wrapping_label

if TYPE_CHECKING:
    from napari import Viewer

    from napari_unetpp.evaluation.doubt import Doubt
    from napari_unetpp.gui.correct_layer import OpenCorrections
    from napari_unetpp.inference.store import PredictionStore

WHY_NOT = "Segment the image first: a prediction tells where it is in doubt."
MEANINGS = {
    "disagreement": "disagreement: how far apart the levels are",
    "uncertainty": "uncertainty: how unsure the deepest level is",
    "entropy": "entropy: how unsure all levels are together",
    "random": "random: to compare with",
}


class TourBox(QGroupBox):
    """The buttons of the tour; emits `failed` with a JobError."""

    failed = Signal(object)

    def __init__(self, viewer: Viewer) -> None:
        super().__init__("Doubtful regions")
        self.viewer = viewer
        self._opened: OpenCorrections | None = None
        self._store: PredictionStore | None = None
        self.tour = DoubtTour(self)
        offered, default = methods()
        self.method = combo_box(
            "What makes a region doubtful.\n" + "\n".join(MEANINGS[name] for name in offered if name in MEANINGS)
        )
        for name in offered:
            self.method.addItem(f"{name} (default)" if name == default else name, name)
        self.method.setCurrentIndex(max(0, self.method.findData(default)))
        self.previous_button = QPushButton(f"Previous ({KEYS['previous']})")
        self.next_button = QPushButton(f"Next ({KEYS['next']})")
        self.text = wrapping_label()
        self._lay_out()
        self.method.currentIndexChanged.connect(self._on_method)
        self.previous_button.clicked.connect(self.previous)
        self.next_button.clicked.connect(self.next)
        self.tour.changed.connect(self._show)
        self.tour.arrived.connect(self._on_arrived)
        self.tour.failed.connect(self.failed)

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 6, 8)
        layout.setSpacing(6)
        by, buttons = QHBoxLayout(), QHBoxLayout()
        by.addWidget(QLabel("Ranked by"))
        by.addWidget(self.method, 1)
        buttons.setSpacing(6)
        buttons.addWidget(self.previous_button, 1)
        buttons.addWidget(self.next_button, 1)
        layout.addLayout(by)
        layout.addLayout(buttons)
        layout.addWidget(self.text)

    def follow(self, opened: OpenCorrections | None, store: PredictionStore | None) -> None:
        """Lead through what these corrections have to be looked at for; without predictions, nowhere."""
        if store is not None and store.done_count == 0:
            store = None
        self._opened, self._store = opened, store
        self._on_method()
        for button, what in ((self.previous_button, "previous"), (self.next_button, "next")):
            button.setEnabled(store is not None)
            tip = f"Go to the {what} region in the order of doubt; what is reviewed is left out.\nKey: {KEYS[what]}"
            button.setToolTip(tip if store is not None else WHY_NOT)
        self.method.setEnabled(store is not None)

    def next(self) -> None:
        """Go to the most doubtful region that is left."""
        self.tour.step(1)

    def previous(self) -> None:
        """Go back to the region before."""
        self.tour.step(-1)

    def _on_method(self, _place: int = 0) -> None:
        self.tour.follow(self._opened, self._store, self.method.currentData() or "")
        self._show()

    def _on_arrived(self, doubt: Doubt) -> None:
        if self._opened is not None:
            look_at(self.viewer, self._opened, doubt.box)

    def _show(self) -> None:
        self.text.setText(self.tour.text)
        self.text.setVisible(bool(self.tour.text))

    def stop(self) -> None:
        """Rank no more."""
        self._opened = self._store = None
        self.tour.follow(None, None, "")
