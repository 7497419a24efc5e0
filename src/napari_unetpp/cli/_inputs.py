"""What a command works on: images and models that were named on the command line.

`open_image` and `open_model` open one of them (`tell_note` says what was chosen at opening), `open_stack_and_model` both for
each other, and `make_backend` makes the model ready for the stack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_unetpp.cli._output import BadUsage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from napari_unetpp.cli._output import Output
    from napari_unetpp.inference.backends import Backend, Engine, Precision
    from napari_unetpp.model.checkpoint import Model
    from napari_unetpp.stacks import Stack


def open_image(
    path: Path, axes: str | None, series: int | None, say: Output, *, labels: bool = False, choice: bool = False
) -> Stack:
    """The stack of a file; what was chosen or left out while it was opened is said, a line each.

    `choice`: the command has an option --series for this file.
    """
    from napari_unetpp.stacks import open_stack

    stack = open_stack(path, axes=axes, series=series, labels=labels)
    for note in stack.notes:
        tell_note(stack, note, say, choice=choice)
    return stack


def tell_note(stack: Stack, note: str, say: Output, *, choice: bool = False) -> None:
    """Say a note of a stack; `choice` as for `open_image`."""
    told, chooses, _ = note.partition("; choose another with --series")
    note = f"{told}; save another as a file of its own" if chooses and not choice else note
    say.say(f"{stack.name}: {note}")
    say.event("note", stack=stack.path or stack.name, note=note)


def tell_colours(stacks: Sequence[Stack], model: Model, say: Output) -> None:
    """Say which images are trained on as colours, though their files do not call their channels so."""
    for stack in stacks:
        if takes_colours(model) and stack.channels == 3 and not stack.colours:
            tell_note(stack, f"its three channels are taken as the red, green and blue of {model.card.name}", say)


def takes_colours(model: Model) -> bool:
    """Whether the model is one of colour images that takes gray ones too."""
    return model.intensity.replicate_gray and model.spec.in_channels == 3


def open_model(name: str, device: str) -> Model:
    from napari_unetpp.model.checkpoint import load_model

    return load_model(name, device)


def open_stack_and_model(
    opened: ExitStack,
    stack: Path,
    model: str,
    device: str,
    *,
    axes: str | None,
    series: int | None,
    channel: int | None,
    say: Output,
    rgb: bool = False,
) -> tuple[Stack, Model]:
    """The stack as the model will see it, open as long as `opened` is, and the model."""
    if rgb and channel is not None:
        raise BadUsage("--rgb takes all three channels and --channel one; leave out one of them")
    source = opened.enter_context(open_image(stack, axes, series, say, choice=True))
    network = open_model(model, device)
    return _select_channel(source, channel, network, rgb), network


def _select_channel(stack: Stack, channel: int | None, model: Model, rgb: bool) -> Stack:
    """That channel, or all where none is named; many channels are never thinned without being told."""
    if rgb and stack.channels != 3:
        raise BadUsage(f"--rgb: {stack.name} (axes {stack.axes}) has {stack.channels} channels and not 3")
    wanted = model.spec.in_channels
    if channel is not None:
        from napari_unetpp.cli._view import one_channel

        return one_channel(stack, channel)
    if stack.channels not in (1, wanted) and (wanted == 1 or model.intensity.replicate_gray):
        takes = "1" if wanted == 1 else f"1 or {wanted}"
        raise ValueError(
            f"{stack.name} (axes {stack.axes}) has {stack.channels} channels where model "
            f"{model.card.name} takes {takes}; choose one with --channel 0..{stack.channels - 1}"
        )
    if takes_colours(model) and stack.channels == 3 and not (rgb or stack.colours):
        raise ValueError(
            f"{stack.name} (axes {stack.axes}) has 3 channels, and its file does not say that they are red, green and blue, "
            f"as model {model.card.name} takes them; choose one with --channel 0..2, or all three as colours with --rgb"
        )
    return stack


def make_backend(
    model: Model,
    stack: Stack,
    precision: Precision,
    say: Output,
    *,
    output: Path | None = None,
    engine: Engine = "torch",
) -> Backend:
    """The model made ready for a stack; says how, where that is not a matter of course.

    Parameters
    ----------
    output
        Store of a run that may be continued: left open, the precision is its own, and int8 is made
        with its numbers.
    """
    from napari_unetpp.inference.backends import prepare
    from napari_unetpp.inference.folders import is_store
    from napari_unetpp.inference.runs import recorded_calibration
    from napari_unetpp.inference.store import open_store

    calibration = None
    if output is not None and is_store(output):
        begun = open_store(output)
        if precision == "auto":
            recorded, _, other = begun.record.get("precision", "fp32").partition(" ")
            precision, engine = recorded, other or engine
        if precision == "int8":
            calibration = recorded_calibration(begun)
    if precision == "int8" and calibration is None:
        say.say("int8: measuring the stack and testing the labels")
    backend = prepare(model, precision, stack=stack, calibration=calibration, engine=engine)
    if backend.note:
        say.say(backend.note)
        say.event("backend", precision=backend.precision, note=backend.note)
    return backend
