"""The sample data under File > Open Sample, and where the files lie.

The files are part of the package, so opening one needs no network. They are made by the scripts in
the repository's folder sample_data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tifffile

LayerData = tuple[Any, dict[str, Any], str]


def sample_path(name: str) -> Path:
    """The path of a sample's file, such as `nuclei`, `nuclei_labels` or `synthetic_em`."""
    folder = Path(__file__).parent / "samples"
    path = folder / f"{name}.tif"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.tif"))) or "none"
        raise FileNotFoundError(f"no sample named {name!r} in {folder}; there are: {known}")
    return path


def nuclei() -> list[LayerData]:
    """A fluorescence image of nuclei (y, x) with hand-made labels; its pixel size is not known."""
    axes = {"axis_labels": ("y", "x")}
    return [
        (tifffile.imread(sample_path("nuclei")), {"name": "nuclei", **axes}, "image"),
        (
            tifffile.imread(sample_path("nuclei_labels")),
            {"name": "nuclei truth", "visible": False, **axes},
            "labels",
        ),
    ]


def synthetic_em() -> list[LayerData]:
    """A made-up EM stack (z, y, x) with its true membranes, 0.03 x 0.01 x 0.01 um a voxel."""
    space = {
        "axis_labels": ("z", "y", "x"),
        "scale": (0.03, 0.01, 0.01),
        "units": ("um", "um", "um"),
    }
    return [
        (tifffile.imread(sample_path("synthetic_em")), {"name": "synthetic EM", **space}, "image"),
        (
            tifffile.imread(sample_path("synthetic_em_membrane")),
            {"name": "synthetic EM membranes", "visible": False, **space},
            "labels",
        ),
    ]
