"""The same network by OpenVINO, an engine for CPUs that is an extra to install.

Decides, in this order: whether the engine can do what was asked for (`prepare_openvino`), when it
does it (`OpenVinoBackend`), what is compiled for which shape (`_Engine`), and how the folded
convolutions become its graph (`_graph`), operator by operator, without a detour over another format.

It compiles for fixed shapes and runs whole inputs only. An input whose maps are too large for the
memory goes band by band through torch, and so does what continues from cached nodes. It has run on
x86 CPUs; its devices for graphics cards are not offered.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_unetpp.inference.backends import Backend
from napari_unetpp.inference.crew import ALONE
from napari_unetpp.inference.folding import fold_network
from napari_unetpp.inference.kernels import TorchLayers
from napari_unetpp.inference.precision import DTYPES
from napari_unetpp.model.unetpp import pad_to_grid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_unetpp.inference.crew import Crew
    from napari_unetpp.inference.folding import Convolution
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.model.unetpp import UNetPlusPlus

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
# Peaks over what a pass through torch is planned with: 1.24 at 512x512, 1.55 with four patches of 96.
_PLANNED_BY_IT = 1.5
_MOST_SHAPES = 8  # compiled at a time: each holds its weights packed; a run has a few shapes, at the borders


def prepare_openvino(model: Model, precision: str) -> OpenVinoBackend:
    """A model made ready for OpenVINO on the CPU.

    Raises
    ------
    ImportError
        Where OpenVINO is not installed.
    ValueError
        Where the model is on another device, or in a precision that this engine or CPU has not.
    """
    try:
        import openvino
    except ImportError as error:
        raise ImportError(
            "engine 'openvino' is not installed; get it with: pip install 'napari-unetpp[openvino]'"
        ) from error
    spec = model.spec
    if "conv-in-relu" in (spec.block, spec.decoder_block) or spec.negative_slope or spec.upsampling.startswith("conv1"):
        raise ValueError(
            "engine 'openvino' runs networks of BatchNorm and ReLU, not InstanceNorm, LeakyReLU or a 1x1 convolution in the "
            "up-sampling; use engine torch"
        )
    if not (spec.streams or spec.upsampling == "bilinear-aligned") or spec.encoder:
        raise ValueError(
            "engine 'openvino' runs networks of the papers' grid: max pooling by 2, padded 3x3 convolutions and no other "
            "encoder; use engine torch"
        )
    if model.device.type != "cpu":
        raise ValueError(f"engine 'openvino' runs on the CPU, not on {model.device}; use device cpu or engine torch")
    if precision not in _HINTS or next(model.network.parameters()).dtype is torch.float64:
        name = precision if precision not in _HINTS else "fp64"
        raise ValueError(f"engine 'openvino' has no {name} here; use {', '.join(_HINTS)}, or engine torch")
    core = openvino.Core()
    if precision.upper() not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ValueError(f"engine 'openvino' has no {precision} on this CPU; use fp32, or engine torch")
    return OpenVinoBackend(model, precision, core)


class OpenVinoBackend(Backend):
    """A network made ready for OpenVINO, with the same in torch beside it for what that cannot do."""

    def __init__(self, model: Model, precision: str, core: Any) -> None:
        # A run in other last bits than torch's: it is continued by the same engine.
        name = f"{precision} openvino"
        super().__init__(TorchLayers(model.network, model.device, DTYPES[precision]), model.device, name)
        self._engine = _Engine(model.network, precision, core)

    def bytes_held(self, level: int, extent: Sequence[int], batch: int, band: int | None, hands: int = 1) -> int:
        held = super().bytes_held(level, extent, batch, band, hands)
        return held if band is not None else int(_PLANNED_BY_IT * held)

    def _bands(self, level: int, extent: Sequence[int], batch: int) -> Iterator[int | None]:
        yield None
        yield from (band for band in super()._bands(level, extent, batch) if band is not None)

    def _pieces(
        self, image: Tensor, level: int, band: int | None, crew: Crew = ALONE
    ) -> Iterator[tuple[slice, int, int, Tensor]]:
        if band is not None:
            yield from super()._pieces(image, level, band, crew)
            return
        padded = pad_to_grid(image, self.spec.grid).contiguous().numpy()
        for d, logits in zip(self.spec.heads_up_to(level), self._engine.run(padded, level), strict=True):
            yield slice(None), d, 0, torch.from_numpy(logits)


class _Compiled:
    """A network for one shape and level; each thread asks it by a request of its own."""

    def __init__(self, compiled: Any) -> None:
        self._compiled, self._mine = compiled, threading.local()

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        if not hasattr(self._mine, "request"):
            self._mine.request = self._compiled.create_infer_request()
        results = self._mine.request.infer([batch], share_inputs=True, share_outputs=True)
        return [results[n] for n in range(len(results))]


class _Engine:
    """What is compiled so far; several threads may use it."""

    def __init__(self, network: UNetPlusPlus, precision: str, core: Any) -> None:
        self._spec, self._core = network.spec, core
        self._hint = _HINTS[precision]
        self._folded = dict(fold_network(network))
        self._ups = {key: _parameters(up) for key, up in network.ups.items()}
        self._threads = torch.get_num_threads()
        self._compiled: OrderedDict[tuple[tuple[int, ...], int, int], _Compiled] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, batch: NDArray[np.float32], level: int) -> list[NDArray[np.float32]]:
        """Logits of L1..`level`, valid until this thread's next call."""
        # A worker has its share of torch's threads; a stream of OpenVINO gets the same share.
        each = torch.get_num_threads()
        key = batch.shape, level, each
        with self._lock:
            found = self._compiled.get(key) or self._compile(*key)
            self._compiled[key] = found
            self._compiled.move_to_end(key)
            if len(self._compiled) > _MOST_SHAPES:
                self._compiled.popitem(last=False)
        return found.run(batch)

    def _compile(self, shape: tuple[int, ...], level: int, each: int) -> _Compiled:
        streams = max(1, self._threads // each)
        options = {
            "INFERENCE_PRECISION_HINT": self._hint,
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams * each,
            "ENABLE_CPU_PINNING": False,  # the viewer and other programs have work to do as well
        }
        graph = _graph(self._spec, self._folded, self._ups, shape, level)
        return _Compiled(self._core.compile_model(graph, "CPU", options))


def _parameters(up: torch.nn.Module) -> tuple[Tensor, ...]:
    """Weight and bias of a transposed convolution; nothing of other up-samplings."""
    return tuple(p.detach().float().clone() for p in up.parameters())


def _graph(
    spec: NetworkSpec,
    folded: dict[str, tuple[Convolution, ...]],
    ups: dict[str, tuple[Tensor, ...]],
    shape: tuple[int, ...],
    level: int,
) -> Any:
    """Graph of OpenVINO for one shape (batch, channel, [z,] y, x), with the logits of L1..`level`."""
    import openvino
    from openvino import opset13 as op

    once, twice = [1] * spec.ndim, [2] * spec.ndim
    none = [0] * spec.ndim

    def across(vector: Tensor) -> Any:
        return op.constant(vector.float().reshape(1, -1, *once).numpy())

    def convolve(x: Any, convolution: Convolution) -> Any:
        if convolution.before is not None:
            gain, offset = convolution.before
            x = op.relu(op.add(op.multiply(x, across(gain)), across(offset)))
        around = [convolution.weight.shape[-1] // 2] * spec.ndim
        weight = op.constant(convolution.weight.float().numpy())
        y = op.add(op.convolution(x, weight, once, around, around, once), across(convolution.bias))
        return op.relu(y) if convolution.relu else y

    def up(x: Any, key: str) -> Any:
        if spec.upsampling.startswith("transposed"):
            weight, bias = ups[key]
            around = [weight.shape[-1] // 2 - 1] * spec.ndim
            y = op.convolution_backprop_data(
                x, op.constant(weight.numpy()), twice, pads_begin=around, pads_end=around, dilations=once
            )
            return op.add(y, across(bias))
        scales = op.constant([2.0] * spec.ndim, np.float32)
        axes = op.constant(list(range(2, 2 + spec.ndim)), np.int64)
        if spec.upsampling == "nearest":
            how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        else:
            corners = "align_corners" if spec.upsampling == "bilinear-aligned" else "half_pixel"
            how = {"mode": "linear_onnx", "coordinate_transformation_mode": corners}
        return op.interpolate(x, scales, shape_calculation_mode="scales", axes=axes, **how)

    image = op.parameter(list(shape), np.float32)
    nodes: dict[tuple[int, int], Any] = {}
    for i, j in spec.nodes:
        if i + j > level:
            continue
        if j == 0:
            x = op.max_pool(nodes[i - 1, 0], twice, once, none, none, twice).output(0) if i else image
        else:
            skips, new = [nodes[node] for node in spec.same_row(i, j)], up(nodes[i + 1, j - 1], f"{i}_{j}")
            x = op.concat([new, *skips] if spec.concatenation == "up-first" else [*skips, new], 1)
        for convolution in folded[f"{i}_{j}"]:
            x = convolve(x, convolution)
        nodes[i, j] = x
    logits = [op.result(convolve(nodes[0, d], folded[f"head_{d}"][0])) for d in spec.heads_up_to(level)]
    return openvino.Model(logits, [image], "unetpp")
