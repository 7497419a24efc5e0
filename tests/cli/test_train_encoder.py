"""`train --encoder`: a network of timm under the nested decoder, from the images to labels."""

from __future__ import annotations

import pytest
import tifffile
import torch

from napari_unetpp.model.checkpoint import read_header

timm = pytest.importorskip("timm")

NAME = "mobilenetv3_small_050"
NEW = ("--width", "4", "--patch", "32", "--batch", "2", "--steps", "2", "--epochs", "1", "--augmentation", "none")
PAIR = ("--image", "stack.tif", "--label", "labels.tif")


def test_from_trained_weights_to_labels(run, here):
    torch.manual_seed(5)
    state = timm.create_model(NAME).state_dict()
    torch.save(state, here / "trained.pth")
    weights = ("--encoder-weights", "trained.pth", "--trainable", "decoder")
    done = run("train", *PAIR, "-o", "new.safetensors", "--encoder", NAME, *weights, *NEW)
    assert done.code == 0
    header = read_header(here / "new.safetensors")
    assert (header.spec.encoder, header.spec.depth, header.spec.decoder_widths) == (NAME, 4, (4, 8, 16, 32))
    assert header.card.tiling["kind"] == "overlap"
    assert header.card.training["options"]["encoder_weights"] == "trained.pth"
    from safetensors.torch import load_file

    kept = load_file(here / "new.safetensors")["encoder.layers.blocks_0_0.conv_dw.weight"]
    assert torch.equal(kept, state["blocks.0.0.conv_dw.weight"])
    done = run("segment", "stack.tif", "-o", "o.zarr", "--model", "new.safetensors", "--labels", "o.tif")
    assert done.code == 0
    assert tifffile.imread(here / "o.tif").shape == tifffile.imread(here / "stack.tif").shape


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--encoder", "resnet43"), 1, "did you mean resnet34"),
        (("--encoder", NAME, "--preset", "unet"), 2, "leave out --preset"),
        (("--encoder", NAME, "--dimensions", "3"), 2, "leave out --preset and --dimensions 3"),
        (("--encoder-weights", "timm"), 2, "those of an --encoder"),
        (("--encoder", NAME, "--base", "tiny.safetensors"), 2, "describe a new network"),
        (("--encoder", NAME, "--encoder-weights", "none.pth"), 1, "none.pth does not exist"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(run, here, options, code, said):
    done = run("train", *PAIR, "-o", "new.safetensors", *NEW[2:], *options)
    assert done.code == code
    assert said in " ".join((done.out + done.err).split())
    assert not (here / "new.safetensors").exists()
