"""Whether a training was worth it: the parent and the new model on what was held out, and on what was corrected."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from napari_unetpp.model.checkpoint import load_model, save_model
from napari_unetpp.training.blocks import thinned
from napari_unetpp.training.validate import Scores, validate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_unetpp.training.plan import Plan

Part = Literal["held-out", "corrected"]


@dataclass(frozen=True, slots=True)
class Row:
    """Scores of one level, ``"L1"`` .. or ``"ensemble"``, on one part; `before` is None from scratch.

    The corrected part is what was trained on: it tells whether the corrections were learnt, not how good the model is.
    """

    level: str
    part: Part
    before: dict[str, float] | None
    after: dict[str, float]


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """Rows as far as they are known."""

    rows: tuple[Row, ...]

    @property
    def better(self) -> bool | None:
        """Whether the best level of the new model beats the best one of its parent on the held-out part; None from scratch, or
        where nothing is scored there.
        """
        held = [row for row in self.rows if row.part == "held-out"]
        before = [row.before["iou"] for row in held if row.before is not None]
        return max(row.after["iou"] for row in held) > max(before) if before else None


def before_after(plan: Plan, out: str | Path) -> Iterator[BeforeAfter]:
    """The table of a run, growing; the last one is whole and stands on the card of the model file `out`.

    Both parts are scored on at most `TrainOptions.validation_voxels` voxels each.
    """
    device = plan.options.device
    model = load_model(out, device)
    rows: list[Row] = []
    scores: dict[str, Scores] = {}
    parts: tuple[tuple[Part, str], ...] = (("held-out", "validation"), ("corrected", "corrected part"))
    for part, name in parts:
        data = plan.validation if part == "held-out" else thinned(plan.training, plan.options.validation_voxels)
        after = scores[name] = validate(model.network, data, model.device)
        before = None
        if plan.parent is not None:
            network = plan.parent.network
            before = scores[f"{name}, parent"] = validate(network, data, next(network.parameters()).device)
        rows += [Row(level, part, None if before is None else before[level], after[level]) for level in after]
        if part == "corrected":
            told = {name: table for name, table in scores.items() if table}  # a part that cannot be scored has none
            save_model(replace(model, card=replace(model.card, scores={**model.card.scores, **told})), out)
        yield BeforeAfter(tuple(rows))
