"""What the Train dock says of a plan, before anything is trained; knows neither Qt nor napari."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from napari_unetpp.gui.fields import breakable
from napari_unetpp.gui.train_progress import planned_time

if TYPE_CHECKING:
    from napari_unetpp.gui.train_work import Planned

UNBROKEN = "\xa0"  # a space at which no line breaks
MOST_PLACES = 4  # that are named


def plan_summary(planned: Planned) -> str:
    """The plan as rich text: where it learns, where it is scored, how long it takes, and what to look out for."""
    plan = planned.plan
    options = plan.options
    rows = [
        ("Trains on", _part(plan.places["training"], plan.annotated["training"])),
        (
            "Held out",
            _part(plan.places["validation"], plan.annotated["validation"]) if plan.places["validation"] else "nothing",
        ),
        ("Batch", f"{plan.batch} patches of {' x '.join(map(str, options.extents(plan.spec.ndim)))}"),
        ("Epoch", f"{options.steps} steps"),
    ]
    if plan.replay is not None:
        rows.append(("Replay", f"{options.replay:.0%} of each batch from the parent's own training data"))
    if planned.seconds_per_step is not None:
        rows.append(("Time", planned_time(planned.seconds_per_step, options.steps, options.epochs)))
    lines = [f"<b>{title}:</b> {escape(text)}" for title, text in rows]
    lines += [f"<b>Note:</b> {escape(line)}" for line in plan.warnings]
    return "<br>".join(lines)


def _part(places: Sequence[str], annotated: Mapping[str, int]) -> str:
    r"""Where a part lies, and how many voxels of each class are annotated there.

    >>> _part(("a[0:4]", "b[0:4]"), {"background": 12_345, "cell": 678})
    'a[0:4], b[0:4]; background 12\xa0345, cell 678 voxels'
    """
    named = [breakable(place) for place in places[:MOST_PLACES]]
    if len(places) > MOST_PLACES:
        named.append(f"{len(places) - MOST_PLACES} more")
    counts = ", ".join(f"{name} {f'{number:,}'.replace(',', UNBROKEN)}" for name, number in annotated.items())
    return f"{', '.join(named)}; {counts} voxels"
