"""`models export`: a model as a file of its own, whole or pruned, for this package or for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from napari_unetpp.cli._options import AsJson, NameOrFile, one_of
from napari_unetpp.cli._output import BadUsage, Output, one_line, reported


@reported
def export_model(
    name: NameOrFile,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The file to write; its ending names the format, else --format.")
    ],
    level: Annotated[int | None, typer.Option(min=1, help="Keep only what this level and those below it need.")] = None,
    file_format: Annotated[
        str | None,
        typer.Option("--format", help="safetensors, onnx, torchscript (.pt) or bioimageio (.zip) [by the ending]."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Save a model as a file of its own, whole or pruned to a level: for this package, or for other programs."""
    chosen = _format(output, file_format)
    from napari_unetpp.model.checkpoint import load_model
    from napari_unetpp.model.exchange import check_target, export_model
    from napari_unetpp.model.zoo import copy_model, resolve

    say = Output(as_json)
    source = resolve(name)
    if output.exists() and output.samefile(source):
        raise BadUsage(f"--output {output} is the model itself; name another file")
    check_target(output, overwrite=overwrite)
    checked = None
    if chosen == "safetensors" and level is None:
        copy_model(source, output, overwrite=overwrite)  # to the byte: predictions know a model by the hash of its file
    else:
        steps = export_model(load_model(source, "cpu"), output, format=chosen, level=level, overwrite=overwrite)
        while checked is None:
            try:
                step = next(steps)
                say.say(step)
                say.event("step", text=step)
            except StopIteration as done:
                checked = done.value.checked
    size = output.stat().st_size
    what = source.stem if level is None else f"{source.stem} pruned to L{level}"
    say.say(f"{output}: {what}, {size / 1e6:.1f} MB")
    told = {} if chosen == "safetensors" else {"format": chosen, "checked": checked}
    say.event("result", path=output, source=source, level=level and f"L{level}", bytes=size, **told)


def _format(output: Path, asked: str | None) -> Any:
    """Format of an export: the one that was asked for, else the one that the file's ending names; the two must agree."""
    from napari_unetpp.model.exchange import FORMATS, format_of

    chosen = one_of("--format", asked, tuple(FORMATS))
    try:
        by_name = format_of(output)
    except ValueError as error:
        if chosen is None:
            raise BadUsage(f"--output {one_line(error)}") from None
        by_name = None
    if chosen is not None and by_name != chosen:
        raise BadUsage(
            f"--output {output}: {chosen} ends in {FORMATS[chosen].suffix}; name it so, or leave out --format"
        )
    return by_name
