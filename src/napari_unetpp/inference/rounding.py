"""Real weights to small integers, with little left of the error that it makes.

Decides, in this order: how weights are rounded where nothing is known of their input
(`round_smooth`) and where its covariance was measured (`round_measured`), and how the outcome of the
latter is kept as text (`nudges`, `nudged`).

Each weight to the nearest integer is not the best: what counts is the sum of weight times input, and
an error made at one weight can be made good at the next, where both see similar input. One after the
other is rounded, and the weights that are still real numbers take over what the error e of weight k
costs. With input covariance H = R^-1 R^-T, R upper triangular (Frantar et al., GPTQ, 2022)::

    w_l -= e_k R_kl / R_kk      for all l > k
"""

from __future__ import annotations

import base64
import zlib
from functools import cache

import numpy as np
import torch
from torch import Tensor

# Correlation of neighbouring voxels in a map. With the bundled models 0.8, 0.85, 0.9 and 0.95 agreed
# equally well with float32, and all deviated by a sixth to a half less than rounding to the nearest.
_NEIGHBOURS = 0.85
_DAMP = 0.01  # of the mean variance, added to each: directions that were hardly seen are not trusted
_BLOCK = 128  # weights after which the rest is brought up to date, in one product of matrices


def round_smooth(exact: Tensor, limit: int) -> Tensor:
    """Integers in -limit..limit for weights (out, in, k * k) in units of the integers, float64.

    Supposes that an input channel varies smoothly over the k x k window, which keeps the sum of a
    kernel, and so its answer to a flat region, within half a unit.
    """
    factor = _smooth_factor(exact.shape[-1])
    left, rounded = exact.clone(), torch.empty_like(exact)
    for k in range(exact.shape[-1]):
        rounded[..., k] = left[..., k].round().clamp(-limit, limit)
        error = left[..., k] - rounded[..., k]
        left[..., k + 1 :] -= error[..., None] * (factor[k, k + 1 :] / factor[k, k])
    return rounded


def round_measured(exact: Tensor, covariance: Tensor, limit: int) -> Tensor:
    """As `round_smooth`, for weights (out, inputs) and the covariance (inputs, inputs) of what they see."""
    inputs = exact.shape[1]
    variance = covariance.diagonal()
    damped = covariance + torch.eye(inputs, dtype=exact.dtype) * _DAMP * variance.mean().clamp(min=1e-30)
    order = torch.argsort(variance, descending=True, stable=True)  # what matters most has most to lean on
    factor = _factor(damped[order][:, order])
    left, rounded = exact[:, order], torch.empty_like(exact)
    for start in range(0, inputs, _BLOCK):
        stop = min(start + _BLOCK, inputs)
        errors = torch.zeros((len(exact), stop - start), dtype=exact.dtype)
        for k in range(start, stop):
            rounded[:, k] = left[:, k].round().clamp(-limit, limit)
            errors[:, k - start] = (left[:, k] - rounded[:, k]) / factor[k, k]
            left[:, k + 1 : stop] -= errors[:, k - start, None] * factor[k, k + 1 : stop]
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return rounded[:, torch.argsort(order)]


@cache
def _smooth_factor(voxels: int) -> Tensor:
    """Factor R of a k x k window, `voxels` in all."""
    edge = round(voxels**0.5)
    place = torch.stack(torch.meshgrid(torch.arange(edge), torch.arange(edge), indexing="ij"), -1).reshape(voxels, 2)
    distance = (place[:, None] - place[None]).abs().sum(-1)
    return _factor(torch.tensor(_NEIGHBOURS, dtype=torch.float64) ** distance)


def _factor(covariance: Tensor) -> Tensor:
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def nudges(exact: Tensor, rounded: Tensor, limit: int) -> str:
    """How far integers lie from the nearest ones, as text; `nudged` reads it."""
    steps = (rounded - exact.round().clamp(-limit, limit)).to(torch.int8)
    return base64.b85encode(zlib.compress(steps.numpy().tobytes())).decode()


def nudged(exact: Tensor, text: str, limit: int) -> Tensor:
    """The integers that `nudges` was given.

    Raises
    ------
    ValueError
        Where the text is damaged or of weights of another shape.
    """
    try:
        steps = np.frombuffer(zlib.decompress(base64.b85decode(text)), np.int8)
        return exact.round().clamp(-limit, limit) + torch.from_numpy(steps.reshape(exact.shape).copy())
    except (ValueError, zlib.error) as error:
        raise ValueError(f"the calibration is damaged or of another network ({error}); calibrate again") from None
