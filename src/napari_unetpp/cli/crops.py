"""`crops`: the objects of labelled stacks, each in a crop of its own, all of one spacing and extent."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

import typer

from napari_unetpp.cli._output import BadUsage, Bar, Output, reported
from napari_unetpp.cli._recipe import listed, open_pairs, parse_spacing, tell_notes


@reported
def crops(
    image: Annotated[list[Path], typer.Option(metavar="A.tif", help="An image stack, or a folder; may be repeated.")],
    label: Annotated[list[Path], typer.Option(metavar="A_labels.tif", help="Labels of the image at the same place.")],
    spacing: Annotated[
        str, typer.Option(metavar="Z,Y,X[um|mm|nm]", help="Of the crops, as 1,1,1mm; micrometres without a unit.")
    ],
    extent: Annotated[str, typer.Option(metavar="Z,Y,X", help="Voxels of a crop, as 64,64,64.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where images/ and labels/ are made.")
    ],
    separate: Annotated[
        bool, typer.Option("--separate", help="Each connected piece of a label is an object of its own.")
    ] = False,
    image_spacing: Annotated[
        str | None, typer.Option(metavar="Z,Y,X[um|mm|nm]", help="Of the images, in place of what they say.")
    ] = None,
    axes: Annotated[str | None, typer.Option(help="Axes of the images, as zcyx.")] = None,
    label_axes: Annotated[str | None, typer.Option(help="Axes of the labels.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Resample labelled stacks and cut a crop around each object: pairs of TIFF files to train on."""
    from napari_unetpp.training.crops import CropRule, write_crops

    say = Output(as_json)
    images, labels = listed(image, label, "--image", "--label", say)
    wanted, old = parse_spacing("--spacing", spacing), parse_spacing("--image-spacing", image_spacing)
    try:
        voxels = tuple(int(part) for part in extent.split(","))
        rule = CropRule(wanted or (), voxels, separate)
    except ValueError as error:
        text = str(error) if str(error).startswith("spacing") else f"--extent {extent}: give whole numbers, as 64,64,64"
        raise BadUsage(text) from None
    count = 0
    with ExitStack() as opened:
        pairs = open_pairs(images, labels, axes, label_axes, opened, say, spacing_um=old)
        tell_notes(pairs, say)
        events = write_crops(pairs, rule, output)
        with Bar(say, "crops", len(pairs)) as bar, closing(events):  # type: ignore[type-var]
            for event in events:
                count += 1
                bar.show(event.pair, event.file)
                say.event("crop", image=event.image, label=event.label, start=event.start, file=event.file)
            bar.show(len(pairs))
    of = f"{len(pairs)} image{'s' if len(pairs) > 1 else ''}"
    say.say(f"{output}: {count} crops of {' x '.join(map(str, voxels))} voxels out of {of}")
    say.event("result", output=output, crops=count)
