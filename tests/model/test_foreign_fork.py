"""The UNet++ of its authors' PyTorch code: the same logits as the network written out, 2D and 3D, also where z is coarser."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from napari_unetpp.cli import app
from napari_unetpp.model import foreign
from napari_unetpp.model.costs import parameters
from napari_unetpp.model.foreign import Asked, import_checkpoint, recognise
from napari_unetpp.model.foreign_files import read_checkpoint
from tests.model.test_foreign import KEYS, drawn, notes, refused, round_trip, same, saved

WIDTHS = (3, 4, 5, 6, 7, 7)


# --- a network of theirs ------------------------------------------------------------------------------------------------


def shapes_of(ndim, kernels, steps, widths=WIDTHS, channels=1, classes=3):
    """Names and shapes as Generic_UNetPlusPlus makes them; its decoder takes the kernels of the row below its own."""

    def block(name, out, into, kernel):
        return {f"{name}.conv.weight": (out, into, *kernel), f"{name}.conv.bias": (out,)} | {
            f"{name}.instnorm.{part}": (out,) for part in ("weight", "bias")
        }

    shapes = {}
    for d in range(6):
        first, second = ("5.0.blocks.0", "5.1.blocks.0") if d == 5 else (f"{d}.blocks.0", f"{d}.blocks.1")
        into = channels if d == 0 else widths[d - 1]
        shapes |= block(f"conv_blocks_context.{first}", widths[d], into, kernels[d])
        shapes |= block(f"conv_blocks_context.{second}", widths[d], widths[d], kernels[d])
    for z in range(5):
        for u in range(5 - z):
            row = 4 - z - u
            w = widths[row]
            shapes[f"up{z}.{u}.weight"] = (widths[row + 1], w, *steps[row])
            shapes |= block(f"loc{z}.{u}.0.blocks.0", w, w * (u + 2), kernels[row + 1])
            shapes |= block(f"loc{z}.{u}.1.blocks.0", w, w, kernels[row + 1])
        shapes[f"seg_outputs.{z}.weight"] = (classes, widths[0], *(1,) * ndim)
    return shapes


def theirs(w, image, steps):
    """Logits of X^{0,1} .. X^{0,5}, as in the forward pass of the original."""
    convolve, transposed = (F.conv2d, F.conv_transpose2d) if image.ndim == 4 else (F.conv3d, F.conv_transpose3d)

    def H(name, x, stride=1):
        kernel = w[f"{name}.conv.weight"]
        padding = [1 if k == 3 else 0 for k in kernel.shape[2:]]
        x = convolve(x, kernel, w[f"{name}.conv.bias"], stride=stride, padding=padding)
        x = F.instance_norm(x, weight=w[f"{name}.instnorm.weight"], bias=w[f"{name}.instnorm.bias"])
        return F.leaky_relu(x, 0.01)

    def down(d, x):
        stride = steps[d - 1] if d else 1
        if d == 5:
            return H("conv_blocks_context.5.1.blocks.0", H("conv_blocks_context.5.0.blocks.0", x, stride))
        return H(f"conv_blocks_context.{d}.blocks.1", H(f"conv_blocks_context.{d}.blocks.0", x, stride))

    def loc(z, u, below, *skips):
        kernel = w[f"up{z}.{u}.weight"]
        up = transposed(below, kernel, stride=tuple(kernel.shape[2:]))
        return H(f"loc{z}.{u}.1.blocks.0", H(f"loc{z}.{u}.0.blocks.0", torch.cat([*skips, up], 1)))

    x00 = down(0, image)
    x10 = down(1, x00)
    x01 = loc(4, 0, x10, x00)
    x20 = down(2, x10)
    x11 = loc(3, 0, x20, x10)
    x02 = loc(3, 1, x11, x00, x01)
    x30 = down(3, x20)
    x21 = loc(2, 0, x30, x20)
    x12 = loc(2, 1, x21, x10, x11)
    x03 = loc(2, 2, x12, x00, x01, x02)
    x40 = down(4, x30)
    x31 = loc(1, 0, x40, x30)
    x22 = loc(1, 1, x31, x20, x21)
    x13 = loc(1, 2, x22, x10, x11, x12)
    x04 = loc(1, 3, x13, x00, x01, x02, x03)
    x50 = down(5, x40)
    x41 = loc(0, 0, x50, x40)
    x32 = loc(0, 1, x41, x30, x31)
    x23 = loc(0, 2, x32, x20, x21, x22)
    x14 = loc(0, 3, x23, x10, x11, x12, x13)
    x05 = loc(0, 4, x14, x00, x01, x02, x03, x04)
    return [convolve(x, w[f"seg_outputs.{5 - d}.weight"]) for d, x in enumerate((x01, x02, x03, x04, x05), 1)]


def checkpoint(w):
    """As its trainer saves it, numbers of numpy beside the weights included."""
    losses = [np.float64(0.5), np.mean([0.25, 0.5])]
    return {
        "epoch": 3,
        "state_dict": w,
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 0.01, "nesterov": True}]},
        "lr_scheduler_state_dict": None,
        "plot_stuff": (losses, losses, [], [np.float32(0.5)]),
        "amp_grad_scaler": {"scale": 65536.0, "growth_interval": 2000},
    }


PLAIN = {
    "2d": (2, ((3, 3),) * 6, ((2, 2),) * 5),
    "3d": (3, ((3, 3, 3),) * 6, ((2, 2, 2),) * 5),
}
COARSE_Z = {
    "z once": (3, ((1, 3, 3), *((3, 3, 3),) * 5), ((1, 2, 2), *((2, 2, 2),) * 4)),
    "z thrice": (3, ((1, 3, 3), (1, 3, 3), *((3, 3, 3),) * 4), ((1, 2, 2), (1, 2, 2), *((2, 2, 2),) * 3)),
    "x less": (2, ((3, 1), *((3, 3),) * 5), ((2, 1), *((2, 2),) * 4)),
}
EXTENTS = {
    "2d": ((64, 96), (70, 45)),
    "3d": ((32, 32, 64),),
    "z once": ((32, 32, 64),),
    "z thrice": ((16, 64, 32), (11, 40, 64)),
    "x less": ((64, 48), (50, 37)),
}


@pytest.mark.parametrize("name", [*PLAIN, *COARSE_Z])
def test_the_network_of_the_fork(tmp_path, name):
    ndim, kernels, steps = (PLAIN | COARSE_Z)[name]
    w = drawn(shapes_of(ndim, kernels, steps))
    path = saved(tmp_path, checkpoint(w), "model_final_checkpoint.model")
    extents, grid = EXTENTS[name], np.prod(steps, axis=0)
    imported = import_checkpoint(path, Asked(heads="all"))
    spec = imported.model.spec
    assert imported.what == "UNet++ of its authors' PyTorch code (a fork of nnU-Net)"
    assert (spec.ndim, spec.widths, spec.heads, spec.pooling) == (ndim, WIDTHS, (1, 2, 3, 4, 5), "stride")
    assert spec.steps == (None if name in PLAIN else steps)
    same(imported.model, lambda x: theirs(w, x, steps), 1, extents, multiple=grid)
    round_trip(imported.model, tmp_path)
    usual = import_checkpoint(path)
    same(usual.model, lambda x: theirs(w, x, steps)[-1:], 1, extents[:1], multiple=grid)
    assert usual.model.spec.heads == (5,)
    assert usual.model.intensity.kind == "zscore"
    told = notes(usual)
    assert "its answer is L5" in told
    assert "its plans (.model.pkl) can run code" in told
    assert "only its last head was kept" in told
    assert "8-bit" not in told


def test_the_command_says_what_it_recognised(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_UNETPP_HOME", str(tmp_path / "home"))
    path = saved(tmp_path, checkpoint(drawn(shapes_of(*COARSE_Z["z once"]))), "model_final_checkpoint.model")
    done = CliRunner().invoke(
        app, ["models", "import", str(path), "--name", "liver", "--class", "liver", "--class", "tumour"]
    )
    assert done.exit_code == 0, done.stderr
    for words in (
        "a fork of nnU-Net",
        "3D, 1 channel",
        "3, 4, 5, 6, 7, 7",
        "1x2x2, 2x2x2",
        "L5",
        "zscore",
        "background, liver, tumour",
        "--heads all",
    ):
        assert words in done.stdout


def test_kernels_of_the_decoder_are_those_of_the_row_below(tmp_path):
    """1 x 3 x 3 in the encoder's first row, 3 x 3 x 3 in its decoder: ours has the larger, with zeros in the smaller."""
    ndim, kernels, steps = COARSE_Z["z once"]
    w = drawn(shapes_of(ndim, kernels, steps))
    model = import_checkpoint(saved(tmp_path, w)).model
    state = model.network.state_dict()
    widened = state["nodes.0_0.0.weight"]
    assert widened.shape[2:] == (3, 3, 3)
    assert torch.equal(widened[:, :, 1:2], w["conv_blocks_context.0.blocks.0.conv.weight"])
    assert not widened[:, :, ::2].any()


def test_where_only_the_first_head_saw_a_loss(tmp_path):
    """Normalisations that are still ones and zeros were never trained: the loss as published is that of X^{0,1}."""
    ndim, kernels, steps = PLAIN["2d"]
    w = drawn(shapes_of(ndim, kernels, steps))
    untouched = [k for k in w if "instnorm" in k and k.startswith("loc") and not k.startswith("loc4.0")]
    w |= {k: torch.full_like(w[k], float(k.endswith("weight"))) for k in untouched}
    imported = import_checkpoint(saved(tmp_path, w))
    assert "they never saw a loss" in notes(imported)
    assert imported.model.spec.heads == (1, 2, 3, 4, 5)
    assert imported.model.card.recommended_level == 1
    same(imported.model, lambda x: theirs(w, x, steps), 1, ((64, 64),), multiple=32)
    last = import_checkpoint(saved(tmp_path, w), Asked(heads="last")).model
    assert (last.spec.heads, last.card.recommended_level) == ((5,), 5)


@pytest.mark.skipif(not KEYS.is_dir(), reason="the lists of names are not here")
@pytest.mark.parametrize("ndim", [2, 3])
def test_every_name_of_the_lists_has_its_place(ndim):
    title, *lines = (KEYS / f"official_nnunet_pp_{ndim}d.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines if line]
    shapes = {key: tuple(int(n) for n in shape.strip("()").split(",") if n.strip()) for key, shape in rows}
    assert "its authors' PyTorch" in recognise(shapes)
    zero = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    what, finder = foreign._finder(None, zero)
    found = finder(zero, Asked())
    state = foreign._converted(zero, found)
    zeros = sum(v.numel() for k, v in state.items() if k.startswith(("ups.", "heads.")) and k.endswith("bias"))
    assert f" {parameters(found.spec) - zeros} parameters" in title
    assert what.startswith("UNet++")
    kernels, steps = ((3,) * ndim,) * 6, ((2,) * ndim,) * 5
    widths = tuple(shapes[f"conv_blocks_context.{d}.blocks.0.conv.weight"][0] for d in range(5))
    assert shapes == shapes_of(ndim, kernels, steps, (*widths, widths[4]))


# --- what is refused ----------------------------------------------------------------------------------------------------


def test_weights_that_do_not_fit(tmp_path):
    w = drawn(shapes_of(*PLAIN["2d"]))
    more = drawn({"conv_blocks_context.0.blocks.2.conv.weight": (3, 3, 3, 3)})
    five = drawn({"conv_blocks_context.0.blocks.0.conv.weight": (3, 1, 5, 5)})
    flat = drawn({"loc4.0.0.blocks.0.conv.weight": (3, 6, 3)})
    cases = {
        "up4.0.weight is missing": {k: v for k, v in w.items() if k != "up4.0.weight"},
        "seg_outputs.0.weight is missing": {k: v for k, v in w.items() if k != "seg_outputs.0.weight"},
        "loc0.0.1.blocks.0.conv.weight is missing": {k: v for k, v in w.items() if not k.startswith("loc0.0.1")},
        "deepest block": {k: v for k, v in w.items() if not k.startswith("conv_blocks_context.5")},
        "no known use, the first is conv_blocks_context.0.blocks.2": w | more,
        "a kernel of extent (5, 5)": w | five,
        "where a kernel of 2 or 3 dimensions is wanted": w | flat,
        "instnorm.weight is missing": {k: v for k, v in w.items() if "instnorm" not in k},
        "up4.0.bias is missing": w | {"up0.0.bias": torch.ones(7)},
        "a network of nnU-Net's first version": {k: v for k, v in w.items() if not k.startswith("loc")},
    }
    for words, given in cases.items():
        assert words in refused(saved(tmp_path, given)), words
    assert "its up-sampling is learned" in refused(saved(tmp_path, w), Asked(upsampling="nearest"))


class Number:
    """What a pickle of numpy's scalar could bring along: anything."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return self.arguments


def test_numbers_of_numpy_are_not_made(tmp_path):
    """What stands in for numpy's makers forgets what it is given, whatever that is, and is gone after the file."""
    scalar = np.float64(1).__reduce__()[0]
    dtype = np.dtype("f8")
    odd = [
        np.float64(1),
        Number(scalar, (dtype, b"short")),
        Number(np.dtype, ("f8", False, True), (3, "<", None, None, None, 2**40, 2**40, 255)),
        Number(scalar, (np.dtype("O"), "anything")),
    ]
    w = {"a.weight": torch.ones(3)}
    torch.save({"state_dict": w, "plot_stuff": odd}, tmp_path / "odd.model")
    assert torch.equal(read_checkpoint(tmp_path / "odd.model").weights["a.weight"], w["a.weight"])
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "odd.model", weights_only=True)
    torch.save({"state_dict": w, "x": Number(np.load, (io.BytesIO(),))}, tmp_path / "more.model")
    assert "asks for code to be run" in refused(tmp_path / "more.model")
