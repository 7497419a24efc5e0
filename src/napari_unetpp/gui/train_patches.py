"""The window with augmented patches: what the network will see, and the classes in their colours."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QDialog, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from napari_unetpp.gui.train_work import Patches


class PatchWindow(QDialog):
    """Shows pictures; emits `again` when another draw is wanted."""

    again = Signal()

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("Augmented patches")
        self.setModal(False)
        self.picture = QLabel("Drawing patches …")
        self.picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.legend = QLabel()
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        self.again_button = QPushButton("Again")
        self.again_button.setToolTip("Draw other patches.")
        self.again_button.clicked.connect(self.again)
        layout = QVBoxLayout(self)
        below = QHBoxLayout()
        below.addWidget(self.legend, 1)
        below.addWidget(self.again_button)
        layout.addWidget(self.picture)
        layout.addLayout(below)

    def show_patches(self, patches: Patches) -> None:
        """Put these into the window."""
        height, width, _ = patches.picture.shape
        pixels = np.ascontiguousarray(patches.picture)
        image = QImage(pixels.data, width, height, 3 * width, QImage.Format.Format_RGB888)
        self.picture.setPixmap(QPixmap.fromImage(image.copy()))  # the copy outlives the array
        names = [f'<span style="color:{color}">■</span> {escape(name)}' for name, color in patches.classes]
        self.legend.setText("&nbsp;&nbsp;".join([*names, "dark: not annotated"]))
        self.adjustSize()
