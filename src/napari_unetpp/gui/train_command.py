"""The command line that trains as the Train dock is set to, for a script or a cluster.

Decides which files the pairs are (`describe_command`), and the words (`command_line`).
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_unetpp.gui.command import find_source
from napari_unetpp.gui.train_work import Scratch, TrainRequest

# Option of the command, and of the run; those that are left out keep their values.
OPTIONS = {
    "epochs": "--epochs",
    "steps": "--steps",
    "patience": "--patience",
    "batch": "--batch",
    "patch": "--patch",
    "learning_rate": "--learning-rate",
    "schedule": "--schedule",
    "seed": "--seed",
    "augmentation": "--augmentation",
    "trainable": "--trainable",
    "foreground": "--foreground",
    "unpainted": "--unpainted",
    "device": "--device",
    "encoder_weights": "--encoder-weights",
}
USUAL = {"trainable": "all", "foreground": 0, "unpainted": "background", "device": "auto", "encoder_weights": ""}


def describe_command(request: TrainRequest) -> Generator[str]:
    """The command line, as the one event of a job, because files are looked into.

    Raises
    ------
    ValueError
        Where an image or its labels are in no file that the command could read.
    """
    found = [(_file(pair.memo["image"]), _file(pair.memo["label"])) for pair in request.pairs]
    axes = {side: {named[k][1] for named in found} for k, side in enumerate(("--axes", "--label-axes"))}
    for side, letters in axes.items():
        if len(letters) > 1:
            raise ValueError(f"The files need different {side}, and a command has one; open them with the same axes.")
    named = {side: letters.pop() for side, letters in axes.items()}
    files = [(image[0], label[0]) for image, label in found]
    yield command_line(request, files, named)


def _file(memo: Mapping[str, Any]) -> tuple[Path, str]:
    """The file of one side of a pair, and the axes that the command has to be told; empty where the file says them."""
    from napari_unetpp.stacks import open_stack

    path = Path(memo["path"]) if memo.get("path") else None
    if path is None or not path.exists():
        raise ValueError(
            f"{memo.get('layer') or path} is not from a file, so there is no command for it; save it first."
        )
    if "layer" not in memo:
        return path, ""
    if find_source(path, memo["shape"], memo["axes"]):
        raise ValueError(f"{memo['layer']} is not the first image of {path}; save it alone, for a command.")
    try:
        with open_stack(path) as stack:
            return path, "" if stack.axes == memo["axes"] else memo["axes"]
    except ValueError:  # it does not name its axes
        return path, memo["axes"]


def command_line(
    request: TrainRequest, files: Sequence[tuple[Path, Path]], axes: Mapping[str, str] | None = None
) -> str:
    """The words, quoted for the shell of this system."""
    words = ["napari-unetpp", "train"]
    for image, label in files:
        words += ["--image", str(image), "--label", str(label)]
    words += ["-o", str(request.out)]
    if isinstance(request.start, Scratch):
        new = request.start
        plain = ["--preset", new.preset, "--dimensions", str(new.ndim)]
        words += ["--encoder", new.encoder] if new.encoder else plain
        words += ["--width", str(new.width)] * (new.width is not None)
        words += ["--depth", str(new.depth)] * (new.depth is not None)
        for name in request.classes:
            words += ["--class", name]
    else:
        words += ["--base", request.parent]
    for option, letters in (axes or {}).items():
        words += [option, letters] * bool(letters)
    for key, option in OPTIONS.items():
        value = request.options.get(key, USUAL.get(key))
        if value != USUAL.get(key):
            words += [option, str(value) if not isinstance(value, tuple | list) else ",".join(map(str, value))]
    if values := next((pair.values for pair in request.pairs if pair.values), ()):
        words += ["--label-values", ",".join(map(str, values))]
    words += ["--balance"] * bool(request.options.get("balance")) + ["--replay-known"] * request.replay
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
