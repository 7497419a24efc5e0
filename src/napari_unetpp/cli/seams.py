"""`seams`: what shorter halos cost and do on a stack, so that one can be chosen for `segment --halo`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_unetpp.cli import _options as options
from napari_unetpp.cli._inputs import make_backend, open_stack_and_model
from napari_unetpp.cli._output import Output, reported
from napari_unetpp.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from napari_unetpp.model.spec import NetworkSpec


@reported
def seams(
    stack: Annotated[
        Path, typer.Argument(metavar="STACK", help='An image, a folder of planes, or a pattern like "p*.png".')
    ],
    model: Annotated[str, typer.Option(metavar="NAME|FILE", help="Model, see `models list`.")] = DEFAULT_MODEL,
    halo: Annotated[
        list[int] | None,
        typer.Option(metavar="N", min=0, help="Halo in voxels; once for each.  [default: none, 1, 2 and 3 grids]"),
    ] = None,
    longest: Annotated[
        int | None, typer.Option(min=1, help="Halo that counts as right.  [default: exact; 5 grids for volumes]")
    ] = None,
    inner: Annotated[int | None, typer.Option(min=1, help="Edge of the tiles.")] = None,
    level: Annotated[int | None, typer.Option(min=1, help="Deepest level.  [default: all]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    axes: Annotated[str | None, typer.Option(help="Axes of STACK, if its file does not name them, as tzcyx.")] = None,
    series: Annotated[int | None, typer.Option(min=0, help="Which image of the file.")] = None,
    channel: Annotated[int | None, typer.Option(min=0, help="Which channel of STACK.")] = None,
    rgb: options.RgbOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Measure on a few tiles of a stack what a halo shorter than the exact one does to the labels."""
    options.check_device(device)
    say = Output(as_json)
    with ExitStack() as opened:
        image, network = open_stack_and_model(
            opened, stack, model, device, axes=axes, series=series, channel=channel, say=say, rgb=rgb
        )
        options.choose_levels(network.spec, level)
        backend = make_backend(network, image, "fp32", say)  # whose rounding is far below what is measured
        from napari_unetpp.inference.seams import seam_errors
        from napari_unetpp.inference.tiling import in_words

        right = _right(network.spec, level) if longest is None else longest
        grid = network.spec.grid
        asked = halo or [n for n in (0, grid, 2 * grid, 3 * grid) if n < right]
        rows = []
        for error in seam_errors(image, network, asked, inner=inner, level=level, longest=right, backend=backend):
            say.event("seams", **asdict(error))
            rows.append(
                [
                    in_words(error.halo),
                    f"{error.read_factor:.1f}",
                    f"L{error.level}",
                    f"{100 * error.labels:.2f} %",
                    f"{error.mean:.4f}",
                    f"{error.largest:.3f}",
                ]
            )
        say.table(
            f"Against a halo of {right} voxels",
            ["halo", "times read", "level", "other labels", "mean difference", "largest"],
            rows,
        )
        say.event("result", stack=stack, model=network.card.name, longest=right)


def _right(spec: NetworkSpec, level: int | None) -> int:
    """The exact halo in 2D; of volumes what can still be computed."""
    from napari_unetpp.inference.tiling import round_up

    exact = round_up(spec.receptive_radius(level), spec.grid) if spec.size_independent else 5 * spec.grid
    return exact if spec.ndim == 2 else min(exact, 5 * spec.grid)
