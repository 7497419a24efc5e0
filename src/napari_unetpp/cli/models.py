"""`models`: which models there are, what one says of itself, and how one's own come and go."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_unetpp.cli._options import AsJson, NameOrFile
from napari_unetpp.cli._output import BadUsage, Output, reported
from napari_unetpp.cli.models_export import export_model
from napari_unetpp.cli.models_import import import_model

if TYPE_CHECKING:
    from napari_unetpp.model.checkpoint import Header

app = typer.Typer(help="Bundled and own models.", no_args_is_help=True)


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


app.command("import")(import_model)
app.command("export")(export_model)


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
        **({"encoder": spec.encoder} if spec.encoder else {}),
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
