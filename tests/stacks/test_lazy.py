"""A file of 20 GB opens and gives one box in little memory. They are sparse: no disk is filled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

READ_ONE_BOX = """
import resource, sys, time
import numpy as np
from napari_unetpp.box import Box
from napari_unetpp.stacks import open_stack
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open_stack(sys.argv[1]) as stack:
    z, y, x = (n // 2 for n in stack.shape_predicted)
    got = stack.read(Box((z, y, x), (z + 2, y + 96, x + 96)))
    corner = stack.read(Box((-1, -1, -1), (1, 1, 1)))
    print(stack.axes, stack.data.dtype.itemsize * int(np.prod(stack.shape, dtype=np.int64)),
          got.shape, got.max(), corner.shape,
          (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def contiguous(path: Path) -> None:
    mapped = tifffile.memmap(path, shape=(20480, 1024, 1024), dtype="u1", bigtiff=True, metadata={"axes": "ZYX"})
    mapped[10240, 512, 512] = 7


def tiled(path: Path) -> None:
    """Pages of 320 MB in tiles, all absent but the one that is read."""
    shape = (64, 16384, 20480)
    across, per_page = 20480 // 1024, (16384 // 1024) * (20480 // 1024)
    middle = 32 * per_page + 8 * across + 10

    def tiles():
        for index in range(64 * per_page):
            # tifffile learns the type from the first tile, so that one is there too.
            yield np.full((1024, 1024), 7, "u1") if index in {0, middle} else None

    tifffile.imwrite(
        path, tiles(), shape=shape, dtype="u1", bigtiff=True, tile=(1024, 1024),
        compression="zlib", metadata={"axes": "ZYX"}, photometric="minisblack",
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="counts resident memory as Linux does")
@pytest.mark.parametrize("write", [contiguous, tiled])
def test_twenty_gigabytes_open_and_read_in_little_memory(tmp_path: Path, write) -> None:
    path = tmp_path / "huge.tif"
    write(path)
    assert path.stat().st_blocks * 512 < 2**26, "the file system keeps no sparse files"
    done = subprocess.run(
        [sys.executable, "-c", READ_ONE_BOX, str(path)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *said, grown = done.stdout.split()
    assert said == f"zyx {20 * 2**30} (1, 2, 96, 96) 7 (1, 2, 2, 2)".split()
    assert int(grown) < 150, f"{grown} MiB for a box of 18 kB"
