"""What a specification may say: the kinds that its fields choose from, each field by itself, the fields against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from napari_unetpp.model.spec import NetworkSpec

Skips = Literal["plain", "ensemble", "short", "dense"]
Upsampling = Literal[
    "transposed2",
    "transposed4",
    "transposed4-relu",
    "nearest",
    "bilinear",
    "bilinear-aligned",
    "conv1-bilinear-aligned",
]
Block = Literal["conv-relu", "conv-bn-relu", "bn-relu-conv", "conv-relu-dropout", "conv-in-relu"]
Head = Literal["conv1", "conv3", "bn-relu-conv3"]
Concatenation = Literal["skips-first", "up-first"]
Middle = Literal["out", "half-in"]
Pooling = Literal["max", "stride"]
Padding = Literal["same", "valid", "late"]
Steps = tuple[tuple[int, ...], ...]

_LITERALS: dict[str, tuple[str, ...]] = {
    "skips": get_args(Skips),
    "upsampling": get_args(Upsampling),
    "block": get_args(Block),
    "decoder_block": get_args(Block),
    "head": get_args(Head),
    "concatenation": get_args(Concatenation),
    "middle": get_args(Middle),
    "pooling": get_args(Pooling),
    "padding": get_args(Padding),
}

MAX_DEPTH = 10  # pads images to multiples of 1024 voxels, and its deepest node sees more than 10 000 of them


def check_spec(spec: NetworkSpec) -> None:
    """Refuse a specification that contradicts itself, with a ValueError that names field, value and remedy."""
    for name, allowed in _LITERALS.items():
        value = getattr(spec, name)
        if value not in allowed and not (name == "decoder_block" and value is None):
            raise ValueError(f"{name} {value!r} is unknown; use one of {', '.join(allowed)}")
    if spec.ndim not in (2, 3):
        raise ValueError(f"ndim {spec.ndim} is not supported; use 2 or 3")
    for name in ("in_channels", "classes", *("widths",) * bool(spec.widths)):
        values = getattr(spec, name)
        if any(v < 1 for v in (values if isinstance(values, tuple) else (values,))):
            raise ValueError(f"{name} {values} must be positive")
    if spec.depth < 1:
        raise ValueError(f"widths {spec.widths} give no level; name at least two widths")
    if spec.depth > MAX_DEPTH:
        raise ValueError(f"widths of depth {spec.depth} are more than any image has use for; use at most {MAX_DEPTH}")
    for name in ("decoder_widths", "up_widths", "last_widths"):
        rows = getattr(spec, name)
        if rows is not None and (len(rows) != spec.depth or min(rows) < 1):
            raise ValueError(f"{name} {rows} must name {spec.depth} rows, one per level, with 1 or more channels each")
    if spec.up_widths is not None and spec.upsampling in ("nearest", "bilinear", "bilinear-aligned"):
        raise ValueError(
            f"up_widths {spec.up_widths} are for learned up-sampling; {spec.upsampling} keeps what is below"
        )
    if spec.last_width is not None and spec.last_width < 1:
        raise ValueError(f"last_width {spec.last_width} must be positive")
    levels = range(1, spec.depth + 1)
    if not spec.heads or list(spec.heads) != sorted({*spec.heads} & {*levels}):
        raise ValueError(f"heads {spec.heads} must be ascending levels out of 1..{spec.depth}")
    if spec.heads[-1] != spec.depth:
        raise ValueError(
            f"heads {spec.heads} leave nodes deeper than L{spec.heads[-1]} untrained; prune the widths instead"
        )
    if spec.skips == "plain" and spec.heads != (spec.depth,):
        raise ValueError(f"a plain U-Net has one head, L{spec.depth}, not {spec.heads}")
    for name in ("dropout", "negative_slope"):
        if not 0.0 <= getattr(spec, name) < 1.0:
            raise ValueError(f"{name} {getattr(spec, name)} must lie in [0, 1)")
    _check_rows(spec)
    _check_lone_rows(spec)
    _check_encoder(spec)
    wanted = spec.reduction(spec.depth)
    given = spec.multiple if isinstance(spec.multiple, tuple) else (spec.multiple,) * spec.ndim
    if len(given) != spec.ndim or any(m % w for m, w in zip(given, wanted, strict=True)):
        raise ValueError(
            f"multiple {spec.multiple} is not a multiple of {2**spec.depth} (2**depth)"
            if spec.steps is None
            else f"multiple {spec.multiple} is not a multiple of {_number(wanted)}, which its steps ask for"
        )


def _number(values: tuple[int, ...]) -> str:
    return str(values[0]) if len({*values}) == 1 else " x ".join(map(str, values))


def _check_rows(spec: NetworkSpec) -> None:
    """What is said per row and axis, and what it does not go with."""
    for name, rows, allowed in (("steps", spec.depth, "1 or 2"), ("kernels", spec.depth + 1, "an odd number")):
        values = getattr(spec, name)
        if values is None:
            continue
        fits = len(values) == rows and all(len(row) == spec.ndim for row in values)
        numbers = [n for row in values for n in row]
        good = all(n in (1, 2) for n in numbers) if name == "steps" else all(n > 0 and n % 2 for n in numbers)
        if not fits or not good:
            raise ValueError(f"{name} {values} must name {rows} rows of {spec.ndim} axes, each {allowed}")
    if spec.steps is not None and any(max(row) == 1 for row in spec.steps):
        raise ValueError(f"steps {spec.steps} have a row that samples nothing down; leave the row out")
    if spec.steps is not None and spec.upsampling.startswith("transposed4"):
        raise ValueError(f"{spec.upsampling} up-sampling has steps of 2; use transposed2 with steps")
    if spec.padding != "same" and spec.pooling == "stride":
        raise ValueError(f"padding {spec.padding!r} is for max pooling, not for strided convolutions")
    if spec.padding == "late" and spec.skips not in ("plain", "ensemble"):
        raise ValueError(f"padding 'late' goes with one skip a node (plain, ensemble), not with skips {spec.skips!r}")
    if spec.padding == "valid" and spec.upsampling not in ("nearest", "transposed2"):
        raise ValueError(f"padding 'valid' goes with nearest or transposed2 up-sampling, not with {spec.upsampling}")


def _check_lone_rows(spec: NetworkSpec) -> None:
    if not spec.lone_rows:
        return
    if not 0 < spec.lone_rows <= spec.depth:
        raise ValueError(f"lone_rows {spec.lone_rows} must be one of 0..{spec.depth}")
    if spec.heads != (spec.depth,):
        raise ValueError(f"lone_rows leave no node for any head but L{spec.depth}, not for heads {spec.heads}")
    if spec.padding == "late":
        raise ValueError("lone_rows have nothing that an up-sampled map could be padded to; use another padding")


def _check_encoder(spec: NetworkSpec) -> None:
    if spec.decoder_convolutions not in (1, 2):
        raise ValueError(f"decoder_convolutions {spec.decoder_convolutions} must be 1 or 2")
    if not spec.encoder:
        if spec.decoder_convolutions != 2 or spec.encoder_feeds is not None:
            raise ValueError("decoder_convolutions 1 and encoder_feeds are for a network with an encoder")
        if spec.upsampling == "transposed4-relu":
            raise ValueError("upsampling 'transposed4-relu' is for a network with an encoder; use transposed4")
        return
    if not 0 <= spec.encoder_row <= spec.depth:
        raise ValueError(f"encoder_row {spec.encoder_row} must be one of the rows 0..{spec.depth}")
    plain = spec.steps is None and spec.kernels is None and spec.pooling == "max" and spec.padding == "same"
    if spec.ndim != 2 or not plain:
        raise ValueError(f"encoder {spec.encoder!r} goes with a 2D network of the plain grid, without steps or kernels")
    stages = spec.depth + 1 - spec.encoder_row
    if spec.encoder_taps is not None and len(spec.encoder_taps) != stages:
        raise ValueError(
            f"encoder_taps {spec.encoder_taps} must name {stages} modules, one for each row from {spec.encoder_row} on"
        )
    if spec.encoder_feeds is not None and len(spec.encoder_feeds) != stages - 1:
        raise ValueError(
            f"encoder_feeds {spec.encoder_feeds} must name {stages - 1} modules, one for each row from {spec.encoder_row + 1} on"
        )
