"""What it costs to know whether an image is the one that a store was predicted from, voxel by voxel.

    python -m benchmarks.same_image

A stack of 1 GiB (1024 slices of 1024x1024, uint8, a plain TIFF) is segmented by a small network, one voxel of the file is
changed, with its time of change set back, and the same command runs again, which has to refuse it. *Hashing* is the time for
the hashes of all tiles without the time for reading them, and *check* the time for the whole comparison, as a second
run makes it: read the image, hash it, and read what is stored. The share is of a whole run with the bundled model, whose time
is extrapolated from some slices.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from benchmarks import _harness as harness
from benchmarks._harness import say
from benchmarks.networks import make_model, texture
from napari_unetpp._voxel_hash import hash_voxels
from napari_unetpp.inference.backends import prepare
from napari_unetpp.inference.predict import open_run, predict_stack
from napari_unetpp.inference.seen import ChangedImageError, check_image
from napari_unetpp.inference.tiles import Tiles, plan_tiles, tiling_from_card
from napari_unetpp.model.checkpoint import Model, load_model
from napari_unetpp.model.sampling import read_raw
from napari_unetpp.model.spec import NetworkSpec
from napari_unetpp.stacks import Stack, open_stack


def main(argv: list[str] | None = None) -> None:
    arguments = harness.parser(__doc__, rounds=3).parse_args(argv)
    shape, slices = ((8, 128, 128), 2) if arguments.quick else ((1024, 1024, 1024), 16)
    bundled, small = load_model("nuclei", "cpu"), make_model(NetworkSpec(widths=(4, 8), heads=(1,)))
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = _write(folder / "stack.tif", shape)
        with open_stack(path) as stack:
            tiles = plan_tiles(shape, bundled.spec, tiling_from_card(bundled.card.tiling))
            figures["hash_seconds"] = min(_hashing(stack, tiles) for _ in range(arguments.rounds))
            part = open_stack(np.array(stack.data[:slices]), axes="zyx")
            seconds = min(_run(part, bundled, folder / f"part-{k}") for k in range(arguments.rounds))
            figures["run_seconds_extrapolated"] = seconds * shape[0] / slices
            out = folder / "whole"
            _run(stack, small, out)
            plan = plan_tiles(shape, small.spec, tiling_from_card(small.card.tiling))
            began = time.perf_counter()
            for _ in check_image(stack, plan, open_run(out, stack, small, plan)):
                pass
            figures["check_seconds"] = time.perf_counter() - began
        _change_one_voxel(path)
        with open_stack(path) as stack:
            began = time.perf_counter()
            try:
                _run(stack, small, out)
            except ChangedImageError as error:
                figures["told"] = str(error).replace(str(folder), "")
            figures["told_after_seconds"] = time.perf_counter() - began
    figures["hash_share"] = figures["hash_seconds"] / figures["run_seconds_extrapolated"]
    figures["check_share"] = figures["check_seconds"] / figures["run_seconds_extrapolated"]
    say(harness.table(list(figures.items()), ("figure", "value")))
    if "told" not in figures:
        raise SystemExit("a changed voxel was not noticed")
    harness.write("same_image", {"shape": shape, "slices_measured": slices, "figures": figures}, arguments)


def _write(path: Path, shape: tuple[int, int, int]) -> Path:
    plane = texture(shape[1:])
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        rolled = (np.roll(plane, z, axis=1).astype(np.uint8) for z in range(shape[0]))
        file.write(rolled, shape=shape, dtype=np.uint8, metadata={"axes": "ZYX"})
    return path


def _hashing(stack: Stack, tiles: Tiles) -> float:
    seconds = 0.0
    for tile in tiles:
        raw = read_raw(stack, tile.outer)
        began = time.perf_counter()
        hash_voxels(raw)
        seconds += time.perf_counter() - began
    return seconds


def _run(stack: Stack, model: Model, out: Path) -> float:
    tiles = plan_tiles(stack.shape_predicted, model.spec, tiling_from_card(model.card.tiling))
    backend = prepare(model, "fp32" if model.spec.depth == 1 else "auto")
    store = open_run(out, stack, model, tiles, precision=backend.precision)
    began = time.perf_counter()
    for _ in predict_stack(stack, model, tiles, store, backend=backend):
        pass
    return time.perf_counter() - began


def _change_one_voxel(path: Path) -> None:
    """Also its time of change says nothing afterwards."""
    before = path.stat()
    image = tifffile.memmap(path, mode="r+")
    image[image.shape[0] * 2 // 3, 17, 3] ^= 1
    image.flush()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


if __name__ == "__main__":
    main()
