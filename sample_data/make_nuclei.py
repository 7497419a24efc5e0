"""Makes nuclei.tif and nuclei_labels.tif out of the two sample images in StarDist's wheel.

    pip download --no-deps --only-binary :all: stardist==0.9.2     # any platform's wheel will do
    python sample_data/make_nuclei.py stardist-0.9.2-*.whl [FOLDER]

The values stay as they are. The image becomes 8 bits, which hold them all, and both files get
named axes and compression. Their licence is LICENSE-stardist.txt, from the same wheel.
"""

from __future__ import annotations

import sys
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile


def read_pair(wheel: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """The nuclei (y, x) and their labels (y, x), 0 between the nuclei and a number in each."""
    with zipfile.ZipFile(wheel) as archive:
        image, labels = (
            tifffile.imread(BytesIO(archive.read(f"stardist/data/images/{name}.tif"))) for name in ("img2d", "mask2d")
        )
    if image.max() > np.iinfo(np.uint8).max:
        raise ValueError(f"the image in {wheel} reaches {image.max()}; 8 bits hold 255")
    return image.astype(np.uint8), labels.astype(np.uint16)


def write_image(path: Path, image: npt.NDArray[np.uint8 | np.uint16]) -> None:
    tifffile.imwrite(
        path,
        image,
        imagej=True,
        compression="zlib",
        compressionargs={"level": 9},
        metadata={"axes": "YX"},
    )


if __name__ == "__main__":
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent
    nuclei, labels = read_pair(Path(sys.argv[1]))
    write_image(folder / "nuclei.tif", nuclei)
    write_image(folder / "nuclei_labels.tif", labels)
