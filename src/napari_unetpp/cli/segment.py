"""`segment`: a stack on disk to an OME-Zarr of L1..Ld, resumable at any moment."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from napari_unetpp.cli import _options as options
from napari_unetpp.cli._inputs import make_backend, open_stack_and_model
from napari_unetpp.cli._job import Job, check_labels_path, run, tell_end, write_labels
from napari_unetpp.cli._output import BadUsage, Output, reported
from napari_unetpp.cli._recipe import parse_spacing
from napari_unetpp.cli._resample import place_of_resampled, resampled_stack, resampling, respaced, run_resampled
from napari_unetpp.model.zoo import DEFAULT_MODEL


@reported
def segment(
    stack: Annotated[
        Path, typer.Argument(metavar="STACK", help='An image, a folder of planes, or a pattern like "p*.png".')
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.ome.zarr", help="Where L1..L4 go.")],
    model: Annotated[str, typer.Option(metavar="NAME|FILE", help="Model, see `models list`.")] = DEFAULT_MODEL,
    level: Annotated[
        int | None,
        typer.Option(min=1, help="Deepest level to compute; by default all that the model has."),
    ] = None,
    tiling: Annotated[options.TilingKind | None, typer.Option(help="By default what the model recommends.")] = None,
    patch: options.PatchOption = None,
    stride: options.StrideOption = None,
    halo: options.HaloOption = None,
    aggregate: Annotated[
        options.Aggregate | None, typer.Option(help="How patches are combined.  [default: mean]")
    ] = None,
    planes: Annotated[
        options.PlanesAlong,
        typer.Option(help="3: a 2D model along z, y and x, the mean of three; for stacks with voxels of equal edges."),
    ] = options.PlanesAlong.one,
    intensity: options.IntensityOption = None,
    anisotropic: Annotated[
        bool, typer.Option("--anisotropic", help="With --planes 3: also where z is spaced otherwise than y and x.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[
        options.Precision,
        typer.Option(help="auto is the fastest floating point of this machine; int8 is the fast mode of CPUs."),
    ] = options.Precision.auto,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Bound of the network's maps, as 2GiB.  [default: 128MiB on CPU]")
    ] = None,
    engine: Annotated[
        options.Engine, typer.Option(help="openvino runs on the CPU alone: pip install 'napari-unetpp[openvino]'.")
    ] = options.Engine.torch,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU.  [default: one a core]")] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="10:20,0:512,0:512",
            help="Part to segment as if it were the whole stack: ranges along t, z, y, x.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.tif",
            help="Labels as TIFF too: of --level, or of the level that the model recommends.",
        ),
    ] = None,
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="Least probability of a label.")] = 0.5,
    axes: Annotated[str | None, typer.Option(help="Axes of STACK, if its file does not name them, as tzcyx.")] = None,
    series: Annotated[int | None, typer.Option(min=0, help="Which image of the file.")] = None,
    channel: Annotated[int | None, typer.Option(min=0, help="Which channel of STACK.")] = None,
    spacing: Annotated[
        str | None,
        typer.Option(metavar="Z,Y,X[um|mm|nm]", help="Spacing of the voxels of STACK, in place of what its file says."),
    ] = None,
    resample: Annotated[
        str | None,
        typer.Option(
            metavar="model|FACTOR",
            help="Show the model the stack at its own spacing, or with so many times as many voxels along an edge; the results "
            "come back on the grid of STACK.",
        ),
    ] = None,
    rgb: options.RgbOption = False,
    cluster: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Not available yet.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another run's predictions.")] = False,
) -> None:
    """Segment a stack at all levels. The same command again goes on where it was stopped."""
    options.refuse_what_comes_later(cluster)
    options.check_device(device)
    options.check_threads(threads)
    if anisotropic and planes is options.PlanesAlong.one:
        raise BadUsage("--anisotropic belongs to --planes 3; add that")
    budget = options.parse_memory(memory) if memory is not None else None
    say = Output(as_json)
    with ExitStack() as opened:
        image, network = open_stack_and_model(
            opened, stack, model, device, axes=axes, series=series, channel=channel, say=say, rgb=rgb
        )
        image = respaced(image, parse_spacing("--spacing", spacing))
        network = options.choose_intensity(network, intensity)
        options.choose_levels(network.spec, level)
        box = None
        if region is not None:
            from napari_unetpp.cli._view import cropped

            box = options.parse_region(region, image.axes_predicted, image.shape_predicted)
            image = cropped(image, box)
        source, place = image, output
        factors = resampling(image, network, resample, say)
        if factors is not None:
            image, place = resampled_stack(image, factors), place_of_resampled(output)
        chosen_tiling = options.choose_tiling(network, tiling, patch, stride, aggregate, halo)
        if labels is not None:
            check_labels_path(labels, stack, output, overwrite)
        begun = None if overwrite else place
        backend = make_backend(network, image, precision.value, say, output=begun, engine=engine.value)
        along = None
        if planes is options.PlanesAlong.three:
            along = options.plan_three(image, backend, chosen_tiling, level, budget, anisotropic)
            tiles = along.tiles
        else:
            tiles = options.plan(image.shape_predicted, backend, chosen_tiling, level, budget)
        job = Job(image, network, tiles, place, backend, box, channel, overwrite, budget, threads, along)
        store, summary = run(job, say) if factors is None else run_resampled(job, source, output, factors, say)
        tell_end(summary, say)
        if labels is not None:
            shown = level or min(network.card.recommended_level, max(store.levels))
            write_labels(store, labels, shown, threshold, say)
        say.event("result", **summary, labels=labels)
