"""`demo`: the bundled image, the bundled model, all levels, and something to look at."""

from __future__ import annotations

import os
import platform
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_unetpp.cli import _options as options
from napari_unetpp.cli._inputs import make_backend, open_image, open_model
from napari_unetpp.cli._job import Job, run, tell_end, write_labels
from napari_unetpp.cli._output import Output, reported
from napari_unetpp.cli.score import of_store, report, score_source
from napari_unetpp.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from napari_unetpp.inference.store import PredictionStore


@reported
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the results go.")] = Path(
        "napari-unetpp-demo"
    ),
    no_window: Annotated[bool, typer.Option("--no-window", help="Write files only, open no napari.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Segment a real image of nuclei at L1..L4, score it, and show it in napari."""
    from napari_unetpp._samples import sample_path

    options.check_device(device)
    say = Output(as_json)
    image, truth = sample_path("nuclei"), sample_path("nuclei_labels")
    with ExitStack() as opened:
        stack = opened.enter_context(open_image(image, None, None, say))
        labels = opened.enter_context(open_image(truth, None, None, say))
        model = open_model(DEFAULT_MODEL, device)
        tiling = options.choose_tiling(model, None, None, None, None)
        backend = make_backend(model, stack, "auto", say)
        tiles = options.plan(stack.shape_predicted, backend, tiling, None)
        output.mkdir(exist_ok=True)
        store, summary = run(Job(stack, model, tiles, output / "nuclei.ome.zarr", backend, overwrite=True), say)
        tell_end(summary, say)
        rows = score_source(of_store(store, "all", labels), None, "background", 0.5, 2.0, say)
        scores = next(iter(rows.values()))
        advised = min(model.card.recommended_level, max(store.levels))
        tiff = output / "nuclei_labels.tif"
        write_labels(store, tiff, advised, 0.5, say)
        picture = output / "comparison.png"
        from napari_unetpp.cli._picture import save_comparison

        save_comparison(picture, stack, labels, store, {r.level: r.confusion.iou for r in scores})
        results = report(rows, 2.0, say)
        say.say(f"{picture}: the image, the reference and every level side by side")
        say.say(f"Results are in {output.absolute()}")
        say.event("result", **summary, scores=results, picture=picture, labels=tiff)
    if not no_window:
        _open_window(image, store, truth, say)


def _open_window(image: Path, store: PredictionStore, truth: Path, say: Output) -> None:
    """Show the results in napari; without a display or napari, say why not."""
    reason = None
    if not _has_display():
        reason = "there is no display"
    elif find_spec("napari") is None or find_spec("qtpy") is None:
        reason = "napari is not installed (pip install 'napari-unetpp[all]')"
    if reason is not None:
        say.say(f"No window: {reason}.")
        return
    from napari_unetpp.gui.launch import open_prediction
    from napari_unetpp.stacks import open_stack

    with open_stack(image) as stack, open_stack(truth) as reference:
        say.say("Close the window to go on.")
        open_prediction(stack, store, reference)


def _has_display() -> bool:
    system = platform.system()
    if system == "Linux":
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return system != "Darwin" or not os.environ.get("SSH_CONNECTION")
