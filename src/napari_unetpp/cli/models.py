"""`models`: which models there are, what one says of itself, and how one's own come and go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_unetpp.cli._output import BadUsage, Output, one_line, reported

if TYPE_CHECKING:
    from napari_unetpp.model.checkpoint import Header

app = typer.Typer(help="Bundled and own models.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
NameOrFile = Annotated[str, typer.Argument(help="Name of a model, or a model file.")]


@app.command("list")
@reported
def list_models(as_json: AsJson = False) -> None:
    """List the models that can be called by name."""
    from napari_unetpp.model.checkpoint import ModelFileError, read_header
    from napari_unetpp.model.zoo import model_entries, user_folder

    output = Output(as_json)
    rows = []
    for entry in model_entries():
        try:
            about = _about(read_header(entry.path))
            error = None
        except (ModelFileError, OSError) as damaged:  # one bad file must not hide the others
            about, error = {}, str(damaged)
        output.event(
            "model",
            **{**about, "name": entry.name, "origin": entry.origin, "path": entry.path},
            **({"error": error} if error else {}),
        )
        rows.append(
            [
                entry.name,
                entry.origin,
                "" if error else f"{about['ndim']}D",
                "" if error else f"L1..L{about['depth']}" if about["heads"][1:] else "one head",
                error or ", ".join(about["classes"]),
                str(about.get("description", "")),
            ]
        )
    if rows:
        output.table("", ["name", "origin", "images", "levels", "classes", "description"], rows)
    output.say(f"Own models are looked for in {user_folder()}")
    output.event("result", models=len(rows), user_folder=user_folder())


@app.command("show")
@reported
def show_model(
    name: NameOrFile,
    as_json: AsJson = False,
) -> None:
    """Show the card of one model: data, licence, scores, recommended level and tiling."""
    from napari_unetpp.model.checkpoint import read_header
    from napari_unetpp.model.zoo import file_sha256, resolve

    output = Output(as_json)
    path = resolve(name)
    header = read_header(path)
    about = _about(header)
    hashes = {"sha256": file_sha256(path), "weights_sha256": header.weights_sha256}
    output.event("result", path=path, **about, **hashes, card=header.card.to_json())
    for key, value in {**about, "file": path, **hashes}.items():
        output.say(f"{key.replace('_', ' '):18} {_text(value)}")
    for split, levels in header.card.scores.items():
        columns = sorted({key for scores in levels.values() for key in scores})
        rows = [
            [level, *(f"{scores[c]:.4f}" if c in scores else "" for c in columns)] for level, scores in levels.items()
        ]
        output.table(f"Scores on {split}", ["level", *columns], rows)


@app.command("import")
@reported
def import_model(
    file: Annotated[
        Path,
        typer.Argument(
            help="A model file, a checkpoint of another package (.pth, .h5), or a package of bioimage.io (.zip)."
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
        _one_of("--upsampling", upsampling, FREE),
        tuple(classes or ()),
        _one_of("--intensities", intensities, INTENSITIES),
        _one_of("--heads", heads, HEADS),
        slope,
        _one_of("--padding", padding, PADDINGS),
    )
    imported = None
    if is_own(file):
        if asked != Asked():
            raise BadUsage(
                f"{file} is a model file, which says everything itself; leave out all but --name or --output"
            )
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
    say.event("result", name=path.stem, path=path, **_json_names(imported.lines), notes=imported.notes)


@app.command("export")
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


@app.command("rename")
@reported
def rename_own_model(
    name: Annotated[str, typer.Argument(help="Name of an own model.")],
    to: Annotated[str, typer.Argument(help="Its new name.")],
    as_json: AsJson = False,
) -> None:
    """Give an own model another name; its card keeps the one it has."""
    from napari_unetpp.model.zoo import rename_model

    say = Output(as_json)
    entry = rename_model(name, to)
    say.say(f"{name} is now called {entry.name}")
    say.event("result", name=entry.name, was=name, path=entry.path)


@app.command("delete")
@reported
def delete_own_model(
    name: Annotated[str, typer.Argument(help="Name of an own model.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove an own model for good."""
    from napari_unetpp.model.zoo import check_own, delete_model

    say = Output(as_json)
    entry = check_own(name, "deleted")  # before asking about what cannot be done
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise BadUsage(f"delete removes {entry.path} for good; add --yes")
        typer.confirm(f"Remove {entry.path} for good?", abort=True, err=True)
    path = delete_model(name)
    say.say(f"{name} is deleted")
    say.event("result", name=name, path=path)


def _format(output: Path, asked: str | None) -> Any:
    """Format of an export: the one that was asked for, else the one that the file's ending names; the two must agree."""
    from napari_unetpp.model.exchange import FORMATS, format_of

    chosen = _one_of("--format", asked, tuple(FORMATS))
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


def _one_of(option: str, value: str | None, choices: tuple[str, ...]) -> Any:
    if value is not None and value not in choices:
        raise BadUsage(f"{option} {value} is unknown; use {', '.join(choices)}")
    return value


def _json_names(lines: dict[str, str]) -> dict[str, str]:
    return {key.replace("-", "_"): value for key, value in lines.items()}


def _check_suffix(output: Path | None) -> None:
    if output is not None and output.suffix != ".safetensors":  # under another one nobody would take it for a model
        raise BadUsage(f"--output {output}: models are written as safetensors; let it end in .safetensors")


def _about(header: Header) -> dict[str, Any]:
    spec, card = header.spec, header.card
    return {
        "name": card.name,
        "description": card.description,
        "classes": [c.name for c in card.classes],
        "ndim": spec.ndim,
        "channels": spec.in_channels,
        "skips": spec.skips,
        "depth": spec.depth,
        "widths": list(spec.widths),
        **({"encoder": f"{spec.encoder} (timm)"} if spec.encoder else {}),
        "heads": [f"L{d}" for d in spec.heads],
        "upsampling": spec.upsampling,
        "recommended_level": card.recommended_level,
        "tiling": dict(card.tiling),
        "spacing_um": card.spacing_um,
        "data": card.data,
        "licence": card.licence,
        "credit": card.credit,
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "unknown" if value is None else str(value)
