"""Which run a store belongs to, and whether another run may go on in it.

Decides, in this order: what is recorded of a run (`make_record`), how a store is opened for one
(`open_run`) and joined (`join_run`, `keep_calibration`), and in which words another run is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetpp import __version__
from napari_unetpp.inference.folders import refuse_stack
from napari_unetpp.inference.inputs import check_input, measure_stack
from napari_unetpp.inference.seen import ChangedImageError
from napari_unetpp.inference.store import PredictionStore, StoreError, create_store, open_store
from napari_unetpp.model.intensity import Scaling
from napari_unetpp.model.sampling import stack_hash

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_unetpp.inference.backends import Backend
    from napari_unetpp.inference.quantise import Calibration
    from napari_unetpp.inference.tiles import Tiles
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.stacks import Stack

_WORDS = {
    "model_sha256": "model",
    "stack_sample": "image",
    "shape": "image shape",
    "planes": "choice of planes",
    "intensity": "range of intensities",
    "resample": "resampling",
}


def make_record(
    stack: Stack,
    model: Model,
    tiles: Tiles,
    scaling: Scaling,
    command: str = "",
    precision: str = "fp32",
    planes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """JSON-able record of a run: everything that decides its voxels, and where they came from.

    ``model_sha256``, ``tiling``, ``levels``, ``shape``, ``precision``, ``stack_sample``, ``planes`` and ``intensity`` decide
    whether another run may go on where this one stopped. ``stack_sample`` is a hash of a few voxels instead of a name, so
    that a moved file and the layer it was opened as stay the same image, and another image is refused at once; every
    voxel is compared later (`check_image`). ``planes`` is there only where a 2D model
    went along z, y and x.
    """
    record = {
        "version": __version__,
        "command": command,
        "model": model.card.name,
        "model_sha256": model.sha256 or _weights_sha256(model),
        "tiling": tiles.describe(),
        "levels": model.spec.heads_up_to(tiles.level),
        "shape": tiles.shape,
        "precision": precision,
        "stack": {
            "name": stack.name,
            "axes": stack.axes,
            "shape": stack.shape,
            "dtype": str(stack.dtype),
        },
        "stack_sample": stack_hash(stack),
        "scaling": scaling.to_json(),
        "intensity": model.intensity.over,
        "classes": [{"name": c.name, "color": c.color} for c in model.classes],
        "recommended_level": model.card.recommended_level,
        **({} if planes is None else {"planes": planes}),
    }
    # As it will come back from the disk: lists for tuples.
    plain: dict[str, Any] = json.loads(json.dumps(record))
    return plain


def open_run(
    path: str | Path,
    stack: Stack,
    model: Model,
    tiles: Tiles,
    *,
    overwrite: bool = False,
    command: str = "",
    precision: str = "fp32",
    planes: Mapping[str, Any] | None = None,
) -> PredictionStore:
    """The store for a run: a new one, or the one that an interrupted run left at `path`.

    Parameters
    ----------
    overwrite
        Begin anew, replacing the store at `path`.
    command
        Command line that does the same, for the record.
    precision
        In which the network computes (`Backend.precision`).
    planes
        `Planes.describe` of a run along z, y and x; None is z alone.

    Raises
    ------
    StoreError
        Where `path` holds another run's predictions, or no prediction store.
    ValueError
        Where the model cannot take the stack.
    OSError
        Where nothing can be written there, or the stack itself is there.
    """
    check_input(stack, model)
    path = Path(path)
    refuse_stack(path, stack.path)
    if path.is_symlink() and not path.exists():
        raise FileExistsError(f"{path} is a link to what does not exist; remove it, or name another path")
    if os.path.lexists(path) and not overwrite:
        store = open_store(path, "r+")
        join_run(store, stack, model, tiles, command=command, precision=precision, planes=planes)
        return store
    store = create_store(
        path,
        tiles.shape,
        model.spec.heads_up_to(tiles.level),
        like=stack,
        classes=[c.name for c in model.classes],
        chunks=tiles.chunks,
        grid=tiles.grid,
        record=make_record(stack, model, tiles, measure_stack(stack, model), command, precision, planes),
        overwrite=overwrite,
    )
    store.measured = stack
    return store


def join_run(
    store: PredictionStore,
    stack: Stack,
    model: Model,
    tiles: Tiles,
    *,
    command: str = "",
    precision: str = "fp32",
    planes: Mapping[str, Any] | None = None,
) -> Scaling:
    """The scaling with which a run fills a store; its record is written where there is none yet.

    A continued run takes the numbers that its beginning measured, if the image still has them.

    Raises
    ------
    StoreError
        Where the store is of another shape, or holds the predictions of another run or of an image that has changed.
    """
    if tiles.shape != stack.shape_predicted:
        raise ValueError(
            f"tiles were planned for shape {tiles.shape}, but {stack.name!r} has "
            f"{stack.shape_predicted}; plan them with stack.shape_predicted"
        )
    stored = _stored_scaling(store)
    measured = stored if store.measured is stack and stored else measure_stack(stack, model)
    scaling, store.measured = stored or measured, stack
    record = make_record(stack, model, tiles, scaling, command, precision, planes)
    if "model_sha256" in store.record:
        refuse_other_run(store, record)
        if not _same_scaling(measured, scaling):
            raise ChangedImageError(
                f"{stack.name} has changed since {store.path} was predicted from it: its intensities are others; "
                "overwrite it (--overwrite), or name another path"
            )
    mine = (store.shape, store.axes, store.levels, len(store.classes))
    levels = model.spec.heads_up_to(tiles.level)
    wanted = (tiles.shape, stack.axes_predicted, levels, model.spec.classes)
    if mine != wanted:
        raise StoreError(
            f"{store.path} holds shape, axes, levels, classes {mine} where this run gives "
            f"{wanted}; create another store"
        )
    store.set_grid(tiles.grid)
    if "model_sha256" not in store.record:
        store.update_record(record)
    return scaling


def keep_calibration(store: PredictionStore, backend: Backend) -> None:
    """Write down the numbers that int8 was made with, for whoever goes on with the run.

    Raises
    ------
    StoreError
        Where the run was begun with others.
    """
    if backend.calibration is None:
        return
    mine = json.loads(json.dumps(backend.calibration.to_json()))
    if store.record.get("calibration", mine) != mine:
        raise StoreError(
            f"{store.path} was begun with another int8 calibration; prepare the model with the one in its record "
            "(recorded_calibration), or overwrite it"
        )
    if "calibration" not in store.record:
        store.update_record({"calibration": mine})


def recorded_calibration(store: PredictionStore) -> Calibration | None:
    """With what the int8 network of a run was made; None where there was none.

    Raises
    ------
    ValueError
        Where it is damaged.
    """
    values = store.record.get("calibration")
    if values is None:
        return None
    from napari_unetpp.inference.quantise import Calibration

    return Calibration.from_json(values)


def refuse_other_run(store: PredictionStore, record: Mapping[str, Any]) -> None:
    """Refuse to go on in a store that was filled by another run than this record's.

    Raises
    ------
    StoreError
        Naming what is different.
    """
    keys = store.matches(record)
    if not keys:
        return
    differences = [
        f"{_WORDS.get(key, key)} (was {_shown(store.record, key)}, now {_shown(record, key)})" for key in keys
    ]
    kind = ChangedImageError if keys == ["stack_sample"] else StoreError
    raise kind(
        f"{store.path} was written with another {', '.join(differences)}; "
        "overwrite it (--overwrite), or name another path"
    )


def _shown(record: Mapping[str, Any], key: str) -> str:
    if key == "model_sha256":
        return f"{record.get('model')} {str(record.get(key))[:8]}"
    if key == "stack_sample":
        return str(record.get("stack", {}).get("name"))
    if key == "planes":
        cut = record.get(key)
        return f"z, y and x in tiles of {cut['y']} and {cut['x']}" if cut else "z"
    if key == "tiling":
        return " ".join(str(value) for value in record.get(key, {}).values())
    return str(record.get(key))


def _stored_scaling(store: PredictionStore) -> Scaling | None:
    values = store.record.get("scaling")
    return None if values is None else Scaling.from_json(values)


def _same_scaling(one: Scaling, other: Scaling) -> bool:
    """Whether two scalings are the same numbers, up to what another version of numpy may round differently."""

    def alike(a: Any, b: Any) -> bool:
        if isinstance(a, dict) and isinstance(b, dict):
            return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(map(alike, a, b))
        if isinstance(a, int | float) and isinstance(b, int | float):
            return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
        return bool(a == b)

    return alike(*(json.loads(json.dumps(scaling.to_json())) for scaling in (one, other)))


def _weights_sha256(model: Model) -> str:
    """Stands for the hash of the file where a model was never saved."""
    digest = hashlib.sha256(json.dumps(model.spec.to_json()).encode())
    for key, value in model.network.state_dict().items():
        digest.update(key.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()
