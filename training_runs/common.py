"""What the training runs of the bundled models share: the loop with its log, and finishing a model for the package."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from napari_unetpp.model.card import Card
from napari_unetpp.model.checkpoint import Model
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.training.options import EpochDone, TrainOptions
from napari_unetpp.training.pairs import Pair
from napari_unetpp.training.resume import state_path
from napari_unetpp.training.train import train

HERE = Path(__file__).parent


def run(
    network: NetworkSpec | Model,
    pairs: Sequence[Pair],
    validation: Sequence[Pair],
    options: TrainOptions,
    out: Path,
    *,
    intensity: Intensity,
    card: Card,
    log: str,
) -> None:
    """Train to `out`, going on where a killed run stopped; one JSON object a line in ``training_runs/<log>.log``."""
    out.parent.mkdir(parents=True, exist_ok=True)
    resume = state_path(out).exists()
    with (HERE / f"{log}.log").open("a" if resume else "w") as file:

        def say(**entry: object) -> None:
            line = json.dumps(entry)
            print(line, file=file, flush=True)
            print(line, file=sys.stderr, flush=True)

        say(event="start", resumed=resume, date=time.strftime("%Y-%m-%d"), options=options.to_json(), pairs=len(pairs))
        for event in train(
            network, pairs, options, out, validation=validation, intensity=intensity, card=card, resume=resume
        ):
            if isinstance(event, EpochDone):
                say(event="epoch", **asdict(event))
