"""A network as a graph that other programs run: ONNX, and TorchScript.

In this order: what a graph says of itself (`about`), the two graphs (`write_onnx`, `write_torchscript`), what each answers when it
is read back and run (`onnx_answers`, `torchscript_answers`), and how far that is from the network's answers (`checked`).

Both take the network's input, an image whose intensities were scaled: ``image`` (batch, channel, [z,] y, x), float32, of any
extent. They give the probabilities in [0, 1] of each head, named ``L1`` and so on, as our files hold them. The mirrored margin up
to the grid is inside the graph.

TorchScript and not ``torch.export``: a graph of the latter holds guards against extents of another kind than its example's, and
is read by versions of torch near the one that wrote it. TorchScript is read by all since 2.2, by C++ and Java, and by the programs
of bioimage.io.
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any, List, Literal, cast  # noqa: UP035 (TorchScript reads the annotations)

import numpy as np
import torch
from torch import Tensor, nn

from napari_unetpp import __version__
from napari_unetpp.model.unetpp import UNetPlusPlus, probabilities

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.spec import NetworkSpec

    Answers = list[np.ndarray]

OPSET = 20  # what torch's exporter writes without a conversion; onnxruntime reads it from 1.17 on
TOLERANCE = 1e-4  # of probabilities: kernels of another program round differently, 1e-6 to 1e-5 where measured
EXTRA = "exchange"  # the extra that holds the packages of other formats
ABOUT = "napari_unetpp.json"  # the file beside the graph inside a TorchScript archive


def about(model: Model, source_sha256: str) -> dict[str, str]:
    """What a reader of the graph needs beside it, by name, as texts.

    Parameters
    ----------
    source_sha256
        Hash of the model file that the graph was made of; empty where it was never saved.
    """
    spec = model.spec
    texts = {
        "name": model.card.name,
        "producer": f"napari-unetpp {__version__}",
        "description": model.card.description,
        "licence": model.card.licence,
        "credit": model.card.credit,
        "input": "image (batch, channel, [z,] y, x), float32, after the intensities were scaled; any extent",
        "output": "L1 and so on: probabilities in [0, 1] of each head (batch, class, [z,] y, x)",
        "source_sha256": source_sha256,
    }
    values = {
        "heads": [f"L{d}" for d in spec.heads],
        "classes": [c.name for c in model.classes],
        "multiple": grid(model.spec),
        "spacing_um": model.card.spacing_um,
        "intensity": model.intensity.to_json(),
        "spec": spec.to_json(),
        "card": model.card.to_json(),
    }
    return texts | {key: json.dumps(value) for key, value in values.items()}


def grid(spec: NetworkSpec) -> list[int]:
    """Multiple per spatial axis that inputs are mirrored to; tiles that begin at one agree with the whole image."""
    return list(spec.grids)


def write_onnx(network: UNetPlusPlus, path: Path, texts: dict[str, str], *, deepest_first: bool = False) -> int:
    """Opset of the ONNX file that was written: dynamic batch and extents, `texts` in its ``metadata_props``.

    Parameters
    ----------
    deepest_first
        Order of the outputs: for programs that show the first alone.

    Raises
    ------
    ModuleNotFoundError
        If onnx, onnxscript or onnxruntime is missing; the message names the extra.
    ValueError
        If torch is too old to write one, or cannot turn this network into a graph.
    """
    need("onnx", "onnxscript", "onnxruntime")
    import onnx

    dynamic = getattr(torch.export.Dim, "DYNAMIC", None)
    if dynamic is None:
        raise ValueError(f"writing ONNX needs torch 2.6 or later, and this is {torch.__version__}; update torch")
    spec = network.spec
    names = [f"L{d}" for d in (spec.heads[::-1] if deepest_first else spec.heads)]
    # Odd extents, so that nothing in the graph can rely on the margin being empty.
    image = torch.zeros(2, spec.in_channels, *(n + 3 + axis for axis, n in enumerate(grid(spec))))
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of torch to itself
        try:
            program = torch.onnx.export(
                _Probabilities(network, deepest_first).eval(),
                (image,),
                input_names=["image"],
                output_names=names,
                opset_version=OPSET,
                dynamic_shapes=(dict.fromkeys([0, *range(2, image.ndim)], dynamic),),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            text = " ".join(str(error).split())
            raise ValueError(f"torch cannot make an ONNX graph of this network: {text[:200]}") from error
    graph = cast("Any", program).model_proto
    _tidy(graph.graph, spec.ndim)
    graph.producer_name, graph.producer_version = "napari-unetpp", __version__
    onnx.helper.set_model_props(graph, texts)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))
    return int(next(entry.version for entry in graph.opset_import if not entry.domain))


def onnx_answers(path: Path, images: Sequence[Tensor]) -> list[Answers]:
    """What onnxruntime gives for each image, on the CPU: one array per head."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [cast("Answers", session.run(None, {"image": image.numpy()})) for image in images]


def write_torchscript(network: UNetPlusPlus, path: Path, texts: dict[str, str], *, deepest_first: bool = False) -> None:
    """Write a TorchScript archive that needs nothing but torch; `texts` as JSON in its file ``napari_unetpp.json``.

    `deepest_first` is as for `write_onnx`.

    Raises
    ------
    ValueError
        If torch cannot turn this network into a graph.
    """
    spec = network.spec
    image = torch.zeros(1, spec.in_channels, *(n + 3 + axis for axis, n in enumerate(grid(spec))))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that the extents are traced is what is wanted
        try:
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                _Mirrored(network, deepest_first).eval(), image, check_trace=False
            )
        except (RuntimeError, TypeError, ValueError) as error:
            text = " ".join(str(error).split())
            raise ValueError(f"torch cannot make a TorchScript graph of this network: {text[:200]}") from error
        torch.jit.save(traced, str(path), _extra_files={ABOUT: json.dumps(texts)})


def torchscript_answers(path: Path, images: Sequence[Tensor]) -> list[Answers]:
    """What torch gives for each image when it has read the archive: one array per head."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        graph = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        return [[head.numpy() for head in graph(image)] for image in images]


def checked(
    network: UNetPlusPlus, path: Path, kind: Literal["onnx", "torchscript"], *, deepest_first: bool = False
) -> str:
    """How far the answers of a written graph are from the network's, in words, on an even and an odd extent.

    Raises
    ------
    ValueError
        If they differ by more than `TOLERANCE`, or in shape.
    """
    spec, steps, generator = network.spec, grid(network.spec), torch.Generator().manual_seed(0)
    even = tuple(2 * n for n in steps)
    odd = tuple(n + 5 - 2 * axis for axis, n in enumerate(steps))
    images = [
        torch.randn(batch, spec.in_channels, *extent, generator=generator).mul_(0.5).add_(0.5)
        for batch, extent in ((1, even), (2, odd))
    ]
    answers = onnx_answers(path, images) if kind == "onnx" else torchscript_answers(path, images)
    worst = 0.0
    for ours, theirs in zip(network_answers(network, images), answers, strict=True):
        for mine, other in zip(ours[::-1] if deepest_first else ours, theirs, strict=True):
            if mine.shape != other.shape:
                raise ValueError(
                    f"the graph gives {other.shape} where {mine.shape} is wanted; please report this model"
                )
            worst = max(worst, float(np.abs(mine - other).max()))
    where = " and ".join("x".join(map(str, extent)) for extent in (even, odd))
    found = f"{'onnxruntime' if kind == 'onnx' else 'TorchScript'} differs by at most {worst:.1e} from the network on {where}"
    if not worst <= TOLERANCE:
        raise ValueError(f"{found}, more than {TOLERANCE:.0e}; please report this model")
    return found


def network_answers(network: UNetPlusPlus, images: Sequence[Tensor]) -> list[Answers]:
    """What the network itself gives: one array of probabilities per head."""
    with torch.inference_mode():
        return [[probabilities(logits).numpy() for logits in network(image)] for image in images]


def need(*packages: str) -> None:
    """Raise a ModuleNotFoundError that names the extra, unless all packages are installed."""
    from importlib.util import find_spec

    for name in packages:
        try:
            found = find_spec(name) is not None
        except ModuleNotFoundError:  # of the package that it is part of
            found = False
        if not found:
            raise ModuleNotFoundError(
                f'{name} is not installed; install it with: pip install "napari-unetpp[{EXTRA}]"', name=name
            )


class _Probabilities(nn.Module):
    """Probabilities of all heads, shallowest or deepest first."""

    def __init__(self, network: UNetPlusPlus, deepest_first: bool) -> None:
        super().__init__()
        self.network = network
        self.step = -1 if deepest_first else 1

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(probabilities(logits) for logits in self.network(image)[:: self.step])


class _Mirrored(_Probabilities):
    """The same, mirrored up to the grid by a script: it sees extents and device of each call, where a trace keeps those of one."""

    def __init__(self, network: UNetPlusPlus, deepest_first: bool) -> None:
        super().__init__(network, deepest_first)
        self.grid = grid(network.spec)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.mirror = torch.jit.script(mirrored)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        crop = (slice(None), slice(None), *(slice(n) for n in image.shape[2:]))
        return tuple(head[crop] for head in super().forward(self.mirror(image, self.grid)))


def mirrored(image: Tensor, grid: List[int]) -> Tensor:  # noqa: UP006
    """`unetpp.pad_to_grid` in what TorchScript can read."""
    for axis, step in enumerate(grid):
        extent = image.shape[axis + 2]
        missing = -extent % step
        if missing > 0:
            period = max(2 * (extent - 1), 1)
            index = torch.arange(extent + missing, device=image.device) % period
            image = image.index_select(axis + 2, torch.where(index < extent, index, period - index))
    return image


def _tidy(graph: Any, ndim: int) -> None:
    """Give the free extents their names, and drop what tells of the machine that wrote the graph."""
    values = [*graph.input, *graph.output]
    for value in values:
        for place, name in zip((0, *range(2, ndim + 2)), ("batch", *"zyx"[-ndim:]), strict=True):
            value.type.tensor_type.shape.dim[place].dim_param = name
    del graph.value_info[:]  # its extents have the names of before
    for part in (*graph.node, *graph.initializer, *values, graph):
        del part.metadata_props[:]
        part.doc_string = ""
