"""The record of a run with a hash of every voxel of its images, and what differs between two records."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_unetpp._voxel_hash import stack_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from napari_unetpp.training.plan import Plan

# Options that decide where a run computes and when it ends, and neither what it learns from nor in which order.
# Others are free where the text says so: `epochs` with a constant learning rate, `memory` while all images fit into it.
FREE = ("patience", "device", "precision")


def identified(plan: Plan) -> Plan:
    """The plan, its record with the hash of each image; reads every image once."""
    known: dict[int, str] = {}
    record: dict[str, Any] = {**plan.record, "in_memory": plan.training.fits, "intensity": plan.intensity.to_json()}
    for part, images in plan.images.items():
        entries = []
        for entry, image in zip(record[part], images, strict=True):
            if id(image.data) not in known:
                known[id(image.data)] = stack_digest(image)
            entries.append({**entry, "image_sha256": known[id(image.data)]})
        record[part] = entries
    return replace(plan, record=record)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What keeps a run from going on, in words; of the data alone where these have changed."""
    data = [line for part in ("data", "replay") for line in _data(part, before.get(part, []), now.get(part, []))]
    if data:
        return [f"other data: {', '.join(data)}"]
    found = []
    for key in sorted({*before, *now} - {"data", "replay", "in_memory"}):
        one, other = before.get(key), now.get(key)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            free = _free(before, now) if key == "options" else ()
            names = [name for name in sorted({*one, *other}) if one.get(name) != other.get(name) and name not in free]
            found += [f"another {key}.{name} ({_word(one.get(name))}, now {_word(other.get(name))})" for name in names]
        elif key in ("training", "validation"):
            found.append(f"another {key} part ({', '.join(one or ['nothing'])}, now {', '.join(other or ['nothing'])})")
        else:
            found.append(f"another {key} ({_word(one)}, now {_word(other)})")
    return found


def _free(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Options that may differ."""
    free: tuple[str, ...] = FREE
    if {before["options"].get("schedule"), now["options"].get("schedule")} == {"constant"}:
        free += ("epochs",)
    if before.get("in_memory") and now.get("in_memory"):
        free += ("memory",)
    return free


def _data(part: str, before: list[dict[str, Any]], now: list[dict[str, Any]]) -> Iterator[str]:
    kind = "replayed " if part == "replay" else ""
    if len(before) != len(now):
        yield f"{len(before)} {kind}images, now {len(now)}"
        return
    for old, new in zip(before, now, strict=True):
        if old["image_sha256"] != new["image_sha256"]:
            yield f"the {kind}image {new['image']} is not the same, voxel by voxel"
        if old["labels_sha256"] != new["labels_sha256"]:
            yield f"the {kind}labels {new['labels']} were changed or painted on"


def _word(value: Any) -> str:
    return "none" if value is None else str(value)
