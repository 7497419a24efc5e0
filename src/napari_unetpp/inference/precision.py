"""In which precision a network is run: the fastest that a machine has, unless someone says which."""

from __future__ import annotations

import functools
import math
import os
import time
from typing import Literal, get_args

import torch
import torch.nn.functional as F

from napari_unetpp.inference.kernels import LAST

Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
VARIABLE = "NAPARI_UNETPP_PRECISION"  # what "auto" means, for whoever wants the same on all machines
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_GAIN = 1.3  # bf16 has to be this much faster than fp32 to be chosen


def choose_precision(device: str, wanted: Precision = "auto") -> str:
    """Precision that a device runs; for ``"auto"`` the fastest floating point that is safe there.

    Instructions alone do not tell: a processor may have those for bf16 and run them at half the
    speed of fp32 (Xeon of the fourth generation without AMX), or at twice (Zen 4). So on a CPU that
    has them, a convolution is timed in both, which takes some hundredths of a second.

    Raises
    ------
    ValueError
        Where the precision is unknown.
    """
    if wanted not in get_args(Precision):
        raise ValueError(f"precision {wanted!r} is unknown; use {', '.join(get_args(Precision))}")
    if wanted == "auto":
        wanted = os.environ.get(VARIABLE, "auto")  # type: ignore[assignment]
    if wanted != "auto":
        return wanted
    kind = torch.device(device).type
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if kind == "cpu" and _has_bf16_instructions() and _bf16_gain() >= _GAIN:
        return "bf16"
    return "fp32"


def _has_bf16_instructions() -> bool:
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asked)


@functools.cache
def _bf16_gain() -> float:
    """How many times as fast as fp32 a typical convolution is in bf16."""
    seconds: dict[torch.dtype, float] = {}
    with torch.inference_mode():
        image, weight = torch.ones((1, 64, 32, 96)), torch.ones((64, 64, 3, 3))
        both = {
            dtype: [t.to(dtype).contiguous(memory_format=LAST[2]) for t in (image, weight)]
            for dtype in (torch.float32, torch.bfloat16)
        }
        for _ in range(5):  # in turns, and the best of each: another process may be at work
            for dtype, (x, w) in both.items():
                began = time.perf_counter()
                F.conv2d(x, w, padding=1)
                seconds[dtype] = min(seconds.get(dtype, math.inf), time.perf_counter() - began)
    return seconds[torch.float32] / seconds[torch.bfloat16]
