"""`models import`: a model file, or somebody else's checkpoint or package, as a model of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_unetpp.cli._options import AsJson, one_of
from napari_unetpp.cli._output import BadUsage, Output, reported


@reported
def import_model(
    file: Annotated[
        Path,
        typer.Argument(
            help="A model file, another package's checkpoint (.pth, .h5), or a package of bioimage.io (.zip)."
        ),
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Put it here, and not among the own.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call it; else it is called like its file.")] = None,
    upsampling: Annotated[
        str | None, typer.Option(help="Of a checkpoint without weights for it: bilinear-aligned, bilinear or nearest.")
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Name of a class of a checkpoint; once for each.")
    ] = None,
    intensities: Annotated[
        str | None,
        typer.Option(help="Of a checkpoint's input: unit (/ 255), imagenet, imagenet-255, raw, percentile or zscore."),
    ] = None,
    heads: Annotated[
        str | None, typer.Option(help="Of a checkpoint with several: all (deep supervision), last, or mean.")
    ] = None,
    slope: Annotated[float | None, typer.Option(help="Of a checkpoint's LeakyReLU; 0 is a ReLU.")] = None,
    padding: Annotated[
        str | None, typer.Option(help="Of a U-Net of milesial's names: same, late (a tutorial's) or valid (of 2015).")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Of segmentation_models.pytorch: timm's name of it, which stands behind tu-.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a model file and copy it to the own models; a known checkpoint of another package becomes a model."""
    if output is not None and name is not None:
        raise BadUsage("--output puts the model where it has no name; give that or --name")
    _check_suffix(output)
    from napari_unetpp.model.foreign import Asked, add_foreign, import_checkpoint, is_own, save_foreign
    from napari_unetpp.model.foreign_found import FREE, HEADS, INTENSITIES, PADDINGS
    from napari_unetpp.model.names import safe_name
    from napari_unetpp.model.zoo import add_model, copy_model

    say = Output(as_json)
    asked = Asked(
        one_of("--upsampling", upsampling, FREE),
        tuple(classes or ()),
        one_of("--intensities", intensities, INTENSITIES),
        one_of("--heads", heads, HEADS),
        slope,
        one_of("--padding", padding, PADDINGS),
        encoder,
    )
    imported = None
    if is_own(file):
        if asked != Asked():
            raise BadUsage(f"{file} is a model file, which says all itself; leave out all but --name or --output")
        path = copy_model(file, output) if output is not None else add_model(file, name).path
    elif output is not None:
        if output.exists():  # before work that would be in vain
            raise FileExistsError(f"{output} exists already; choose another name")
        imported = import_checkpoint(file, asked, safe_name(output.stem))
        path = save_foreign(imported, output)
    else:
        entry, imported = add_foreign(file, name, asked)
        path = entry.path
    say.say(f"{path}: the model of {file}" if output is not None else f"{path.stem}: imported from {file}")
    if imported is None:
        say.event("result", name=path.stem, path=path)
        return
    for key, value in imported.lines.items():
        say.say(f"{key:18} {value}")
    for note in imported.notes:
        say.say(f"note: {note}")
    lines = {key.replace("-", "_"): value for key, value in imported.lines.items()}
    say.event("result", name=path.stem, path=path, **lines, notes=imported.notes)


def _check_suffix(output: Path | None) -> None:
    if output is not None and output.suffix != ".safetensors":  # under another one nobody would take it for a model
        raise BadUsage(f"--output {output}: models are written as safetensors; let it end in .safetensors")
