"""A model as a package of bioimage.io: a zip that other programs run without us, and that comes back to us whole.

In this order: the zip and its check (`write_package`), then what its description says: tensors, preprocessing, licence.

It holds the network twice as a graph (TorchScript and ONNX, neither of which needs Python code of ours) and once as a model file
of ours among the attachments, from which `packages` takes it back to the bit. The deepest head is the first output, because some
programs show one alone. The test tensors and the cover come from a picture that ships with us (`exchange_picture`).
"""

from __future__ import annotations

import filecmp
import re
import shutil
import tempfile
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_unetpp import __version__
from napari_unetpp.model import exchange_graphs as graphs
from napari_unetpp.model.checkpoint import one_line, save_model
from napari_unetpp.model.exchange_picture import cover, picture, readme
from napari_unetpp.model.intensity import measure
from napari_unetpp.model.packages import OWN_FILE
from napari_unetpp.model.pruning import fits_half

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.intensity import Intensity

OUR_CONFIG = "napari_unetpp"  # what the description says to us alone
_PAPER = ("Zhou et al. 2019, UNet++: Redesigning Skip Connections, IEEE TMI", "10.1109/TMI.2019.2959609")
_TINY = 1e-9  # what the programs add to a spread before they divide by it; we add nothing
_HALO_3D = 16  # voxels: the full receptive field of a volume would not fit into the memory of most


def write_package(whole: Model, model: Model, path: Path) -> Generator[str, None, str]:
    """Write the package of a model and let bioimageio.core test it, yielding a line for each step; returns what was found.

    Parameters
    ----------
    whole
        What `model` was pruned from, or itself.

    Raises
    ------
    ModuleNotFoundError
        If a package of the extra is missing.
    ValueError
        If the model cannot be described, or the package fails its own test.
    """
    graphs.need("bioimageio.core", "bioimageio.spec", "onnx", "onnxscript", "onnxruntime")
    preprocessing(model.intensity, model.spec.in_channels, model.spec.ndim)  # refused before work that would be in vain
    texts = graphs.about(model, whole.sha256)
    with tempfile.TemporaryDirectory(prefix="napari-unetpp-") as name, _quiet():
        folder = Path(name)
        graphs.write_torchscript(model.network, folder / "weights.pt", texts, deepest_first=True)
        opset = graphs.write_onnx(model.network, folder / "weights.onnx", texts, deepest_first=True)
        yield graphs.checked(model.network, folder / "weights.pt", "torchscript", deepest_first=True)
        yield graphs.checked(model.network, folder / "weights.onnx", "onnx", deepest_first=True)
        save_model(model, folder / OWN_FILE, torch.float16 if fits_half(model.network) else torch.float32)
        _write_tensors(model, folder)
        (folder / "README.md").write_text(readme(model), encoding="utf-8")
        description = _described(model, folder, opset, whole.sha256)
        package = _zipped(description, folder / "package.zip")
        yield "package with test tensors, cover and description"
        checked = _tested(package)
        yield checked
        shutil.copyfile(package, path)
        if not filecmp.cmp(package, path, shallow=False):  # it was tested there and not here
            raise OSError("the package is read back otherwise than it was written; export it elsewhere")
    return checked


def extents(model: Model) -> tuple[list[int], list[int], list[int]]:
    """Smallest extent, step and halo per spatial axis, voxels, that a program should run the network on."""
    spec, steps = model.spec, graphs.grid(model.spec)
    try:
        radius = np.broadcast_to(spec.receptive_radius(), spec.ndim)
    except ValueError:  # no halo is exact: one that hides the seams will do
        radius = np.asarray(steps)
    if spec.ndim == 3:
        radius = np.minimum(radius, _HALO_3D)
    halo = [-(-int(r) // step) * step for r, step in zip(radius, steps, strict=True)]
    return [2 * h + step for h, step in zip(halo, steps, strict=True)], steps, halo


def _write_tensors(model: Model, folder: Path) -> None:
    """Test input, what the network answers to it, and the cover."""
    least, _, _ = extents(model)
    raw = picture(model, tuple(least))
    image = measure(model.intensity, raw).apply(raw)
    (answers,) = graphs.network_answers(model.network, [torch.from_numpy(image)[None]])
    np.save(folder / "test_input.npy", raw[None].astype(np.float32))
    for level, answer in zip(model.spec.heads, answers, strict=True):
        np.save(folder / f"test_l{level}.npy", answer)
    cover(raw, answers[-1][0], folder / "cover.png")


def _described(model: Model, folder: Path, opset: int, source_sha256: str) -> Any:
    """The description (bioimageio.spec) of all that lies in the folder."""
    from bioimageio.spec.model import v0_5

    card, spec = model.card, model.spec
    torch_version = torch.__version__.split("+")[0]
    doi = re.findall(r"10\.\d{4,9}/[^\s,;)]+[^\s,;.)]", card.credit)
    ours: Any = {OUR_CONFIG: {"version": __version__, "attachment": OWN_FILE, "source_sha256": source_sha256}}
    cite = [_PAPER, *((card.credit[:200], found) for found in doi)]
    try:
        return v0_5.ModelDescr(
            name=_name(card.name),
            description=(card.description or f"UNet++ with heads {', '.join(f'L{d}' for d in spec.heads)}")[:512],
            authors=[],
            cite=[v0_5.CiteEntry(text=text, doi=v0_5.Doi(found)) for text, found in cite],
            license=_licence(card.licence, folder),
            documentation=v0_5.FileDescr(source=folder / "README.md"),
            covers=[v0_5.FileDescr(source=folder / "cover.png")],
            attachments=[v0_5.FileDescr(source=folder / OWN_FILE)],
            tags=["unet++", f"unet{spec.ndim}d", f"{spec.ndim}d", "semantic-segmentation", "pytorch"],
            inputs=[_input(model, folder)],
            outputs=[_output(model, folder, level) for level in spec.heads[::-1]],
            weights=v0_5.WeightsDescr(
                torchscript=v0_5.TorchscriptWeightsDescr(
                    source=folder / "weights.pt", pytorch_version=v0_5.Version(torch_version)
                ),
                onnx=v0_5.OnnxWeightsDescr(source=folder / "weights.onnx", opset_version=opset, parent="torchscript"),
            ),
            config=v0_5.Config(**ours),
        )
    except ValueError as error:
        raise ValueError(f"bioimageio.spec does not take this model's description: {one_line(error)[:300]}") from error


def _input(model: Model, folder: Path) -> Any:
    from bioimageio.spec.model import v0_5

    spec = model.spec
    gray = "; repeat the one channel of a gray image" * (model.intensity.replicate_gray and spec.in_channels > 1)
    least, steps, _ = extents(model)
    axes: list[Any] = [
        v0_5.BatchAxis(),
        v0_5.ChannelAxis(channel_names=[f"channel{c}" for c in range(spec.in_channels)]),
    ]
    for axis, unit, minimum, step in zip(_names(spec.ndim), _units(model), least, steps, strict=True):
        size = v0_5.ParameterizedSize(min=minimum, step=step)
        axes.append(v0_5.SpaceInputAxis(id=v0_5.AxisId(axis), size=size, **unit))
    return v0_5.InputTensorDescr(
        id=v0_5.TensorId("image"),
        description=f"raw intensities{gray}",
        axes=axes,
        test_tensor=v0_5.FileDescr(source=folder / "test_input.npy"),
        data=v0_5.IntervalOrRatioDataDescr(type="float32"),
        preprocessing=preprocessing(model.intensity, spec.in_channels, spec.ndim),
    )


def _output(model: Model, folder: Path, level: int) -> Any:
    from bioimageio.spec.model import v0_5

    _, _, halos = extents(model)
    axes: list[Any] = [v0_5.BatchAxis(), v0_5.ChannelAxis(channel_names=[c.name for c in model.classes])]
    for axis, unit, halo in zip(_names(model.spec.ndim), _units(model), halos, strict=True):
        size = v0_5.SizeReference(tensor_id=v0_5.TensorId("image"), axis_id=v0_5.AxisId(axis))
        axes.append(v0_5.SpaceOutputAxisWithHalo(id=v0_5.AxisId(axis), size=size, halo=halo, **unit))
    return v0_5.OutputTensorDescr(
        id=v0_5.TensorId(f"l{level}"),
        description=f"probabilities of level L{level}, whose head is on node X^0,{level}",
        axes=axes,
        test_tensor=v0_5.FileDescr(source=folder / f"test_l{level}.npy"),
        data=v0_5.IntervalOrRatioDataDescr(type="float32", range=(0.0, 1.0)),
    )


def preprocessing(rule: Intensity, channels: int, ndim: int) -> list[Any]:
    """The rule in the words of bioimage.io; what they measure, they measure on each image by itself.

    Raises
    ------
    ValueError
        If they have no words for it.
    """
    from bioimageio.spec.model import v0_5

    axes = tuple(v0_5.AxisId(a) for a in (*(("channel",) * (not rule.per_channel)), *_names(ndim)))
    if rule.kind == "zscore":
        return [v0_5.ZeroMeanUnitVarianceDescr(kwargs=v0_5.ZeroMeanUnitVarianceKwargs(axes=axes, eps=_TINY))]
    if rule.kind == "percentile":
        if rule.high <= 1:
            raise ValueError(f"bioimage.io has no percentiles {rule.low} to {rule.high}; export as onnx or safetensors")
        kwargs = v0_5.ScaleRangeKwargs(axes=axes, min_percentile=rule.low, max_percentile=rule.high, eps=_TINY)
        return [v0_5.ScaleRangeDescr(kwargs=kwargs)]
    scaling = measure(rule, np.zeros((channels, 1), np.float32))
    gains = list(scaling.gain)
    shifts = [
        0.0 - offset * gain for offset, gain in zip(scaling.offset, gains, strict=True)
    ]  # theirs: raw * gain + shift
    if set(gains) == {1.0} and not any(shifts):
        return []  # raw; a step that changes nothing is refused
    along = v0_5.ScaleLinearAlongAxisKwargs(axis=v0_5.AxisId("channel"), gain=gains, offset=shifts)
    alone = v0_5.ScaleLinearKwargs(gain=gains[0], offset=shifts[0])
    return [v0_5.ScaleLinearDescr(kwargs=along if channels > 1 else alone)]


def _names(ndim: int) -> str:
    return "zyx"[-ndim:]


def _units(model: Model) -> list[dict[str, Any]]:
    """Unit and scale per spatial axis; none where the spacing is unknown."""
    spacing = model.card.spacing_um
    if spacing is None or len(spacing) != model.spec.ndim or min(spacing) <= 0:
        return [{}] * model.spec.ndim
    return [_unit(s) for s in spacing]


def _unit(spacing_um: float) -> dict[str, Any]:
    """Unit and scale with which the programs' extent * scale / scale, cut at the point, is the extent again."""
    for unit, scale in (("micrometer", spacing_um), ("nanometer", round(spacing_um * 1000, 6))):
        if scale and all(int(n * scale / scale) == n for n in range(1, 2**14)):
            return {"unit": unit, "scale": scale}
    return {"unit": "micrometer", "scale": float(np.float32(spacing_um))}  # so few digits that the product is exact


def _name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_+\- ()]", "-", f"{name} (UNet++)")[:64]


def _licence(text: str, folder: Path) -> Any:
    """The SPDX name of the card's licence, its text as a file where it is no such name, None where it says nothing."""
    from bioimageio.spec.model import v0_5

    if not text.strip():
        return None
    for name in (text.strip(), text.strip().upper().replace(" ", "-")):
        with suppress(ValueError):
            return v0_5.LicenseId(name)
    (folder / "LICENSE.txt").write_text(text + "\n", encoding="utf-8")
    return v0_5.FileDescr(source=folder / "LICENSE.txt")


def _zipped(description: Any, path: Path) -> Path:
    from bioimageio.spec import save_bioimageio_package

    try:
        save_bioimageio_package(description, output_path=path)
    except ValueError as error:
        raise ValueError(f"bioimageio.spec finds the package invalid: {one_line(error)[:300]}") from error
    return path


def _tested(package: Path) -> str:
    """What bioimageio.core says of the package after running it on its own test tensors."""
    from bioimageio.core import test_model

    summary = test_model(package, devices=["cpu"])
    failed = [d for d in summary.details if d.status == "failed"]
    if summary.status != "passed":
        words = "; ".join(f"{d.name}: {' '.join(e.msg for e in d.errors)}" for d in failed) or summary.status
        raise ValueError(f"the package fails the test of bioimageio.core: {' '.join(words.split())[:300]}")
    versions = {name: version(name) for name in ("bioimageio.spec", "bioimageio.core")}
    return " and ".join(f"{name} {number}" for name, number in versions.items()) + " find it valid and its test passed"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log lines of bioimageio, which go to the terminal."""
    from loguru import logger

    logger.disable("bioimageio")
    try:
        yield
    finally:
        logger.enable("bioimageio")
