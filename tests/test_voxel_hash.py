"""A stack's hash sees every voxel, and nothing but the voxels and what they mean."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr

from napari_unetpp import _voxel_hash
from napari_unetpp._voxel_hash import stack_digest
from napari_unetpp.stacks import open_stack


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(0, 60_000, (5, 2, 33, 47)).astype(np.uint16)


def digest(data, axes="zcyx"):
    return stack_digest(open_stack(data, axes=axes))


def test_it_does_not_depend_on_how_the_voxels_are_stored(voxels, tmp_path, monkeypatch):
    expected = digest(voxels)
    assert digest(np.asfortranarray(voxels)) == expected
    assert digest(voxels.astype(">u2")) == expected
    assert digest(voxels.transpose(2, 0, 3, 1), "yzxc") == expected
    for n, chunks in enumerate([(1, 1, 33, 47), (3, 2, 8, 8), (5, 2, 7, 47)]):
        stored = zarr.create_array(store=str(tmp_path / str(n)), shape=voxels.shape, chunks=chunks, dtype="uint16")
        stored[:] = voxels
        for most in (1, 1000, 2**26):  # bytes that are read at once
            monkeypatch.setattr(_voxel_hash, "_BYTES_AT_ONCE", most)
            assert digest(stored) == expected
    tifffile.imwrite(tmp_path / "a.tif", voxels, imagej=True, metadata={"axes": "ZCYX"})
    assert stack_digest(open_stack(tmp_path / "a.tif")) == expected


def test_one_voxel_anywhere_changes_it(voxels):
    expected = digest(voxels)
    rng = np.random.default_rng(1)
    corners = [np.array(voxels.shape) - 1, np.zeros(4, int)]
    for place in [*corners, *(rng.integers(0, voxels.shape) for _ in range(50))]:
        other = voxels.copy()
        other[tuple(place)] ^= 1
        assert digest(other) != expected


def test_shape_axes_and_type_belong_to_it():
    data = np.zeros((4, 6, 8), np.uint8)
    found = {
        digest(data, "zyx"),
        digest(data, "tyx"),
        digest(data, "cyx"),
        digest(data.reshape(4, 8, 6), "zyx"),
        digest(data.astype(np.int8), "zyx"),
        digest(data.astype(np.uint16), "zyx"),
    }
    assert len(found) == 6
