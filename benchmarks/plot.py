"""The picture of the README, drawn from the JSON of `peers`: how many times as fast as MONAI.

python -m benchmarks.plot
python -m benchmarks.plot results/peers-some-machine.json --size 1024x1024 --to picture.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks._harness import RESULTS, say

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "performance.png"
GRAY = "#9a9a9a"
COLORS = {"fp32": "#56b4e9", "bf16": "#0072b2", "fp16": "#0072b2", "int8": "#d55e00"}  # Okabe and Ito's palette
PEERS = {
    "naive-loop": "naive loop",
    "tiler-4": "tiler",
    "nnunet": "nnU-Net predictor",
    "monai-gaussian-4": "MONAI, gaussian",
    "monai-constant-4": "MONAI, 96/48, 4 a batch",
    "monai-own-best": "MONAI, its own best window",
}
TILINGS = {
    "overlap": "ours, the same 96/48 windows",
    "exact": "ours, seamless, exact",
    "fast": "ours, seamless, short halo",
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("json", nargs="?", type=Path, help="result of peers [the newest that is no smoke run]")
    parser.add_argument("--size", help="which size of the file [the first]")
    parser.add_argument("--to", type=Path, default=PICTURE, help="picture to write")
    arguments = parser.parse_args(argv)
    path = arguments.json or newest(RESULTS)
    content = json.loads(path.read_text())
    size = arguments.size or next(iter(content["sizes"]))
    draw(content, size, arguments.to)
    say(f"written: {arguments.to}, from {path}")


def newest(folder: Path) -> Path:
    """Last written result of peers in that folder."""
    found = [p for p in folder.glob("peers-*.json") if not json.loads(p.read_text())["quick"]]
    if not found:
        raise SystemExit(f"no result of peers in {folder}; run python -m benchmarks.peers first, or name a file")
    return max(found, key=lambda p: p.stat().st_mtime)


def bars(cases: dict[str, dict[str, Any]]) -> list[tuple[str, str, dict[str, float]]]:
    """(title, colour, ratio) from top to bottom: peers, then our tilings by precision, then the shorter levels."""
    rows = [(title, GRAY, cases[name]["ratio"]) for name, title in PEERS.items() if name in cases]
    for tiling, title in TILINGS.items():
        for precision, color in COLORS.items():
            name = f"{tiling}-{precision}"
            if name in cases:
                rows.append((f"{title}, {precision}", color, cases[name]["ratio"]))
    for level in (3, 2, 1):
        names = [f"exact-{precision}-L{level}" for precision in COLORS if f"exact-{precision}-L{level}" in cases]
        if names:
            fastest = max(names, key=lambda name: cases[name]["ratio"]["median"])
            precision = fastest.split("-")[1]
            title = f"ours, seamless, exact, {precision}, L{level} only"
            rows.append((title, COLORS[precision], cases[fastest]["ratio"]))
    return rows


def draw(content: dict[str, Any], size: str, target: Path) -> None:
    """Horizontal bars with the range of the rounds, one row a case, on a logarithmic axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    cases = {n: e for n, e in content["sizes"][size]["cases"].items() if not n.endswith(" disk")}
    rows = bars(cases)
    figure, axis = plt.subplots(figsize=(9, 0.32 * len(rows) + 1.5), layout="constrained")
    for place, (_, color, ratio) in enumerate(rows):
        median = ratio["median"]
        spread = [[max(0.0, median - ratio["min"])], [max(0.0, ratio["max"] - median)]]
        axis.barh(place, median, color=color, height=0.72)
        axis.errorbar(median, place, xerr=spread, color="#333333", elinewidth=1, capsize=2)
        axis.text(ratio["max"] * 1.06, place, f"{median:.1f}x", va="center", fontsize=9)
    axis.set_yticks(range(len(rows)), [title for title, _, _ in rows], fontsize=9)
    axis.invert_yaxis()
    axis.set_xscale("log")
    low, high = min(r["min"] for _, _, r in rows), max(r["max"] for _, _, r in rows)
    axis.set_xlim(min(0.4, low / 1.2), high * 1.6)
    marks = [m for m in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128) if axis.get_xlim()[0] <= m <= high * 1.6]
    axis.set_xticks(marks, [f"{m:g}x" for m in marks])
    axis.minorticks_off()
    axis.axvline(1, color="#333333", linewidth=0.8, zorder=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.set_title(f"Times as fast as MONAI's sliding window, {size}, UNet++ of widths {_widths(content)}", fontsize=11)
    axis.set_xlabel(_machine(content), fontsize=8, color="#555555")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150)
    plt.close(figure)


def _widths(content: dict[str, Any]) -> str:
    widths = content["network"]["widths"]
    return f"{widths[0]}..{widths[-1]}"


def _machine(content: dict[str, Any]) -> str:
    about, versions = content["machine"], content["machine"]["versions"]
    place = about.get("gpu") or f"{about['cpu']}, {content['threads']} cores"
    peers = ", ".join(f"{name} {versions[name]}" for name in ("torch", "monai") if name in versions)
    return f"{place}; {peers}; medians and ranges of {content['rounds']} rounds, {content['date'][:10]}"


if __name__ == "__main__":
    main()
