"""`models`: which models there are, and what one says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_unetpp.cli._output import Output, reported

if TYPE_CHECKING:
    from napari_unetpp.model.checkpoint import Header

app = typer.Typer(help="Bundled and own models.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


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
    name: Annotated[str, typer.Argument(help="Name of a model, or a model file.")],
    as_json: AsJson = False,
) -> None:
    """Show the card of one model: data, licence, scores, recommended level and tiling."""
    from napari_unetpp.model.checkpoint import read_header
    from napari_unetpp.model.zoo import resolve

    output = Output(as_json)
    path = resolve(name)
    header = read_header(path)
    about = _about(header)
    output.event("result", path=path, **about, card=header.card.to_json())
    for key, value in {**about, "file": path}.items():
        output.say(f"{key.replace('_', ' '):18} {_text(value)}")
    for split, levels in header.card.scores.items():
        columns = sorted({key for scores in levels.values() for key in scores})
        rows = [
            [level, *(f"{scores[c]:.4f}" if c in scores else "" for c in columns)] for level, scores in levels.items()
        ]
        output.table(f"Scores on {split}", ["level", *columns], rows)


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
