"""A package of bioimage.io becomes a model: a zip or a folder with a description, weights, and whatever else.

In this order: what was read of one (`Package`: the model file of ours that it holds, which `exchange_package` puts there, or its
torch state dict), why no other package is taken (`read_package`), and the model out of it (`convert_package`).

Nothing in a package is run. Many carry Python code of their network; it is not looked at, and their weights are recognised by
their names, as those of any checkpoint (`foreign`).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from napari_unetpp.model.checkpoint import Model, ModelFileError, load_model
from napari_unetpp.model.foreign_card import Imported
from napari_unetpp.model.foreign_found import Asked
from napari_unetpp.model.intensity import Intensity
from napari_unetpp.model.names import safe_name
from napari_unetpp.model.packages_files import is_package, opened
from napari_unetpp.model.packages_said import read_description, said_card, said_intensity, said_order

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_unetpp.model.foreign import Known
    from napari_unetpp.model.foreign_found import Intensities
    from napari_unetpp.model.packages_files import PackageFiles

__all__ = ["Package", "convert_package", "is_package", "read_package"]

OWN_FILE = "napari-unetpp.safetensors"  # among the attachments of a package that this one wrote
_STATE_DICT = "pytorch_state_dict"
_OWN_NOTE = (
    "the model file in the package was taken as it is: weights, levels, preprocessing and card are those it was made of"
)
_PROGRAMS = "its weights are there as {kinds} alone, which are programs and not the weights of a known network"


@dataclass(frozen=True, slots=True, eq=False)
class Package:
    """A package that was read: `inside` is the model file of ours that it holds, or else the checkpoint.

    `said` is its description, `source` the name of what is inside.
    """

    path: Path
    said: Mapping[str, Any]
    source: str
    inside: Model | Known

    @property
    def what(self) -> str:
        """What is inside, in words."""
        return "a model of napari-unetpp" if isinstance(self.inside, Model) else self.inside.what


def read_package(path: Path) -> Package:
    """A package, read once and for all; nothing in it is run.

    Raises
    ------
    ModelFileError
        If it is damaged or hostile, or holds no weights that are known; the message is one line.
    """
    from napari_unetpp.model.foreign import known_of  # which knows packages too

    with opened(path) as files, tempfile.TemporaryDirectory(prefix="napari-unetpp-") as folder:
        said = read_description(files)
        attachments = [source for source in _attachments(said) if PurePosixPath(source[0]).name == OWN_FILE]
        if attachments:
            return _own(files, said, attachments[0], Path(folder) / OWN_FILE)
        weights = said["weights"].get(_STATE_DICT)
        if not isinstance(weights, dict):
            kinds = ", ".join(sorted(str(kind)[:40] for kind in said["weights"])) or "nothing"
            raise ModelFileError(f"{path}: {_PROGRAMS.format(kinds=kinds)}; a package with {_STATE_DICT} is wanted")
        source, wanted = _source(path, weights)
        target = Path(folder) / f"weights{PurePosixPath(source).suffix[:10]}"
        digest = files.extract(source, target, wanted)
        try:
            return Package(path, said, source, known_of(target, digest))
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {_inside(error, target, source)}{_unrun(weights)}") from None


def convert_package(package: Package, asked: Asked = Asked(), name: str | None = None) -> Imported:  # noqa: B008 (frozen)
    """Model out of a package.

    Parameters
    ----------
    name
        What its card calls it; None is as its description says. A model file of ours keeps its card.

    Raises
    ------
    ModelFileError
        If an option does not fit what is inside.
    """
    from napari_unetpp.model.foreign import convert

    path, said, inside = package.path, package.said, package.inside
    if isinstance(inside, Model):
        if asked != Asked():
            raise ModelFileError(
                f"{path} holds a model file of napari-unetpp, which says everything itself; leave the other options out"
            )
        return Imported(inside, f"{package.what} in a package of bioimage.io", (_OWN_NOTE,))
    weights = said["weights"][_STATE_DICT]
    code = _code(weights)
    try:
        made = convert(inside, asked, name or safe_name(str(said.get("name") or path.stem)))
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {_inside(error, inside.path, package.source)}{_unrun(weights)}") from None
    model, found, notes = made.model, made.found, list(made.notes)
    if code:
        notes.append(f"its Python code ({code}) was not run: the network was recognised by the names of its weights")
    intensity = model.intensity
    if asked.intensities is None:
        rule, left = said_intensity(said, model.spec.in_channels, gray=model.intensity.replicate_gray)
        if rule is None:
            notes.append(f"its preprocessing holds {left}, which cannot be said here: give --intensities")
        else:
            intensity = rule
            notes = [note for note in notes if not note.startswith("its preprocessing is taken to be")]
            notes.append("its preprocessing is the one of the package" + (f", without its {left}" if left else ""))
            same = _named(rule)
            found = replace(found, intensities=same) if found is not None and same else None
    order = said_order(said)
    if order and order != "zyx"[-len(order) :]:
        notes.append(
            f"its images have their axes in the order {order}, and ours in z, y, x: turn them before and after"
        )
    card = said_card(said, model.card, model.spec.ndim, classes=not asked.classes)
    if card.classes != model.card.classes:
        notes = [note for note in notes if not note.startswith("its classes have no names")]
    record = {"file": path.name, "weights": package.source, "notes": notes}
    card = replace(card, training={**card.training, **record})
    made = Imported(replace(model, intensity=intensity, card=card), made.what, tuple(notes), found)
    return replace(made, what=f"{made.what}, in a package of bioimage.io")


def _own(files: PackageFiles, said: Mapping[str, Any], attachment: tuple[str, str], target: Path) -> Package:
    files.extract(attachment[0], target, attachment[1])
    try:
        model = load_model(target, "cpu")
        if len(model.classes) != model.spec.classes:
            raise ModelFileError(
                f"its card names {len(model.classes)} classes where its network has {model.spec.classes}"
            )
    except ModelFileError as error:
        raise ModelFileError(f"{files.path}: {_inside(error, target, attachment[0])}") from None
    return Package(files.path, said, attachment[0], replace(model, sha256=""))


def _attachments(said: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, sha256 or empty) of each attachment."""
    listed = said.get("attachments")
    listed = listed.get("files") if isinstance(listed, dict) else listed  # as 0.4 has it
    entries = [e if isinstance(e, dict) else {"source": e} for e in listed] if isinstance(listed, list) else []
    return [(_plain(e["source"]), str(e.get("sha256") or "")) for e in entries if isinstance(e.get("source"), str)]


def _source(path: Path, weights: dict[str, Any]) -> tuple[str, str]:
    """(name, sha256 or empty) of the weights in the package."""
    source = weights.get("source")
    if not isinstance(source, str):
        raise ModelFileError(f"{path}: its description names no file of weights; fetch it again")
    if "://" in source:
        raise ModelFileError(
            f"{path}: its weights lie at {source[:120]}, and nothing is downloaded; fetch the whole package"
        )
    return _plain(source), str(weights.get("sha256") or "")


def _plain(source: str) -> str:
    return source.replace("\\", "/").removeprefix("./")


def _code(weights: dict[str, Any]) -> str:
    """What the description says of the Python code of the network, in few words; empty where it says nothing."""
    architecture = weights.get("architecture")
    if isinstance(architecture, dict):
        parts = [str(architecture.get(key) or "")[:60] for key in ("source", "import_from", "callable")]
        return " ".join(filter(None, parts))
    return architecture[:80] if isinstance(architecture, str) else ""


def _unrun(weights: dict[str, Any]) -> str:
    code = _code(weights)
    return f"; its Python code ({code}) is never run" if code else ""


def _inside(error: ModelFileError, target: Path, name: str) -> str:
    return str(error).replace(str(target), f"its file {name}")


def _named(rule: Intensity) -> Intensities | None:
    """What the rule is called among the choices of an import; None where it has no name."""
    for kind, like in (("percentile", Intensity()), ("zscore", Intensity("zscore"))):
        if rule == replace(like, replicate_gray=rule.replicate_gray):
            return "percentile" if kind == "percentile" else "zscore"
    if rule.kind == "fixed" and not any(rule.fixed_offset):
        if set(rule.fixed_gain) == {1.0}:
            return "raw"
        if all(abs(gain * 255 - 1) < 1e-6 for gain in rule.fixed_gain):
            return "unit"
    return None
