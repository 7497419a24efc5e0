"""Options as values: sizes, regions, tilings, levels, memory."""

from __future__ import annotations

import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from napari_unetpp import cli
from napari_unetpp.box import Box
from napari_unetpp.cli import _options as options
from napari_unetpp.cli._output import BadUsage, one_line
from napari_unetpp.inference.tiling import Overlap, Seamless
from napari_unetpp.model.card import Card

OVERLAP = {"kind": "overlap", "patch": 64, "stride": 16, "aggregate": "gaussian"}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 * 1024**3),
        ("1G", 1024**3),
        ("500MB", 500 * 1000**2),
        ("1.5 mib", 3 * 2**19),
        ("4096", 4096),
        ("10kB", 10_000),
    ],
)
def test_sizes(text, size):
    assert options.parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "2 apples", "-1GB", "0", "nan"])
def test_what_is_no_size(text):
    with pytest.raises(BadUsage, match="no size"):
        options.parse_memory(text)


def test_regions():
    assert options.parse_region("10:20,0:512,:", "zyx", (30, 600, 40)) == Box((10, 0, 0), (20, 512, 40))
    for text in ("5:5,:", "5:2,:", "-1:3,:", "0:11,:", ":,:,:", "3,:", ":", "x:y,:"):
        with pytest.raises(BadUsage, match="--region"):
            options.parse_region(text, "yx", (10, 10))


def model(tiling):
    return SimpleNamespace(card=Card("m", tiling=tiling), spec=SimpleNamespace(ndim=2))


@pytest.mark.parametrize(
    ("card", "given", "expected"),
    [
        (OVERLAP, {}, Overlap(64, 16, "gaussian")),
        (OVERLAP, {"kind": "overlap"}, Overlap(64, 16, "gaussian")),
        (OVERLAP, {"kind": "overlap", "stride": "32"}, Overlap(64, 32, "gaussian")),
        (OVERLAP, {"patch": "32"}, Overlap(32, 16, "gaussian")),
        (OVERLAP, {"aggregate": "vote"}, Overlap(64, 16, "vote")),
        (OVERLAP, {"kind": "seamless"}, Seamless()),
        ({"kind": "seamless", "halo": "fast"}, {}, Seamless(halo="fast")),
        ({"kind": "seamless"}, {"kind": "overlap"}, Overlap(96, 48, "mean")),
        ({"kind": "seamless"}, {"kind": "overlap", "patch": "128"}, Overlap(128, 64, "mean")),
        (
            {"kind": "seamless"},
            {"kind": "overlap", "patch": "128", "stride": "48"},
            Overlap(128, 48, "mean"),
        ),
    ],
)
def test_tiling_is_the_cards_unless_told_otherwise(card, given, expected):
    words = {"kind": None, "patch": None, "stride": None, "aggregate": None, **given}
    if words["kind"]:
        words["kind"] = options.TilingKind(words["kind"])
    if words["aggregate"]:
        words["aggregate"] = options.Aggregate(words["aggregate"])
    assert options.choose_tiling(model(card), **words) == expected


def test_patches_belong_to_overlap():
    with pytest.raises(BadUsage, match=r"--patch.*recommends seamless.*--tiling overlap"):
        options.choose_tiling(model({"kind": "seamless"}), None, "96", None, None)


def test_levels():
    assert options.parse_levels("all", (1, 2, 4)) == (1, 2, 4)
    assert options.parse_levels("4", (1, 2, 4)) == (4,)
    assert options.parse_levels("L2, 1", (1, 2, 4)) == (2, 1)
    for text in ("3", "L", "0", "", "best"):
        with pytest.raises(BadUsage, match="--level"):
            options.parse_levels(text, (1, 2, 4))


def test_messages_are_one_line_without_noise():
    assert one_line(OSError(28, "No space left on device", "/o")) == "/o: No space left on device"
    assert one_line(ValueError("two\n lines")) == "two lines"
    assert one_line(RuntimeError("CUDA out of memory")) == "RuntimeError: CUDA out of memory"
    assert one_line(MemoryError()) == "MemoryError"
    assert len(one_line(ValueError("x" * 10_000))) <= 400


def test_help_is_quick():
    code = "import sys, napari_unetpp.cli; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "zarr", "scipy", "skimage", "napari", "rich"} & set(loaded)


@pytest.mark.parametrize("words", [(), ("segment",), ("segment", "--help"), ("models",), ("-h",)])
def test_help_and_missing_words(run, words):
    done = run(*words)
    assert done.code == (0 if {"-h", "--help"} & set(words) else 2)
    assert "Usage" in done.out + done.err


def test_version(run):
    from napari_unetpp import __version__

    assert run("--version").out == f"napari-unetpp {__version__}\n"


def test_words_of_later_issues_are_not_there_yet(run):
    assert run("objects").code == 2


def test_after_its_last_word_a_command_ends_at_once(monkeypatch):
    """A second Ctrl-C hits the middle of exiting, where Python would print a traceback."""
    monkeypatch.setattr(cli, "app", lambda: sys.exit(130))
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 130
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
