"""Speed, memory, storage and accuracy of the gradient sketches, beside other implementations.

python -m benchmarks.sketch [--only NAME ...] [--rounds R] [--device cuda] [--bergson-python PATH] [--quick]

Each part says what it measures and why that is fair: `sketch_speed.py` against plain passes, `sketch_runs.py` whole
runs to disk beside bergson, traker and dattri, `sketch_storage.py` bytes, memory and reading, `sketch_quality.py`
inner products. Ratios are taken within one run, round by round; a figure is the median, its interval the lowest and
the highest round. bergson runs in the interpreter that GRASP_BERGSON_PYTHON or `--bergson-python` names, else in this
one. A peer that does not run is named with its error in `sketch.peers`, and figures that need it are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks import sketch_quality, sketch_storage
from benchmarks.published import (
    ROOT,
    Figure,
    published_here,
    replace_between,
    results_folder,
    save,
    table,
    update,
)
from benchmarks.sketch_runs import BERGSON_PYTHON, KINDS, PEERS, PeerError, Run, run
from benchmarks.sketch_speed import (
    SKETCH,
    Shape,
    cpu_figures,
    gpu_figures,
    measure,
    output_figure,
    over_rounds,
)

DOCUMENT = ROOT / "docs" / "sketches.md"
GPU_PRESETS = ("pythia-14m", "pythia-70m", "pythia-160m")
GPU_VOCABULARY = 50_304


@dataclass(frozen=True)
class Scale:
    """How large everything is; `rounds` of the timings, `run_rounds` of the whole runs."""

    shape: Shape
    vocabularies: tuple[tuple[str, int], ...]
    gpu: Shape
    chunks: int
    peer_chunks: int
    few: int
    many: int
    stored: int
    width: int
    rounds: int
    run_rounds: int
    quality: sketch_quality.Plan


FULL = Scale(
    shape=Shape("small", 4096, 256, 4096),
    vocabularies=(("v32k", 32_000), ("v128k", 128_000)),
    gpu=Shape("pythia-14m", GPU_VOCABULARY, 1024, 65_536, device="cuda"),
    chunks=512,
    peer_chunks=32,
    few=10_000,
    many=200_000,
    stored=1_000_000,
    width=256,
    rounds=9,
    run_rounds=3,
    quality=sketch_quality.FULL,
)
QUICK = Scale(
    shape=Shape("tiny", 300, 16, 64),
    vocabularies=(("v32k", 320), ("v128k", 1280)),
    gpu=Shape("pythia-14m", 512, 64, 256, device="cuda"),
    chunks=6,
    peer_chunks=4,
    few=8,
    many=40,
    stored=2000,
    width=16,
    rounds=1,
    run_rounds=1,
    quality=sketch_quality.QUICK,
)


def one_thread(scale: Scale, _: str) -> list[Figure]:
    """`output` with one thread."""
    timing = measure(replace(scale.shape, threads=1), ["output"], scale.rounds)
    return [output_figure("sketch.output_over_forward_1t", timing)]


def two_threads(scale: Scale, _: str) -> list[Figure]:
    """All kinds with two threads."""
    timing = measure(scale.shape, KINDS, scale.rounds)
    return [output_figure("sketch.output_over_forward_2t", timing), *cpu_figures(timing)]


def vocabularies(scale: Scale, _: str) -> list[Figure]:
    """`output` with large vocabularies."""
    found = []
    for ending, size in scale.vocabularies:
        timing = measure(replace(scale.shape, vocabulary=size), ["output"], scale.rounds)
        found.append(output_figure(f"sketch.output_over_forward_{ending}", timing))
    return found


def runs(scale: Scale, bergson_python: str) -> list[Figure]:
    """Whole runs to disk, in turns."""
    from assets.sections import SketchRun
    from benchmarks.sketch_store import draw_chunks, make_store, write_inputs

    found: dict[str, list[Run]] = {who: [] for who in (*KINDS, *PEERS)}
    failed: dict[str, str] = {}
    shape = scale.shape
    with tempfile.TemporaryDirectory(prefix="grasp-sketch-") as scratch:
        inputs = Path(scratch)
        drawn = draw_chunks(scale.chunks, shape.chunk_tokens, shape.vocabulary)
        write_inputs(inputs, shape.preset, shape.vocabulary, drawn)
        for kind in KINDS:
            settings = SketchRun.model_validate(SKETCH.model_dump() | {"kinds": [kind]})
            make_store(inputs, inputs / f"store-{kind}", kind, settings)
        for number in range(scale.run_rounds):
            turns = list(found) if number % 2 == 0 else list(reversed(found))
            for who in turns:
                chunks = scale.peer_chunks if who in ("traker", "dattri") else scale.chunks
                try:
                    found[who].append(run(who, inputs, shape.threads, chunks, bergson_python))
                except PeerError as error:
                    if who in KINDS:
                        raise
                    failed[who] = str(error)
                    del found[who]
            print(f"round {number + 1} of {scale.run_rounds} of the whole runs done", flush=True)
    return run_figures(found, failed)


def run_figures(found: dict[str, list[Run]], failed: dict[str, str]) -> list[Figure]:
    """Return the figures of whole runs.

    Args:
        found: rounds by contestant.
        failed: what contestants that did not run said.
    """

    def fastest(names: Sequence[str]) -> str | None:
        there = [name for name in names if name in found]
        medians = {name: statistics.median(each.per_chunk for each in found[name]) for name in there}
        return min(there, key=medians.__getitem__) if there else None

    def ratios(one: str, other: str, what: Callable[[Run], float]) -> list[float]:
        return [what(a) / what(b) for a, b in zip(found[one], found[other], strict=True)]

    figures = []
    peers = {
        "bergson": (("bergson", "bergson-last"), "at least 2.5"),
        "trak": (("traker", "dattri"), "at least 20"),
    }
    for name, (contestants, goal) in peers.items():
        if (peer := fastest(contestants)) is not None:
            note = f"{peer}, the fastest of {', '.join(each for each in contestants if each in found)}; per chunk"
            values = ratios(peer, "output", lambda each: each.per_chunk)
            figures.append(over_rounds(f"sketch.{name}_over_output", values, "x", goal, note))
    if (peer := fastest(("bergson", "bergson-last"))) is not None:
        mib = {who: statistics.median(each.mib for each in found[who]) for who in ("output", "layers")}
        larger = max(mib, key=mib.__getitem__)
        values = ratios(larger, peer, lambda each: each.mib)
        figures.append(
            over_rounds("sketch.rss_over_bergson", values, "x", "at most 0.6", f"{larger} over {peer}")
        )
    stored = [each.bytes / each.chunks for each in found["output"]]
    note = f"`output` 64 x 64, all columns, {found['output'][0].chunks} chunks in one file"
    figures.append(over_rounds("sketch.bytes_per_chunk", stored, "bytes", "at most 8,200", note))
    for who, rounds in found.items():
        process = f"whole process {statistics.median(each.process for each in rounds):.1f} s, "
        process += f"{rounds[0].chunks} chunks"
        milliseconds = [1000 * each.per_chunk for each in rounds]
        figures += [
            over_rounds(f"sketch.run_ms[{who}]", milliseconds, "ms per chunk", note=process),
            over_rounds(f"sketch.run_rss[{who}]", [each.mib for each in rounds], "MiB"),
            over_rounds(
                f"sketch.run_bytes[{who}]", [each.bytes / each.chunks for each in rounds], "bytes per chunk"
            ),
        ]
    count = sum(who in found for who in PEERS)
    note = "; ".join(failed.values()).replace("|", "/")
    figures.append(Figure("sketch.peers", count, f"of {len(PEERS)} that ran", note=note))
    return figures


def growth(scale: Scale, _: str) -> list[Figure]:
    """Peak memory as the corpus grows."""
    return sketch_storage.growth(scale.few, scale.many, scale.shape.threads, scale.run_rounds)


def reading(scale: Scale, _: str) -> list[Figure]:
    """Speed of reading stored sketches."""
    return sketch_storage.reading(scale.stored, scale.width, scale.rounds)


def quality(scale: Scale, _: str) -> list[Figure]:
    """Inner products, by kind and dimension."""
    return sketch_quality.figures(scale.quality)


Part = Callable[[Scale, str], list[Figure]]
PARTS: tuple[tuple[Part, tuple[str, ...]], ...] = (
    (one_thread, ("sketch.output_over_forward_1t",)),
    (
        two_threads,
        (
            *(
                "sketch.output_over_forward_2t",
                "sketch.layers_over_frozen_backward",
                "sketch.full_over_forward",
            ),
            *("sketch.matmul_peak", "sketch.tokens_per_second", "sketch.flops_utilisation"),
        ),
    ),
    (vocabularies, ("sketch.output_over_forward_v32k", "sketch.output_over_forward_v128k")),
    (
        runs,
        (
            *("sketch.bergson_over_output", "sketch.trak_over_output", "sketch.rss_over_bergson"),
            *(
                "sketch.bytes_per_chunk",
                "sketch.run_ms",
                "sketch.run_rss",
                "sketch.run_bytes",
                "sketch.peers",
            ),
        ),
    ),
    (growth, ("sketch.rss_growth",)),
    (reading, ("sketch.read_over_numpy", "sketch.read_rate")),
    (
        quality,
        (
            *("sketch.cosine_error", "sketch.whole_correlation", "sketch.seed_agreement"),
            "sketch.bf16_error",
        ),
    ),
)
"""What is measured together, and the figures it gives (by name, without what stands in brackets)."""


def chosen_parts(only: Sequence[str]) -> list[Part]:
    """Return the parts that give the named figures, all where none is named.

    Raises:
        SystemExit: a name is not that of a figure.
    """
    known = [name for _, names in PARTS for name in names]
    wanted = {name if name.startswith("sketch.") else f"sketch.{name}" for name in only}
    if unknown := sorted(wanted - set(known)):
        raise SystemExit(f"no figure is called {', '.join(unknown)}; there are: {', '.join(known)}")
    return [part for part, names in PARTS if not wanted or wanted & set(names)]


def on_gpu(scale: Scale) -> list[Figure]:
    """Return a GPU's figures for the Pythia shapes with random weights; none where there is no CUDA."""
    if not torch.cuda.is_available():
        print("There is no CUDA device on this machine, so the GPU figures were not measured.")
        return []
    found = []
    for preset in GPU_PRESETS:
        found += gpu_figures(measure(replace(scale.gpu, preset=preset), ["output", "layers"], scale.rounds))
    return found


def write_document(path: Path) -> None:
    """Write the table in docs/sketches.md from a result file: figures with a goal, and what sketches keep."""
    rows = json.loads(path.read_text())
    kept = ("cosine_error", "whole_correlation", "seed_agreement", "bf16_error")
    shown = [row for row in rows if row["goal"] or row["figure"].partition(".")[2].startswith(kept)]
    DOCUMENT.write_text(replace_between(DOCUMENT.read_text(), path.stem, table(path.stem, shown)))


def show(figures: Sequence[Figure]) -> None:
    """Print figures, one a line."""
    for figure in figures:
        interval = f" [{figure.low:.4g}, {figure.high:.4g}]" if figure.low is not None else ""
        goal = f" (goal: {figure.goal})" if figure.goal else ""
        print(f"{figure.figure}: {figure.value:.4g}{interval} {figure.unit}{goal} {figure.note}", flush=True)


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Measure, print, store unless it was a quick try; a part replaces its own figures alone."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sketch", description="Gradient sketches.")
    parser.add_argument(
        "--only", nargs="+", default=[], help="figures to measure; the others stay as they were stored"
    )
    parser.add_argument("--rounds", type=int, help="rounds of the timings and of the whole runs")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--bergson-python", default=os.environ.get(BERGSON_PYTHON, sys.executable))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round; stores nothing")
    options = parser.parse_args(arguments)
    scale = QUICK if options.quick else FULL
    if options.rounds is not None:
        scale = replace(scale, rounds=options.rounds, run_rounds=options.rounds)
    found: list[Figure] = []
    if options.device == "cuda":
        found = on_gpu(scale)
        show(found)
        name, command = "sketch-gpu", "make benchmark-sketch DEVICE=cuda"
    else:
        parts = chosen_parts(options.only)
        if not options.quick:
            results_folder()
        for part in parts:
            measured = part(scale, options.bergson_python)
            show(measured)
            found += measured
        name, command = "sketch", "make benchmark-sketch"
    if found and not options.quick:
        path = (update if options.only else save)(name, command, found)
        if name == "sketch" and published_here(path):
            write_document(path)
        print(f"wrote {path}")
    return found


if __name__ == "__main__":
    main()
