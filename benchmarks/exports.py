"""What leaves: sizes of exports pruned to L1..L4 in each format, and their speed against ours.

    python -m benchmarks.exports
    python -m benchmarks.exports --size 256x256

The graphs run the whole image in one pass, and so does ours here (fp32, seamless with the exact halo, which for one image is a
pass). Each is given the scaled image and gives float32 probabilities of all heads up to its level. Ratios are taken within a
round; *eager* is the network itself, as torch runs it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import _harness as harness
from benchmarks import ours
from benchmarks._harness import Case, say
from benchmarks.networks import make_model, standard_spec, texture
from napari_unetpp.model.exchange import FORMATS, Exported, export_model, smaller
from napari_unetpp.model.exchange_graphs import network_answers

LEVELS = (4, 3, 2, 1)


def main(argv: list[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--size", help="YxX [512x512]")
    parser.add_argument("--formats", default=",".join(FORMATS), help="comma separated [all]")
    arguments = parser.parse_args(argv)
    threads, quick = arguments.threads, arguments.quick
    torch.set_num_threads(threads)
    say(harness.describe_machine(threads))
    size = arguments.size or ("64x80" if quick else "512x512")
    model = make_model(standard_spec(quick))
    raw = texture(tuple(map(int, size.split("x"))))
    with tempfile.TemporaryDirectory() as folder:
        files, absent = _write(model, Path(folder), arguments.formats.split(","))
        cases = _cases(model, raw, files, threads)
        samples = harness.interleave(cases, 1 if quick else arguments.rounds)
    found: dict[str, Any] = {}
    for case in cases:
        entry = harness.summary(case, samples[case.name], threads, {})
        entry["times_as_fast_as_ours"] = harness.ratios(samples[f"ours-L{case.name[-1]}"], samples[case.name])
        found[case.name] = entry
    sizes = {f"{kind}-L{level}": done.bytes for (kind, level), done in files.items()}
    checked = {f"{kind}-L{level}": done.checked for (kind, level), done in files.items()}
    payload = {
        "threads": threads,
        "size": size,
        "absent": absent,
        "bytes": sizes,
        "checked": checked,
        "cases": found,
    }
    _print(sizes, found)
    harness.write("exports", payload, arguments)


def _write(model: Any, folder: Path, formats: list[str]) -> tuple[dict[tuple[str, int], Exported], dict[str, str]]:
    """The exports by format and level, and why a format is missing."""
    files, absent = {}, {}
    for kind in formats:
        for level in LEVELS:
            target = folder / f"{kind}-L{level}{FORMATS[kind].suffix}"
            steps = export_model(model, target, format=kind, level=level)
            try:
                while True:
                    next(steps)
            except StopIteration as done:
                files[kind, level] = done.value
            except ModuleNotFoundError as error:
                absent[kind] = str(error)
                break
            say(f"  {target.name:24s} {files[kind, level].bytes / 1e6:8.2f} MB")
    return files, absent


def _cases(model: Any, raw: np.ndarray, files: dict[tuple[str, int], Exported], threads: int) -> list[Case]:
    backend = ours.prepared(model, "fp32", raw).backend
    image = raw[None, None].astype(np.float32) / 255  # the model's rule
    tensor = torch.from_numpy(image)
    cases = []
    for level in LEVELS:
        mode = ours.Mode("exact", "fp32", level)
        cases.append(Case(f"ours-L{level}", ours.array_run(model, backend, raw, mode, threads), raw.size))
        pruned = smaller(model, level).network
        cases.append(Case(f"eager-L{level}", lambda pruned=pruned: network_answers(pruned, [tensor]), raw.size))
        if ("torchscript", level) in files:
            graph = torch.jit.load(str(files["torchscript", level].path))
            for _ in range(
                2
            ):  # it watches its first runs and compiles, which the one warm run of a case does not cover
                _scripted(graph, tensor)
            cases.append(Case(f"torchscript-L{level}", lambda graph=graph: _scripted(graph, tensor), raw.size))
        if ("onnx", level) in files:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = threads, 3
            session = onnxruntime.InferenceSession(
                str(files["onnx", level].path), options, providers=["CPUExecutionProvider"]
            )
            cases.append(
                Case(f"onnxruntime-L{level}", lambda session=session: session.run(None, {"image": image}), raw.size)
            )
    return cases


def _scripted(graph: Any, image: torch.Tensor) -> list[np.ndarray]:
    with torch.inference_mode():
        return [head.numpy() for head in graph(image)]


def _print(sizes: dict[str, int], cases: dict[str, dict[str, Any]]) -> None:
    kinds = list(dict.fromkeys(name.rpartition("-")[0] for name in sizes))
    rows = [[f"L{d}", *(sizes.get(f"{kind}-L{d}", 0) / 1e6 for kind in kinds)] for d in LEVELS]
    say("\n" + harness.table(rows, ("MB", *kinds)))
    rows = []
    for name, entry in cases.items():
        ratio = entry["times_as_fast_as_ours"]
        spread = f"{ratio['min']:.2f}-{ratio['max']:.2f}"
        rows.append([name, entry["seconds"]["median"], ratio["median"], spread, entry["share_of_cores"]])
    say("\n" + harness.table(rows, ("case", "s", "x ours", "range", "cores")))


if __name__ == "__main__":
    main()
