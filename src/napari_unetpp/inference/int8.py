"""A network run in 8-bit integers on a CPU.

Decides, in this order: whether that can be (`why_not_int8`, `weight_limit`), how it is run
(`Int8Layers`), and how far its labels can be trusted (`agreement`).

oneDNN multiplies uint8 by int8 four products at a time into int32, scales, rounds and saturates in one
call. torch offers that only as an operator of its compiler. So it is tried with the hardest numbers
before it is used, and whoever has none gets a sentence instead of an error.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_unetpp.inference.folding import Convolution
from napari_unetpp.inference.kernels import LAST, whole_pass
from napari_unetpp.inference.quantise import COUNTS, quantise_network

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_unetpp.inference.kernels import Layers, Unit
    from napari_unetpp.inference.quantise import Calibration, Int8Convolution
    from napari_unetpp.model.spec import NetworkSpec
    from napari_unetpp.model.unetpp import Nodes, UNetPlusPlus

log = logging.getLogger(__name__)

# Share of equal labels below which int8 is not to be used. The bundled models have 0.998 and more on every
# image tried, and bf16 as much; two usual ways to weight overlapping patches have 0.988 in common.
LEAST_AGREEMENT = 0.995


def why_not_int8(spec: NetworkSpec) -> str | None:
    """Sentence that says why a network cannot run in int8 on this machine; None where it can."""
    if spec.ndim != 2:
        return "int8 is there for 2D networks only"
    if "bn-relu-conv" in (spec.block, spec.decoder_block):
        return "int8 needs a ReLU behind every convolution, and blocks of kind bn-relu-conv have it in front"
    if "conv-in-relu" in (spec.block, spec.decoder_block) or spec.negative_slope:
        return "int8 is there for BatchNorm and ReLU, not for InstanceNorm or LeakyReLU"
    if spec.upsampling.startswith(("transposed", "conv1")):
        return f"int8 needs nearest or bilinear up-sampling, and {spec.upsampling} is learned"
    if spec.head != "conv1":
        return f"int8 needs heads of one 1 x 1 convolution, not {spec.head}"
    if spec.encoder:
        return f"int8 is there for the papers' own encoder, not for {spec.encoder}"
    if not spec.streams and spec.size_independent:
        return "int8 is there for max pooling by 2 and padded convolutions of 3 x 3"
    if not weight_limit():
        return "this build of torch or this processor has no exact int8 convolution"
    return None


@cache
def weight_limit() -> int:
    """Largest weight that int8 convolutions multiply right here: 127, 63, or 0 where there are none.

    Processors without VNNI add two products in 16 bits, which saturate at 255 * 127 * 2, not at
    255 * 63 * 2.
    """
    return next((limit for limit in (127, 63) if _is_exact(limit)), 0)


def _is_exact(limit: int) -> bool:
    """Whether a convolution of extreme and of random counts and weights is that of integers."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, COUNTS + 1, (1, 32, 6, 20), generator=generator, dtype=torch.uint8)
    counts[:, :16] = COUNTS
    weight = torch.randint(-limit, limit + 1, (48, 32, 3, 3), generator=generator).to(torch.int8)
    weight[:16], weight[16] = limit, -limit
    exact = F.conv2d(counts.double(), weight.double(), padding=1)
    scale = float(COUNTS / exact.max())
    bias = torch.linspace(-9, 9, 48)
    wanted = exact * scale + bias.double().view(-1, 1, 1)
    try:
        with torch.inference_mode():
            x = counts.contiguous(memory_format=LAST[2])
            unit = torch.full((48,), scale)
            logits = _Packed(weight, unit, bias, (1, 1), torch.float32)(x, (1, 1)).double()
            rounded = _Packed(weight, unit, bias, (1, 1), torch.uint8)(x, (1, 1)).double()
            entered = _EntryUnit(Convolution(weight.float() * scale, bias + 0.5, relu=True))(x.float()).double()
    except (RuntimeError, AttributeError, TypeError, NotImplementedError) as error:
        log.info("no int8 convolution: %s", str(error).partition("\n")[0])
        return False
    near = bool((logits - wanted).abs().max() < 1e-3)
    # A hair beside a half either neighbour is right.
    return near and all(bool((y - wanted.clamp(0, COUNTS)).abs().max() < 0.501) for y in (rounded, entered))


class _Packed:
    """oneDNN's convolution of counts, its weights brought into its own order once."""

    def __init__(self, weight: Tensor, unit: Tensor, bias: Tensor, around: tuple[int, int], dtype: torch.dtype) -> None:
        operators: Any = torch.ops.onednn
        # The newer name came with 1D and 3D; both take the same arguments.
        packet = getattr(operators, "qconv_pointwise", None) or operators.qconv2d_pointwise
        self._convolve = packet.default
        size = [1, weight.shape[1], 64, 64]  # it asks for one; any other works with what it packs
        self._weight = operators.qconv_prepack(weight, unit, 1.0, 0, [1, 1], list(around), [1, 1], 1, size)
        self._unit, self._zeros = unit, torch.zeros(len(unit), dtype=torch.int32)
        self._bias, self._dtype = bias, dtype

    def __call__(self, x: Tensor, around: tuple[int, int]) -> Tensor:
        """Counts (uint8) saturate at 0, which is their ReLU; float32 comes as it is."""
        one = (1, 1)
        y: Tensor = self._convolve(
            x, 1.0, 0, self._weight, self._unit, self._zeros, self._bias,
            one, around, one, 1, 1.0, 0, self._dtype, "none", (), "",
        )  # fmt: skip
        return y


class Int8Layers:
    """A 2D network in uint8 counts, as `Layers` of `kernels.py`; logits are float32.

    Parameters
    ----------
    calibration
        What `calibrate` measured for this network; levels beyond its own are not there.

    Raises
    ------
    ValueError
        Where network or machine cannot (`why_not_int8`), or the calibration is of another network.
    """

    item = 1

    def __init__(self, network: UNetPlusPlus, calibration: Calibration) -> None:
        self.spec = network.spec
        if reason := why_not_int8(self.spec):
            raise ValueError(f"{reason}; use another precision")
        if calibration.limit > weight_limit():
            raise ValueError("the calibration is of a machine with larger integers; calibrate again")
        self._units: dict[str, Unit] = {}
        for key, convolution in quantise_network(network, calibration).items():
            if isinstance(convolution, Convolution):
                self._units[key] = _EntryUnit(convolution)
            else:
                dtype = torch.float32 if key.startswith("head") else torch.uint8
                self._units[key] = _CountsUnit(convolution, dtype)

    def enter(self, image: Tensor) -> Tensor:
        return image.to("cpu", torch.float32).contiguous(memory_format=LAST[2])

    def node(self, i: int, j: int) -> tuple[Unit, Unit]:
        return self._units[f"{i}_{j}.0"], self._units[f"{i}_{j}.1"]

    def head(self, d: int) -> Unit:
        return self._units[f"head_{d}.0"]

    def pool(self, i: int, x: Tensor) -> Tensor:
        rows = torch.maximum(x[:, :, ::2], x[:, :, 1::2])  # max_pool2d knows no uint8
        return torch.maximum(rows[..., ::2], rows[..., 1::2])

    def up(self, i: int, j: int, x: Tensor) -> Tensor:
        if self.spec.upsampling == "nearest":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        aligned = self.spec.upsampling == "bilinear-aligned"
        mixed = F.interpolate(x.float(), scale_factor=2, mode="bilinear", align_corners=aligned)
        return mixed.add_(0.5).to(torch.uint8)  # float32: in bf16 255.5 is 256, which is 0 as a count

    def stage(self, i: int, image: Tensor, nodes: Nodes) -> Tensor:
        raise NotImplementedError("encoders run in floating point")  # `why_not_int8`


class _CountsUnit:
    """Counts to counts, or to logits."""

    before: Callable[[Tensor], Tensor] | None = None

    def __init__(self, convolution: Int8Convolution, dtype: torch.dtype) -> None:
        self.reach = convolution.weight.shape[-1] // 2
        self._around, self._across = (self.reach, self.reach), (0, self.reach)
        self._convolve = _Packed(convolution.weight, convolution.unit, convolution.bias, self._around, dtype)

    def __call__(self, x: Tensor, *, context: bool = False) -> Tensor:
        return self._convolve(x, self._across if context else self._around)


class _EntryUnit:
    """The image to counts."""

    before: Callable[[Tensor], Tensor] | None = None

    def __init__(self, convolution: Convolution) -> None:
        self.reach = convolution.weight.shape[-1] // 2
        self._around, self._across = [self.reach] * 2, [0, self.reach]
        size = [1, convolution.weight.shape[1], 64, 64]
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(
            convolution.weight, self._around, [1, 1], [1, 1], 1, size
        )
        self._bias = convolution.bias

    def __call__(self, x: Tensor, *, context: bool = False) -> Tensor:
        one = (1, 1)
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, self._bias, self._across if context else self._around, one, one, 1,
            "hardtanh", (0.0, COUNTS + 0.5), "",
        )  # fmt: skip
        return y.to(torch.uint8)


def agreement(layers: Layers, reference: Layers, patches: Tensor, level: int | None = None) -> dict[int, float]:
    """Share of voxels with equal labels, per level: p >= 0.5 for one class, else the likeliest class.

    Parameters
    ----------
    patches
        (patch, channel, y, x) float32.
    """
    heads = layers.spec.heads_up_to(level)
    equal = dict.fromkeys(heads, 0)
    with torch.inference_mode():
        for patch in torch.split(patches, 4):
            both = (whole_pass(each, patch, heads[-1]) for each in (layers, reference))
            for d, ours, theirs in zip(heads, *both, strict=True):
                equal[d] += int((_labels(ours) == _labels(theirs)).sum())
    voxels = patches[:, 0].numel()
    return {d: count / voxels for d, count in equal.items()}


def _labels(logits: Tensor) -> Tensor:
    return logits[:, 0] >= 0 if logits.shape[1] == 1 else logits.argmax(1)
