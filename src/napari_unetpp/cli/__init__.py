"""The command line. Every command is a thin client of a generator of the engine.

One file per command; `_options.py` reads their arguments, `_output.py` decides what the user sees:
a progress bar or JSON lines, one clear line for a failure, and the exit code (0 done, 1 failed,
2 bad usage, 130 cancelled). Torch is imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from napari_unetpp import __version__
from napari_unetpp.cli._output import CANCELLED, complain
from napari_unetpp.cli.crops import crops as crops_command
from napari_unetpp.cli.demo import demo as demo_command
from napari_unetpp.cli.models import app as models_app
from napari_unetpp.cli.score import score as score_command
from napari_unetpp.cli.seams import seams as seams_command
from napari_unetpp.cli.segment import segment as segment_command
from napari_unetpp.cli.train import train as train_command

app = typer.Typer(
    name="napari-unetpp",
    help="UNet++ segmentation of image stacks, at four levels.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo_command)
app.command("segment")(segment_command)
app.command("seams")(seams_command)
app.command("train")(train_command)
app.command("crops")(crops_command)
app.command("score")(score_command)
app.add_typer(models_app, name="models")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"napari-unetpp {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """UNet++ segmentation of image stacks, at four levels."""


def main() -> None:
    """Run the command of `sys.argv` and exit."""
    try:
        app()
    except KeyboardInterrupt:  # before a command began, or in the middle of exiting
        complain("cancelled")
        sys.exit(CANCELLED)
    finally:
        # All is said and safe. Python would answer another Ctrl-C with a traceback out of the middle of exiting.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
