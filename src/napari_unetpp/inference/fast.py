"""The fast mode of CPUs: int8, measured on the stack that it will run on, and tested before it is believed.

Decides, in this order: whether a network may run in int8 (`prepare_int8`), what the user is told of it
(`_in_words`), and what does the work where it may not.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from napari_unetpp.inference.backends import Backend, prepare
from napari_unetpp.inference.calibrate import calibrate, calibration_patches
from napari_unetpp.inference.inputs import measure_stack
from napari_unetpp.inference.int8 import LEAST_AGREEMENT, Int8Layers, agreement, weight_limit, why_not_int8
from napari_unetpp.inference.precision import choose_precision

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_unetpp.inference.quantise import Calibration
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.stacks import Stack

log = logging.getLogger(__name__)

_TESTED = 8  # of the patches: 131 kvoxels, so the share of equal labels is known to some 0.02 %


def prepare_int8(
    model: Model,
    stack: Stack | None,
    *,
    calibration: Calibration | None = None,
    least: float | None = None,
    checkpoint: Callable[[], None] = lambda: None,
) -> Backend:
    """A model made ready to run in int8, or in the best floating point where int8 cannot be trusted.

    `Backend.note` says how many labels are those of the floating point, or why it is not int8.

    Parameters
    ----------
    stack
        Patches of it are what int8 is measured and tested on.
    calibration
        That of an earlier run, which is to be continued; it was tested when it was made.
    least
        Share of equal labels that is asked for at every level; None is `int8.LEAST_AGREEMENT`.
    checkpoint
        Called every now and then; what it raises ends the calibration.

    Raises
    ------
    ValueError
        Where there is neither a stack nor a calibration, or the calibration is not of this model.
    """
    least = LEAST_AGREEMENT if least is None else least
    best = choose_precision(str(model.device), "auto")
    exact = prepare(model, "fp32" if best == "int8" else "auto")
    if reason := _why_not(model, calibration):
        return _instead(exact, reason)
    if calibration is not None:
        return _int8(model, calibration)
    if stack is None:
        raise ValueError("int8 is calibrated on the stack that it will run on; give one, or take another precision")
    patches = calibration_patches(stack, model, measure_stack(stack, model))
    calibration = calibrate(model.network, patches, limit=weight_limit(), checkpoint=checkpoint)
    made = _int8(model, calibration)
    tested = patches[:: max(1, len(patches) // _TESTED)][:_TESTED]
    equal = agreement(made.layers, exact.layers, tested)
    words = _in_words(equal, exact.precision, len(tested))
    if min(equal.values()) < least:
        return _instead(exact, f"only {words}, where {100 * least:g} % are asked for")
    made.remark = words
    return made


def _why_not(model: Model, calibration: Calibration | None) -> str | None:
    if model.device.type != "cpu":
        return f"int8 is there for the CPU, not for {model.device}"
    if reason := why_not_int8(model.spec):
        return reason
    if calibration is not None and calibration.limit > weight_limit():
        return "the run was calibrated on a processor that multiplies larger integers than this one"
    return None


def _int8(model: Model, calibration: Calibration) -> Backend:
    return Backend(Int8Layers(model.network, calibration), model.device, "int8", calibration=calibration)


def _instead(exact: Backend, reason: str) -> Backend:
    log.info("no int8: %s", reason)
    exact.remark = f"{reason}; running in {exact.precision}"
    return exact


def _in_words(equal: dict[int, float], best: str, patches: int) -> str:
    """Rounded down: what is told is kept.

    >>> _in_words({1: 0.99996, 2: 0.9987}, "fp32", 8)
    'int8 gives the labels of fp32 at L1 99.99 %, L2 99.87 % of the voxels of 8 patches'
    """
    shares = ", ".join(f"L{d} {int(10000 * share) / 100:.2f} %" for d, share in equal.items())
    return f"int8 gives the labels of {best} at {shares} of the voxels of {patches} patch{'es' * (patches != 1)}"
